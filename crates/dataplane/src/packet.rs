//! Where the headers of a frame are.

use crate::checksum::{fold, get_u16, sum};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const MAX_VLAN_TAGS: usize = 2;
const MAX_EXTENSION_HEADERS: usize = 4;

/// The transport that weft cuts and joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Offset of the checksum in the transport header.
    #[must_use]
    pub const fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Offsets into an Ethernet frame that holds an unfragmented IPv4 or IPv6 packet with a whole TCP or UDP header.
///
/// The offsets were checked against the bytes they were parsed from (up to `payload`) and the packet's own length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Whether it is IPv6.
    pub ipv6: bool,
    /// TCP or UDP.
    pub transport: Transport,
    /// Offset of the IP header, behind Ethernet header and VLAN tags.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Offset of the payload: the length of all headers.
    pub payload: usize,
    /// Offset of the packet's end by IP's length field, which may be past what was given to parse.
    pub end: usize,
}

impl Packet {
    /// Parses the headers in `head`, which may end anywhere behind them.
    ///
    /// `None` for what is not TCP or UDP, for fragments, for IPv6 with a routing header (whose pseudo-header names
    /// another address than the packet), and for headers that are cut off or contradict themselves.
    #[must_use]
    #[inline]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let mut l3 = 14;
        let mut ethertype = u16::from_be_bytes(*head.get(12..)?.first_chunk()?);
        for _ in 0..MAX_VLAN_TAGS {
            if !ETHERTYPES_VLAN.contains(&ethertype) {
                break;
            }
            ethertype = u16::from_be_bytes(*head.get(l3 + 2..)?.first_chunk()?);
            l3 += 4;
        }
        let (ipv6, protocol, l4, end) = match ethertype {
            ETHERTYPE_IPV4 => {
                let ip: &[u8; 20] = head.get(l3..)?.first_chunk()?;
                let header_len = usize::from(ip[0] & 0xf) * 4;
                let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
                if ip[0] >> 4 != 4 || header_len < 20 || fragment != 0 {
                    return None;
                }
                let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                (false, ip[9], l3 + header_len, l3 + total_len)
            }
            ETHERTYPE_IPV6 => {
                let ip: &[u8; 40] = head.get(l3..)?.first_chunk()?;
                if ip[0] >> 4 != 6 {
                    return None;
                }
                let end = l3 + 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
                let (mut next, mut l4) = (ip[6], l3 + 40);
                for _ in 0..MAX_EXTENSION_HEADERS {
                    // Hop-by-hop and destination options.
                    if !matches!(next, 0 | 60) {
                        break;
                    }
                    let extension: &[u8; 2] = head.get(l4..)?.first_chunk()?;
                    next = extension[0];
                    l4 += (usize::from(extension[1]) + 1) * 8;
                }
                (true, next, l4, end)
            }
            _ => return None,
        };
        let (transport, payload) = match protocol {
            6 => {
                let tcp: &[u8; 20] = head.get(l4..)?.first_chunk()?;
                let header_len = usize::from(tcp[12] >> 4) * 4;
                if header_len < 20 {
                    return None;
                }
                (Transport::Tcp, l4 + header_len)
            }
            17 => (Transport::Udp, l4 + 8),
            _ => return None,
        };
        (payload <= end && payload <= head.len()).then_some(Self { ipv6, transport, l3, l4, payload, end })
    }

    /// The sum over the pseudo-header without its length field.
    pub(crate) fn pseudo_sum(&self, head: &[u8]) -> u64 {
        let addresses = if self.ipv6 { self.l3 + 8..self.l3 + 40 } else { self.l3 + 12..self.l3 + 20 };
        sum(head.get(addresses).unwrap_or_default()) + u64::from(self.transport.protocol())
    }

    /// Whether the IPv4 header's checksum is right; always for IPv6, which has none.
    pub(crate) fn ip_checksum_ok(&self, head: &[u8]) -> bool {
        if self.ipv6 {
            return true;
        }
        let header_len = usize::from(head.get(self.l3).map_or(0, |b| b & 0xf)) * 4;
        fold(sum(head.get(self.l3..self.l3 + header_len).unwrap_or_default())) == 0xffff
    }

    /// The transport checksum's field.
    pub(crate) fn checksum(&self, head: &[u8]) -> u16 {
        get_u16(head, self.l4 + self.transport.checksum_offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn offsets_lie_within_the_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..160), pick in 0usize..4) {
            // Random ethertypes would never get past the first check.
            let starts: [&[u8]; 4] = [&[8, 0, 0x45], &[8, 0, 0x46], &[0x86, 0xdd, 0x60], &[0x81, 0, 0, 1, 8, 0, 0x45]];
            for (to, from) in bytes.iter_mut().skip(12).zip(starts[pick]) {
                *to = *from;
            }
            for at in [20, 23, 24] {
                if let Some(b) = bytes.get_mut(at) { *b &= 0x17; }
            }
            if let Some(p) = Packet::parse(&bytes) {
                prop_assert!(14 <= p.l3 && p.l3 < p.l4 && p.l4 < p.payload);
                prop_assert!(p.payload <= bytes.len() && p.payload <= p.end);
            }
        }
    }
}
