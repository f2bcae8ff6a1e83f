//! The state machine.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::CryptoRng;
use weft_dataplane::{GroupQuery, Groups, Snapshot};
use weft_mesh::{Address, IdentityKey, Membership, Mesh, MeshConfig};
use weft_noise::{ClusterSecret, HandshakeConfig, Handshakes, HelloTooLong, Identity, Suite};
use weft_wire::{EndpointId, Mac, NetworkId, PeerId};

use crate::admission::{Admission, Gate, Token, Verdict};
use crate::hello::Hello;
use crate::peer::{Dial, Peer, Session};
use crate::services::Services;

/// Resolution of the node's own timers.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// How long a tick may wait for something else to wake the node: a message does a dozen times a second in a settled mesh, and
/// each waking costs a daemon with little to do more than what it then does.
const TICK_SLACK: Duration = Duration::from_millis(100);
/// Peers known at once. Bounds what a malicious member can make us remember.
pub(crate) const MAX_PEERS: usize = 4096;

/// A peer remembered from an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPeer {
    /// Its id.
    pub id: PeerId,
    /// Its name, which stays its own.
    pub name: String,
    /// Where it was last reached.
    pub address: SocketAddr,
}

/// What a node is made of.
#[derive(Debug)]
pub struct NodeConfig {
    /// The peer's key.
    pub key: IdentityKey,
    /// The peer's name, at most 63 bytes; longer ones are cut.
    pub name: String,
    /// The cluster's secrets, the preferred one first.
    pub secrets: Vec<ClusterSecret>,
    /// The only secret is a join token: nothing is done but to ask for the cluster's own.
    pub joining: bool,
    /// The cluster's suite.
    pub suite: Suite,
    /// Larger than at any earlier start of this peer.
    pub incarnation: u64,
    /// Where others reach this peer, best first; what they see of it is added.
    pub addresses: Vec<SocketAddr>,
    /// Peers remembered from an earlier run.
    pub known: Vec<KnownPeer>,
    /// Whom to admit.
    pub admission: Admission,
    /// Verdicts remembered from an earlier run.
    pub verdicts: Vec<Verdict>,
    /// Age at which a session in use is replaced; it lives for 60 s more.
    pub rekey_after: Duration,
}

/// A network that has a bridge on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNetwork {
    /// Its id inside the seal.
    pub id: NetworkId,
    /// MTU of its containers' interfaces.
    pub overlay_mtu: u16,
    /// Senders are held to the addresses in their records.
    pub spoof_check: bool,
    /// Multicast is carried.
    pub multicast: bool,
}

/// An endpoint of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRecord {
    /// Docker's endpoint id.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IP addresses, without prefix lengths; at most one of each family.
    pub addresses: Vec<IpAddr>,
}

/// A datagram to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes.
    pub datagram: Vec<u8>,
}

/// What the node did by itself, for logs and for the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer is alive after it was not.
    PeerUp {
        /// Its id.
        id: PeerId,
        /// Its name; empty while it is not known.
        name: String,
    },
    /// A peer was not heard for a while by anyone; attempts to reach it go on.
    PeerDown {
        /// Its id.
        id: PeerId,
        /// Its name.
        name: String,
    },
    /// A session with a peer began at another address or under another name than last remembered: to be kept.
    PeerMoved(KnownPeer),
    /// A peer that is alive does not answer directly, or does so again.
    PathChanged {
        /// Its id.
        id: PeerId,
        /// Its name.
        name: String,
        /// Whether it answers.
        direct: bool,
    },
    /// Two peers announce the same address in one network; the frames go to `keeper`.
    DuplicateAddress {
        /// The network.
        network: NetworkId,
        /// The address.
        address: Address,
        /// Who gets the frames.
        keeper: PeerId,
        /// Who does not.
        loser: PeerId,
    },
    /// Two hosts run with the same key, most likely copies of one machine.
    SameKeyTwice {
        /// The id they share.
        peer: PeerId,
        /// The names they were seen under.
        names: Vec<String>,
    },
    /// A peer with the right secret was not admitted.
    Refused(crate::RefusedPeer),
    /// An operator's decision, here or on another host: to be kept.
    Judged(Verdict),
    /// A join token was redeemed here: this peer was given the secret.
    TokenUsed(KnownPeer),
    /// The cluster's secret, for the join token of this host: to be kept.
    Welcome(ClusterSecret),
    /// An echo of [`Node::send_echo`] came back.
    Echoed {
        /// Whose.
        id: PeerId,
        /// Which.
        nonce: u32,
        /// How long it took.
        rtt: Duration,
    },
    /// An admitted peer says something about a bench.
    Bench {
        /// Who.
        id: PeerId,
        /// What.
        message: crate::BenchMessage,
    },
}

/// An address from the settings, from Docker or from the operator, of which it is not known who answers there.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) dial: Dial,
    pub(crate) peer: Option<PeerId>,
    pub(crate) itself: bool,
    /// The last message for whoever is there.
    pub(crate) message: Option<Vec<u8>>,
}

/// See the crate's documentation.
#[derive(Debug)]
pub struct Node {
    pub(crate) id: PeerId,
    pub(crate) handshakes: Handshakes,
    pub(crate) mesh: Mesh,
    pub(crate) gate: Gate,
    pub(crate) secrets: Vec<ClusterSecret>,
    pub(crate) joining: bool,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) sessions: HashMap<u32, Session>,
    pub(crate) seeds: BTreeMap<SocketAddr, Seed>,
    pub(crate) networks: BTreeMap<NetworkId, LocalNetwork>,
    pub(crate) endpoints: BTreeMap<EndpointId, EndpointRecord>,
    /// Multicast groups that this host's containers are in.
    pub(crate) groups: Groups,
    /// Where others reach this peer, by the settings.
    addresses: Vec<SocketAddr>,
    /// Where others see it.
    pub(crate) seen_at: BTreeMap<PeerId, SocketAddr>,
    pub(crate) attempts: HashMap<u64, crate::sessions::Attempt>,
    pub(crate) next_tag: u64,
    pub(crate) tick: Tick,
    /// When relays are told next for whom they are needed.
    pub(crate) next_relay_word: Instant,
    /// When it is looked next how much was sealed on each session.
    pub(crate) next_count: Instant,
    /// When a path is to be probed next.
    pub(crate) next_probe: Instant,
    pub(crate) rekey_after: Duration,
    pub(crate) outbox: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) dirty: bool,
    pub(crate) neighbors_changed: bool,
    /// Handshakes that became sessions, and those of this host's that did not.
    pub(crate) handshakes_made: u64,
    pub(crate) handshakes_failed: u64,
    pub(crate) services: Services,
    /// Keys with which two hosts run: the names they were seen under, and when last.
    pub(crate) same_keys: BTreeMap<PeerId, (BTreeSet<String>, Instant)>,
}

/// When sessions, peers and seeds are looked through next.
#[derive(Debug)]
pub(crate) struct Tick {
    /// From then on, when the node is awake.
    from: Instant,
    /// Then at the latest.
    by: Instant,
}

impl Tick {
    fn at(at: Instant) -> Self {
        Self { from: at, by: at }
    }

    /// Makes it be at `at` at the latest.
    pub(crate) fn hasten(&mut self, at: Instant) {
        self.from = self.from.min(at);
        self.by = self.by.min(at);
    }

    pub(crate) fn latest(&self) -> Instant {
        self.by
    }
}

impl Node {
    /// A node that knows `config.known` and has no network yet.
    ///
    /// # Errors
    /// [`HelloTooLong`]; cannot happen while names are cut.
    pub fn new(config: NodeConfig, now: Instant, rng: &mut impl CryptoRng) -> Result<Self, HelloTooLong> {
        let identity = Identity::from_bytes(*config.key.x25519_secret());
        let id = identity.peer_id();
        let Hello { name } = Hello::new(&config.name);
        let hello = Hello { name: name.clone() }.to_bytes();
        let known: Vec<KnownPeer> = config.known.into_iter().filter(|k| k.id != id).collect();
        let mut gate = Gate::default();
        gate.admission = config.admission;
        gate.pins = known.iter().map(|k| (k.name.clone(), k.id)).collect();
        gate.pins.insert(name.clone(), id);
        let handshakes =
            HandshakeConfig { identity, secrets: config.secrets.clone(), suite: config.suite, hello, now };
        let mut mesh = MeshConfig::new(config.key, config.incarnation, &name);
        mesh.addresses.clone_from(&config.addresses);
        mesh.known_peers = known
            .iter()
            .map(|k| weft_mesh::KnownPeer { peer: k.id, addresses: vec![canonical(k.address)] })
            .collect();
        let peers = known
            .into_iter()
            .map(|k| (k.id, Peer::new(k.id, k.name, Some(canonical(k.address)), now)))
            .collect();
        let mut node = Self {
            id,
            handshakes: Handshakes::new(handshakes)?,
            mesh: Mesh::new(mesh, now, rng),
            gate,
            secrets: config.secrets,
            joining: config.joining,
            peers,
            sessions: HashMap::new(),
            seeds: BTreeMap::new(),
            networks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            groups: Groups::default(),
            addresses: config.addresses,
            seen_at: BTreeMap::new(),
            attempts: HashMap::new(),
            next_tag: 1,
            tick: Tick::at(now),
            next_count: now,
            next_relay_word: now,
            next_probe: now,
            rekey_after: config.rekey_after,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            dirty: true,
            neighbors_changed: false,
            handshakes_made: 0,
            handshakes_failed: 0,
            services: Services::default(),
            same_keys: BTreeMap::new(),
        };
        for verdict in config.verdicts {
            node.adopt(verdict, now);
        }
        node.events.clear();
        node.announce_secrets();
        Ok(node)
    }

    /// This peer's id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The number of this run, which may have grown: to be kept for the next start.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.mesh.incarnation()
    }

    /// Replaces the accepted secrets; the first is the one to begin handshakes with. Sessions stay.
    pub fn set_secrets(&mut self, secrets: Vec<ClusterSecret>, now: Instant) {
        self.secrets = secrets;
        self.update_secrets();
        self.announce_secrets();
        self.pump(now);
    }

    pub(crate) fn update_secrets(&mut self) {
        let all = self.secrets.iter().chain(self.gate.tokens()).cloned().collect();
        self.handshakes.set_secrets(all);
    }

    /// Lets whoever holds `secret` have the cluster's own, so many times and for so long. `false` when too many tokens
    /// are open.
    pub fn add_token(
        &mut self,
        secret: ClusterSecret,
        n_uses: u32,
        lifetime: Duration,
        now: Instant,
    ) -> bool {
        let added = self.gate.add_token(Token { secret, expires: now + lifetime, n_uses });
        self.update_secrets();
        added
    }

    /// Says where others reach this peer, best first.
    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        self.addresses = addresses;
        self.announce_addresses(now);
    }

    /// What the settings say, then what others see, most of them first.
    pub(crate) fn announce_addresses(&mut self, now: Instant) {
        let mut seen: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        self.seen_at.values().for_each(|address| *seen.entry(*address).or_default() += 1);
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_by_key(|(address, n)| (std::cmp::Reverse(*n), *address));
        let mut addresses = self.addresses.clone();
        addresses.extend(seen.into_iter().map(|(address, _)| address).take(2));
        let mut known = BTreeSet::new();
        addresses.retain(|address| known.insert(*address));
        self.mesh.set_addresses(addresses, now);
        self.pump(now);
    }

    /// Contacts `address` until it answers, now and for ever. An address that is known already is tried at once.
    pub fn add_seed(&mut self, address: SocketAddr, now: Instant) {
        let address = canonical(address);
        let seed = self.seeds.entry(address).or_insert_with(|| Seed {
            dial: Dial::new(now),
            peer: None,
            itself: false,
            message: None,
        });
        if !seed.dial.trying {
            seed.dial.reset(now);
        }
        if !self.joining {
            self.mesh.remove_seed(address);
            self.mesh.add_seed(address, now);
        }
        self.tick.hasten(now);
    }

    /// No longer contacts `address`. A peer that answered there stays.
    pub fn remove_seed(&mut self, address: SocketAddr) {
        let address = canonical(address);
        self.seeds.remove(&address);
        self.mesh.remove_seed(address);
    }

    /// Announces that this host is on a network, or that its MTU changed.
    pub fn join_network(&mut self, network: LocalNetwork, now: Instant) {
        self.mesh.join_network(network.id, Membership { overlay_mtu: network.overlay_mtu });
        if network.multicast {
            self.groups.add_network(network.id, now);
        }
        let network_id = network.id;
        self.networks.insert(network_id, network);
        self.services.joined(network_id, now);
        self.neighbors_changed = true;
        self.dirty = true;
        self.pump(now);
    }

    /// Withdraws from a network, with the endpoints in it.
    pub fn leave_network(&mut self, network: NetworkId, now: Instant) {
        if self.networks.remove(&network).is_some() {
            self.endpoints.retain(|_, endpoint| endpoint.network != network);
            self.groups.remove_network(network);
            self.mesh.leave_network(network);
            self.services.left(network);
            self.neighbors_changed = true;
            self.dirty = true;
            self.pump(now);
        }
    }

    /// Announces an endpoint of this host, or its change. Its network must have been joined.
    pub fn set_endpoint(&mut self, endpoint: EndpointRecord, now: Instant) {
        let record = weft_mesh::Endpoint {
            tag: (&endpoint.id).into(),
            mac: endpoint.mac,
            addresses: endpoint.addresses.clone(),
            name: None,
        };
        // Docker's records are within the limits, and an endpoint whose network is gone has nobody to be told.
        let announced = self.mesh.set_local_endpoint(endpoint.network, record);
        debug_assert!(announced.is_ok(), "{announced:?}");
        self.endpoints.insert(endpoint.id.clone(), endpoint);
        self.dirty = true;
        self.pump(now);
    }

    /// Withdraws an endpoint; unknown ones are no error.
    pub fn remove_endpoint(&mut self, id: &EndpointId, now: Instant) {
        if let Some(endpoint) = self.endpoints.remove(id) {
            self.mesh.remove_local_endpoint(endpoint.network, id.into());
            if self.groups.remove_member(endpoint.network, endpoint.mac) {
                self.announce_groups();
            }
            self.dirty = true;
            self.pump(now);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        self.handshakes.handle_timeout(now, rng);
        self.drain_handshakes(now);
        if !self.joining && self.mesh.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.mesh.handle_timeout(now);
        }
        if self.groups.next_timeout().is_some_and(|(at, _)| at <= now) && self.groups.handle_timeout(now) {
            self.announce_groups();
        }
        self.pump(now);
        let ticks = now >= self.tick.from;
        // What is due soon after a tick is done with it.
        if now >= self.next_probe || (ticks && now + TICK >= self.next_probe) {
            self.probe_paths(now, rng);
        }
        if !ticks {
            return;
        }
        self.tick = Tick { from: now + TICK, by: now + TICK + TICK_SLACK };
        if self.gate.expire_tokens(now) {
            self.update_secrets();
        }
        self.watch_sessions(now);
        self.update_relays(now);
        self.keep_alive(now, rng);
        self.dial(now, rng);
        self.pump(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// The next multicast query, to be handed to the containers of its network.
    pub fn poll_query(&mut self) -> Option<GroupQuery> {
        self.groups.poll_query()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Node::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> (Instant, &'static str) {
        let mesh = if self.joining { None } else { self.mesh.poll_timeout() };
        let groups = self.groups.next_timeout();
        let probe = (!self.joining).then_some((self.next_probe, "path probe"));
        let tick = (self.tick.by, "node tick");
        let deadlines = [self.handshakes.poll_timeout(), mesh, groups, probe];
        deadlines.into_iter().flatten().chain([tick]).min_by_key(|(at, _)| *at).unwrap_or(tick)
    }

    /// Whether [`Node::handle_timeout`] has something to do: at [`Node::poll_timeout`] at the latest, or, for a caller who is
    /// awake, a little earlier.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.tick.from || now >= self.poll_timeout().0
    }

    /// The forwarding snapshot, if it changed since the last call.
    pub fn take_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        let changed = std::mem::take(&mut self.dirty);
        changed.then(|| Arc::new(crate::snapshot::build(self)))
    }
}

/// An IPv4 address in IPv6 clothes and the same address plain are one.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    // A peer's id in the clothes of a relayed address stays.
    if address.port() == 0 { address } else { SocketAddr::new(address.ip().to_canonical(), address.port()) }
}
