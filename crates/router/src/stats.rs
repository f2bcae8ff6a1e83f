//! What workers count.

use std::sync::atomic::{AtomicU64, Ordering};

use weft_dataplane::{DropCounters, DropReason};

/// A worker's counters. It alone writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerStats {
    pub(crate) drops: DropCounters,
    /// Trains sent, and the datagrams in them.
    pub(crate) trains_sent: AtomicU64,
    pub(crate) datagrams_sent: AtomicU64,
    /// Receive calls, and the datagrams they brought.
    pub(crate) trains_received: AtomicU64,
    pub(crate) datagrams_received: AtomicU64,
    /// Reads of a TAP, and writes.
    pub(crate) tap_reads: AtomicU64,
    pub(crate) tap_writes: AtomicU64,
    /// Super-frames that did not land in place.
    pub(crate) mispredicted: AtomicU64,
    /// Super-frames cut again, for a path that carries less.
    pub(crate) recut: AtomicU64,
    /// Frames sent in parts, and frames put together.
    pub(crate) fragmented: AtomicU64,
    pub(crate) reassembled: AtomicU64,
    /// SYNs whose segment size was lowered.
    pub(crate) mss_clamped: AtomicU64,
    /// Datagrams handed on between other peers.
    pub(crate) handed_on: AtomicU64,
}

impl WorkerStats {
    pub(crate) fn drop(&self, reason: DropReason, n: u64) {
        self.drops.add(reason, n);
    }
}

/// Adds to a counter that no other thread writes.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// Totals over all workers since the start.
///
/// Datagrams per train, and frames per read or write, say how well offloads work: near 1 they do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouterStats {
    /// Frames and datagrams that went no further, for every reason that occurred.
    pub drops: Vec<(DropReason, u64)>,
    /// Trains handed to the kernel.
    pub trains_sent: u64,
    /// Datagrams in them.
    pub datagrams_sent: u64,
    /// Trains taken from the kernel.
    pub trains_received: u64,
    /// Datagrams in them.
    pub datagrams_received: u64,
    /// Frames and super-frames read from TAPs.
    pub tap_reads: u64,
    /// Frames and super-frames written to TAPs.
    pub tap_writes: u64,
    /// Super-frames whose payload had to be moved into place.
    pub mispredicted: u64,
    /// TCP frames and super-frames cut again, since the path to their peer carries less than the containers' MTU.
    pub recut: u64,
    /// Frames sent in parts, for the same reason.
    pub fragmented: u64,
    /// Frames put together from parts.
    pub reassembled: u64,
    /// TCP connections' maximum segment sizes that were lowered.
    pub mss_clamped: u64,
    /// Datagrams handed on between peers that do not reach each other.
    pub handed_on: u64,
    /// Whether trains leave in one call (`UDP_SEGMENT`).
    pub sends_trains: bool,
    /// Whether trains arrive in one call (`UDP_GRO`).
    pub receives_trains: bool,
}

impl RouterStats {
    pub(crate) fn merge<'a>(workers: impl Iterator<Item = &'a WorkerStats> + Clone) -> Self {
        let total = |counter: fn(&WorkerStats) -> &AtomicU64| {
            workers.clone().map(|w| counter(w).load(Ordering::Relaxed)).sum()
        };
        let drops = DropReason::ALL.iter().filter_map(|&reason| {
            let n = workers.clone().map(|w| w.drops.get(reason)).sum();
            (n > 0).then_some((reason, n))
        });
        Self {
            drops: drops.collect(),
            trains_sent: total(|w| &w.trains_sent),
            datagrams_sent: total(|w| &w.datagrams_sent),
            trains_received: total(|w| &w.trains_received),
            datagrams_received: total(|w| &w.datagrams_received),
            tap_reads: total(|w| &w.tap_reads),
            tap_writes: total(|w| &w.tap_writes),
            mispredicted: total(|w| &w.mispredicted),
            recut: total(|w| &w.recut),
            fragmented: total(|w| &w.fragmented),
            reassembled: total(|w| &w.reassembled),
            mss_clamped: total(|w| &w.mss_clamped),
            handed_on: total(|w| &w.handed_on),
            sends_trains: false,
            receives_trains: false,
        }
    }

    /// How many went no further for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
    }
}
