//! Handing datagrams on between two peers that do not reach each other.
//!
//! What is handed on is sealed between the two. It came sealed once more by its sender and leaves sealed once more for its
//! receiver, in the same place and of the same length, so that a train stays one. The kind inside the seal changes: a
//! datagram that was handed on is not handed on again, whatever anyone says.

use std::ops::Range;
use std::time::{Duration, Instant};

use weft_dataplane::{DropReason, PeerIdx, Snapshot};
use weft_sys::MAX_TRAIN_LEN;
use weft_wire::{
    HEADER_LEN, INNER_HEADER_LEN, InnerHeader, InnerKind, NetworkId, PeerId, RELAY_HEADER_LEN, TAG_LEN,
};

use crate::stats::add;
use crate::worker::Context;

/// Bytes that a worker hands on for one peer in [`PERIOD`]: 1 Gbit/s.
const MAX_LEN: u64 = 12_500_000;
const PERIOD: Duration = Duration::from_millis(100);
/// Peers share these by their ids, so that one that sends without end silences few others.
const N_BUCKETS: usize = 64;

/// Datagrams that were sealed for the same receiver, one behind the other.
struct Train {
    to: PeerIdx,
    range: Range<usize>,
    segment_len: usize,
    n: u64,
}

/// A worker's part in handing on. Empty between turns.
pub(crate) struct Relay {
    train: Option<Train>,
    since: Option<Instant>,
    handed_on: [u64; N_BUCKETS],
}

impl Default for Relay {
    fn default() -> Self {
        Self { train: None, since: None, handed_on: [0; N_BUCKETS] }
    }
}

impl Relay {
    /// Seals the opened datagram at `range` in `buf`, which `by` asks to hand on, for its receiver.
    pub(crate) fn hand_on(
        &mut self,
        context: &Context,
        snapshot: &Snapshot,
        by: PeerIdx,
        range: Range<usize>,
        buf: &mut [u8],
    ) -> Result<(), DropReason> {
        let payload = range.start + HEADER_LEN + INNER_HEADER_LEN..range.end.saturating_sub(TAG_LEN);
        let asked = buf.get(payload.clone()).and_then(PeerId::split_relay_header);
        let (target, _) = asked.ok_or(DropReason::BadInner)?;
        let from = snapshot.peers.get(by).ok_or(DropReason::UnknownSession)?;
        let to = *snapshot.served.get(&target).filter(|to| **to != by).ok_or(DropReason::RelayUnknown)?;
        let session =
            snapshot.peers.get(to).and_then(|peer| peer.send.as_ref()).ok_or(DropReason::NoSession)?;
        self.take(from.id, range.len() as u64)?;
        let counter = session.reserve(context.lane, 1).map_err(|_| DropReason::Exhausted)?;
        let inner = InnerHeader { kind: InnerKind::Relayed, ttl: 0, network: NetworkId::from_u48(0) };
        let head = buf.get_mut(range.start + HEADER_LEN..payload.start + RELAY_HEADER_LEN);
        let (inner_at, id_at) = head.ok_or(DropReason::BadInner)?.split_at_mut(INNER_HEADER_LEN);
        inner_at.copy_from_slice(&inner.to_bytes());
        id_at.copy_from_slice(&from.id.0);
        session.seal(context.lane, counter, buf.get_mut(range.clone()).ok_or(DropReason::BadInner)?);
        self.join(context, snapshot, to, range, buf);
        Ok(())
    }

    /// Whether one peer may have so much more handed on.
    fn take(&mut self, by: PeerId, len: u64) -> Result<(), DropReason> {
        // The clock is read for such datagrams alone.
        let now = Instant::now();
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            self.since = Some(now);
            self.handed_on = [0; N_BUCKETS];
        }
        let taken =
            self.handed_on.get_mut(usize::from(by.0[0]) % N_BUCKETS).ok_or(DropReason::RelayLimited)?;
        if *taken + len > MAX_LEN {
            return Err(DropReason::RelayLimited);
        }
        *taken += len;
        Ok(())
    }

    fn join(&mut self, context: &Context, snapshot: &Snapshot, to: PeerIdx, range: Range<usize>, buf: &[u8]) {
        if let Some(train) = &mut self.train
            && train.to == to
            && train.range.end == range.start
            && range.len() <= train.segment_len
            && train.range.len().is_multiple_of(train.segment_len)
            && train.range.len() + range.len() <= MAX_TRAIN_LEN
        {
            train.range.end = range.end;
            train.n += 1;
            return;
        }
        self.flush(context, snapshot, buf);
        self.train = Some(Train { to, segment_len: range.len(), range, n: 1 });
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self, context: &Context, snapshot: &Snapshot, buf: &[u8]) {
        let Some(train) = self.train.take() else { return };
        let Some(to) = snapshot.peers.get(train.to).map(|peer| peer.remote) else { return };
        let datagrams = buf.get(train.range).unwrap_or_default();
        match context.socket.send_train(datagrams, train.segment_len, to) {
            Ok(()) => add(&context.mailbox.stats.handed_on, train.n),
            Err(error) if weft_sys::is_too_long(&error) => context.drop(DropReason::TooLong, train.n),
            Err(_) => context.drop(DropReason::SendFailed, train.n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_so_much_handed_on_and_others_their_own() {
        let mut relay = Relay::default();
        let (one, other) = (PeerId([1; 16]), PeerId([2; 16]));
        let n_taken = (0..100_000).take_while(|_| relay.take(one, 1500).is_ok()).count() as u64;
        // A period may have passed meanwhile.
        assert!((MAX_LEN / 1500..=20 * MAX_LEN / 1500).contains(&n_taken), "{n_taken}");
        assert_eq!(relay.take(other, 1500), Ok(()));
    }
}
