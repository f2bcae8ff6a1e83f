//! Comparing with another peer what both hold: roots, then buckets, then what is in the buckets that differ.

use std::collections::BTreeSet;
use std::time::Instant;

use foca::Member;
use rand::RngExt;
use weft_wire::{NetworkId, PeerId};

use super::Mesh;
use crate::event::Target;
use crate::message::{Digest, Message, TreeId, network_of};
use crate::record::Scope;
use crate::store::Head;
use crate::swim_id::SwimId;
use crate::tree::{N_BUCKETS, bucket_of};

/// Up to so many leaves are sent at once, without comparing buckets.
const FEW: usize = 20;
/// Room for entries in a message.
const ROOM: usize = crate::MAX_MESSAGE_LEN - 40;
/// Networks in one digest.
const MAX_NETWORKS: usize = 50;
/// Members of networks asked in one round.
const N_FELLOWS: usize = 4;
/// Most that a head takes.
const HEAD_LEN: usize = 16 + 10 + 5 + 5 + 1;

fn member_len(id: &SwimId) -> usize {
    let addresses = id.addresses.iter().map(|address| if address.is_ipv4() { 8 } else { 20 });
    16 + 10 + 5 + 1 + 3 + 1 + addresses.sum::<usize>()
}

impl Mesh {
    /// Roots of what is shared with `peer`: of networks those that were compared longest ago, when they are many.
    pub(super) fn digest_for(&self, peer: PeerId) -> Digest {
        let mut shared: Vec<(Option<Instant>, NetworkId)> = self
            .joined
            .keys()
            .filter(|network| self.directory.is_member(**network, peer))
            .map(|network| (self.synced.get(network).copied(), *network))
            .collect();
        shared.sort_unstable();
        let networks = shared.into_iter().take(MAX_NETWORKS).map(|(_, network)| Scope::Network(network));
        let scopes = std::iter::once(Scope::Global).chain(networks);
        let scopes = scopes.map(|scope| (scope, self.store.root(scope))).collect();
        Digest { members: Some(self.members.root()), scopes }
    }

    /// Compares with a random member, and with members of the networks whose turn it is.
    pub(super) fn compare_when_due(&mut self) {
        if self.next_sync > self.now {
            return;
        }
        let unsettled = self.now < self.unsettled_until;
        let pause = if unsettled { self.timers.sync_unsettled } else { self.timers.sync };
        self.next_sync = self.now + pause.mul_f64(self.rng.random_range(0.75..1.25));
        if self.alive.is_empty() {
            return;
        }
        if let Some(partner) = self.alive.get(self.rng.random_range(0..self.alive.len())).copied() {
            self.compare_with(partner);
        }
        let overdue = self.now.checked_sub(pause);
        let mut turn: Vec<(Option<Instant>, NetworkId)> =
            self.joined.keys().map(|network| (self.synced.get(network).copied(), *network)).collect();
        turn.retain(|(at, _)| at.is_none_or(|at| overdue.is_some_and(|overdue| at <= overdue)));
        turn.sort_unstable();
        for (_, network) in turn.into_iter().take(N_FELLOWS) {
            // One met on behalf of another network may have been asked about this one.
            if self.synced.get(&network) != Some(&self.now)
                && let Some(fellow) = self.random_fellow(network)
            {
                self.compare_networks(fellow);
            }
        }
    }

    fn random_fellow(&mut self, network: NetworkId) -> Option<PeerId> {
        let fellows: Vec<PeerId> = self.fellows(network).collect();
        (!fellows.is_empty()).then(|| fellows.get(self.rng.random_range(0..fellows.len())).copied())?
    }

    /// Living members of a network but this one.
    pub(super) fn fellows(&self, network: NetworkId) -> impl Iterator<Item = PeerId> {
        let members = self.directory.members(network).map(|(peer, _)| peer);
        members.filter(|peer| *peer != self.me && self.is_up(*peer))
    }

    /// Compares everything.
    fn compare_with(&mut self, partner: PeerId) {
        let digest = self.digest_for(partner);
        self.send_digest(partner, digest);
    }

    /// Compares the networks that both are in.
    pub(super) fn compare_networks(&mut self, fellow: PeerId) {
        let Digest { mut scopes, .. } = self.digest_for(fellow);
        scopes.retain(|(scope, _)| *scope != Scope::Global);
        self.send_digest(fellow, Digest { members: None, scopes });
    }

    fn send_digest(&mut self, partner: PeerId, digest: Digest) {
        for network in digest.scopes.iter().filter_map(|(scope, _)| network_of(*scope)) {
            self.synced.insert(network, self.now);
        }
        self.send(Target::Peer(partner), &Message::Digest(digest));
    }

    /// Whether `peer` may see records of `scope` that this peer holds.
    pub(super) fn shares(&self, scope: Scope, peer: PeerId) -> bool {
        network_of(scope).is_none_or(|network| {
            self.joined.contains_key(&network) && self.directory.is_member(network, peer)
        })
    }

    pub(super) fn compare_digest(&mut self, from: PeerId, digest: &Digest) {
        if digest.members.is_some_and(|root| root != self.members.root()) {
            self.differs(from, TreeId::Members);
        }
        for (scope, root) in digest.scopes.iter().take(MAX_NETWORKS + 1) {
            if !self.shares(*scope, from) {
                // Perhaps its membership is still on its way here.
                continue;
            }
            if *root != self.store.root(*scope) {
                self.differs(from, TreeId::Records(*scope));
            }
        }
    }

    fn differs(&mut self, from: PeerId, tree: TreeId) {
        self.unsettle();
        let (n_leaves, hashes) = match tree {
            TreeId::Members => (self.members.len(), self.members.bucket_hashes()),
            TreeId::Records(scope) => match self.store.tree(scope) {
                Some(tree) => (tree.len(), tree.bucket_hashes()),
                None => (0, vec![0; N_BUCKETS]),
            },
        };
        if n_leaves <= FEW {
            self.show_buckets(from, tree, u64::MAX);
        } else {
            self.send(Target::Peer(from), &Message::Buckets { tree, hashes });
        }
    }

    pub(super) fn compare_buckets(&mut self, from: PeerId, tree: TreeId, hashes: &[u32]) {
        let mask = match tree {
            TreeId::Members => self.members.differing(hashes),
            TreeId::Records(scope) => {
                if !self.shares(scope, from) {
                    self.counters.n_not_member += 1;
                    return;
                }
                self.store.tree(scope).map_or(u64::MAX, |tree| tree.differing(hashes))
            }
        };
        if mask != 0 {
            self.unsettle();
            self.show_buckets(from, tree, mask);
        }
    }

    /// Sends what is in the buckets of `mask`, and asks for the same.
    fn show_buckets(&mut self, to: PeerId, tree: TreeId, mask: u64) {
        match tree {
            TreeId::Members => {
                let mut down: Vec<PeerId> = self.down.clone();
                down.sort_unstable();
                let of_bucket = |bucket: usize| {
                    let alive = self.members.owners(bucket);
                    let from = down.partition_point(|peer| bucket_of(*peer) < bucket);
                    let down = down.iter().skip(from).take_while(|peer| bucket_of(**peer) == bucket).copied();
                    alive.chain(down).filter_map(|peer| self.member_of(peer)).collect::<Vec<_>>()
                };
                let parts = split(mask, of_bucket, |member| member_len(member.id()));
                for (mask, members) in parts {
                    self.send_bulk(to, &Message::Members { mask, members, reply: true });
                }
            }
            TreeId::Records(scope) => {
                let of_bucket = |bucket: usize| {
                    let owners = self.store.tree(scope).into_iter().flat_map(|tree| tree.owners(bucket));
                    owners.map(|owner| self.store.head(owner, scope)).collect::<Vec<_>>()
                };
                for (mask, heads) in split(mask, of_bucket, |_| HEAD_LEN) {
                    self.send_bulk(to, &Message::Heads { scope, mask, heads, reply: true });
                }
            }
        }
    }

    pub(super) fn compare_members(
        &mut self,
        from: PeerId,
        mask: u64,
        theirs: Vec<Member<SwimId>>,
        reply: bool,
    ) {
        let mut answer = self.weigh_members(from, &theirs);
        if !reply {
            return;
        }
        let named: BTreeSet<PeerId> = theirs.iter().map(|member| member.id().peer).collect();
        for bucket in buckets(mask) {
            let unnamed = self.members.owners(bucket).filter(|peer| !named.contains(peer));
            answer.extend(unnamed.filter_map(|peer| self.member_of(peer)));
        }
        for (_, members) in split(1, |_| answer.clone(), |member| member_len(member.id())) {
            if !members.is_empty() {
                self.send_bulk(from, &Message::Members { mask: 0, members, reply: false });
            }
        }
    }

    pub(super) fn compare_heads(
        &mut self,
        from: PeerId,
        scope: Scope,
        mask: u64,
        theirs: &[Head],
        reply: bool,
    ) {
        if !self.shares(scope, from) {
            self.counters.n_not_member += 1;
            return;
        }
        let mut answer = Vec::new();
        let mut named = BTreeSet::new();
        for head in theirs {
            named.insert(head.owner);
            let mine = self.store.head(head.owner, scope);
            if mine.is_behind(head) {
                self.need(from, scope, head.owner);
            } else if head.is_behind(&mine) && self.counts(head.owner, scope) {
                answer.push(mine);
            }
        }
        if !reply {
            return;
        }
        for bucket in buckets(mask) {
            let owners = self.store.tree(scope).into_iter().flat_map(|tree| tree.owners(bucket));
            let unnamed = owners.filter(|owner| !named.contains(owner));
            answer.extend(unnamed.map(|owner| self.store.head(owner, scope)));
        }
        for (_, heads) in split(1, |_| answer.clone(), |_| HEAD_LEN) {
            if !heads.is_empty() {
                self.send_bulk(from, &Message::Heads { scope, mask: 0, heads, reply: false });
            }
        }
    }

    fn counts(&self, owner: PeerId, scope: Scope) -> bool {
        self.store.tree(scope).is_some_and(|tree| tree.contains(&owner))
    }
}

fn buckets(mask: u64) -> impl Iterator<Item = usize> {
    (0..N_BUCKETS).filter(move |bucket| mask >> bucket & 1 == 1)
}

/// Cuts the items of the buckets in `mask` so that each part fits a message. A part's mask has the buckets that are
/// wholly in it; an absent item means something only there.
fn split<T>(mask: u64, of_bucket: impl Fn(usize) -> Vec<T>, len: impl Fn(&T) -> usize) -> Vec<(u64, Vec<T>)> {
    let mut parts: Vec<(u64, Vec<T>)> = vec![(0, Vec::new())];
    let mut room = ROOM;
    for bucket in buckets(mask) {
        let items = of_bucket(bucket);
        let needed: usize = items.iter().map(&len).sum();
        if needed > room && needed <= ROOM {
            parts.push((0, Vec::new()));
            room = ROOM;
        }
        if needed <= room {
            if let Some((mask, part)) = parts.last_mut() {
                *mask |= 1 << bucket;
                part.extend(items);
            }
            room -= needed;
            continue;
        }
        for item in items {
            let needed = len(&item);
            if needed > room {
                parts.push((0, Vec::new()));
                room = ROOM;
            }
            if let Some((_, part)) = parts.last_mut() {
                part.push(item);
            }
            room = room.saturating_sub(needed);
        }
    }
    parts.retain(|(mask, items)| *mask != 0 || !items.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_fit_and_nothing_is_lost(sizes in proptest::collection::vec(0usize..60, 64), mask: u64) {
            let parts = split(mask, |bucket| vec![bucket; sizes[bucket]], |_| 37);
            let mut n = 0;
            for (whole, items) in &parts {
                prop_assert!(items.len() * 37 <= ROOM);
                for bucket in buckets(*whole) {
                    prop_assert_eq!(items.iter().filter(|item| **item == bucket).count(), sizes[bucket]);
                }
                n += items.len();
            }
            prop_assert_eq!(n, buckets(mask).map(|bucket| sizes[bucket]).sum::<usize>());
        }
    }
}
