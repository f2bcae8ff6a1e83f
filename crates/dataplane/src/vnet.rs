//! The virtio-net header (virtio 1.2, section 5.1.6) in front of a TAP frame: 10 bytes, in the machine's byte order.

/// What a super-frame is to be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// An ordinary frame.
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP, each segment a datagram of its own.
    UdpL4,
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VnetHdr {
    /// Whether the checksum at `csum_start + csum_offset` holds the pseudo-header's sum only.
    pub needs_csum: bool,
    /// Kind of super-frame.
    pub gso: GsoKind,
    /// Whether the first segment carries TCP's CWR and the others do not.
    pub ecn: bool,
    /// Length of all headers; what the kernel writes there is a hint at best.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// Where the checksum's range begins, from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum is, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// Length of the header.
    pub const LEN: usize = 10;

    const NEEDS_CSUM: u8 = 1;
    const GSO_ECN: u8 = 0x80;

    /// That of an ordinary frame with complete checksums.
    pub const PLAIN: Self = Self {
        needs_csum: false,
        gso: GsoKind::None,
        ecn: false,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// Reads the header at the start of `bytes`; `None` when it is cut off or of a kind that was not asked for.
    #[must_use]
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let &[flags, gso, h0, h1, g0, g1, s0, s1, o0, o1] = bytes.first_chunk::<{ Self::LEN }>()?;
        Some(Self {
            needs_csum: flags & Self::NEEDS_CSUM != 0,
            gso: match gso & !Self::GSO_ECN {
                0 => GsoKind::None,
                1 => GsoKind::TcpV4,
                4 => GsoKind::TcpV6,
                5 => GsoKind::UdpL4,
                _ => return None,
            },
            ecn: gso & Self::GSO_ECN != 0,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// Encodes the header.
    #[must_use]
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let gso = match self.gso {
            GsoKind::None => 0,
            GsoKind::TcpV4 => 1,
            GsoKind::TcpV6 => 4,
            GsoKind::UdpL4 => 5,
        };
        let ecn = if self.ecn { Self::GSO_ECN } else { 0 };
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [u8::from(self.needs_csum), gso | ecn, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn known_headers_round_trip(mut bytes: [u8; VnetHdr::LEN]) {
            bytes[0] &= 1;
            match VnetHdr::parse(&bytes) {
                Some(header) => prop_assert_eq!(header.to_bytes(), bytes),
                None => prop_assert!(![0, 1, 4, 5].contains(&(bytes[1] & 0x7f))),
            }
        }
    }
}
