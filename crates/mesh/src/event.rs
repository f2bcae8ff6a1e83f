//! What a mesh tells its caller.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_wire::{Mac, NetworkId, PeerId};

use crate::record::{Endpoint, KvKey, Scope};

/// To whom a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A peer; [`Mesh::addresses`](crate::Mesh::addresses) tells where to try.
    Peer(PeerId),
    /// Whoever proves to be of the cluster at this address: a seed.
    Address(SocketAddr),
}

/// An address of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// Ethernet.
    Mac(Mac),
    /// IPv4 or IPv6.
    Ip(IpAddr),
}

/// Something that changed, also by this peer's own doing. Queries made after it show the new state, perhaps a later
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A first member answered: this peer is part of a cluster.
    Joined,
    /// A peer is alive.
    PeerUp {
        /// Which.
        peer: PeerId,
    },
    /// A peer is down. Relays through it end now; its endpoints go when it stays down.
    PeerDown {
        /// Which.
        peer: PeerId,
    },
    /// A peer stopped on purpose. Its endpoints are gone with it.
    PeerLeft {
        /// Which.
        peer: PeerId,
    },
    /// A peer's name or addresses changed, or became known.
    PeerChanged {
        /// Which.
        peer: PeerId,
    },
    /// A peer entered or left a network, or its MTU there changed.
    MembershipChanged {
        /// Which network; perhaps one that this peer is not in.
        network: NetworkId,
        /// Whose part in it changed.
        peer: PeerId,
    },
    /// An endpoint is there, or what is said of it changed.
    EndpointAdded {
        /// Its network.
        network: NetworkId,
        /// Its host.
        peer: PeerId,
        /// What is said of it.
        endpoint: Arc<Endpoint>,
    },
    /// An address that was reached at one peer is now reached at another.
    EndpointMoved {
        /// The network.
        network: NetworkId,
        /// The address.
        address: Address,
        /// Where it was.
        from: PeerId,
        /// Where it is.
        to: PeerId,
    },
    /// An endpoint is gone.
    EndpointRemoved {
        /// Its network.
        network: NetworkId,
        /// Its host.
        peer: PeerId,
        /// What was said of it.
        endpoint: Arc<Endpoint>,
    },
    /// Two living peers both say they have an address. The one with the lower id keeps it.
    DuplicateAddress {
        /// The network.
        network: NetworkId,
        /// The address.
        address: Address,
        /// Who keeps it.
        keeper: PeerId,
        /// Whose claim does not count.
        loser: PeerId,
    },
    /// Two hosts run with the same key, most likely copies of one machine.
    SameKeyTwice {
        /// The id they share.
        peer: PeerId,
        /// The names they were seen under.
        names: Vec<String>,
    },
    /// A record of [`Mesh::put`](crate::Mesh::put) appeared, changed or went.
    RecordChanged {
        /// Whose.
        peer: PeerId,
        /// Who may see it.
        scope: Scope,
        /// Its key.
        key: KvKey,
    },
}

/// What was dropped, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages that did not decode, or spoke in another's name.
    pub n_malformed: u64,
    /// Messages of networks that the sender or this peer is not in.
    pub n_not_member: u64,
    /// Records not signed by their owner, malformed, or beyond a limit.
    pub n_refused: u64,
    /// Records already held or overtaken.
    pub n_stale: u64,
    /// Records that an owner signed twice under one version.
    pub n_conflicts: u64,
}
