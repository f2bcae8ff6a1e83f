//! What a frame says of itself: who sends it, on whose behalf, and whether it is about neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_wire::Mac;

const MAX_VLAN_TAGS: usize = 2;
const MAX_EXTENSION_HEADERS: usize = 8;

pub(crate) const IGMP: u8 = 2;
pub(crate) const ICMPV6: u8 = 58;

/// A frame that was read as far as forwarding cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) destination: Mac,
    pub(crate) source: Mac,
    /// Offset of what follows Ethernet header and VLAN tags.
    pub(crate) l3: usize,
    pub(crate) content: Content<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Arp(Arp),
    Ip(Ip<'a>),
    /// Neither: it names no sender but its Ethernet address.
    Other,
}

/// An ARP packet for IPv4 over Ethernet (RFC 826).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arp {
    pub(crate) request: bool,
    pub(crate) sender_mac: Mac,
    pub(crate) sender: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
}

/// An IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ip<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    /// What the payload is, behind IPv6's extension headers.
    pub(crate) protocol: u8,
    /// Whether it is a part of a packet.
    pub(crate) fragment: bool,
    /// Offset of the payload in the frame.
    pub(crate) l4: usize,
    /// Without Ethernet's padding. Empty in fragments but the first.
    pub(crate) payload: &'a [u8],
}

/// A message about multicast groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupMessage {
    Report,
    /// A query, above all.
    Other,
}

/// A message of neighbour discovery (RFC 4861).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NeighborMessage<'a> {
    pub(crate) kind: NeighborKind,
    options: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NeighborKind {
    Solicitation(Ipv6Addr),
    Advertisement(Ipv6Addr),
    RouterSolicitation,
    /// Router advertisements and redirects.
    OfRouters,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

fn v4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    array::<4>(bytes, at).map(|b| Ipv4Addr::from(*b))
}

fn v6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    array::<16>(bytes, at).map(|b| Ipv6Addr::from(*b))
}

impl<'a> Frame<'a> {
    /// Reads `frame`, which may end behind its headers. `None` when headers are cut off or contradict themselves, or
    /// hide what they carry behind more tags or extension headers than anyone needs.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        let (destination, source) = (Mac(*array(frame, 0)?), Mac(*array(frame, 6)?));
        let (mut l3, mut ethertype) = (14, *array::<2>(frame, 12)?);
        for _ in 0..MAX_VLAN_TAGS {
            if !is_vlan(ethertype) {
                break;
            }
            ethertype = *array(frame, l3 + 2)?;
            l3 += 4;
        }
        let content = match ethertype {
            [0x08, 0x06] => Content::Arp(Arp::parse(frame.get(l3..)?)?),
            [0x08, 0x00] => Content::Ip(Ip::parse_v4(frame, l3)?),
            [0x86, 0xdd] => Content::Ip(Ip::parse_v6(frame, l3)?),
            tag if is_vlan(tag) => return None,
            _ => Content::Other,
        };
        Some(Self { destination, source, l3, content })
    }
}

const fn is_vlan(ethertype: [u8; 2]) -> bool {
    matches!(ethertype, [0x81, 0x00] | [0x88, 0xa8] | [0x91, 0x00])
}

impl Arp {
    fn parse(arp: &[u8]) -> Option<Self> {
        // Ethernet, IPv4, and the lengths of their addresses.
        let (head, rest) = arp.split_first_chunk::<6>()?;
        if *head != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let request = match array::<2>(rest, 0)? {
            [0, 1] => true,
            [0, 2] => false,
            _ => return None,
        };
        Some(Self { request, sender_mac: Mac(*array(arp, 8)?), sender: v4(arp, 14)?, target: v4(arp, 24)? })
    }
}

impl<'a> Ip<'a> {
    fn parse_v4(frame: &'a [u8], l3: usize) -> Option<Self> {
        let ip: &[u8; 20] = array(frame, l3)?;
        let header_len = usize::from(ip[0] & 0xf) * 4;
        if ip[0] >> 4 != 4 || header_len < 20 || frame.len() < l3 + header_len {
            return None;
        }
        let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
        let end = frame.len().min(l3 + total_len.max(header_len));
        let payload = if fragment & 0x1fff == 0 { frame.get(l3 + header_len..end)? } else { &[] };
        Some(Self {
            source: v4(ip, 12)?.into(),
            destination: v4(ip, 16)?.into(),
            hop_limit: ip[8],
            protocol: ip[9],
            fragment: fragment != 0,
            l4: l3 + header_len,
            payload,
        })
    }

    fn parse_v6(frame: &'a [u8], l3: usize) -> Option<Self> {
        let ip: &[u8; 40] = array(frame, l3)?;
        if ip[0] >> 4 != 6 {
            return None;
        }
        let end = frame.len().min(l3 + 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])));
        let packet = frame.get(..end)?;
        let (mut protocol, mut l4, mut fragment, mut first) = (ip[6], l3 + 40, false, true);
        let mut n_headers = 0;
        while first {
            // Hop-by-hop options, routing, fragment, destination options.
            let len = match protocol {
                0 | 43 | 60 => (usize::from(*packet.get(l4 + 1)?) + 1) * 8,
                44 => {
                    let offset = u16::from_be_bytes(*array(packet, l4 + 2)?) & 0xfff8;
                    fragment = true;
                    first = offset == 0;
                    8
                }
                _ => break,
            };
            protocol = *packet.get(l4)?;
            l4 += len;
            n_headers += 1;
            if n_headers > MAX_EXTENSION_HEADERS || l4 > packet.len() {
                return None;
            }
        }
        Some(Self {
            source: v6(ip, 8)?.into(),
            destination: v6(ip, 24)?.into(),
            hop_limit: ip[7],
            protocol,
            fragment,
            l4,
            payload: if first { packet.get(l4..)? } else { &[] },
        })
    }

    /// Whether it is of IGMP or MLD, and if so, whether a report or leave. Those go to this host's node, never to a peer.
    pub(crate) fn group_message(&self) -> Option<GroupMessage> {
        let is_report = match (self.source.is_ipv6(), self.protocol, self.payload.first()) {
            (false, IGMP, kind) => matches!(kind, Some(0x12 | 0x16 | 0x17 | 0x22)),
            (true, ICMPV6, Some(kind @ (130..=132 | 143))) => *kind != 130,
            _ => return None,
        };
        Some(if is_report { GroupMessage::Report } else { GroupMessage::Other })
    }

    /// The message of neighbour discovery that it is; `Err` for one that its receivers must not heed.
    pub(crate) fn neighbor_message(&self) -> Result<Option<NeighborMessage<'a>>, Malformed> {
        let (Some(&kind), true) = (self.payload.first(), self.protocol == ICMPV6 && self.source.is_ipv6())
        else {
            return Ok(None);
        };
        if !(133..=137).contains(&kind) {
            return Ok(None);
        }
        // RFC 4861, sections 6.1 and 7.1; RFC 6980 for fragments.
        if self.hop_limit != 255 || self.fragment {
            return Err(Malformed);
        }
        let target = || v6(self.payload, 8).filter(|t| !t.is_multicast()).ok_or(Malformed);
        let (kind, options_at) = match kind {
            133 => (NeighborKind::RouterSolicitation, 8),
            135 => (NeighborKind::Solicitation(target()?), 24),
            136 => (NeighborKind::Advertisement(target()?), 24),
            _ => (NeighborKind::OfRouters, self.payload.len()),
        };
        let options = self.payload.get(options_at..).ok_or(Malformed)?;
        let message = NeighborMessage { kind, options };
        message.links().try_for_each(|link| link.map(drop))?;
        Ok(Some(message))
    }
}

/// Bytes that contradict what they say they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'a> NeighborMessage<'a> {
    /// Every link-layer address among the options, the sender's and the target's.
    pub(crate) fn links(&self) -> impl Iterator<Item = Result<Mac, Malformed>> + use<'a> {
        let mut rest = self.options;
        std::iter::from_fn(move || {
            while let [kind, len, ..] = *rest {
                let Some((option, later)) = rest.split_at_checked(usize::from(len) * 8).filter(|_| len > 0)
                else {
                    rest = &[];
                    return Some(Err(Malformed));
                };
                rest = later;
                if matches!(kind, 1 | 2) {
                    return Some(array(option, 2).filter(|_| len == 1).map(|m| Mac(*m)).ok_or(Malformed));
                }
            }
            None
        })
    }
}
