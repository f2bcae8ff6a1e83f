//! What may be asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use weft_wire::{Mac, NetworkId, PeerId};

use super::{Mesh, Peer};
use crate::config::KnownPeer;
use crate::event::Address;
use crate::record::{Endpoint, Entry, KvKey, Membership, PeerInfo, Scope};

/// A peer as it is seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Its id.
    pub peer: PeerId,
    /// Its name, once its records are here.
    pub name: Option<String>,
    /// Where it may be reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is alive.
    pub up: bool,
    /// Since when it is up or down.
    pub since: Instant,
    /// The number of its run; `None` when nothing was heard of it yet.
    pub incarnation: Option<u64>,
}

impl Mesh {
    /// Whether `peer` is alive. This peer itself is.
    #[must_use]
    pub fn is_up(&self, peer: PeerId) -> bool {
        peer == self.me || self.peers.get(&peer).is_some_and(|peer| peer.up)
    }

    /// Living peers but this one.
    pub fn alive(&self) -> impl ExactSizeIterator<Item = PeerId> {
        self.alive.iter().copied()
    }

    /// Every peer known of but this one, also those that are down.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> {
        self.peers.iter().map(|(id, peer)| self.view(*id, peer))
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, peer: PeerId) -> Option<PeerView> {
        self.peers.get(&peer).map(|known| self.view(peer, known))
    }

    fn view(&self, id: PeerId, peer: &Peer) -> PeerView {
        PeerView {
            peer: id,
            name: self.peer_info(id).map(|info| info.name.clone()),
            addresses: self.addresses(id),
            up: peer.up,
            since: peer.since,
            incarnation: peer.id.as_ref().map(|id| id.incarnation),
        }
    }

    /// What a peer says of itself, signed by it; also this peer.
    #[must_use]
    pub fn peer_info(&self, peer: PeerId) -> Option<&PeerInfo> {
        self.store.entries(peer, Scope::Global).find_map(|entry| match entry {
            Entry::Peer(info) => Some(info),
            _ => None,
        })
    }

    /// Where a peer may be reached, best first: what it signed, what membership says, what the configuration said.
    /// All are hints: the session proves who answers.
    #[must_use]
    pub fn addresses(&self, peer: PeerId) -> Vec<SocketAddr> {
        let signed = self.peer_info(peer).into_iter().flat_map(|info| &info.addresses);
        let known = self.peers.get(&peer);
        let heard = known.and_then(|known| known.id.as_ref()).into_iter().flat_map(|id| &id.addresses);
        let hints = known.into_iter().flat_map(|known| &known.hints);
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in signed.chain(heard).chain(hints) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }

    /// What to hand to the next start as [`MeshConfig::known_peers`](crate::MeshConfig::known_peers).
    #[must_use]
    pub fn known_peers(&self) -> Vec<KnownPeer> {
        let known = self.peers.keys().map(|peer| KnownPeer { peer: *peer, addresses: self.addresses(*peer) });
        known.filter(|known| !known.addresses.is_empty()).collect()
    }

    /// The networks that this peer is in.
    pub fn networks(&self) -> impl Iterator<Item = NetworkId> {
        self.joined.keys().copied()
    }

    /// The networks that a peer is in, this one included.
    pub fn networks_of(&self, peer: PeerId) -> impl Iterator<Item = NetworkId> {
        self.directory.networks_of(peer)
    }

    /// Whether a peer is in a network, by its own signed word.
    #[must_use]
    pub fn is_member(&self, network: NetworkId, peer: PeerId) -> bool {
        self.directory.is_member(network, peer)
    }

    /// The members of a network, this peer included. One that is down still counts for a while; see
    /// [`Self::is_up`].
    pub fn members(&self, network: NetworkId) -> impl Iterator<Item = (PeerId, &Membership)> {
        self.directory.members(network)
    }

    /// The endpoints of a network that this peer is in, with their hosts, local ones included.
    pub fn endpoints(&self, network: NetworkId) -> impl Iterator<Item = (PeerId, &Arc<Endpoint>)> {
        self.directory.endpoints(network)
    }

    /// The endpoint that has an Ethernet address. Where several claim it: that of the living peer with the lowest id.
    #[must_use]
    pub fn endpoint_by_mac(&self, network: NetworkId, mac: Mac) -> Option<(PeerId, &Arc<Endpoint>)> {
        self.directory.by_mac(network, mac)
    }

    /// The endpoint that has an IP address; as [`Self::endpoint_by_mac`].
    #[must_use]
    pub fn endpoint_by_ip(&self, network: NetworkId, ip: IpAddr) -> Option<(PeerId, &Arc<Endpoint>)> {
        self.directory.by_ip(network, ip)
    }

    /// Addresses that two living peers announce, as [`Event::DuplicateAddress`](crate::Event::DuplicateAddress) told:
    /// network, address, who has it, who does not.
    pub fn duplicates(&self) -> impl Iterator<Item = (NetworkId, Address, PeerId, PeerId)> {
        self.directory.disputes()
    }

    /// The records of all peers in a scope whose key begins with `prefix`, this peer's included.
    pub fn records<'a>(
        &'a self,
        scope: Scope,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (PeerId, &'a KvKey, &'a [u8])> {
        let owners = self.kv.range((scope, PeerId([0; 16]))..=(scope, PeerId([0xff; 16])));
        owners.flat_map(move |((_, owner), records)| {
            let records = records.iter().filter(move |(key, _)| key.0.starts_with(prefix));
            records.map(move |(key, value)| (*owner, key, value.as_slice()))
        })
    }

    /// One record of one peer.
    #[must_use]
    pub fn record(&self, peer: PeerId, scope: Scope, key: &KvKey) -> Option<&[u8]> {
        self.kv.get(&(scope, peer))?.get(key).map(Vec::as_slice)
    }
}
