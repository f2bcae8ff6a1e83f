//! All records held, by owner and scope, and the digests over them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_wire::PeerId;

use crate::checks::Checks;
use crate::record::{Body, Entry, Group, Origin, Record, Runs, Scope};
use crate::set::{Insert, Set};
use crate::tree::{Tree, hash64};

/// Most owners held.
const MAX_OWNERS: usize = 16_384;

/// How far the records of an owner in a scope have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) owner: PeerId,
    pub(crate) incarnation: u64,
    pub(crate) version: u64,
    pub(crate) hash: u32,
    pub(crate) complete: bool,
}

impl Head {
    /// Whether who has `self` lacks something that is in `other`.
    pub(crate) fn is_behind(&self, other: &Self) -> bool {
        let (a, b) = ((self.incarnation, self.version), (other.incarnation, other.version));
        a < b || (a == b && !self.complete && other.complete)
    }

    fn leaf(&self) -> u64 {
        hash64(&[
            &self.owner.0,
            &self.incarnation.to_be_bytes(),
            &self.version.to_be_bytes(),
            &self.hash.to_be_bytes(),
            &[u8::from(self.complete)],
        ])
    }
}

/// One scope of an owner. After a restart of the owner the new run's records wait in `next` until they are complete,
/// so that what goes on existing does not vanish in between.
#[derive(Debug, Default)]
struct Scoped {
    current: Option<Set>,
    next: Option<Set>,
}

impl Scoped {
    fn newest(&self) -> Option<&Set> {
        self.next.as_ref().or(self.current.as_ref())
    }
}

#[derive(Debug, Default)]
struct Owner {
    scopes: BTreeMap<Scope, Scoped>,
    /// Whether it counts in the digests: it is alive.
    active: bool,
}

/// What a group of records changed.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Records that were new, to pass on.
    pub(crate) new: Vec<Arc<Record>>,
    /// What the records in force say of this scope may differ now.
    pub(crate) changed: bool,
    /// Something is known to be missing.
    pub(crate) incomplete: bool,
    /// Records of a run that a later one replaced, or overtaken ones.
    pub(crate) n_stale: usize,
    /// Records not signed by the owner, malformed, or one too many.
    pub(crate) n_refused: usize,
    /// The owner signed differing records under one version.
    pub(crate) conflict: bool,
}

/// Records of all owners.
#[derive(Debug, Default)]
pub(crate) struct Store {
    owners: HashMap<PeerId, Owner>,
    trees: HashMap<Scope, Tree>,
}

impl Store {
    /// The digest of a scope.
    pub(crate) fn tree(&self, scope: Scope) -> Option<&Tree> {
        self.trees.get(&scope)
    }

    pub(crate) fn root(&self, scope: Scope) -> u64 {
        self.trees.get(&scope).map_or_else(|| Tree::default().root(), Tree::root)
    }

    /// Takes records in. `owner` is the peer that the group's key belongs to.
    pub(crate) fn apply(&mut self, checks: &mut Checks, owner: PeerId, group: Group) -> Applied {
        let mut applied = Applied::default();
        let origin = group.origin();
        if !self.owners.contains_key(&owner) && self.owners.len() >= MAX_OWNERS {
            applied.n_refused = group.records.len();
            return applied;
        }
        let newest = self.newest(owner, origin.scope).map(|set| set.origin.incarnation);
        let global = self.newest(owner, Scope::Global).map_or(0, |set| set.origin.incarnation);
        if newest.unwrap_or(0).max(global) > origin.incarnation {
            applied.n_stale = group.records.len();
            return applied;
        }
        let mut fresh = Vec::new();
        for signed in group.records {
            let known = self
                .newest(owner, origin.scope)
                .is_some_and(|set| set.origin == origin && set.knows(signed.version));
            if known {
                applied.n_stale += 1;
                continue;
            }
            match checks.check(&origin, owner, signed) {
                Some(record) => fresh.push(record),
                None => applied.n_refused += 1,
            }
        }
        if fresh.is_empty() && newest != Some(origin.incarnation) {
            return applied;
        }
        let scoped = self.owners.entry(owner).or_default().scopes.entry(origin.scope).or_default();
        let set = match (&mut scoped.current, &mut scoped.next) {
            (Some(set), _) | (None, Some(set)) if set.origin.incarnation == origin.incarnation => set,
            (None, _) => scoped.current.insert(Set::new(origin)),
            (Some(_), Some(set)) if set.origin.incarnation == origin.incarnation => set,
            (Some(_), _) => scoped.next.insert(Set::new(origin)),
        };
        for record in fresh {
            match set.insert(Arc::clone(&record)) {
                Insert::New => applied.new.push(record),
                Insert::Held | Insert::Stale => applied.n_stale += 1,
                Insert::Full => applied.n_refused += 1,
                Insert::Conflict => applied.conflict = true,
            }
        }
        let was_complete = set.is_complete();
        let complete = set.complete(group.live.as_ref());
        applied.incomplete = !complete;
        let waiting = scoped.next.is_some();
        if waiting && complete {
            scoped.current = scoped.next.take();
        }
        applied.changed =
            (!waiting && (!applied.new.is_empty() || was_complete != complete)) || (waiting && complete);
        self.refresh(owner, origin.scope);
        applied
    }

    /// Replaces this peer's own records of a scope.
    pub(crate) fn put_own(&mut self, owner: PeerId, set: Set) {
        let scope = set.origin.scope;
        let entry = self.owners.entry(owner).or_default();
        entry.active = true;
        entry.scopes.insert(scope, Scoped { current: Some(set), next: None });
        self.refresh(owner, scope);
    }

    /// The set in force.
    pub(crate) fn current(&self, owner: PeerId, scope: Scope) -> Option<&Set> {
        self.owners.get(&owner)?.scopes.get(&scope)?.current.as_ref()
    }

    /// The set of the latest run, complete or not.
    pub(crate) fn newest(&self, owner: PeerId, scope: Scope) -> Option<&Set> {
        self.owners.get(&owner)?.scopes.get(&scope)?.newest()
    }

    /// How far `owner` has come here; all zero when nothing is held.
    pub(crate) fn head(&self, owner: PeerId, scope: Scope) -> Head {
        let zero = Head { owner, incarnation: 0, version: 0, hash: 0, complete: false };
        self.newest(owner, scope).map_or(zero, |set| Head {
            owner,
            incarnation: set.origin.incarnation,
            version: set.head(),
            hash: set.head_hash(),
            complete: set.is_complete(),
        })
    }

    /// What one who has come as far as `have` lacks.
    pub(crate) fn lacking(
        &self,
        have: &Head,
        scope: Scope,
    ) -> Option<(Origin, Option<Runs>, Vec<Arc<Record>>)> {
        let set = self.newest(have.owner, scope)?;
        let mine = self.head(have.owner, scope);
        if !have.is_behind(&mine) {
            return None;
        }
        // One who holds a part knows not which part, so what it holds is worth nothing here.
        let same_run = have.incarnation == mine.incarnation && have.complete;
        let records = set.since(if same_run { have.version } else { 0 });
        Some((set.origin, set.runs(), records))
    }

    /// Entries in force, of any scope.
    pub(crate) fn entries(&self, owner: PeerId, scope: Scope) -> impl Iterator<Item = &Entry> {
        self.current(owner, scope).into_iter().flat_map(Set::bodies).filter_map(|body| match body {
            Body::Put(entry) => Some(entry),
            Body::Delete(_) => None,
        })
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = PeerId> {
        self.owners.keys().copied()
    }

    pub(crate) fn scopes(&self, owner: PeerId) -> impl Iterator<Item = Scope> {
        self.owners.get(&owner).into_iter().flat_map(|owner| owner.scopes.keys().copied())
    }

    /// Lets the records of `owner` count in the digests or not.
    pub(crate) fn set_active(&mut self, owner: PeerId, active: bool) {
        self.owners.entry(owner).or_default().active = active;
        for scope in self.scopes(owner).collect::<Vec<_>>() {
            self.refresh(owner, scope);
        }
    }

    /// Drops every record of `owner`.
    pub(crate) fn drop_owner(&mut self, owner: PeerId) {
        self.owners.remove(&owner);
        self.trees.values_mut().for_each(|tree| {
            tree.set(owner, None);
        });
    }

    /// Drops a scope of `owner`.
    pub(crate) fn drop_scope(&mut self, owner: PeerId, scope: Scope) {
        if let Some(held) = self.owners.get_mut(&owner) {
            held.scopes.remove(&scope);
        }
        self.refresh(owner, scope);
    }

    /// Drops a scope of everyone.
    pub(crate) fn drop_everyones(&mut self, scope: Scope) {
        self.owners.values_mut().for_each(|owner| {
            owner.scopes.remove(&scope);
        });
        self.trees.remove(&scope);
    }

    fn refresh(&mut self, owner: PeerId, scope: Scope) {
        let active = self.owners.get(&owner).is_some_and(|owner| owner.active);
        let leaf = (active && self.newest(owner, scope).is_some()).then(|| self.head(owner, scope).leaf());
        self.trees.entry(scope).or_default().set(owner, leaf);
    }
}
