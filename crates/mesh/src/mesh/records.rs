//! Records come in, and what they change of networks, endpoints and peers.

use std::collections::BTreeMap;

use weft_wire::{NetworkId, PeerId};

use super::Mesh;
use super::spread::Bundle;
use crate::event::Event;
use crate::message::network_of;
use crate::record::{Endpoint, EndpointTag, Entry, Group, KvKey, Membership, Scope};
use crate::tree::hash64;

/// Owners whose records are held though membership does not know them.
const MAX_STRANGERS: usize = 4096;

impl Mesh {
    /// Takes records in and gives back those that were new. `gap`: what is then missing was lost, not delayed.
    pub(super) fn apply_groups(&mut self, from: PeerId, groups: Vec<Group>, gap: bool) -> Vec<Bundle> {
        let (mut fresh, mut started) = (Vec::new(), Vec::new());
        for group in groups {
            let Some(owner) = self.checks.owner(&group.key) else {
                self.counters.n_refused += group.records.len() as u64;
                continue;
            };
            if self.revoked.contains(&owner) {
                continue;
            }
            if owner == self.me {
                self.saw_own(group);
                continue;
            }
            if network_of(group.scope).is_some_and(|network| !self.joined.contains_key(&network)) {
                self.counters.n_not_member += 1;
                continue;
            }
            if !self.is_of_interest(owner, group.incarnation) {
                self.counters.n_stale += group.records.len() as u64;
                continue;
            }
            let (origin, live) = (group.origin(), group.live.clone());
            let applied = self.store.apply(&mut self.checks, owner, group);
            self.counters.n_refused += applied.n_refused as u64;
            self.counters.n_stale += applied.n_stale as u64;
            self.counters.n_conflicts += u64::from(applied.conflict);
            self.got(from, origin.scope, owner, applied.incomplete, gap);
            if applied.changed {
                match origin.scope {
                    Scope::Global => {
                        self.refresh_global(owner);
                        started.extend(self.signed_by(owner));
                    }
                    Scope::Network(network) => self.refresh_in(owner, network),
                }
            }
            if !applied.new.is_empty() {
                fresh.push((origin, live, applied.new));
            }
        }
        if !started.is_empty() {
            self.swim.apply(started);
            self.drain_swim();
        }
        fresh
    }

    /// Whether records of a run of `owner` are worth holding.
    fn is_of_interest(&mut self, owner: PeerId, incarnation: u64) -> bool {
        if let Some(peer) = self.peers.get(&owner) {
            return !peer.purged || peer.id.as_ref().is_none_or(|id| incarnation > id.incarnation);
        }
        if self.strangers.contains_key(&owner) {
            return true;
        }
        if self.strangers.len() >= MAX_STRANGERS {
            return false;
        }
        let until = self.now + self.timers.keep_records;
        self.strangers.insert(owner, until);
        self.purges.insert((until, owner));
        true
    }

    /// Someone has records under this peer's own key. Those of earlier runs are no surprise.
    fn saw_own(&mut self, group: Group) {
        let origin = group.origin();
        if origin.key != *self.own.public() || origin.incarnation < self.own.incarnation() {
            return;
        }
        for signed in group.records {
            let version = signed.version;
            let Some(record) = self.checks.check(&origin, self.me, signed) else {
                self.counters.n_refused += 1;
                continue;
            };
            let mine = self.store.current(self.me, origin.scope);
            let is_mine = origin.incarnation == self.own.incarnation()
                && mine.is_some_and(|mine| mine.knows(version) && !mine.differs(&record));
            if !is_mine {
                let name = match &record.body {
                    crate::record::Body::Put(Entry::Peer(info)) => Some(info.name.clone()),
                    _ => None,
                };
                self.outrun(origin.incarnation, name);
                return;
            }
        }
    }

    /// Whether the records of `owner` are in force.
    fn has_say(&self, owner: PeerId) -> bool {
        owner == self.me || self.peers.get(&owner).is_some_and(|peer| !peer.purged)
    }

    /// Takes over everything that `owner` says.
    pub(super) fn refresh_all(&mut self, owner: PeerId) {
        self.refresh_global(owner);
        for network in self.joined.keys().copied().collect::<Vec<_>>() {
            self.refresh_in(owner, network);
        }
    }

    fn refresh_global(&mut self, owner: PeerId) {
        let mut memberships: BTreeMap<NetworkId, Membership> = BTreeMap::new();
        let mut info = 0;
        if self.has_say(owner) {
            for entry in self.store.entries(owner, Scope::Global) {
                match entry {
                    Entry::Member(network, membership) => {
                        memberships.insert(*network, *membership);
                    }
                    Entry::Peer(said) => {
                        info = hash64(&[&postcard::to_allocvec(said).unwrap_or_default()]);
                    }
                    _ => {}
                }
            }
        }
        let before: Vec<NetworkId> = self.directory.networks_of(owner).collect();
        self.directory.set_memberships(owner, &memberships, &mut self.events);
        for network in self.joined.keys().copied().collect::<Vec<_>>() {
            let (was, is) = (before.contains(&network), memberships.contains_key(&network));
            if was != is {
                self.refresh_in(owner, network);
                if is && owner != self.me {
                    self.greet(network, owner);
                }
            }
        }
        self.drop_left_scopes(owner, &memberships);
        self.refresh_unreachable(owner);
        self.refresh_kv(owner, Scope::Global);
        if let Some(peer) = self.peers.get_mut(&owner)
            && info != 0
            && peer.info != info
        {
            peer.info = info;
            self.events.push_back(Event::PeerChanged { peer: owner });
            self.saw_boot(owner);
        }
    }

    /// Drops what `owner` said in networks that it is no longer in.
    fn drop_left_scopes(&mut self, owner: PeerId, memberships: &BTreeMap<NetworkId, Membership>) {
        let head = self.store.head(owner, Scope::Global);
        if owner == self.me || !head.complete || !self.has_say(owner) {
            return;
        }
        let left =
            |scope: &Scope| network_of(*scope).is_some_and(|network| !memberships.contains_key(&network));
        let scopes: Vec<Scope> = self.store.scopes(owner).filter(left).collect();
        for scope in scopes {
            self.store.drop_scope(owner, scope);
        }
    }

    fn refresh_in(&mut self, owner: PeerId, network: NetworkId) {
        let scope = Scope::Network(network);
        let in_force = self.joined.contains_key(&network)
            && self.has_say(owner)
            && self.directory.is_member(network, owner);
        let mut endpoints: BTreeMap<EndpointTag, &Endpoint> = BTreeMap::new();
        if in_force {
            endpoints.extend(self.store.entries(owner, scope).filter_map(|entry| match entry {
                Entry::Endpoint(endpoint) => Some((endpoint.tag, endpoint)),
                _ => None,
            }));
        }
        let report_at = self.now + self.timers.duplicate_grace;
        self.directory.set_endpoints(network, owner, &endpoints, report_at, &mut self.events);
        self.refresh_kv(owner, scope);
    }

    fn refresh_kv(&mut self, owner: PeerId, scope: Scope) {
        let in_force = self.has_say(owner)
            && network_of(scope).is_none_or(|network| {
                self.joined.contains_key(&network) && self.directory.is_member(network, owner)
            });
        let mut new: BTreeMap<KvKey, Vec<u8>> = BTreeMap::new();
        if in_force {
            new.extend(self.store.entries(owner, scope).filter_map(|entry| match entry {
                Entry::Kv(key, value) => Some((key.clone(), value.clone())),
                _ => None,
            }));
        }
        let old = if new.is_empty() {
            self.kv.remove(&(scope, owner))
        } else {
            self.kv.insert((scope, owner), new.clone())
        };
        let old = old.unwrap_or_default();
        let gone = old.keys().filter(|key| !new.contains_key(*key));
        let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(*value)).map(|(key, _)| key);
        let events = gone.chain(changed);
        self.events.extend(events.map(|key| Event::RecordChanged { peer: owner, scope, key: key.clone() }));
    }

    /// This peer left a network: it may hold nothing of it.
    pub(super) fn forget_network(&mut self, network: NetworkId) {
        let scope = Scope::Network(network);
        let owners: Vec<PeerId> = self.store.owners().collect();
        self.store.drop_everyones(scope);
        self.needs.forget_scope(scope);
        self.synced.remove(&network);
        for owner in owners {
            self.refresh_in(owner, network);
        }
    }
}
