//! From the underlay to the TAPs.
//!
//! A datagram is opened where it was received. Frames of one flow are joined by listing the parts of the buffer where
//! their payload lies, and leave in one gathered write, so that nothing is copied but by the kernel. Where the kernel does
//! not join datagrams to trains, many are received by one call, and frames are joined over all of them.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use weft_dataplane::{
    Coalescer, DropReason, FragmentKey, LastSender, Reassembly, SessionView, Snapshot, VnetHdr, clamp_mss,
};
use weft_noise::{OpenError, RecvLane};
use weft_sys::{MAX_DATAGRAM_LEN, Received, Tap};
use weft_wire::{
    HEADER_LEN, Header, INNER_HEADER_LEN, InnerHeader, InnerKind, MessageType, NetworkId, PeerId,
    RELAY_HEADER_LEN, ReceiverIndex, TAG_LEN,
};

use crate::NodeInput;
use crate::capture::Lookers;
use crate::relay::Relay;
use crate::stats::add;
use crate::worker::{Context, Snapshots, Taps};

const PREFIX_LEN: usize = HEADER_LEN + INNER_HEADER_LEN;
/// Receive calls of one turn before the TAPs get theirs.
const MAX_CALLS: usize = 16;
/// Datagrams that are received by one call while they come one by one.
const BATCH: usize = 32;
/// Single datagrams in a row after which that is so: between trains there is one now and then.
const SINGLES: u32 = 8;
/// Distance of two datagrams of a batch in the buffer. Not a power of two: their headers would all fall into the same few
/// lines of the processor's cache.
const STRIDE: usize = MAX_DATAGRAM_LEN + 1 + 2048 + 64;

/// Receives, opens and writes. One a worker; it keeps no datagrams between turns.
pub(crate) struct Ingress {
    buf: Vec<u8>,
    /// Calls since the last train. After [`SINGLES`] of them a call asks for a batch. Trains are taken one at a time, while
    /// they are in the cache.
    n_single: u32,
    coalescer: Coalescer,
    reassembly: Reassembly,
    relay: Relay,
    /// The last address change that the node was told of.
    roamed: Option<(u32, SocketAddr)>,
}

/// Frames on their way to one TAP, and what was counted about them.
struct Writer<'a> {
    context: &'a Context,
    coalescer: &'a mut Coalescer,
    tap: Option<(NetworkId, &'a Tap)>,
}

impl Ingress {
    pub(crate) fn new() -> Self {
        Self {
            // Pages are made by the kernel when they are first written to: a place that is never used costs nothing.
            buf: vec![0; BATCH * STRIDE],
            n_single: 0,
            coalescer: Coalescer::new(),
            reassembly: Reassembly::default(),
            relay: Relay::default(),
            roamed: None,
        }
    }

    /// Takes what the socket has, up to a limit; whether there were frames.
    pub(crate) fn run(&mut self, context: &Context, snapshots: &mut Snapshots, taps: &Taps) -> bool {
        let mut moved = false;
        let mut batch = [Received::NONE; BATCH];
        for _ in 0..MAX_CALLS {
            let (socket, buf) = (&context.socket, &mut self.buf);
            let n_asked = if self.n_single >= SINGLES { BATCH } else { 1 };
            let received = match batch.first_chunk_mut::<1>() {
                Some(one) if n_asked == 1 => socket.receive_many(buf, STRIDE, one),
                _ => socket.receive_many(buf, STRIDE, &mut batch),
            };
            // Errors are "nothing there", or of single datagrams.
            let Ok(n) = received else { break };
            let received = batch.get(..n).unwrap_or_default();
            let is_single = received.iter().all(|r| r.len <= r.segment_len);
            self.n_single = if is_single { self.n_single.saturating_add(1) } else { 0 };
            // Looked at after the datagrams came: a peer may use a new session as soon as this host has published it.
            moved |= self.open_all(context, snapshots.load(), taps, received);
            if n < n_asked {
                break;
            }
        }
        moved
    }

    /// Whether there was a frame among them.
    fn open_all(
        &mut self,
        context: &Context,
        snapshot: &Snapshot,
        taps: &Taps,
        received: &[Received],
    ) -> bool {
        // Such an address stands for a peer behind a relay; nobody sends from it.
        let is_forged = |r: &Received| r.from.port() == 0;
        context.drop(DropReason::Malformed, received.iter().filter(|r| is_forged(r)).count() as u64);
        let mut datagrams = received.iter().enumerate().filter(|(_, r)| !is_forged(r)).flat_map(|(i, r)| {
            let (first, last) = (i * STRIDE, i * STRIDE + r.len);
            let starts = (first..last).step_by(r.segment_len);
            starts.map(move |start| (start..(start + r.segment_len).min(last), r.from))
        });
        let mut writer = Writer { context, coalescer: &mut self.coalescer, tap: None };
        let lookers = context.captures.load();
        let mut current: Option<Opener<'_>> = None;
        let (mut n_datagrams, mut moved) = (0, false);
        // A datagram that a relay handed on, out of the one before.
        let mut inside: Option<(Range<usize>, SocketAddr)> = None;
        loop {
            let is_inside = inside.is_some();
            let Some((Range { start: at, end }, from)) = inside.take().or_else(|| datagrams.next()) else {
                break;
            };
            n_datagrams += u64::from(!is_inside);
            let Some(datagram) = self.buf.get_mut(at..end) else { break };
            let Some(header) = Header::parse(datagram) else {
                context.drop(DropReason::Malformed, 1);
                continue;
            };
            if header.message != MessageType::Data {
                context.tell_node(NodeInput::Handshake { from, bytes: datagram.to_vec() });
                continue;
            }
            if current.as_ref().is_none_or(|c| c.receiver != header.receiver) {
                // Gives the lane's lock back before it takes the next.
                drop(current.take());
                current = Opener::new(snapshot, header.receiver);
            }
            let Some(opener) = &mut current else {
                context.drop(DropReason::UnknownSession, 1);
                continue;
            };
            let (inner, payload) = match opener.open(&header, datagram) {
                Ok(opened) => opened,
                Err(reason) => {
                    context.drop(reason, 1);
                    continue;
                }
            };
            if opener.watched != Some(from) {
                opener.watched = Some(from);
                opener.watch(context, snapshot, &header, from, &mut self.roamed);
            }
            match inner.kind {
                InnerKind::Keepalive => {}
                InnerKind::Control => context.tell_node(NodeInput::Control {
                    session: opener.receiver.session(),
                    from,
                    bytes: payload.to_vec(),
                }),
                InnerKind::Frame | InnerKind::FramePartial => match opener.admit(inner.network, payload) {
                    Ok(()) => {
                        opener.frames_len += payload.len() as u64;
                        opener.n_frames += 1;
                        moved = true;
                        let frame = at + PREFIX_LEN..end - TAG_LEN;
                        let partial = inner.kind == InnerKind::FramePartial;
                        if opener.clamp.is_some_and(|max| clamp_mss(payload, partial, max)) {
                            add(&context.mailbox.stats.mss_clamped, 1);
                        }
                        if !lookers.is_empty() {
                            opener.show(&lookers, inner.network, payload, partial);
                        }
                        writer.frame(&mut self.buf, taps, inner.network, frame, partial);
                    }
                    Err(reason) => context.drop(reason, 1),
                },
                InnerKind::Relay | InnerKind::Relayed if is_inside => context.drop(DropReason::BadInner, 1),
                InnerKind::Relayed => match PeerId::split_relay_header(payload) {
                    Some((peer, _)) => {
                        let range = at + PREFIX_LEN + RELAY_HEADER_LEN..end - TAG_LEN;
                        inside = Some((range, peer.relayed_address()));
                        // It may be of the same lane, whose lock is given back first.
                        drop(current.take());
                    }
                    None => context.drop(DropReason::BadInner, 1),
                },
                InnerKind::Relay if inner.ttl == 0 => context.drop(DropReason::BadInner, 1),
                InnerKind::Relay => {
                    let by = opener.view.peer;
                    if let Err(reason) = self.relay.hand_on(context, snapshot, by, at..end, &mut self.buf) {
                        context.drop(reason, 1);
                    }
                }
                InnerKind::Bench => {
                    let from = snapshot.peers.get(opener.view.peer).map(|peer| peer.id);
                    if context.bench.take(from, payload) {
                        opener.frames_len += payload.len() as u64;
                        opener.n_frames += 1;
                        moved = true;
                    } else {
                        context.drop(DropReason::BenchUnasked, 1);
                    }
                }
                InnerKind::Fragment => {
                    let key = FragmentKey { receiver: header.receiver, counter: header.counter };
                    // The clock is read for such frames alone.
                    match self.reassembly.offer(key, inner.network, payload, Instant::now()) {
                        Ok(None) => {}
                        Ok(Some(whole)) => {
                            // What waits is older.
                            writer.flush(&mut self.buf);
                            moved |= opener.write_whole(context, &lookers, taps, inner.network, whole);
                        }
                        Err(reason) => context.drop(reason, 1),
                    }
                    match self.reassembly.take_lost() {
                        0 => {}
                        n => context.drop(DropReason::FragmentLost, n),
                    }
                }
            }
        }
        writer.flush(&mut self.buf);
        self.relay.flush(context, snapshot, &self.buf);
        let stats = &context.mailbox.stats;
        add(&stats.trains_received, received.len() as u64);
        add(&stats.datagrams_received, n_datagrams);
        moved
    }
}

/// A lane of a session, for consecutive datagrams of it. Counts what it opened when it is dropped.
struct Opener<'s> {
    receiver: ReceiverIndex,
    view: &'s SessionView,
    snapshot: &'s Snapshot,
    lane: RecvLane<'s>,
    last_sender: LastSender,
    /// Where the last datagram came from that [`Opener::watch`] has seen.
    watched: Option<SocketAddr>,
    n_opened: u64,
    n_frames: u64,
    frames_len: u64,
    /// The longest frame that goes back whole, where that is less than the containers' MTU.
    clamp: Option<usize>,
}

impl<'s> Opener<'s> {
    fn new(snapshot: &'s Snapshot, receiver: ReceiverIndex) -> Option<Self> {
        let view = snapshot.sessions.get(&receiver.session())?;
        let lane = view.recv.lane(receiver.lane());
        let path = snapshot.peers.get(view.peer).map(|peer| peer.path).filter(|path| path.limited);
        let clamp = path.map(|path| path.max_frame_len());
        Some(Self {
            receiver,
            view,
            snapshot,
            lane,
            last_sender: LastSender::default(),
            watched: None,
            n_opened: 0,
            n_frames: 0,
            frames_len: 0,
            clamp,
        })
    }

    fn open<'d>(
        &mut self,
        header: &Header,
        datagram: &'d mut [u8],
    ) -> Result<(InnerHeader, &'d mut [u8]), DropReason> {
        let opened = self.lane.open(header, datagram).map_err(|error| match error {
            OpenError::Replayed | OpenError::TooOld => DropReason::Replayed,
            OpenError::TooShort => DropReason::Malformed,
            _ => DropReason::BadSeal,
        })?;
        self.n_opened += 1;
        let inner = InnerHeader::parse(opened).ok_or(DropReason::BadInner)?;
        let payload = opened.get_mut(INNER_HEADER_LEN..).ok_or(DropReason::BadInner)?;
        Ok((inner, payload))
    }

    /// Tells the node what it wants to know of the session.
    fn watch(
        &self,
        context: &Context,
        snapshot: &Snapshot,
        header: &Header,
        from: SocketAddr,
        roamed: &mut Option<(u32, SocketAddr)>,
    ) {
        use std::sync::atomic::Ordering::Relaxed;
        let session = self.receiver.session();
        let tell_once = &self.view.activity.tell_once;
        if tell_once.load(Relaxed) && tell_once.swap(false, Relaxed) {
            context.tell_node(NodeInput::FirstRx { session });
        }
        let known = snapshot.peers.get(self.view.peer).map(|p| p.remote);
        if known.is_some_and(|known| known != from) {
            let news = Some((session, from));
            if header.counter == self.lane.newest() && *roamed != news {
                *roamed = news;
                context.tell_node(NodeInput::Roamed { session, from });
            }
        } else if roamed.is_some_and(|(s, _)| s == session) {
            *roamed = None;
        }
    }

    /// Writes a frame that was put together, virtio-net header first; whether it was let in.
    fn write_whole(
        &mut self,
        context: &Context,
        lookers: &Lookers,
        taps: &Taps,
        network: NetworkId,
        whole: &[u8],
    ) -> bool {
        add(&context.mailbox.stats.reassembled, 1);
        let frame = whole.get(VnetHdr::LEN..).unwrap_or_default();
        if let Err(reason) = self.admit(network, frame) {
            context.drop(reason, 1);
            return false;
        }
        self.frames_len += frame.len() as u64;
        self.n_frames += 1;
        if !lookers.is_empty() {
            self.show(lookers, network, frame, false);
        }
        match taps.of(network) {
            Some(tap) => context.write(tap, whole),
            None => context.drop(DropReason::UnknownNetwork, 1),
        }
        true
    }

    /// Hands a frame that was let in to those who look.
    fn show(&self, lookers: &Lookers, network: NetworkId, frame: &[u8], partial: bool) {
        let from = self.snapshot.peers.get(self.view.peer).map(|peer| peer.id);
        lookers.offer(network, |id| from == Some(id), true, std::iter::once(frame), partial);
    }

    /// As [`Snapshot::incoming`].
    fn admit(&mut self, network: NetworkId, frame: &[u8]) -> Result<(), DropReason> {
        self.snapshot.incoming(self.view.peer, network, frame, &mut self.last_sender)
    }
}

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        self.view.activity.n_received.fetch_add(self.n_opened, Relaxed);
        if let Some(peer) = self.snapshot.peers.get(self.view.peer) {
            peer.counters.add_received(self.n_frames, self.frames_len);
        }
    }
}

impl<'a> Writer<'a> {
    /// Joins a frame to those before, or writes those and takes it as the first of the next.
    fn frame(
        &mut self,
        buf: &mut [u8],
        taps: &'a Taps,
        network: NetworkId,
        frame: std::ops::Range<usize>,
        partial: bool,
    ) {
        if self.tap.is_some_and(|(n, _)| n == network) {
            if self.coalescer.offer(buf, frame.clone(), partial) {
                return;
            }
            self.flush(buf);
        } else {
            self.flush(buf);
            let Some(tap) = taps.of(network) else {
                self.context.drop(DropReason::UnknownNetwork, 1);
                return;
            };
            self.tap = Some((network, tap));
        }
        self.coalescer.start(buf, frame, partial);
    }

    fn flush(&mut self, buf: &mut [u8]) {
        let Some((_, tap)) = self.tap else { return };
        if self.coalescer.is_empty() {
            return;
        }
        let n = self.coalescer.n_frames() as u64;
        // In front of the frame there is room: that of the headers that were opened.
        let header = self.coalescer.first_start().checked_sub(VnetHdr::LEN);
        let vnet = self.coalescer.finish(buf);
        let place = header.and_then(|at| buf.get_mut(at..)?.first_chunk_mut());
        let written = match (vnet, place) {
            (Some(vnet), Some(place)) => {
                *place = vnet.to_bytes();
                tap.write(buf, self.coalescer.pieces_with_header(VnetHdr::LEN as u32)).is_ok()
            }
            _ => {
                self.context.drop(DropReason::BadInner, n);
                self.coalescer.clear();
                return;
            }
        };
        self.coalescer.clear();
        if written {
            add(&self.context.mailbox.stats.tap_writes, 1);
        } else {
            self.context.drop(DropReason::TapRefused, n);
        }
    }
}
