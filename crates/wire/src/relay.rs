//! What stands in front of a datagram that a third peer hands on.
//!
//! ```text
//! offset  size  relay header (sealed, behind the inner header)
//! 0       16    peer id: to the relay whom it is for, from the relay whom it is from
//! 16      ...   a datagram of the two, outer header first
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::{HEADER_LEN, INNER_HEADER_LEN, InnerHeader, InnerKind, NetworkId, PeerId, TAG_LEN};

/// Length of the relay header.
pub const RELAY_HEADER_LEN: usize = 16;
/// What a datagram grows by on its way over a relay: it is sealed once more, between relay and end.
pub const RELAY_OVERHEAD: usize = HEADER_LEN + INNER_HEADER_LEN + RELAY_HEADER_LEN + TAG_LEN;

impl PeerId {
    /// The address that stands for the peer where it is reached over a relay. No datagram comes from such a one or can be
    /// sent there, since its port is 0.
    #[must_use]
    pub const fn relayed_address(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::from_octets(self.0)), 0)
    }

    /// The peer that a [relayed address](Self::relayed_address) stands for; `None` for an address of the underlay.
    #[must_use]
    pub fn of_relayed_address(address: SocketAddr) -> Option<Self> {
        match address {
            SocketAddr::V6(v6) if v6.port() == 0 => Some(Self(v6.ip().octets())),
            _ => None,
        }
    }

    /// Appends to `out` the datagram that asks a relay to hand `datagram` on to the peer. It is [`RELAY_OVERHEAD`] bytes
    /// longer, and to be sealed: the outer header and the tag are zeros.
    pub fn write_relay_request(self, datagram: &[u8], out: &mut Vec<u8>) {
        let inner = InnerHeader { kind: InnerKind::Relay, ttl: 1, network: NetworkId::from_u48(0) };
        out.extend([0; HEADER_LEN]);
        out.extend(inner.to_bytes());
        out.extend(self.0);
        out.extend(datagram);
        out.extend([0; TAG_LEN]);
    }

    /// Splits a payload into its relay header and the datagram; `None` when there is no room for a datagram's header.
    #[must_use]
    pub fn split_relay_header(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (id, datagram) = payload.split_first_chunk::<RELAY_HEADER_LEN>()?;
        (datagram.len() >= HEADER_LEN).then_some((Self(*id), datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relayed_addresses_are_no_others() {
        let id = PeerId([7; 16]);
        assert_eq!(PeerId::of_relayed_address(id.relayed_address()), Some(id));
        for text in ["192.0.2.1:0", "192.0.2.1:6783", "[2001:db8::1]:6783"] {
            assert_eq!(PeerId::of_relayed_address(text.parse().unwrap()), None);
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let (id, datagram) = (PeerId([7; 16]), [1; 40]);
        let mut out = vec![9];
        id.write_relay_request(&datagram, &mut out);
        assert_eq!(out.len(), 1 + datagram.len() + RELAY_OVERHEAD);
        let sealed = &out[1 + HEADER_LEN..out.len() - TAG_LEN];
        assert_eq!(InnerHeader::parse(sealed).map(|inner| inner.kind), Some(InnerKind::Relay));
        assert_eq!(PeerId::split_relay_header(&sealed[INNER_HEADER_LEN..]), Some((id, &datagram[..])));
    }

    #[test]
    fn nothing_but_datagrams_is_handed_on() {
        let payload = [[7; 16], [1; 16]].concat();
        assert_eq!(PeerId::split_relay_header(&payload), Some((PeerId([7; 16]), &[1; 16][..])));
        assert_eq!(PeerId::split_relay_header(&payload[..31]), None);
    }
}
