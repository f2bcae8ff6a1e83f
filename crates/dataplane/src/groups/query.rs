//! Writing IGMPv3 and MLDv2 queries.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use weft_wire::Mac;

use crate::checksum::{fold, put_u16, sum};
use crate::content::{ICMPV6, IGMP};
use crate::neighbor::icmpv6_checksum;

/// From whom queries seem to come: a locally administered address that no container has.
const QUERIER: Mac = Mac([0x02, 0x77, 0x65, 0x66, 0x74, 0x00]);
/// Robustness 2, query interval 125 s.
const QRV_QQIC: [u8; 2] = [2, 125];
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The Ethernet frame of a query after `group`, or with `0.0.0.0` or `::` after all groups of that family, to be answered
/// within `response` (at most 12.7 s; in tenths of a second for IGMP, milliseconds for MLD).
///
/// From 0.0.0.0 or `fe80::`, so that every real querier takes precedence; with the router alert option.
#[must_use]
pub fn query_frame(group: IpAddr, response: Duration) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + 40 + 8 + 28);
    match group {
        IpAddr::V4(group) => {
            let to = if group.is_unspecified() { [224, 0, 0, 1] } else { group.octets() };
            let tenths = (response.as_millis() / 100).clamp(1, 127) as u8;
            frame.extend([1, 0, 0x5e, to[1] & 0x7f, to[2], to[3]]);
            frame.extend(QUERIER.0);
            frame.extend([8, 0]);
            let ip = frame.len();
            // Class selector 6, to be sent on by no one.
            frame.extend([0x46, 0xc0, 0, 36, 0, 0, 0, 0, 1, IGMP, 0, 0, 0, 0, 0, 0]);
            frame.extend(to);
            frame.extend([0x94, 4, 0, 0]);
            let igmp = frame.len();
            frame.extend([0x11, tenths, 0, 0]);
            frame.extend(group.octets());
            frame.extend(QRV_QQIC);
            frame.extend([0, 0]);
            let checksum = !fold(sum(frame.get(ip..igmp).unwrap_or_default()));
            put_u16(&mut frame, ip + 10, checksum);
            let checksum = !fold(sum(frame.get(igmp..).unwrap_or_default()));
            put_u16(&mut frame, igmp + 2, checksum);
        }
        IpAddr::V6(group) => {
            let to = if group.is_unspecified() { ALL_NODES } else { group };
            let millis = response.as_millis().clamp(1, 12_700) as u16;
            let [.., a, b, c, d] = to.octets();
            frame.extend([0x33, 0x33, a, b, c, d]);
            frame.extend(QUERIER.0);
            frame.extend([0x86, 0xdd]);
            frame.extend([0x60, 0, 0, 0, 0, 36, 0, 1]);
            frame.extend(LINK_LOCAL.octets());
            frame.extend(to.octets());
            // Hop-by-hop options: router alert for MLD, padding.
            frame.extend([ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
            let mld = frame.len();
            frame.extend([130, 0, 0, 0]);
            frame.extend(millis.to_be_bytes());
            frame.extend([0, 0]);
            frame.extend(group.octets());
            frame.extend(QRV_QQIC);
            frame.extend([0, 0]);
            let checksum = icmpv6_checksum(LINK_LOCAL, to, frame.get(mld..).unwrap_or_default());
            put_u16(&mut frame, mld + 2, checksum);
        }
    }
    frame
}
