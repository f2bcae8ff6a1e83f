//! Makes the forwarding snapshot from what the node knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use weft_dataplane::{FastMap, NetworkView, PeerView, SessionView, Snapshot};
use weft_wire::{NetworkId, PeerId};

use crate::node::{Event, Node};

/// The snapshot of `node`, and the addresses that more than one peer announces.
///
/// Peers are taken in the order of their ids, so that every node resolves a duplicate alike: the lower id keeps it. An
/// address of this host stays its own.
pub(crate) fn build(node: &Node, now: Instant) -> (Snapshot, Vec<Event>) {
    let mut duplicates = Vec::new();
    let index: HashMap<PeerId, usize> = node.peers.keys().enumerate().map(|(i, id)| (*id, i)).collect();
    let peers = node.peers.values().map(|peer| {
        let session = peer.current.and_then(|n| node.sessions.get(&n));
        PeerView {
            id: peer.id,
            remote: session.map_or(peer.dial.address, |s| s.remote),
            send: session.map(|s| Arc::clone(&s.send)),
            counters: Arc::clone(&peer.counters),
        }
    });
    let sessions = node.sessions.values().filter_map(|session| {
        let view = SessionView {
            peer: *index.get(&session.peer)?,
            recv: Arc::clone(&session.recv),
            activity: Arc::clone(&session.activity),
        };
        Some((session.number, view))
    });
    let mut networks: FastMap<NetworkId, NetworkView> = FastMap::default();
    for network in node.networks.values() {
        networks
            .insert(network.id, NetworkView { overlay_mtu: network.overlay_mtu, ..NetworkView::default() });
    }
    for endpoint in node.endpoints.values() {
        if let Some(view) = networks.get_mut(&endpoint.network) {
            view.local.insert(endpoint.mac);
        }
    }
    for (position, peer) in node.peers.values().enumerate().filter(|(_, p)| p.holds_entries(now)) {
        let Some(remote) = node.exchange.remote(peer.id) else { continue };
        for network in remote.networks() {
            if let Some(view) = networks.get_mut(&network) {
                view.members.push(position);
            }
        }
        for endpoint in remote.endpoints().filter(|e| remote.is_member(e.network)) {
            let Some(view) = networks.get_mut(&endpoint.network) else { continue };
            let keeper = if view.local.contains(&endpoint.mac) {
                node.id
            } else {
                let owner = *view.fdb.entry(endpoint.mac).or_insert(position);
                node.peers.keys().nth(owner).copied().unwrap_or(peer.id)
            };
            if keeper != peer.id {
                let (network, mac) = (endpoint.network, endpoint.mac);
                duplicates.push(Event::DuplicateMac { network, mac, keeper, loser: peer.id });
            }
        }
    }
    (Snapshot { networks, peers: peers.collect(), sessions: sessions.collect() }, duplicates)
}
