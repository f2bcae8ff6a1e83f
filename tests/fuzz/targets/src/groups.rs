//! What containers report of multicast groups.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use weft_dataplane::Groups;
use weft_wire::{Mac, NetworkId};

use crate::bytes::Bytes;

const NETWORK: NetworkId = NetworkId::from_u48(3);
const MAX_STEPS: usize = 64;
const MAX_GROUPS_PER_MEMBER: usize = 256;
const N_MACS: u8 = 3;

#[derive(Debug, Arbitrary)]
enum Step {
    /// A message with a right checksum.
    Message {
        mac: u8,
        v6: bool,
        message: Bytes,
    },
    /// A report of one group, in the versions that there are.
    Report {
        mac: u8,
        v6: bool,
        kind: u8,
        group: u8,
    },
    Raw {
        mac: u8,
        frame: Bytes,
    },
    Remove {
        mac: u8,
    },
    Wait {
        ms: u32,
    },
}

fn folded(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn frame(v6: bool, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(checksum) = message.get_mut(2..4) {
        checksum.fill(0);
    }
    let from = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1];
    let to = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
    let len = (message.len() as u16).to_be_bytes();
    let sum = if v6 { folded(&[&from, &to, &len, &[0, 58], &message]) } else { folded(&[&message]) };
    if let Some(checksum) = message.get_mut(2..4) {
        checksum.copy_from_slice(&(!sum).to_be_bytes());
    }
    let macs = [0x33, 0x33, 0, 0, 0, 0x16, 2, 0, 0, 0, 0, 1];
    if v6 {
        let total = (message.len() as u16 + 8).to_be_bytes();
        let head =
            [&[0x86, 0xdd, 0x60, 0, 0, 0][..], &total, &[0, 1], &from, &to, &[58, 0, 5, 2, 0, 0, 1, 0]];
        [&macs[..], &head.concat(), &message].concat()
    } else {
        let total = (message.len() as u16 + 24).to_be_bytes();
        let head = [
            &[8, 0, 0x46, 0xc0][..],
            &total,
            &[0, 0, 0, 0, 1, 2, 0, 0, 10, 0, 0, 1, 224, 0, 0, 22, 0x94, 4, 0, 0],
        ];
        [&macs[..], &head.concat(), &message].concat()
    }
}

fn report(v6: bool, kind: u8, group: u8) -> Vec<u8> {
    let address: Vec<u8> = if v6 {
        [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, group].into()
    } else {
        [239, 1, 1, group].into()
    };
    let single = |v4_type, v6_type| {
        let head: &[u8] = if v6 { &[v6_type, 0, 0, 0, 0, 0, 0, 0] } else { &[v4_type, 0, 0, 0] };
        [head, &address].concat()
    };
    let record =
        |what| [&[if v6 { 143 } else { 0x22 }, 0, 0, 0, 0, 0, 0, 1, what, 0, 0, 0][..], &address].concat();
    match kind % 4 {
        0 => single(0x16, 131),
        1 => single(0x17, 132),
        2 => record(4),
        _ => record(3),
    }
}

fn subscriptions(groups: &Groups) -> BTreeSet<IpAddr> {
    let list: Vec<IpAddr> = groups.subscriptions(NETWORK).collect();
    assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
    assert!(list.len() <= MAX_GROUPS_PER_MEMBER * usize::from(N_MACS), "{} groups", list.len());
    for ip in &list {
        // The two prefixes that are promised to reach every member; others of link-local scope are subscribed to.
        let is_link_local = match ip {
            IpAddr::V4(ip) => ip.octets().starts_with(&[224, 0, 0]),
            IpAddr::V6(ip) => ip.octets().starts_with(&[0xff, 2]),
        };
        assert!(ip.is_multicast() && !is_link_local, "{ip}");
    }
    list.into_iter().collect()
}

/// IGMP and MLD.
pub fn groups(bytes: &[u8]) {
    let Ok(steps) = Vec::<Step>::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut now = Instant::now();
    let mut groups = Groups::default();
    groups.add_network(NETWORK, now);
    let mac = |i: u8| Mac([2, 0, 0, 0, 0, i % N_MACS]);
    for step in steps.into_iter().take(MAX_STEPS) {
        let before = subscriptions(&groups);
        let changed = match step {
            Step::Message { mac: i, v6, message } => {
                groups.handle_report(NETWORK, mac(i), &frame(v6, &message), now)
            }
            Step::Report { mac: i, v6, kind, group } => {
                let result = groups.handle_report(NETWORK, mac(i), &frame(v6, &report(v6, kind, group)), now);
                assert!(result.is_ok(), "a sound report was refused: {result:?}");
                result
            }
            Step::Raw { mac: i, frame } => groups.handle_report(NETWORK, mac(i), &frame, now),
            Step::Remove { mac: i } => Ok(groups.remove_member(NETWORK, mac(i))),
            Step::Wait { ms } => {
                now += Duration::from_millis((ms % 300_000).into());
                Ok(groups.handle_timeout(now))
            }
        };
        // A report may end in a fault: what stood before it counts.
        if let Ok(changed) = changed {
            // A report that drops one group and takes another up, or one twice, may say so though nothing differs.
            assert!(changed || subscriptions(&groups) == before, "a change was not told");
        }
        let mut n_queries = 0;
        while let Some(query) = groups.poll_query() {
            n_queries += 1;
            assert!(query.network == NETWORK && query.frame.len() < 100);
        }
        assert!(n_queries <= 2 + MAX_GROUPS_PER_MEMBER * usize::from(N_MACS), "{n_queries} queries");
    }
    now += Duration::from_secs(261);
    // Queries that were missed at start are made up for, one a call.
    for _ in 0..4 {
        groups.handle_timeout(now);
    }
    assert!(subscriptions(&groups).is_empty(), "a membership that nobody reported again");
    assert!(groups.next_timeout().is_some_and(|(at, _)| at > now), "a timer stays due");
}
