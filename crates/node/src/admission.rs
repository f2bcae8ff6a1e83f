//! Who is let in: the allowlist, names pinned to keys, and verdicts of operators on single peers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use weft_noise::{ClusterSecret, SecretId};
use weft_wire::PeerId;

use crate::control::Refusal;
use crate::hello::MAX_NAME_LEN;

/// Nothing that comes from where a revoked peer was is answered for this long.
const SHUN_HOLD: Duration = Duration::from_secs(600);
/// Addresses shunned, refusals remembered and tokens open at once: what a malicious member can make us remember.
const MAX_REMEMBERED: usize = 1024;

/// What an operator decided about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Judgement {
    /// Shut out everywhere.
    Revoked,
    /// A revocation was taken back.
    Allowed,
    /// Its name and its addresses are no longer remembered; it may come again.
    Forgotten,
}

/// A decision about a peer, spread to all hosts and kept on their disks. Of several the one with the highest stamp
/// counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// About whom.
    pub peer: PeerId,
    /// Its name, for people.
    pub name: String,
    /// What.
    pub judgement: Judgement,
    /// Milliseconds since 1970 where it was decided, or one more than that of the verdict which it replaces.
    pub stamp: u64,
    /// On which host it was decided.
    pub by: PeerId,
}

impl Verdict {
    pub(crate) fn outranks(&self, other: &Self) -> bool {
        (self.stamp, self.by) > (other.stamp, other.by)
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.name.len() <= MAX_NAME_LEN && !self.name.chars().any(char::is_control)
    }
}

/// Whom a cluster admits of those that know its secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Admission {
    /// Everyone.
    #[default]
    Secret,
    /// These.
    Allowlist(BTreeSet<PeerId>),
}

/// A peer that was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedPeer {
    /// Who.
    pub id: PeerId,
    /// What it calls itself.
    pub name: String,
    /// Where it came from.
    pub address: SocketAddr,
    /// Why.
    pub reason: Refusal,
}

/// Lets a new host join without knowing the cluster's secret.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) secret: ClusterSecret,
    pub(crate) expires: Instant,
    pub(crate) n_uses: u32,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    pub(crate) admission: Admission,
    pub(crate) verdicts: BTreeMap<PeerId, Verdict>,
    pub(crate) pins: BTreeMap<String, PeerId>,
    pub(crate) refused: BTreeMap<PeerId, RefusedPeer>,
    shunned: HashMap<SocketAddr, Instant>,
    tokens: BTreeMap<SecretId, Token>,
}

impl Gate {
    pub(crate) fn is_revoked(&self, peer: PeerId) -> bool {
        self.verdicts.get(&peer).is_some_and(|v| v.judgement == Judgement::Revoked)
    }

    /// Whether `peer` may not take part, whatever name it uses.
    pub(crate) fn is_barred(&self, peer: PeerId) -> bool {
        let listed = match &self.admission {
            Admission::Secret => true,
            Admission::Allowlist(list) => list.contains(&peer),
        };
        self.is_revoked(peer) || !listed
    }

    /// Why a peer that showed its key under `name` is not admitted. Its name is pinned when it is.
    pub(crate) fn admit(&mut self, peer: PeerId, name: &str) -> Result<(), Refusal> {
        if self.is_barred(peer) {
            return Err(Refusal::NotAllowed);
        }
        match self.pins.get(name) {
            Some(keeper) if *keeper != peer => return Err(Refusal::NameTaken { keeper: *keeper }),
            Some(_) => {}
            None => {
                self.pins.retain(|_, id| *id != peer);
                self.pins.insert(name.to_owned(), peer);
            }
        }
        self.refused.remove(&peer);
        Ok(())
    }

    pub(crate) fn refuse(&mut self, refused: RefusedPeer) {
        if self.refused.len() < MAX_REMEMBERED || self.refused.contains_key(&refused.id) {
            self.refused.insert(refused.id, refused);
        }
    }

    pub(crate) fn unpin(&mut self, peer: PeerId) {
        self.pins.retain(|_, id| *id != peer);
        self.refused.retain(|_, r| !matches!(r.reason, Refusal::NameTaken { keeper } if keeper == peer));
    }

    pub(crate) fn shun(&mut self, address: SocketAddr, now: Instant) {
        self.shunned.retain(|_, until| now < *until);
        if self.shunned.len() < MAX_REMEMBERED {
            self.shunned.insert(address, now + SHUN_HOLD);
        }
    }

    pub(crate) fn unshun(&mut self) {
        self.shunned.clear();
    }

    pub(crate) fn is_shunned(&self, address: SocketAddr, now: Instant) -> bool {
        self.shunned.get(&address).is_some_and(|until| now < *until)
    }

    /// Whether there was room.
    pub(crate) fn add_token(&mut self, token: Token) -> bool {
        let room = self.tokens.len() < MAX_REMEMBERED;
        if room {
            self.tokens.insert(token.secret.id(), token);
        }
        room
    }

    /// Whether a token ended.
    pub(crate) fn expire_tokens(&mut self, now: Instant) -> bool {
        let before = self.tokens.len();
        self.tokens.retain(|_, token| now < token.expires && token.n_uses > 0);
        before != self.tokens.len()
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = &ClusterSecret> {
        self.tokens.values().map(|token| &token.secret)
    }

    pub(crate) fn is_token(&self, secret: SecretId) -> bool {
        self.tokens.contains_key(&secret)
    }

    /// Whether the token could be used once more.
    pub(crate) fn use_token(&mut self, secret: SecretId, now: Instant) -> bool {
        let Some(token) = self.tokens.get_mut(&secret).filter(|t| now < t.expires && t.n_uses > 0) else {
            return false;
        };
        token.n_uses -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 16]);
    const B: PeerId = PeerId([2; 16]);

    #[test]
    fn the_first_to_use_a_name_keeps_it_until_it_is_unpinned_or_takes_another() {
        let mut gate = Gate::default();
        assert_eq!(gate.admit(A, "host"), Ok(()));
        assert_eq!(gate.admit(B, "host"), Err(Refusal::NameTaken { keeper: A }));
        assert_eq!(gate.admit(A, "other"), Ok(()));
        assert_eq!(gate.admit(B, "host"), Ok(()));
        gate.unpin(A);
        assert_eq!(gate.admit(B, "other"), Ok(()));
    }

    #[test]
    fn whoever_is_not_listed_or_is_revoked_is_barred() {
        let mut gate = Gate { admission: Admission::Allowlist([A].into()), ..Gate::default() };
        assert!(!gate.is_barred(A) && gate.is_barred(B));
        let revoked = |stamp, judgement| Verdict { peer: A, name: "a".into(), judgement, stamp, by: B };
        gate.verdicts.insert(A, revoked(1, Judgement::Revoked));
        assert!(gate.is_barred(A));
        assert!(revoked(2, Judgement::Allowed).outranks(&revoked(1, Judgement::Revoked)));
    }

    #[test]
    fn a_token_has_its_uses_and_its_time() {
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        let token = |n| {
            let secret = ClusterSecret::new([n; 32]);
            Token { secret, expires: now + Duration::from_secs(1), n_uses: 1 }
        };
        let mut gate = Gate::default();
        assert!(gate.add_token(token(1)) && gate.add_token(token(2)));
        let [one, two] = [1, 2].map(|n| ClusterSecret::new([n; 32]).id());
        assert!(gate.use_token(one, now) && !gate.use_token(one, now));
        assert!(!gate.use_token(two, later));
        assert!(gate.expire_tokens(later) && !gate.is_token(two));
    }

    #[test]
    fn an_address_is_shunned_for_a_while() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let address = SocketAddr::from(([10, 0, 0, 1], 6783));
        gate.shun(address, now);
        assert!(gate.is_shunned(address, now) && !gate.is_shunned(address, now + SHUN_HOLD));
    }
}
