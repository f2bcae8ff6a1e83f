//! Echoes that an operator asks a peer for.

use std::time::Instant;

use rand::{CryptoRng, RngExt};
use weft_wire::PeerId;

use crate::control::Control;
use crate::node::{Event, Node};

impl Node {
    /// Asks a peer for an echo, inside a session; without one, a session is made first, and the round trip includes
    /// that. [`Event::Echoed`] with the number that is returned tells that it came back; nothing tells that it did not.
    /// `None`: no such peer is known.
    pub fn send_echo(&mut self, peer: PeerId, now: Instant, rng: &mut impl CryptoRng) -> Option<u32> {
        let nonce = rng.random_range(1..=u32::MAX);
        let known = self.peers.get_mut(&peer)?;
        known.expect_echo(nonce, now);
        let session = known.current.and_then(|number| self.sessions.get(&number));
        let seen_at = session.map(|s| s.remote).filter(|remote| remote.port() != 0);
        let message = Control::Ping { nonce, seen_at }.to_bytes();
        if !self.say(peer, &message, true, now)
            && let Some(known) = self.peers.get_mut(&peer)
        {
            known.enqueue(message);
            known.dial.hurry(now);
            self.tick.hasten(now);
        }
        Some(nonce)
    }

    pub(crate) fn handle_pong(&mut self, id: PeerId, nonce: u32, is_direct: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.pong(nonce, now);
        if is_direct && nonce != 0 {
            peer.n_unanswered = 0;
        }
        if let Some(rtt) = peer.take_echo(nonce, now) {
            self.events.push_back(Event::Echoed { id, nonce, rtt });
        }
    }
}
