//! Reading a frame to where it will be sealed.
//!
//! ```text
//! offset from the datagram's start   0        16       24        24+n     24+n+16
//!                                    | outer  | inner  |  frame  |  tag   |
//!                 read:                   | vnet (10) |  frame   |
//! ```
//!
//! A super-frame's payload belongs into many datagrams. Where its pieces will have to lie is predicted from the
//! super-frame before, so that the kernel's copy puts each into place and none is copied again:
//!
//! ```text
//! | outer | inner | headers, payload 0 | tag | outer | inner | (headers) payload 1 | tag | ...
//!           read:  ^^^^^^^^^^^^^^^^^^^^                                ^^^^^^^^^
//! ```
//!
//! When the prediction was wrong, payload is moved into place.

use std::io;
use std::ops::Range;

use weft_dataplane::{
    GsoKind, MAX_HEADERS_LEN, Packet, Segments, TCP_ENDS, Transport, UnsupportedFrame, VnetHdr, frame_kind,
};
use weft_sys::{MAX_PIECES, ReadLayout};
use weft_wire::{HEADER_LEN, INNER_HEADER_LEN, InnerKind, TAG_LEN};

/// What stands before a frame in its datagram.
pub(crate) const PREFIX_LEN: usize = HEADER_LEN + INNER_HEADER_LEN;
/// What a datagram has around its frame.
pub(crate) const OVERHEAD: usize = PREFIX_LEN + TAG_LEN;
/// The longest super-frame: an IP packet of 65535 bytes with Ethernet header and two VLAN tags.
const MAX_FRAME_LEN: usize = 65535 + 14 + 8;
/// Room for a read of any layout, and for the most segments that a super-frame is cut into. Most of it is never touched.
const BUF_LEN: usize = 2 << 20;
/// A prediction needs this segment size at least, to keep within [`MAX_PIECES`].
const MIN_PREDICTED_GSO: usize = MAX_FRAME_LEN / (MAX_PIECES - 2) + 1;
/// SYN, RST, URG: what such a segment says counts for it as a whole.
const TCP_NEVER_CUT: u8 = 0x02 | 0x04 | 0x20;
/// Ordinary frames after which no super-frame is predicted.
const PREDICT_FOR: u8 = 64;

/// What a frame is read from.
pub(crate) trait Source {
    /// As [`weft_sys::Tap::read`].
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// As [`weft_sys::Tap::read_scattered`].
    fn read_scattered(&mut self, buf: &mut [u8], layout: &ReadLayout) -> io::Result<usize>;
}

impl Source for &weft_sys::Tap {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        weft_sys::Tap::read(self, buf)
    }

    fn read_scattered(&mut self, buf: &mut [u8], layout: &ReadLayout) -> io::Result<usize> {
        weft_sys::Tap::read_scattered(self, buf, layout)
    }
}

/// Where the next super-frame's payload will be cut.
#[derive(Debug, Clone, Copy)]
struct Prediction {
    headers_len: usize,
    gso_size: usize,
    /// Reads for which it holds.
    remaining: u8,
}

impl Prediction {
    /// The layout for a read of a frame that starts at `frame`.
    fn layout(&self, frame: usize) -> ReadLayout {
        let first_len = self.headers_len + self.gso_size;
        let stride = first_len + OVERHEAD;
        ReadLayout {
            start: frame - VnetHdr::LEN,
            head_len: VnetHdr::LEN + first_len,
            first_piece: frame + stride + self.headers_len,
            piece_len: self.gso_size,
            stride,
            n_pieces: (MAX_FRAME_LEN - first_len.min(MAX_FRAME_LEN)).div_ceil(self.gso_size),
        }
    }
}

/// Where a run of datagrams lies that were made of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: usize,
    /// Frame bytes in every datagram but the last.
    pub(crate) frame_len: usize,
    /// Frame bytes in the last.
    pub(crate) last_len: usize,
    pub(crate) n: usize,
    pub(crate) kind: InnerKind,
}

impl Run {
    pub(crate) const fn stride(&self) -> usize {
        self.frame_len + OVERHEAD
    }

    pub(crate) const fn len(&self) -> usize {
        self.stride() * (self.n - 1) + self.last_len + OVERHEAD
    }

    pub(crate) const fn end(&self) -> usize {
        self.start + self.len()
    }

    pub(crate) const fn frames_len(&self) -> usize {
        self.frame_len * (self.n - 1) + self.last_len
    }

    /// Where frame `i` lies in the buffer.
    pub(crate) const fn frame(&self, i: usize) -> Range<usize> {
        let start = self.start + i * self.stride() + PREFIX_LEN;
        start..start + if i + 1 < self.n { self.frame_len } else { self.last_len }
    }
}

/// What became of a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// There was no frame.
    Nothing,
    /// There was one that is not carried.
    Unsupported,
    /// Datagrams, complete but for outer and inner headers and the seal.
    Run(Run),
}

/// The buffer of a worker's sending side, and what is foreseen of the next read.
pub(crate) struct Cutter {
    pub(crate) buf: Vec<u8>,
    prediction: Prediction,
    /// Super-frames whose payload had to be moved.
    pub(crate) n_mispredicted: u64,
}

impl Cutter {
    pub(crate) fn new() -> Self {
        let prediction = Prediction { headers_len: 66, gso_size: 1, remaining: 0 };
        Self { buf: vec![0; BUF_LEN], prediction, n_mispredicted: 0 }
    }

    /// Reads a frame, and makes it into datagrams from `position` in the buffer on.
    pub(crate) fn read(&mut self, source: &mut impl Source, position: usize) -> Cut {
        let frame = position + PREFIX_LEN;
        let start = frame - VnetHdr::LEN;
        let layout = (self.prediction.remaining > 0).then(|| self.prediction.layout(frame));
        let read = match &layout {
            Some(layout) => source.read_scattered(&mut self.buf, layout),
            None => match self.buf.get_mut(start..frame + MAX_FRAME_LEN) {
                Some(room) => source.read(room),
                None => return Cut::Nothing,
            },
        };
        // Errors other than "nothing there" are those of a device that is being removed.
        let Ok(len) = read else { return Cut::Nothing };
        let frame_len = len.saturating_sub(VnetHdr::LEN);
        let scattered = layout.filter(|l| len > l.head_len);
        match self.cut(position, frame_len, scattered) {
            Ok(run) => Cut::Run(run),
            Err(UnsupportedFrame) => Cut::Unsupported,
        }
    }

    fn cut(
        &mut self,
        position: usize,
        frame_len: usize,
        scattered: Option<ReadLayout>,
    ) -> Result<Run, UnsupportedFrame> {
        let frame = position + PREFIX_LEN;
        let header = self.buf.get(frame - VnetHdr::LEN..).ok_or(UnsupportedFrame)?;
        let vnet = VnetHdr::parse(header).ok_or(UnsupportedFrame)?;
        if vnet.gso != GsoKind::None {
            return self.cut_super_frame(position, &vnet, frame_len, scattered);
        }
        self.prediction.remaining = self.prediction.remaining.saturating_sub(1);
        self.gather(frame, frame_len, scattered);
        let bytes = self.buf.get_mut(frame..frame + frame_len).ok_or(UnsupportedFrame)?;
        let kind = frame_kind(&vnet, bytes)?;
        Ok(Run { start: position, frame_len, last_len: frame_len, n: 1, kind })
    }

    fn cut_super_frame(
        &mut self,
        position: usize,
        vnet: &VnetHdr,
        frame_len: usize,
        scattered: Option<ReadLayout>,
    ) -> Result<Run, UnsupportedFrame> {
        let frame = position + PREFIX_LEN;
        let head_len = scattered.map_or(frame_len, |l| l.head_len - VnetHdr::LEN);
        let head = self.buf.get(frame..frame + head_len).ok_or(UnsupportedFrame)?;
        let segments = Segments::plan(vnet, head, frame_len)?;
        let (headers_len, gso_size, n) = (segments.headers_len(), segments.gso_size(), segments.count());
        let run = Run {
            start: position,
            frame_len: headers_len + gso_size.min(frame_len - headers_len),
            last_len: headers_len + segments.payload_len(n - 1),
            n,
            kind: InnerKind::FramePartial,
        };
        // A flood needs the same room once more.
        if run.end() + run.len() > self.buf.len() {
            return Err(UnsupportedFrame);
        }
        let foreseen = self.prediction.headers_len == headers_len && self.prediction.gso_size == gso_size;
        if n > 1 && !(foreseen && scattered.is_some()) {
            self.gather(frame, frame_len, scattered);
            self.spread(frame, &segments);
            self.n_mispredicted += 1;
        }
        for i in 0..n {
            let datagram = self.buf.get_mut(frame + i * run.stride()..).ok_or(UnsupportedFrame)?;
            segments.write_headers(i, datagram);
        }
        let remaining = if gso_size >= MIN_PREDICTED_GSO { PREDICT_FOR } else { 0 };
        self.prediction = Prediction { headers_len, gso_size, remaining };
        Ok(run)
    }

    /// Cuts a run of TCP segments, which the receiver's TCP takes in any size, into more of at most `max_frame_len` bytes.
    /// `None`, with nothing changed, when it is something else, or there is no room.
    pub(crate) fn recut(&mut self, run: Run, max_frame_len: usize) -> Option<Run> {
        let first = run.frame(0);
        let head = self.buf.get(first.clone())?;
        let packet = Packet::parse(head).filter(|p| {
            run.kind == InnerKind::FramePartial
                && p.transport == Transport::Tcp
                && p.payload <= MAX_HEADERS_LEN
                && p.end == run.frame_len
        })?;
        let headers_len = packet.payload;
        let flags = head.get(packet.l4 + 13).filter(|flags| **flags & TCP_NEVER_CUT == 0)?;
        let last_flags = self.buf.get(run.frame(run.n - 1).start + packet.l4 + 13)?;
        let flags = flags | last_flags & TCP_ENDS;
        let gso_size = max_frame_len.checked_sub(headers_len).filter(|size| *size > 0)?;
        let payload_len = run.frames_len().checked_sub(run.n * headers_len).filter(|len| *len > 0)?;
        let n = payload_len.div_ceil(gso_size);
        let shorter = Run {
            frame_len: headers_len + gso_size.min(payload_len),
            last_len: headers_len + payload_len - (n - 1) * gso_size,
            n,
            ..run
        };
        let vnet = VnetHdr {
            needs_csum: true,
            gso: if packet.ipv6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 },
            gso_size: u16::try_from(gso_size).ok()?,
            csum_start: u16::try_from(packet.l4).ok()?,
            csum_offset: packet.transport.checksum_offset() as u16,
            ..VnetHdr::PLAIN
        };
        let mut segments = Segments::plan(&vnet, head, headers_len + payload_len).ok()?;
        segments.set_tcp_flags(flags);
        // As for one that was just cut.
        if shorter.end() + shorter.len() > self.buf.len() {
            return None;
        }
        for i in 1..run.n {
            let from = run.frame(i);
            let to = first.start + headers_len + i * (run.frame_len - headers_len);
            self.buf.copy_within(from.start + headers_len..from.end, to);
        }
        self.spread(first.start, &segments);
        for i in 0..n {
            segments.write_headers(i, self.buf.get_mut(shorter.frame(i))?);
        }
        Some(shorter)
    }

    /// Moves the pieces of a frame together.
    fn gather(&mut self, frame: usize, frame_len: usize, scattered: Option<ReadLayout>) {
        let Some(layout) = scattered else { return };
        let mut done = layout.head_len - VnetHdr::LEN;
        for i in 0..layout.n_pieces {
            let len = layout.piece_len.min(frame_len.saturating_sub(done));
            if len == 0 {
                break;
            }
            let from = layout.first_piece + i * layout.stride;
            self.buf.copy_within(from..from + len, frame + done);
            done += len;
        }
    }

    /// Moves the payload of a frame that lies in one piece to where the segments are, from the last to the first, since
    /// all move towards the end.
    fn spread(&mut self, frame: usize, segments: &Segments) {
        let (headers_len, gso_size) = (segments.headers_len(), segments.gso_size());
        let stride = headers_len + gso_size + OVERHEAD;
        for i in (1..segments.count()).rev() {
            let from = frame + headers_len + i * gso_size;
            let to = frame + i * stride + headers_len;
            self.buf.copy_within(from..from + segments.payload_len(i), to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out frames, as a TAP does.
    struct Frames(Vec<Vec<u8>>);

    impl Source for Frames {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let frame = self.0.pop().ok_or(io::ErrorKind::WouldBlock)?;
            buf[..frame.len()].copy_from_slice(&frame);
            Ok(frame.len())
        }

        fn read_scattered(&mut self, buf: &mut [u8], layout: &ReadLayout) -> io::Result<usize> {
            let frame = self.0.pop().ok_or(io::ErrorKind::WouldBlock)?;
            let (head, rest) = frame.split_at(frame.len().min(layout.head_len));
            buf[layout.start..layout.start + head.len()].copy_from_slice(head);
            assert!(rest.len() <= layout.n_pieces * layout.piece_len, "no frame is cut off");
            for (i, piece) in rest.chunks(layout.piece_len).enumerate() {
                let at = layout.first_piece + i * layout.stride;
                buf[at..at + piece.len()].copy_from_slice(piece);
            }
            Ok(frame.len())
        }
    }

    /// A TCP super-frame, or with `gso_size` 0 an ordinary frame, virtio-net header first.
    fn frame(n_option_words: usize, gso_size: usize, payload_len: usize) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        let tcp_len = 20 + n_option_words * 4;
        bytes.extend(((20 + tcp_len + payload_len) as u16).to_be_bytes());
        bytes.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend([0; 12]);
        bytes.extend([(tcp_len * 4) as u8, 0x10, 1, 1, 0, 0, 0, 0]);
        bytes.extend(vec![1; n_option_words * 4]);
        bytes.extend((0..payload_len).map(|i| (i / 7) as u8));
        let vnet = VnetHdr {
            needs_csum: true,
            gso: if gso_size == 0 { GsoKind::None } else { GsoKind::TcpV4 },
            gso_size: gso_size as u16,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHdr::PLAIN
        };
        [&vnet.to_bytes()[..], &bytes].concat()
    }

    fn payloads(cutter: &Cutter, run: Run, headers_len: usize) -> Vec<u8> {
        let frames = cutter.buf[run.start..run.end()].chunks(run.stride());
        frames.flat_map(|d| &d[PREFIX_LEN + headers_len..d.len() - TAG_LEN]).copied().collect()
    }

    #[test]
    fn payload_lies_in_order_whatever_was_predicted() {
        let mut cutter = Cutter::new();
        let shapes = [
            (3, 1366, 60_000),
            (3, 1366, 61_000),
            (3, 1366, 1367),
            (3, 1366, 1366),
            (3, 0, 1366),
            (3, 0, 52),
            (3, 0, 9000),
            (0, 1378, 64_000),
            (0, 700, 65_000),
            (9, 1366, 40_000),
            (0, 1378, 5000),
            (0, 100, 65_000),
            (0, 0, 500),
            (0, 8, 65_000),
            (0, 1378, 64_000),
            (0, 8900, 64_000),
        ];
        let position = 4321;
        for (n_option_words, gso_size, payload_len) in shapes {
            let (bytes, headers_len) =
                (frame(n_option_words, gso_size, payload_len), 54 + n_option_words * 4);
            let Cut::Run(run) = cutter.read(&mut Frames(vec![bytes.clone()]), position) else {
                panic!("{gso_size} {payload_len} is not carried")
            };
            assert_eq!(run.n, if gso_size == 0 { 1 } else { payload_len.div_ceil(gso_size) });
            assert_eq!(
                payloads(&cutter, run, headers_len),
                bytes[VnetHdr::LEN + headers_len..],
                "{gso_size}"
            );
            assert_eq!(run.frames_len(), run.n * headers_len + payload_len);
        }
    }

    #[test]
    fn equal_super_frames_are_moved_once() {
        let mut cutter = Cutter::new();
        for _ in 0..10 {
            let frames = vec![frame(3, 0, 0), frame(3, 1366, 60_104)];
            let mut source = Frames(frames);
            assert!(matches!(cutter.read(&mut source, 0), Cut::Run(_)));
            assert!(matches!(cutter.read(&mut source, 0), Cut::Run(_)));
            assert_eq!(cutter.read(&mut source, 0), Cut::Nothing);
        }
        assert_eq!(cutter.n_mispredicted, 1);
    }

    #[test]
    fn longer_segments_are_cut_again_as_if_they_had_been_asked_for() {
        for (n_option_words, gso_size, payload_len, position) in [
            (3, 1366, 60_000, 0),
            (0, 1378, 1379, 77),
            (3, 0, 1366, 5),
            (0, 8900, 64_000, 0),
            (9, 1366, 2000, 4321),
        ] {
            let (bytes, headers_len) =
                (frame(n_option_words, gso_size, payload_len), 54 + n_option_words * 4);
            let cut = |gso: usize| {
                let mut bytes = bytes.clone();
                // Finished, and pushed.
                bytes[VnetHdr::LEN + 34 + 13] |= TCP_ENDS;
                if gso != 0 {
                    bytes[1] = 1;
                    bytes[4..6].copy_from_slice(&(gso as u16).to_ne_bytes());
                }
                let mut cutter = Cutter::new();
                let Cut::Run(run) = cutter.read(&mut Frames(vec![bytes]), position) else {
                    panic!("not carried")
                };
                (cutter, run)
            };
            let (mut cutter, run) = cut(0);
            let shorter = cutter.recut(run, 1212).unwrap();
            let (asked, asked_run) = cut(1212 - headers_len);
            assert_eq!(shorter, asked_run);
            for i in 0..shorter.n {
                assert_eq!(cutter.buf[shorter.frame(i)], asked.buf[shorter.frame(i)], "segment {i}");
            }
        }
    }

    #[test]
    fn what_is_no_stream_is_not_cut_again() {
        let cut_again = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = frame(0, 0, 1366);
            change(&mut bytes);
            let mut cutter = Cutter::new();
            let Cut::Run(run) = cutter.read(&mut Frames(vec![bytes]), 0) else { panic!("not carried") };
            let before = cutter.buf[..run.end()].to_vec();
            let again = cutter.recut(run, 1212).is_some();
            assert_eq!(again, cutter.buf[..run.end()] != before);
            again
        };
        assert!(cut_again(&|_| {}));
        assert!(!cut_again(&|b| b[0] = 0), "a complete checksum");
        assert!(!cut_again(&|b| b[VnetHdr::LEN + 47] = 0x12), "SYN-ACK");
        assert!(!cut_again(&|b| b[VnetHdr::LEN + 17] -= 1), "bytes behind the packet");
        let udp = |b: &mut Vec<u8>| {
            b[VnetHdr::LEN + 23] = 17;
            b[8] = 6;
        };
        assert!(!cut_again(&udp), "UDP");
    }

    #[test]
    fn what_contradicts_itself_is_not_carried() {
        let mut cutter = Cutter::new();
        let good = frame(3, 1366, 5000);
        for (at, value) in [(1, 3), (1, 5), (0, 0), (6, 9), (VnetHdr::LEN + 12, 0x99)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(cutter.read(&mut Frames(vec![bad]), 0), Cut::Unsupported, "byte {at}");
        }
        assert!(matches!(cutter.read(&mut Frames(vec![good]), 0), Cut::Run(_)));
    }
}
