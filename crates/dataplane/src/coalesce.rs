//! Joining the frames of one flow into super-frames.

use std::ops::Range;

use crate::checksum::{fold, get_u16, get_u32, put_u16, sum};
use crate::packet::{Packet, Transport};
use crate::segment::{MAX_HEADERS_LEN, TCP_ENDS};
use crate::vnet::{GsoKind, VnetHdr};

/// The most frames that are joined, by which the number of pieces in a gathered write is bounded.
const MAX_FRAMES: usize = 128;
/// The most bytes that IP's length fields can say.
const MAX_IP_LEN: usize = 65535;
/// SYN, RST, URG, CWR.
const TCP_NEVER_JOINED: u8 = 0x02 | 0x04 | 0x20 | 0x80;

/// Joins consecutive frames that lie in one buffer, as the kernel's GRO does: same headers, in sequence, all of one
/// length but for the last. Payload is not moved: the result is a list of pieces of the buffer, the first of which holds
/// the headers.
///
/// [`start`](Self::start) a frame, [`offer`](Self::offer) those that follow until one is refused, then
/// [`finish`](Self::finish), write the pieces, and start again. Split by [`Segments`](crate::Segments), the super-frame
/// is the same frames again.
#[derive(Debug)]
pub struct Coalescer {
    pieces: Vec<Range<u32>>,
    first: Option<First>,
    /// Whether more frames may follow.
    open: bool,
    payload_len: usize,
    last_flags: u8,
}

/// The frame that the others are compared with.
#[derive(Debug, Clone, Copy)]
struct First {
    start: usize,
    partial: bool,
    packet: Option<Packet>,
    /// Payload bytes of every frame but the last.
    segment_len: usize,
    pseudo_sum: u64,
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new()
    }
}

impl Coalescer {
    /// One without frames. Its memory is allocated here, and never again.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pieces: Vec::with_capacity(MAX_FRAMES),
            first: None,
            open: false,
            payload_len: 0,
            last_flags: 0,
        }
    }

    /// Whether no frame was started.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The parts of the buffer that make up the super-frame, in order. After [`finish`](Self::finish) only.
    #[must_use]
    pub fn pieces(&self) -> &[Range<u32>] {
        &self.pieces
    }

    /// The pieces, the first of them beginning `n` bytes earlier, where a virtio-net header was put.
    #[must_use]
    pub fn pieces_with_header(&mut self, n: u32) -> &[Range<u32>] {
        if let Some(first) = self.pieces.first_mut() {
            first.start = first.start.saturating_sub(n);
        }
        &self.pieces
    }

    /// Where the first frame starts.
    #[must_use]
    pub fn first_start(&self) -> usize {
        self.first.map_or(0, |f| f.start)
    }

    /// How many frames were joined.
    #[must_use]
    pub fn n_frames(&self) -> usize {
        self.pieces.len()
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.first = None;
        self.open = false;
    }

    /// Forgets earlier frames, and takes the one at `frame` in `buf`, whose transport checksum is partial or complete.
    #[inline]
    pub fn start(&mut self, buf: &[u8], frame: Range<usize>, partial: bool) {
        self.clear();
        let start = frame.start;
        let Some(bytes) = buf.get(frame.clone()) else { return };
        self.pieces.push(frame.start as u32..frame.end as u32);
        let packet = if partial { Packet::parse(bytes) } else { None };
        let mut first = First { start, partial, packet, segment_len: 0, pseudo_sum: 0 };
        if let Some(packet) = packet {
            first.pseudo_sum = packet.pseudo_sum(bytes);
            first.segment_len = bytes.len().saturating_sub(packet.payload);
            self.payload_len = first.segment_len;
            self.last_flags = 0;
            self.open = tcp_flags(&packet, bytes) & (TCP_NEVER_JOINED | TCP_ENDS) == 0
                && packet.payload <= MAX_HEADERS_LEN
                && intact(&packet, bytes, first.pseudo_sum);
        }
        self.first = Some(first);
    }

    /// Joins the frame at `frame` in `buf` to those before, if it continues them. `false`: it does not, and nothing
    /// changed.
    #[inline]
    #[must_use]
    pub fn offer(&mut self, buf: &[u8], frame: Range<usize>, partial: bool) -> bool {
        let Some(First { start, packet: Some(p), segment_len, pseudo_sum, .. }) = self.first else {
            return false;
        };
        if !self.open || !partial || self.pieces.len() >= MAX_FRAMES {
            return false;
        }
        let (Some(ours), Some(theirs)) = (buf.get(start..start + p.payload), buf.get(frame.clone())) else {
            return false;
        };
        let Some((headers, payload)) = theirs.split_at_checked(p.payload) else { return false };
        if payload.is_empty()
            || payload.len() > segment_len
            || p.payload - p.l3 + self.payload_len + payload.len() > MAX_IP_LEN
            || !self.continues(&p, ours, headers)
        {
            return false;
        }
        let theirs_packet = Packet { end: p.payload + payload.len(), ..p };
        if !lengths_agree(&theirs_packet, headers) || !intact(&theirs_packet, theirs, pseudo_sum) {
            return false;
        }
        self.last_flags = tcp_flags(&p, headers);
        self.open = self.last_flags & TCP_ENDS == 0 && payload.len() == segment_len;
        self.payload_len += payload.len();
        self.pieces.push((frame.start + p.payload) as u32..frame.end as u32);
        true
    }

    /// Whether the fields that have to be equal are, and those that count do.
    #[inline]
    fn continues(&self, p: &Packet, ours: &[u8], theirs: &[u8]) -> bool {
        let same = |range: Range<usize>| ours.get(range.clone()) == theirs.get(range);
        let n = self.pieces.len() as u16;
        let ip = if p.ipv6 {
            same(0..p.l3 + 4) && same(p.l3 + 6..p.l4)
        } else {
            same(0..p.l3 + 2)
                && id_continues(get_u16(ours, p.l3 + 4), get_u16(theirs, p.l3 + 4), n, ours.get(p.l3 + 6))
                && same(p.l3 + 6..p.l3 + 10)
                && same(p.l3 + 12..p.l4)
        };
        ip && match p.transport {
            Transport::Udp => same(p.l4..p.l4 + 4),
            Transport::Tcp => {
                let next = get_u32(ours, p.l4 + 4).wrapping_add(self.payload_len as u32);
                let flags = |h: &[u8]| h.get(p.l4 + 13).map(|f| f & !(TCP_ENDS));
                same(p.l4..p.l4 + 4)
                    && get_u32(theirs, p.l4 + 4) == next
                    && same(p.l4 + 8..p.l4 + 13)
                    && flags(ours) == flags(theirs)
                    && same(p.l4 + 14..p.l4 + 16)
                    && same(p.l4 + 18..p.payload)
            }
        }
    }

    /// Rewrites the headers in `buf` to those of the super-frame, and returns its virtio-net header.
    ///
    /// `None` when there is no frame, or when it says that its checksum is partial and is not TCP or UDP: only a peer
    /// that does not keep to the protocol sends that.
    #[must_use]
    pub fn finish(&mut self, buf: &mut [u8]) -> Option<VnetHdr> {
        let First { start, partial, packet, segment_len, pseudo_sum } = self.first?;
        if !partial {
            return Some(VnetHdr::PLAIN);
        }
        let p = packet?;
        let mut vnet = VnetHdr {
            needs_csum: true,
            csum_start: p.l4 as u16,
            csum_offset: p.transport.checksum_offset() as u16,
            ..VnetHdr::PLAIN
        };
        if self.pieces.len() < 2 {
            return Some(vnet);
        }
        vnet.hdr_len = p.payload as u16;
        vnet.gso_size = segment_len as u16;
        let headers = buf.get_mut(start..start + p.payload)?;
        if p.ipv6 {
            put_u16(headers, p.l3 + 4, (p.payload - p.l3 - 40 + self.payload_len) as u16);
        } else {
            put_u16(headers, p.l3 + 2, (p.payload - p.l3 + self.payload_len) as u16);
            put_u16(headers, p.l3 + 10, 0);
            let header_len = usize::from(headers.get(p.l3)? & 0xf) * 4;
            let checksum = !fold(sum(headers.get(p.l3..p.l3 + header_len)?));
            put_u16(headers, p.l3 + 10, checksum);
        }
        let l4_len = p.payload - p.l4 + self.payload_len;
        match p.transport {
            Transport::Tcp => {
                vnet.gso = if p.ipv6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
                *headers.get_mut(p.l4 + 13)? |= self.last_flags & (TCP_ENDS);
            }
            Transport::Udp => {
                vnet.gso = GsoKind::UdpL4;
                put_u16(headers, p.l4 + 4, l4_len as u16);
            }
        }
        put_u16(headers, p.l4 + p.transport.checksum_offset(), fold(pseudo_sum + l4_len as u64));
        Some(vnet)
    }
}

/// TCP's flags; none for UDP.
#[inline]
fn tcp_flags(p: &Packet, headers: &[u8]) -> u8 {
    match p.transport {
        Transport::Tcp => headers.get(p.l4 + 13).copied().unwrap_or(0),
        Transport::Udp => 0,
    }
}

/// Whether `frame` is nothing but the packet, has a payload, and its lengths and checksums are what they would be again
/// after joining and splitting.
#[inline]
fn intact(p: &Packet, frame: &[u8], pseudo_sum: u64) -> bool {
    let l4_len = frame.len().saturating_sub(p.l4);
    p.end == frame.len()
        && frame.len() > p.payload
        && (p.transport == Transport::Tcp || usize::from(get_u16(frame, p.l4 + 4)) == l4_len)
        && p.ip_checksum_ok(frame)
        && p.checksum(frame) == fold(pseudo_sum + l4_len as u64)
}

/// Whether the identification counts on. That of a datagram that must not be fragmented means nothing (RFC 6864), and
/// Linux leaves it 0 on unconnected sockets.
#[inline]
fn id_continues(ours: u16, theirs: u16, n: u16, flags: Option<&u8>) -> bool {
    theirs == ours.wrapping_add(n) || (theirs == ours && flags.is_some_and(|f| f & 0x40 != 0))
}

/// Whether IP's length field says what `p` does.
#[inline]
fn lengths_agree(p: &Packet, headers: &[u8]) -> bool {
    let ip_end = if p.ipv6 {
        p.l3 + 40 + usize::from(get_u16(headers, p.l3 + 4))
    } else {
        p.l3 + usize::from(get_u16(headers, p.l3 + 2))
    };
    ip_end == p.end
}
