//! Cutting super-frames into frames.

use weft_wire::InnerKind;

use crate::checksum::{complete_checksum, fold, get_u16, get_u32, put_u16, put_u32, sum};
use crate::packet::{Packet, Transport};
use crate::vnet::{GsoKind, VnetHdr};

/// The longest set of headers (Ethernet to transport) that is cut.
pub const MAX_HEADERS_LEN: usize = 256;

pub(crate) const TCP_FIN: u8 = 0x01;
pub(crate) const TCP_PSH: u8 = 0x08;
/// FIN and PSH: flags of TCP that stand in a super-frame's last segment only.
pub const TCP_ENDS: u8 = TCP_FIN | TCP_PSH;
const TCP_CWR: u8 = 0x80;

/// A frame that the kernel should not have handed over: its headers contradict its virtio-net header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsupportedFrame;

/// How a super-frame is cut: every segment's length, and its headers.
///
/// A segment is a whole frame. Against the super-frame's, its headers have their own IP length, identification and
/// header checksum; TCP sequence number, FIN and PSH on the last segment only, CWR on the first only; UDP length; and a
/// transport checksum that holds the pseudo-header's sum for the segment's length.
#[derive(Debug, Clone)]
pub struct Segments {
    packet: Packet,
    template: [u8; MAX_HEADERS_LEN],
    gso_size: usize,
    payload_len: usize,
    /// Over the IPv4 header without length, identification and checksum.
    ip_sum: u64,
    pseudo_sum: u64,
}

impl Segments {
    /// Plans the cut of a super-frame of `frame_len` bytes, of which `head` holds at least all headers.
    ///
    /// # Errors
    /// [`UnsupportedFrame`]: `vnet` is not that of a super-frame, or the frame is not what it says, for example because
    /// it holds a tunnel.
    pub fn plan(vnet: &VnetHdr, head: &[u8], frame_len: usize) -> Result<Self, UnsupportedFrame> {
        let packet = Packet::parse(head).ok_or(UnsupportedFrame)?;
        let expected = matches!(
            (vnet.gso, packet.ipv6, packet.transport),
            (GsoKind::TcpV4, false, Transport::Tcp)
                | (GsoKind::TcpV6, true, Transport::Tcp)
                | (GsoKind::UdpL4, _, Transport::Udp)
        );
        let payload_len = frame_len.checked_sub(packet.payload).ok_or(UnsupportedFrame)?;
        if !expected
            || !vnet.needs_csum
            || usize::from(vnet.csum_start) != packet.l4
            || usize::from(vnet.csum_offset) != packet.transport.checksum_offset()
            || vnet.gso_size == 0
            || payload_len == 0
            || packet.payload > MAX_HEADERS_LEN
        {
            return Err(UnsupportedFrame);
        }
        let mut template = [0; MAX_HEADERS_LEN];
        let headers = head.get(..packet.payload).ok_or(UnsupportedFrame)?;
        template.get_mut(..packet.payload).ok_or(UnsupportedFrame)?.copy_from_slice(headers);
        let mut ip_sum = 0;
        if !packet.ipv6 {
            let ip = template.get(packet.l3..packet.l4).unwrap_or_default();
            ip_sum = sum(ip);
            for field in [2, 4, 10] {
                // Leaves these fields out: adding the complement takes them away.
                ip_sum += u64::from(!get_u16(ip, field));
            }
        }
        Ok(Self {
            pseudo_sum: packet.pseudo_sum(&template),
            packet,
            template,
            gso_size: vnet.gso_size.into(),
            payload_len,
            ip_sum,
        })
    }

    /// Sets TCP's flags, as if the super-frame had them.
    pub fn set_tcp_flags(&mut self, flags: u8) {
        if self.packet.transport == Transport::Tcp
            && let Some(field) = self.template.get_mut(self.packet.l4 + 13)
        {
            *field = flags;
        }
    }

    /// How many segments.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.payload_len.div_ceil(self.gso_size)
    }

    /// Length of every segment's headers.
    #[must_use]
    pub const fn headers_len(&self) -> usize {
        self.packet.payload
    }

    /// Payload bytes of every segment but the last.
    #[must_use]
    pub const fn gso_size(&self) -> usize {
        self.gso_size
    }

    /// Payload bytes of segment `i`; 0 past the last.
    #[must_use]
    pub fn payload_len(&self, i: usize) -> usize {
        self.payload_len.saturating_sub(i.saturating_mul(self.gso_size)).min(self.gso_size)
    }

    /// Writes the headers of segment `i` to the start of `out`, which has to have room for
    /// [`headers_len`](Self::headers_len) bytes; nothing is written where it has not.
    #[inline]
    pub fn write_headers(&self, i: usize, out: &mut [u8]) {
        let Packet { l3, l4, payload, ipv6, transport, .. } = self.packet;
        let (Some(out), Some(template)) = (out.get_mut(..payload), self.template.get(..payload)) else {
            return;
        };
        out.copy_from_slice(template);
        let payload_len = self.payload_len(i);
        if ipv6 {
            put_u16(out, l3 + 4, (payload - l3 - 40 + payload_len) as u16);
        } else {
            let total_len = (payload - l3 + payload_len) as u16;
            let id = get_u16(template, l3 + 4).wrapping_add(i as u16);
            put_u16(out, l3 + 2, total_len);
            put_u16(out, l3 + 4, id);
            put_u16(out, l3 + 10, !fold(self.ip_sum + u64::from(total_len) + u64::from(id)));
        }
        match transport {
            Transport::Tcp => {
                let seq = get_u32(template, l4 + 4).wrapping_add((i * self.gso_size) as u32);
                put_u32(out, l4 + 4, seq);
                let mut clear = 0;
                if i + 1 < self.count() {
                    clear |= TCP_ENDS;
                }
                if i > 0 {
                    clear |= TCP_CWR;
                }
                if let Some(flags) = out.get_mut(l4 + 13) {
                    *flags &= !clear;
                }
            }
            Transport::Udp => put_u16(out, l4 + 4, (8 + payload_len) as u16),
        }
        let l4_len = (payload - l4 + payload_len) as u64;
        put_u16(out, l4 + transport.checksum_offset(), fold(self.pseudo_sum + l4_len));
    }
}

/// Says how an ordinary frame is sealed. A partial checksum that the receiver would not find by parsing (because it is
/// in a tunnel, or of a protocol that weft does not know) is completed here.
///
/// # Errors
/// [`UnsupportedFrame`]: the checksum lies outside of the frame.
#[inline]
pub fn frame_kind(vnet: &VnetHdr, frame: &mut [u8]) -> Result<InnerKind, UnsupportedFrame> {
    if !vnet.needs_csum {
        return Ok(InnerKind::Frame);
    }
    let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
    match Packet::parse(frame) {
        Some(p) if p.l4 == start && p.transport.checksum_offset() == offset => Ok(InnerKind::FramePartial),
        _ if complete_checksum(frame, start, offset) => Ok(InnerKind::Frame),
        _ => Err(UnsupportedFrame),
    }
}
