//! All handshakes of a node.

mod datagram;
mod event;
mod initiator;
mod limits;
mod noise;
mod responder;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand_core::CryptoRng;
use weft_wire::{Header, MessageType, PeerId};
use zeroize::Zeroizing;

use crate::secret::SecretKeys;
use crate::{ClusterSecret, Identity, MAX_HELLO_LEN, RecvSession, SecretId, SendSession, Suite};
use datagram::{Mac, Parsed, index_of};
pub use event::{DropReason, Established, FailReason, HandshakeConfig, HandshakeEvent, HelloTooLong, Role};
use initiator::{Initiation, Phase};
use limits::Limits;
pub(crate) use noise::public_key_of;
use noise::{INDEX_LEN, Noise};
use responder::{Response, Stage};

/// Runs every handshake of a node, in both roles.
///
/// After each call that changes something, drain [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event), and arm a timer for [`poll_timeout`](Self::poll_timeout).
///
/// | what | how much |
/// |---|---|
/// | Init is sent again | after 0.5 s, doubling; the attempt ends after 5 s |
/// | Finish is sent again | after 0.25, 0.5, 1, 1 s …; the attempt ends after 5 s |
/// | state of a responder before Finish | 5 s, at most 4096 of them, each about 4 KiB |
/// | handshakes answered | 20 a second and source without a cookie, 20 with one |
/// | cookies demanded of all | above 50 Inits a second |
/// | work for someone without the cluster secret | one BLAKE2s per secret over at most 660 bytes; never an answer |
///
/// # Example
/// ```
/// # use std::time::Instant;
/// # use rand::{SeedableRng, rngs::StdRng};
/// # use weft_noise::{ClusterSecret, HandshakeConfig, HandshakeEvent, Handshakes, Identity, Suite};
/// # let mut rng = StdRng::seed_from_u64(1);
/// let now = Instant::now();
/// let (alice_at, bob_at) = ("10.0.0.1:6783".parse()?, "10.0.0.2:6783".parse()?);
/// let mut node = |hello: &str| {
///     Handshakes::new(HandshakeConfig {
///         identity: Identity::generate(&mut rng),
///         secrets: vec![ClusterSecret::new([7; 32])],
///         suite: Suite::auto(),
///         hello: hello.into(),
///         now,
///     })
/// };
/// let (mut alice, mut bob) = (node("I am Alice")?, node("I am Bob")?);
///
/// alice.initiate(bob_at, 42, now, &mut rng);
/// while let Some((_, datagram)) = alice.poll_transmit() {
///     bob.handle_datagram(alice_at, &datagram, now, &mut rng)?;
///     while let Some((_, datagram)) = bob.poll_transmit() {
///         alice.handle_datagram(bob_at, &datagram, now, &mut rng)?;
///     }
/// }
/// let Some(HandshakeEvent::Established(session)) = alice.poll_event() else { panic!() };
/// assert_eq!((session.tag, &session.hello[..]), (Some(42), &b"I am Bob"[..]));
/// let Some(HandshakeEvent::Established(session)) = bob.poll_event() else { panic!() };
/// assert_eq!((session.tag, &session.hello[..]), (None, &b"I am Alice"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Handshakes {
    identity: Identity,
    suite: Suite,
    secrets: Vec<Arc<SecretKeys>>,
    hello: Vec<u8>,
    /// Session numbers in use, here or by the caller.
    live: HashSet<u32>,
    initiations: HashMap<u32, Initiation>,
    /// What `initiations` dial.
    dialed: HashMap<SocketAddr, Dialed>,
    responses: HashMap<u32, Response>,
    /// `responses` by whom and what they answer, so that an Init that comes twice makes one state.
    answered: HashMap<(SocketAddr, Mac), u32>,
    n_half_open: usize,
    limits: Limits,
    /// When to look at which session of `initiations` or `responses`.
    timers: BTreeSet<(Instant, u32)>,
    transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<HandshakeEvent>,
}

#[derive(Default)]
struct Dialed {
    n_initiations: usize,
    stranger_heard: bool,
}

impl Handshakes {
    /// # Errors
    /// [`HelloTooLong`].
    pub fn new(config: HandshakeConfig) -> Result<Self, HelloTooLong> {
        let HandshakeConfig { identity, secrets, suite, hello, now } = config;
        let mut handshakes = Self {
            identity,
            suite,
            secrets: Vec::new(),
            hello: Vec::new(),
            live: HashSet::new(),
            initiations: HashMap::new(),
            dialed: HashMap::new(),
            responses: HashMap::new(),
            answered: HashMap::new(),
            n_half_open: 0,
            limits: Limits::new(now),
            timers: BTreeSet::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        handshakes.set_secrets(secrets);
        handshakes.set_hello(hello)?;
        Ok(handshakes)
    }

    /// Replaces the hello of messages written from now on.
    ///
    /// # Errors
    /// [`HelloTooLong`].
    pub fn set_hello(&mut self, hello: Vec<u8>) -> Result<(), HelloTooLong> {
        if hello.len() > MAX_HELLO_LEN {
            return Err(HelloTooLong);
        }
        self.hello = hello;
        Ok(())
    }

    /// Replaces the cluster's secrets: the first initiates, any is accepted. Handshakes under way (up to 10 s old) go
    /// on with the secret they began with.
    pub fn set_secrets(&mut self, secrets: Vec<ClusterSecret>) {
        self.secrets = secrets.iter().map(|secret| Arc::new(secret.keys(self.suite))).collect();
    }

    /// The cluster's cipher.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// Handshakes that wait for their Finish.
    #[must_use]
    pub const fn n_half_open(&self) -> usize {
        self.n_half_open
    }

    /// Takes in a datagram of type Init, Response, Finish or Cookie.
    ///
    /// # Errors
    /// [`DropReason`]: the datagram had no effect (but for the cookie of [`DropReason::CookieDemanded`], the drain on
    /// the limits, and a better [`FailReason`]). Whoever can send to us can cause it.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), DropReason> {
        let header = Header::parse(datagram).ok_or(DropReason::Malformed)?;
        if header.message == MessageType::Cookie {
            return self.handle_cookie(&header, datagram);
        }
        let parsed = Parsed::new(&header, datagram).ok_or(DropReason::Malformed)?;
        let result = match header.message {
            MessageType::Init => self.handle_init(&parsed, from, now, rng),
            MessageType::Response => self.handle_response(&parsed, now, rng),
            MessageType::Finish => self.handle_finish(&parsed, from, now),
            MessageType::Cookie | MessageType::Data => Err(DropReason::Malformed),
        };
        if result == Err(DropReason::BadMac)
            && let Some(dialed) = self.dialed.get_mut(&from)
        {
            dialed.stranger_heard = true;
        }
        result
    }

    /// The next datagram to send, and where.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<HandshakeEvent> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let &(due, session) = self.timers.first()?;
        let reason = match self.initiations.get(&session).map(|initiation| &initiation.phase) {
            Some(Phase::Dialing(_)) => "Init unanswered",
            Some(Phase::Finishing { .. }) => "Finish unconfirmed",
            None => "response expires",
        };
        Some((due, reason))
    }

    /// Sends again what was lost and forgets what has expired.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut dyn CryptoRng) {
        while let Some(&(due, session)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            if self.initiations.contains_key(&session) {
                self.retry_initiation(session, now, rng);
            } else {
                self.expire_response(session);
            }
        }
    }

    /// The caller is done with `session`: its number may be used again, and nothing more is done for it.
    pub fn release(&mut self, session: u32) {
        self.forget_initiation(session);
        self.forget_response(session);
        self.live.remove(&session);
    }

    /// A session number that is not in use.
    fn new_session(&mut self, rng: &mut dyn CryptoRng) -> u32 {
        loop {
            let session = index_of(rng.next_u32()).session();
            if session != 0 && self.live.insert(session) {
                return session;
            }
        }
    }

    fn established(
        &self,
        role: Role,
        tag: Option<u64>,
        remote: SocketAddr,
        session: u32,
        peer: PeerSide,
        keys: &[Zeroizing<[u8; 32]>; 2],
    ) -> HandshakeEvent {
        let [initiator, responder] = keys;
        let (send, recv) = match role {
            Role::Initiator => (initiator, responder),
            Role::Responder => (responder, initiator),
        };
        HandshakeEvent::Established(Established {
            role,
            tag,
            peer: PeerId::from_public_key(&peer.public_key),
            public_key: peer.public_key,
            secret: peer.secret,
            hello: peer.hello,
            remote,
            session,
            send: Arc::new(SendSession::new(self.suite, send, peer.session)),
            recv: Arc::new(RecvSession::new(self.suite, recv)),
        })
    }
}

/// Index and hello: the payload of Response and Finish.
fn payload_of(session: u32, hello: &[u8]) -> Vec<u8> {
    [&index_of(session).0.to_be_bytes(), hello].concat()
}

/// What a peer's Response or Finish says of it, authenticated.
struct PeerSide {
    secret: SecretId,
    public_key: [u8; 32],
    session: u32,
    hello: Vec<u8>,
}

impl PeerSide {
    /// `payload` is what `noise` has just read. The index in it is used rather than the header's, which any member
    /// on the path could change.
    fn new(noise: &Noise, payload: &[u8], secret: SecretId) -> Option<Self> {
        let (index, hello) = payload.split_first_chunk::<INDEX_LEN>()?;
        let session = weft_wire::ReceiverIndex(u32::from_be_bytes(*index)).session();
        let public_key = noise.remote_key()?;
        (session != 0).then(|| Self { secret, public_key, session, hello: hello.to_vec() })
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_done = self.responses.values().filter(|r| matches!(r.stage, Stage::Done { .. })).count();
        f.debug_struct("Handshakes")
            .field("peer_id", &self.identity.peer_id())
            .field("suite", &self.suite)
            .field("n_secrets", &self.secrets.len())
            .field("n_initiations", &self.initiations.len())
            .field("n_half_open", &self.n_half_open)
            .field("n_done", &n_done)
            .finish_non_exhaustive()
    }
}
