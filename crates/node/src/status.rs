//! What an operator wants to know of the node.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_dataplane::PeerCounters;
use weft_wire::{Mac, NetworkId, PeerId};

use crate::admission::{Judgement, RefusedPeer, Verdict};
use crate::control::Refusal;
use crate::node::Node;
use crate::peer::Dial;

/// How long a peer with a new session may take until it counts as alive.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// A key with which two hosts run is found out anew within a minute or so, over and over.
pub(crate) const SAME_KEY_HOLD: Duration = Duration::from_secs(300);

/// How it stands with a peer or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// It is alive and answers directly, or there was no need to ask it directly.
    Up,
    /// It is alive, does not answer directly, and answers over a relay.
    Relayed,
    /// It is alive, as others say, and does not answer directly.
    Cut,
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
    /// Where it was last reached, or is tried; `None` for one that others speak of.
    pub address: Option<SocketAddr>,
    /// How it stands.
    pub state: PathState,
    /// Age of the session in use.
    pub session_age: Option<Duration>,
    /// Time since a datagram of it was last opened, to a quarter of a second.
    pub silent_for: Option<Duration>,
    /// Smoothed round trip of pings inside the session.
    pub rtt: Option<Duration>,
    /// Whether it prefers the same cluster secret; `None`: it has not said so.
    pub same_secret: Option<bool>,
    /// The longest IP packet of a container that goes to it whole, as far as is known; `None` where that is of no use.
    pub path_mtu: Option<u16>,
    /// Name of the relay that hands on to it, if one does.
    pub via: Option<String>,
    /// Attempts since the last success.
    pub n_failed: u32,
    /// What it said when it refused this host.
    pub refused_us: Option<Refusal>,
    /// Its networks that this host is on as well.
    pub networks: Vec<NetworkId>,
    /// Traffic to and from it.
    pub counters: Option<Arc<PeerCounters>>,
}

/// An endpoint on another host.
#[derive(Debug, Clone)]
pub struct RemoteEndpoint {
    /// A hash of Docker's endpoint id, 32 hexadecimal digits.
    pub id: String,
    /// Its network.
    pub network: NetworkId,
    /// Its host.
    pub peer: PeerId,
    /// The host's name.
    pub peer_name: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// An address that two living peers announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// The network.
    pub network: NetworkId,
    /// The address as text.
    pub address: String,
    /// Who gets its frames.
    pub keeper: PeerId,
    /// Who does not.
    pub loser: PeerId,
}

/// What was counted since the node was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// Handshakes that became sessions, rekeys included.
    pub handshakes_made: u64,
    /// Handshakes that this host began and that had no good end, one an address tried.
    pub handshakes_failed: u64,
    /// Sessions that are held at the moment, also those that only open what is under way.
    pub n_sessions: usize,
}

impl Node {
    /// Addresses that two living peers announce.
    pub fn duplicates(&self) -> impl Iterator<Item = Duplicate> {
        self.mesh.duplicates().map(|(network, address, keeper, loser)| Duplicate {
            network,
            address: match address {
                weft_mesh::Address::Mac(mac) => mac.to_string(),
                weft_mesh::Address::Ip(ip) => ip.to_string(),
            },
            keeper,
            loser,
        })
    }

    /// Keys with which two hosts were found to run lately, and the names of these; most likely copies of one machine.
    pub fn same_keys(&self, now: Instant) -> impl Iterator<Item = (PeerId, &BTreeSet<String>)> {
        let lately = move |last: Instant| now < last + SAME_KEY_HOLD;
        self.same_keys
            .iter()
            .filter(move |(_, (_, last))| lately(*last))
            .map(|(peer, (names, _))| (*peer, names))
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> NodeCounts {
        NodeCounts {
            handshakes_made: self.handshakes_made,
            handshakes_failed: self.handshakes_failed,
            n_sessions: self.sessions.len(),
        }
    }

    /// All peers, and the addresses that are tried and did not answer.
    #[must_use]
    pub fn peer_reports(&self, now: Instant) -> Vec<PeerReport> {
        let peers = self.peers.values().map(|peer| {
            let session = peer.current.and_then(|n| self.sessions.get(&n));
            let networks = self.mesh.networks_of(peer.id).filter(|n| self.networks.contains_key(n));
            let is_relayed = session.is_some_and(|session| !session.is_direct() && session.is_answered(now));
            let state = match (self.mesh.is_up(peer.id), peer.is_cut) {
                (true, _) if is_relayed => PathState::Relayed,
                (true, false) => PathState::Up,
                (true, true) => PathState::Cut,
                // It came through a handshake, and yet shows no life: what is sent to it does not arrive any more.
                (false, _) if session.is_some_and(|s| now >= s.born + SETTLED_AFTER) => PathState::NoAnswer,
                (false, _) => dial_state(&peer.dial),
            };
            let via = peer.relay.filter(|_| is_relayed).and_then(|relay| self.peers.get(&relay));
            PeerReport {
                id: Some(peer.id),
                name: peer.name.clone(),
                address: session.map(|s| s.remote).filter(|r| r.port() != 0).or(peer.address),
                state,
                session_age: session.map(|s| now.saturating_duration_since(s.born)),
                silent_for: peer.last_heard.map(|heard| now.saturating_duration_since(heard)),
                rtt: peer.rtt,
                same_secret: self.prefers_same_secret(peer.id),
                path_mtu: (session.is_some() && peer.is_neighbor).then(|| peer.path_mtu.view().overlay_mtu),
                via: via.map(|relay| relay.name.clone()),
                n_failed: peer.dial.n_failed,
                refused_us: peer.refused_us.clone(),
                networks: networks.collect(),
                counters: Some(Arc::clone(&peer.counters)),
            }
        });
        let seeds = self.seeds.iter().filter(|(_, seed)| seed.peer.is_none() && !seed.itself);
        let unanswered = seeds
            .filter(|(address, _)| !self.peers.values().any(|p| p.address == Some(**address)))
            .map(|(address, seed)| PeerReport {
                id: None,
                name: String::new(),
                address: Some(*address),
                state: dial_state(&seed.dial),
                session_age: None,
                silent_for: None,
                rtt: None,
                same_secret: None,
                path_mtu: None,
                via: None,
                n_failed: seed.dial.n_failed,
                refused_us: None,
                networks: Vec::new(),
                counters: None,
            });
        peers.chain(unanswered).collect()
    }

    /// The endpoints of other hosts on this host's networks.
    #[must_use]
    pub fn remote_endpoints(&self) -> Vec<RemoteEndpoint> {
        let mut list = Vec::new();
        for network in self.networks.keys() {
            for (peer, endpoint) in self.mesh.endpoints(*network).filter(|(peer, _)| *peer != self.id) {
                list.push(RemoteEndpoint {
                    id: endpoint.tag.0.iter().map(|b| format!("{b:02x}")).collect(),
                    network: *network,
                    peer,
                    peer_name: self.peers.get(&peer).map(|p| p.name.clone()).unwrap_or_default(),
                    mac: endpoint.mac,
                    addresses: endpoint.addresses.clone(),
                });
            }
        }
        list
    }

    /// Peers that have the secret and were not admitted.
    pub fn refused(&self) -> impl Iterator<Item = &RefusedPeer> {
        self.gate.refused.values()
    }

    /// What operators decided, the newest decision about each peer.
    pub fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.gate.verdicts.values()
    }

    /// The verdict by which this host itself is shut out, if one came before it was.
    #[must_use]
    pub fn revocation(&self) -> Option<&Verdict> {
        self.gate.verdicts.get(&self.id).filter(|v| v.judgement == Judgement::Revoked)
    }
}

fn dial_state(dial: &Dial) -> PathState {
    if dial.n_failed == 0 { PathState::Connecting } else { PathState::NoAnswer }
}
