//! Copies of frames for who looks at them.
//!
//! Workers look once a turn whether anybody does. Only then frames are copied, into a queue that does not wait: what finds
//! no room is counted, and the traffic goes on as before.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use weft_wire::{InnerKind, NetworkId, PeerId};

/// Captures at one time: each costs a copy of every frame.
const MAX_CAPTURES: usize = 4;

/// Whose frames are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureFilter {
    /// On these networks.
    pub networks: Vec<NetworkId>,
    /// Only what goes to this peer or comes from it.
    pub peer: Option<PeerId>,
    /// Bytes of a frame that are kept.
    pub snap_len: usize,
}

/// A frame as it is inside the seal: a super-frame of a container is cut already, and one for a container not joined yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedFrame {
    /// Its network's place in the filter.
    pub network: usize,
    /// Whether it came from another host, or from weft itself (answers to ARP, ICMP), and not from a container.
    pub inbound: bool,
    /// When.
    pub at: SystemTime,
    /// Its length.
    pub len: usize,
    /// Its transport checksum holds the pseudo-header's sum only.
    pub partial: bool,
    /// As much of it as is kept.
    pub bytes: Vec<u8>,
}

impl CapturedFrame {
    /// Completes its transport checksum, unless it is complete or a part of the frame was not kept.
    pub fn complete_checksum(&mut self) {
        if self.partial && self.bytes.len() == self.len {
            crate::egress::complete(&mut self.bytes, InnerKind::FramePartial);
            self.partial = false;
        }
    }
}

/// Where copies go; `false`: there is no room.
type Sink = Box<dyn Fn(CapturedFrame) -> bool + Send + Sync>;

/// One who looks.
pub(crate) struct Capture {
    filter: CaptureFilter,
    sink: Sink,
    /// By the network's place in the filter.
    n_dropped: Vec<AtomicU64>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl Capture {
    /// The network's place, if it is looked at, and so is what was exchanged with a peer for which `with` holds.
    fn place(&self, network: NetworkId, with: impl Fn(PeerId) -> bool) -> Option<usize> {
        let place = self.filter.networks.iter().position(|n| *n == network)?;
        self.filter.peer.is_none_or(with).then_some(place)
    }

    fn offer(&self, network: usize, inbound: bool, frame: &[u8], partial: bool) {
        let bytes = frame.get(..self.filter.snap_len).unwrap_or(frame).to_vec();
        let at = SystemTime::now();
        if !(self.sink)(CapturedFrame { network, inbound, at, len: frame.len(), partial, bytes })
            && let Some(n) = self.n_dropped.get(network)
        {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All who look.
#[derive(Debug, Default)]
pub(crate) struct Captures(ArcSwap<Vec<Arc<Capture>>>);

/// Who looks during one turn of a worker.
pub(crate) struct Lookers(Guard<Arc<Vec<Arc<Capture>>>>);

impl Captures {
    pub(crate) fn load(&self) -> Lookers {
        Lookers(self.0.load())
    }

    /// `None` when there are enough already.
    pub(crate) fn begin(self: &Arc<Self>, filter: CaptureFilter, sink: Sink) -> Option<CaptureHandle> {
        let n_dropped = filter.networks.iter().map(|_| AtomicU64::new(0)).collect();
        let capture = Arc::new(Capture { filter, sink, n_dropped });
        let mut added = false;
        self.0.rcu(|list| {
            added = list.len() < MAX_CAPTURES;
            let new = added.then(|| Arc::clone(&capture));
            list.iter().cloned().chain(new).collect::<Vec<_>>()
        });
        added.then(|| CaptureHandle { captures: Arc::clone(self), capture })
    }
}

impl Lookers {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands a frame to those who look at its network, and at a peer for which `with` holds.
    pub(crate) fn offer(
        &self,
        network: NetworkId,
        with: impl Fn(PeerId) -> bool,
        inbound: bool,
        frames: impl Iterator<Item = impl AsRef<[u8]>> + Clone,
        partial: bool,
    ) {
        for capture in self.0.iter() {
            if let Some(place) = capture.place(network, &with) {
                frames.clone().for_each(|frame| capture.offer(place, inbound, frame.as_ref(), partial));
            }
        }
    }
}

/// A capture that goes on until this is dropped.
#[derive(Debug)]
pub struct CaptureHandle {
    captures: Arc<Captures>,
    capture: Arc<Capture>,
}

impl CaptureHandle {
    /// Frames that found no room, by the network's place in the filter.
    #[must_use]
    pub fn n_dropped(&self) -> Vec<u64> {
        self.capture.n_dropped.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    /// Takes no more frames; what found no room stays known.
    pub fn end(&self) {
        self.captures.0.rcu(|list| {
            list.iter().filter(|other| !Arc::ptr_eq(other, &self.capture)).cloned().collect::<Vec<_>>()
        });
    }
}

impl Drop for CaptureHandle {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const NETWORK: NetworkId = NetworkId::from_u48(7);

    fn filter(peer: Option<PeerId>) -> CaptureFilter {
        CaptureFilter { networks: vec![NetworkId::from_u48(6), NETWORK], peer, snap_len: 4 }
    }

    fn begin(
        captures: &Arc<Captures>,
        peer: Option<PeerId>,
    ) -> (CaptureHandle, mpsc::Receiver<CapturedFrame>) {
        let (sender, receiver) = mpsc::sync_channel(2);
        let sink = Box::new(move |frame| sender.try_send(frame).is_ok());
        (captures.begin(filter(peer), sink).unwrap(), receiver)
    }

    fn offer(captures: &Captures, network: NetworkId, with: PeerId) {
        captures.load().offer(network, |id| id == with, false, [b"frame"].iter(), true);
    }

    #[test]
    fn who_looks_gets_what_it_asked_for_and_what_finds_no_room_is_counted() {
        let captures = Arc::new(Captures::default());
        assert!(captures.load().is_empty());
        let (one, other) = (PeerId([1; 16]), PeerId([2; 16]));
        let (all, all_frames) = begin(&captures, None);
        let (some, frames) = begin(&captures, Some(one));
        offer(&captures, NETWORK, other);
        assert!(frames.try_recv().is_err());
        let frame = all_frames.recv().unwrap();
        assert_eq!((&frame.bytes[..], frame.len, frame.network), (&b"fram"[..], 5, 1));
        offer(&captures, NetworkId::from_u48(8), one);
        (0..5).for_each(|_| offer(&captures, NETWORK, one));
        assert_eq!((frames.try_iter().count(), some.n_dropped()), (2, vec![0, 3]));
        drop(some);
        offer(&captures, NETWORK, one);
        assert_eq!(frames.try_iter().count(), 0);
        all.end();
        assert!(captures.load().is_empty());
        assert_eq!(all.n_dropped(), [0, 4], "still known");
    }

    #[test]
    fn so_many_look_at_one_time() {
        let captures = Arc::new(Captures::default());
        let mut held: Vec<_> = (0..MAX_CAPTURES).map(|_| begin(&captures, None)).collect();
        assert!(captures.begin(filter(None), Box::new(|_| true)).is_none());
        held.pop();
        begin(&captures, None);
    }
}
