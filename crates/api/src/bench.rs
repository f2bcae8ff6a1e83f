//! Throughput between two daemons.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::PathKind;

/// The longest that datagrams are sent each way.
pub const MAX_BENCH_TIME: Duration = Duration::from_secs(30);
/// The most that is sent, in bits a second.
pub const MAX_BENCH_RATE: u64 = 40_000_000_000;

/// Measures, `POST /v1/bench`: `{"peer": "host-b", "time_ms": 5000}`. The answer is a [`BenchLine`] a line, as it goes on;
/// who hangs up ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchRequest {
    /// The peer's name, id, or the begin of its id.
    pub peer: String,
    /// Milliseconds to send each way, at most [`MAX_BENCH_TIME`].
    pub time_ms: u64,
    /// Bits of frames a second that are not exceeded; at most, and by default, [`MAX_BENCH_RATE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<u64>,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BenchDirection {
    /// To the peer.
    To,
    /// From it.
    From,
}

/// What is told while it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
#[non_exhaustive]
pub enum BenchLine {
    /// The peer takes part.
    Begin {
        /// 32 hexadecimal digits.
        id: String,
        /// The peer's name; empty when it is not known.
        name: String,
        /// The way to it.
        path: Option<PathKind>,
        /// Name of the relay, on a way over one.
        via: Option<String>,
        /// Where its datagrams come from.
        address: Option<SocketAddr>,
        /// The longest IP packet of a container that goes there whole.
        path_mtu: Option<u16>,
        /// The least round trip of echoes before, in microseconds; `None`: none came back.
        rtt_idle_us: Option<u64>,
    },
    /// Some time has passed.
    Progress {
        /// Which way is measured.
        direction: BenchDirection,
        /// Since its begin.
        elapsed_ms: u64,
        /// Bits of frames that arrived in the last moment, a second.
        rate: u64,
    },
    /// One way was measured.
    End {
        /// Which.
        direction: BenchDirection,
        /// With what outcome.
        result: BenchResult,
    },
    /// It was not measured, and why; one line.
    Failed {
        /// Why.
        error: String,
    },
}

/// Datagrams one way. Lengths are of the frames inside, without what weft and the underlay have around them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchResult {
    /// Sent.
    pub n_sent: u64,
    /// Arrived.
    pub n_received: u64,
    /// Bits of frames that arrived, a second, once the rate was found: without the first fifth of the time.
    pub rate: u64,
    /// Frames that arrived, a second, in the same time.
    pub frame_rate: u64,
    /// Mean round trip of echoes meanwhile, in microseconds; `None`: none came back.
    pub rtt_us: Option<u64>,
    /// The longest of them.
    pub rtt_max_us: Option<u64>,
    /// Echoes that did not come back.
    pub n_echoes_lost: u64,
}
