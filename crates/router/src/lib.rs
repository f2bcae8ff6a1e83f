//! Worker threads between the TAP queues of the networks and the UDP socket of the underlay.
//!
//! ```text
//!             worker 0            worker 1
//! TAP n1   -- queue 0 --\      -- queue 1 --\        one thread reads, classifies, seals and sends,
//! TAP n2   -- queue 0 ---+-    -- queue 1 ---+-      with no queue and no other thread in between
//! UDP 6783 -- socket 0 -/      -- socket 1 -/
//! ```
//!
//! A worker has one queue of every TAP and one of the sockets that share the port, and waits for all of them. It seals
//! on its own [lane](weft_wire::Lane) of a session, and the kernel hands a lane's datagrams always to the same worker, so
//! that in the steady state workers share nothing that is written per frame but a peer's counters. What they know is the
//! [`Snapshot`](weft_dataplane::Snapshot) that the node published last, looked at for every train. Frames cause neither
//! locks that others hold, nor allocation, clock calls or logging.
//!
//! What only the node can handle (handshakes, control messages, a peer's new address) goes to it as a [`NodeInput`]; it
//! answers by [`Router::send`] and by publishing another snapshot.

mod bench;
mod capture;
mod cutter;
mod egress;
mod ingress;
mod limits;
mod relay;
mod router;
mod stats;
mod worker;

pub use bench::{BenchCounts, BenchReceiver, BenchSender};
pub use capture::{CaptureFilter, CaptureHandle, CapturedFrame};
pub use router::{AttachError, Router, RouterConfig, StartError};
pub use stats::RouterStats;

use std::net::{IpAddr, SocketAddr};

use weft_wire::{Mac, NetworkId, PeerId};

/// What a worker hands to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeInput {
    /// A datagram that is not a data datagram. Anyone can have sent it.
    Handshake {
        /// Its source.
        from: SocketAddr,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// A control message of a peer.
    Control {
        /// This host's number of the session on which it came.
        session: u32,
        /// Its source.
        from: SocketAddr,
        /// What follows the inner header.
        bytes: Vec<u8>,
    },
    /// A datagram was opened on a session that [asked to be told](weft_dataplane::SessionActivity::tell_once).
    FirstRx {
        /// This host's number of the session.
        session: u32,
    },
    /// A datagram that is the newest of its lane came from another address than the snapshot has. Told once for every
    /// address, until the snapshot agrees.
    Roamed {
        /// This host's number of the session.
        session: u32,
        /// The new address.
        from: SocketAddr,
    },
    /// A datagram did not fit the first link's MTU, and was dropped.
    MessageTooLong {
        /// To whom it was to go.
        peer: PeerId,
        /// The longest inner frame of the train, in bytes.
        frame_len: usize,
    },
    /// A container asked for an address that no record has. A worker tells of an address once a second at most, and of 16
    /// addresses.
    UnknownNeighbor {
        /// The container's network.
        network: NetworkId,
        /// The address.
        ip: IpAddr,
    },
    /// A container said in which multicast groups it is. At most 64 a second and container.
    GroupReport {
        /// The container's network.
        network: NetworkId,
        /// The container.
        mac: Mac,
        /// The Ethernet frame: what [`Groups::handle_report`](weft_dataplane::Groups::handle_report) takes.
        bytes: Vec<u8>,
    },
}
