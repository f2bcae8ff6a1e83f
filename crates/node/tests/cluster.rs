//! Nodes on a simulated underlay, in virtual time.

#[path = "cluster/services.rs"]
mod services;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weft_dataplane::{PathView, Snapshot, Verdict};
use weft_mesh::{Address, IdentityKey};
use weft_node::{
    Admission, EndpointRecord, Event, Judgement, KnownPeer, LocalNetwork, Node, NodeConfig, PathState,
    Refusal,
};
use weft_noise::{ClusterSecret, REKEY_AFTER, Suite};
use weft_wire::{EndpointId, Header, InnerHeader, InnerKind, Lane, Mac, MessageType, NetworkId, PeerId};

const NET: NetworkId = NetworkId::from_u48(0xabc);
const STEP: Duration = Duration::from_millis(10);

struct Host {
    node: Node,
    snapshot: Arc<Snapshot>,
    events: Vec<Event>,
}

/// A datagram, where it comes from, and where it goes.
type Sent = (SocketAddr, SocketAddr, Vec<u8>);

struct Cluster {
    now: Instant,
    start: Instant,
    rng: StdRng,
    hosts: BTreeMap<SocketAddr, Host>,
    wire: VecDeque<Sent>,
    /// Chance that a datagram is lost.
    loss: f64,
    /// The longest packets, IP and UDP headers included, that pass from one to another; 1500 bytes where it is not said.
    carries: BTreeMap<(SocketAddr, SocketAddr), usize>,
    /// How long a datagram is under way between two hosts, both ways; no time where it is not said.
    delays: BTreeMap<(SocketAddr, SocketAddr), Duration>,
    late: Vec<(Instant, Sent)>,
    /// Datagrams that relays handed on.
    n_handed_on: usize,
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6783))
}

fn mac(n: u8) -> Mac {
    Mac([2, 0x42, 10, 1, 0, n])
}

fn config(n: u8, secret: u8) -> NodeConfig {
    NodeConfig {
        key: IdentityKey::from_seed(&[n; 32]),
        name: format!("host{n}"),
        secrets: vec![ClusterSecret::new([secret; 32])],
        joining: false,
        suite: Suite::ChaCha20Poly1305,
        incarnation: 1,
        addresses: Vec::new(),
        known: Vec::new(),
        admission: Admission::Secret,
        verdicts: Vec::new(),
        rekey_after: REKEY_AFTER,
    }
}

impl Host {
    fn n_events(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|e| wanted(e)).count()
    }
}

impl Cluster {
    fn new() -> Self {
        let now = Instant::now();
        let (hosts, wire) = (BTreeMap::new(), VecDeque::new());
        let (rng, carries) = (StdRng::seed_from_u64(7), BTreeMap::new());
        let (delays, late) = (BTreeMap::new(), Vec::new());
        Self { now, start: now, rng, hosts, wire, loss: 0.0, carries, delays, late, n_handed_on: 0 }
    }

    fn add(&mut self, n: u8, secret: u8, incarnation: u64, known: Vec<KnownPeer>) {
        let mut config = config(n, secret);
        config.incarnation = incarnation;
        config.known = known;
        self.start(n, config);
        self.populate(n);
    }

    /// A host without a network.
    fn start(&mut self, n: u8, config: NodeConfig) {
        let mut node = Node::new(config, self.now, &mut self.rng).unwrap();
        node.set_addresses(vec![address(n)], self.now);
        self.hosts.insert(address(n), Host { node, snapshot: Arc::default(), events: Vec::new() });
    }

    /// Puts the host on the network, with one endpoint.
    fn populate(&mut self, n: u8) {
        let now = self.now;
        let node = &mut self.host(n).node;
        node.join_network(
            LocalNetwork { id: NET, overlay_mtu: 1418, spoof_check: true, multicast: true },
            now,
        );
        let id = EndpointId(format!("{n:064x}"));
        let addresses = vec![[10, 1, 0, n].into()];
        node.set_endpoint(EndpointRecord { id, network: NET, mac: mac(n), addresses }, now);
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
            drain(*at, host, &mut self.wire);
        }
        let now = self.now;
        let arrived = self.late.extract_if(.., |(at, _)| *at <= now).map(|(_, sent)| (sent, true));
        let sent: Vec<_> = arrived.chain(self.wire.drain(..).map(|sent| (sent, false))).collect();
        for ((from, to, datagram), is_late) in sent {
            if let Some(delay) = self.delays.get(&(from.min(to), from.max(to))).filter(|_| !is_late) {
                self.late.push((now + *delay, (from, to, datagram)));
                continue;
            }
            let carries = self.carries.get(&(from, to)).copied().unwrap_or(1500);
            if datagram.len() + 28 > carries || self.rng.random_bool(self.loss) {
                continue;
            }
            if let Some(host) = self.hosts.get_mut(&to) {
                let handed_on = receive(host, from, datagram, self.now, &mut self.rng);
                self.n_handed_on += handed_on.iter().len();
                self.wire.extend(handed_on.map(|(next, datagram)| (to, next, datagram)));
                drain(to, host, &mut self.wire);
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
        if there.admit(session.peer, NET, &frame).is_err() {
            return false;
        }
        let Some(relay) = peer.relay else { return peer.remote == address(b) && self.is_open(a, b) };
        // What the relay does.
        let relay = &here.peers[relay];
        let Some((at, host)) = self.hosts.get_key_value(&relay.remote) else { return false };
        let third = at.ip().to_string().rsplit('.').next().unwrap().parse().unwrap();
        let next = host.snapshot.served.get(&peer.id).map(|next| host.snapshot.peers[*next].remote);
        self.is_open(a, third) && self.is_open(third, b) && next == Some(address(b))
    }

    fn is_open(&self, a: u8, b: u8) -> bool {
        self.carries.get(&(address(a), address(b))) != Some(&0)
    }

    /// Nothing passes between the two, both ways.
    fn cut(&mut self, a: u8, b: u8) {
        self.carries.insert((address(a), address(b)), 0);
        self.carries.insert((address(b), address(a)), 0);
    }

    fn heal(&mut self, a: u8, b: u8) {
        self.carries.remove(&(address(a), address(b)));
        self.carries.remove(&(address(b), address(a)));
    }
}

fn drain(at: SocketAddr, host: &mut Host, wire: &mut VecDeque<Sent>) {
    while let Some(transmit) = host.node.poll_transmit() {
        wire.push_back((at, transmit.to, transmit.datagram));
    }
    host.events.extend(std::iter::from_fn(|| host.node.poll_event()));
    if let Some(snapshot) = host.node.take_snapshot() {
        host.snapshot = snapshot;
    }
}

/// What the router's workers do with a datagram. Returns what is handed on, and where to.
fn receive(
    host: &mut Host,
    from: SocketAddr,
    mut datagram: Vec<u8>,
    now: Instant,
    rng: &mut impl rand::CryptoRng,
) -> Option<(SocketAddr, Vec<u8>)> {
    let header = Header::parse(&datagram)?;
    if header.message != MessageType::Data {
        host.node.handle_handshake(from, &datagram, now, rng);
        return None;
    }
    let number = header.receiver.session();
    let session = host.snapshot.sessions.get(&number)?;
    let by = session.peer;
    let activity = Arc::clone(&session.activity);
    let recv = Arc::clone(&session.recv);
    let plain = recv.lane(header.receiver.lane()).open(&header, &mut datagram).ok()?.to_vec();
    activity.n_received.fetch_add(1, Ordering::Relaxed);
    if activity.tell_once.swap(false, Ordering::Relaxed) {
        host.node.handle_first_datagram(number, now);
    }
    let inner = InnerHeader::parse(&plain)?;
    match inner.kind {
        InnerKind::Control => assert!(host.node.handle_control(number, &plain[8..], now)),
        InnerKind::Relay => {
            let (target, inside) = PeerId::split_relay_header(&plain[8..])?;
            let next = &host.snapshot.peers[*host.snapshot.served.get(&target)?];
            let head = InnerHeader { kind: InnerKind::Relayed, ttl: 0, network: NetworkId::from_u48(0) };
            let id = host.snapshot.peers[by].id;
            let mut outer = [&[0; 16][..], &head.to_bytes(), &id.0, inside, &[0; 16]].concat();
            let send = next.send.as_ref()?;
            let counter = send.reserve(Lane::of_worker(0), 1).unwrap();
            send.seal(Lane::of_worker(0), counter, &mut outer);
            return Some((next.remote, outer));
        }
        InnerKind::Relayed => {
            let (source, inside) = PeerId::split_relay_header(&plain[8..])?;
            assert_eq!(PeerId::of_relayed_address(from), None, "handed on twice");
            assert_eq!(receive(host, source.relayed_address(), inside.to_vec(), now, rng), None);
        }
        _ => {}
    }
    None
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
    let paths =
        |e: &Event| matches!(e, Event::PeerUp { .. } | Event::PeerDown { .. } | Event::PathChanged { .. });
    assert_eq!(cluster.host(1).n_events(paths), 1, "one PeerUp, and never down");
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
    assert_eq!((report.id, report.address, report.state), (None, Some(address(1)), PathState::NoAnswer));
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
    assert!(took >= Duration::from_secs(3), "{took:?}");
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
        let now = cluster.now;
        cluster.host(n).node.set_endpoint(record, now);
        cluster.seed(n, 1);
    }
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    let said = |c: &mut Cluster| c.host(1).events.iter().any(|e| matches!(e, Event::DuplicateAddress { .. }));
    cluster.run_until(Duration::from_secs(5), "said", said);
    let lower = cluster.host(2).node.id().min(cluster.host(3).node.id());
    let host = cluster.host(1);
    let owner = host.snapshot.networks[&NET].fdb[&mac(77)];
    assert_eq!(host.snapshot.peers[owner].id, lower);
    let said = host.n_events(
        |e| matches!(e, Event::DuplicateAddress { keeper, address: Address::Mac(m), .. } if *keeper == lower && *m == mac(77)),
    );
    assert_eq!(said, 1);
}

#[test]
fn removed_endpoints_and_networks_leave_the_snapshot() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let now = cluster.now;
    cluster.host(1).node.remove_endpoint(&EndpointId(format!("{:064x}", 1)), now);
    cluster.run_until(STEP * 10, "endpoint gone", |c| c.host(2).snapshot.networks[&NET].fdb.is_empty());
    let now = cluster.now;
    cluster.host(1).node.leave_network(NET, now);
    cluster.run_until(STEP * 10, "member gone", |c| c.host(2).snapshot.networks[&NET].members.is_empty());
}

/// Three hosts that all reach each other.
fn trio() -> Cluster {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=3).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    cluster
}

fn sessions_with(cluster: &mut Cluster, at: u8, peer: PeerId) -> usize {
    let snapshot = &cluster.host(at).snapshot;
    snapshot.sessions.values().filter(|s| snapshot.peers[s.peer].id == peer).count()
}

#[test]
fn a_revoked_host_is_out_everywhere_at_once_and_not_a_byte_answers_it() {
    let mut cluster = trio();
    let (now, out) = (cluster.now, cluster.host(3).node.id());
    cluster.host(1).node.judge(out, Judgement::Revoked, 1000, now);
    let gone = |c: &mut Cluster| (1..=2).all(|n| sessions_with(c, n, out) == 0);
    let took = cluster.run_until(Duration::from_secs(2), "revoked", gone);
    assert!(took <= Duration::from_millis(500), "{took:?}");
    cluster.run_for(Duration::from_secs(30));
    assert!(full_mesh(&mut cluster, &[1, 2]));
    assert!(!cluster.reaches(1, 3) && !cluster.reaches(3, 1));
    let now = cluster.now;
    cluster.host(3).node.add_seed(address(1), now);
    for _ in 0..1000 {
        cluster.step();
        assert!(cluster.wire.iter().all(|(_, to, _)| *to != address(3)), "an answer to a revoked host");
    }
    let kept = |n: u8, c: &mut Cluster| c.host(n).node.verdicts().cloned().collect::<Vec<_>>();
    assert_eq!(kept(1, &mut cluster), kept(2, &mut cluster));
    let mut restarted = config(2, 1);
    restarted.incarnation = 2;
    restarted.verdicts = kept(2, &mut cluster);
    cluster.start(2, restarted);
    cluster.populate(2);
    cluster.seed(2, 1);
    cluster.seed(2, 3);
    cluster.run_for(Duration::from_secs(20));
    assert!(full_mesh(&mut cluster, &[1, 2]) && !cluster.reaches(2, 3));
}

#[test]
fn a_revocation_can_be_taken_back() {
    let mut cluster = trio();
    let (now, out) = (cluster.now, cluster.host(3).node.id());
    cluster.host(1).node.judge(out, Judgement::Revoked, 1000, now);
    cluster.run_for(Duration::from_secs(10));
    let now = cluster.now;
    cluster.host(2).node.judge(out, Judgement::Allowed, 5, now);
    cluster.run_until(Duration::from_secs(30), "back", |c| full_mesh(c, &[1, 2, 3]));
}

#[test]
fn a_late_host_hears_of_a_revocation_whose_author_is_gone() {
    let mut cluster = trio();
    let (now, out) = (cluster.now, cluster.host(3).node.id());
    cluster.host(1).node.judge(out, Judgement::Revoked, 1000, now);
    cluster.run_for(Duration::from_secs(5));
    cluster.hosts.remove(&address(1));
    cluster.add(4, 1, 1, vec![]);
    cluster.seed(4, 2);
    cluster.run_until(Duration::from_secs(10), "mesh", |c| full_mesh(c, &[2, 4]));
    cluster.seed(4, 3);
    cluster.run_for(Duration::from_secs(10));
    assert!(!cluster.reaches(4, 3) && cluster.host(4).node.verdicts().any(|v| v.peer == out));
}

#[test]
fn only_listed_hosts_are_admitted_and_the_list_counts_at_once() {
    let mut cluster = trio();
    let ids = [1, 2, 3].map(|n| cluster.host(n).node.id());
    let now = cluster.now;
    for n in 1..=2 {
        cluster.host(n).node.set_admission(Admission::Allowlist([ids[0], ids[1]].into()), now);
    }
    cluster.run_for(Duration::from_secs(10));
    assert!(full_mesh(&mut cluster, &[1, 2]) && !cluster.reaches(1, 3) && !cluster.reaches(3, 1));
    let now = cluster.now;
    for n in 1..=2 {
        cluster.host(n).node.set_admission(Admission::Allowlist(ids.into()), now);
    }
    cluster.run_until(Duration::from_secs(30), "listed again", |c| full_mesh(c, &[1, 2, 3]));
    assert_eq!(cluster.host(1).node.refused().count(), 0, "who is admitted is no longer refused");
}

#[test]
fn a_name_belongs_to_its_first_key_until_it_is_forgotten() {
    let mut cluster = trio();
    let first = cluster.host(3).node.id();
    cluster.hosts.remove(&address(3));
    let mut other = config(9, 1);
    other.name = "host3".into();
    cluster.start(9, other);
    cluster.populate(9);
    cluster.seed(9, 1);
    cluster.run_for(Duration::from_secs(15));
    assert!(!cluster.reaches(1, 9) && !cluster.reaches(9, 1));
    let refused: Vec<_> = cluster.host(1).node.refused().cloned().collect();
    assert_eq!(refused[0].reason, Refusal::NameTaken { keeper: first });
    assert_eq!(cluster.host(1).n_events(|e| matches!(e, Event::Refused(_))), 1, "said once");
    let now = cluster.now;
    cluster.host(1).node.judge(first, Judgement::Forgotten, 1000, now);
    cluster.run_until(Duration::from_secs(30), "forgotten", |c| full_mesh(c, &[1, 2, 9]));
}

#[test]
fn a_token_brings_a_host_in_as_often_as_it_may() {
    let mut cluster = trio();
    let now = cluster.now;
    assert!(cluster.host(1).node.add_token(ClusterSecret::new([99; 32]), 1, Duration::from_secs(60), now));
    for n in [4, 5] {
        let mut joining = config(n, 99);
        joining.joining = true;
        cluster.start(n, joining);
        cluster.seed(n, 1);
    }
    let welcome = |c: &mut Cluster, n: u8| c.host(n).n_events(|e| matches!(e, Event::Welcome(_)));
    cluster.run_for(Duration::from_secs(12));
    let joined: Vec<u8> = [4, 5].into_iter().filter(|n| welcome(&mut cluster, *n) == 1).collect();
    let [joined] = joined[..] else { panic!("{joined:?} joined by a token for one") };
    assert_eq!(cluster.host(1).n_events(|e| matches!(e, Event::TokenUsed(_))), 1);
    let secret = cluster.host(joined).events.iter().find_map(|e| match e {
        Event::Welcome(secret) => Some(secret.clone()),
        _ => None,
    });
    cluster.start(
        joined,
        NodeConfig { secrets: secret.into_iter().collect(), incarnation: 2, ..config(joined, 0) },
    );
    cluster.populate(joined);
    cluster.seed(joined, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3, joined]));
}

#[test]
fn a_secret_is_rotated_without_a_gap() {
    let mut cluster = trio();
    let [old, new] = [1, 2].map(|n| ClusterSecret::new([n; 32]));
    let steps = [vec![old.clone(), new.clone()], vec![new.clone(), old.clone()], vec![new.clone()]];
    for secrets in steps {
        for n in 1..=3 {
            if secrets.len() == 1 {
                assert_eq!(cluster.host(n).node.peers_not_preferring(new.id()), []);
            }
            let now = cluster.now;
            cluster.host(n).node.set_secrets(secrets.clone(), now);
            for _ in 0..300 {
                cluster.step();
                assert!(full_mesh(&mut cluster, &[1, 2, 3]));
            }
        }
    }
    assert_eq!(cluster.host(1).node.peers_not_preferring(old.id()).len(), 2);
    cluster.add(4, 2, 1, vec![]);
    cluster.seed(4, 3);
    cluster.run_until(Duration::from_secs(10), "a new host", |c| full_mesh(c, &[1, 2, 3, 4]));
}

#[test]
fn hosts_without_a_network_in_common_keep_no_sessions() {
    let mut cluster = Cluster::new();
    for n in 1..=8 {
        cluster.start(n, config(n, 1));
        cluster.seed(n, 1);
    }
    (1..=2).for_each(|n| cluster.populate(n));
    cluster.run_until(Duration::from_secs(10), "mesh", |c| full_mesh(c, &[1, 2]));
    cluster.run_for(Duration::from_secs(400));
    assert!(cluster.reaches(1, 2));
    let now = cluster.now;
    let up = |n: u8, c: &mut Cluster| {
        c.host(n).node.peer_reports(now).iter().filter(|p| p.state == PathState::Up).count()
    };
    (1..=8).for_each(|n| assert_eq!(up(n, &mut cluster), 7, "host {n}"));
    let downs =
        (1..=8).map(|n| cluster.host(n).n_events(|e| matches!(e, Event::PeerDown { .. }))).sum::<usize>();
    assert_eq!(downs, 0);
}

#[test]
fn an_address_in_use_cannot_be_taken_by_a_later_claim() {
    let mut cluster = trio();
    cluster.run_for(Duration::from_secs(3));
    // Whoever has the lowest id of the three claims the address of another's container.
    let mut order = [1u8, 2, 3];
    order.sort_by_key(|n| cluster.host(*n).node.id());
    let [thief, owner, witness] = order;
    let id = EndpointId(format!("{:064x}", 200));
    let now = cluster.now;
    let stolen =
        EndpointRecord { id, network: NET, mac: mac(owner), addresses: vec![[10, 1, 0, owner].into()] };
    cluster.host(thief).node.set_endpoint(stolen, now);
    for _ in 0..1000 {
        cluster.step();
        assert!(cluster.reaches(witness, owner));
    }
    let said = |e: &Event| matches!(e, Event::DuplicateAddress { .. });
    assert!(cluster.host(witness).n_events(said) > 0);
    let keeper = cluster.host(owner).node.id();
    let told = cluster.host(witness).node.duplicates().any(|duplicate| duplicate.keeper == keeper);
    assert!(told, "the duplicate is not listed while it lasts");
    let now = cluster.now;
    cluster.host(thief).node.remove_endpoint(&EndpointId(format!("{:064x}", 200)), now);
    let gone = |c: &mut Cluster| c.host(witness).node.duplicates().next().is_none();
    cluster.run_until(Duration::from_secs(10), "the duplicate to go from the list", gone);
}

#[test]
fn an_echo_comes_back_with_and_without_a_session_and_not_from_the_dead() {
    let mut cluster = Cluster::new();
    for n in 1..=3 {
        cluster.start(n, config(n, 1));
        cluster.seed(n, 1);
    }
    cluster.run_for(Duration::from_secs(5));
    let echo = |cluster: &mut Cluster, id: PeerId| {
        let (now, mut rng) = (cluster.now, StdRng::seed_from_u64(9));
        cluster.host(2).node.send_echo(id, now, &mut rng)
    };
    let peer = cluster.host(3).node.id();
    let is_back = move |nonce: u32| {
        move |c: &mut Cluster| {
            let echoed =
                |e: &Event| matches!(e, Event::Echoed { id, nonce: n, .. } if (*id, *n) == (peer, nonce));
            c.host(2).n_events(echoed) == 1
        }
    };
    let nonce = echo(&mut cluster, peer).unwrap();
    cluster.run_until(Duration::from_secs(1), "an echo", is_back(nonce));
    // Without a network in common the session is given up; the next echo makes one.
    cluster.run_for(Duration::from_secs(400));
    cluster.host(2).events.clear();
    let nonce = echo(&mut cluster, peer).unwrap();
    cluster.run_until(Duration::from_secs(1), "an echo after a silence", is_back(nonce));

    cluster.hosts.remove(&address(3));
    cluster.host(2).events.clear();
    assert!(echo(&mut cluster, peer).is_some());
    cluster.run_for(Duration::from_secs(10));
    assert_eq!(cluster.host(2).n_events(|e| matches!(e, Event::Echoed { .. })), 0);
    assert_eq!(echo(&mut cluster, PeerId([9; 16])), None, "a peer that nobody knows");
    let counts = cluster.host(2).node.counts();
    assert!(counts.handshakes_made > 0 && counts.handshakes_failed > 0, "{counts:?}");
}

/// What host `a` knows of its path to host `b`.
fn path(cluster: &mut Cluster, a: u8, b: u8) -> PathView {
    let id = cluster.host(b).node.id();
    cluster.host(a).snapshot.peers.iter().find(|peer| peer.id == id).expect("a peer").path
}

const WHOLE: PathView = PathView { overlay_mtu: 1418, limited: false };

#[test]
fn what_each_direction_carries_is_known_within_a_second_and_shown() {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=3).for_each(|n| cluster.seed(n, 1));
    let limits = [(1, 2, 1280), (2, 1, 1400), (2, 3, 1399)];
    for (a, b, carries) in limits {
        cluster.carries.insert((address(a), address(b)), carries);
    }
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    let known = |c: &mut Cluster| {
        let limited = |c: &mut Cluster, a, b, mtu| {
            path(c, a, b).limited && (mtu - 8..=mtu).contains(&path(c, a, b).overlay_mtu)
        };
        limited(c, 1, 2, 1198) && limited(c, 2, 1, 1318) && limited(c, 2, 3, 1317) && path(c, 1, 3) == WHOLE
    };
    cluster.run_until(Duration::from_secs(2), "paths", known);
    assert_eq!(path(&mut cluster, 3, 2), WHOLE);
    let (now, id) = (cluster.now, cluster.host(2).node.id());
    let reports = cluster.host(1).node.peer_reports(now);
    let report = reports.iter().find(|report| report.id == Some(id)).unwrap();
    assert_eq!(report.path_mtu, Some(1198));
    // Rekeys forget nothing.
    for _ in 0..40_000 {
        cluster.step();
        assert_eq!(path(&mut cluster, 3, 2), WHOLE);
        assert!(path(&mut cluster, 1, 2).limited);
    }
}

#[test]
fn a_path_that_shrinks_or_grows_is_noticed() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    cluster.run_until(Duration::from_secs(1), "the whole path", |c| path(c, 1, 2) == WHOLE);
    cluster.carries.insert((address(1), address(2)), 1400);
    let count = |c: &mut Cluster| {
        let snapshot = &c.host(1).snapshot;
        snapshot.peers.iter().for_each(|peer| peer.counters.add_sent(1, 1000));
    };
    count(&mut cluster);
    let least = PathView { overlay_mtu: 1318, limited: true };
    cluster.run_until(Duration::from_secs(9), "less", |c| path(c, 1, 2) == least);
    cluster.carries.clear();
    cluster.run_until(Duration::from_secs(62), "more", |c| path(c, 1, 2) == WHOLE);
    // The interface's own word counts at once.
    let (now, id) = (cluster.now, cluster.host(2).node.id());
    cluster.carries.insert((address(1), address(2)), 1450);
    cluster.host(1).node.handle_too_long(id, 1432, now);
    cluster.step();
    assert_eq!(path(&mut cluster, 1, 2).overlay_mtu, 1198);
    cluster
        .run_until(Duration::from_secs(2), "what the interface takes", |c| path(c, 1, 2).overlay_mtu == 1368);
}

#[test]
fn a_silent_peer_is_not_taken_for_a_short_path() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    cluster.run_until(Duration::from_secs(2), "paths", |c| path(c, 1, 2) == WHOLE);
    cluster.cut(1, 2);
    for _ in 0..3000 {
        cluster.step();
        assert!(!path(&mut cluster, 1, 2).limited, "containers were told of a cut as of a short path");
    }
    cluster.carries.clear();
    cluster
        .run_until(Duration::from_secs(20), "healed", |c| path(c, 1, 2) == WHOLE && full_mesh(c, &[1, 2, 3]));
}

/// Four hosts, each of which reaches the others.
fn quartet() -> Cluster {
    let mut cluster = Cluster::new();
    (1..=4).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=4).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3, 4]));
    cluster.run_for(Duration::from_secs(3));
    cluster
}

/// Name of the relay between two hosts, as the first one shows it.
fn via(cluster: &mut Cluster, a: u8, b: u8) -> Option<String> {
    let (now, id) = (cluster.now, cluster.host(b).node.id());
    let reports = cluster.host(a).node.peer_reports(now);
    let report = reports.into_iter().find(|report| report.id == Some(id))?;
    assert_eq!(report.via.is_some(), report.state == PathState::Relayed, "{report:?}");
    report.via
}

#[test]
fn two_that_are_cut_off_talk_over_a_third_and_directly_again_when_they_can() {
    let mut cluster = quartet();
    cluster.cut(1, 2);
    let both = |c: &mut Cluster| c.reaches(1, 2) && c.reaches(2, 1);
    let took = cluster.run_until(Duration::from_secs(10), "a relay", both);
    assert!(took >= Duration::from_secs(1), "{took:?}: it was not cut");
    assert!(via(&mut cluster, 1, 2).is_some() && via(&mut cluster, 2, 1).is_some());
    // Neither rekeys nor attempts to reach each other directly leave a gap, and nobody is taken for dead.
    let end = cluster.now + Duration::from_secs(400);
    while cluster.now < end {
        cluster.step();
        assert!(both(&mut cluster), "after {:?}", cluster.now - cluster.start);
    }
    let downs = |c: &mut Cluster| {
        (1..=4).map(|n| c.host(n).n_events(|e| matches!(e, Event::PeerDown { .. }))).sum::<usize>()
    };
    assert_eq!(downs(&mut cluster), 0);
    // The way over the relay has its own MTU: 56 bytes less.
    assert_eq!(path(&mut cluster, 1, 2), PathView { overlay_mtu: 1362, limited: true });
    cluster.heal(1, 2);
    let direct = |c: &mut Cluster| {
        via(c, 1, 2).is_none() && via(c, 2, 1).is_none() && c.reaches(1, 2) && c.reaches(2, 1)
    };
    cluster.run_until(Duration::from_secs(12), "direct again", direct);
    cluster.run_until(Duration::from_secs(2), "the whole path", |c| path(c, 1, 2) == WHOLE);
    let n_handed_on = cluster.n_handed_on;
    cluster.run_for(Duration::from_secs(30));
    assert_eq!(cluster.n_handed_on, n_handed_on, "something still goes over the relay");
}

#[test]
fn another_relay_takes_over_and_the_session_stays() {
    let mut cluster = quartet();
    cluster.cut(1, 2);
    let both = |c: &mut Cluster| c.reaches(1, 2) && c.reaches(2, 1);
    cluster.run_until(Duration::from_secs(10), "a relay", both);
    cluster.run_for(Duration::from_secs(5));
    let first = via(&mut cluster, 1, 2).unwrap();
    assert_eq!(via(&mut cluster, 2, 1).as_ref(), Some(&first), "both ends choose alike");
    let dead: u8 = first.strip_prefix("host").unwrap().parse().unwrap();
    let other = format!("host{}", 7 - dead);
    cluster.hosts.remove(&address(dead));
    let taken_over = |c: &mut Cluster| {
        via(c, 1, 2).as_ref() == Some(&other) && via(c, 2, 1).as_ref() == Some(&other) && both(c)
    };
    cluster.run_until(Duration::from_secs(10), "the other relay", taken_over);
}

#[test]
fn the_relay_that_is_near_is_preferred() {
    let mut cluster = Cluster::new();
    for far in [3, 4] {
        for n in [1, 2] {
            cluster
                .delays
                .insert((address(n), address(far)), Duration::from_millis(if far == 3 { 60 } else { 10 }));
        }
    }
    (1..=4).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=4).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3, 4]));
    cluster.run_for(Duration::from_secs(20));
    cluster.cut(1, 2);
    cluster.run_until(Duration::from_secs(10), "a relay", |c| c.reaches(1, 2) && c.reaches(2, 1));
    assert_eq!(via(&mut cluster, 1, 2).as_deref(), Some("host4"));
    assert_eq!(via(&mut cluster, 2, 1).as_deref(), Some("host4"));
}

#[test]
fn a_cut_in_one_direction_is_a_cut() {
    let mut cluster = quartet();
    // Host 2 hears host 1, and is not heard.
    cluster.carries.insert((address(2), address(1)), 0);
    let both = |c: &mut Cluster| c.reaches(1, 2) && c.reaches(2, 1);
    cluster.run_until(Duration::from_secs(15), "a relay", both);
    for _ in 0..6000 {
        cluster.step();
        assert!(both(&mut cluster));
    }
    cluster.heal(1, 2);
    cluster.run_until(Duration::from_secs(12), "direct again", |c| {
        via(c, 1, 2).is_none() && via(c, 2, 1).is_none()
    });
}

#[test]
fn a_host_that_knows_nobody_else_is_found_over_a_relay() {
    let mut cluster = Cluster::new();
    cluster.cut(1, 3);
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(1, 2);
    cluster.seed(3, 2);
    let took = cluster.run_until(Duration::from_secs(20), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[test]
fn without_anyone_who_reaches_both_nothing_is_sent_in_circles() {
    let mut cluster = quartet();
    // Two halves, and nobody between them.
    for (a, b) in [(1, 2), (1, 4), (3, 2), (3, 4)] {
        cluster.cut(a, b);
    }
    cluster.run_for(Duration::from_secs(30));
    let n_handed_on = cluster.n_handed_on;
    cluster.run_for(Duration::from_secs(60));
    assert_eq!(cluster.n_handed_on, n_handed_on, "datagrams go in circles");
    for (a, b) in [(1, 2), (1, 4), (3, 2), (3, 4)] {
        cluster.heal(a, b);
    }
    cluster.run_until(Duration::from_secs(30), "healed", |c| full_mesh(c, &[1, 2, 3, 4]));
}

#[test]
fn a_revoked_host_gets_nothing_handed_on() {
    let mut cluster = quartet();
    cluster.cut(1, 2);
    cluster.run_until(Duration::from_secs(10), "a relay", |c| c.reaches(1, 2) && c.reaches(2, 1));
    let (now, id) = (cluster.now, cluster.host(1).node.id());
    cluster.host(3).node.judge(id, Judgement::Revoked, 1, now);
    let out = |c: &mut Cluster| (2..=4).all(|n| sessions_with(c, n, id) == 0);
    cluster.run_until(Duration::from_secs(2), "out", out);
    let n_handed_on = cluster.n_handed_on;
    cluster.run_for(Duration::from_secs(60));
    assert_eq!(cluster.n_handed_on, n_handed_on);
}
