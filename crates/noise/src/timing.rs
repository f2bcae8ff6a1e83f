//! Lifetimes and limits of sessions and handshakes.

use std::time::Duration;

/// Age at which the side that initiated a session starts the handshake of its successor.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Age at which a session is neither sealed with nor opened with any more. What was sent is then beyond the reach of
/// anyone who takes the long-term keys later.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// Silence towards a peer after which a keepalive is sent.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// Counters that a lane's replay window tells apart (RFC 6479).
pub const REPLAY_WINDOW: u64 = 8192;

/// Longest hello a handshake carries, in bytes.
pub const MAX_HELLO_LEN: usize = 512;

/// Time from the first Init to [`FailReason::NoAnswer`](crate::FailReason::NoAnswer), and from the first Finish to
/// [`FailReason::NotConfirmed`](crate::FailReason::NotConfirmed).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait before Init is sent again; it doubles each time, up to [`INIT_RESEND_MAX`]. Every wait is lengthened by a
/// random part of up to a quarter, so that peers that start together do not stay in step.
pub const INIT_RESEND_FIRST: Duration = Duration::from_millis(500);
/// Longest wait between two Inits.
pub const INIT_RESEND_MAX: Duration = Duration::from_secs(5);
/// Wait before Finish is sent again; it doubles each time, up to [`FINISH_RESEND_MAX`], lengthened as for Init.
pub const FINISH_RESEND_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two Finishes.
pub const FINISH_RESEND_MAX: Duration = Duration::from_secs(1);

/// Life of a responder's state before its Finish came, and how long a repeated Finish is recognised afterwards.
pub const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Most states a responder keeps of handshakes whose Finish has not come.
pub const MAX_HALF_OPEN: usize = 4096;
/// Handshakes a second and source (an IPv4 address or an IPv6 /64) that are answered without a cookie, and as many
/// more with a valid one.
pub const MAX_HANDSHAKES_PER_SOURCE: u32 = 20;
/// Inits with a valid mac1 in a second above which a cookie is demanded of everyone.
pub const N_INITS_UNDER_LOAD: u32 = 50;
/// Most Cookie datagrams sent in a second.
pub const MAX_COOKIES_PER_SECOND: u32 = 5000;
/// Life of the key from which cookies are made.
pub const COOKIE_SECRET_LIFETIME: Duration = Duration::from_secs(120);
