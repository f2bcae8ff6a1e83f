//! What happens to a frame between a TAP and a UDP socket, without either: no IO, no clock, no allocation per frame.
//!
//! - [`Snapshot`] is what forwarding knows: networks, peers, sessions. The node makes a new one for every change and
//!   never alters one; workers load it for every train.
//! - [`NetworkView::outgoing`] says where a container's frame goes, [`Snapshot::incoming`] whether a peer's frame may come
//!   in. Both hold every sender that a frame names (Ethernet, ARP, neighbour discovery, IP) to the records, which are
//!   looked up once for a [flow](LastSender).
//! - [`write_answer`] answers questions for addresses, which therefore never leave the host.
//! - [`Groups`] keeps the multicast groups of this host's containers, from which the node tells its peers what to send.
//! - [`Segments`] cuts the super-frames that the kernel hands over (up to 64 KiB of TCP or UDP behind one set of headers)
//!   into frames of their own; [`Coalescer`] joins such frames again. The transport checksums in between stay partial:
//!   they hold the sum over the pseudo-header only, and the seal guards the rest.
//! - Where a path carries less than the containers' MTU, [`write_too_big`] tells a sender, [`clamp_mss`] spares TCP the
//!   detour, and [`Reassembly`] puts frames together that had to go in parts.
//!
//! Bytes of a frame are never trusted: what does not parse passes unchanged or is dropped with a [`DropReason`].

mod checksum;
mod coalesce;
mod content;
mod drops;
mod fragment;
mod groups;
mod mss;
mod neighbor;
mod packet;
mod segment;
mod sender;
mod snapshot;
mod too_big;
mod vnet;

pub use checksum::complete_checksum;
pub use coalesce::Coalescer;
pub use drops::{DropCounters, DropReason};
pub use fragment::{FragmentKey, Reassembly};
pub use groups::{GroupQuery, Groups, ReportError, query_frame};
pub use mss::clamp_mss;
pub use neighbor::{MAX_ANSWER_LEN, write_answer};
pub use packet::{Packet, Transport};
pub use segment::{MAX_HEADERS_LEN, Segments, TCP_ENDS, UnsupportedFrame, frame_kind};
pub use sender::LastSender;
pub use snapshot::{
    FastHasher, FastMap, Neighbor, NetworkView, Owner, PathView, PeerCounters, PeerIdx, PeerView,
    SessionActivity, SessionView, Snapshot, Verdict, Way,
};
pub use too_big::{MAX_TOO_BIG_LEN, write_too_big};
pub use vnet::{GsoKind, VnetHdr};
