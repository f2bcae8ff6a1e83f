//! Nodes on a simulated underlay, in virtual time.

#![allow(dead_code, reason = "every user takes a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weft_dataplane::{Snapshot, Verdict};
use weft_mesh::IdentityKey;
use weft_node::{Admission, EndpointRecord, Event, KnownPeer, LocalNetwork, Node, NodeConfig};
use weft_noise::{ClusterSecret, REKEY_AFTER, Suite};
use weft_wire::{EndpointId, Header, InnerHeader, InnerKind, Lane, Mac, MessageType, NetworkId, PeerId};

pub(crate) const NET: NetworkId = NetworkId::from_u48(0xabc);
pub(crate) const STEP: Duration = Duration::from_millis(10);

pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) events: Vec<Event>,
}

/// A datagram, where it comes from, and where it goes.
pub(crate) type Sent = (SocketAddr, SocketAddr, Vec<u8>);

pub(crate) struct Cluster {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) rng: StdRng,
    pub(crate) hosts: BTreeMap<SocketAddr, Host>,
    pub(crate) wire: VecDeque<Sent>,
    /// Chance that a datagram is lost.
    pub(crate) loss: f64,
    /// The longest packets, IP and UDP headers included, that pass from one to another; 1500 bytes where it is not said.
    pub(crate) carries: BTreeMap<(SocketAddr, SocketAddr), usize>,
    /// How long a datagram is under way between two hosts, both ways; no time where it is not said.
    pub(crate) delays: BTreeMap<(SocketAddr, SocketAddr), Duration>,
    pub(crate) late: Vec<(Instant, Sent)>,
    /// Datagrams that relays handed on.
    pub(crate) n_handed_on: usize,
}

pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6783))
}

pub(crate) fn mac(n: u8) -> Mac {
    Mac([2, 0x42, 10, 1, 0, n])
}

pub(crate) fn config(n: u8, secret: u8) -> NodeConfig {
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
    pub(crate) fn n_events(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|e| wanted(e)).count()
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let (hosts, wire) = (BTreeMap::new(), VecDeque::new());
        let (rng, carries) = (StdRng::seed_from_u64(7), BTreeMap::new());
        let (delays, late) = (BTreeMap::new(), Vec::new());
        Self { now, start: now, rng, hosts, wire, loss: 0.0, carries, delays, late, n_handed_on: 0 }
    }

    pub(crate) fn add(&mut self, n: u8, secret: u8, incarnation: u64, known: Vec<KnownPeer>) {
        let mut config = config(n, secret);
        config.incarnation = incarnation;
        config.known = known;
        self.start(n, config);
        self.populate(n);
    }

    /// A host without a network.
    pub(crate) fn start(&mut self, n: u8, config: NodeConfig) {
        let mut node = Node::new(config, self.now, &mut self.rng).unwrap();
        node.set_addresses(vec![address(n)], self.now);
        self.hosts.insert(address(n), Host { node, snapshot: Arc::default(), events: Vec::new() });
    }

    /// Puts the host on the network, with one endpoint.
    pub(crate) fn populate(&mut self, n: u8) {
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

    pub(crate) fn host(&mut self, n: u8) -> &mut Host {
        self.hosts.get_mut(&address(n)).unwrap()
    }

    pub(crate) fn seed(&mut self, n: u8, target: u8) {
        let now = self.now;
        self.host(n).node.add_seed(address(target), now);
    }

    pub(crate) fn step(&mut self) {
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
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        done: impl Fn(&mut Self) -> bool,
    ) -> Duration {
        let begin = self.now;
        while !done(self) {
            assert!(self.now < begin + limit, "{what}: not within {limit:?}");
            self.step();
        }
        self.now - begin
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Whether a frame from host `a`'s container to host `b`'s would arrive now.
    pub(crate) fn reaches(&mut self, a: u8, b: u8) -> bool {
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

    pub(crate) fn is_open(&self, a: u8, b: u8) -> bool {
        self.carries.get(&(address(a), address(b))) != Some(&0)
    }

    /// Nothing passes between the two, both ways.
    pub(crate) fn cut(&mut self, a: u8, b: u8) {
        self.carries.insert((address(a), address(b)), 0);
        self.carries.insert((address(b), address(a)), 0);
    }

    pub(crate) fn heal(&mut self, a: u8, b: u8) {
        self.carries.remove(&(address(a), address(b)));
        self.carries.remove(&(address(b), address(a)));
    }
}

pub(crate) fn drain(at: SocketAddr, host: &mut Host, wire: &mut VecDeque<Sent>) {
    while let Some(transmit) = host.node.poll_transmit() {
        wire.push_back((at, transmit.to, transmit.datagram));
    }
    host.events.extend(std::iter::from_fn(|| host.node.poll_event()));
    if let Some(snapshot) = host.node.take_snapshot() {
        host.snapshot = snapshot;
    }
}

/// What the router's workers do with a datagram. Returns what is handed on, and where to.
pub(crate) fn receive(
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

pub(crate) fn full_mesh(cluster: &mut Cluster, hosts: &[u8]) -> bool {
    hosts.iter().all(|a| hosts.iter().all(|b| a == b || cluster.reaches(*a, *b)))
}

pub(crate) fn sessions_with(cluster: &mut Cluster, at: u8, peer: PeerId) -> usize {
    let snapshot = &cluster.host(at).snapshot;
    snapshot.sessions.values().filter(|s| snapshot.peers[s.peer].id == peer).count()
}
