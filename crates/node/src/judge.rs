//! Operators' decisions about single peers, and the admission of all.

use std::time::Instant;

use weft_mesh::Scope;
use weft_wire::PeerId;

use crate::admission::{Admission, Judgement, Verdict};
use crate::gossip::verdict_key;
use crate::node::{Event, Node};

/// Which peer is meant cannot be told. Nothing was changed; the operator's input makes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// No peer has this name or id.
    #[error("no peer is called `{0}`, and no peer's id begins so; `weft status` lists them")]
    Unknown(String),
    /// Several do.
    #[error("`{0}` is the name, or the begin of the id, of several peers: give more of the id")]
    Ambiguous(String),
}

impl Node {
    /// The peer that `text` names: its name, its id, or the begin of its id, at least 4 digits. A name that several have is
    /// its owner's. This host's own name is understood when no peer has it.
    ///
    /// # Errors
    /// See [`FindError`].
    pub fn find_peer(&self, text: &str) -> Result<PeerId, FindError> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let peers = self.peers.values().map(|p| (p.id, p.name.as_str()));
        let refused = self.gate.refused.values().map(|r| (r.id, r.name.as_str()));
        let judged = self.gate.verdicts.values().map(|v| (v.peer, v.name.as_str()));
        let named: Vec<(PeerId, &str)> = peers.chain(refused).chain(judged).collect();
        let mut found: Vec<PeerId> = named.iter().filter(|(_, n)| *n == text).map(|(id, _)| *id).collect();
        if found.is_empty() && text.len() >= 4 {
            let begins = |id: &PeerId| id.to_string().starts_with(text);
            found = named.iter().map(|(id, _)| *id).filter(begins).collect();
        }
        found.sort();
        found.dedup();
        let is_own = || self.mesh.peer_info(self.id).is_some_and(|info| info.name == text);
        match found[..] {
            [] if is_own() => Ok(self.id),
            [] => Err(FindError::Unknown(text.to_owned())),
            [id] => Ok(id),
            _ => self.owner_of(text, &found).ok_or_else(|| FindError::Ambiguous(text.to_owned())),
        }
    }

    /// Of several peers with a name the one that it belongs to: the others are refused for it, or were forgotten. Nobody is
    /// when one of them is revoked, as it may be meant.
    fn owner_of(&self, name: &str, found: &[PeerId]) -> Option<PeerId> {
        let is_revoked =
            |id: &PeerId| self.gate.verdicts.get(id).is_some_and(|v| v.judgement == Judgement::Revoked);
        let owner = self.gate.pins.get(name).copied()?;
        (found.contains(&owner) && !found.iter().any(is_revoked)).then_some(owner)
    }

    /// Decides about a peer, here and on all other hosts. `stamp` is the time in milliseconds since 1970.
    pub fn judge(&mut self, peer: PeerId, judgement: Judgement, stamp: u64, now: Instant) {
        let last = self.gate.verdicts.get(&peer).map_or(0, |v| v.stamp);
        let name = self.name_of(peer);
        let stamp = stamp.max(last.saturating_add(1));
        self.adopt(Verdict { peer, name, judgement, stamp, by: self.id }, now);
        self.pump(now);
    }

    fn name_of(&self, peer: PeerId) -> String {
        let known = self.peers.get(&peer).map(|p| p.name.clone());
        let refused = || self.gate.refused.get(&peer).map(|r| r.name.clone());
        let judged = || self.gate.verdicts.get(&peer).map(|v| v.name.clone());
        known.filter(|n| !n.is_empty()).or_else(refused).or_else(judged).unwrap_or_default()
    }

    /// Takes a verdict that is newer than the one known, carries it out, and passes it on as this host's own word, so
    /// that those who come later hear it whoever is gone by then.
    pub(crate) fn adopt(&mut self, verdict: Verdict, now: Instant) {
        let peer = verdict.peer;
        if self.gate.verdicts.get(&peer).is_some_and(|known| !verdict.outranks(known)) {
            return;
        }
        if let Ok(value) = postcard::to_allocvec(&verdict) {
            // A sound verdict is within the limits of a value.
            let put = self.mesh.put(Scope::Global, verdict_key(peer), value);
            debug_assert!(put.is_ok(), "{put:?}");
        }
        let judgement = verdict.judgement;
        self.events.push_back(Event::Judged(verdict.clone()));
        self.gate.verdicts.insert(peer, verdict);
        if peer == self.id {
            return;
        }
        match judgement {
            Judgement::Revoked => self.shut_out(peer, now),
            Judgement::Allowed => {
                self.gate.unshun();
                self.gate.refused.remove(&peer);
                if !self.gate.is_barred(peer) {
                    self.mesh.pardon(peer);
                }
            }
            Judgement::Forgotten => {
                self.gate.unpin(peer);
                self.gate.refused.remove(&peer);
                if !self.mesh.is_up(peer) {
                    self.mesh.forget(peer, now);
                    self.drop_peer(peer);
                }
            }
        }
    }

    /// Whom to admit from now on; those that no longer are, are shut out at once.
    pub fn set_admission(&mut self, admission: Admission, now: Instant) {
        if self.gate.admission == admission {
            return;
        }
        self.gate.admission = admission;
        self.gate.unshun();
        let barred: Vec<PeerId> =
            self.peers.keys().copied().filter(|peer| self.gate.is_barred(*peer)).collect();
        for peer in barred {
            self.shut_out(peer, now);
        }
        let admissible: Vec<PeerId> =
            self.mesh.revoked().filter(|peer| !self.gate.is_barred(*peer)).collect();
        for peer in admissible {
            self.gate.refused.remove(&peer);
            self.mesh.pardon(peer);
        }
        self.pump(now);
    }

    /// Drops all sessions with a peer, and listens no longer to where it was.
    fn shut_out(&mut self, peer: PeerId, now: Instant) {
        let addresses: Vec<_> = self.sessions.values().filter(|s| s.peer == peer).map(|s| s.remote).collect();
        for address in addresses.into_iter().chain(self.peers.get(&peer).and_then(|p| p.address)) {
            if address.port() != 0 {
                self.gate.shun(address, now);
            }
        }
        self.drop_peer(peer);
        self.mesh.revoke(peer, now);
        self.gate.unpin(peer);
        self.services.is_dirty = true;
        self.dirty = true;
    }

    fn drop_peer(&mut self, peer: PeerId) {
        let numbers: Vec<u32> = self.sessions.values().filter(|s| s.peer == peer).map(|s| s.number).collect();
        numbers.into_iter().for_each(|number| self.drop_session(number));
        let tags: Vec<u64> =
            self.attempts.iter().filter(|(_, a)| a.is_for(peer)).map(|(tag, _)| *tag).collect();
        for tag in tags {
            self.handshakes.cancel(tag);
            self.attempts.remove(&tag);
        }
        self.peers.remove(&peer);
        self.seen_at.remove(&peer);
        self.dirty = true;
    }
}
