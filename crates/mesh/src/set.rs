//! The records of one owner in one scope and run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::record::{Body, Key, Origin, Record, Runs, live_hash};

/// Most live records of one owner in one scope that others keep.
pub(crate) const MAX_RECORDS: usize = 2048;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insert {
    /// Kept: it says something new.
    New,
    /// Held already.
    Held,
    /// Overtaken by what is held, and not kept.
    Stale,
    /// The owner signed two records of this version. The first is kept.
    Conflict,
    /// The owner has too many.
    Full,
}

/// Records by version.
///
/// The newest record names, by its `live_hash`, the whole set of live records. When the held ones hash to that, the
/// set is *complete*: then a version at or below the newest that is not held was deleted or replaced, and is refused
/// whoever brings it. So a tombstone may go as soon as the set is complete and something newer is held.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) origin: Origin,
    records: BTreeMap<u64, Arc<Record>>,
    keys: HashMap<Key, u64>,
    complete: bool,
}

impl Set {
    pub(crate) fn new(origin: Origin) -> Self {
        Self { origin, records: BTreeMap::new(), keys: HashMap::new(), complete: false }
    }

    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The newest version, 0 when nothing is held.
    pub(crate) fn head(&self) -> u64 {
        self.records.last_key_value().map_or(0, |(version, _)| *version)
    }

    /// Part of the newest record's `live_hash`.
    pub(crate) fn head_hash(&self) -> u32 {
        let hash = self.records.last_key_value().map_or([0; 16], |(_, record)| record.signed.live_hash);
        let [a, b, c, d, ..] = hash;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Whether a record of this version says nothing new, told without checking it.
    pub(crate) fn knows(&self, version: u64) -> bool {
        self.records.contains_key(&version) || (self.complete && version <= self.head())
    }

    /// Whether another record of this version is held.
    pub(crate) fn differs(&self, record: &Record) -> bool {
        self.records.get(&record.signed.version).is_some_and(|held| held.signed != record.signed)
    }

    pub(crate) fn insert(&mut self, record: Arc<Record>) -> Insert {
        let version = record.signed.version;
        if let Some(held) = self.records.get(&version) {
            return if held.signed == record.signed { Insert::Held } else { Insert::Conflict };
        }
        if self.complete && version <= self.head() {
            return Insert::Stale;
        }
        let key = record.body.key();
        match self.keys.get(&key) {
            Some(held) if *held > version => return Insert::Stale,
            Some(held) => {
                self.records.remove(held);
            }
            None if self.records.len() >= MAX_RECORDS => return Insert::Full,
            None => {}
        }
        self.keys.insert(key, version);
        self.records.insert(version, record);
        self.complete = false;
        Insert::New
    }

    /// Sees whether the set is complete, with the help of the sender's list of live versions. Lets go of what the
    /// list proves to be gone.
    pub(crate) fn complete(&mut self, live: Option<&Runs>) -> bool {
        if self.complete {
            return true;
        }
        let Some((head, newest)) = self.records.last_key_value() else { return false };
        let (head, proof) = (*head, newest.signed.live_hash);
        if live_hash(&self.origin, self.live()) != proof {
            let Some(versions) = live.and_then(|live| live.versions(MAX_RECORDS)) else { return false };
            if live_hash(&self.origin, versions.iter().copied()) != proof {
                return false;
            }
            let keys = &mut self.keys;
            self.records.retain(|version, record| {
                let stays = *version == head || !record.is_live() || versions.binary_search(version).is_ok();
                if !stays {
                    keys.remove(&record.body.key());
                }
                stays
            });
            if !versions.iter().all(|version| self.records.contains_key(version)) {
                return false;
            }
        }
        self.complete = true;
        let keys = &mut self.keys;
        self.records.retain(|version, record| {
            let stays = record.is_live() || *version == head;
            if !stays {
                keys.remove(&record.body.key());
            }
            stays
        });
        true
    }

    fn live(&self) -> impl Iterator<Item = u64> + '_ {
        self.records.iter().filter(|(_, record)| record.is_live()).map(|(version, _)| *version)
    }

    /// The list of live versions, when it is known and not too long.
    pub(crate) fn runs(&self) -> Option<Runs> {
        let runs = self.complete.then(|| Runs::of(self.live()))?;
        (runs.len() <= Runs::MAX_RUNS).then_some(runs)
    }

    /// Records of versions above `version`.
    pub(crate) fn since(&self, version: u64) -> Vec<Arc<Record>> {
        let Some(from) = version.checked_add(1) else { return Vec::new() };
        self.records.range(from..).map(|(_, record)| Arc::clone(record)).collect()
    }

    pub(crate) fn bodies(&self) -> impl Iterator<Item = &Body> {
        self.records.values().map(|record| &record.body)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::IdentityKey;
    use crate::record::{Entry, KvKey, Scope, SignedRecord};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// An owner that puts and deletes keys one change at a time; every signed record it ever made.
    fn history(changes: &[(u8, bool)]) -> (Origin, Vec<Arc<Record>>, BTreeMap<KvKey, u64>) {
        let key = IdentityKey::from_seed(&[1; 32]);
        let origin = Origin { key: key.ed25519_public(), incarnation: 1, scope: Scope::Global };
        let mut live: BTreeMap<KvKey, u64> = BTreeMap::new();
        let mut records = Vec::new();
        for (version, (name, put)) in (1u64..).zip(changes) {
            let kv = KvKey(vec![*name]);
            let body = if *put {
                live.insert(kv.clone(), version);
                Body::Put(Entry::Kv(kv, vec![version as u8]))
            } else {
                live.remove(&kv);
                Body::Delete(Key::Kv(kv))
            };
            let versions: BTreeSet<u64> = live.values().copied().collect();
            let hash = live_hash(&origin, versions.into_iter());
            let signed =
                SignedRecord::sign(&key, &origin, version, hash, body.encode(Scope::Global).unwrap());
            records.push(Arc::new(Record { signed, body }));
        }
        (origin, records, live)
    }

    fn held(set: &Set) -> BTreeMap<KvKey, u64> {
        let live = set.records.values().filter_map(|record| match &record.body {
            Body::Put(Entry::Kv(key, _)) => Some((key.clone(), record.signed.version)),
            _ => None,
        });
        live.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_order_ends_in_the_owners_set(
            changes in proptest::collection::vec((0u8..5, any::<bool>()), 1..20),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..60),
        ) {
            let (origin, records, live) = history(&changes);
            let mut set = Set::new(origin);
            let mut head = 0;
            for at in order {
                set.insert(Arc::clone(at.get(&records)));
                set.complete(None);
                prop_assert!(set.head() >= head);
                head = set.head();
                if set.is_complete() {
                    let (_, _, then) = history(&changes[..head as usize]);
                    prop_assert_eq!(held(&set), then);
                }
            }
            let mut owner = Set::new(origin);
            for record in &records {
                prop_assert_eq!(owner.insert(Arc::clone(record)), Insert::New);
                prop_assert!(owner.complete(None));
            }
            for record in owner.since(0) {
                set.insert(record);
            }
            prop_assert!(set.complete(owner.runs().as_ref()));
            prop_assert_eq!(held(&set), live.clone());
            for record in &records {
                prop_assert_ne!(set.insert(Arc::clone(record)), Insert::New);
            }
            prop_assert_eq!(held(&set), live);
        }
    }

    #[test]
    fn tombstones_are_collected_and_the_dead_stay_dead() {
        let (origin, records, live) = history(&[(1, true), (1, false), (2, true)]);
        let mut set = Set::new(origin);
        for record in &records {
            set.insert(Arc::clone(record));
            set.complete(None);
        }
        assert_eq!((set.len(), held(&set)), (1, live));
        assert_eq!(set.insert(Arc::clone(&records[0])), Insert::Stale);
    }

    #[test]
    fn a_list_that_the_owner_did_not_sign_removes_nothing() {
        let (origin, records, _) = history(&[(1, true), (2, true), (3, true)]);
        let mut set = Set::new(origin);
        set.insert(Arc::clone(&records[0]));
        set.insert(Arc::clone(&records[2]));
        assert!(!set.complete(Some(&Runs::of([3].into_iter()))));
        assert_eq!(set.len(), 2);
    }
}
