//! Frames as they are inside the seal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest that a capture goes on.
pub const MAX_CAPTURE_TIME: Duration = Duration::from_secs(3600);
/// The most that one writes, in bytes.
pub const MAX_CAPTURE_LEN: u64 = 16 << 30;
/// The most of a frame that is kept: all of any.
pub const MAX_SNAP_LEN: u32 = 65_535;

/// Begins a capture, `POST /v1/capture`. The answer is a pcapng file, which grows until a limit is reached, the client
/// hangs up, or the capture is told to end; then interface statistics end it, with the number of frames that found no
/// room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// A number of the client's choice, by which it can end it.
    pub capture: u64,
    /// Docker's id of a network or its begin, or a peer's name, id or its begin; of several the first that is known.
    pub of: Vec<String>,
    /// Bytes of a frame that are kept; at most [`MAX_SNAP_LEN`].
    pub snap_len: u32,
    /// Ends after so many frames.
    pub max_frames: u64,
    /// Ends before the file is longer, in bytes; at most [`MAX_CAPTURE_LEN`].
    pub max_len: u64,
    /// Ends after so long, in milliseconds; at most [`MAX_CAPTURE_TIME`].
    pub max_time_ms: u64,
}

/// Ends a capture well, `POST /v1/capture/end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndCapture {
    /// Which.
    pub capture: u64,
}
