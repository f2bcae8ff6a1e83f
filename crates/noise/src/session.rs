//! Sealing and opening of data datagrams.

use std::array;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use weft_wire::{HEADER_LEN, Header, Lane, MessageType, N_LANES, ReceiverIndex, TAG_LEN};

use crate::aead::{DirectionKey, LaneKey, nonce};
use crate::counter::Counter;
use crate::{ReplayWindow, Replayed, Suite};

/// A lane's key has sealed all it may. Nothing was reserved. Only a rekey that did not happen in time causes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane's key has sealed as many datagrams as it may")]
pub struct Exhausted;

/// Why a datagram was not opened. The window and everything else is unchanged; anyone on the path can cause any of
/// these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Shorter than a header and a tag.
    #[error("the datagram is too short")]
    TooShort,
    /// The lane has accepted this counter before.
    #[error("the datagram was received before")]
    Replayed,
    /// The counter is behind the replay window.
    #[error("the datagram is older than the replay window")]
    TooOld,
    /// The counter is beyond what a sender may use.
    #[error("the counter is beyond its limit")]
    BadCounter,
    /// Header, payload or tag are not what the peer sealed.
    #[error("the datagram was not sealed by the peer")]
    BadTag,
}

impl From<Replayed> for OpenError {
    fn from(error: Replayed) -> Self {
        match error {
            Replayed::Seen => Self::Replayed,
            Replayed::TooOld => Self::TooOld,
        }
    }
}

/// On a cache line pair of its own: workers write their counters at a high rate.
#[repr(align(128))]
#[derive(Default)]
struct SendLane {
    counter: Counter,
    key: OnceLock<LaneKey>,
}

/// The sending half of a session.
///
/// Workers share it. Each lane has a key and a counter of its own; a key is made at its lane's first use.
///
/// A nonce is the counter, and counters come from [`reserve`](Self::reserve) alone: whoever seals twice with one
/// counter, or with one that was not reserved, gives the key away.
///
/// The key lives and dies with the value: it can be neither copied nor written down, so a counter never has to be found
/// again. A process that was restarted, or restored from a backup, makes new sessions.
///
/// ```compile_fail,E0277
/// fn copied<T: Clone>() {}
/// copied::<weft_noise::SendSession>();
/// ```
///
/// ```
/// # use weft_noise::{RecvSession, SendSession, Suite};
/// # use weft_wire::{HEADER_LEN, Header, Lane, TAG_LEN};
/// let send = SendSession::new(Suite::auto(), &[7; 32], 0xabc);
/// let recv = RecvSession::new(Suite::auto(), &[7; 32]);
///
/// let lane = Lane::of_worker(0);
/// let mut datagram = [[0; HEADER_LEN].as_slice(), b"payload", &[0; TAG_LEN]].concat();
/// let counter = send.reserve(lane, 1)?;
/// send.seal(lane, counter, &mut datagram);
///
/// let header = Header::parse(&datagram).unwrap();
/// let mut lane = recv.lane(header.receiver.lane());
/// assert_eq!(lane.open(&header, &mut datagram).unwrap(), b"payload");
/// # Ok::<(), weft_noise::Exhausted>(())
/// ```
pub struct SendSession {
    suite: Suite,
    remote: u32,
    key: DirectionKey,
    lanes: [SendLane; N_LANES],
}

impl SendSession {
    /// A session that seals with keys from `key`, 32 uniformly random bytes of which no other session was made, for a
    /// peer that calls the session `remote` (28 bits). Handshakes make their sessions themselves.
    #[must_use]
    pub fn new(suite: Suite, key: &[u8; 32], remote: u32) -> Self {
        Self { suite, remote, key: DirectionKey::new(key), lanes: array::from_fn(|_| SendLane::default()) }
    }

    /// Takes `n` consecutive counters of `lane` and returns the first.
    ///
    /// # Errors
    /// [`Exhausted`] when fewer than `n` are left of [`Suite::max_datagrams_per_lane`].
    #[inline]
    pub fn reserve(&self, lane: Lane, n: u64) -> Result<u64, Exhausted> {
        let limit = self.suite.max_datagrams_per_lane();
        self.send_lane(lane).counter.reserve(n, limit).ok_or(Exhausted)
    }

    /// Seals `datagram` in place: writes its first [`HEADER_LEN`] bytes, encrypts what follows, and writes its last
    /// [`TAG_LEN`] bytes. `counter` must have been [reserved](Self::reserve) on `lane`, and used for nothing yet.
    ///
    /// # Panics
    /// When `datagram` is shorter than header and tag.
    #[inline]
    pub fn seal(&self, lane: Lane, counter: u64, datagram: &mut [u8]) {
        let receiver = ReceiverIndex::new(self.remote, lane);
        let header = Header { message: MessageType::Data, receiver, counter }.to_bytes();
        let (head, rest) = datagram.split_first_chunk_mut().expect("a datagram has room for its header");
        let (text, tag) = rest.split_last_chunk_mut().expect("a datagram has room for its tag");
        *head = header;
        let key = self.send_lane(lane).key.get_or_init(|| self.key.lane(self.suite, lane));
        key.seal(nonce(counter), &header, text, tag);
    }

    /// Counters reserved on all lanes together. When it reaches [`Suite::rekey_after_datagrams`], the session's
    /// initiator starts a rekey.
    #[must_use]
    pub fn n_sealed(&self) -> u64 {
        self.lanes.iter().fold(0, |sum, lane| sum.saturating_add(lane.counter.n_reserved()))
    }

    /// The peer's number of the session.
    #[must_use]
    pub const fn remote_session(&self) -> u32 {
        self.remote
    }

    /// The session's cipher.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    #[inline]
    fn send_lane(&self, lane: Lane) -> &SendLane {
        // A lane is 0 to 15 by construction, not by what a peer sent.
        &self.lanes[lane.index()]
    }
}

impl fmt::Debug for SendSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendSession")
            .field("suite", &self.suite)
            .field("remote", &self.remote)
            .field("n_sealed", &self.n_sealed())
            .finish_non_exhaustive()
    }
}

struct LaneState {
    key: LaneKey,
    window: Mutex<ReplayWindow>,
}

/// The receiving half of a session. Workers share it.
///
/// A lane's key and window (1 KiB) are made at its first use.
pub struct RecvSession {
    suite: Suite,
    key: DirectionKey,
    lanes: [OnceLock<Box<LaneState>>; N_LANES],
}

impl RecvSession {
    /// The counterpart of the [`SendSession`] made with the same `suite` and `key`.
    #[must_use]
    pub fn new(suite: Suite, key: &[u8; 32]) -> Self {
        Self { suite, key: DirectionKey::new(key), lanes: array::from_fn(|_| OnceLock::new()) }
    }

    /// Locks `lane` for the datagrams of a train. Others that want the same lane wait; peers keep a lane to one flow
    /// of datagrams, so hardly anyone does.
    #[inline]
    pub fn lane(&self, lane: Lane) -> RecvLane<'_> {
        let state = self.lanes[lane.index()].get_or_init(|| {
            Box::new(LaneState { key: self.key.lane(self.suite, lane), window: Mutex::default() })
        });
        RecvLane {
            limit: self.suite.max_datagrams_per_lane(),
            key: &state.key,
            // A panic elsewhere cannot leave a window half moved in a way that accepts a counter twice.
            window: state.window.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl fmt::Debug for RecvSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvSession").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// A lane of a [`RecvSession`], locked until dropped.
pub struct RecvLane<'s> {
    limit: u64,
    key: &'s LaneKey,
    window: MutexGuard<'s, ReplayWindow>,
}

impl RecvLane<'_> {
    /// Opens `datagram`, of which `header` was parsed, in place, and returns the inner header and payload.
    ///
    /// # Errors
    /// See [`OpenError`]. The window is unchanged; after [`OpenError::BadTag`] the bytes behind the header are in
    /// disorder.
    #[inline]
    pub fn open<'a>(&mut self, header: &Header, datagram: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let (head, sealed) = datagram.split_first_chunk_mut::<HEADER_LEN>().ok_or(OpenError::TooShort)?;
        debug_assert_eq!(header.to_bytes(), *head, "the header is that of the datagram");
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(OpenError::TooShort)?;
        if header.counter >= self.limit {
            return Err(OpenError::BadCounter);
        }
        self.window.check(header.counter)?;
        if !self.key.open(nonce(header.counter), head, text, tag) {
            return Err(OpenError::BadTag);
        }
        self.window.accept(header.counter);
        Ok(text)
    }

    /// The newest counter opened on the lane; 0 while there is none. A datagram just opened whose counter this is
    /// may move the peer's path to its source address.
    #[must_use]
    #[inline]
    pub fn newest(&self) -> u64 {
        self.window.newest()
    }
}

impl fmt::Debug for RecvLane<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvLane").field("newest", &self.newest()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::thread;

    const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    fn pair(suite: Suite) -> (SendSession, RecvSession) {
        (SendSession::new(suite, &[7; 32], 0x0abc_def0), RecvSession::new(suite, &[7; 32]))
    }

    fn sealed(send: &SendSession, lane: Lane, payload: &[u8]) -> Vec<u8> {
        let mut datagram = [&[0; HEADER_LEN], payload, &[0; TAG_LEN]].concat();
        send.seal(lane, send.reserve(lane, 1).unwrap(), &mut datagram);
        datagram
    }

    fn open(recv: &RecvSession, datagram: &[u8]) -> Result<Vec<u8>, OpenError> {
        let header = Header::parse(datagram).unwrap();
        let mut datagram = datagram.to_vec();
        recv.lane(header.receiver.lane()).open(&header, &mut datagram).map(|opened| opened.to_vec())
    }

    #[test]
    fn every_lane_carries_every_length() {
        for suite in SUITES {
            let (send, recv) = pair(suite);
            for lane in Lane::all() {
                for len in (0..70).chain([1400, 9000, 65_000]) {
                    let payload: Vec<u8> = (0..len).map(|i| (i * 31) as u8).collect();
                    let datagram = sealed(&send, lane, &payload);
                    assert_eq!(
                        Header::parse(&datagram).unwrap().receiver,
                        ReceiverIndex::new(0x0abc_def0, lane)
                    );
                    assert_eq!(open(&recv, &datagram), Ok(payload));
                    assert_eq!(open(&recv, &datagram), Err(OpenError::Replayed));
                }
            }
            assert_eq!(send.n_sealed(), 16 * 73);
        }
    }

    /// Keys have no way to a disk: nothing here can encode or print one.
    #[test]
    fn keys_are_neither_written_nor_printed() {
        let (_, dependencies) = include_str!("../Cargo.toml").split_once("\n[dependencies]\n").unwrap();
        let (dependencies, _) = dependencies.split_once("\n[").unwrap();
        for encoder in ["serde", "postcard", "redb", "bincode"] {
            assert!(!dependencies.contains(encoder), "{encoder} could write keys");
        }
        for suite in SUITES {
            let (send, recv) = pair(suite);
            let _ = (sealed(&send, Lane::CONTROL, b""), recv.lane(Lane::CONTROL));
            for shown in [format!("{send:?}"), format!("{recv:?}"), format!("{:?}", recv.lane(Lane::CONTROL))]
            {
                assert!(!shown.contains("key") && !shown.contains("7, 7"), "{shown}");
            }
        }
    }

    #[test]
    fn lanes_have_keys_of_their_own() {
        for suite in SUITES {
            let (send, recv) = pair(suite);
            let mut ciphertexts = HashSet::new();
            for lane in Lane::all() {
                let mut datagram = sealed(&send, lane, &[0; 64]);
                assert!(ciphertexts.insert(datagram[HEADER_LEN..HEADER_LEN + 64].to_vec()));
                let other = Lane::of_worker((lane.index() + 1) % 15);
                let header = Header {
                    receiver: ReceiverIndex::new(0x0abc_def0, other),
                    ..Header::parse(&datagram).unwrap()
                };
                datagram[..HEADER_LEN].copy_from_slice(&header.to_bytes());
                assert_eq!(open(&recv, &datagram), Err(OpenError::BadTag));
            }
        }
    }

    #[test]
    fn every_changed_bit_is_refused_and_changes_nothing() {
        for suite in SUITES {
            let (send, recv) = pair(suite);
            let lane = Lane::of_worker(3);
            assert!(open(&recv, &sealed(&send, lane, b"first")).is_ok());
            let datagram = sealed(&send, lane, b"twelve bytes");
            for bit in 0..datagram.len() * 8 {
                let mut changed = datagram.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                if Header::parse(&changed).is_some() {
                    let before = recv.lane(lane).window.clone();
                    assert!(open(&recv, &changed).is_err(), "bit {bit}");
                    assert_eq!(format!("{before:?}"), format!("{:?}", recv.lane(lane).window), "bit {bit}");
                }
            }
            assert_eq!(open(&recv, &datagram).as_deref(), Ok(&b"twelve bytes"[..]));
        }
    }

    #[test]
    fn short_datagrams_are_refused() {
        let (send, recv) = pair(Suite::Aes256Gcm);
        let datagram = sealed(&send, Lane::CONTROL, b"");
        for len in HEADER_LEN..datagram.len() {
            assert_eq!(open(&recv, &datagram[..len]), Err(OpenError::TooShort));
        }
        let header = Header::parse(&datagram).unwrap();
        assert_eq!(recv.lane(Lane::CONTROL).open(&header, &mut [0; 3]).err(), Some(OpenError::TooShort));
    }

    #[test]
    fn counters_end_at_the_limit() {
        for suite in SUITES {
            let (send, recv) = pair(suite);
            let limit = suite.max_datagrams_per_lane();
            assert!(limit >= suite.rekey_after_datagrams());
            let lane = Lane::of_worker(0);
            assert_eq!(send.reserve(lane, limit - 1), Ok(0));
            assert_eq!(send.reserve(lane, 2), Err(Exhausted));
            assert_eq!(send.reserve(lane, u64::MAX), Err(Exhausted));
            assert_eq!(send.reserve(lane, 1), Ok(limit - 1));
            assert_eq!(send.reserve(lane, 1), Err(Exhausted));
            assert_eq!(send.reserve(Lane::CONTROL, 1), Ok(0), "other lanes go on");
            assert_eq!(send.n_sealed(), limit + 1);

            let mut datagram = vec![0; HEADER_LEN + TAG_LEN];
            send.seal(lane, limit, &mut datagram);
            assert_eq!(open(&recv, &datagram), Err(OpenError::BadCounter));
        }
    }

    #[test]
    fn threads_never_share_a_counter() {
        let (send, recv) = pair(Suite::ChaCha20Poly1305);
        let lane = Lane::of_worker(1);
        let ranges: Vec<(u64, u64)> = thread::scope(|scope| {
            let work = |n: u64| {
                let send = &send;
                scope
                    .spawn(move || (0..2000).map(|_| (send.reserve(lane, n).unwrap(), n)).collect::<Vec<_>>())
            };
            let threads: Vec<_> = (1..=4).map(work).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let counters: HashSet<u64> = ranges.iter().flat_map(|&(first, n)| first..first + n).collect();
        assert_eq!(counters.len(), 2000 * 10);
        assert_eq!(counters.iter().max(), Some(&19_999));
        fn shared<T: Send + Sync>(_: &T) {}
        shared(&send);
        shared(&recv);
    }

    #[test]
    fn newest_follows_what_was_opened() {
        let (send, recv) = pair(Suite::Aes256Gcm);
        let datagrams: Vec<_> = (0..3).map(|_| sealed(&send, Lane::CONTROL, b"x")).collect();
        let newest = || recv.lane(Lane::CONTROL).newest();
        for (i, expected) in [(0, 0), (2, 2), (1, 2)] {
            assert!(open(&recv, &datagrams[i]).is_ok());
            assert_eq!(newest(), expected);
        }
    }
}
