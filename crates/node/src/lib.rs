//! The pure node: peers, sessions, records, and the forwarding snapshot they make.
//!
//! [`Node`] is a state machine without IO: the caller feeds it handshake datagrams, opened control messages and the
//! time, and drains [`Node::poll_transmit`], [`Node::poll_event`] and [`Node::take_snapshot`] after every call.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::indexing_slicing))]

mod exchange;
mod hello;
mod node;
mod peer;
mod snapshot;
mod status;

pub use exchange::EndpointRecord;
pub use node::{Event, KnownPeer, LocalNetwork, Node, NodeConfig, Transmit};
pub use status::{PathState, PeerReport, RemoteEndpoint};
