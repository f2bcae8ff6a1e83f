//! Datagrams that carry nothing, to see how many get through.
//!
//! They are sealed, sent, received and opened as frames are, on the same sessions, sockets and paths; only the TAPs are not
//! touched. One thread sends, on a [lane](weft_wire::Lane) that workers rarely have, as fast as it is told; the receiver's
//! workers count. Who asks whom, how fast, and for how long is decided elsewhere.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use weft_dataplane::Snapshot;
use weft_sys::{MAX_TRAIN_LEN, SegmentSupport};
use weft_wire::{InnerKind, Lane, NetworkId, PeerId};

use crate::cutter::{OVERHEAD, Run};
use crate::egress;
use crate::worker::Context;

/// The lane of the last of 15 workers, of which few hosts have so many.
pub(crate) const LANE: Lane = Lane::of_worker(14);
/// What a datagram begins with: the run that it is of, and its number in it.
const HEAD_LEN: usize = 12;
/// The longest frame: no path is known to carry more.
const MAX_FRAME_LEN: usize = 9014;
/// Datagrams that are sent together where the kernel knows no trains.
const MAX_SINGLE: usize = 64;
/// How often something is sent, at a rate at which a train is not full by then.
const PERIOD: Duration = Duration::from_millis(1);
/// What was not sent while the thread did not get the processor is made up for, up to this time.
const MAKE_UP: Duration = Duration::from_millis(5);
/// How long to wait for a session that is away.
const NO_SESSION: Duration = Duration::from_millis(10);

/// Datagrams of a run, and the bytes of the frames that they stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BenchCounts {
    /// Datagrams.
    pub n: u64,
    /// Their bytes.
    pub len: u64,
    /// Datagrams up to the newest of them, those that are missing included.
    pub top: u64,
}

#[derive(Debug, Default)]
struct Counters {
    n: AtomicU64,
    len: AtomicU64,
    top: AtomicU64,
}

impl Counters {
    fn add(&self, n: u64, len: u64, top: u64) {
        self.n.fetch_add(n, Ordering::Relaxed);
        self.len.fetch_add(len, Ordering::Relaxed);
        self.top.fetch_max(top, Ordering::Relaxed);
    }

    fn get(&self) -> BenchCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BenchCounts { n: load(&self.n), len: load(&self.len), top: load(&self.top) }
    }
}

/// What is counted at the moment.
#[derive(Debug)]
struct Expected {
    peer: PeerId,
    run: u32,
    counters: Counters,
}

/// Where workers count.
#[derive(Debug, Default)]
pub(crate) struct BenchSink(ArcSwapOption<Expected>);

impl BenchSink {
    /// Counts a datagram of `peer`; `false`: it is of no run that is under way.
    pub(crate) fn take(&self, peer: Option<PeerId>, payload: &[u8]) -> bool {
        let expected = self.0.load();
        let Some((run, rest)) = payload.split_first_chunk() else { return false };
        let Some(number) = rest.first_chunk() else { return false };
        let (run, number) = (u32::from_be_bytes(*run), u64::from_be_bytes(*number));
        match expected.as_ref().filter(|e| Some(e.peer) == peer && e.run == run) {
            Some(expected) => {
                expected.counters.add(1, payload.len() as u64, number.saturating_add(1));
                true
            }
            None => false,
        }
    }

    pub(crate) fn expect(self: &Arc<Self>, peer: PeerId, run: u32) -> BenchReceiver {
        let expected = Arc::new(Expected { peer, run, counters: Counters::default() });
        self.0.store(Some(Arc::clone(&expected)));
        BenchReceiver { sink: Arc::clone(self), expected }
    }
}

/// A run whose datagrams are counted until this is dropped.
#[derive(Debug)]
pub struct BenchReceiver {
    sink: Arc<BenchSink>,
    expected: Arc<Expected>,
}

impl BenchReceiver {
    /// What has arrived.
    #[must_use]
    pub fn counts(&self) -> BenchCounts {
        self.expected.counters.get()
    }
}

impl Drop for BenchReceiver {
    fn drop(&mut self) {
        // Another run may have begun.
        let current = self.sink.0.load();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &self.expected)) {
            self.sink.0.store(None);
        }
    }
}

#[derive(Debug)]
struct Sending {
    /// Bytes of frames a second.
    rate: AtomicU64,
    stop: AtomicBool,
    done: AtomicBool,
    counters: Counters,
}

/// A thread that sends until its time is over or this is dropped.
#[derive(Debug)]
pub struct BenchSender(Arc<Sending>);

impl BenchSender {
    /// Changes how fast it sends, in bytes of frames a second.
    pub fn set_rate(&self, rate: u64) {
        self.0.rate.store(rate, Ordering::Relaxed);
    }

    /// What was sent.
    #[must_use]
    pub fn counts(&self) -> BenchCounts {
        self.0.counters.get()
    }

    /// Whether its time is over: no more is sent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }
}

impl Drop for BenchSender {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// What the thread needs.
pub(crate) struct Job {
    pub(crate) context: Context,
    pub(crate) snapshots: Arc<ArcSwap<Snapshot>>,
    pub(crate) peer: PeerId,
    pub(crate) run: u32,
    pub(crate) time: Duration,
}

/// Starts the thread.
pub(crate) fn send(job: Job, rate: u64) -> io::Result<BenchSender> {
    let sending = Arc::new(Sending {
        rate: AtomicU64::new(rate),
        stop: AtomicBool::new(false),
        done: AtomicBool::new(false),
        counters: Counters::default(),
    });
    let shared = Arc::clone(&sending);
    std::thread::Builder::new().name("weft-bench".to_owned()).spawn(move || {
        job.work(&shared);
        shared.done.store(true, Ordering::Release);
    })?;
    Ok(BenchSender(sending))
}

impl Job {
    fn work(&self, sending: &Sending) {
        let most = match self.context.socket.segment_support() {
            SegmentSupport::Offloaded { max_segments } => max_segments,
            SegmentSupport::Single => MAX_SINGLE,
        };
        let mut buf = vec![0; MAX_TRAIN_LEN + MAX_FRAME_LEN + OVERHEAD];
        let mut wrapped = Vec::new();
        let (start, mut number) = (Instant::now(), 0_u64);
        // Bytes that may be sent at this moment.
        let (mut credit, mut last) = (0.0, start);
        while !sending.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now.saturating_duration_since(start) >= self.time {
                break;
            }
            let snapshot = self.snapshots.load_full();
            let place = snapshot.peers.iter().position(|peer| peer.id == self.peer && peer.send.is_some());
            let Some((place, view)) = place.and_then(|place| Some((place, snapshot.peers.get(place)?)))
            else {
                last = now;
                std::thread::sleep(NO_SESSION);
                continue;
            };
            let frame_len = view.path.max_frame_len().min(MAX_FRAME_LEN);
            let most = most.min(MAX_TRAIN_LEN / (frame_len + OVERHEAD)).max(1);
            let rate = sending.rate.load(Ordering::Relaxed) as f64;
            credit += rate * now.saturating_duration_since(last).as_secs_f64();
            last = now;
            let n = ((rate * PERIOD.as_secs_f64()) as usize / frame_len).clamp(1, most);
            let train_len = (n * frame_len) as f64;
            credit = credit.min(train_len.max(rate * MAKE_UP.as_secs_f64()));
            if credit < train_len {
                let wait = Duration::from_secs_f64((train_len - credit) / rate.max(1.0));
                std::thread::sleep(wait.min(NO_SESSION));
                continue;
            }
            credit -= train_len;
            let run = Run { start: 0, frame_len, last_len: frame_len, n, kind: InnerKind::Bench };
            for i in 0..n {
                let frame = buf.get_mut(run.frame(i)).unwrap_or_default();
                frame.fill(0);
                if let Some(to) = frame.get_mut(..HEAD_LEN) {
                    let (run, place) = to.split_at_mut(4);
                    run.copy_from_slice(&self.run.to_be_bytes());
                    place.copy_from_slice(&(number + i as u64).to_be_bytes());
                }
            }
            let network = NetworkId::from_u48(0);
            if egress::seal(&self.context, &snapshot, network, &mut buf, run, place) {
                number += n as u64;
                sending.counters.add(n as u64, run.frames_len() as u64, number);
                let datagrams = buf.get(..run.end()).unwrap_or_default();
                egress::send(&self.context, &snapshot, &mut wrapped, datagrams, run.stride(), n, place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_expected_is_counted() {
        let sink = Arc::new(BenchSink::default());
        let (one, other) = (Some(PeerId([1; 16])), Some(PeerId([2; 16])));
        let numbered =
            |run: u32, number: u64| [&run.to_be_bytes()[..], &number.to_be_bytes(), &[0; 88]].concat();
        let of = |run| numbered(run, 0);
        assert!(!sink.take(one, &of(7)), "nothing is");
        let receiver = sink.expect(PeerId([1; 16]), 7);
        assert!(sink.take(one, &numbered(7, 4)) && sink.take(one, &of(7)));
        assert!(!sink.take(one, &of(8)) && !sink.take(other, &of(7)) && !sink.take(None, &of(7)));
        assert!(!sink.take(one, &of(7)[..11]));
        assert_eq!(receiver.counts(), BenchCounts { n: 2, len: 200, top: 5 });
        let next = sink.expect(PeerId([1; 16]), 8);
        drop(receiver);
        assert!(sink.take(one, &of(8)), "the end of one run is not the end of the next");
        drop(next);
        assert!(!sink.take(one, &of(8)));
    }
}
