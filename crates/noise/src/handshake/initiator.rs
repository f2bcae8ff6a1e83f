//! Handshakes that this side began.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;
use weft_wire::{Header, MessageType};
use zeroize::Zeroizing;

use super::datagram::{Mac, Parsed, build, index_of, open_cookie};
use super::noise::Noise;
use super::{DropReason, FailReason, HandshakeEvent, Handshakes, PeerSide, Role, payload_of};
use crate::secret::SecretKeys;
use crate::{FINISH_RESEND_FIRST, FINISH_RESEND_MAX, HANDSHAKE_TIMEOUT, INIT_RESEND_FIRST, INIT_RESEND_MAX};

/// Cookies that are answered at once, in an attempt.
pub(super) const MAX_COOKIES_PER_ATTEMPT: u8 = 4;

pub(super) struct Initiation {
    tag: u64,
    to: SocketAddr,
    keys: Arc<SecretKeys>,
    pub(super) phase: Phase,
    /// The Noise message that is sent until it has its effect.
    message: Vec<u8>,
    cookie: Option<Mac>,
    n_cookies: u8,
    /// That of the last datagram sent; a cookie answers it.
    mac1: Mac,
    /// Until the next time the message is sent.
    wait: Duration,
    due: Instant,
    deadline: Instant,
}

pub(super) enum Phase {
    /// Init is sent.
    Dialing(Box<Noise>),
    /// Finish is sent.
    Finishing { remote_session: u32 },
}

impl Initiation {
    fn datagram(&mut self, session: u32) -> Vec<u8> {
        let (message, receiver) = match self.phase {
            Phase::Dialing(_) => (MessageType::Init, 0),
            Phase::Finishing { remote_session } => (MessageType::Finish, remote_session),
        };
        let (datagram, mac1) =
            build(message, receiver, session, &self.message, &self.keys, self.cookie.as_ref());
        self.mac1 = mac1;
        datagram
    }

    /// Sets the time of the next attempt, and doubles the wait after it.
    fn schedule(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        let jitter = self.wait / 4 * (rng.next_u32() >> 24) / 256;
        self.due = (now + self.wait + jitter).min(self.deadline);
        let max = match self.phase {
            Phase::Dialing(_) => INIT_RESEND_MAX,
            Phase::Finishing { .. } => FINISH_RESEND_MAX,
        };
        self.wait = (self.wait * 2).min(max);
    }
}

impl Handshakes {
    /// Begins a handshake with whoever is at `to`. `tag` comes back in its event.
    ///
    /// It ends in [`HandshakeEvent::Established`] or [`HandshakeEvent::Failed`], unless [cancelled](Self::cancel).
    pub fn initiate(&mut self, to: SocketAddr, tag: u64, now: Instant, rng: &mut dyn CryptoRng) {
        let Some(keys) = self.secrets.first().cloned() else {
            let reason = FailReason::NoSecret;
            self.events.push_back(HandshakeEvent::Failed { tag, remote: to, session: None, reason });
            return;
        };
        let session = self.new_session(rng);
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let mut noise = Noise::new(Role::Initiator, self.suite, &self.identity, &keys, &seed);
        // Init agrees on no secret yet, so it cannot fail on a peer's key.
        let message = noise.write(&[]).expect("the first message can always be written");
        let mut initiation = Initiation {
            tag,
            to,
            keys,
            phase: Phase::Dialing(Box::new(noise)),
            message,
            cookie: None,
            n_cookies: 0,
            mac1: Mac::default(),
            wait: INIT_RESEND_FIRST,
            due: now,
            deadline: now + HANDSHAKE_TIMEOUT,
        };
        self.transmits.push_back((to, initiation.datagram(session)));
        initiation.schedule(now, rng);
        self.timers.insert((initiation.due, session));
        self.dialed.entry(to).or_default().n_initiations += 1;
        self.initiations.insert(session, initiation);
    }

    /// Stops every attempt with `tag`, without an event. Sessions that such an attempt has already established stay
    /// the caller's, to be [released](Self::release); their Finish is not sent again.
    pub fn cancel(&mut self, tag: u64) {
        let of_tag = self.initiations.iter().filter(|(_, initiation)| initiation.tag == tag);
        let sessions: Vec<u32> = of_tag.map(|(&session, _)| session).collect();
        for session in sessions {
            if let Some(Initiation { phase: Phase::Dialing(_), .. }) = self.forget_initiation(session) {
                self.live.remove(&session);
            }
        }
    }

    /// A datagram was opened on `session`: the responder has the keys, and Finish need not be sent again.
    pub fn confirmed(&mut self, session: u32) {
        if let Some(Phase::Finishing { .. }) = self.initiations.get(&session).map(|i| &i.phase) {
            self.forget_initiation(session);
        }
    }

    pub(super) fn handle_response(
        &mut self,
        parsed: &Parsed<'_>,
        now: Instant,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), DropReason> {
        let session = parsed.receiver;
        let initiation = self.initiations.get_mut(&session).ok_or(DropReason::UnknownSession)?;
        if !parsed.verify_mac1(&initiation.keys) {
            return Err(DropReason::BadMac);
        }
        let Phase::Dialing(noise) = &mut initiation.phase else {
            return Err(DropReason::Duplicate);
        };
        let payload = noise.read(parsed.noise).ok_or(DropReason::BadHandshake)?;
        // From here on the Noise state has moved: the attempt goes on, or ends.
        let Some(peer) = PeerSide::new(noise, &payload, initiation.keys.id) else {
            self.fail(session, FailReason::BadAnswer);
            return Err(DropReason::BadHandshake);
        };
        if peer.public_key == self.identity.public_key() {
            self.fail(session, FailReason::Itself);
            return Err(DropReason::Itself);
        }
        let Some(message) = noise.write(&payload_of(session, &self.hello)) else {
            self.fail(session, FailReason::BadAnswer);
            return Err(DropReason::BadHandshake);
        };
        let finishing = Phase::Finishing { remote_session: peer.session };
        let Phase::Dialing(noise) = mem::replace(&mut initiation.phase, finishing) else {
            return Err(DropReason::Duplicate);
        };
        let keys = noise.split();
        self.timers.remove(&(initiation.due, session));
        initiation.message = message;
        initiation.wait = FINISH_RESEND_FIRST;
        initiation.deadline = now + HANDSHAKE_TIMEOUT;
        initiation.schedule(now, rng);
        self.timers.insert((initiation.due, session));
        let (tag, to) = (initiation.tag, initiation.to);
        self.transmits.push_back((to, initiation.datagram(session)));
        let event = self.established(Role::Initiator, Some(tag), to, session, peer, &keys);
        self.events.push_back(event);
        Ok(())
    }

    pub(super) fn handle_cookie(&mut self, header: &Header, datagram: &[u8]) -> Result<(), DropReason> {
        let session = header.receiver.session();
        if header.receiver != index_of(session) || header.counter != 0 {
            return Err(DropReason::Malformed);
        }
        let initiation = self.initiations.get_mut(&session).ok_or(DropReason::UnknownSession)?;
        let cookie =
            open_cookie(datagram, &initiation.keys, &initiation.mac1).ok_or(DropReason::BadCookie)?;
        // An honest responder demands one cookie, and another when its key has just changed. One that demands more
        // must not make us send at its pace.
        if initiation.n_cookies >= MAX_COOKIES_PER_ATTEMPT {
            return Err(DropReason::RateLimited);
        }
        initiation.n_cookies += 1;
        initiation.cookie = Some(cookie);
        let datagram = initiation.datagram(session);
        self.transmits.push_back((initiation.to, datagram));
        Ok(())
    }

    /// Sends the message of `session` again, whose timer has just been removed, or gives up.
    pub(super) fn retry_initiation(&mut self, session: u32, now: Instant, rng: &mut dyn CryptoRng) {
        let Some(initiation) = self.initiations.get_mut(&session) else { return };
        if now >= initiation.deadline {
            let stranger_heard = self.dialed.get(&initiation.to).is_some_and(|dialed| dialed.stranger_heard);
            let reason = match initiation.phase {
                Phase::Finishing { .. } => FailReason::NotConfirmed,
                Phase::Dialing(_) if stranger_heard => FailReason::WrongSecretOrVersion,
                Phase::Dialing(_) => FailReason::NoAnswer,
            };
            self.fail(session, reason);
            return;
        }
        let datagram = initiation.datagram(session);
        self.transmits.push_back((initiation.to, datagram));
        initiation.schedule(now, rng);
        self.timers.insert((initiation.due, session));
    }

    fn fail(&mut self, session: u32, reason: FailReason) {
        let Some(Initiation { tag, to, phase, .. }) = self.forget_initiation(session) else { return };
        self.live.remove(&session);
        let session = matches!(phase, Phase::Finishing { .. }).then_some(session);
        self.events.push_back(HandshakeEvent::Failed { tag, remote: to, session, reason });
    }

    pub(super) fn forget_initiation(&mut self, session: u32) -> Option<Initiation> {
        let initiation = self.initiations.remove(&session)?;
        self.timers.remove(&(initiation.due, session));
        if let Some(dialed) = self.dialed.get_mut(&initiation.to) {
            dialed.n_initiations -= 1;
            if dialed.n_initiations == 0 {
                self.dialed.remove(&initiation.to);
            }
        }
        Some(initiation)
    }
}
