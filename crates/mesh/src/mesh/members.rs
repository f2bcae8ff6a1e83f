//! Who is alive: what `foca` finds, and the objections that keep two sides of a split from burying each other.
//!
//! "Down" is final for a name. After a split each half holds the other for down, and whoever learns that from the
//! other half would hold his own neighbours for down. So news of that kind that comes by comparing digests is
//! disputed first: the peer is asked, it goes on under a new name at once, and nobody sees it go down.

use std::time::{Duration, Instant};

use foca::{Member, OwnedNotification, State};
use weft_wire::PeerId;

use super::{Mesh, Peer};
use crate::event::{Event, Target};
use crate::message::Message;
use crate::record::Scope;
use crate::swim::Action;
use crate::swim_id::SwimId;
use crate::tree::hash64;

/// A peer is told at most so often that someone holds it for down.
const TELL_PAUSE: Duration = Duration::from_secs(1);
/// Shortest time between two new names of this peer.
const RENEW_PAUSE: Duration = Duration::from_millis(200);
/// Shortest time between two runs begun to get past another's.
const BUMP_PAUSE: Duration = Duration::from_secs(3);
/// Two such runs within this time are the work of a living twin, not of an earlier run of this peer.
const TWIN_WINDOW: Duration = Duration::from_secs(600);
/// A twin is reported at most so often.
const REPORT_PAUSE: Duration = Duration::from_secs(60);

fn leaf(id: &SwimId) -> u64 {
    hash64(&[&id.peer.0, &id.incarnation.to_be_bytes(), &id.renewal.to_be_bytes()])
}

impl Mesh {
    pub(super) fn drain_swim(&mut self) {
        while let Some(action) = self.swim.poll(self.now) {
            match action {
                Action::Send(to, packet) => {
                    if !self.revoked.contains(&to.peer) {
                        self.send_swim(to.peer, &packet);
                    }
                }
                Action::Note(note) => self.noted(note),
            }
        }
    }

    fn noted(&mut self, note: OwnedNotification<SwimId>) {
        match note {
            OwnedNotification::MemberUp(id) => self.came_up(id),
            OwnedNotification::MemberDown(id) => self.went_down(id),
            OwnedNotification::Rename(_, id) => {
                let peer = self.peers.entry(id.peer).or_insert_with(|| Peer::unheard(self.now));
                peer.id = Some(id.clone());
                if peer.up {
                    self.members.set(id.peer, Some(leaf(&id)));
                }
                self.disputes.remove(&id.peer);
            }
            OwnedNotification::Rejoin(id) => {
                if id.incarnation > self.own.incarnation() {
                    self.own.set_incarnation(id.incarnation);
                }
                self.refresh_own_leaf();
            }
            OwnedNotification::Active | OwnedNotification::Idle | OwnedNotification::Defunct => {}
        }
    }

    fn came_up(&mut self, id: SwimId) {
        let now = self.now;
        let who = id.peer;
        if self.revoked.contains(&who) {
            return;
        }
        if self.alive.is_empty() {
            self.events.push_back(Event::Joined);
        }
        self.members.set(who, Some(leaf(&id)));
        let peer = self.peers.entry(who).or_insert_with(|| Peer::unheard(now));
        peer.id = Some(id);
        if peer.up {
            return;
        }
        peer.up = true;
        peer.since = now;
        peer.purged = false;
        if let Some(at) = peer.purge_at.take() {
            self.purges.remove(&(at, who));
        }
        if let Some(at) = self.strangers.remove(&who) {
            self.purges.remove(&(at, who));
        }
        self.down.retain(|other| *other != who);
        self.alive.push(who);
        self.swim.resize(self.alive.len());
        self.unsettle();
        self.store.set_active(who, true);
        self.directory.set_down(who, false, now + self.timers.duplicate_grace, &mut self.events);
        self.events.push_back(Event::PeerUp { peer: who });
        self.refresh_all(who);
    }

    fn went_down(&mut self, id: SwimId) {
        let now = self.now;
        let who = id.peer;
        self.members.set(who, None);
        self.disputes.remove(&who);
        let Some(peer) = self.peers.get_mut(&who) else { return };
        peer.id = Some(id);
        if !peer.up {
            return;
        }
        peer.up = false;
        peer.since = now;
        let leaving = self.info_of(who).is_some_and(|info| info.leaving);
        let keep = if leaving { Duration::ZERO } else { self.timers.keep_records };
        self.purge_later(who, keep);
        self.alive.retain(|other| *other != who);
        self.down.push(who);
        self.swim.resize(self.alive.len());
        self.pushes.forget(who);
        self.needs.forget(who);
        self.store.set_active(who, false);
        self.directory.set_down(who, true, now + self.timers.duplicate_grace, &mut self.events);
        self.events.push_back(if leaving {
            Event::PeerLeft { peer: who }
        } else {
            Event::PeerDown { peer: who }
        });
        if leaving {
            self.purge();
        }
    }

    /// Drops the records of those who are down for long, and in the end forgets them.
    pub(super) fn purge(&mut self) {
        while let Some((at, who)) = self.purges.first().copied()
            && at <= self.now
        {
            self.purges.pop_first();
            let Some(peer) = self.peers.get_mut(&who) else {
                self.strangers.remove(&who);
                self.store.drop_owner(who);
                continue;
            };
            if peer.up {
                continue;
            }
            if peer.purged {
                self.peers.remove(&who);
                self.down.retain(|other| *other != who);
                self.checks.forget(who);
                continue;
            }
            peer.purged = true;
            self.purge_later(who, self.timers.forget_peer);
            self.store.drop_owner(who);
            self.refresh_all(who);
        }
    }

    fn purge_later(&mut self, who: PeerId, after: Duration) {
        let at = self.now + after;
        if let Some(peer) = self.peers.get_mut(&who) {
            peer.purge_at = Some(at);
            self.purges.insert((at, who));
        }
    }

    pub(super) fn shut_out(&mut self, who: PeerId) {
        if let Some(id) = self.peers.get(&who).and_then(|peer| peer.id.clone()) {
            self.swim.apply(vec![Member::down(id)]);
            self.drain_swim();
        }
        self.peers.remove(&who);
        self.strangers.remove(&who);
        self.down.retain(|other| *other != who);
        self.purges.retain(|(_, other)| *other != who);
        self.pushes.forget(who);
        self.store.drop_owner(who);
        self.refresh_all(who);
    }

    pub(super) fn refresh_own_leaf(&mut self) {
        self.members.set(self.me, Some(leaf(self.swim.id())));
    }

    /// Whether the peer itself has borne such a name: it told this one so, or has signed records under it. What others
    /// say of names beyond these could be anything.
    fn is_proved(&self, id: &SwimId) -> bool {
        let known = self.peers.get(&id.peer).and_then(|peer| peer.id.as_ref());
        known.is_some_and(|known| known.incarnation >= id.incarnation)
            || self.signed_incarnation(id.peer).is_some_and(|signed| signed >= id.incarnation)
    }

    fn signed_incarnation(&self, who: PeerId) -> Option<u64> {
        self.store.current(who, Scope::Global).map(|set| set.origin.incarnation)
    }

    /// Whether what `from` says of a member counts; asks it for the proof when it says that one is alive under a name that is
    /// not proved.
    pub(super) fn is_believed(&mut self, from: PeerId, member: &Member<SwimId>) -> bool {
        let id = member.id();
        // What is said of this peer itself it can judge.
        if id.peer == self.me || self.is_proved(id) {
            return true;
        }
        if member.state() != State::Down {
            self.need_proof(from, id.peer);
        }
        false
    }

    /// A peer whose records show a run that is not known yet is alive in it, unless they say that it ends.
    pub(super) fn signed_by(&self, who: PeerId) -> Option<Member<SwimId>> {
        let signed = self.signed_incarnation(who)?;
        let known = self.peers.get(&who).and_then(|peer| peer.id.as_ref());
        if self.revoked.contains(&who) || known.is_some_and(|known| known.incarnation >= signed) {
            return None;
        }
        let info = self.info_of(who).filter(|info| !info.leaving)?;
        Some(Member::alive(SwimId::new(who, signed, &info.addresses)))
    }

    /// `from` says what it is called. `false` when that is not its own name.
    pub(super) fn introduced(&mut self, from: PeerId, id: SwimId) -> bool {
        if id.peer != from {
            self.counters.n_malformed += 1;
            return false;
        }
        match self.peers.get(&from).map(|peer| (peer.up, peer.id.clone())) {
            Some((true, Some(known))) if known.age() >= id.age() => {}
            Some((false, Some(known))) if known.age() >= id.age() => {
                self.send(Target::Peer(from), &Message::YouAreDown(known));
            }
            _ => {
                self.swim.apply(vec![Member::alive(id)]);
                self.drain_swim();
            }
        }
        true
    }

    /// `from` says that someone holds this peer for down.
    pub(super) fn called_down(&mut self, from: PeerId, id: &SwimId) {
        if id.peer != self.me {
            self.counters.n_malformed += 1;
            return;
        }
        self.object(id);
        self.send(Target::Peer(from), &Message::IAm(self.swim.id().clone()));
    }

    /// Takes a name that wins over `id`, under which this peer is held for down.
    fn object(&mut self, id: &SwimId) {
        let now = self.now;
        if id.age() < self.swim.id().age() || self.leave_at.is_some() {
            return;
        }
        if id.incarnation > self.own.incarnation() || id.renewal == u32::MAX {
            self.outrun(id.incarnation, None);
            return;
        }
        if self.renewed_at.is_some_and(|at| now < at + RENEW_PAUSE) {
            return;
        }
        self.renewed_at = Some(now);
        let renewed = SwimId { addresses: self.swim.id().addresses.clone(), ..id.renewed() };
        self.go_on_as(renewed);
    }

    pub(super) fn go_on_as(&mut self, id: SwimId) {
        self.swim.change_id(id);
        // Foca takes itself for alone until it hears of someone.
        self.swim.apply(Vec::new());
        self.refresh_own_leaf();
        self.drain_swim();
    }

    /// Another run with this peer's key has a higher number: an earlier run, when the clock went back, or a twin.
    pub(super) fn outrun(&mut self, incarnation: u64, name: Option<String>) {
        let now = self.now;
        let Some(next) = incarnation.checked_add(1).filter(|next| *next > self.own.incarnation()) else {
            return;
        };
        if next >= u64::MAX - (1 << 32) || self.bumps.last().is_some_and(|at| now < *at + BUMP_PAUSE) {
            return;
        }
        self.bumps.retain(|at| now < *at + TWIN_WINDOW);
        if !self.bumps.is_empty() {
            self.found_clone(name.into_iter().collect());
        }
        self.bumps.push(now);
        self.own.set_incarnation(next);
        let id = SwimId { incarnation: next, renewal: 0, ..self.swim.id().clone() };
        self.go_on_as(id);
    }

    /// A twin of this peer lives.
    pub(super) fn found_clone(&mut self, mut names: Vec<String>) {
        if self.cloned_at.is_some_and(|at| self.now < at + REPORT_PAUSE) {
            return;
        }
        self.cloned_at = Some(self.now);
        names.push(self.info.name.clone());
        self.events.push_back(Event::SameKeyTwice { peer: self.me, names });
    }

    /// Takes what another knows of members; gives back what it seems not to know.
    pub(super) fn weigh_members(&mut self, from: PeerId, members: &[Member<SwimId>]) -> Vec<Member<SwimId>> {
        let mut answer = Vec::new();
        let mut news = Vec::new();
        for theirs in members {
            let (id, up) = (theirs.id(), theirs.state() != State::Down);
            if id.peer == self.me {
                if id.age() > self.swim.id().age() || (!up && id == self.swim.id()) {
                    self.object(id);
                }
                if id.age() < self.swim.id().age() {
                    answer.push(Member::alive(self.swim.id().clone()));
                }
                continue;
            }
            if self.revoked.contains(&id.peer) || !self.is_believed(from, theirs) {
                continue;
            }
            let known = self.peers.get(&id.peer).and_then(|peer| Some((peer.up, peer.id.clone()?)));
            let Some((known_up, known)) = known else {
                if up {
                    news.push(theirs.clone());
                }
                continue;
            };
            match (id.age().cmp(&known.age()), up, known_up) {
                (std::cmp::Ordering::Less, _, _) => answer.push(member(known, known_up)),
                (std::cmp::Ordering::Greater, true, _) | (std::cmp::Ordering::Greater, false, false) => {
                    news.push(theirs.clone());
                }
                (_, true, true) | (_, false, false) => {}
                (_, true, false) => {
                    answer.push(member(known.clone(), false));
                    self.tell_down(known);
                }
                (_, false, true) => {
                    let believe_at = self.now + self.timers.dispute;
                    self.disputes.entry(id.peer).or_insert_with(|| (id.clone(), believe_at));
                    if id.peer == from {
                        answer.push(member(known, true));
                    } else {
                        self.tell_down(id.clone());
                    }
                }
            }
        }
        if !news.is_empty() {
            self.swim.apply(news);
            self.drain_swim();
            self.unsettle();
        }
        answer
    }

    fn tell_down(&mut self, id: SwimId) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id.peer) else { return };
        if peer.told.is_none_or(|told| now >= told + TELL_PAUSE) {
            peer.told = Some(now);
            self.send(Target::Peer(id.peer), &Message::YouAreDown(id));
        }
    }

    /// Believes what was not objected to.
    pub(super) fn settle_disputes(&mut self) {
        let now = self.now;
        let due: Vec<PeerId> =
            self.disputes.iter().filter(|(_, (_, at))| *at <= now).map(|(who, _)| *who).collect();
        for who in due {
            let Some((id, _)) = self.disputes.remove(&who) else { continue };
            let known = self.peers.get(&who).and_then(|peer| peer.id.as_ref().filter(|_| peer.up));
            if known.is_some_and(|known| known.age() <= id.age()) {
                self.swim.apply(vec![Member::down(id)]);
            }
        }
        self.drain_swim();
    }

    /// What is known of one member, as others are told.
    pub(super) fn member_of(&self, who: PeerId) -> Option<Member<SwimId>> {
        if who == self.me {
            return Some(Member::alive(self.swim.id().clone()));
        }
        let peer = self.peers.get(&who)?;
        Some(member(peer.id.clone()?, peer.up))
    }

    /// Notes a start of a peer; one that comes back after another took its place is a twin of it.
    pub(super) fn saw_boot(&mut self, who: PeerId) {
        let Some(info) = self.info_of(who) else { return };
        let (boot, name) = (info.boot, info.name.clone());
        let Some(peer) = self.peers.get_mut(&who) else { return };
        if peer.boots.last().is_some_and(|(last, _)| *last == boot) {
            return;
        }
        let twin = peer.boots.iter().any(|(seen, _)| *seen == boot);
        peer.boots.retain(|(seen, _)| *seen != boot);
        if twin {
            let mut names: Vec<String> = peer.boots.iter().map(|(_, name)| name.clone()).collect();
            names.push(name.clone());
            self.events.push_back(Event::SameKeyTwice { peer: who, names });
        }
        peer.boots.push((boot, name));
        if peer.boots.len() > 3 {
            peer.boots.remove(0);
        }
    }

    fn info_of(&self, who: PeerId) -> Option<&crate::record::PeerInfo> {
        self.store.entries(who, Scope::Global).find_map(|entry| match entry {
            crate::record::Entry::Peer(info) => Some(info),
            _ => None,
        })
    }

    /// Compares more often for a while.
    pub(super) fn unsettle(&mut self) {
        self.unsettled_until = self.now + Duration::from_secs(3);
        let soon: Instant = self.now + self.timers.sync_unsettled;
        self.next_sync = self.next_sync.min(soon);
    }
}

fn member(id: SwimId, up: bool) -> Member<SwimId> {
    if up { Member::alive(id) } else { Member::down(id) }
}
