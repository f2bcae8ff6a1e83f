//! One peer: its sessions, and the attempts to reach it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_dataplane::{PeerCounters, SessionActivity};
use weft_noise::{RecvSession, Role, SecretId, SendSession};
use weft_wire::PeerId;

use crate::control::Refusal;
use crate::path_mtu::PathMtu;

/// First wait between two attempts to reach a peer that does not answer; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait between two attempts: a host that comes back is found within this time, for ever.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Echoes that are waited for; older ones are given up.
const MAX_ECHOES: usize = 64;
/// Messages that wait for a session; older ones go, since the mesh repeats what matters.
const MAX_QUEUED: usize = 16;

/// A session with a peer, in use for sending or only kept to open what is still under way.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: u32,
    pub(crate) peer: PeerId,
    pub(crate) role: Role,
    /// The attempt that it came of, when this side made one.
    pub(crate) tag: Option<u64>,
    pub(crate) secret: SecretId,
    pub(crate) born: Instant,
    pub(crate) remote: SocketAddr,
    /// The peer has shown that it has the keys: a sealed datagram of it was opened.
    pub(crate) confirmed: bool,
    pub(crate) send: Arc<SendSession>,
    pub(crate) recv: Arc<RecvSession>,
    pub(crate) activity: Arc<SessionActivity>,
    /// Datagrams opened up to the last look.
    pub(crate) n_heard: u64,
    /// When something was said that the peer has not answered yet.
    pub(crate) unanswered_since: Option<Instant>,
    /// When the peer said something that was not answered yet.
    pub(crate) owed_since: Option<Instant>,
    /// When a message of the mesh passed last, either way.
    pub(crate) meshed_at: Option<Instant>,
    /// To be dropped then: it only told the peer something.
    pub(crate) ends: Option<Instant>,
}

impl Session {
    /// Whether its datagrams pass no relay.
    pub(crate) fn is_direct(&self) -> bool {
        self.remote.port() != 0
    }

    /// Whether anything was opened since the last call.
    pub(crate) fn take_heard(&mut self) -> bool {
        let n = self.activity.n_received.load(Ordering::Relaxed);
        std::mem::replace(&mut self.n_heard, n) != n
    }
}

/// When to try again, with exponential back-off and without an end.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    pub(crate) next: Instant,
    backoff: Duration,
    /// An attempt is under way.
    pub(crate) trying: bool,
    /// Attempts that ended without an answer since the last success.
    pub(crate) n_failed: u32,
}

impl Dial {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { next: now, backoff: MIN_BACKOFF, trying: false, n_failed: 0 }
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.trying = false;
        self.n_failed += 1;
        self.next = now + self.backoff;
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }

    /// The next attempt is due at once.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// Forgets past failures: try at `now`.
    pub(crate) fn reset(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}

/// A peer of the mesh.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) name: String,
    /// Where it was last reached.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) dial: Dial,
    /// The same for the way over a relay, while there is no other.
    pub(crate) relay_dial: Dial,
    /// Who hands on to it, while it is cut off or has a session that came over a relay.
    pub(crate) relay: Option<PeerId>,
    /// It hands on for this host.
    pub(crate) is_relay: bool,
    /// Until when this host hands on to it for others.
    pub(crate) served_until: Option<Instant>,
    /// The session to send on.
    pub(crate) current: Option<u32>,
    /// The last time that a datagram of the peer was opened.
    pub(crate) last_heard: Option<Instant>,
    /// The same without those that came over a relay.
    pub(crate) last_heard_directly: Option<Instant>,
    /// It shares a network with this host, so its session is kept.
    pub(crate) is_neighbor: bool,
    /// It does not answer directly though others say that it is alive.
    pub(crate) is_cut: bool,
    pub(crate) next_ping: Instant,
    /// When it is pinged at the latest, however often it pings.
    pub(crate) latest_ping: Instant,
    /// Nonce of the last ping, and when it was sent.
    pub(crate) ping: Option<(u32, Instant)>,
    /// Those that an operator asked for.
    echoes: VecDeque<(u32, Instant)>,
    /// Pings on a direct session since the last answer.
    pub(crate) n_unanswered: u32,
    /// Smoothed round trip, as RFC 6298 does.
    pub(crate) rtt: Option<Duration>,
    pub(crate) path_mtu: PathMtu,
    pub(crate) counters: Arc<PeerCounters>,
    /// Messages that wait for a session.
    pub(crate) queue: VecDeque<Vec<u8>>,
    /// What it said when it refused this host.
    pub(crate) refused_us: Option<Refusal>,
}

impl Peer {
    pub(crate) fn new(id: PeerId, name: String, address: Option<SocketAddr>, now: Instant) -> Self {
        Self {
            id,
            name,
            address,
            dial: Dial::new(now),
            relay_dial: Dial::new(now),
            relay: None,
            is_relay: false,
            served_until: None,
            current: None,
            last_heard: None,
            last_heard_directly: None,
            is_neighbor: false,
            is_cut: false,
            next_ping: now,
            latest_ping: now,
            ping: None,
            echoes: VecDeque::new(),
            n_unanswered: 0,
            rtt: None,
            path_mtu: PathMtu::new(now),
            counters: Arc::default(),
            queue: VecDeque::new(),
            refused_us: None,
        }
    }

    /// Whether the session with it is kept though nothing is said.
    pub(crate) fn is_kept(&self, now: Instant) -> bool {
        self.is_neighbor || self.is_relay || self.served_until.is_some_and(|until| now < until)
    }

    pub(crate) fn enqueue(&mut self, message: Vec<u8>) {
        if self.queue.len() >= MAX_QUEUED {
            self.queue.pop_front();
        }
        self.queue.push_back(message);
    }

    pub(crate) fn expect_echo(&mut self, nonce: u32, now: Instant) {
        if self.echoes.len() >= MAX_ECHOES {
            self.echoes.pop_front();
        }
        self.echoes.push_back((nonce, now));
    }

    /// The round trip of an echo that is waited for.
    pub(crate) fn take_echo(&mut self, nonce: u32, now: Instant) -> Option<Duration> {
        let place = self.echoes.iter().position(|(asked, _)| *asked == nonce)?;
        let (_, at) = self.echoes.remove(place)?;
        Some(now.saturating_duration_since(at))
    }

    /// Takes the answer to a ping.
    pub(crate) fn pong(&mut self, nonce: u32, now: Instant) {
        let Some((_, at)) = self.ping.filter(|(asked, _)| *asked == nonce) else { return };
        self.ping = None;
        let sample = now.saturating_duration_since(at);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_go_on_for_ever_at_most_five_seconds_apart() {
        let now = Instant::now();
        let mut dial = Dial::new(now);
        (0..40).for_each(|_| dial.failed(now));
        assert_eq!((dial.next - now, dial.n_failed), (MAX_BACKOFF, 40));
        dial.reset(now);
        dial.failed(now);
        assert_eq!(dial.next - now, MIN_BACKOFF);
    }

    #[test]
    fn the_oldest_message_goes_when_too_many_wait() {
        let mut peer = Peer::new(PeerId([1; 16]), String::new(), None, Instant::now());
        (0..20).for_each(|n| peer.enqueue(vec![n]));
        assert_eq!((peer.queue.len(), &peer.queue[0][..]), (MAX_QUEUED, &[4u8][..]));
    }

    #[test]
    fn an_echo_counts_once_and_only_if_it_was_asked_for() {
        let now = Instant::now();
        let mut peer = Peer::new(PeerId([1; 16]), String::new(), None, now);
        (0..100).for_each(|nonce| peer.expect_echo(nonce, now));
        let later = now + Duration::from_millis(3);
        assert_eq!(peer.take_echo(99, later), Some(Duration::from_millis(3)));
        assert_eq!(peer.take_echo(99, later), None);
        assert_eq!((peer.take_echo(0, later), peer.take_echo(100, later)), (None, None));
    }
}
