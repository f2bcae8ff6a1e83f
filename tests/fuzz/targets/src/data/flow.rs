//! TCP and UDP flows with right headers: random bytes would never be joined.

use arbitrary::Arbitrary;
use weft_dataplane::{GsoKind, VnetHdr};

use super::{ALICE, BOB};

#[derive(Debug, Clone, Arbitrary)]
pub(super) struct Flow {
    ipv6: bool,
    udp: bool,
    vlan: bool,
    options: u8,
    dont_fragment: bool,
    same_id: bool,
    id: u16,
    seq: u32,
    flags: u8,
    n_frames: u8,
    segment_len: u8,
    last_len: u8,
}

/// Folded to 16 bits.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Flow {
    fn segment_len(&self) -> usize {
        usize::from(self.segment_len).max(1)
    }

    fn payload(&self) -> Vec<u8> {
        let n_full = usize::from(self.n_frames % 12);
        let last = usize::from(self.last_len) % self.segment_len() + 1;
        (0..n_full * self.segment_len() + last).map(|i| i as u8).collect()
    }

    /// The offset of the transport header.
    fn l4(&self) -> usize {
        14 + if self.vlan { 4 } else { 0 }
            + if self.ipv6 { 40 } else { 20 + usize::from(self.options % 3) * 4 }
    }

    /// The frames of the flow, their checksums partial.
    pub(super) fn frames(&self) -> Vec<Vec<u8>> {
        let payload = self.payload();
        let parts: Vec<_> = payload.chunks(self.segment_len()).collect();
        let n = parts.len();
        parts.into_iter().enumerate().map(|(i, part)| self.frame(i, n, part)).collect()
    }

    /// All of it in one.
    pub(super) fn whole(&self) -> Vec<u8> {
        self.frame(0, 1, &self.payload())
    }

    pub(super) fn vnet(&self) -> VnetHdr {
        VnetHdr {
            needs_csum: true,
            gso: match (self.udp, self.ipv6) {
                (true, _) => GsoKind::UdpL4,
                (false, true) => GsoKind::TcpV6,
                (false, false) => GsoKind::TcpV4,
            },
            gso_size: self.segment_len() as u16,
            csum_start: self.l4() as u16,
            csum_offset: if self.udp { 6 } else { 16 },
            ..VnetHdr::PLAIN
        }
    }

    fn frame(&self, i: usize, n: usize, payload: &[u8]) -> Vec<u8> {
        let mut l4 = vec![0x30, 0x39, 0x14, 0xb4];
        if self.udp {
            l4.extend((8 + payload.len() as u16).to_be_bytes());
            l4.extend([0, 0]);
        } else {
            let ends = if i + 1 < n { !0x09 } else { !0 };
            l4.extend(self.seq.wrapping_add((i * self.segment_len()) as u32).to_be_bytes());
            l4.extend([1, 2, 3, 4, 0x50, self.flags & ends, 0x12, 0x34, 0, 0, 0, 0]);
        }
        l4.extend(payload);
        let l4_len = (l4.len() as u16).to_be_bytes();
        let protocol = if self.udp { 17 } else { 6 };
        let addresses: Vec<u8> = if self.ipv6 { (0..32).collect() } else { vec![10, 1, 2, 3, 10, 4, 5, 6] };
        let at = if self.udp { 6 } else { 16 };
        let partial = sum(&[&addresses, &[0, protocol], &l4_len]);
        l4[at..at + 2].copy_from_slice(&partial.to_be_bytes());

        let mut frame = [&ALICE.0[..], &BOB.0].concat();
        if self.vlan {
            frame.extend([0x81, 0, 0, 5]);
        }
        if self.ipv6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(l4_len);
            frame.extend([protocol, 64]);
            frame.extend(addresses);
        } else {
            let n_options = usize::from(self.options % 3);
            let total_len = (20 + n_options * 4 + l4.len()) as u16;
            let id = if self.same_id { self.id } else { self.id.wrapping_add(i as u16) };
            let mut ip = vec![0x45 + n_options as u8, 0];
            ip.extend(total_len.to_be_bytes());
            ip.extend(id.to_be_bytes());
            ip.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, 64, protocol, 0, 0]);
            ip.extend(addresses);
            ip.resize(20 + n_options * 4, 1);
            let checksum = !sum(&[&ip]);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(ip);
        }
        frame.extend(l4);
        frame
    }
}
