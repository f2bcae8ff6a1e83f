//! Probing the paths to the neighbors: what they carry is in the snapshot, and in the report.

use std::sync::atomic::Ordering;
use std::time::Instant;

use rand::CryptoRng;
use weft_wire::{ETHERNET_HEADER_LEN, PeerId};

use crate::control::Control;
use crate::node::Node;
use crate::path_mtu::{PathMtuReport, Probe, Route, SearchState};

impl Node {
    /// The interface refused a train to `peer` whose longest frame has `frame_len` bytes.
    pub fn handle_too_long(&mut self, peer: PeerId, frame_len: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        let before = peer.path_mtu.view();
        peer.path_mtu.refused(frame_len.saturating_sub(ETHERNET_HEADER_LEN), now);
        self.dirty |= peer.path_mtu.view() != before;
        self.next_probe = self.next_probe.min(now);
    }

    /// What is known of the path to a peer; `None` when no such peer is known.
    #[must_use]
    pub fn path_mtu(&self, peer: PeerId) -> Option<PathMtuReport> {
        let peer = self.peers.get(&peer)?;
        let mut report = peer.path_mtu.report();
        if !peer.is_neighbor || peer.current.is_none() {
            report.state = SearchState::Disabled;
        }
        Some(report)
    }

    /// Looks now at what the path to a peer carries, which [`path_mtu_is_known`](Self::path_mtu_is_known) then tells the
    /// end of. `false` when paths to it are not looked at: there is no session, or no network in common.
    pub fn look_at_path(&mut self, peer: PeerId, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&peer).filter(|p| p.is_neighbor && p.current.is_some()) else {
            return false;
        };
        peer.path_mtu.look_now(now);
        self.next_probe = now;
        true
    }

    /// Whether the last look at the path to a peer has ended.
    #[must_use]
    pub fn path_mtu_is_known(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_none_or(|peer| peer.path_mtu.is_idle())
    }

    pub(crate) fn handle_probe_ack(&mut self, peer: PeerId, nonce: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        self.dirty |= peer.path_mtu.answered(nonce, now);
        self.next_probe = self.next_probe.min(peer.path_mtu.deadline());
    }

    /// Sends the probes that are due.
    pub(crate) fn probe_paths(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        let networks = &self.networks;
        let mut due: Vec<(u32, Probe)> = Vec::new();
        // Peers that become neighbors ask to be looked at.
        self.next_probe = now + crate::node::TICK * 4;
        let neighbors = self.peers.values().filter(|peer| peer.is_neighbor);
        let routes: Vec<(PeerId, u32, Route)> = neighbors
            .filter_map(|peer| {
                let session = self.sessions.get(&peer.current?)?;
                Some((peer.id, session.number, self.route(session)?))
            })
            .collect();
        for (id, number, route) in routes {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let shared = self.mesh.networks_of(peer.id).filter_map(|id| networks.get(&id));
            let Some(ceiling) = shared.map(|network| network.overlay_mtu).max() else { continue };
            let before = peer.path_mtu.view();
            peer.path_mtu.aim(route, ceiling, now);
            let n_sent = peer.counters.n_sent.load(Ordering::Relaxed);
            let probes = peer.path_mtu.poll(n_sent, peer.rtt, now, rng);
            due.extend(probes.into_iter().map(|probe| (number, probe)));
            self.dirty |= peer.path_mtu.view() != before;
            self.next_probe = self.next_probe.min(peer.path_mtu.deadline());
        }
        for (number, probe) in due {
            let frame_len = usize::from(probe.overlay_mtu) + ETHERNET_HEADER_LEN;
            self.say_on(number, &Control::probe(probe.nonce, frame_len), false, now);
        }
    }
}
