//! How much of the underlay's MTU is left for a container.

use crate::{HEADER_LEN, INNER_HEADER_LEN, TAG_LEN};

/// Length of an Ethernet header without a VLAN tag.
pub const ETHERNET_HEADER_LEN: usize = 14;
/// Assumed where the underlay's interface does not say.
pub const DEFAULT_UNDERLAY_MTU: u16 = 1500;
/// The least MTU an overlay network may have: IPv6's minimum (RFC 8200, section 5).
pub const MIN_OVERLAY_MTU: u16 = 1280;

/// What every path carries: IPv6's minimum, and what the Internet is built for. A frame that does not fit goes in parts.
pub const MIN_UNDERLAY_MTU: u16 = 1280;

/// Family of the underlay's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// 20 bytes of IP header.
    Ipv4,
    /// 40 bytes of IP header.
    Ipv6,
}

/// Bytes of the underlay's MTU that a frame's IP packet does not get: IP, UDP, outer header, inner header, Ethernet
/// header, tag.
#[must_use]
pub const fn overhead(family: AddressFamily) -> u16 {
    let ip = match family {
        AddressFamily::Ipv4 => 20,
        AddressFamily::Ipv6 => 40,
    };
    ip + 8 + (HEADER_LEN + INNER_HEADER_LEN + ETHERNET_HEADER_LEN + TAG_LEN) as u16
}

/// The container's MTU on an underlay of `underlay_mtu`; `None` when that is less than [`MIN_UNDERLAY_MTU`].
///
/// An underlay of less than 1362 bytes (1382 over IPv6) leaves less than IPv6 demands of a link. Containers then have
/// [`MIN_OVERLAY_MTU`] all the same, and frames that do not fit go in parts.
///
/// ```
/// # use weft_wire::{overlay_mtu, AddressFamily};
/// assert_eq!(overlay_mtu(1500, AddressFamily::Ipv4), Some(1418));
/// assert_eq!(overlay_mtu(1280, AddressFamily::Ipv6), Some(1280));
/// assert_eq!(overlay_mtu(1279, AddressFamily::Ipv4), None);
/// ```
#[must_use]
pub const fn overlay_mtu(underlay_mtu: u16, family: AddressFamily) -> Option<u16> {
    if underlay_mtu < MIN_UNDERLAY_MTU {
        return None;
    }
    let left = underlay_mtu - overhead(family);
    Some(if left < MIN_OVERLAY_MTU { MIN_OVERLAY_MTU } else { left })
}
