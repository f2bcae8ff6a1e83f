//! What an operator wants to know of the node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_dataplane::PeerCounters;
use weft_wire::{NetworkId, PeerId};

use crate::exchange::EndpointRecord;
use crate::node::Node;
use crate::peer::Dial;

/// How it stands with a peer or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// There is a session, and the peer was heard lately.
    Up,
    /// An attempt is under way, and none has failed yet.
    Connecting,
    /// Attempts got no answer; they go on for ever.
    NoAnswer,
}

/// One peer, or one address at which no peer has answered yet.
#[derive(Debug, Clone)]
pub struct PeerReport {
    /// The peer; `None` for an address that never answered.
    pub id: Option<PeerId>,
    /// Its name; empty for an address that never answered.
    pub name: String,
    /// Where it was last reached, or is tried.
    pub address: SocketAddr,
    /// How it stands.
    pub state: PathState,
    /// Age of the session in use.
    pub session_age: Option<Duration>,
    /// Time since a datagram of it was last opened, to a quarter of a second.
    pub silent_for: Option<Duration>,
    /// Attempts since the last success.
    pub n_failed: u32,
    /// Its networks that this host is on as well.
    pub networks: Vec<NetworkId>,
    /// Traffic to and from it.
    pub counters: Option<Arc<PeerCounters>>,
}

/// An endpoint on another host.
#[derive(Debug, Clone)]
pub struct RemoteEndpoint {
    /// Its host.
    pub peer: PeerId,
    /// The host's name.
    pub peer_name: String,
    /// What the host announced.
    pub record: EndpointRecord,
}

impl Node {
    /// All peers, and the addresses that are tried and did not answer.
    #[must_use]
    pub fn peer_reports(&self, now: Instant) -> Vec<PeerReport> {
        let peers = self.peers.values().map(|peer| {
            let session = peer.current.and_then(|n| self.sessions.get(&n));
            let remote = self.exchange.remote(peer.id);
            PeerReport {
                id: Some(peer.id),
                name: peer.name.clone(),
                address: session.map_or(peer.dial.address, |s| s.remote),
                state: if peer.alive { PathState::Up } else { dial_state(&peer.dial) },
                session_age: session.map(|s| now.saturating_duration_since(s.born)),
                silent_for: peer.last_heard.map(|heard| now.saturating_duration_since(heard)),
                n_failed: peer.dial.n_failed,
                networks: remote
                    .map(|r| r.networks().filter(|n| self.networks.contains_key(n)).collect())
                    .unwrap_or_default(),
                counters: Some(Arc::clone(&peer.counters)),
            }
        });
        let seeds = self.seeds.iter().filter(|(_, seed)| seed.peer.is_none() && !seed.itself);
        let unanswered = seeds
            .filter(|(address, _)| !self.peers.values().any(|p| p.dial.address == **address))
            .map(|(address, seed)| PeerReport {
                id: None,
                name: String::new(),
                address: *address,
                state: dial_state(&seed.dial),
                session_age: None,
                silent_for: None,
                n_failed: seed.dial.n_failed,
                networks: Vec::new(),
                counters: None,
            });
        peers.chain(unanswered).collect()
    }

    /// The endpoints of other hosts on all networks.
    #[must_use]
    pub fn remote_endpoints(&self) -> Vec<RemoteEndpoint> {
        let mut list = Vec::new();
        for peer in self.peers.values() {
            let Some(remote) = self.exchange.remote(peer.id) else { continue };
            list.extend(remote.endpoints().map(|record| RemoteEndpoint {
                peer: peer.id,
                peer_name: peer.name.clone(),
                record: record.clone(),
            }));
        }
        list
    }
}

fn dial_state(dial: &Dial) -> PathState {
    if dial.n_failed == 0 { PathState::Connecting } else { PathState::NoAnswer }
}
