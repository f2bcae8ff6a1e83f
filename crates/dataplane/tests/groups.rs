//! Multicast: memberships against a plain model, the messages byte by byte, and where group frames go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft_dataplane::{
    DropReason, Groups, LastSender, Neighbor, NetworkView, Owner, ReportError, Snapshot, Verdict, query_frame,
};
use weft_wire::{Mac, NetworkId};

const NETWORK: NetworkId = NetworkId::from_u48(3);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const SECOND: Duration = Duration::from_secs(1);

fn group(i: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, i.into()).into()
    } else {
        Ipv4Addr::new(239, 1, 1, i).into()
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn folded(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);

/// The Ethernet frame of a message with its checksum put right.
fn frame(v6: bool, mut message: Vec<u8>) -> Vec<u8> {
    let (mut out, ip) = if v6 {
        let (from, to) = (LINK_LOCAL.octets(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16).octets());
        let len = (message.len() as u16).to_be_bytes();
        let sum = !folded(&[&from, &to, &len, &[0, 58], &message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let total = (message.len() as u16 + 8).to_be_bytes();
        let head = [&[0x60, 0, 0, 0][..], &total, &[0, 1], &from, &to, &[58, 0, 5, 2, 0, 0, 1, 0]].concat();
        (vec![0x33, 0x33, 0, 0, 0, 0x16], [&[0x86, 0xdd][..], &head].concat())
    } else {
        let sum = !folded(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let total = (message.len() as u16 + 24).to_be_bytes();
        let head = [
            &[0x46, 0xc0][..],
            &total,
            &[0, 0, 0, 0, 1, 2, 0, 0],
            &[10, 0, 0, 1],
            &[224, 0, 0, 22],
            &[0x94, 4, 0, 0],
        ];
        (vec![1, 0, 0x5e, 0, 0, 22], [&[8, 0][..], &head.concat()].concat())
    };
    out.extend(MAC.0);
    out.extend(ip);
    out.extend(message);
    out
}

/// An IGMPv3 or MLDv2 report of (record type, sources, group).
fn report(v6: bool, records: &[(u8, u16, IpAddr)]) -> Vec<u8> {
    let mut message = vec![if v6 { 143 } else { 0x22 }, 0, 0, 0, 0, 0];
    message.extend((records.len() as u16).to_be_bytes());
    for (kind, n_sources, group) in records {
        message.extend([*kind, 1]);
        message.extend(n_sources.to_be_bytes());
        message.extend(octets(*group));
        message.extend(vec![9; usize::from(*n_sources) * octets(*group).len() + 4]);
    }
    frame(v6, message)
}

/// An IGMPv2 or MLDv1 report or leave.
fn old(v6: bool, leave: bool, group: IpAddr) -> Vec<u8> {
    let kind = match (v6, leave) {
        (false, false) => 0x16,
        (false, true) => 0x17,
        (true, false) => 131,
        (true, true) => 132,
    };
    let head = if v6 { vec![kind, 0, 0, 0, 0, 0, 0, 0] } else { vec![kind, 0, 0, 0] };
    frame(v6, [head, octets(group)].concat())
}

fn groups(now: Instant) -> Groups {
    let mut groups = Groups::default();
    groups.add_network(NETWORK, now);
    groups
}

fn subscriptions(groups: &Groups) -> Vec<IpAddr> {
    groups.subscriptions(NETWORK).collect()
}

#[test]
fn old_and_new_reports_join_and_leave() {
    for v6 in [false, true] {
        let now = Instant::now();
        let mut groups = groups(now);
        let g = group(1, v6);
        let mut handle =
            |mac, bytes: &[u8], now| groups.handle_report(NETWORK, mac, bytes, now).expect("a report");
        assert!(handle(MAC, &old(v6, false, g), now));
        assert!(!handle(MAC, &old(v6, false, g), now), "it was in already");
        assert!(!handle(PEER_MAC, &report(v6, &[(4, 0, g)]), now), "the host was in already");
        assert!(!handle(PEER_MAC, &report(v6, &[(3, 0, g)]), now), "the other stays");
        assert!(handle(MAC, &report(v6, &[(3, 0, g)]), now));
        for (kind, n_sources, joins) in [
            (1, 0, false),
            (1, 1, true),
            (2, 0, true),
            (2, 2, true),
            (3, 1, true),
            (5, 1, true),
            (6, 1, false),
            (9, 1, false),
        ] {
            assert_eq!(handle(MAC, &report(v6, &[(kind, n_sources, g)]), now), joins, "{kind} {n_sources}");
            assert_eq!(handle(MAC, &report(v6, &[(3, 0, g)]), now), joins);
        }
    }
}

#[test]
fn after_an_old_leave_the_others_are_asked() {
    for v6 in [false, true] {
        let now = Instant::now();
        let mut groups = groups(now);
        let g = group(1, v6);
        groups.handle_timeout(now);
        while groups.poll_query().is_some() {}
        groups.handle_report(NETWORK, MAC, &old(v6, false, g), now).expect("a report");
        assert_eq!(groups.handle_report(NETWORK, MAC, &old(v6, true, g), now), Ok(false));
        let query = groups.poll_query().expect("a query");
        assert_eq!((query.network, query.frame), (NETWORK, query_frame(g, SECOND)));
        assert_eq!(groups.poll_query(), None);
        // Who had kept silent answers, or nobody does.
        let mut silent = groups;
        assert!(!silent.handle_timeout(now + SECOND));
        assert_eq!(subscriptions(&silent), [g]);
        assert!(silent.handle_timeout(now + 2 * SECOND));
        assert!(subscriptions(&silent).is_empty());
    }
}

#[test]
fn memberships_run_out_and_queries_come_in_time() {
    let start = Instant::now();
    let mut groups = groups(start);
    groups.handle_report(NETWORK, MAC, &report(false, &[(4, 0, group(1, false))]), start).expect("a report");
    let (mut asked, mut ended) = (Vec::new(), None);
    while let Some((at, _)) = groups.next_timeout().filter(|(at, _)| *at <= start + 400 * SECOND) {
        if groups.handle_timeout(at) {
            ended = Some((at - start).as_secs());
        }
        let mut n = 0;
        while let Some(query) = groups.poll_query() {
            let any: IpAddr = if n == 0 { [0; 4].into() } else { [0; 16].into() };
            let response = if asked.len() < 2 { 1 } else { 10 };
            assert_eq!(query.frame, query_frame(any, response * SECOND));
            n += 1;
        }
        if n > 0 {
            assert_eq!(n, 2);
            asked.push((at - start).as_secs());
        }
    }
    assert_eq!(asked, [0, 2, 10, 135, 260, 385]);
    assert_eq!(ended, Some(260));
}

#[test]
fn what_no_host_may_want_is_not_kept() {
    let now = Instant::now();
    let mut groups = groups(now);
    for ip in ["224.0.0.251", "10.0.0.1", "0.0.0.0"] {
        let ip = ip.parse().expect("an address");
        assert_eq!(groups.handle_report(NETWORK, MAC, &report(false, &[(4, 0, ip)]), now), Ok(false), "{ip}");
    }
    for ip in ["ff02::fb", "ff01::5", "fd00::1"] {
        let ip = ip.parse().expect("an address");
        assert_eq!(groups.handle_report(NETWORK, MAC, &report(true, &[(4, 0, ip)]), now), Ok(false), "{ip}");
    }
    assert!(subscriptions(&groups).is_empty());
    let mut bad = report(false, &[(4, 0, group(1, false))]);
    *bad.last_mut().expect("a byte") ^= 1;
    assert_eq!(groups.handle_report(NETWORK, MAC, &bad, now), Err(ReportError::Malformed));
    let query = query_frame([0; 4].into(), SECOND);
    assert_eq!(groups.handle_report(NETWORK, MAC, &query, now), Err(ReportError::Malformed));
    let other = NetworkId::from_u48(9);
    assert_eq!(groups.handle_report(other, MAC, &bad, now), Err(ReportError::UnknownNetwork));
}

#[test]
fn one_container_cannot_fill_the_memory() {
    let now = Instant::now();
    let mut groups = groups(now);
    let many = |n: u16| -> Vec<_> {
        (0..n).map(|i| (4, 0, IpAddr::from([239, 9, (i >> 8) as u8, i as u8]))).collect()
    };
    assert_eq!(groups.handle_report(NETWORK, MAC, &report(false, &many(100)), now), Ok(true));
    assert_eq!(groups.handle_report(NETWORK, MAC, &report(false, &many(300)), now), Ok(true));
    assert_eq!(subscriptions(&groups).len(), 256);
    let more = report(false, &[(4, 0, [239, 10, 0, 0].into())]);
    assert_eq!(groups.handle_report(NETWORK, MAC, &more, now), Err(ReportError::TooManyGroups));
    assert_eq!(
        groups.handle_report(NETWORK, PEER_MAC, &more, now),
        Ok(true),
        "another container's room is its own"
    );
    assert!(groups.remove_member(NETWORK, MAC));
    assert_eq!(subscriptions(&groups).len(), 1);
    groups.remove_network(NETWORK);
    assert_eq!((subscriptions(&groups).len(), groups.next_timeout()), (0, None));
}

#[test]
fn queries_are_what_the_standards_say() {
    let igmp = query_frame([0; 4].into(), 10 * SECOND);
    let head = [
        &[1, 0, 0x5e, 0, 0, 1][..],
        &igmp[6..12],
        &[8, 0, 0x46, 0xc0, 0, 36, 0, 0, 0, 0, 1, 2],
        &igmp[24..26],
    ];
    let rest =
        [0, 0, 0, 0, 224, 0, 0, 1, 0x94, 4, 0, 0, 0x11, 100, igmp[40], igmp[41], 0, 0, 0, 0, 2, 125, 0, 0];
    assert_eq!(igmp, [&head.concat()[..], &rest].concat());
    assert_eq!((folded(&[&igmp[14..38]]), folded(&[&igmp[38..]])), (0xffff, 0xffff));
    assert_eq!(query_frame([239, 129, 2, 3].into(), SECOND)[..6], [1, 0, 0x5e, 1, 2, 3]);

    let mld = query_frame([0; 16].into(), 10 * SECOND);
    assert_eq!(mld[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(mld[12..22], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 36, 0, 1]);
    assert_eq!(mld[54..62], [58, 0, 5, 2, 0, 0, 1, 0]);
    assert_eq!(mld[62..64], [130, 0]);
    assert_eq!(mld[66..], [&10_000u16.to_be_bytes()[..], &[0; 18], &[2, 125, 0, 0]].concat());
    assert_eq!(folded(&[&mld[22..54], &[0, 28, 0, 58], &mld[62..]]), 0xffff);
}

fn view() -> NetworkView {
    let neighbor = |mac, owner| Neighbor { mac, owner };
    NetworkView {
        fdb: [(PEER_MAC, 0)].into_iter().collect(),
        members: vec![0, 1],
        local: [MAC].into_iter().collect(),
        hosts: [
            ([10, 0, 0, 1].into(), neighbor(MAC, Owner::Local)),
            ([10, 0, 0, 2].into(), neighbor(PEER_MAC, Owner::Peer(0))),
        ]
        .into_iter()
        .collect(),
        subscribers: [(group(1, false), vec![1]), (group(1, true), vec![0])].into_iter().collect(),
        ..NetworkView::default()
    }
}

fn to_group(group: IpAddr) -> Vec<u8> {
    let mut frame = match group {
        IpAddr::V4(to) => {
            let [_, b, c, d] = to.octets();
            let ip =
                [&[0x45, 0, 0, 28, 0, 0, 0, 0, 1, 17, 0, 0, 10, 0, 0, 1][..], &to.octets(), &[0; 8]].concat();
            [&[1, 0, 0x5e, b & 0x7f, c, d][..], &MAC.0, &[8, 0], &ip].concat()
        }
        IpAddr::V6(to) => {
            let ip =
                [&[0x60, 0, 0, 0, 0, 8, 17, 1][..], &LINK_LOCAL.octets(), &to.octets(), &[0; 8]].concat();
            [&[0x33, 0x33, 0, 0, 0, 0][..], &MAC.0, &[0x86, 0xdd], &ip].concat()
        }
    };
    frame.extend([0; 8]);
    frame
}

#[test]
fn group_frames_go_to_subscribers_and_link_local_ones_to_all() {
    let out = |view: &NetworkView, frame: &[u8]| view.outgoing(NETWORK, frame, &mut LastSender::default());
    let (on, off) = (view(), NetworkView { multicast: false, ..view() });
    let off_drop = Verdict::Drop(DropReason::MulticastOff);
    let announcement = {
        let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &LINK_LOCAL.octets(), &[2, 1], &MAC.0].concat();
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
        let ip = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &LINK_LOCAL.octets(), &to, &message].concat();
        [&[0x33, 0x33, 0, 0, 0, 1][..], &MAC.0, &[0x86, 0xdd], &ip].concat()
    };
    let unknown_protocol = [&[1, 0x80, 0xc2, 0, 0, 0x21][..], &MAC.0, &[0x88, 0xb5], &[0; 46]].concat();
    let broadcast = [&[0xff; 6][..], &to_group(group(9, false))[6..]].concat();
    let cases = [
        (to_group(group(1, false)), Verdict::Multicast(group(1, false)), off_drop),
        (to_group(group(1, true)), Verdict::Multicast(group(1, true)), off_drop),
        (to_group(group(2, false)), Verdict::Drop(DropReason::NoSubscriber), off_drop),
        (to_group([224, 0, 0, 251].into()), Verdict::Flood, off_drop),
        (to_group("ff02::fb".parse().expect("an address")), Verdict::Flood, off_drop),
        (announcement, Verdict::Flood, Verdict::Flood),
        (unknown_protocol, Verdict::Flood, off_drop),
        (broadcast, Verdict::Flood, Verdict::Flood),
        (report(false, &[(4, 0, group(1, false))]), Verdict::Report, Verdict::Ignore),
        (old(true, true, group(1, true)), Verdict::Report, Verdict::Ignore),
    ];
    for (frame, with, without) in cases {
        assert_eq!((out(&on, &frame), out(&off, &frame)), (with, without), "{frame:02x?}");
    }
}

#[test]
fn no_peer_speaks_of_groups_to_this_hosts_containers() {
    let snapshot = Snapshot { networks: [(NETWORK, view())].into_iter().collect(), ..Snapshot::default() };
    for mut frame in [query_frame([0; 4].into(), SECOND), old(false, false, group(1, false))] {
        frame[6..12].copy_from_slice(&PEER_MAC.0);
        // From its own address and from none.
        for source in [[10, 0, 0, 2], [0; 4]] {
            frame[26..30].copy_from_slice(&source);
            let admitted = snapshot.incoming(0, NETWORK, &frame, &mut LastSender::default());
            assert_eq!(admitted, Err(DropReason::BadInner));
        }
    }
}

proptest! {
    /// Joins, leaves and time, against a model that keeps until when each container is in each group.
    #[test]
    fn subscriptions_are_what_was_reported(
        steps in prop::collection::vec((0u8..4, 0u8..3, 0u8..4, any::<bool>(), 0u32..130), 1..60),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut groups = groups(now);
        let mut model: BTreeMap<(IpAddr, Mac), Instant> = BTreeMap::new();
        let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
        for (step, mac, g, v6, secs) in steps {
            let (mac, g) = (Mac([2, 0, 0, 0, 0, mac]), group(g, v6));
            let changed = match step {
                0 => {
                    model.insert((g, mac), now + 260 * SECOND);
                    groups.handle_report(NETWORK, mac, &report(v6, &[(4, 0, g)]), now)
                }
                1 => {
                    model.remove(&(g, mac));
                    groups.handle_report(NETWORK, mac, &report(v6, &[(3, 0, g)]), now)
                }
                2 => {
                    model.entry((g, mac)).and_modify(|until| *until = (*until).min(now + 2 * SECOND));
                    groups.handle_report(NETWORK, mac, &old(v6, true, g), now)
                }
                _ => {
                    now += secs * SECOND;
                    model.retain(|_, until| *until > now);
                    Ok(groups.handle_timeout(now))
                }
            };
            let wanted: BTreeSet<IpAddr> = model.keys().map(|(g, _)| *g).collect();
            prop_assert_eq!(subscriptions(&groups), wanted.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(changed, Ok(wanted != seen));
            seen = wanted;
        }
    }

    #[test]
    fn any_report_is_read_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120), v6: bool, n in 0usize..4, cut in 0usize..60,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut groups = groups(Instant::now());
        let _ = groups.handle_report(NETWORK, MAC, &bytes, Instant::now());
        // With a right checksum, so that what is behind it is read.
        bytes.splice(..0, [if v6 { 143 } else { 0x22 }, 0, 0, 0, 0, 0, 0, n as u8]);
        let mut whole = frame(v6, bytes);
        let _ = groups.handle_report(NETWORK, MAC, &whole, Instant::now());
        for (at, value) in flips {
            let at = at.index(whole.len());
            whole[at] ^= value;
        }
        whole.truncate(whole.len().saturating_sub(cut));
        let _ = groups.handle_report(NETWORK, MAC, &whole, Instant::now());
        prop_assert!(subscriptions(&groups).iter().all(IpAddr::is_multicast));
    }
}
