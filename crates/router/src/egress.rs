//! From a TAP to the underlay: frames are read to where they are sealed ([`Cutter`]), and leave in trains.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Instant;

use weft_dataplane::{
    DropReason, LastSender, MAX_ANSWER_LEN, MAX_TOO_BIG_LEN, NetworkView, Packet, PathView, PeerIdx,
    Snapshot, Verdict, VnetHdr, Way, complete_checksum, write_answer, write_too_big,
};
use weft_noise::SendSession;
use weft_sys::{MAX_TRAIN_LEN, SegmentSupport, Tap};
use weft_wire::{
    FRAGMENT_HEADER_LEN, FragmentHeader, HEADER_LEN, InnerHeader, InnerKind, Lane, Mac, NetworkId, PeerId,
    RELAY_OVERHEAD,
};

use crate::NodeInput;
use crate::capture::Lookers;
use crate::cutter::{Cut, Cutter, OVERHEAD, PREFIX_LEN, Run};
use crate::limits::Limits;
use crate::stats::add;
use crate::worker::Context;

/// Reads of one TAP before others get their turn.
const MAX_READS: usize = 64;
/// Bytes of datagrams in one turn, so that the buffer stays in the cache.
const MAX_TURN_LEN: usize = 192 << 10;
/// Datagrams that are sent together where the kernel knows no trains.
const MAX_SINGLE: usize = 64;
/// How many relays a frame may pass.
const TTL: u8 = 3;

/// Datagrams to one peer that are ready to leave together: all of `segment_len`, the last one maybe shorter.
struct Train {
    peer: PeerIdx,
    start: usize,
    end: usize,
    segment_len: usize,
    n: usize,
    /// The last one is shorter.
    closed: bool,
}

/// Reads, seals and sends. One a worker; it keeps no frames between turns.
pub(crate) struct Egress {
    cutter: Cutter,
    limits: Limits,
    /// Where datagrams are sealed once more for a relay.
    wrapped: Vec<u8>,
}

/// What is the same for all frames of one turn, and the train that waits.
struct Turn<'a> {
    context: &'a Context,
    snapshot: &'a Snapshot,
    network: NetworkId,
    tap: &'a Tap,
    limits: &'a mut Limits,
    lookers: &'a Lookers,
    wrapped: &'a mut Vec<u8>,
    last_sender: LastSender,
    max_segments: usize,
    train: Option<Train>,
}

impl Egress {
    pub(crate) fn new() -> Self {
        Self { cutter: Cutter::new(), limits: Limits::default(), wrapped: Vec::new() }
    }

    /// Sends what the TAP has, up to a limit; whether there was anything.
    pub(crate) fn run(
        &mut self,
        context: &Context,
        snapshot: &Snapshot,
        network: NetworkId,
        mut tap: &Tap,
    ) -> bool {
        let max_segments = match context.socket.segment_support() {
            SegmentSupport::Offloaded { max_segments } => max_segments,
            SegmentSupport::Single => MAX_SINGLE,
        };
        let lookers = context.captures.load();
        let mut turn = Turn {
            lookers: &lookers,
            context,
            snapshot,
            network,
            tap,
            limits: &mut self.limits,
            wrapped: &mut self.wrapped,
            last_sender: LastSender::default(),
            max_segments,
            train: None,
        };
        let (mut n_reads, mut position, mut turn_len) = (0, 0, 0);
        while n_reads < MAX_READS && turn_len < MAX_TURN_LEN {
            let run = match self.cutter.read(&mut tap, position) {
                Cut::Nothing => break,
                Cut::Unsupported => {
                    n_reads += 1;
                    context.drop(DropReason::Unsupported, 1);
                    continue;
                }
                Cut::Run(run) => run,
            };
            n_reads += 1;
            turn_len += run.len();
            let end = turn.forward(&mut self.cutter, run);
            position = if turn.train.is_some() { end } else { 0 };
        }
        turn.flush(&self.cutter.buf);
        let stats = &context.mailbox.stats;
        add(&stats.tap_reads, n_reads as u64);
        add(&stats.mispredicted, std::mem::take(&mut self.cutter.n_mispredicted));
        n_reads > 0
    }
}

impl Turn<'_> {
    /// Sends a run or joins it to the waiting train. Returns where the next frame may start.
    fn forward(&mut self, cutter: &mut Cutter, run: Run) -> usize {
        let buf = &mut cutter.buf;
        let frame = buf.get(run.frame(0)).unwrap_or_default();
        let Some(view) = self.snapshot.networks.get(&self.network) else {
            self.context.drop(DropReason::UnknownNetwork, run.n as u64);
            return run.start;
        };
        let verdict = view.outgoing(self.network, frame, &mut self.last_sender);
        if !self.lookers.is_empty() {
            self.show(buf, run, view, verdict);
        }
        match verdict {
            Verdict::Unicast(peer) => {
                if run.frame_len > self.path(peer).max_frame_len() {
                    return self.forward_long(cutter, run, peer);
                }
                if self.seal(buf, run, peer) {
                    self.join(buf, run, peer);
                    return run.end();
                }
            }
            Verdict::Flood => self.replicate(buf, run, &view.members),
            Verdict::Multicast(group) => {
                self.replicate(buf, run, view.subscribers.get(&group).map_or(&[], Vec::as_slice));
            }
            Verdict::Report => self.report(frame),
            Verdict::Drop(reason) => self.context.drop(reason, run.n as u64),
            Verdict::Answer(owner) => self.answer(frame, owner),
            Verdict::UnknownNeighbor(ip) => self.unknown_neighbor(ip),
            Verdict::Ignore => {}
        }
        run.start
    }

    /// Hands a run that came from a container to those who look.
    fn show(&self, buf: &[u8], run: Run, view: &NetworkView, verdict: Verdict) {
        let to: &[PeerIdx] = match &verdict {
            Verdict::Unicast(peer) => std::slice::from_ref(peer),
            Verdict::Flood => &view.members,
            Verdict::Multicast(group) => view.subscribers.get(group).map_or(&[], Vec::as_slice),
            _ => &[],
        };
        let with =
            |id| to.iter().any(|peer| self.snapshot.peers.get(*peer).is_some_and(|peer| peer.id == id));
        let frames = (0..run.n).map(|i| buf.get(run.frame(i)).unwrap_or_default());
        self.lookers.offer(self.network, with, false, frames, run.kind == InnerKind::FramePartial);
    }

    /// Writes a frame of weft's own to the containers.
    fn write_back(&self, frame: &[u8]) {
        self.context.write(self.tap, frame);
        if !self.lookers.is_empty() {
            let frame = frame.get(VnetHdr::LEN..).unwrap_or_default();
            self.lookers.offer(self.network, |_| false, true, std::iter::once(frame), false);
        }
    }

    #[inline]
    fn path(&self, peer: PeerIdx) -> PathView {
        self.snapshot.peers.get(peer).map_or(PathView::UNLIMITED, |peer| peer.path)
    }

    /// Sends a run that is longer than the path to its peer carries: TCP in shorter segments, other frames in parts, unless
    /// their senders can be told to send less. Returns where the next frame may start.
    fn forward_long(&mut self, cutter: &mut Cutter, run: Run, peer: PeerIdx) -> usize {
        let path = self.path(peer);
        if let Some(run) = cutter.recut(run, path.max_frame_len()) {
            add(&self.context.mailbox.stats.recut, 1);
            if self.seal(&mut cutter.buf, run, peer) {
                self.join(&cutter.buf, run, peer);
                return run.end();
            }
            return run.start;
        }
        let buf = &mut cutter.buf;
        // What waits is older.
        self.flush(buf);
        for i in 0..run.n {
            let frame = buf.get_mut(run.frame(i)).unwrap_or_default();
            if path.limited && self.tell_too_big(frame, path) {
                continue;
            }
            complete(frame, run.kind);
            self.send_in_parts(buf, run.frame(i), run.end(), peer);
        }
        run.start
    }

    /// Tells the container that sent `frame` to send shorter ones, and counts it as dropped. `false` when there is nobody
    /// to be told.
    fn tell_too_big(&mut self, frame: &[u8], path: PathView) -> bool {
        let mut message = [0; MAX_TOO_BIG_LEN];
        let Some(len) = write_too_big(frame, path.max_frame_len(), &mut message) else { return false };
        // What is sent to who sent it.
        let told = frame.get(6..).and_then(<[u8]>::first_chunk).map(|mac| Mac(*mac));
        // The clock is read for such frames alone.
        if told.is_some_and(|mac| self.limits.too_big(mac, Instant::now())) {
            self.context.drop(DropReason::PathMtu, 1);
            self.write_back(message.get(..len).unwrap_or_default());
        } else {
            self.context.drop(DropReason::PathMtuAgain, 1);
        }
        true
    }

    /// Sends a frame with complete checksums in parts, which are made from `start` in the buffer on.
    fn send_in_parts(&mut self, buf: &mut [u8], frame: Range<usize>, start: usize, peer: PeerIdx) {
        let max_part_len = self.path(peer).max_frame_len().saturating_sub(FRAGMENT_HEADER_LEN);
        let Some(first) = FragmentHeader::first(frame.len(), max_part_len) else {
            return self.context.drop(DropReason::TooLong, 1);
        };
        let n = usize::from(first.count());
        let parts = Run {
            start,
            frame_len: FRAGMENT_HEADER_LEN + first.part_len(),
            last_len: FRAGMENT_HEADER_LEN + frame.len() - (n - 1) * first.part_len(),
            n,
            kind: InnerKind::Fragment,
        };
        if parts.end() > buf.len() {
            return self.context.drop(DropReason::Unsupported, 1);
        }
        for (i, header) in first.all().enumerate() {
            let part = header.range();
            let (head, body) = (parts.frame(i), frame.start + part.start..frame.start + part.end);
            buf.copy_within(body, head.start + FRAGMENT_HEADER_LEN);
            if let Some(to) = buf.get_mut(head).and_then(<[u8]>::first_chunk_mut) {
                *to = header.to_bytes();
            }
        }
        if self.seal(buf, parts, peer) {
            add(&self.context.mailbox.stats.fragmented, 1);
            let datagrams = buf.get(parts.start..parts.end()).unwrap_or_default();
            self.send(datagrams, parts.stride(), n, peer);
        }
    }

    /// Writes the answer to a question for an address back to the TAP.
    fn answer(&self, query: &[u8], owner: Mac) {
        let mut answer = [0; MAX_ANSWER_LEN];
        let Some(len) = write_answer(query, owner, &mut answer) else { return };
        self.write_back(answer.get(..len).unwrap_or_default());
    }

    /// Hands a report of multicast groups to the node.
    fn report(&mut self, frame: &[u8]) {
        let Some(mac) = frame.get(6..).and_then(<[u8]>::first_chunk).map(|mac| Mac(*mac)) else { return };
        // The clock is read for such frames alone.
        if self.limits.report(mac, Instant::now()) {
            let (network, bytes) = (self.network, frame.to_vec());
            self.context.tell_node(NodeInput::GroupReport { network, mac, bytes });
        } else {
            self.context.drop(DropReason::RateLimited, 1);
        }
    }

    fn unknown_neighbor(&mut self, ip: IpAddr) {
        self.context.drop(DropReason::UnknownNeighbor, 1);
        if self.limits.asked.tell(self.network, ip, Instant::now()) {
            self.context.tell_node(NodeInput::UnknownNeighbor { network: self.network, ip });
        }
    }

    fn seal(&self, buf: &mut [u8], run: Run, peer: PeerIdx) -> bool {
        seal(self.context, self.snapshot, self.network, buf, run, peer)
    }

    /// Adds a sealed run to the train, which is sent first when the run does not continue it, and sends what makes whole
    /// trains. The rest waits for the next frame of this turn, so that a long super-frame leaves no short train behind.
    fn join(&mut self, buf: &[u8], run: Run, peer: PeerIdx) {
        let stride = run.stride();
        let continues = self.train.as_ref().is_some_and(|t| {
            let same_len = if run.n > 1 { stride == t.segment_len } else { stride <= t.segment_len };
            !t.closed && t.peer == peer && t.end == run.start && same_len
        });
        if !continues {
            self.flush(buf);
        }
        let mut train = self.train.take().unwrap_or(Train {
            peer,
            start: run.start,
            end: run.start,
            segment_len: stride,
            n: 0,
            closed: false,
        });
        train.n += run.n;
        train.end = run.end();
        train.closed = run.last_len + OVERHEAD < train.segment_len;
        let whole = self.max_segments.min(MAX_TRAIN_LEN / train.segment_len).max(1);
        while train.n >= whole {
            let end = (train.start + whole * train.segment_len).min(train.end);
            self.send_part(buf, &train, end, whole);
            train.start = end;
            train.n -= whole;
        }
        if train.n > 0 {
            self.train = Some(train);
        }
    }

    /// Sends what waits.
    fn flush(&mut self, buf: &[u8]) {
        if let Some(train) = self.train.take() {
            self.send_part(buf, &train, train.end, train.n);
        }
    }

    /// Sends the first `n` datagrams of a train, up to `end`.
    fn send_part(&mut self, buf: &[u8], train: &Train, end: usize, n: usize) {
        let datagrams = buf.get(train.start..end).unwrap_or_default();
        self.send(datagrams, train.segment_len, n, train.peer);
    }

    fn send(&mut self, datagrams: &[u8], segment_len: usize, n: usize, peer: PeerIdx) {
        send(self.context, self.snapshot, self.wrapped, datagrams, segment_len, n, peer);
    }

    /// Seals a copy of the run for each of `peers`, and sends it at once.
    fn replicate(&mut self, buf: &mut [u8], run: Run, peers: &[PeerIdx]) {
        // What waits is older.
        self.flush(buf);
        let copy = Run { start: run.end(), ..run };
        let mut n_long = 0;
        for &member in peers {
            if buf.len() < copy.end() {
                return;
            }
            if run.frame_len > self.path(member).max_frame_len() {
                n_long += 1;
                continue;
            }
            buf.copy_within(run.start..run.end(), copy.start);
            if self.seal(buf, copy, member) {
                let datagrams = buf.get(copy.start..copy.end()).unwrap_or_default();
                self.send(datagrams, copy.stride(), copy.n, member);
            }
        }
        if n_long > 0 {
            self.replicate_in_parts(buf, run, peers);
        }
    }

    /// Sends a run to those of `peers` whose paths carry less. Nobody is told of what went to a group.
    fn replicate_in_parts(&mut self, buf: &mut [u8], run: Run, peers: &[PeerIdx]) {
        for i in 0..run.n {
            complete(buf.get_mut(run.frame(i)).unwrap_or_default(), run.kind);
            for &member in peers {
                if run.frame_len <= self.path(member).max_frame_len() {
                    continue;
                }
                self.send_in_parts(buf, run.frame(i), run.end(), member);
            }
        }
    }
}

/// Seals a run for a peer; `false` when it was dropped.
pub(crate) fn seal(
    context: &Context,
    snapshot: &Snapshot,
    network: NetworkId,
    buf: &mut [u8],
    run: Run,
    peer: PeerIdx,
) -> bool {
    let Some(view) = snapshot.peers.get(peer) else { return false };
    let n = run.n as u64;
    let Some(session) = &view.send else {
        context.drop(DropReason::NoSession, n);
        return false;
    };
    let Ok(counter) = session.reserve(context.lane, n) else {
        context.drop(DropReason::Exhausted, n);
        return false;
    };
    let inner = InnerHeader { kind: run.kind, ttl: TTL, network }.to_bytes();
    let Some(datagrams) = buf.get_mut(run.start..run.end()) else { return false };
    for (i, datagram) in datagrams.chunks_mut(run.stride()).enumerate() {
        if let Some(to) = datagram.get_mut(HEADER_LEN..PREFIX_LEN) {
            to.copy_from_slice(&inner);
        }
        session.seal(context.lane, counter + i as u64, datagram);
    }
    view.counters.add_sent(n, run.frames_len() as u64);
    true
}

/// Sends sealed datagrams to a peer, sealed once more in `wrapped` where a relay hands them on.
pub(crate) fn send(
    context: &Context,
    snapshot: &Snapshot,
    wrapped: &mut Vec<u8>,
    datagrams: &[u8],
    segment_len: usize,
    n: usize,
    peer: PeerIdx,
) {
    let Some(view) = snapshot.peers.get(peer) else { return };
    match snapshot.way(view) {
        Some(Way::Direct) => send_to(context, datagrams, segment_len, n, view.remote, view.id),
        Some(Way::Relay { relay, session }) => {
            wrapped.clear();
            if wrap(wrapped, datagrams, segment_len, view.id, session, context.lane) {
                send_to(context, wrapped, segment_len + RELAY_OVERHEAD, n, relay.remote, view.id);
            } else {
                context.drop(DropReason::Exhausted, n as u64);
            }
        }
        None => context.drop(DropReason::NoRelay, n as u64),
    }
}

fn send_to(context: &Context, datagrams: &[u8], segment_len: usize, n: usize, to: SocketAddr, peer: PeerId) {
    let stats = &context.mailbox.stats;
    match context.socket.send_train(datagrams, segment_len, to) {
        Ok(()) => {
            add(&stats.trains_sent, 1);
            add(&stats.datagrams_sent, n as u64);
        }
        Err(error) if weft_sys::is_too_long(&error) => {
            context.drop(DropReason::TooLong, n as u64);
            let frame_len = segment_len.saturating_sub(OVERHEAD);
            context.tell_node(NodeInput::MessageTooLong { peer, frame_len });
        }
        Err(_) => context.drop(DropReason::SendFailed, n as u64),
    }
}

/// Appends `datagrams` to `out`, each sealed for the relay that hands it on to `peer`. `false` when the relay's session has
/// sealed all it may.
fn wrap(
    out: &mut Vec<u8>,
    datagrams: &[u8],
    segment_len: usize,
    peer: PeerId,
    session: &SendSession,
    lane: Lane,
) -> bool {
    let datagrams = datagrams.chunks(segment_len.max(1));
    let Ok(counter) = session.reserve(lane, datagrams.len() as u64) else { return false };
    for (counter, datagram) in (counter..).zip(datagrams) {
        let start = out.len();
        peer.write_relay_request(datagram, out);
        session.seal(lane, counter, out.get_mut(start..).unwrap_or_default());
    }
    true
}

/// Completes the checksum of a frame of `kind`.
pub(crate) fn complete(frame: &mut [u8], kind: InnerKind) {
    if kind != InnerKind::FramePartial {
        return;
    }
    let Some(packet) = Packet::parse(frame) else { return };
    let len = packet.end.min(frame.len());
    let covered = frame.get_mut(..len).unwrap_or_default();
    // It parsed, so the field is inside.
    let completed = complete_checksum(covered, packet.l4, packet.transport.checksum_offset());
    debug_assert!(completed);
}
