//! The state machine: what is held, what may be asked of it, and when it wants to be woken.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use weft_wire::{NetworkId, PeerId};

use crate::checks::Checks;
use crate::config::{MeshConfig, Timers};
use crate::directory::Directory;
use crate::event::{Counters, Event, Target};
use crate::own::Own;
use crate::record::{
    Body, Endpoint, EndpointTag, Entry, Key, KvKey, MAX_ADDRESSES, MAX_NAME_LEN, Membership, PeerInfo, Scope,
};
use crate::store::Store;
use crate::swim::Swim;
use crate::swim_id::SwimId;
use crate::tree::Tree;

mod compare;
mod contact;
mod fetch;
mod members;
mod outbox;
mod query;
mod receive;
mod records;
mod relay;
mod spread;
#[cfg(test)]
mod tests;

pub use query::PeerView;

use contact::Seed;
use fetch::Needs;
use outbox::Outbox;
use spread::Pushes;

/// An entry that is over a limit of its kind. Nothing was changed; the caller's input makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A name, key, value or list of addresses is too long, or an Ethernet address is a group's.
    #[error("entry is over a limit")]
    Limit,
    /// This peer is not in the network.
    #[error("not a member of the network")]
    NotMember,
}

/// What is known of another peer.
#[derive(Debug)]
struct Peer {
    /// `None` for one that only the configuration speaks of.
    id: Option<SwimId>,
    up: bool,
    /// Since when it is up or down.
    since: Instant,
    /// From the configuration.
    hints: Vec<SocketAddr>,
    /// Its records are dropped, since it is down for long.
    purged: bool,
    /// When its records are dropped, or it is forgotten.
    purge_at: Option<Instant>,
    /// Hash of what it last said of itself.
    info: u64,
    /// When it was last told that someone holds it for down.
    told: Option<Instant>,
    /// The last few starts seen, with the name used, newest last.
    boots: Vec<(u64, String)>,
}

/// One peer's part in the mesh. See the [crate's](crate) documentation.
///
/// After each call that changes something the caller takes what [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event) give, until `None`, and asks [`poll_timeout`](Self::poll_timeout) anew. What was
/// set locally is signed and sent in one go when one of these is called, so set all that belongs together first.
#[derive(Debug)]
pub struct Mesh {
    me: PeerId,
    now: Instant,
    rng: SmallRng,
    timers: Timers,

    own: Own,
    info: PeerInfo,
    joined: BTreeMap<NetworkId, Membership>,
    unreachable: BTreeSet<PeerId>,
    /// Runs begun because another claimed a later one.
    bumps: Vec<Instant>,
    cloned_at: Option<Instant>,
    renewed_at: Option<Instant>,
    leave_at: Option<Instant>,
    left: bool,

    swim: Swim,
    peers: BTreeMap<PeerId, Peer>,
    alive: Vec<PeerId>,
    down: Vec<PeerId>,
    revoked: BTreeSet<PeerId>,
    members: Tree,
    /// Peers that another side calls down, under which name, and when to believe it.
    disputes: BTreeMap<PeerId, (SwimId, Instant)>,
    purges: BTreeSet<(Instant, PeerId)>,
    /// Owners of records that membership does not know, and until when they have to turn up.
    strangers: BTreeMap<PeerId, Instant>,

    store: Store,
    checks: Checks,
    directory: Directory,
    kv: BTreeMap<(Scope, PeerId), BTreeMap<KvKey, Vec<u8>>>,
    unreachable_of: HashMap<PeerId, BTreeSet<PeerId>>,

    seeds: Vec<Seed>,
    next_contact: Instant,
    next_sync: Instant,
    unsettled_until: Instant,
    synced: BTreeMap<NetworkId, Instant>,
    needs: Needs,
    pushes: Pushes,
    rumor_tokens: f32,
    rumor_at: Instant,
    outbox: Outbox,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Mesh {
    /// Starts a peer. `rng` seeds a generator of the mesh's own; it may be any source that others cannot foresee.
    #[must_use]
    pub fn new(config: MeshConfig, now: Instant, rng: &mut impl Rng) -> Self {
        let MeshConfig { key, incarnation, name, addresses, seeds, known_peers, timers, signature_cache } =
            config;
        let me = key.peer_id();
        let mut rng = SmallRng::from_rng(rng);
        let info =
            PeerInfo { name: cut(name), addresses: shorten(addresses), boot: rng.random(), leaving: false };
        let id = SwimId::new(me, incarnation, &info.addresses);
        let peers = known_peers.into_iter().filter(|known| known.peer != me).map(|known| {
            let purge_at = Some(now + timers.forget_peer);
            let peer = Peer { hints: known.addresses, purge_at, ..Peer::unheard(now) };
            (known.peer, peer)
        });
        let peers: BTreeMap<_, _> = peers.collect();
        let mut mesh = Self {
            me,
            now,
            own: Own::new(key, incarnation),
            info,
            joined: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            bumps: Vec::new(),
            cloned_at: None,
            renewed_at: None,
            leave_at: None,
            left: false,
            swim: Swim::new(id, &timers, SmallRng::from_rng(&mut rng)),
            alive: Vec::new(),
            down: peers.keys().copied().collect(),
            revoked: BTreeSet::new(),
            members: Tree::default(),
            disputes: BTreeMap::new(),
            purges: peers.iter().filter_map(|(who, peer)| Some((peer.purge_at?, *who))).collect(),
            strangers: BTreeMap::new(),
            store: Store::default(),
            checks: Checks::new(signature_cache),
            directory: Directory::default(),
            kv: BTreeMap::new(),
            unreachable_of: HashMap::new(),
            seeds: seeds.into_iter().map(|address| Seed::new(address, now)).collect(),
            next_contact: now,
            next_sync: now + timers.sync_unsettled.mul_f64(rng.random()),
            unsettled_until: now,
            synced: BTreeMap::new(),
            needs: Needs::default(),
            pushes: Pushes::default(),
            rumor_tokens: 0.0,
            rumor_at: now,
            outbox: Outbox::new(now, timers.bulk_rate),
            peers,
            events: VecDeque::new(),
            counters: Counters::default(),
            timers,
            rng,
        };
        mesh.publish_info();
        mesh.refresh_own_leaf();
        mesh
    }

    /// This peer's id.
    #[must_use]
    pub const fn id(&self) -> PeerId {
        self.me
    }

    /// The number of this run; above the configured one when an earlier run was found to have had a higher. To be
    /// kept for the next start.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.own.incarnation()
    }

    /// Enters a network, or changes what is said of this peer's part in it.
    pub fn join_network(&mut self, network: NetworkId, membership: Membership) {
        let first = self.joined.insert(network, membership).is_none();
        self.own.put(Scope::Global, Entry::Member(network, membership));
        self.own.put(Scope::Network(network), Entry::Present);
        if first {
            self.entered(network);
        }
    }

    /// Leaves a network, with every endpoint and record in it. Nothing happens when not in it.
    pub fn leave_network(&mut self, network: NetworkId) {
        if self.joined.remove(&network).is_none() {
            return;
        }
        self.own.delete(Scope::Global, &Key::Member(network));
        self.own.clear_scope(Scope::Network(network));
        self.forget_network(network);
    }

    /// Puts an endpoint of this host, in place of one of the same tag.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn set_local_endpoint(&mut self, network: NetworkId, endpoint: Endpoint) -> Result<(), EntryError> {
        self.put_checked(Scope::Network(network), Entry::Endpoint(endpoint))
    }

    /// Removes an endpoint of this host. Whether there was one.
    pub fn remove_local_endpoint(&mut self, network: NetworkId, tag: EndpointTag) -> bool {
        self.own.delete(Scope::Network(network), &Key::Endpoint(tag))
    }

    /// Puts a record that the mesh carries without knowing what it means.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn put(&mut self, scope: Scope, key: KvKey, value: Vec<u8>) -> Result<(), EntryError> {
        self.put_checked(scope, Entry::Kv(key, value))
    }

    /// Deletes such a record of this peer. Whether there was one.
    pub fn delete(&mut self, scope: Scope, key: &KvKey) -> bool {
        self.own.delete(scope, &Key::Kv(key.clone()))
    }

    fn put_checked(&mut self, scope: Scope, entry: Entry) -> Result<(), EntryError> {
        if matches!(scope, Scope::Network(network) if !self.joined.contains_key(&network)) {
            return Err(EntryError::NotMember);
        }
        Body::Put(entry.clone()).encode(scope).ok_or(EntryError::Limit)?;
        self.own.put(scope, entry);
        Ok(())
    }

    /// Says where other peers reach this one, best first.
    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        self.now = self.now.max(now);
        let addresses = shorten(addresses);
        if addresses == self.info.addresses {
            return;
        }
        self.info.addresses = addresses;
        self.publish_info();
        let id = SwimId::new(self.me, self.own.incarnation(), &self.info.addresses);
        let renewed = SwimId { addresses: id.addresses, ..self.swim.id().renewed() };
        self.go_on_as(renewed);
        self.settle();
    }

    /// Adds an address at which some member may answer.
    pub fn add_seed(&mut self, address: SocketAddr, now: Instant) {
        self.now = self.now.max(now);
        if self.seeds.iter().all(|seed| seed.address != address) {
            self.seeds.push(Seed::new(address, self.now));
        }
    }

    /// No longer tries an address as a seed. A peer that is known from there stays known.
    pub fn remove_seed(&mut self, address: SocketAddr) {
        self.seeds.retain(|seed| seed.address != address);
    }

    /// Says that messages to `peer` do not get there directly. All are told, so that relays can be chosen.
    pub fn peer_unreachable(&mut self, peer: PeerId) {
        if peer != self.me && self.unreachable.insert(peer) {
            self.publish_unreachable();
        }
    }

    /// Says that they do again.
    pub fn peer_reachable(&mut self, peer: PeerId) {
        if self.unreachable.remove(&peer) {
            self.publish_unreachable();
        }
    }

    /// Shuts a peer out, here: its messages and records no longer count, and what it said is gone.
    pub fn revoke(&mut self, peer: PeerId, now: Instant) {
        self.now = self.now.max(now);
        if peer != self.me && self.revoked.insert(peer) {
            self.shut_out(peer);
            self.settle();
        }
    }

    /// The peers that are shut out.
    pub fn revoked(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.revoked.iter().copied()
    }

    /// Takes back [`Self::revoke`]: the peer may come again as a new one.
    pub fn pardon(&mut self, peer: PeerId) {
        self.revoked.remove(&peer);
    }

    /// Forgets a peer that is down, so that it is no longer tried. Whether it was down and known; a living one stays.
    pub fn forget(&mut self, peer: PeerId, now: Instant) -> bool {
        self.now = self.now.max(now);
        let forgotten = self.peers.get(&peer).is_some_and(|known| !known.up);
        if forgotten {
            self.shut_out(peer);
            self.settle();
        }
        forgotten
    }

    /// Begins to stop: tells all, so that nobody waits for this peer. [`Self::has_left`] turns true a moment later;
    /// until then the mesh is to be driven on.
    pub fn leave(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.leave_at.is_some() {
            return;
        }
        self.info.leaving = true;
        self.publish_info();
        self.leave_at = Some(self.now + Duration::from_millis(300));
        self.settle();
    }

    /// Whether [`Self::leave`] is done.
    #[must_use]
    pub const fn has_left(&self) -> bool {
        self.left
    }

    /// What was dropped so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(Target, Vec<u8>)> {
        self.flush();
        self.outbox.pop()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.flush();
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.left {
            return None;
        }
        let deadlines = [
            (self.swim.next_timer(), "membership"),
            (self.seeds.iter().map(|seed| seed.next).min(), "seed"),
            ((!self.down.is_empty()).then_some(self.next_contact), "peer that is down"),
            (Some(self.next_sync), "compare digests"),
            (self.disputes.values().map(|(_, at)| *at).min(), "disputed peer"),
            (self.purges.first().map(|(at, _)| *at), "drop records"),
            (self.directory.next_report(), "duplicate address"),
            (self.pushes.next(), "push again"),
            (self.needs.next(), "records asked for"),
            (self.outbox.next(), "paced messages"),
            (self.leave_at, "leave"),
        ];
        deadlines.into_iter().filter_map(|(at, why)| at.map(|at| (at, why))).min_by_key(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.left {
            return;
        }
        self.swim.handle_timeout(self.now);
        self.drain_swim();
        self.settle_disputes();
        self.purge();
        self.contact_seeds();
        self.contact_down();
        self.compare_when_due();
        self.push_again();
        self.needs.expire(self.now);
        self.directory.report(self.now, &mut self.events);
        if self.leave_at.is_some_and(|at| at <= self.now) {
            self.leave_at = None;
            self.swim.leave();
            self.drain_swim();
            self.left = true;
        }
        self.settle();
    }

    /// Ends every call that may have changed something.
    fn settle(&mut self) {
        self.drain_swim();
        self.flush();
        self.ask_for_needs();
        self.outbox.refill(self.now);
    }

    fn publish_info(&mut self) {
        self.own.put(Scope::Global, Entry::Peer(self.info.clone()));
    }
}

impl Peer {
    const fn unheard(now: Instant) -> Self {
        Self {
            id: None,
            up: false,
            since: now,
            hints: Vec::new(),
            purged: true,
            purge_at: None,
            info: 0,
            told: None,
            boots: Vec::new(),
        }
    }
}

fn cut(mut name: String) -> String {
    let end = (0..=MAX_NAME_LEN.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name.truncate(end.unwrap_or(0));
    name
}

fn shorten(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.truncate(MAX_ADDRESSES);
    addresses
}
