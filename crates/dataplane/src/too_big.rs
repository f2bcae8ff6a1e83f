//! Telling a container that its packet is longer than the path carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::{fold, get_u16, put_u16, sum};
use crate::content::{Content, Frame, ICMPV6, Ip};
use crate::neighbor::icmpv6_checksum;
use crate::vnet::VnetHdr;

/// Room for a message: virtio-net header, Ethernet with two VLAN tags, and what IPv6 allows (RFC 4443, section 2.4).
pub const MAX_TOO_BIG_LEN: usize = VnetHdr::LEN + 22 + MAX_V6_LEN;
/// RFC 1812, section 4.3.2.3.
const MAX_V4_LEN: usize = 576;
const MAX_V6_LEN: usize = 1280;

const ICMP: u8 = 1;
const HOP_LIMIT: u8 = 64;

/// Writes the message that makes the sender of `frame` send such of at most `max_frame_len` bytes: "fragmentation needed"
/// (RFC 792, RFC 1191), "packet too big" (RFC 4443). Virtio-net header first; returns its length.
///
/// It comes from the packet's destination, the only address that is known to be right towards the sender, and from its
/// Ethernet address. `None` where there is nobody to be told: IPv4 that routers may fragment, IPv6 that fits into the
/// 1280 bytes that every link carries, later fragments, ICMP errors, groups, what is not IP.
#[must_use]
pub fn write_too_big(frame: &[u8], max_frame_len: usize, out: &mut [u8; MAX_TOO_BIG_LEN]) -> Option<usize> {
    let parsed = Frame::parse(frame)?;
    let Content::Ip(ip) = parsed.content else { return None };
    let packet = frame.get(parsed.l3..)?;
    let overlay_mtu = u16::try_from(max_frame_len.checked_sub(parsed.l3)?).unwrap_or(u16::MAX);
    if parsed.destination.is_group() || !may_be_told(&ip) {
        return None;
    }
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        out.get_mut(len..len + bytes.len()).map(|to| {
            to.copy_from_slice(bytes);
            len += bytes.len();
        })
    };
    put(&VnetHdr::PLAIN.to_bytes())?;
    put(&parsed.source.0)?;
    put(&parsed.destination.0)?;
    put(frame.get(12..parsed.l3)?)?;
    match (ip.source, ip.destination) {
        (IpAddr::V4(to), IpAddr::V4(from)) => {
            if packet.get(6)? & 0x40 == 0 {
                return None;
            }
            let quoted = packet.get(..packet.len().min(MAX_V4_LEN - 28))?;
            put(&v4_header(from, to, quoted.len() + 8))?;
            let [m0, m1] = overlay_mtu.to_be_bytes();
            let mut head = [3, 4, 0, 0, 0, 0, m0, m1];
            let checksum = !fold(sum(&head) + sum(quoted));
            put_u16(&mut head, 2, checksum);
            put(&head)?;
            put(quoted)?;
        }
        (IpAddr::V6(to), IpAddr::V6(from)) => {
            // A host never goes below, whatever it is told (RFC 8200, section 5).
            let mtu = overlay_mtu.max(MAX_V6_LEN as u16);
            if packet.len() <= usize::from(mtu) {
                return None;
            }
            let quoted = packet.get(..packet.len().min(MAX_V6_LEN - 48))?;
            let [l0, l1] = ((quoted.len() + 8) as u16).to_be_bytes();
            put(&[0x60, 0, 0, 0, l0, l1, ICMPV6, HOP_LIMIT])?;
            put(&from.octets())?;
            put(&to.octets())?;
            let [m0, m1] = mtu.to_be_bytes();
            put(&[2, 0, 0, 0, 0, 0, m0, m1])?;
            put(quoted)?;
            let message = out.get_mut(len - quoted.len() - 8..len)?;
            let checksum = icmpv6_checksum(from, to, message);
            put_u16(message, 2, checksum);
        }
        _ => return None,
    }
    Some(len)
}

/// Whether the sender of a packet may be sent an error about it (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
fn may_be_told(ip: &Ip<'_>) -> bool {
    let is_error = match (ip.protocol, ip.payload.first()) {
        (ICMP, Some(3..=5 | 11 | 12)) => ip.source.is_ipv4(),
        (ICMPV6, Some(kind)) => *kind < 128 && ip.source.is_ipv6(),
        _ => false,
    };
    let is_host = |address: IpAddr| match address {
        IpAddr::V4(a) => !(a.is_unspecified() || a.is_multicast() || a == Ipv4Addr::BROADCAST),
        IpAddr::V6(a) => a != Ipv6Addr::UNSPECIFIED && !a.is_multicast(),
    };
    // A later fragment has no payload that could be read, and names no socket.
    !is_error && !ip.payload.is_empty() && is_host(ip.source) && is_host(ip.destination)
}

fn v4_header(from: Ipv4Addr, to: Ipv4Addr, payload_len: usize) -> [u8; 20] {
    let [l0, l1] = ((20 + payload_len) as u16).to_be_bytes();
    let mut header = [0; 20];
    header[..12].copy_from_slice(&[0x45, 0, l0, l1, 0, 0, 0x40, 0, HOP_LIMIT, ICMP, 0, 0]);
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let checksum = !fold(sum(&header));
    put_u16(&mut header, 10, checksum);
    debug_assert_eq!(get_u16(&header, 10), checksum);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(flags: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [l0, l1] = ((20 + payload.len()) as u16).to_be_bytes();
        let head = [0x45, 0, l0, l1, 0, 7, flags, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..], &head, payload].concat()
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [l0, l1] = (payload.len() as u16).to_be_bytes();
        let head =
            [&[0x60, 0, 0, 0, l0, l1, protocol, 64][..], &[0xfd; 15], &[1], &[0xfd; 15], &[2]].concat();
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd][..], &head, payload].concat()
    }

    fn told(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
        let mut out = [0xee; MAX_TOO_BIG_LEN];
        write_too_big(frame, usize::from(mtu) + 14, &mut out).map(|len| out[VnetHdr::LEN..len].to_vec())
    }

    #[test]
    fn the_sender_is_told_in_the_name_of_the_destination() {
        let frame = v4(0x40, 17, &[9; 1380]);
        let message = told(&frame, 1318).unwrap();
        assert_eq!(message[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        assert_eq!(message[26..34], [10, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!((message[34], message[35], &message[40..42]), (3, 4, &1318u16.to_be_bytes()[..]));
        assert_eq!(message[42..], frame[14..14 + 548]);
        assert_eq!(fold(sum(&message[14..34])), 0xffff);
        assert_eq!(fold(sum(&message[34..])), 0xffff);

        let frame = v6(17, &[9; 1360]);
        let message = told(&frame, 1318).unwrap();
        assert_eq!(message[22..38], frame[38..54], "from the destination");
        assert_eq!((message[54], &message[60..62]), (2, &1318u16.to_be_bytes()[..]));
        assert_eq!(message.len(), 14 + 1280);
        let [from, to] = [22, 38].map(|at| Ipv6Addr::from(*message[at..].first_chunk::<16>().unwrap()));
        let mut zeroed = message[54..].to_vec();
        zeroed[2..4].fill(0);
        assert_eq!(get_u16(&message, 56), icmpv6_checksum(from, to, &zeroed));
    }

    #[test]
    fn ipv6_is_never_told_less_than_its_minimum() {
        assert_eq!(told(&v6(17, &[9; 1240]), 1198), None);
        let message = told(&v6(17, &[9; 1241]), 1198).unwrap();
        assert_eq!(message[60..62], 1280u16.to_be_bytes());
    }

    #[test]
    fn nobody_is_told_where_nobody_would_listen() {
        assert_eq!(told(&v4(0, 17, &[9; 1380]), 1318), None, "may be fragmented");
        let mut later = v4(0x40, 17, &[9; 1380]);
        later[21] = 3;
        assert_eq!(told(&later, 1318), None, "a later fragment");
        assert_eq!(told(&v4(0x40, 1, &[3; 1380]), 1318), None, "an error");
        assert!(told(&v4(0x40, 1, &[8; 1380]), 1318).is_some(), "an echo request");
        assert_eq!(told(&v6(58, &[1; 1380]), 1318), None, "an error");
        let mut group = v4(0x40, 17, &[9; 1380]);
        group[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(told(&group, 1318), None, "a group");
        let mut arp = v4(0x40, 17, &[9; 1380]);
        arp[13] = 6;
        assert_eq!(told(&arp, 1318), None, "not IP");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), ipv6: bool, mtu: u16) {
            if let Some(kind) = bytes.get_mut(12..15) {
                kind.copy_from_slice(if ipv6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] });
            }
            if let Some(message) = told(&bytes, mtu) {
                prop_assert!(message.len() <= 22 + MAX_V6_LEN);
            }
        }
    }
}
