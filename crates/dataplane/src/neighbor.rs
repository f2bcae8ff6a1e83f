//! Answers to ARP requests and neighbour solicitations, which never leave the host.

use std::net::{IpAddr, Ipv6Addr};

use weft_wire::Mac;

use crate::checksum::{fold, put_u16, sum};
use crate::content::{Content, Frame, ICMPV6, NeighborKind};
use crate::vnet::VnetHdr;

/// Room for an answer: virtio-net header, Ethernet with two VLAN tags, IPv6, neighbour advertisement with its option.
pub const MAX_ANSWER_LEN: usize = VnetHdr::LEN + 22 + 40 + 32;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The Ethernet address from which a link-local address was made (RFC 4291, appendix A).
pub(crate) fn mac_of_link_local(ip: Ipv6Addr) -> Option<Mac> {
    match ip.octets() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => Some(Mac([a ^ 2, b, c, d, e, f])),
        _ => None,
    }
}

/// Writes the answer to `query`, an ARP request or a neighbour solicitation, in the name of `owner`, virtio-net header
/// first, its VLAN tags kept. Returns its length.
///
/// `None` when `query` is neither.
#[must_use]
pub fn write_answer(query: &[u8], owner: Mac, out: &mut [u8; MAX_ANSWER_LEN]) -> Option<usize> {
    let frame = Frame::parse(query)?;
    let tags = query.get(12..frame.l3)?;
    let mut writer = Writer { out, len: 0 };
    writer.put(&VnetHdr::PLAIN.to_bytes())?;
    match frame.content {
        Content::Arp(arp) if arp.request => {
            writer.put(&frame.source.0)?;
            writer.put(&owner.0)?;
            writer.put(tags)?;
            writer.put(&[0, 1, 8, 0, 6, 4, 0, 2])?;
            writer.put(&owner.0)?;
            writer.put(&arp.target.octets())?;
            writer.put(&frame.source.0)?;
            writer.put(&arp.sender.octets())?;
        }
        Content::Ip(ip) => {
            let NeighborKind::Solicitation(target) = ip.neighbor_message().ok()??.kind else { return None };
            let IpAddr::V6(asker) = ip.source else { return None };
            // Who has no address yet is answered in the hearing of all (RFC 4861, section 7.2.4).
            let (to, to_mac, solicited) = if asker.is_unspecified() {
                (ALL_NODES, Mac([0x33, 0x33, 0, 0, 0, 1]), 0)
            } else {
                (asker, frame.source, 0x40)
            };
            writer.put(&to_mac.0)?;
            writer.put(&owner.0)?;
            writer.put(tags)?;
            writer.put(&[0x60, 0, 0, 0, 0, 32, ICMPV6, 255])?;
            writer.put(&target.octets())?;
            writer.put(&to.octets())?;
            let message = writer.len;
            // Advertisement; solicited, override.
            writer.put(&[136, 0, 0, 0, solicited | 0x20, 0, 0, 0])?;
            writer.put(&target.octets())?;
            writer.put(&[2, 1])?;
            writer.put(&owner.0)?;
            let bytes = writer.out.get_mut(..writer.len)?;
            let checksum = icmpv6_checksum(target, to, bytes.get(message..)?);
            put_u16(bytes, message + 2, checksum);
        }
        _ => return None,
    }
    Some(writer.len)
}

/// The checksum of an ICMPv6 message whose own field is 0.
pub(crate) fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = sum(&from.octets()) + sum(&to.octets()) + message.len() as u64 + u64::from(ICMPV6);
    !fold(pseudo + sum(message))
}

struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.len..self.len + bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }
}
