//! Makes the forwarding snapshot from what the node knows.

use std::collections::HashMap;
use std::sync::Arc;

use weft_dataplane::{FastMap, Neighbor, NetworkView, Owner, PeerView, SessionView, Snapshot};
use weft_wire::{NetworkId, PeerId};

use crate::node::{LocalNetwork, Node};

/// The snapshot of `node`. Where several claim an address the mesh says whose it is; one of this host stays its own.
pub(crate) fn build(node: &Node) -> Snapshot {
    let index: HashMap<PeerId, usize> = node.peers.keys().enumerate().map(|(i, id)| (*id, i)).collect();
    let unspecified = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let peers = node.peers.values().map(|peer| {
        let session = peer.current.and_then(|n| node.sessions.get(&n));
        PeerView {
            id: peer.id,
            remote: session.map(|s| s.remote).or(peer.address).unwrap_or(unspecified),
            send: session.map(|s| Arc::clone(&s.send)),
            counters: Arc::clone(&peer.counters),
            path: peer.path_mtu.view(),
            relay: session
                .filter(|session| !session.is_direct())
                .and(peer.relay)
                .and_then(|relay| index.get(&relay).copied()),
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
    let networks: FastMap<NetworkId, NetworkView> =
        node.networks.values().map(|network| (network.id, network_view(node, network, &index))).collect();
    let peers: Vec<PeerView> = peers.collect();
    let is_direct = |peer: &PeerView| peer.send.is_some() && peer.remote.port() != 0;
    let served = peers.iter().enumerate().filter(|(_, peer)| is_direct(peer));
    let served = served.map(|(position, peer)| (peer.id, position)).collect();
    Snapshot { networks, peers, sessions: sessions.collect(), served }
}

fn network_view(node: &Node, network: &LocalNetwork, index: &HashMap<PeerId, usize>) -> NetworkView {
    let mut view = NetworkView {
        overlay_mtu: network.overlay_mtu,
        spoof_check: network.spoof_check,
        multicast: network.multicast,
        ..NetworkView::default()
    };
    for endpoint in node.endpoints.values().filter(|e| e.network == network.id) {
        view.local.insert(endpoint.mac);
        let here = Neighbor { mac: endpoint.mac, owner: Owner::Local };
        view.hosts.extend(endpoint.addresses.iter().map(|address| (*address, here)));
    }
    let members = node.mesh.members(network.id).filter_map(|(id, _)| index.get(&id).copied());
    view.members = members.collect();
    view.members.sort_unstable();
    for (owner, group) in node.subscriptions(network.id) {
        if let Some(position) = index.get(&owner) {
            view.subscribers.entry(group).or_default().push(*position);
        }
    }
    for subscribers in view.subscribers.values_mut() {
        subscribers.sort_unstable();
        subscribers.dedup();
    }
    for (owner, endpoint) in node.mesh.endpoints(network.id) {
        let Some(position) = index.get(&owner) else { continue };
        let keeper = node.mesh.endpoint_by_mac(network.id, endpoint.mac).map(|(keeper, _)| keeper);
        if keeper == Some(owner) && !view.local.contains(&endpoint.mac) {
            view.fdb.insert(endpoint.mac, *position);
        }
        for address in &endpoint.addresses {
            let keeper = node.mesh.endpoint_by_ip(network.id, *address).map(|(keeper, _)| keeper);
            if keeper == Some(owner) {
                let there = Neighbor { mac: endpoint.mac, owner: Owner::Peer(*position) };
                view.hosts.entry(*address).or_insert(there);
            }
        }
    }
    view
}
