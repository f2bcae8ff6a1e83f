//! Who may speak to whom, and how nobody else can read or change it: handshakes, sessions, replay windows, cookies.
//!
//! Nothing here does IO, reads a clock or draws randomness of its own: `now: Instant` and a
//! [`CryptoRng`](rand_core::CryptoRng) are arguments. The ephemeral keys of the Noise handshakes come from that
//! generator too (a resolver hands `snow` the bytes), and so does every nonce that is not a counter.
//!
//! # The parts
//! - [`Handshakes`] runs every handshake of a node, in both roles, and ends each in an [`Established`] session.
//! - [`SendSession`] and [`RecvSession`] seal and open data datagrams. They are `Send + Sync`; worker threads use
//!   one [`Lane`](weft_wire::Lane) each and so share neither a counter nor a lock.
//! - [`ClusterSecret`] and [`Identity`] are the long-term keys; [`Suite`] is the cluster's choice of cipher.
//!
//! # Handshake datagrams
//! `Noise_XXpsk3_25519_{AESGCM|ChaChaPoly}_BLAKE2s` with the prologue `"weft v1" | suite name`:
//!
//! ```text
//! offset     size  Init, Response, Finish
//! 0          16    header; counter = the sender's receiver index << 32 (its session, lane 0)
//! 16         n     Noise message
//! 16+n       16    mac2: BLAKE2s-128 under a cookie over what stands before it; zero without a cookie
//! 32+n       16    mac1: BLAKE2s-128 under a key from the cluster secret and the suite, over what stands before it
//!
//! offset     size  Cookie
//! 0          16    header; counter 0
//! 16         24    nonce
//! 40         32    XChaCha20-Poly1305(cookie); associated data: header | mac1 of the datagram that it answers
//! ```
//!
//! The Noise messages carry: Init nothing, n = 48; Response and Finish the sender's receiver index (4 bytes) and
//! its hello (up to [`MAX_HELLO_LEN`] bytes), n = 100 or 68 + the hello's length. mac1 stands last and so covers
//! mac2: no bit of a handshake datagram can change unnoticed, whether or not the receiver looks at mac2.
//!
//! # Data datagrams
//! ```text
//! 0          16    header: associated data; its counter is the low 8 bytes of the nonce, big-endian, after 4 zeros
//! 16         n     ciphertext of the inner header and payload
//! 16+n       16    tag
//! ```
//! A lane's key is HKDF-Expand-SHA256 of the direction's key from the handshake, with the label
//! `"weft lane" | lane (1 byte)`.
//!
//! # What is kept in memory
//! Secrets are zeroized when dropped where this crate holds them; `snow` clears neither its copy of the pre-shared
//! key nor its chaining key when a handshake ends.
//!
//! Session keys are in memory only. Nothing in this crate can write one down or tell it (a test sees to it), so after a
//! restart, and after a state file or a whole machine was restored, there are no sessions to go on with and no counters
//! to jump ahead with: handshakes make new keys, whose counters begin at 0. A virtual machine that is resumed from a
//! snapshot of its memory is another matter: it would repeat counters, as any such protocol would. Restart weft there.

mod aead;
mod counter;
mod handshake;
mod identity;
mod mac;
mod replay;
mod secret;
mod session;
mod suite;
mod timing;

pub use handshake::{
    DropReason, Established, FailReason, HandshakeConfig, HandshakeEvent, Handshakes, HelloTooLong, Role,
};
pub use identity::Identity;
pub use replay::{ReplayWindow, Replayed};
pub use secret::{ClusterSecret, ParseSecretError, SecretId};
pub use session::{Exhausted, OpenError, RecvLane, RecvSession, SendSession};
pub use suite::{ParseSuiteError, Suite};
pub use timing::{
    COOKIE_SECRET_LIFETIME, FINISH_RESEND_FIRST, FINISH_RESEND_MAX, HALF_OPEN_TIMEOUT, HANDSHAKE_TIMEOUT,
    INIT_RESEND_FIRST, INIT_RESEND_MAX, KEEPALIVE, MAX_COOKIES_PER_SECOND, MAX_HALF_OPEN,
    MAX_HANDSHAKES_PER_SOURCE, MAX_HELLO_LEN, N_INITS_UNDER_LOAD, REJECT_AFTER, REKEY_AFTER, REPLAY_WINDOW,
};
