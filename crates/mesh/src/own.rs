//! What this peer says: changed at will, signed when it is about to be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::keys::IdentityKey;
use crate::record::{Body, Entry, Key, Origin, Record, Runs, Scope, SignedRecord, live_hash};
use crate::set::Set;

/// Entries of one scope with the version each was last signed under; 0 when that is still to be done.
#[derive(Debug, Default)]
struct OwnScope {
    entries: BTreeMap<Key, (u64, Entry)>,
    /// Changed or deleted since the last signing.
    dirty: BTreeSet<Key>,
    records: BTreeMap<u64, Arc<Record>>,
    version: u64,
}

/// What a signing produced.
#[derive(Debug)]
pub(crate) struct Flushed {
    pub(crate) origin: Origin,
    pub(crate) live: Option<Runs>,
    /// The records that are new.
    pub(crate) records: Vec<Arc<Record>>,
    /// Everything in force.
    pub(crate) set: Set,
}

/// This peer's own entries and their signing.
#[derive(Debug)]
pub(crate) struct Own {
    key: IdentityKey,
    public: [u8; 32],
    incarnation: u64,
    scopes: BTreeMap<Scope, OwnScope>,
    /// Whether any scope has something to sign.
    dirty: bool,
}

impl Own {
    pub(crate) fn new(key: IdentityKey, incarnation: u64) -> Self {
        let public = key.ed25519_public();
        Self { key, public, incarnation, scopes: BTreeMap::new(), dirty: false }
    }

    pub(crate) const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Puts an entry. Whether it differs from what is there.
    pub(crate) fn put(&mut self, scope: Scope, entry: Entry) -> bool {
        let own = self.scopes.entry(scope).or_default();
        let key = entry.key();
        if own.entries.get(&key).is_some_and(|(_, held)| *held == entry) {
            return false;
        }
        let version = own.entries.get(&key).map_or(0, |(version, _)| *version);
        own.entries.insert(key.clone(), (version, entry));
        own.dirty.insert(key);
        self.dirty = true;
        true
    }

    /// Deletes an entry. Whether there was one.
    pub(crate) fn delete(&mut self, scope: Scope, key: &Key) -> bool {
        let Some(own) = self.scopes.get_mut(&scope) else { return false };
        if own.entries.remove(key).is_none() {
            return false;
        }
        own.dirty.insert(key.clone());
        self.dirty = true;
        true
    }

    /// Drops every entry of a scope without a word: its head in another scope tells that it is gone. Versions go on
    /// counting, so that entries put later are not taken for old ones.
    pub(crate) fn clear_scope(&mut self, scope: Scope) {
        if let Some(own) = self.scopes.get_mut(&scope) {
            *own = OwnScope { version: own.version, ..OwnScope::default() };
        }
    }

    #[cfg(test)]
    pub(crate) fn entries(&self, scope: Scope) -> impl Iterator<Item = &Entry> {
        self.scopes.get(&scope).into_iter().flat_map(|own| own.entries.values().map(|(_, entry)| entry))
    }

    pub(crate) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Starts a new run: everything is signed anew under it.
    pub(crate) fn set_incarnation(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        self.dirty = true;
        for own in self.scopes.values_mut() {
            own.dirty = own.entries.keys().cloned().collect();
            own.records.clear();
            own.version = 0;
        }
    }

    /// Signs what changed.
    pub(crate) fn flush(&mut self) -> Vec<Flushed> {
        self.dirty = false;
        let (key, public, incarnation) = (&self.key, self.public, self.incarnation);
        let dirty = self.scopes.iter_mut().filter(|(_, own)| !own.dirty.is_empty());
        dirty.map(|(scope, own)| own.flush(key, Origin { key: public, incarnation, scope: *scope })).collect()
    }
}

impl OwnScope {
    fn flush(&mut self, key: &IdentityKey, origin: Origin) -> Flushed {
        let mut changed: Vec<Key> = std::mem::take(&mut self.dirty).into_iter().collect();
        let scattered = Runs::of(self.live_versions().into_iter()).len() + changed.len() > Runs::MAX_RUNS;
        if scattered {
            // Under consecutive versions the list of what is live is short again.
            let deleted = changed.iter().filter(|key| !self.entries.contains_key(key)).cloned();
            changed = deleted.chain(self.entries.keys().cloned()).collect();
        }
        // Deletions first, so that what is live stays consecutive.
        changed.sort_by_key(|key| self.entries.contains_key(key));
        let first = self.version + 1;
        for key in &changed {
            self.version += 1;
            if let Some((version, _)) = self.entries.get_mut(key) {
                *version = self.version;
            }
        }
        let hash = live_hash(&origin, self.live_versions().into_iter());
        let mut fresh = Vec::with_capacity(changed.len());
        for (version, name) in (first..).zip(changed) {
            let body = match self.entries.get(&name) {
                Some((_, entry)) => Body::Put(entry.clone()),
                None => Body::Delete(name),
            };
            // Entries are held to the limits before they get here.
            let Some(bytes) = body.encode(origin.scope) else { continue };
            let signed = SignedRecord::sign(key, &origin, version, hash, bytes);
            fresh.push(Arc::new(Record { signed, body }));
        }
        self.records.extend(fresh.iter().map(|record| (record.signed.version, Arc::clone(record))));
        let live = self.live_versions();
        let head = self.version;
        self.records.retain(|version, _| *version == head || live.contains(version));
        let mut set = Set::new(origin);
        for record in self.records.values() {
            set.insert(Arc::clone(record));
        }
        set.complete(None);
        Flushed { origin, live: set.runs(), records: fresh, set }
    }

    fn live_versions(&self) -> BTreeSet<u64> {
        self.entries.values().map(|(version, _)| *version).filter(|version| *version > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::KvKey;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_flush_leaves_a_complete_set_that_others_can_follow(
            flushes in proptest::collection::vec(proptest::collection::vec((0u8..90, any::<bool>()), 1..40), 1..12),
        ) {
            let mut own = Own::new(IdentityKey::from_seed(&[2; 32]), 1);
            let mut other: Option<Set> = None;
            for changes in flushes {
                for (name, put) in changes {
                    let key = KvKey(vec![name]);
                    if put {
                        own.put(Scope::Global, Entry::Kv(key, vec![rand_byte(name)]));
                    } else {
                        own.delete(Scope::Global, &Key::Kv(key));
                    }
                }
                for flushed in own.flush() {
                    prop_assert!(flushed.set.is_complete());
                    prop_assert!(flushed.live.is_some());
                    let set = other.get_or_insert_with(|| Set::new(flushed.origin));
                    for record in flushed.records {
                        set.insert(record);
                    }
                    prop_assert!(set.complete(flushed.live.as_ref()));
                    let mine: Vec<_> = own.entries(Scope::Global).cloned().collect();
                    let mut theirs: Vec<_> = set.bodies().filter_map(|body| match body {
                        Body::Put(entry) => Some(entry.clone()),
                        Body::Delete(_) => None,
                    }).collect();
                    theirs.sort_by_key(Entry::key);
                    prop_assert_eq!(mine, theirs);
                }
            }
        }
    }

    fn rand_byte(name: u8) -> u8 {
        name.wrapping_mul(31)
    }
}
