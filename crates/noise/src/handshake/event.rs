//! What goes in and comes out of [`Handshakes`](super::Handshakes).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use weft_wire::PeerId;

use crate::{ClusterSecret, Identity, RecvSession, SecretId, SendSession, Suite};

/// What [`Handshakes`](super::Handshakes) starts with.
#[derive(Debug)]
pub struct HandshakeConfig {
    /// This peer's key.
    pub identity: Identity,
    /// The cluster's secrets: the first initiates, any is accepted. None at all: nobody is answered.
    pub secrets: Vec<ClusterSecret>,
    /// The cluster's cipher.
    pub suite: Suite,
    /// Sent to every peer that a handshake is made with, up to [`MAX_HELLO_LEN`](crate::MAX_HELLO_LEN) bytes.
    pub hello: Vec<u8>,
    /// The present.
    pub now: Instant,
}

/// The hello is longer than [`MAX_HELLO_LEN`](crate::MAX_HELLO_LEN). Nothing was changed; the caller did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hello has at most {} bytes", crate::MAX_HELLO_LEN)]
pub struct HelloTooLong;

/// Who began a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// This side.
    Initiator,
    /// The peer.
    Responder,
}

/// What a handshake came to.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandshakeEvent {
    /// There is a session.
    Established(Established),
    /// The peer has not heard yet that `session`, of [`Role::Responder`], works: send something on it.
    Reconfirm {
        /// Local number of the session.
        session: u32,
    },
    /// An attempt of this side came to nothing. The next one is up to the caller.
    Failed {
        /// As given to [`initiate`](super::Handshakes::initiate).
        tag: u64,
        /// As given to [`initiate`](super::Handshakes::initiate).
        remote: SocketAddr,
        /// The session already [established](Established), when it was not confirmed. It must be dropped; its number
        /// is released.
        session: Option<u32>,
        /// Why.
        reason: FailReason,
    },
}

/// A session, and whom it is with.
///
/// [`Role::Responder`] must send at once, to confirm it. [`Role::Initiator`] must not send before a datagram was
/// opened on it, and says so with [`confirmed`](super::Handshakes::confirmed): only then is it known that the peer
/// has the keys, and so the cluster secret.
#[derive(Debug)]
pub struct Established {
    /// This side's part.
    pub role: Role,
    /// As given to [`initiate`](super::Handshakes::initiate); `None` for [`Role::Responder`].
    pub tag: Option<u64>,
    /// The peer. Nothing is checked beyond that it has the key of this name: whether it is the one expected, is
    /// admitted, and is not revoked, the caller decides.
    pub peer: PeerId,
    /// The peer's X25519 key.
    pub public_key: [u8; 32],
    /// The secret that both sides used.
    pub secret: SecretId,
    /// The peer's hello, authenticated.
    pub hello: Vec<u8>,
    /// Where the peer was when it was dialed ([`Role::Initiator`]) or dialed ([`Role::Responder`]).
    pub remote: SocketAddr,
    /// Local number of the session, 28 bits, not 0. In use until [`release`](super::Handshakes::release)d.
    pub session: u32,
    /// Seals what goes to the peer.
    pub send: Arc<SendSession>,
    /// Opens what comes from the peer.
    pub recv: Arc<RecvSession>,
}

/// Why an attempt came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum FailReason {
    /// Nothing came in time. Nobody is there, or it does not know us: strangers are not answered.
    #[error("no answer")]
    NoAnswer,
    /// Nothing fitting came in time, but handshake datagrams of someone with another cluster secret, suite or version
    /// did come from that address.
    #[error("the peer has another cluster secret, cipher suite or version")]
    WrongSecretOrVersion,
    /// The responder answered, but sent nothing on the session in time.
    #[error("the peer did not confirm the session")]
    NotConfirmed,
    /// The responder's key or session number cannot be used. Only a member with modified software sends such.
    #[error("the peer's answer cannot be used")]
    BadAnswer,
    /// The address is this peer's own. Someone on the path who sends our datagrams back can cause it too, so it is no
    /// reason to give up the address for ever.
    #[error("the address is our own")]
    Itself,
    /// There is no cluster secret to initiate with.
    #[error("no cluster secret is set")]
    NoSecret,
}

/// Why a datagram had no effect. Anyone who can send to us can cause any of these, unless said otherwise; they are
/// counted, never answered (but for [`CookieDemanded`](Self::CookieDemanded)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// No handshake datagram by its header, length or indices.
    #[error("malformed")]
    Malformed,
    /// mac1 is wrong: the sender has another cluster secret or suite, or the datagram was changed.
    #[error("wrong mac1")]
    BadMac,
    /// Names no handshake of ours.
    #[error("unknown session")]
    UnknownSession,
    /// Finish from another address than Init.
    #[error("wrong address")]
    WrongAddress,
    /// A cookie was sent in answer, and this Init forgotten.
    #[error("cookie demanded")]
    CookieDemanded,
    /// A Cookie that answers nothing that we sent.
    #[error("wrong cookie")]
    BadCookie,
    /// More than [`MAX_HANDSHAKES_PER_SOURCE`](crate::MAX_HANDSHAKES_PER_SOURCE) or
    /// [`MAX_COOKIES_PER_SECOND`](crate::MAX_COOKIES_PER_SECOND), or one cookie after the other in an attempt.
    #[error("rate limited")]
    RateLimited,
    /// [`MAX_HALF_OPEN`](crate::MAX_HALF_OPEN) handshakes are waiting for their Finish.
    #[error("too many half-open handshakes")]
    TooManyHalfOpen,
    /// mac1 is right but the Noise message is not: a member, or something is broken.
    #[error("wrong handshake message")]
    BadHandshake,
    /// Its effect has been had.
    #[error("duplicate")]
    Duplicate,
    /// It leads back to this peer itself.
    #[error("from ourselves")]
    Itself,
}
