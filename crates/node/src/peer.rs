//! One peer: its sessions, and the attempts to reach it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_dataplane::{PeerCounters, SessionActivity};
use weft_noise::{RecvSession, Role, SendSession};
use weft_wire::PeerId;

use crate::node::FDB_HOLD;

/// First wait between two attempts to reach an address that does not answer; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait between two attempts: a host that comes back is found within this time, for ever.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// A session with a peer, in use for sending or only kept to open what is still under way.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: u32,
    pub(crate) peer: PeerId,
    pub(crate) role: Role,
    /// The attempt that it came of, when this side made one.
    pub(crate) tag: Option<u64>,
    pub(crate) born: Instant,
    pub(crate) remote: SocketAddr,
    /// The peer has shown that it has the keys: a sealed datagram of it was opened.
    pub(crate) confirmed: bool,
    pub(crate) send: Arc<SendSession>,
    pub(crate) recv: Arc<RecvSession>,
    pub(crate) activity: Arc<SessionActivity>,
    /// Datagrams opened up to the last look.
    pub(crate) n_heard: u64,
}

impl Session {
    /// Whether anything was opened since the last call.
    pub(crate) fn take_heard(&mut self) -> bool {
        let n = self.activity.n_received.load(Ordering::Relaxed);
        std::mem::replace(&mut self.n_heard, n) != n
    }
}

/// When to try an address again, with exponential back-off and without an end.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    pub(crate) address: SocketAddr,
    pub(crate) next: Instant,
    backoff: Duration,
    /// An attempt is under way.
    pub(crate) trying: bool,
    /// Attempts that ended without an answer since the last success.
    pub(crate) n_failed: u32,
}

impl Dial {
    pub(crate) fn new(address: SocketAddr, now: Instant) -> Self {
        Self { address, next: now, backoff: MIN_BACKOFF, trying: false, n_failed: 0 }
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.trying = false;
        self.n_failed += 1;
        self.next = now + self.backoff;
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }

    /// Forgets past failures: try at `now`.
    pub(crate) fn reset(&mut self, now: Instant) {
        self.trying = false;
        self.n_failed = 0;
        self.backoff = MIN_BACKOFF;
        self.next = now;
    }
}

/// A peer of the mesh.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) name: String,
    pub(crate) dial: Dial,
    /// The session to send on.
    pub(crate) current: Option<u32>,
    /// The last time that a datagram of the peer was opened.
    pub(crate) last_heard: Option<Instant>,
    /// `last_heard` is within the dead time: the peer is up.
    pub(crate) alive: bool,
    pub(crate) next_announce: Instant,
    pub(crate) counters: Arc<PeerCounters>,
    /// It has completed a handshake, now or in an earlier run; else it is known by hearsay only.
    pub(crate) proven: bool,
    /// When it was first heard of.
    pub(crate) since: Instant,
    pub(crate) lapsed: bool,
}

impl Peer {
    pub(crate) fn new(id: PeerId, name: String, address: SocketAddr, now: Instant) -> Self {
        Self {
            id,
            name,
            dial: Dial::new(address, now),
            current: None,
            last_heard: None,
            alive: false,
            next_announce: now,
            counters: Arc::default(),
            proven: false,
            since: now,
            lapsed: false,
        }
    }

    /// Whether frames may still be sent to what the peer announced.
    pub(crate) fn holds_entries(&self, now: Instant) -> bool {
        self.alive || self.last_heard.is_some_and(|heard| now < heard + FDB_HOLD)
    }

    /// Whether the peer's entries lapsed since the last call.
    pub(crate) fn take_lapsed(&mut self, now: Instant) -> bool {
        let lapsed = !self.holds_entries(now);
        std::mem::replace(&mut self.lapsed, lapsed) != lapsed && lapsed
    }
}
