//! One echo of a peer.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::PathKind;

/// The longest that a daemon waits for one echo.
pub const MAX_PING_WAIT: Duration = Duration::from_secs(10);

/// Asks for one echo, `POST /v1/ping`: `{"peer": "host-b", "wait_ms": 2000}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// The peer's name, id, or the begin of its id.
    pub peer: String,
    /// How long to wait in milliseconds; at most [`MAX_PING_WAIT`].
    pub wait_ms: u64,
}

/// An echo came back, or did not in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingAnswer {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The peer's name; empty when it is not known.
    pub name: String,
    /// Where its datagrams come from; `None`: not directly.
    pub address: Option<SocketAddr>,
    /// The way to it; `None` without a session.
    pub path: Option<PathKind>,
    /// The round trip in microseconds, with the handshake if there was no session; `None`: no echo in time.
    pub rtt_us: Option<u64>,
}
