//! What is on the wire, and the identifiers that everything else speaks of.
//!
//! Nothing here does IO or keeps state. Integers on the wire are big-endian. Decoders of bytes that a peer
//! controls never index and never panic: they return `None`.

mod datagram;
mod fragment;
mod id;
mod mtu;
mod relay;

pub use datagram::{
    HEADER_LEN, Header, INNER_HEADER_LEN, InnerHeader, InnerKind, Lane, MessageType, N_LANES, ReceiverIndex,
    TAG_LEN,
};
pub use fragment::{FRAGMENT_HEADER_LEN, FragmentHeader, MAX_FRAGMENTS};
pub use id::{EndpointId, Mac, NetworkId, ParseIdError, PeerId};
pub use mtu::{
    AddressFamily, DEFAULT_UNDERLAY_MTU, ETHERNET_HEADER_LEN, MIN_OVERLAY_MTU, MIN_UNDERLAY_MTU, overhead,
    overlay_mtu,
};
pub use relay::{RELAY_HEADER_LEN, RELAY_OVERHEAD};

/// UDP port for control and data when none is set.
pub const DEFAULT_PORT: u16 = 6783;
