//! Handshakes that peers began.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand_core::CryptoRng;
use weft_wire::MessageType;
use zeroize::Zeroizing;

use super::datagram::{COOKIE_NONCE_LEN, Mac, Parsed, build, build_cookie};
use super::limits::Verdict;
use super::noise::{Noise, Seed};
use super::{DropReason, HandshakeEvent, Handshakes, PeerSide, Role, payload_of};
use crate::secret::SecretKeys;
use crate::{HALF_OPEN_TIMEOUT, MAX_HALF_OPEN};

pub(super) struct Response {
    from: SocketAddr,
    keys: Arc<SecretKeys>,
    /// Digest of the Init answered.
    init: Mac,
    due: Instant,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    /// Response is sent.
    HalfOpen(Box<HalfOpen>),
    /// The Finish of this digest came, and a session was made.
    Done { finish: Mac },
}

pub(super) struct HalfOpen {
    noise: Noise,
    /// With the next two fields, of what `noise` can be made again.
    seed: Seed,
    init: Vec<u8>,
    payload: Vec<u8>,
    /// The peer's session number according to Init's header.
    sender: u32,
    datagram: Vec<u8>,
}

impl Handshakes {
    pub(super) fn handle_init(
        &mut self,
        parsed: &Parsed<'_>,
        from: SocketAddr,
        now: Instant,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), DropReason> {
        let keys = self.secrets.iter().find(|keys| parsed.verify_mac1(keys)).cloned();
        let keys = keys.ok_or(DropReason::BadMac)?;
        match self.limits.judge(parsed, from, now, rng) {
            Verdict::Accept => {}
            Verdict::Drop => return Err(DropReason::RateLimited),
            Verdict::Demand(cookie) => {
                let mut nonce = [0; COOKIE_NONCE_LEN];
                rng.fill_bytes(&mut nonce);
                self.transmits.push_back((from, build_cookie(parsed, &keys, &cookie, nonce)));
                return Err(DropReason::CookieDemanded);
            }
        }
        let init = parsed.digest(&keys);
        if let Some(session) = self.answered.get(&(from, init)) {
            let Some(Stage::HalfOpen(half_open)) = self.responses.get(session).map(|r| &r.stage) else {
                return Err(DropReason::Duplicate);
            };
            self.transmits.push_back((from, half_open.datagram.clone()));
            return Ok(());
        }
        // Those that are done are as many again at most.
        if self.n_half_open >= MAX_HALF_OPEN || self.responses.len() >= 2 * MAX_HALF_OPEN {
            return Err(DropReason::TooManyHalfOpen);
        }

        let session = self.new_session(rng);
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let payload = payload_of(session, &self.hello);
        let Some((noise, message)) = self.respond(&keys, &seed, parsed.noise, &payload) else {
            self.live.remove(&session);
            return Err(DropReason::BadHandshake);
        };
        let (datagram, _) = build(MessageType::Response, parsed.sender, session, &message, &keys, None);
        self.transmits.push_back((from, datagram.clone()));
        let half_open =
            HalfOpen { noise, seed, init: parsed.noise.to_vec(), payload, sender: parsed.sender, datagram };
        let due = now + HALF_OPEN_TIMEOUT;
        let response = Response { from, keys, init, due, stage: Stage::HalfOpen(Box::new(half_open)) };
        self.responses.insert(session, response);
        self.answered.insert((from, init), session);
        self.n_half_open += 1;
        self.timers.insert((due, session));
        Ok(())
    }

    /// The state after Response was written, and Response's Noise message.
    fn respond(
        &self,
        keys: &SecretKeys,
        seed: &Seed,
        init: &[u8],
        payload: &[u8],
    ) -> Option<(Noise, Vec<u8>)> {
        let mut noise = Noise::new(Role::Responder, self.suite, &self.identity, keys, seed);
        noise.read(init)?;
        let message = noise.write(payload)?;
        Some((noise, message))
    }

    pub(super) fn handle_finish(
        &mut self,
        parsed: &Parsed<'_>,
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), DropReason> {
        let session = parsed.receiver;
        let response = self.responses.get_mut(&session).ok_or(DropReason::UnknownSession)?;
        if !parsed.verify_mac1(&response.keys) {
            return Err(DropReason::BadMac);
        }
        if from != response.from {
            return Err(DropReason::WrongAddress);
        }
        let digest = parsed.digest(&response.keys);
        let secret = response.keys.id;
        let half_open = match &mut response.stage {
            Stage::HalfOpen(half_open) if half_open.sender == parsed.sender => half_open,
            Stage::HalfOpen(_) => return Err(DropReason::BadHandshake),
            Stage::Done { finish } if *finish == digest => {
                self.events.push_back(HandshakeEvent::Reconfirm { session });
                return Ok(());
            }
            Stage::Done { .. } => return Err(DropReason::Duplicate),
        };
        let read = half_open.noise.read(parsed.noise);
        let peer = read.and_then(|payload| PeerSide::new(&half_open.noise, &payload, secret));
        let Some(peer) = peer else {
            self.restore(session);
            return Err(DropReason::BadHandshake);
        };
        if peer.public_key == self.identity.public_key() {
            self.forget_response(session);
            self.live.remove(&session);
            return Err(DropReason::Itself);
        }
        let due = now + HALF_OPEN_TIMEOUT;
        self.timers.remove(&(response.due, session));
        self.timers.insert((due, session));
        response.due = due;
        self.n_half_open -= 1;
        let stage = mem::replace(&mut response.stage, Stage::Done { finish: digest });
        if let Stage::HalfOpen(half_open) = stage {
            let keys = half_open.noise.split();
            self.events.push_back(self.established(Role::Responder, None, from, session, peer, &keys));
        }
        Ok(())
    }

    /// Makes the Noise state of `session` again. A Finish that is wrong only after its first part has spoiled it, and
    /// must not keep the right one from being read.
    fn restore(&mut self, session: u32) {
        let made = self.responses.get(&session).and_then(|response| match &response.stage {
            Stage::HalfOpen(half_open) => {
                self.respond(&response.keys, &half_open.seed, &half_open.init, &half_open.payload)
            }
            Stage::Done { .. } => None,
        });
        let Some((noise, _)) = made else { return };
        if let Some(Stage::HalfOpen(half_open)) = self.responses.get_mut(&session).map(|r| &mut r.stage) {
            half_open.noise = noise;
        }
    }

    /// Forgets what was half open, with its number, or that `session` was made: the number is then the caller's.
    pub(super) fn expire_response(&mut self, session: u32) {
        if let Some(Stage::HalfOpen(_)) = self.forget_response(session) {
            self.live.remove(&session);
        }
    }

    pub(super) fn forget_response(&mut self, session: u32) -> Option<Stage> {
        let response = self.responses.remove(&session)?;
        self.timers.remove(&(response.due, session));
        self.answered.remove(&(response.from, response.init));
        if matches!(response.stage, Stage::HalfOpen(_)) {
            self.n_half_open -= 1;
        }
        Some(response.stage)
    }
}
