//! Fetching records that others were found to have: each from one peer at a time, a few at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_wire::PeerId;

use super::Mesh;
use crate::event::Target;
use crate::message::Message;
use crate::record::{Scope, pack};
use crate::store::Head;

/// How long an answer may take; then the next comparing finds another source.
const PATIENCE: Duration = Duration::from_millis(800);
/// Owners asked for at the same time.
const MAX_ASKED: usize = 96;
/// Owners in one request.
const MAX_HEADS: usize = 30;
/// Owners waited for; beyond it the next comparing finds them again.
const MAX_NEEDS: usize = 8192;
/// Room for groups in a message.
const ROOM: usize = crate::MAX_MESSAGE_LEN - 20;

#[derive(Debug)]
struct Need {
    source: PeerId,
    asked: Option<Instant>,
}

/// What is missing and who has it.
#[derive(Debug, Default)]
pub(super) struct Needs {
    waiting: BTreeMap<(Scope, PeerId), Need>,
    n_asked: usize,
    n_unasked: usize,
    expire_at: Option<Instant>,
}

impl Needs {
    pub(super) fn next(&self) -> Option<Instant> {
        self.expire_at
    }

    /// Gives up on what was asked for too long ago.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.expire_at.is_some_and(|at| at <= now) {
            self.waiting.retain(|_, need| need.asked.is_none_or(|asked| now < asked + PATIENCE));
            self.recount();
        }
    }

    pub(super) fn forget(&mut self, peer: PeerId) {
        if !self.waiting.is_empty() {
            self.waiting.retain(|(_, owner), need| *owner != peer && need.source != peer);
            self.recount();
        }
    }

    pub(super) fn forget_scope(&mut self, scope: Scope) {
        self.waiting.retain(|(of, _), _| *of != scope);
        self.recount();
    }

    fn done(&mut self, scope: Scope, owner: PeerId) {
        if let Some(need) = self.waiting.remove(&(scope, owner)) {
            match need.asked {
                Some(_) => self.n_asked -= 1,
                None => self.n_unasked -= 1,
            }
        }
    }

    fn recount(&mut self) {
        self.n_asked = self.waiting.values().filter(|need| need.asked.is_some()).count();
        self.n_unasked = self.waiting.len() - self.n_asked;
        self.expire_at =
            self.waiting.values().filter_map(|need| need.asked).min().map(|asked| asked + PATIENCE);
    }
}

impl Mesh {
    /// `source` has newer records of `owner`.
    pub(super) fn need(&mut self, source: PeerId, scope: Scope, owner: PeerId) {
        if self.peers.get(&owner).is_none_or(|peer| peer.up) {
            self.need_from(source, scope, owner);
        }
    }

    /// `source` says that `owner` is alive in a run of which nothing is known here: then it has records of it.
    pub(super) fn need_proof(&mut self, source: PeerId, owner: PeerId) {
        self.need_from(source, Scope::Global, owner);
    }

    fn need_from(&mut self, source: PeerId, scope: Scope, owner: PeerId) {
        if self.revoked.contains(&owner)
            || self.needs.waiting.len() >= MAX_NEEDS
            || self.needs.waiting.contains_key(&(scope, owner))
        {
            return;
        }
        self.needs.waiting.insert((scope, owner), Need { source, asked: None });
        self.needs.n_unasked += 1;
    }

    /// Asks for as much as may be under way at once.
    pub(super) fn ask_for_needs(&mut self) {
        // Asking for one by one as answers come in would cost a message each.
        if self.needs.n_unasked == 0 || self.needs.n_asked + MAX_HEADS.min(self.needs.n_unasked) > MAX_ASKED {
            return;
        }
        let now = self.now;
        let mut room = MAX_ASKED - self.needs.n_asked;
        let mut wants: BTreeMap<(PeerId, Scope), Vec<Head>> = BTreeMap::new();
        for ((scope, owner), need) in &mut self.needs.waiting {
            if room == 0 {
                break;
            }
            if need.asked.is_none() {
                room -= 1;
                need.asked = Some(now);
                wants.entry((need.source, *scope)).or_default().push(self.store.head(*owner, *scope));
            }
        }
        self.needs.recount();
        for ((source, scope), heads) in wants {
            for heads in heads.chunks(MAX_HEADS) {
                self.send(Target::Peer(source), &Message::Want { scope, heads: heads.to_vec() });
            }
        }
    }

    pub(super) fn answer_want(&mut self, from: PeerId, scope: Scope, heads: &[Head]) {
        if !self.shares(scope, from) {
            self.counters.n_not_member += 1;
            return;
        }
        let groups: Vec<_> = heads.iter().filter_map(|have| self.store.lacking(have, scope)).collect();
        for groups in pack(groups, ROOM) {
            if !self.send_bulk(from, &Message::Records(groups)) {
                break;
            }
        }
    }

    /// Records of `owner` came in.
    pub(super) fn got(&mut self, from: PeerId, scope: Scope, owner: PeerId, incomplete: bool, gap: bool) {
        if !incomplete {
            self.needs.done(scope, owner);
        } else if gap {
            // Not an answer that is still under way: something was lost before.
            self.need(from, scope, owner);
        }
    }
}
