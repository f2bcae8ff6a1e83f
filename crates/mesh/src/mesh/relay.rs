//! Who forwards for two peers that cannot reach each other.

use weft_wire::PeerId;

use super::Mesh;
use crate::record::{Entry, Key, MAX_UNREACHABLE, Scope};
use crate::tree::hash64;

impl Mesh {
    /// The first of [`relays_for`](Self::relays_for): both ends choose the same one, and keep to it while it can serve.
    #[must_use]
    pub fn relay_for(&self, target: PeerId) -> Option<PeerId> {
        self.relays_for(target).first().copied()
    }

    /// The living peers that both this one and `target` reach directly, as far as is known; none when `target` is down or
    /// this peer itself. They forward to `target` directly, so a frame passes one relay.
    ///
    /// Both ends have them in one order: by a hash over the three ids, so that pairs of peers spread over the relays.
    #[must_use]
    pub fn relays_for(&self, target: PeerId) -> Vec<PeerId> {
        if target == self.me || !self.is_up(target) {
            return Vec::new();
        }
        let (low, high) = if self.me < target { (self.me, target) } else { (target, self.me) };
        let serves = |relay: &PeerId| {
            *relay != target && !self.is_cut(self.me, *relay) && !self.is_cut(*relay, target)
        };
        let weight = |relay: &PeerId| (hash64(&[b"weft relay v1", &low.0, &high.0, &relay.0]), *relay);
        let mut relays: Vec<PeerId> = self.alive.iter().copied().filter(serves).collect();
        relays.sort_by_cached_key(|relay| std::cmp::Reverse(weight(relay)));
        relays
    }

    /// Whether one of the two said that it cannot reach the other.
    #[must_use]
    pub fn is_cut(&self, a: PeerId, b: PeerId) -> bool {
        let says = |a: PeerId, b: PeerId| {
            if a == self.me {
                self.unreachable.contains(&b)
            } else {
                self.unreachable_of.get(&a).is_some_and(|peers| peers.contains(&b))
            }
        };
        says(a, b) || says(b, a)
    }

    pub(super) fn publish_unreachable(&mut self) {
        let peers: Vec<PeerId> = self.unreachable.iter().copied().collect();
        let parts = peers.chunks(MAX_UNREACHABLE);
        let n_parts = u8::try_from(parts.len()).unwrap_or(u8::MAX);
        for (part, peers) in (0..n_parts).zip(parts) {
            self.own.put(Scope::Global, Entry::Unreachable(part, peers.to_vec()));
        }
        let stale = |part: &u8| self.own.delete(Scope::Global, &Key::Unreachable(*part));
        let _ = (n_parts..=u8::MAX).take_while(stale).count();
    }

    pub(super) fn refresh_unreachable(&mut self, owner: PeerId) {
        let entries = self.store.entries(owner, Scope::Global);
        let peers: std::collections::BTreeSet<PeerId> = entries
            .filter_map(|entry| match entry {
                Entry::Unreachable(_, peers) => Some(peers),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        if peers.is_empty() {
            self.unreachable_of.remove(&owner);
        } else {
            self.unreachable_of.insert(owner, peers);
        }
    }
}
