//! Parts of frames, from a peer that sends what it likes.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use weft_dataplane::{
    DropReason, FragmentKey, MAX_TOO_BIG_LEN, Reassembly, VnetHdr, clamp_mss, write_too_big,
};
use weft_wire::{FRAGMENT_HEADER_LEN, FragmentHeader, Lane, NetworkId, ReceiverIndex};

use crate::bytes::Bytes;

const MAX_STEPS: usize = 64;

#[derive(Debug, Arbitrary)]
enum Step {
    /// A frame is sent in parts; which of them arrive, in which order, is said by their numbers.
    Frame {
        session: u8,
        frame: Bytes,
        max_part_len: u16,
        order: Vec<u8>,
    },
    /// Bytes that need not be a part, at any counter.
    Raw {
        session: u8,
        lane: u8,
        counter: u64,
        network: u8,
        bytes: Bytes,
    },
    Wait {
        ms: u16,
    },
    /// A frame that is too long, or a SYN from far away.
    Long {
        frame: Bytes,
        max_frame_len: u16,
        partial: bool,
    },
}

fn receiver(session: u8, lane: u8) -> ReceiverIndex {
    ReceiverIndex::new(u32::from(session % 4), Lane::of_worker(usize::from(lane % 2)))
}

/// Reassembly, and what is made of frames that are too long.
pub fn fragments(bytes: &[u8]) {
    let Ok(steps) = Vec::<Step>::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut reassembly = Reassembly::default();
    let mut now = Instant::now();
    let mut counter: u64 = 1 << 20;
    // Every part that was offered, by the key of its frame: a whole frame is made of nothing else.
    let mut offered: HashMap<(ReceiverIndex, u64), HashSet<Vec<u8>>> = HashMap::new();
    let mut offer = |reassembly: &mut Reassembly, key: FragmentKey, network: u8, part: &[u8], now| {
        let header = FragmentHeader::parse(part);
        if let Some(header) = header
            && let Some(first) = key.counter.checked_sub(header.index().into())
        {
            offered.entry((key.receiver, first)).or_default().insert(part.to_vec());
        }
        match reassembly.offer(key, NetworkId::from_u48(network.into()), part, now) {
            Ok(None) => None,
            Ok(Some(whole)) => {
                let header = header.expect("no frame is made of what is no part");
                let (vnet, frame) = whole.split_at(VnetHdr::LEN);
                assert_eq!(VnetHdr::parse(vnet), Some(VnetHdr::PLAIN));
                assert_eq!(frame.len(), header.frame_len());
                let parts = &offered[&(key.receiver, key.counter - u64::from(header.index()))];
                for header in FragmentHeader::first(frame.len(), header.part_len()).expect("parts").all() {
                    let part = [&header.to_bytes()[..], &frame[header.range()]].concat();
                    assert!(parts.contains(&part), "{header:?} is of bytes that were not offered");
                }
                Some(frame.to_vec())
            }
            Err(reason) => {
                assert!(matches!(reason, DropReason::BadInner | DropReason::FragmentLost), "{reason:?}");
                None
            }
        }
    };
    for step in steps.into_iter().take(MAX_STEPS) {
        match step {
            Step::Frame { session, frame, max_part_len, order } => {
                let Some(first) = FragmentHeader::first(frame.len(), max_part_len.into()) else { continue };
                let parts: Vec<Vec<u8>> =
                    first.all().map(|h| [&h.to_bytes()[..], &frame[h.range()]].concat()).collect();
                let mut missing: HashSet<usize> = (0..parts.len()).collect();
                for nth in order.into_iter().map(|nth| usize::from(nth) % parts.len()) {
                    if !missing.remove(&nth) {
                        continue;
                    }
                    let key = FragmentKey { receiver: receiver(session, 0), counter: counter + nth as u64 };
                    let whole = offer(&mut reassembly, key, 1, &parts[nth], now);
                    assert_eq!(whole.is_some(), missing.is_empty(), "{} parts are missing", missing.len());
                    assert!(whole.is_none_or(|whole| whole == *frame));
                }
                counter += parts.len() as u64;
            }
            Step::Raw { session, lane, counter, network, bytes } => {
                let key = FragmentKey { receiver: receiver(session, lane), counter: counter % 64 };
                offer(&mut reassembly, key, network, &bytes, now);
            }
            Step::Wait { ms } => now += Duration::from_millis(ms.into()),
            Step::Long { frame, max_frame_len, partial } => long(frame.into(), max_frame_len.into(), partial),
        }
    }
    assert!(reassembly.take_lost() <= (MAX_STEPS * 64) as u64);
    assert_eq!(FRAGMENT_HEADER_LEN, 4);
}

fn long(mut frame: Vec<u8>, max_frame_len: usize, partial: bool) {
    let mut out = [0; MAX_TOO_BIG_LEN];
    if let Some(len) = write_too_big(&frame, max_frame_len, &mut out) {
        let message = &out[VnetHdr::LEN..len];
        assert_eq!((&message[..6], &message[6..12]), (&frame[6..12], &frame[..6]), "it goes back");
        assert!(frame[0] & 1 == 0, "an answer to what went to a group");
    }
    let before = frame.clone();
    let changed = clamp_mss(&mut frame, partial, max_frame_len);
    let n_changed = before.iter().zip(&frame).filter(|(a, b)| a != b).count();
    assert!(
        n_changed <= if partial { 2 } else { 4 } && changed == (n_changed > 0),
        "{n_changed} bytes changed"
    );
}
