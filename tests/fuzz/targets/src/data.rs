//! Frames and data datagrams: what a peer seals, what a stranger sends, what a container hands to the TAP.

mod flow;

use std::collections::HashSet;
use std::ops::Range;

use arbitrary::{Arbitrary, Unstructured};
use weft_dataplane::{
    Coalescer, GsoKind, NetworkView, Packet, Segments, Snapshot, Verdict, VnetHdr, frame_kind,
};
use weft_noise::{OpenError, RecvSession, SendSession, Suite};
use weft_wire::{
    HEADER_LEN, Header, INNER_HEADER_LEN, InnerHeader, InnerKind, Lane, Mac, NetworkId, TAG_LEN,
};

use crate::bytes::Bytes;
use flow::Flow;

const KEY: [u8; 32] = [7; 32];
const MAX_STEPS: usize = 64;
/// What lies between two frames in a received train.
const GAP: usize = HEADER_LEN + INNER_HEADER_LEN + TAG_LEN;

const ALICE: Mac = Mac([2, 0, 0, 0, 0, 1]);
const BOB: Mac = Mac([2, 0, 0, 0, 0, 2]);
const CAROL: Mac = Mac([2, 0, 0, 0, 0, 3]);
const NETWORKS: [NetworkId; 2] = [NetworkId::from_u48(1), NetworkId::from_u48(2)];

#[derive(Debug, Arbitrary)]
struct Input {
    chacha: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// The peer seals a payload, which need not be of any form.
    Sealed { lane: u8, skip: u8, payload: Bytes },
    /// The peer seals a frame.
    Frame { kind: u8, network: u64, sender: u8, frame: Bytes },
    /// The peer seals the frames of a flow.
    Flow { flow: Flow, damage: Option<(u8, u16, u8)> },
    /// A datagram that was sealed comes once more, perhaps with a bit changed.
    Again { nth: u8, at: u16, flip: u8 },
    /// Nobody sealed it.
    Raw { bytes: Bytes },
    /// A container's frame, as the kernel hands it over.
    Tap { vnet: [u8; VnetHdr::LEN], frame: Bytes },
    /// A container's super-frame.
    Super { flow: Flow, vnet: Option<[u8; VnetHdr::LEN]>, cut: Option<u16> },
}

struct World {
    send: SendSession,
    recv: RecvSession,
    snapshot: Snapshot,
    /// Every datagram sealed, with what is in it.
    sealed: Vec<(Vec<u8>, Vec<u8>)>,
    accepted: HashSet<(Lane, u64)>,
    /// Frames that were let in, in the order they came.
    frames: Vec<(Vec<u8>, bool)>,
}

/// Peer 0 is on both networks, with an endpoint on the first; peer 1 is on the second only, with an endpoint.
fn snapshot() -> Snapshot {
    let network = |fdb: &[(Mac, usize)], members: &[usize]| NetworkView {
        overlay_mtu: 1418,
        fdb: fdb.iter().map(|(mac, peer)| (*mac, *peer as _)).collect(),
        members: members.iter().map(|peer| *peer as _).collect(),
        local: [ALICE].into_iter().collect(),
        ..NetworkView::default()
    };
    let networks = [network(&[(BOB, 0)], &[0]), network(&[(CAROL, 1)], &[0, 1])];
    Snapshot { networks: NETWORKS.into_iter().zip(networks).collect(), ..Snapshot::default() }
}

impl World {
    fn new(suite: Suite) -> Self {
        Self {
            send: SendSession::new(suite, &KEY, 5),
            recv: RecvSession::new(suite, &KEY),
            snapshot: snapshot(),
            sealed: Vec::new(),
            accepted: HashSet::new(),
            frames: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Sealed { lane, skip, payload } => {
                let lane = Lane::all().nth(usize::from(lane % 16)).unwrap_or(Lane::CONTROL);
                self.seal(lane, skip.into(), &payload);
            }
            Step::Frame { kind, network, sender, frame } => {
                let mut frame = Vec::from(frame);
                let kind = if kind % 2 == 0 { InnerKind::Frame } else { InnerKind::FramePartial };
                let source = [ALICE, BOB, CAROL][usize::from(sender) % 3];
                if let Some(at) = frame.get_mut(6..12) {
                    at.copy_from_slice(&source.0);
                }
                self.seal_frame(kind, NetworkId::from_u48(network % 3), &frame);
            }
            Step::Flow { flow, damage } => {
                let mut frames = flow.frames();
                if let Some((nth, at, flip)) = damage {
                    let nth = usize::from(nth) % frames.len();
                    let at = usize::from(at) % frames[nth].len();
                    frames[nth][at] ^= flip;
                }
                for frame in frames {
                    self.seal_frame(InnerKind::FramePartial, NETWORKS[0], &frame);
                }
            }
            Step::Again { nth, at, flip } => {
                let Some((datagram, _)) = self.sealed.get(usize::from(nth)) else { return };
                let mut datagram = datagram.clone();
                let at = usize::from(at) % datagram.len();
                datagram[at] ^= flip;
                let expected = if flip == 0 { Some(OpenError::Replayed) } else { None };
                let result = self.receive(&datagram);
                assert!(
                    expected.is_none_or(|e| result == Some(Err(e)) || result == Some(Err(OpenError::TooOld)))
                );
            }
            Step::Raw { bytes } => {
                self.receive(&bytes);
            }
            Step::Tap { vnet, frame } => tap(&vnet, &mut Vec::from(frame)),
            Step::Super { flow, vnet, cut } => {
                let mut frame = flow.whole();
                frame.truncate(cut.map_or(usize::MAX, usize::from));
                tap(&vnet.unwrap_or_else(|| flow.vnet().to_bytes()), &mut frame);
            }
        }
    }

    fn seal_frame(&mut self, kind: InnerKind, network: NetworkId, frame: &[u8]) {
        let header = InnerHeader { kind, ttl: 0, network };
        assert_eq!(InnerHeader::parse(&header.to_bytes()), Some(header));
        self.seal(Lane::of_worker(0), 0, &[&header.to_bytes(), frame].concat());
    }

    /// Seals, after leaving `skip` counters out, and lets it arrive.
    fn seal(&mut self, lane: Lane, skip: u64, payload: &[u8]) {
        let counter = self.send.reserve(lane, skip + 1).expect("a run is short") + skip;
        let mut datagram = [&[0; HEADER_LEN], payload, &[0; TAG_LEN]].concat();
        self.send.seal(lane, counter, &mut datagram);
        self.sealed.push((datagram.clone(), payload.to_vec()));
        assert_eq!(self.receive(&datagram), Some(Ok(payload.to_vec())));
    }

    /// What a worker does with a datagram. `None`: it has no header.
    fn receive(&mut self, datagram: &[u8]) -> Option<Result<Vec<u8>, OpenError>> {
        let header = Header::parse(datagram)?;
        assert_eq!(header.to_bytes(), datagram[..HEADER_LEN]);
        let mut buf = datagram.to_vec();
        let (result, moved) = {
            let mut lane = self.recv.lane(header.receiver.lane());
            let before = lane.newest();
            let result = lane.open(&header, &mut buf).map(|text| text.to_vec());
            (result, lane.newest() != before)
        };
        let known = self.sealed.iter().find(|(sealed, _)| sealed == datagram);
        match &result {
            Ok(text) => {
                assert!(known.is_some_and(|(_, payload)| payload == text), "opened what nobody sealed");
                assert!(self.accepted.insert((header.receiver.lane(), header.counter)), "opened twice");
                self.admit(&text.clone());
            }
            Err(_) => assert!(!moved, "what was not opened moved the window"),
        }
        Some(result)
    }

    fn admit(&mut self, payload: &[u8]) {
        let Some(inner) = InnerHeader::parse(payload) else { return };
        assert_eq!(inner.to_bytes(), payload[..INNER_HEADER_LEN]);
        let (InnerKind::Frame | InnerKind::FramePartial) = inner.kind else { return };
        let frame = &payload[INNER_HEADER_LEN..];
        let source = frame.get(6..12);
        let owner = match inner.network {
            network if network == NETWORKS[0] => Some((BOB, 0)),
            network if network == NETWORKS[1] => Some((CAROL, 1)),
            _ => None,
        };
        for peer in [0, 1, 2] {
            let may = owner.is_some_and(|(mac, by)| by == peer && source == Some(&mac.0));
            assert_eq!(
                self.snapshot.admit(peer as _, inner.network, frame).is_ok(),
                may,
                "{inner:?} from {peer}"
            );
        }
        if owner.is_some_and(|(mac, _)| source == Some(&mac.0)) {
            self.frames.push((frame.to_vec(), inner.kind == InnerKind::FramePartial));
        }
        for view in self.snapshot.networks.values() {
            forward(view, frame);
        }
    }

    /// Joined into super-frames and cut again, the frames are what they were, all of them and in order.
    fn end(self) {
        let again: Vec<_> = join(&self.frames).iter().flat_map(|(vnet, frame)| split(vnet, frame)).collect();
        // One that says that its checksum is partial, and is neither TCP nor UDP, is dropped.
        let sound = |(frame, partial): &(Vec<u8>, bool)| !partial || Packet::parse(frame).is_some();
        let before: Vec<_> = self.frames.into_iter().filter(sound).map(|(frame, _)| frame).collect();
        assert_eq!(again.len(), before.len(), "frames were lost or made");
        for (again, before) in again.iter().zip(&before) {
            assert_eq!(plain(again), plain(before));
        }
    }
}

fn forward(view: &NetworkView, frame: &[u8]) {
    let address = |range: Range<usize>| frame.get(range).and_then(|mac| mac.try_into().ok()).map(Mac);
    let (to, from) = (address(0..6), address(6..12));
    match view.forward(frame) {
        Verdict::Drop(_) => {}
        verdict => {
            assert_eq!(from, Some(ALICE), "{verdict:?} from another's address");
            match verdict {
                Verdict::Unicast(peer) => assert_eq!(to.and_then(|to| view.fdb.get(&to)), Some(&peer)),
                _ => assert!(to.is_some_and(Mac::is_group), "{verdict:?}"),
            }
        }
    }
}

/// A frame without what a cut may write differently: an identification that means nothing under DF, and one of the
/// two forms of zero in the IPv4 checksum.
fn plain(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Some(packet) = Packet::parse(&frame).filter(|packet| !packet.ipv6) {
        let means_nothing = frame[packet.l3 + 6] & 0x40 != 0;
        if means_nothing {
            frame[packet.l3 + 4..packet.l3 + 6].fill(0);
        }
        frame[packet.l3 + 10..packet.l3 + 12].fill(0);
    }
    frame
}

fn join(frames: &[(Vec<u8>, bool)]) -> Vec<(VnetHdr, Vec<u8>)> {
    let mut buf = Vec::new();
    let mut ranges = Vec::new();
    for (frame, partial) in frames {
        buf.resize(buf.len() + GAP, 0xee);
        ranges.push((buf.len()..buf.len() + frame.len(), *partial));
        buf.extend(frame);
    }
    let mut joined = Vec::new();
    let mut coalescer = Coalescer::new();
    let mut flush = |coalescer: &mut Coalescer, buf: &mut [u8]| {
        if let Some(vnet) = coalescer.finish(buf) {
            let bytes = coalescer.pieces().iter().flat_map(|p| &buf[p.start as usize..p.end as usize]);
            joined.push((vnet, bytes.copied().collect()));
        }
    };
    for (range, partial) in ranges {
        if !coalescer.offer(&buf, range.clone(), partial) {
            flush(&mut coalescer, &mut buf);
            coalescer.start(&buf, range, partial);
        }
    }
    flush(&mut coalescer, &mut buf);
    joined
}

/// Cuts what may be cut.
fn split(vnet: &VnetHdr, frame: &[u8]) -> Vec<Vec<u8>> {
    if vnet.gso == GsoKind::None {
        return vec![frame.to_vec()];
    }
    let segments = Segments::plan(vnet, frame, frame.len()).expect("what was joined can be cut");
    cut(&segments, frame)
}

fn cut(segments: &Segments, frame: &[u8]) -> Vec<Vec<u8>> {
    let headers_len = segments.headers_len();
    let payload = &frame[headers_len..];
    assert_eq!(segments.count(), payload.chunks(segments.gso_size()).count());
    assert_eq!(segments.payload_len(segments.count()), 0);
    let cut = payload.chunks(segments.gso_size()).enumerate().map(|(i, part)| {
        assert_eq!(segments.payload_len(i), part.len());
        let mut segment = vec![0; headers_len];
        segments.write_headers(i, &mut segment);
        segment.extend(part);
        segment
    });
    cut.collect()
}

/// What a worker does with a frame from the TAP.
fn tap(vnet: &[u8], frame: &mut [u8]) {
    for view in snapshot().networks.values() {
        forward(view, frame);
    }
    let Some(vnet) = VnetHdr::parse(vnet) else { return };
    assert_eq!(VnetHdr::parse(&vnet.to_bytes()), Some(vnet));
    if vnet.gso == GsoKind::None {
        let before = frame.to_vec();
        match frame_kind(&vnet, frame) {
            Ok(InnerKind::FramePartial) => {
                assert!(Packet::parse(frame).is_some());
                assert_eq!(frame, before);
            }
            Ok(kind) => assert_eq!(kind, InnerKind::Frame),
            Err(_) => assert_eq!(frame, before, "a refused frame was changed"),
        }
        return;
    }
    let Ok(segments) = Segments::plan(&vnet, frame, frame.len()) else { return };
    for (i, segment) in cut(&segments, frame).iter().enumerate() {
        let packet = Packet::parse(segment).expect("a segment is of the super-frame's kind");
        assert_eq!(packet.payload, segments.headers_len());
        assert_eq!(packet.end, segment.len(), "segment {i} says another length than it has");
    }
}

/// The data path without its sockets.
pub fn data(bytes: &[u8]) {
    let Ok(Input { chacha, steps }) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut world = World::new(if chacha { Suite::ChaCha20Poly1305 } else { Suite::Aes256Gcm });
    for step in steps.into_iter().take(MAX_STEPS) {
        world.step(step);
    }
    world.end();
}
