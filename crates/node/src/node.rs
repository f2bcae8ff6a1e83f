//! The state machine.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::CryptoRng;
use weft_dataplane::{SessionActivity, Snapshot};
use weft_noise::{
    ClusterSecret, Established, FailReason, HandshakeConfig, HandshakeEvent, Handshakes, HelloTooLong,
    Identity, REJECT_AFTER, REKEY_AFTER, Role, Suite,
};
use weft_wire::{
    EndpointId, HEADER_LEN, INNER_HEADER_LEN, InnerHeader, InnerKind, Lane, NetworkId, PeerId, TAG_LEN,
};

use crate::exchange::{EndpointRecord, Exchange, PeerHint};
use crate::hello::Hello;
use crate::peer::{Dial, Peer, Session};

/// How often every live peer is told the head of our log; also the keepalive.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
/// A peer that was not heard for this long is down: four announcements were lost.
const DEAD_AFTER: Duration = Duration::from_millis(4500);
/// What a peer announced is forwarded to for this long after it went down.
pub(crate) const FDB_HOLD: Duration = Duration::from_secs(60);
/// Who never answered is forgotten after this long when it is known by hearsay only.
const HEARSAY_HOLD: Duration = Duration::from_secs(120);
/// Resolution of the node's own timers.
const TICK: Duration = Duration::from_millis(250);
/// The session's responder rekeys if its initiator has not done so for this long after it was due.
const RESPONDER_REKEY_GRACE: Duration = Duration::from_secs(10);
/// How often an address that seems to be this host's own is tried again.
const OWN_ADDRESS_RETRY: Duration = Duration::from_secs(60);
/// Peers known at once. Bounds what a malicious member can make us remember.
const MAX_PEERS: usize = 4096;

/// A peer remembered from an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPeer {
    /// Its id.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// Where it was last reached.
    pub address: SocketAddr,
}

/// What a node is made of.
#[derive(Debug)]
pub struct NodeConfig {
    /// The peer's key.
    pub identity: Identity,
    /// The peer's name, at most 64 bytes; longer ones are cut.
    pub name: String,
    /// The cluster's secrets, the preferred one first.
    pub secrets: Vec<ClusterSecret>,
    /// The cluster's suite.
    pub suite: Suite,
    /// Larger than at any earlier start of this peer.
    pub incarnation: u64,
    /// Peers remembered from an earlier run.
    pub known: Vec<KnownPeer>,
}

/// A network that has a bridge on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNetwork {
    /// Its id inside the seal.
    pub id: NetworkId,
    /// MTU of its containers' interfaces.
    pub overlay_mtu: u16,
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
    /// A session with a peer began after there was none.
    PeerUp(KnownPeer),
    /// A peer was not heard for a while; attempts to reach it go on.
    PeerDown {
        /// Its id.
        id: PeerId,
        /// Its name.
        name: String,
    },
    /// A peer that is up is reached elsewhere, or has another name.
    PeerMoved(KnownPeer),
    /// Two peers announce the same Ethernet address in one network; the frames go to `keeper`.
    DuplicateMac {
        /// The network.
        network: NetworkId,
        /// The address.
        mac: weft_wire::Mac,
        /// Who gets the frames.
        keeper: PeerId,
        /// Who does not.
        loser: PeerId,
    },
}

/// What a handshake was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Seed(SocketAddr),
    Peer(PeerId),
}

/// An address from the settings, from Docker or from the operator, of which it is not known who answers there.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) dial: Dial,
    pub(crate) peer: Option<PeerId>,
    pub(crate) itself: bool,
}

impl Seed {
    fn new(address: SocketAddr, now: Instant) -> Self {
        Self { dial: Dial::new(address, now), peer: None, itself: false }
    }
}

/// See the crate's documentation.
#[derive(Debug)]
pub struct Node {
    pub(crate) id: PeerId,
    handshakes: Handshakes,
    pub(crate) exchange: Exchange,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) sessions: HashMap<u32, Session>,
    pub(crate) seeds: BTreeMap<SocketAddr, Seed>,
    pub(crate) networks: BTreeMap<NetworkId, LocalNetwork>,
    pub(crate) endpoints: BTreeMap<EndpointId, EndpointRecord>,
    purposes: HashMap<u64, Purpose>,
    next_tag: u64,
    next_tick: Instant,
    outbox: VecDeque<Transmit>,
    events: VecDeque<Event>,
    duplicates: Vec<Event>,
    dirty: bool,
}

impl Node {
    /// A node that knows `config.known` and has no network yet.
    ///
    /// # Errors
    /// [`HelloTooLong`]; cannot happen while names are cut to 64 bytes.
    pub fn new(config: NodeConfig, now: Instant) -> Result<Self, HelloTooLong> {
        let NodeConfig { identity, name, secrets, suite, incarnation, known } = config;
        let id = identity.peer_id();
        let hello = Hello { name }.to_bytes();
        let peers = known
            .into_iter()
            .filter(|k| k.id != id)
            .map(|k| (k.id, Peer { proven: true, ..Peer::new(k.id, k.name, canonical(k.address), now) }))
            .collect();
        Ok(Self {
            id,
            handshakes: Handshakes::new(HandshakeConfig { identity, secrets, suite, hello, now })?,
            exchange: Exchange::new(incarnation),
            peers,
            sessions: HashMap::new(),
            seeds: BTreeMap::new(),
            networks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            purposes: HashMap::new(),
            next_tag: 1,
            next_tick: now,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            duplicates: Vec::new(),
            dirty: true,
        })
    }

    /// This peer's id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Replaces the accepted secrets; the first is the one to begin handshakes with. Sessions stay.
    pub fn set_secrets(&mut self, secrets: Vec<ClusterSecret>) {
        self.handshakes.set_secrets(secrets);
    }

    /// Contacts `address` until it answers, now and for ever. An address that is known already is tried at once.
    pub fn add_seed(&mut self, address: SocketAddr, now: Instant) {
        let address = canonical(address);
        let seed = self.seeds.entry(address).or_insert_with(|| Seed::new(address, now));
        if !seed.dial.trying {
            seed.dial.reset(now);
        }
        self.next_tick = now;
    }

    /// No longer contacts `address`. A peer that answered there stays.
    pub fn remove_seed(&mut self, address: SocketAddr) {
        self.seeds.remove(&canonical(address));
    }

    /// Announces that this host is on a network, or that its MTU changed.
    pub fn join_network(&mut self, network: LocalNetwork) {
        self.exchange.join_network(network.id);
        self.networks.insert(network.id, network);
        self.dirty = true;
        self.flush_exchange();
    }

    /// Withdraws from a network. Its endpoints must have been removed before.
    pub fn leave_network(&mut self, network: NetworkId) {
        if self.networks.remove(&network).is_some() {
            self.exchange.leave_network(network);
            self.dirty = true;
            self.flush_exchange();
        }
    }

    /// Announces an endpoint of this host, or its change.
    pub fn set_endpoint(&mut self, endpoint: EndpointRecord) {
        self.exchange.set_endpoint(endpoint.clone());
        self.endpoints.insert(endpoint.id.clone(), endpoint);
        self.dirty = true;
        self.flush_exchange();
    }

    /// Withdraws an endpoint; unknown ones are no error.
    pub fn remove_endpoint(&mut self, id: &EndpointId) {
        if self.endpoints.remove(id).is_some() {
            self.exchange.remove_endpoint(id);
            self.dirty = true;
            self.flush_exchange();
        }
    }

    /// Takes in a datagram of a handshake. Bad ones are dropped and counted by the caller's statistics of the router.
    pub fn handle_handshake(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> bool {
        let accepted = self.handshakes.handle_datagram(canonical(from), datagram, now, rng).is_ok();
        self.drain_handshakes(now);
        accepted
    }

    /// Takes in an opened control message. Returns whether it was one.
    pub fn handle_control(&mut self, session: u32, bytes: &[u8], now: Instant) -> bool {
        self.handle_first_datagram(session, now);
        let Some(peer) = self.sessions.get(&session).map(|s| s.peer) else { return false };
        let Ok(received) = self.exchange.handle_message(peer, bytes) else { return false };
        self.dirty |= received.changed;
        for hint in received.hints {
            self.hear_of(hint, now);
        }
        self.flush_exchange();
        true
    }

    /// The first sealed datagram on a session was opened: the peer has its keys, so it can be sent on.
    pub fn handle_first_datagram(&mut self, number: u32, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if session.confirmed {
            return;
        }
        session.confirmed = true;
        if let Some(tag) = session.tag {
            self.purposes.remove(&tag);
        }
        self.handshakes.confirmed(number);
        self.use_session(number, now);
    }

    /// An authentic datagram with the newest counter of its session came from another address than before.
    pub fn handle_roamed(&mut self, number: u32, from: SocketAddr) {
        let from = canonical(from);
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if session.remote == from {
            return;
        }
        session.remote = from;
        self.dirty = true;
        if let Some(peer) = self.peers.get_mut(&session.peer).filter(|p| p.current == Some(number)) {
            peer.dial.address = from;
            let moved = KnownPeer { id: peer.id, name: peer.name.clone(), address: from };
            self.events.push_back(Event::PeerMoved(moved));
        }
    }

    fn hear_of(&mut self, hint: PeerHint, now: Instant) {
        let known = self.peers.contains_key(&hint.id);
        if hint.id == self.id
            || known
            || self.peers.len() >= MAX_PEERS
            || hint.name.len() > crate::hello::MAX_NAME_LEN
        {
            return;
        }
        self.peers.insert(hint.id, Peer::new(hint.id, hint.name, canonical(hint.address), now));
        self.next_tick = now;
    }

    fn drain_handshakes(&mut self, now: Instant) {
        while let Some(event) = self.handshakes.poll_event() {
            match event {
                HandshakeEvent::Established(established) => self.handle_established(established, now),
                HandshakeEvent::Reconfirm { session } => {
                    if let Some(peer) = self.sessions.get(&session).map(|s| s.peer) {
                        self.exchange.announce_to(peer);
                        self.flush_exchange();
                    }
                }
                HandshakeEvent::Failed { tag, session, reason, .. } => {
                    session.into_iter().for_each(|number| self.drop_session(number));
                    self.handle_failed(tag, reason, now);
                }
                _ => {}
            }
        }
        while let Some((to, datagram)) = self.handshakes.poll_transmit() {
            self.outbox.push_back(Transmit { to, datagram });
        }
    }

    fn handle_established(&mut self, established: Established, now: Instant) {
        let Established { role, tag, peer: id, hello, remote, session: number, send, recv, .. } = established;
        let Some(Hello { name }) = Hello::from_bytes(&hello) else {
            self.handshakes.release(number);
            return;
        };
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&id) {
            self.handshakes.release(number);
            return;
        }
        let remote = canonical(remote);
        // The attempt has ended but for its confirmation; what it was for is needed again only if that fails.
        if let Some(Purpose::Seed(address)) = tag.and_then(|t| self.purposes.get(&t))
            && let Some(seed) = self.seeds.get_mut(address)
        {
            seed.peer = Some(id);
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, name.clone(), remote, now));
        peer.proven = true;
        let renamed = peer.name != name;
        peer.name = name;
        if renamed && peer.alive {
            let known = KnownPeer { id, name: peer.name.clone(), address: remote };
            self.events.push_back(Event::PeerMoved(known));
        }
        let confirmed = role == Role::Responder;
        let activity = Arc::new(SessionActivity::default());
        activity.tell_once.store(!confirmed, Ordering::Relaxed);
        let n_heard = 0;
        let session = Session {
            number,
            peer: id,
            role,
            tag,
            born: now,
            remote,
            confirmed,
            send,
            recv,
            activity,
            n_heard,
        };
        self.sessions.insert(number, session);
        self.dirty = true;
        if confirmed {
            self.use_session(number, now);
        }
    }

    /// Sends on session `number` from now on, unless its peer has a younger one.
    fn use_session(&mut self, number: u32, now: Instant) {
        let Some(session) = self.sessions.get(&number) else { return };
        let (id, born, remote) = (session.peer, session.born, session.remote);
        let newest = self.sessions.values().filter(|s| s.peer == id && s.confirmed).map(|s| s.born).max();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if newest.is_some_and(|newest| newest > born) {
            return;
        }
        peer.current = Some(number);
        peer.last_heard = Some(now);
        peer.dial.reset(now);
        peer.dial.address = remote;
        peer.next_announce = now + ANNOUNCE_INTERVAL;
        self.dirty = true;
        if peer.alive {
            self.exchange.announce_to(id);
        } else {
            peer.alive = true;
            let known = KnownPeer { id, name: peer.name.clone(), address: remote };
            let others: Vec<PeerId> =
                self.peers.values().filter(|p| p.alive && p.id != id).map(|p| p.id).collect();
            let hints = others.iter().filter_map(|o| self.hint(*o)).collect();
            self.exchange.connect(id, hints);
            for other in others {
                self.exchange.tell(other, self.hint(id).into_iter().collect());
            }
            self.events.push_back(Event::PeerUp(known));
        }
        self.flush_exchange();
    }

    fn hint(&self, id: PeerId) -> Option<PeerHint> {
        let peer = self.peers.get(&id)?;
        Some(PeerHint { id, name: peer.name.clone(), address: peer.dial.address })
    }

    fn handle_failed(&mut self, tag: u64, reason: FailReason, now: Instant) {
        match self.purposes.remove(&tag) {
            Some(Purpose::Seed(address)) => {
                if let Some(seed) = self.seeds.get_mut(&address) {
                    seed.itself = reason == FailReason::Itself;
                    seed.dial.failed(now);
                    if seed.itself {
                        // Someone on the path can forge this, so it is no reason to give up.
                        seed.dial.next = now + OWN_ADDRESS_RETRY;
                    }
                }
            }
            Some(Purpose::Peer(id)) => {
                // A peer may have called us while our call to it failed.
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.dial.failed(now);
                }
            }
            None => {}
        }
        self.next_tick = self.next_tick.min(now + TICK);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        self.handshakes.handle_timeout(now, rng);
        self.drain_handshakes(now);
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.watch_sessions(now);
        self.announce(now);
        self.dial(now, rng);
        self.flush_exchange();
    }

    fn watch_sessions(&mut self, now: Instant) {
        for session in self.sessions.values_mut() {
            if session.take_heard()
                && let Some(peer) = self.peers.get_mut(&session.peer)
            {
                peer.last_heard = Some(now);
            }
        }
        let expired: Vec<u32> =
            self.sessions.values().filter(|s| now >= s.born + REJECT_AFTER).map(|s| s.number).collect();
        for number in expired {
            self.drop_session(number);
        }
        for peer in self.peers.values_mut().filter(|p| p.alive) {
            if peer.last_heard.is_none_or(|heard| now >= heard + DEAD_AFTER) {
                peer.alive = false;
                peer.dial.reset(now);
                self.exchange.disconnect(peer.id);
                self.events.push_back(Event::PeerDown { id: peer.id, name: peer.name.clone() });
                self.dirty = true;
            }
        }
        let forgotten: Vec<PeerId> = self
            .peers
            .values()
            .filter(|p| !p.proven && now >= p.since + HEARSAY_HOLD)
            .map(|p| p.id)
            .collect();
        for id in forgotten {
            self.peers.remove(&id);
            self.exchange.forget(id);
        }
        // FDB entries of a peer that is down lapse with time alone.
        self.dirty |= self.peers.values_mut().any(|p| p.take_lapsed(now));
    }

    fn drop_session(&mut self, number: u32) {
        let Some(session) = self.sessions.remove(&number) else { return };
        self.handshakes.release(number);
        self.dirty = true;
        if let Some(peer) = self.peers.get_mut(&session.peer).filter(|p| p.current == Some(number)) {
            peer.current = None;
        }
    }

    fn announce(&mut self, now: Instant) {
        for peer in
            self.peers.values_mut().filter(|p| p.alive && p.current.is_some() && now >= p.next_announce)
        {
            peer.next_announce = now + ANNOUNCE_INTERVAL;
            self.exchange.announce_to(peer.id);
        }
    }

    fn dial(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        let mut due: Vec<(Purpose, SocketAddr)> = Vec::new();
        let suite = self.handshakes.suite();
        for peer in self.peers.values_mut() {
            let session = peer.current.and_then(|n| self.sessions.get(&n));
            let wanted = !peer.alive || session.is_none_or(|s| needs_rekey(s, suite, now));
            if wanted && !peer.dial.trying && now >= peer.dial.next {
                peer.dial.trying = true;
                due.push((Purpose::Peer(peer.id), peer.dial.address));
            }
        }
        for (address, seed) in &mut self.seeds {
            let peer = seed.peer.and_then(|id| self.peers.get(&id));
            // A known peer is dialled as such; its seed only when the peer was last reached elsewhere.
            let covered = peer.is_some_and(|p| p.alive || p.dial.address == *address)
                || self.peers.values().any(|p| p.alive && p.dial.address == *address);
            if !covered && !seed.dial.trying && now >= seed.dial.next {
                seed.dial.trying = true;
                due.push((Purpose::Seed(*address), *address));
            }
        }
        for (purpose, address) in due {
            let tag = self.next_tag;
            self.next_tag += 1;
            self.purposes.insert(tag, purpose);
            self.handshakes.initiate(address, tag, now, rng);
        }
        self.drain_handshakes(now);
    }

    /// Seals what the exchange wants to say and puts it into the outbox. What is for peers without a session is
    /// dropped: they are told all at the start of their next one.
    fn flush_exchange(&mut self) {
        while let Some((peer, message)) = self.exchange.poll_transmit() {
            let current = self.peers.get(&peer).and_then(|p| p.current);
            let Some(session) = current.and_then(|n| self.sessions.get(&n)) else { continue };
            let Ok(counter) = session.send.reserve(Lane::CONTROL, 1) else { continue };
            let mut datagram = vec![0; HEADER_LEN];
            let inner = InnerHeader { kind: InnerKind::Control, ttl: 0, network: NetworkId::from_u48(0) };
            datagram.reserve_exact(INNER_HEADER_LEN + message.len() + TAG_LEN);
            datagram.extend(inner.to_bytes());
            datagram.extend(message);
            datagram.extend([0; TAG_LEN]);
            session.send.seal(Lane::CONTROL, counter, &mut datagram);
            self.outbox.push_back(Transmit { to: session.remote, datagram });
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Node::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> (Instant, &'static str) {
        match self.handshakes.poll_timeout() {
            Some((at, why)) if at < self.next_tick => (at, why),
            _ => (self.next_tick, "node tick"),
        }
    }

    /// The forwarding snapshot, if it changed since the last call.
    pub fn take_snapshot(&mut self, now: Instant) -> Option<Arc<Snapshot>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let (snapshot, duplicates) = crate::snapshot::build(self, now);
        for event in &duplicates {
            if !self.duplicates.contains(event) {
                self.events.push_back(event.clone());
            }
        }
        self.duplicates = duplicates;
        Some(Arc::new(snapshot))
    }
}

fn needs_rekey(session: &Session, suite: Suite, now: Instant) -> bool {
    let due = match session.role {
        Role::Initiator => REKEY_AFTER,
        Role::Responder => REKEY_AFTER + RESPONDER_REKEY_GRACE,
    };
    now >= session.born + due || session.send.n_sealed() >= suite.rekey_after_datagrams()
}

/// An IPv4 address in IPv6 clothes and the same address plain are one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
