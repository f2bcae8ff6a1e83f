//! Reading IGMP (RFC 2236, RFC 3376) and MLD (RFC 2710, RFC 3810) reports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::{fold, sum};
use crate::content::{ICMPV6, IGMP, Ip};

/// A report was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Not a report or leave, or one that is cut off or has a wrong checksum.
    #[error("not a sound IGMP or MLD report")]
    Malformed,
    /// The network was not [added](super::Groups::add_network).
    #[error("the network's groups are not kept")]
    UnknownNetwork,
    /// The container is in as many groups as it may be.
    #[error("the container is in too many groups")]
    TooManyGroups,
}

/// What a report says of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Join,
    /// Nobody else can have relied on the sender's report.
    Leave,
    /// Others may have kept silent because they heard the sender.
    LeaveUnlessOthers,
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| Ipv4Addr::from(*b).into())
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    bytes.get(at..)?.first_chunk::<16>().map(|b| Ipv6Addr::from(*b).into())
}

/// Says what `ip` reports of every group that it names.
pub(super) fn read(ip: &Ip<'_>, say: &mut impl FnMut(IpAddr, Change)) -> Result<(), ReportError> {
    read_sound(ip, say).ok_or(ReportError::Malformed)
}

fn read_sound(ip: &Ip<'_>, say: &mut impl FnMut(IpAddr, Change)) -> Option<()> {
    let message = ip.payload;
    let pseudo = match (ip.source, ip.destination, ip.protocol) {
        (IpAddr::V4(_), _, IGMP) => 0,
        (IpAddr::V6(from), IpAddr::V6(to), ICMPV6) => {
            sum(&from.octets()) + sum(&to.octets()) + message.len() as u64 + u64::from(ICMPV6)
        }
        _ => return None,
    };
    if ip.fragment || message.len() < 8 || fold(pseudo + sum(message)) != 0xffff {
        return None;
    }
    match (ip.source.is_ipv6(), *message.first()?) {
        (false, 0x12 | 0x16) => say(v4(message, 4)?, Change::Join),
        (false, 0x17) => say(v4(message, 4)?, Change::LeaveUnlessOthers),
        (false, 0x22) => records(message, 4, v4, say)?,
        (true, 131) => say(v6(message, 8)?, Change::Join),
        (true, 132) => say(v6(message, 8)?, Change::LeaveUnlessOthers),
        (true, 143) => records(message, 16, v6, say)?,
        _ => return None,
    }
    Some(())
}

/// The records of an IGMPv3 or MLDv2 report, which differ by the length of an address.
fn records(
    message: &[u8],
    address_len: usize,
    group_at: impl Fn(&[u8], usize) -> Option<IpAddr>,
    say: &mut impl FnMut(IpAddr, Change),
) -> Option<()> {
    let [_, _, _, _, _, _, n0, n1, records @ ..] = message else { return None };
    let mut rest = records;
    for _ in 0..u16::from_be_bytes([*n0, *n1]) {
        let [kind, aux_words, s0, s1, ..] = *rest else { return None };
        let n_sources = usize::from(u16::from_be_bytes([s0, s1]));
        let group = group_at(rest, 4)?;
        let len = 4 + address_len * (1 + n_sources) + usize::from(aux_words) * 4;
        rest = rest.get(len..)?;
        match (kind, n_sources) {
            // To include no source is to leave; to block some is not.
            (1 | 3, 0) => say(group, Change::Leave),
            (1 | 3 | 5, 1..) | (2 | 4, _) => say(group, Change::Join),
            _ => {}
        }
    }
    Some(())
}
