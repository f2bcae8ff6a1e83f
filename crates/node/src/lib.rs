//! The pure node: peers, sessions, admission, and the forwarding snapshot they make.
//!
//! [`Node`] is a state machine without IO: the caller feeds it handshake datagrams, opened control messages and the
//! time, and drains [`Node::poll_transmit`], [`Node::poll_event`] and [`Node::take_snapshot`] after every call. Who is
//! alive and what is where it learns by a [`Mesh`](weft_mesh::Mesh), whose messages it carries over its sessions.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::indexing_slicing))]

mod admission;
mod bench;
mod control;
mod echo;
mod gossip;
mod hello;
mod judge;
mod node;
mod path_mtu;
mod peer;
mod probes;
mod relay;
mod services;
mod sessions;
mod snapshot;
mod status;

pub use admission::{Admission, Judgement, RefusedPeer, Verdict};
pub use bench::{BenchMessage, BenchRefusal};
pub use control::Refusal;
pub use judge::FindError;
pub use node::{EndpointRecord, Event, KnownPeer, LocalNetwork, Node, NodeConfig, Transmit};
pub use path_mtu::{PathMtuReport, ProbeCounts, SearchState};
pub use services::{LiveService, ServiceSource, ServiceView, TooManyServices};
pub use status::{Duplicate, NodeCounts, PathState, PeerReport, RemoteEndpoint};
