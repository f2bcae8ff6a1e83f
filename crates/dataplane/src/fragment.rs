//! Putting frames together that were longer than the path carries.

use std::time::{Duration, Instant};

use weft_wire::{FRAGMENT_HEADER_LEN, FragmentHeader, NetworkId, ReceiverIndex};

use crate::DropReason;
use crate::vnet::VnetHdr;

/// Frames of one session that may be incomplete: a train's parts arrive one after the other, seldom in disorder.
const MAX_OF_SESSION: usize = 8;
/// Incomplete frames in all.
const MAX_ALL: usize = 64;
/// A part that comes later than this after the first is of no use: the transport has sent again.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Which parts belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentKey {
    /// Session and lane.
    pub receiver: ReceiverIndex,
    /// The counter with which the part was sealed.
    pub counter: u64,
}

/// Frames of which some parts are there. Bounded in number, per session and in all; the oldest goes first. A frame that
/// stays incomplete for a second goes at the next part that comes.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// Entries keep their memory when they are free.
    entries: Vec<Entry>,
    n_lost: u64,
}

#[derive(Debug)]
struct Entry {
    /// `None`: free.
    of: Option<Owner>,
    /// One bit a part.
    have: u64,
    /// A virtio-net header, and the frame.
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    receiver: ReceiverIndex,
    /// Counter of part 0.
    first: u64,
    network: NetworkId,
    count: u8,
    since: Instant,
}

impl Reassembly {
    /// Takes an opened part, its fragment header first. When it was the last one missing, returns the frame behind an
    /// empty virtio-net header.
    ///
    /// # Errors
    /// [`DropReason::BadInner`]: it contradicts itself or the other parts, or is there already. Nothing changed.
    pub fn offer(
        &mut self,
        key: FragmentKey,
        network: NetworkId,
        part: &[u8],
        now: Instant,
    ) -> Result<Option<&[u8]>, DropReason> {
        let header = FragmentHeader::parse(part).ok_or(DropReason::BadInner)?;
        let bytes = part.get(FRAGMENT_HEADER_LEN..).unwrap_or_default();
        let (range, index) = (header.range(), u64::from(header.index()));
        let first = key.counter.checked_sub(index).ok_or(DropReason::BadInner)?;
        if bytes.len() != range.len() {
            return Err(DropReason::BadInner);
        }
        self.expire(now);
        let owner = Owner { receiver: key.receiver, first, network, count: header.count(), since: now };
        let at = match self.find(key.receiver, first) {
            Some(at) => at,
            None => self.start(owner, header.frame_len()),
        };
        let entry = self.entries.get_mut(at).ok_or(DropReason::FragmentLost)?;
        let agrees = entry.of.is_some_and(|of| of.network == network && of.count == header.count());
        let bit = 1 << index;
        if !agrees || entry.bytes.len() != VnetHdr::LEN + header.frame_len() || entry.have & bit != 0 {
            return Err(DropReason::BadInner);
        }
        let place = entry.bytes.get_mut(VnetHdr::LEN + range.start..VnetHdr::LEN + range.end);
        place.ok_or(DropReason::BadInner)?.copy_from_slice(bytes);
        entry.have |= bit;
        if entry.have.count_ones() < u32::from(header.count()) {
            return Ok(None);
        }
        entry.of = None;
        Ok(Some(&entry.bytes))
    }

    /// Parts that were given up since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.n_lost)
    }

    fn find(&self, receiver: ReceiverIndex, first: u64) -> Option<usize> {
        self.entries.iter().position(|e| e.of.is_some_and(|of| of.receiver == receiver && of.first == first))
    }

    /// A place for a frame of `frame_len` bytes.
    fn start(&mut self, owner: Owner, frame_len: usize) -> usize {
        let session = owner.receiver.session();
        let of_session = |e: &&Entry| e.of.is_some_and(|of| of.receiver.session() == session);
        if self.entries.iter().filter(of_session).count() >= MAX_OF_SESSION {
            self.give_up_oldest(|of| of.receiver.session() == session);
        } else if self.entries.len() >= MAX_ALL && self.entries.iter().all(|e| e.of.is_some()) {
            self.give_up_oldest(|_| true);
        }
        let at = self.entries.iter().position(|e| e.of.is_none()).unwrap_or_else(|| {
            self.entries.push(Entry { of: None, have: 0, bytes: Vec::new() });
            self.entries.len() - 1
        });
        if let Some(entry) = self.entries.get_mut(at) {
            entry.of = Some(owner);
            entry.have = 0;
            entry.bytes.clear();
            entry.bytes.extend(VnetHdr::PLAIN.to_bytes());
            entry.bytes.resize(VnetHdr::LEN + frame_len, 0);
        }
        at
    }

    fn give_up_oldest(&mut self, among: impl Fn(&Owner) -> bool) {
        let candidates = self.entries.iter_mut().filter(|e| e.of.is_some_and(|of| among(&of)));
        if let Some(entry) = candidates.min_by_key(|e| e.of.map(|of| of.since)) {
            self.n_lost += u64::from(entry.give_up());
        }
    }

    fn expire(&mut self, now: Instant) {
        let late = |of: Owner| now.saturating_duration_since(of.since) >= TIMEOUT;
        for entry in self.entries.iter_mut().filter(|e| e.of.is_some_and(late)) {
            self.n_lost += u64::from(entry.give_up());
        }
    }
}

impl Entry {
    /// Makes it free; how many parts it had.
    fn give_up(&mut self) -> u32 {
        self.of = None;
        self.have.count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_wire::Lane;

    const NETWORK: NetworkId = NetworkId::from_u48(5);

    fn key(session: u32, counter: u64) -> FragmentKey {
        FragmentKey { receiver: ReceiverIndex::new(session, Lane::of_worker(0)), counter }
    }

    fn parts(frame: &[u8], max_part_len: usize) -> Vec<Vec<u8>> {
        let first = FragmentHeader::first(frame.len(), max_part_len).unwrap();
        first.all().map(|header| [&header.to_bytes()[..], &frame[header.range()]].concat()).collect()
    }

    proptest! {
        #[test]
        fn frames_come_whole_in_any_order(
            frame in proptest::collection::vec(any::<u8>(), 200..4000),
            max_part_len in 100usize..199,
            base in 0u64..1000,
            swaps in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
        ) {
            let parts = parts(&frame, max_part_len);
            let mut order: Vec<usize> = (0..parts.len()).collect();
            swaps.iter().for_each(|(a, b)| order.swap(a.index(parts.len()), b.index(parts.len())));
            let (mut reassembly, now) = (Reassembly::default(), Instant::now());
            for (n, i) in order.iter().enumerate() {
                let whole = reassembly.offer(key(1, base + *i as u64), NETWORK, &parts[*i], now).unwrap();
                if n + 1 < parts.len() {
                    prop_assert_eq!(whole, None);
                } else {
                    let whole = whole.unwrap();
                    prop_assert_eq!(&whole[..VnetHdr::LEN], &VnetHdr::PLAIN.to_bytes());
                    prop_assert_eq!(&whole[VnetHdr::LEN..], &frame[..]);
                }
            }
            prop_assert_eq!(reassembly.take_lost(), 0);
        }

        #[test]
        fn any_bytes_are_taken(offers in proptest::collection::vec(
            (0u32..3, 0u64..8, proptest::collection::vec(any::<u8>(), 0..12), 0u64..600), 0..100,
        )) {
            let (mut reassembly, mut now) = (Reassembly::default(), Instant::now());
            for (session, counter, mut bytes, ms) in offers {
                now += Duration::from_millis(ms);
                if let [_, count, long, ..] = &mut bytes[..] { (*count, *long) = (*count % 5, 0) }
                let _ = reassembly.offer(key(session, counter), NETWORK, &bytes, now);
                prop_assert!(reassembly.entries.len() <= MAX_ALL);
            }
        }
    }

    #[test]
    fn what_does_not_agree_is_refused_and_spoils_nothing() {
        let frame: Vec<u8> = (0..250).map(|i| i as u8).collect();
        let parts = parts(&frame, 100);
        let (mut reassembly, now) = (Reassembly::default(), Instant::now());
        let mut offer = |counter, network, part: &[u8]| {
            reassembly.offer(key(1, counter), network, part, now).map(|whole| whole.map(<[u8]>::to_vec))
        };
        assert_eq!(offer(7, NETWORK, &parts[0]), Ok(None));
        assert_eq!(offer(7, NETWORK, &parts[0]), Err(DropReason::BadInner), "twice");
        assert_eq!(offer(8, NetworkId::from_u48(6), &parts[1]), Err(DropReason::BadInner), "another network");
        assert_eq!(offer(8, NETWORK, &parts[1][..50]), Err(DropReason::BadInner), "cut off");
        assert_eq!(offer(0, NETWORK, &parts[1]), Err(DropReason::BadInner), "before the first counter");
        assert_eq!(offer(8, NETWORK, &[1, 3, 0, 251]), Err(DropReason::BadInner), "another length");
        assert_eq!(offer(9, NETWORK, &parts[2]), Ok(None));
        let whole = offer(8, NETWORK, &parts[1]).unwrap().unwrap();
        assert_eq!(whole[VnetHdr::LEN..], frame);
    }

    #[test]
    fn a_session_has_few_entries_and_none_for_long() {
        let parts = parts(&[1; 250], 100);
        let (mut reassembly, now) = (Reassembly::default(), Instant::now());
        for session in 0..20 {
            for i in 0..20 {
                reassembly.offer(key(session, i * 10), NETWORK, &parts[0], now).unwrap();
            }
        }
        let n_used = |r: &Reassembly| r.entries.iter().filter(|e| e.of.is_some()).count();
        assert_eq!((reassembly.entries.len(), n_used(&reassembly)), (MAX_ALL, MAX_ALL));
        assert_eq!(reassembly.take_lost(), 20 * 20 - MAX_ALL as u64);
        let later = now + TIMEOUT;
        reassembly.offer(key(9, 0), NETWORK, &parts[0], later).unwrap();
        assert_eq!((n_used(&reassembly), reassembly.take_lost()), (1, MAX_ALL as u64));
    }
}
