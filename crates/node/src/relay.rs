//! Peers that do not reach each other talk over a third, which cannot open what it hands on.
//!
//! Where a peer is reached over a relay its [relayed address](PeerId::relayed_address) stands for it, so that handshakes
//! and sessions need not know. What goes there is sealed once more, for the relay, on the way out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weft_wire::{AddressFamily, Lane, PeerId, RELAY_OVERHEAD, overhead};

use crate::control::Control;
use crate::node::{Node, Transmit, canonical};
use crate::path_mtu::Route;
use crate::peer::Session;

/// How often a relay is told for whom it is needed.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long it keeps its sessions after that.
const SERVE_FOR: Duration = Duration::from_secs(16);

impl Node {
    /// Sends a datagram, over a relay where its address asks for that. One for which there is no relay is dropped, as the
    /// network would; whoever waits for an answer sends it again.
    pub(crate) fn transmit(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        let Some(target) = PeerId::of_relayed_address(to) else {
            self.outbox.push_back(Transmit { to, datagram });
            return;
        };
        let Some(session) = self.relay_to(target).and_then(|relay| self.direct_session(relay)) else {
            return;
        };
        let Ok(counter) = session.send.reserve(Lane::CONTROL, 1) else { return };
        let mut outer = Vec::with_capacity(datagram.len() + RELAY_OVERHEAD);
        target.write_relay_request(&datagram, &mut outer);
        session.send.seal(Lane::CONTROL, counter, &mut outer);
        self.outbox.push_back(Transmit { to: session.remote, datagram: outer });
    }

    /// The session in use with a peer, if it is reached directly.
    fn direct_session(&self, peer: PeerId) -> Option<&Session> {
        let peer = self.peers.get(&peer).filter(|peer| !peer.is_cut)?;
        self.sessions.get(&peer.current?).filter(|session| session.is_direct())
    }

    /// Who hands on to `target`.
    fn relay_to(&self, target: PeerId) -> Option<PeerId> {
        let chosen = self.peers.get(&target).and_then(|peer| peer.relay);
        // Who is called over a relay answers over one, before it notices that it is cut off.
        chosen.or_else(|| self.choose_relay(target))
    }

    /// Of those that reach both: who is near, and then the one that the mesh's order names first, so that all hosts do not
    /// choose the same. One without a session only when there is no other.
    fn choose_relay(&self, target: PeerId) -> Option<PeerId> {
        let relays = self.mesh.relays_for(target);
        let distance = |relay: &PeerId| {
            self.direct_session(*relay)?;
            let rtt = self.peers.get(relay).and_then(|peer| peer.rtt);
            // Distances that differ by less than a factor are alike.
            Some(rtt.map_or(u32::MAX, |rtt| (rtt.as_micros() / 500).checked_ilog2().map_or(0, |log| log + 1)))
        };
        let near = relays.iter().filter_map(|relay| distance(relay).map(|distance| (distance, *relay)));
        near.min_by_key(|(distance, _)| *distance).map(|(_, relay)| relay).or(relays.first().copied())
    }

    /// Chooses relays for those that need one, keeps sessions with them, and lets them know.
    pub(crate) fn update_relays(&mut self, now: Instant) {
        let is_relayed = |number: Option<u32>| {
            number.and_then(|number| self.sessions.get(&number)).is_some_and(|session| !session.is_direct())
        };
        let needy = |peer: &&crate::peer::Peer| {
            self.mesh.is_up(peer.id)
                && (peer.is_cut || is_relayed(peer.current))
                && !self.gate.is_barred(peer.id)
        };
        let choices: Vec<(PeerId, Option<PeerId>)> = self
            .peers
            .values()
            .filter(needy)
            .map(|peer| {
                let serves = |relay: &PeerId| {
                    self.direct_session(*relay).is_some() && self.mesh.relays_for(peer.id).contains(relay)
                };
                (peer.id, peer.relay.filter(serves).or_else(|| self.choose_relay(peer.id)))
            })
            .collect();
        let had_any = self.peers.values().any(|peer| peer.is_relay || peer.relay.is_some());
        if choices.is_empty() && !had_any {
            return;
        }
        let tell_all = now >= self.next_relay_word;
        if tell_all {
            self.next_relay_word = now + TELL_EVERY;
        }
        let mut words = Vec::new();
        for peer in self.peers.values_mut() {
            let choice = choices.iter().find(|(id, _)| *id == peer.id).and_then(|(_, relay)| *relay);
            let is_new = peer.relay != choice;
            if is_new {
                peer.relay = choice;
                peer.relay_dial.reset(now);
                self.dirty = true;
            }
            if let Some(relay) = choice.filter(|_| is_new || tell_all) {
                words.push((relay, peer.id));
            }
        }
        for peer in self.peers.values_mut() {
            peer.is_relay = choices.iter().any(|(_, relay)| *relay == Some(peer.id));
        }
        for (relay, with) in words {
            let word = Control::Relay { with }.to_bytes();
            if !self.say(relay, &word, false, now)
                && let Some(relay) = self.ensure_peer(relay, now)
            {
                relay.enqueue(word);
            }
        }
    }

    /// `asker` needs this host to reach `with`.
    pub(crate) fn serve(&mut self, asker: PeerId, with: PeerId, now: Instant) {
        if self.gate.is_barred(with) || !self.mesh.is_up(with) {
            return;
        }
        for id in [asker, with] {
            if let Some(peer) = self.ensure_peer(id, now) {
                peer.served_until = Some(now + SERVE_FOR);
            }
        }
        self.tick.hasten(now);
    }

    /// The way that frames to a session's peer take.
    pub(crate) fn route(&self, session: &Session) -> Option<Route> {
        let family = |address: SocketAddr| {
            if canonical(address).is_ipv4() { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 }
        };
        if session.is_direct() {
            return Some(Route { remote: session.remote, overhead: overhead(family(session.remote)) });
        }
        let relay = self.peers.get(&session.peer).and_then(|peer| peer.relay)?;
        let remote = self.direct_session(relay)?.remote;
        Some(Route { remote, overhead: overhead(family(remote)) + RELAY_OVERHEAD as u16 })
    }
}
