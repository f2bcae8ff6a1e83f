//! What the path to a peer carries.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::PathKind;

/// The longest that a daemon waits for the end of a search.
pub const MAX_MTU_WAIT: Duration = Duration::from_secs(15);

/// Asks what is known of a path, `POST /v1/mtu`: `{"peer": "host-b", "probe": true}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MtuRequest {
    /// The peer's name, id, or the begin of its id.
    pub peer: String,
    /// Look again first, and wait for the outcome, at most [`MAX_MTU_WAIT`].
    #[serde(default)]
    pub probe: bool,
}

/// How far the search is, in the words of RFC 8899, section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SearchState {
    /// Nothing is probed: there is no session, or no network in common.
    Disabled,
    /// It is not known yet whether what every path carries passes.
    Base,
    /// Larger sizes are tried.
    Searching,
    /// What passes is known, and confirmed from time to time.
    SearchComplete,
    /// Not even what every path carries is answered.
    Error,
}

/// Probes of a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCounts {
    /// Sent.
    pub sent: u64,
    /// Answered.
    pub answered: u64,
    /// Not answered by the end of their round.
    pub lost: u64,
}

/// A network that both hosts are on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonNetwork {
    /// Docker's id.
    pub id: String,
    /// MTU of its containers on this host, in bytes.
    pub mtu: u16,
}

/// What is known of the path to a peer, in the direction to it. Sizes are bytes of a container's IP packet, but for
/// `underlay_mtu`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MtuAnswer {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The peer's name; empty when it is not known.
    pub name: String,
    /// The way to it; `None` without a session.
    pub path: Option<PathKind>,
    /// Name of the relay, on a way over one.
    pub via: Option<String>,
    /// Where datagrams go.
    pub address: Option<SocketAddr>,
    /// How far the search is.
    pub state: SearchState,
    /// What passes, and all that is sent whole.
    pub path_mtu: u16,
    /// The underlay's packet around a container's packet of `path_mtu`; `None` without a way.
    pub underlay_mtu: Option<u16>,
    /// What the underlay's packet has around the container's, in bytes.
    pub overhead: Option<u16>,
    /// What is taken to pass everywhere.
    pub base: u16,
    /// The most that is looked for: the largest MTU of a common network.
    pub ceiling: u16,
    /// Sizes that were given up in the last search, since they were not answered three times.
    pub failed: Vec<u16>,
    /// Sizes that were sent and are not answered so far.
    pub waiting: Vec<u16>,
    /// All probes since the daemon knows the peer; loss in a search is how it ends.
    pub probes: ProbeCounts,
    /// Those since this call began.
    pub now: ProbeCounts,
    /// Networks that both hosts are on.
    pub networks: Vec<CommonNetwork>,
    /// The largest MTU that containers can have on this host's underlay; `None` while it is not known.
    pub max_overlay_mtu: Option<u16>,
}
