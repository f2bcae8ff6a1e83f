//! Nodes on a simulated underlay, in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weft_dataplane::{Snapshot, Verdict};
use weft_node::{EndpointRecord, Event, KnownPeer, LocalNetwork, Node, NodeConfig, PathState};
use weft_noise::{ClusterSecret, Identity, Suite};
use weft_wire::{EndpointId, Header, InnerHeader, InnerKind, Mac, MessageType, NetworkId};

const NET: NetworkId = NetworkId::from_u48(0xabc);
const STEP: Duration = Duration::from_millis(10);

struct Host {
    node: Node,
    snapshot: Arc<Snapshot>,
    events: Vec<Event>,
}

struct Cluster {
    now: Instant,
    start: Instant,
    rng: StdRng,
    hosts: BTreeMap<SocketAddr, Host>,
    wire: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Chance that a datagram is lost.
    loss: f64,
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6783))
}

fn mac(n: u8) -> Mac {
    Mac([2, 0x42, 10, 1, 0, n])
}

impl Cluster {
    fn new() -> Self {
        let now = Instant::now();
        let (hosts, wire) = (BTreeMap::new(), VecDeque::new());
        Self { now, start: now, rng: StdRng::seed_from_u64(7), hosts, wire, loss: 0.0 }
    }

    fn add(&mut self, n: u8, secret: u8, incarnation: u64, known: Vec<KnownPeer>) {
        let config = NodeConfig {
            identity: Identity::from_bytes([n; 32]),
            name: format!("host{n}"),
            secrets: vec![ClusterSecret::new([secret; 32])],
            suite: Suite::ChaCha20Poly1305,
            incarnation,
            known,
        };
        let mut node = Node::new(config, self.now).unwrap();
        node.join_network(LocalNetwork { id: NET, overlay_mtu: 1418 });
        let id = EndpointId(format!("{n:064x}"));
        node.set_endpoint(EndpointRecord {
            id,
            network: NET,
            mac: mac(n),
            addresses: vec![[10, 1, 0, n].into()],
        });
        self.hosts.insert(address(n), Host { node, snapshot: Arc::default(), events: Vec::new() });
    }

    fn host(&mut self, n: u8) -> &mut Host {
        self.hosts.get_mut(&address(n)).unwrap()
    }

    fn seed(&mut self, n: u8, target: u8) {
        let now = self.now;
        self.host(n).node.add_seed(address(target), now);
    }

    fn step(&mut self) {
        self.now += STEP;
        for (at, host) in &mut self.hosts {
            if host.node.poll_timeout().0 <= self.now {
                host.node.handle_timeout(self.now, &mut self.rng);
            }
            drain(*at, host, self.now, &mut self.wire);
        }
        for _ in 0..self.wire.len() {
            let Some((from, to, datagram)) = self.wire.pop_front() else { break };
            if self.rng.random_bool(self.loss) {
                continue;
            }
            if let Some(host) = self.hosts.get_mut(&to) {
                receive(host, from, datagram, self.now, &mut self.rng);
                drain(to, host, self.now, &mut self.wire);
            }
        }
    }

    /// Runs until `done`, at most for `limit`; returns how long it took.
    fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&mut Self) -> bool) -> Duration {
        let begin = self.now;
        while !done(self) {
            assert!(self.now < begin + limit, "{what}: not within {limit:?}");
            self.step();
        }
        self.now - begin
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Whether a frame from host `a`'s container to host `b`'s would arrive now.
    fn reaches(&mut self, a: u8, b: u8) -> bool {
        let (here, there) = (Arc::clone(&self.host(a).snapshot), Arc::clone(&self.host(b).snapshot));
        let frame = [&mac(b).0[..], &mac(a).0, &[8, 0]].concat();
        let Some(Verdict::Unicast(peer)) = here.networks.get(&NET).map(|n| n.forward(&frame)) else {
            return false;
        };
        let peer = &here.peers[peer];
        let Some(send) = &peer.send else { return false };
        let Some(session) = there.sessions.get(&send.remote_session()) else { return false };
        peer.remote == address(b) && there.admit(session.peer, NET, &frame).is_ok()
    }
}

fn drain(
    at: SocketAddr,
    host: &mut Host,
    now: Instant,
    wire: &mut VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
) {
    while let Some(transmit) = host.node.poll_transmit() {
        wire.push_back((at, transmit.to, transmit.datagram));
    }
    host.events.extend(std::iter::from_fn(|| host.node.poll_event()));
    if let Some(snapshot) = host.node.take_snapshot(now) {
        host.snapshot = snapshot;
    }
}

/// What the router's workers do with a datagram.
fn receive(
    host: &mut Host,
    from: SocketAddr,
    mut datagram: Vec<u8>,
    now: Instant,
    rng: &mut impl rand::CryptoRng,
) {
    let Some(header) = Header::parse(&datagram) else { return };
    if header.message != MessageType::Data {
        host.node.handle_handshake(from, &datagram, now, rng);
        return;
    }
    let number = header.receiver.session();
    let Some(session) = host.snapshot.sessions.get(&number) else { return };
    let activity = Arc::clone(&session.activity);
    let recv = Arc::clone(&session.recv);
    let Ok(plain) = recv.lane(header.receiver.lane()).open(&header, &mut datagram) else { return };
    activity.n_received.fetch_add(1, Ordering::Relaxed);
    if activity.tell_once.swap(false, Ordering::Relaxed) {
        host.node.handle_first_datagram(number, now);
    }
    let Some(inner) = InnerHeader::parse(plain) else { return };
    if inner.kind == InnerKind::Control {
        assert!(host.node.handle_control(number, &plain[8..], now));
    }
}

fn full_mesh(cluster: &mut Cluster, hosts: &[u8]) -> bool {
    hosts.iter().all(|a| hosts.iter().all(|b| a == b || cluster.reaches(*a, *b)))
}

#[test]
fn hosts_find_each_other_through_one_seed() {
    let mut cluster = Cluster::new();
    (1..=5).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=5).for_each(|n| cluster.seed(n, 1));
    let took = cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3, 4, 5]));
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_lossy_underlay_only_delays() {
    let mut cluster = Cluster::new();
    cluster.loss = 0.2;
    (1..=4).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=4).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(30), "mesh at 20 % loss", |c| full_mesh(c, &[1, 2, 3, 4]));
}

#[test]
fn a_restarted_host_is_reached_at_once() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let peer = KnownPeer { id: cluster.host(2).node.id(), name: "host2".into(), address: address(2) };
    cluster.add(1, 1, 2, vec![peer]);
    let took = cluster.run_until(Duration::from_secs(5), "again", |c| full_mesh(c, &[1, 2]));
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn rekeys_leave_no_gap() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let first: Vec<u32> = cluster.host(1).snapshot.sessions.keys().copied().collect();
    let end = cluster.start + Duration::from_secs(600);
    while cluster.now < end {
        cluster.step();
        assert!(full_mesh(&mut cluster, &[1, 2]), "after {:?}", cluster.now - cluster.start);
    }
    let sessions = &cluster.host(1).snapshot.sessions;
    assert!(first.iter().all(|n| !sessions.contains_key(n)), "sessions outlived 180 s");
    assert!(sessions.len() <= 2, "{} sessions are kept", sessions.len());
    assert_eq!(cluster.host(1).events.len(), 1, "one PeerUp, and never down");
}

#[test]
fn a_wrong_secret_gets_no_answer_and_is_said_so() {
    let mut cluster = Cluster::new();
    cluster.add(1, 1, 1, vec![]);
    cluster.add(2, 2, 1, vec![]);
    cluster.seed(2, 1);
    cluster.run_for(Duration::from_secs(12));
    assert!(cluster.host(1).snapshot.sessions.is_empty() && cluster.host(2).snapshot.sessions.is_empty());
    let now = cluster.now;
    let reports = cluster.host(2).node.peer_reports(now);
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((report.id, report.address, report.state), (None, address(1), PathState::NoAnswer));
}

#[test]
fn a_dead_host_is_noticed_held_and_found_again() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let dead = cluster.hosts.remove(&address(1)).unwrap();
    let down = |c: &mut Cluster| c.host(2).events.iter().any(|e| matches!(e, Event::PeerDown { .. }));
    let took = cluster.run_until(Duration::from_secs(6), "down", down);
    assert!(took >= Duration::from_secs(4), "{took:?}");
    let known = |c: &mut Cluster| c.host(2).snapshot.networks[&NET].fdb.contains_key(&mac(1));
    assert!(known(&mut cluster), "forwarding entries are held at first");
    cluster.run_until(Duration::from_secs(62), "entries lapse", |c| !known(c));
    cluster.hosts.insert(address(1), dead);
    cluster.run_until(Duration::from_secs(16), "found again", |c| full_mesh(c, &[1, 2]));
}

#[test]
fn a_changed_address_is_followed() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let number = *cluster.host(1).snapshot.sessions.keys().next().unwrap();
    cluster.host(1).node.handle_roamed(number, address(9));
    cluster.step();
    assert_eq!(cluster.host(1).snapshot.peers[0].remote, address(9));
    assert!(matches!(cluster.host(1).events.last(), Some(Event::PeerMoved(p)) if p.address == address(9)));
}

#[test]
fn of_two_owners_of_an_address_the_lower_id_keeps_it() {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    for n in [2, 3] {
        let id = EndpointId(format!("{:064x}", 100 + n));
        let record = EndpointRecord { id, network: NET, mac: mac(77), addresses: vec![] };
        cluster.host(n).node.set_endpoint(record);
        cluster.seed(n, 1);
    }
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    let lower = cluster.host(2).node.id().min(cluster.host(3).node.id());
    let host = cluster.host(1);
    let owner = host.snapshot.networks[&NET].fdb[&mac(77)];
    assert_eq!(host.snapshot.peers[owner].id, lower);
    let said =
        host.events.iter().filter(|e| matches!(e, Event::DuplicateMac { keeper, .. } if *keeper == lower));
    assert_eq!(said.count(), 1);
}

#[test]
fn removed_endpoints_and_networks_leave_the_snapshot() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    cluster.host(1).node.remove_endpoint(&EndpointId(format!("{:064x}", 1)));
    cluster.run_until(STEP * 3, "endpoint gone", |c| c.host(2).snapshot.networks[&NET].fdb.is_empty());
    cluster.host(1).node.leave_network(NET);
    cluster.run_until(STEP * 3, "member gone", |c| c.host(2).snapshot.networks[&NET].members.is_empty());
}
