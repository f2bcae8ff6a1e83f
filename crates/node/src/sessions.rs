//! Handshakes become sessions; sessions are watched, renewed, and spoken on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::{CryptoRng, RngExt};
use weft_dataplane::SessionActivity;
use weft_noise::{ClusterSecret, Established, FailReason, HandshakeEvent, REJECT_AFTER, REKEY_AFTER, Role};
use weft_wire::{HEADER_LEN, INNER_HEADER_LEN, InnerHeader, InnerKind, Lane, NetworkId, PeerId, TAG_LEN};

use crate::admission::RefusedPeer;
use crate::control::Control;
use crate::hello::Hello;
use crate::node::{Event, KnownPeer, MAX_PEERS, Node, canonical};
use crate::peer::{Peer, Session};

/// How often two neighbors ping: also the keepalive of their session.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// How often two other peers with a session do: NATs forget a mapping of UDP after 30 s (RFC 4787, section 4.3, asks for
/// 120 s, and many have less).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A peer that pings is pinged itself in one of so many intervals: its pings show both ways to both sides, whichever is cut
/// (the one hears no ping, the other no pong), but the round trip to it alone.
const PINGED_INTERVALS: u32 = 4;
/// A session without a network in common is given up when no frame or message of the mesh passed for this long.
const IDLE_AFTER: Duration = Duration::from_secs(90);
/// What passed within this time was lately, when a session is due to be renewed.
const LATELY: Duration = Duration::from_secs(1);
/// A neighbor that does not answer directly for this long is cut off from this host, if it was asked so often.
const CUT_AFTER: Duration = Duration::from_millis(3500);
const MIN_UNANSWERED: u32 = 2;
/// So is one that is heard, and does not answer so many pings in a row: the way there is cut, the way back is not.
const MAX_UNANSWERED: u32 = 6;
/// A session on which nothing comes back for this long is doubted: the peer may have restarted.
const DOUBT_AFTER: Duration = Duration::from_millis(1500);
/// What was said to us is answered within this time, if only to show that the session works.
const ANSWER_WITHIN: Duration = Duration::from_millis(750);
/// The session's responder rekeys if its initiator has not done so for this long after it was due.
const RESPONDER_REKEY_GRACE: Duration = Duration::from_secs(10);
/// How often it is looked whether so much was sealed on a session that it needs a successor: at 10 million datagrams a second
/// two fifths of what is left to its lanes then.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// How often an address that seems to be this host's own is tried again.
const OWN_ADDRESS_RETRY: Duration = Duration::from_secs(60);
/// A session that only says why, or hands out the secret, lives for this long.
const FAREWELL: Duration = Duration::from_secs(5);
/// Addresses of a peer that are tried at once.
const MAX_CANDIDATES: usize = 4;

/// What a handshake was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Seed(SocketAddr),
    Peer(PeerId),
    /// The same, over a relay.
    Relayed(PeerId),
}

/// Handshakes with all addresses of one peer, begun together.
#[derive(Debug)]
pub(crate) struct Attempt {
    purpose: Purpose,
    n_open: usize,
}

impl Attempt {
    pub(crate) fn is_for(&self, peer: PeerId) -> bool {
        matches!(self.purpose, Purpose::Peer(id) | Purpose::Relayed(id) if id == peer)
    }
}

impl Node {
    /// Takes in a datagram of a handshake. Bad ones are dropped; whether it had an effect.
    pub fn handle_handshake(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        rng: &mut impl CryptoRng,
    ) -> bool {
        let from = canonical(from);
        if self.gate.is_shunned(from, now) {
            return false;
        }
        let accepted = self.handshakes.handle_datagram(from, datagram, now, rng).is_ok();
        self.drain_handshakes(now);
        accepted
    }

    /// Takes in an opened control message. Returns whether it was one.
    pub fn handle_control(&mut self, number: u32, bytes: &[u8], now: Instant) -> bool {
        self.handle_first_datagram(number, now);
        let Some(session) = self.sessions.get_mut(&number) else { return false };
        let Ok(message) = postcard::from_bytes::<Control<'_>>(bytes) else { return false };
        let (id, remote, is_direct) = (session.peer, session.remote, session.is_direct());
        let was_asked = session.unanswered_since.take().is_some();
        match message {
            Control::Mesh(bytes) if !self.joining => {
                session.meshed_at = Some(now);
                // An answer is not answered, or of two that have nothing more to say each would have the last word.
                if !was_asked {
                    session.owed_since.get_or_insert(now);
                }
                self.mesh.handle_message(id, bytes, now);
                self.pump(now);
            }
            Control::Mesh(_) => {}
            Control::Ping { nonce, seen_at } => {
                self.say_on(number, &Control::Pong { nonce }.to_bytes(), false, now);
                if let Some(peer) = self.peers.get_mut(&id) {
                    let due = now + awaited_ping(peer.is_kept(now));
                    peer.next_ping = peer.next_ping.max(due.min(peer.latest_ping));
                }
                let seen_at = seen_at.map(canonical).filter(|_| remote.port() != 0);
                if let Some(seen_at) = seen_at
                    && self.seen_at.insert(id, seen_at) != Some(seen_at)
                {
                    self.announce_addresses(now);
                }
            }
            Control::Pong { nonce } => self.handle_pong(id, nonce, is_direct, now),
            Control::Probe { nonce } => {
                self.say_on(number, &Control::ProbeAck { nonce }.to_bytes(), false, now);
            }
            Control::ProbeAck { nonce } => self.handle_probe_ack(id, nonce, now),
            Control::Relay { with } => self.serve(id, with, now),
            Control::Bench(message) => {
                // One that came with a token is not admitted yet.
                if !self.joining && session.ends.is_none() {
                    self.events.push_back(Event::Bench { id, message });
                }
            }
            Control::Refused(reason) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.refused_us = Some(reason);
                    peer.dial.failed(now);
                }
                for seed in self.seeds.values_mut().filter(|seed| seed.peer == Some(id)) {
                    seed.dial.failed(now);
                }
                self.drop_session(number);
            }
            Control::Welcome { secret } => {
                if self.joining
                    && let Ok(secret) = ClusterSecret::parse(secret)
                {
                    self.events.push_back(Event::Welcome(secret));
                    self.drop_session(number);
                }
            }
        }
        true
    }

    /// The first sealed datagram on a session was opened: the peer has its keys, so it can be sent on.
    pub fn handle_first_datagram(&mut self, number: u32, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if session.confirmed {
            return;
        }
        session.confirmed = true;
        if let Some(tag) = session.tag {
            self.attempts.remove(&tag);
        }
        self.handshakes.confirmed(number);
        self.use_session(number, now);
    }

    /// An authentic datagram with the newest counter of its session came from another address than before.
    pub fn handle_roamed(&mut self, number: u32, from: SocketAddr) {
        let from = canonical(from);
        let Some(session) = self.sessions.get_mut(&number) else { return };
        // A session that began over a relay, or did not, stays so: only its ends change their minds.
        if session.remote == from || from.port() == 0 || !session.is_direct() {
            return;
        }
        session.remote = from;
        self.dirty = true;
        // Another address is another path.
        self.next_probe = self.next_probe.min(self.tick.latest());
        if let Some(peer) = self.peers.get_mut(&session.peer).filter(|p| p.current == Some(number)) {
            peer.address = Some(from);
            let moved = KnownPeer { id: peer.id, name: peer.name.clone(), address: from };
            self.events.push_back(Event::PeerMoved(moved));
        }
    }

    pub(crate) fn drain_handshakes(&mut self, now: Instant) {
        while let Some(event) = self.handshakes.poll_event() {
            match event {
                HandshakeEvent::Established(established) => self.handle_established(established, now),
                HandshakeEvent::Reconfirm { session } => self.confirm(session, now),
                HandshakeEvent::Failed { tag, remote, session, reason } => {
                    session.into_iter().for_each(|number| self.drop_session(number));
                    self.handle_failed(tag, remote, reason, now);
                }
                _ => {}
            }
        }
        while let Some((to, datagram)) = self.handshakes.poll_transmit() {
            self.transmit(to, datagram);
        }
    }

    fn handle_established(&mut self, established: Established, now: Instant) {
        let Established { role, tag, peer: id, hello, remote, session: number, send, recv, secret, .. } =
            established;
        let remote = canonical(remote);
        self.handshakes_made += 1;
        let Some(Hello { name }) = Hello::from_bytes(&hello) else {
            self.handshakes.release(number);
            return;
        };
        // The attempt has ended but for its confirmation; what it was for is needed again only if that fails.
        if let Some(Purpose::Seed(address)) = tag.and_then(|t| self.attempts.get(&t)).map(|a| a.purpose)
            && let Some(seed) = self.seeds.get_mut(&address)
        {
            seed.peer = Some(id);
            seed.dial.reset(now);
        }
        let confirmed = role == Role::Responder;
        let activity = Arc::new(SessionActivity::default());
        activity.tell_once.store(!confirmed, Ordering::Relaxed);
        let mut session = Session {
            number,
            peer: id,
            role,
            tag,
            secret,
            born: now,
            remote,
            confirmed,
            send,
            recv,
            activity,
            n_heard: 0,
            unanswered_since: None,
            owed_since: None,
            meshed_at: None,
            ends: None,
        };
        if !self.joining && self.gate.is_token(secret) {
            let welcome = confirmed && self.gate.use_token(secret, now);
            if !welcome {
                self.handshakes.release(number);
                return;
            }
            session.ends = Some(now + FAREWELL);
            self.sessions.insert(number, session);
            self.dirty = true;
            self.events.push_back(Event::TokenUsed(KnownPeer { id, name, address: remote }));
            self.confirm(number, now);
            return;
        }
        if !self.joining && !self.admitted(&session, &name, now) {
            return;
        }
        let full = self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&id);
        if full {
            self.handshakes.release(number);
            return;
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id, name.clone(), None, now));
        let news = peer.address != Some(remote) || peer.name != name;
        peer.name.clone_from(&name);
        if news && remote.port() != 0 {
            peer.address = Some(remote);
            self.events.push_back(Event::PeerMoved(KnownPeer { id, name, address: remote }));
        }
        self.sessions.insert(number, session);
        self.dirty = true;
        if confirmed {
            self.use_session(number, now);
        }
    }

    /// Whether the peer of a new session may have it. If not, the session is gone, and the peer was told unless it is
    /// revoked.
    fn admitted(&mut self, session: &Session, name: &str, now: Instant) -> bool {
        let (id, remote, number) = (session.peer, session.remote, session.number);
        let Err(reason) = self.gate.admit(id, name) else { return true };
        if self.gate.is_revoked(id) {
            if remote.port() != 0 {
                self.gate.shun(remote, now);
            }
        } else {
            let refused = RefusedPeer { id, name: name.to_owned(), address: remote, reason: reason.clone() };
            if self.gate.refused.get(&id) != Some(&refused) {
                self.events.push_back(Event::Refused(refused.clone()));
            }
            self.gate.refuse(refused);
            if session.confirmed {
                self.seal_control(session.send.as_ref(), remote, &Control::Refused(reason).to_bytes());
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.dial.failed(now);
        }
        self.handshakes.release(number);
        false
    }

    /// Shows the initiator of `session` that it works.
    fn confirm(&mut self, number: u32, now: Instant) {
        let Some(session) = self.sessions.get(&number) else { return };
        if session.ends.is_some() {
            if let Some(secret) = self.secrets.first() {
                let text = secret.to_text();
                let welcome = Control::Welcome { secret: &text }.to_bytes();
                self.say_on(number, &welcome, false, now);
            }
        } else {
            self.say_on(number, &Control::Pong { nonce: 0 }.to_bytes(), false, now);
        }
    }

    /// Sends on session `number` from now on, unless its peer has a younger one.
    fn use_session(&mut self, number: u32, now: Instant) {
        let Some(session) = self.sessions.get(&number) else { return };
        let (id, born, role) = (session.peer, session.born, session.role);
        let is_direct = session.is_direct();
        let alike = |s: &&Session| s.peer == id && s.confirmed && s.is_direct() == is_direct;
        let newest = self.sessions.values().filter(alike).map(|s| s.born).max();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if newest.is_some_and(|newest| newest > born) {
            return;
        }
        let current = peer.current.and_then(|number| self.sessions.get(&number));
        if !is_direct && !peer.is_cut && current.is_some_and(Session::is_direct) {
            // The peer does not reach this host directly, and this host has not noticed yet.
            if role == Role::Responder {
                self.confirm(number, now);
            }
            return;
        }
        if peer.current.replace(number).is_none() {
            peer.path_mtu.doubt(now);
        }
        peer.last_heard = Some(now);
        if is_direct {
            peer.last_heard_directly = Some(now);
            peer.n_unanswered = 0;
            peer.dial.reset(now);
        } else {
            peer.relay_dial.reset(now);
        }
        peer.refused_us = None;
        peer.next_ping = now;
        if is_direct && std::mem::take(&mut peer.is_cut) {
            peer.relay = None;
            let name = peer.name.clone();
            self.mesh.peer_reachable(id);
            self.events.push_back(Event::PathChanged { id, name, direct: true });
        }
        self.dirty = true;
        self.tick.hasten(now);
        self.next_probe = now;
        let queue = self.peers.get_mut(&id).map(|p| std::mem::take(&mut p.queue)).unwrap_or_default();
        let waiting = self.seeds.values_mut().filter(|seed| seed.peer == Some(id));
        let waiting: Vec<Vec<u8>> = waiting.filter_map(|seed| seed.message.take()).collect();
        if role == Role::Responder && queue.is_empty() && waiting.is_empty() {
            self.confirm(number, now);
        }
        for message in queue.into_iter().chain(waiting) {
            self.say_on(number, &message, true, now);
        }
    }

    fn handle_failed(&mut self, tag: u64, remote: SocketAddr, reason: FailReason, now: Instant) {
        self.handshakes_failed += 1;
        let Some(attempt) = self.attempts.get_mut(&tag) else { return };
        attempt.n_open = attempt.n_open.saturating_sub(1);
        if attempt.n_open > 0 {
            return;
        }
        let purpose = attempt.purpose;
        self.attempts.remove(&tag);
        match purpose {
            Purpose::Seed(address) => {
                if let Some(seed) = self.seeds.get_mut(&address) {
                    seed.itself = reason == FailReason::Itself;
                    seed.dial.failed(now);
                    seed.message = None;
                    if seed.itself {
                        // Someone on the path can forge this, so it is no reason to give up.
                        seed.dial.next = now + OWN_ADDRESS_RETRY;
                    }
                }
            }
            Purpose::Relayed(id) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.relay_dial.failed(now);
                }
            }
            Purpose::Peer(id) => {
                // A peer may have called us while our call to it failed.
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.dial.failed(now);
                    let silent = peer.last_heard_directly.is_none_or(|heard| now >= heard + CUT_AFTER);
                    if !peer.is_cut {
                        peer.queue.clear();
                    }
                    if remote.port() != 0 && silent {
                        self.cut_off(id, now);
                    }
                }
            }
        }
        self.tick.hasten(now + Duration::from_millis(100));
    }

    /// `id` does not answer directly. When others say that it is alive, all are told that the two are cut off.
    fn cut_off(&mut self, id: PeerId, now: Instant) {
        if !self.mesh.is_up(id) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&id)
            && !peer.is_cut
        {
            peer.is_cut = true;
            peer.relay_dial.reset(now);
            self.tick.hasten(now);
            let relayed = self.sessions.values().filter(|s| s.peer == id && s.confirmed && !s.is_direct());
            peer.current = relayed.max_by_key(|s| s.born).map(|s| s.number).or(peer.current);
            let name = peer.name.clone();
            self.events.push_back(Event::PathChanged { id, name, direct: false });
            self.mesh.peer_unreachable(id);
            self.dirty = true;
        }
    }

    pub(crate) fn watch_sessions(&mut self, now: Instant) {
        for session in self.sessions.values_mut() {
            if session.take_heard() {
                session.unanswered_since = None;
                if let Some(peer) = self.peers.get_mut(&session.peer) {
                    peer.last_heard = Some(now);
                    if session.is_direct() {
                        peer.last_heard_directly = Some(now);
                    }
                }
            }
        }
        let lifetime = self.rekey_after + (REJECT_AFTER - REKEY_AFTER);
        let expired = |s: &&Session| now >= s.born + lifetime || s.ends.is_some_and(|end| now >= end);
        let expired: Vec<u32> = self.sessions.values().filter(expired).map(|s| s.number).collect();
        for number in expired {
            self.drop_session(number);
        }
        let silent: Vec<PeerId> = self
            .peers
            .values()
            .filter(|p| p.is_kept(now) && !p.is_cut && p.current.is_some())
            .filter(|p| {
                // One that has become a neighbor or relay a moment ago may have had nothing to say before.
                let was_asked = p.n_unanswered >= MIN_UNANSWERED;
                let is_silent = p.last_heard_directly.is_none_or(|heard| now >= heard + CUT_AFTER);
                (is_silent && was_asked) || p.n_unanswered >= MAX_UNANSWERED
            })
            .map(|p| p.id)
            .collect();
        for id in silent {
            self.cut_off(id, now);
        }
        // Who is known by hearsay only, and no longer to the mesh, is forgotten.
        let mesh = &self.mesh;
        self.peers
            .retain(|id, peer| peer.address.is_some() || peer.current.is_some() || mesh.peer(*id).is_some());
    }

    pub(crate) fn drop_session(&mut self, number: u32) {
        let Some(session) = self.sessions.remove(&number) else { return };
        self.handshakes.release(number);
        self.dirty = true;
        let (id, left) = (session.peer, &self.sessions);
        if let Some(peer) = self.peers.get_mut(&id).filter(|p| p.current == Some(number)) {
            let others = left.values().filter(|s| s.peer == id && s.confirmed && s.ends.is_none());
            peer.current = others.max_by_key(|s| (s.is_direct() != peer.is_cut, s.born)).map(|s| s.number);
        }
    }

    /// Pings whom a session is kept with, and answers what was not answered otherwise.
    pub(crate) fn keep_alive(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        let mut due = Vec::new();
        for peer in self.peers.values_mut() {
            let Some(session) = peer.current.and_then(|n| self.sessions.get(&n)) else { continue };
            let is_kept = peer.is_kept(now);
            if is_kept {
                // It may have become one a moment ago.
                peer.next_ping = peer.next_ping.min(now + awaited_ping(true));
            }
            if now >= peer.next_ping {
                peer.next_ping = now + ping_interval(is_kept);
                peer.latest_ping = now + ping_interval(is_kept) * PINGED_INTERVALS;
                let nonce = rng.random_range(1..=u32::MAX);
                peer.ping = Some((nonce, now));
                let seen_at = Some(session.remote).filter(|remote| remote.port() != 0);
                peer.n_unanswered += u32::from(session.is_direct());
                due.push((session.number, Control::Ping { nonce, seen_at }, is_kept));
            } else if session.owed_since.is_some_and(|since| now >= since + ANSWER_WITHIN) {
                due.push((session.number, Control::Pong { nonce: 0 }, false));
            }
        }
        for (number, message, expects) in due {
            self.say_on(number, &message.to_bytes(), expects, now);
        }
    }

    pub(crate) fn dial(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        let mut due: Vec<(Purpose, Vec<SocketAddr>)> = Vec::new();
        let suite = self.handshakes.suite();
        let preferred = self.secrets.first().map(ClusterSecret::id);
        // A lane seals few in that time beside what it may, and the counters of all lanes are seldom in the cache.
        let counts = now >= self.next_count;
        if counts {
            self.next_count = now + COUNT_EVERY;
        }
        for peer in self.peers.values_mut().filter(|_| !self.joining) {
            let session = peer.current.and_then(|n| self.sessions.get(&n));
            let wanted = match session {
                None => !peer.queue.is_empty() || peer.is_kept(now),
                Some(session) => {
                    let doubted = session.unanswered_since.is_some_and(|t| now >= t + DOUBT_AFTER);
                    let in_use = peer.is_kept(now) || session.is_in_use(now);
                    let is_preferred = preferred.is_none_or(|secret| secret == session.secret);
                    let is_due = is_old(session, self.rekey_after, now)
                        || (counts && session.send.n_sealed() >= suite.rekey_after_datagrams());
                    doubted || (in_use && (!is_preferred || is_due))
                }
            };
            let is_relayed = session.is_some_and(|session| !session.is_direct());
            let over_relay =
                peer.is_cut && peer.relay.is_some() && (wanted || (session.is_some() && !is_relayed));
            if over_relay && !peer.relay_dial.trying && now >= peer.relay_dial.next {
                peer.relay_dial.trying = true;
                due.push((Purpose::Relayed(peer.id), vec![peer.id.relayed_address()]));
            }
            if (wanted || peer.is_cut || is_relayed) && !peer.dial.trying && now >= peer.dial.next {
                let mut addresses: Vec<SocketAddr> = peer.address.into_iter().collect();
                for address in self.mesh.addresses(peer.id).into_iter().map(canonical) {
                    // What a peer says of itself is not to be taken for a relayed address.
                    if !addresses.contains(&address) && address.port() != 0 {
                        addresses.push(address);
                    }
                }
                addresses.truncate(MAX_CANDIDATES);
                if addresses.is_empty() {
                    continue;
                }
                peer.dial.trying = true;
                due.push((Purpose::Peer(peer.id), addresses));
            }
        }
        let gate = &self.gate;
        for (address, seed) in self.seeds.iter_mut().filter(|(address, _)| !gate.is_shunned(**address, now)) {
            let wanted = seed.message.is_some() || (self.joining && seed.peer.is_none());
            if wanted && !seed.dial.trying && now >= seed.dial.next {
                seed.dial.trying = true;
                due.push((Purpose::Seed(*address), vec![*address]));
            }
        }
        for (purpose, addresses) in due {
            let tag = self.next_tag;
            self.next_tag += 1;
            self.attempts.insert(tag, Attempt { purpose, n_open: addresses.len() });
            for address in addresses {
                self.handshakes.initiate(address, tag, now, rng);
            }
        }
        self.drain_handshakes(now);
    }

    /// Seals a message of the mesh for a peer on its session, if it has one. The peer will answer, unless this is the answer.
    pub(crate) fn say_of_mesh(&mut self, id: PeerId, message: &[u8], now: Instant) -> bool {
        let Some(number) = self.peers.get(&id).and_then(|p| p.current) else { return false };
        let Some(session) = self.sessions.get_mut(&number) else { return false };
        session.meshed_at = Some(now);
        let is_answer = session.owed_since.is_some();
        self.say_on(number, message, !is_answer, now)
    }

    /// Seals a message for a peer on its session, if it has one; `expects`: the peer will answer.
    pub(crate) fn say(&mut self, id: PeerId, message: &[u8], expects: bool, now: Instant) -> bool {
        let current = self.peers.get(&id).and_then(|p| p.current);
        current.is_some_and(|number| self.say_on(number, message, expects, now))
    }

    pub(crate) fn say_on(&mut self, number: u32, message: &[u8], expects: bool, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(&number) else { return false };
        session.owed_since = None;
        if expects {
            session.unanswered_since.get_or_insert(now);
        }
        let (send, remote) = (Arc::clone(&session.send), session.remote);
        self.seal_control(&send, remote, message)
    }

    fn seal_control(&mut self, send: &weft_noise::SendSession, remote: SocketAddr, message: &[u8]) -> bool {
        let Ok(counter) = send.reserve(Lane::CONTROL, 1) else { return false };
        let mut datagram = vec![0; HEADER_LEN];
        let inner = InnerHeader { kind: InnerKind::Control, ttl: 0, network: NetworkId::from_u48(0) };
        datagram.reserve_exact(INNER_HEADER_LEN + message.len() + TAG_LEN);
        datagram.extend(inner.to_bytes());
        datagram.extend(message);
        datagram.extend([0; TAG_LEN]);
        send.seal(Lane::CONTROL, counter, &mut datagram);
        self.transmit(remote, datagram);
        true
    }
}

impl Session {
    /// Whether nothing was said on it that still waits for an answer, but for a moment.
    pub(crate) fn is_answered(&self, now: Instant) -> bool {
        self.unanswered_since.is_none_or(|since| now < since + CUT_AFTER)
    }

    /// Whether it is young enough, or something but keepalives passed lately.
    fn is_in_use(&self, now: Instant) -> bool {
        now < self.born + IDLE_AFTER || self.meshed_at.is_some_and(|at| now < at + LATELY)
    }
}

fn ping_interval(is_kept: bool) -> Duration {
    if is_kept { PING_INTERVAL } else { KEEPALIVE_INTERVAL }
}

/// How long the other side's ping is waited for, which may come a little late.
fn awaited_ping(is_kept: bool) -> Duration {
    ping_interval(is_kept) * 3 / 2
}

/// Whether the session is to have a successor for its age.
fn is_old(session: &Session, after: Duration, now: Instant) -> bool {
    let due = match session.role {
        Role::Initiator => after,
        Role::Responder => after + RESPONDER_REKEY_GRACE.min(after / 2),
    };
    now >= session.born + due
}
