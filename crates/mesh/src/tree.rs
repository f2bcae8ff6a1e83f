//! A digest of many owners' states that shows in three steps who differs: root, buckets, leaves.

use std::collections::BTreeMap;

use blake2::digest::consts::U16;
use blake2::{Blake2s, Digest};
use weft_wire::PeerId;

/// Buckets of a tree: an owner's is given by the first six bits of its id.
pub(crate) const N_BUCKETS: usize = 64;

/// The bucket of `owner`.
pub(crate) const fn bucket_of(owner: PeerId) -> usize {
    (owner.0[0] >> 2) as usize
}

/// The first 128 bits of BLAKE2s over `parts`, each of a length that the context fixes.
pub(crate) fn hash128(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Blake2s::<U16>::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// The first 64 bits of [`hash128`].
pub(crate) fn hash64(parts: &[&[u8]]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash128(parts);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Leaves of owners, folded into buckets and a root. Equal leaves give equal roots; the reverse holds but for chance.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    buckets: [u64; N_BUCKETS],
    leaves: BTreeMap<PeerId, u64>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { buckets: [0; N_BUCKETS], leaves: BTreeMap::new() }
    }
}

impl Tree {
    /// Sets or removes the leaf of `owner`. Whether that changed anything.
    pub(crate) fn set(&mut self, owner: PeerId, leaf: Option<u64>) -> bool {
        let old = match leaf {
            Some(leaf) => self.leaves.insert(owner, leaf),
            None => self.leaves.remove(&owner),
        };
        if old == leaf {
            return false;
        }
        self.buckets[bucket_of(owner)] ^= old.unwrap_or(0) ^ leaf.unwrap_or(0);
        true
    }

    pub(crate) fn contains(&self, owner: &PeerId) -> bool {
        self.leaves.contains_key(owner)
    }

    pub(crate) fn len(&self) -> usize {
        self.leaves.len()
    }

    pub(crate) fn root(&self) -> u64 {
        self.buckets.iter().fold(0x9e37_79b9_7f4a_7c15, |root, bucket| {
            (root ^ bucket).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
        })
    }

    /// Half of each bucket's hash: enough to see a difference.
    pub(crate) fn bucket_hashes(&self) -> Vec<u32> {
        self.buckets.iter().map(|bucket| (bucket >> 32) as u32 ^ *bucket as u32).collect()
    }

    /// One bit for each bucket that differs from `theirs`; a short or long list differs everywhere.
    pub(crate) fn differing(&self, theirs: &[u32]) -> u64 {
        if theirs.len() != N_BUCKETS {
            return u64::MAX;
        }
        let differs = self.bucket_hashes().into_iter().zip(theirs).map(|(a, b)| a != *b);
        differs.enumerate().fold(0, |mask, (bucket, differs)| mask | u64::from(differs) << bucket)
    }

    /// Owners in one bucket, in order.
    pub(crate) fn owners(&self, bucket: usize) -> impl Iterator<Item = PeerId> + '_ {
        let mut low = [0; 16];
        let mut high = [0xff; 16];
        low[0] = (bucket << 2) as u8;
        high[0] = low[0] | 3;
        self.leaves.range(PeerId(low)..=PeerId(high)).map(|(owner, _)| *owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_of_changes_does_not_matter(
            sets in proptest::collection::vec((any::<[u8; 16]>(), any::<u64>()), 0..40), seed: u64,
        ) {
            let mut a = Tree::default();
            let last: BTreeMap<_, _> = sets.iter().copied().collect();
            for (owner, leaf) in &sets {
                a.set(PeerId(*owner), Some(*leaf));
            }
            let mut b = Tree::default();
            b.set(PeerId(seed.to_be_bytes().repeat(2).try_into().unwrap()), Some(seed));
            for (owner, leaf) in last.iter().rev() {
                b.set(PeerId(*owner), Some(*leaf));
            }
            let extra = PeerId(seed.to_be_bytes().repeat(2).try_into().unwrap());
            if !last.contains_key(&extra.0) {
                prop_assert_eq!(a.differing(&b.bucket_hashes()) & !(1 << bucket_of(extra)), 0);
                b.set(extra, None);
            }
            prop_assert_eq!(a.root(), b.root());
            prop_assert_eq!(a.differing(&b.bucket_hashes()), 0);
            prop_assert_eq!((0..N_BUCKETS).map(|i| a.owners(i).count()).sum::<usize>(), a.len());
        }
    }
}
