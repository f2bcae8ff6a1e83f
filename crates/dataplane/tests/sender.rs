//! Whose addresses a frame may name, against an oracle that knows how the frame was made; and answers to neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use weft_dataplane::{
    DropReason, LastSender, MAX_ANSWER_LEN, Neighbor, NetworkView, Owner, Snapshot, Verdict, VnetHdr,
    write_answer,
};
use weft_wire::{Mac, NetworkId};

const NETWORK: NetworkId = NetworkId::from_u48(7);
/// This host's, another of this host's, a peer's, another peer's, and no one's.
const MACS: [Mac; 5] = [mac(1), mac(2), mac(3), mac(4), mac(5)];
const OWNERS: [Option<Owner>; 5] =
    [Some(Owner::Local), Some(Owner::Local), Some(Owner::Peer(0)), Some(Owner::Peer(1)), None];
const BROADCAST: Mac = Mac::BROADCAST;

const fn mac(i: u8) -> Mac {
    Mac([2, 0x42, 10, 0, 0, i])
}

fn v4(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, i as u8 + 1)
}

fn v6(i: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, i as u16 + 1)
}

fn link_local(i: usize) -> Ipv6Addr {
    let Mac([a, b, c, d, e, f]) = MACS[i];
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The address number 4 is no one's, as its Ethernet address.
fn view() -> NetworkView {
    let mut view = NetworkView { members: vec![0, 1], ..NetworkView::default() };
    for (i, owner) in OWNERS.into_iter().enumerate() {
        let Some(owner) = owner else { continue };
        match owner {
            Owner::Local => drop(view.local.insert(MACS[i])),
            Owner::Peer(peer) => drop(view.fdb.insert(MACS[i], peer)),
        }
        for ip in [IpAddr::V4(v4(i)), IpAddr::V6(v6(i))] {
            view.hosts.insert(ip, Neighbor { mac: MACS[i], owner });
        }
    }
    view
}

fn snapshot(view: NetworkView) -> Snapshot {
    Snapshot { networks: [(NETWORK, view)].into_iter().collect(), ..Snapshot::default() }
}

fn ethernet(to: Mac, from: Mac, n_tags: usize, ethertype: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let tags = [0x81, 0, 0, 5].repeat(n_tags);
    [&to.0[..], &from.0, &tags, &ethertype, rest].concat()
}

fn arp(from: Mac, operation: u8, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let body = [
        &[0, 1, 8, 0, 6, 4, 0, operation][..],
        &sender.0.0,
        &sender.1.octets(),
        &[0; 6],
        &target.octets(),
        &[0; 18],
    ];
    ethernet(BROADCAST, from, 0, [8, 6], &body.concat())
}

fn ipv4(to: Mac, from: Mac, n_tags: usize, source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
    ip.extend(source.octets());
    ip.extend(target.octets());
    ip.extend([1, 2, 3, 4, 0, 8, 0, 0]);
    ethernet(to, from, n_tags, [8, 0], &ip)
}

fn ipv6(to: Mac, from: Mac, source: Ipv6Addr, target: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 255];
    ip.extend(source.octets());
    ip.extend(target.octets());
    ip.extend(payload);
    ethernet(to, from, 0, [0x86, 0xdd], &ip)
}

/// A neighbour solicitation (135) or advertisement (136), maybe behind a destination options header.
fn nd(from: Mac, source: Ipv6Addr, kind: u8, target: Ipv6Addr, link: Option<Mac>, hidden: bool) -> Vec<u8> {
    let mut message = if hidden { vec![58, 0, 1, 4, 0, 0, 0, 0] } else { vec![] };
    message.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(target.octets());
    if let Some(link) = link {
        message.extend([if kind == 135 { 1 } else { 2 }, 1]);
        message.extend(link.0);
    }
    let to = Mac([0x33, 0x33, 0, 0, 0, 1]);
    ipv6(to, from, source, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), if hidden { 60 } else { 58 }, &message)
}

fn out(view: &NetworkView, frame: &[u8]) -> Verdict {
    view.outgoing(NETWORK, frame, &mut LastSender::default())
}

fn passes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Unicast(_) | Verdict::Flood | Verdict::Answer(_))
}

/// How a frame was made: the sender's number, and those of the addresses that it names.
#[derive(Debug, Clone)]
enum Made {
    V4 { from: usize, named: usize, n_tags: usize, to: usize },
    V6 { from: usize, named: usize, to: usize },
    LinkLocal { from: usize, named: usize },
    Arp { from: usize, operation: u8, named: usize, link: usize, target: usize },
    Solicit { from: usize, named: usize, link: Option<usize>, target: usize, hidden: bool },
    Advertise { from: usize, named: usize, link: Option<usize>, target: usize, hidden: bool },
}

impl Made {
    fn frame(&self) -> Vec<u8> {
        let link_mac = |link: Option<usize>| link.map(|l| MACS[l]);
        match *self {
            Self::V4 { from, named, n_tags, to } => ipv4(MACS[to], MACS[from], n_tags, v4(named), v4(to)),
            Self::V6 { from, named, to } => ipv6(MACS[to], MACS[from], v6(named), v6(to), 17, &[0; 8]),
            Self::LinkLocal { from, named } => {
                ipv6(MACS[3], MACS[from], link_local(named), v6(3), 17, &[0; 8])
            }
            Self::Arp { from, operation, named, link, target } => {
                arp(MACS[from], operation, (MACS[link], v4(named)), v4(target))
            }
            Self::Solicit { from, named, link, target, hidden } => {
                nd(MACS[from], v6(named), 135, v6(target), link_mac(link), hidden)
            }
            Self::Advertise { from, named, link, target, hidden } => {
                nd(MACS[from], v6(named), 136, v6(target), link_mac(link), hidden)
            }
        }
    }

    fn from(&self) -> usize {
        match *self {
            Self::V4 { from, .. }
            | Self::V6 { from, .. }
            | Self::LinkLocal { from, .. }
            | Self::Arp { from, .. }
            | Self::Solicit { from, .. }
            | Self::Advertise { from, .. } => from,
        }
    }

    /// Whether it names no one but its sender.
    fn honest(&self) -> bool {
        match *self {
            Self::V4 { from, named, .. } | Self::V6 { from, named, .. } => from == named,
            // The fifth address is no one's.
            Self::LinkLocal { from, named } => from == named || named == 4,
            Self::Arp { from, named, link, .. } => from == named && from == link,
            Self::Solicit { from, named, link, .. } => from == named && link.is_none_or(|l| l == from),
            Self::Advertise { from, named, link, target, .. } => {
                from == named && target == from && link.is_none_or(|l| l == from)
            }
        }
    }

    /// Whether it is a question that this host does not pass on.
    fn asks(&self) -> bool {
        match *self {
            Self::Arp { operation, named, target, .. } => operation == 1 && named != target,
            Self::Solicit { .. } => true,
            _ => false,
        }
    }
}

fn made() -> impl Strategy<Value = Made> {
    let n = 0usize..5;
    let link = || prop::option::of(0usize..5);
    prop_oneof![
        // To either peer's.
        (n.clone(), n.clone(), 0usize..3, 2usize..4).prop_map(|(from, named, n_tags, to)| Made::V4 {
            from,
            named,
            n_tags,
            to
        }),
        (n.clone(), n.clone(), 2usize..4).prop_map(|(from, named, to)| Made::V6 { from, named, to }),
        (n.clone(), n.clone()).prop_map(|(from, named)| Made::LinkLocal { from, named }),
        (n.clone(), 1u8..3, n.clone(), n.clone(), n.clone()).prop_map(
            |(from, operation, named, link, target)| Made::Arp { from, operation, named, link, target }
        ),
        (n.clone(), n.clone(), link(), n.clone(), any::<bool>()).prop_map(
            |(from, named, link, target, hidden)| Made::Solicit { from, named, link, target, hidden }
        ),
        (n.clone(), n.clone(), link(), n, any::<bool>()).prop_map(|(from, named, link, target, hidden)| {
            Made::Advertise { from, named, link, target, hidden }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Frames one after another through one memory of the last sender, as in a batch.
    #[test]
    fn a_frame_passes_exactly_if_it_names_its_sender_alone(frames in prop::collection::vec(made(), 1..12)) {
        let view = view();
        let snapshot = snapshot(self::view());
        let mut last_out = LastSender::default();
        let mut last_in = [LastSender::default(); 2];
        for made in frames {
            let (frame, owner) = (made.frame(), OWNERS[made.from()]);
            let verdict = view.outgoing(NETWORK, &frame, &mut last_out);
            prop_assert_eq!(verdict, out(&view, &frame), "what was remembered changed the verdict");
            let may_leave = owner == Some(Owner::Local) && made.honest();
            if may_leave && made.asks() {
                prop_assert!(!matches!(verdict, Verdict::Unicast(_) | Verdict::Flood), "{made:?}: {verdict:?}");
            } else {
                prop_assert_eq!(passes(verdict), may_leave, "{:?}: {:?}", made, verdict);
            }
            for (peer, last) in last_in.iter_mut().enumerate() {
                let admitted = snapshot.incoming(peer, NETWORK, &frame, last);
                let may_enter = owner == Some(Owner::Peer(peer)) && made.honest();
                prop_assert_eq!(admitted.is_ok(), may_enter, "{:?} of {}: {:?}", made, peer, admitted);
            }
        }
    }

    #[test]
    fn any_bytes_are_judged(
        mut bytes in prop::collection::vec(any::<u8>(), 0..160), made in made(), keep in 0usize..80,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), check in any::<bool>(),
    ) {
        let view = NetworkView { spoof_check: check, ..view() };
        let start = made.frame();
        let keep = keep.min(start.len());
        bytes.splice(..keep.min(bytes.len()), start[..keep].iter().copied());
        for (at, value) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= value;
            }
        }
        let mut answer = [0; MAX_ANSWER_LEN];
        if let Verdict::Answer(owner) = out(&view, &bytes) {
            let len = write_answer(&bytes, owner, &mut answer).expect("what is to be answered can be");
            prop_assert!(len <= MAX_ANSWER_LEN);
        }
        let _ = write_answer(&bytes, MACS[3], &mut answer);
        let _ = snapshot(view).incoming(0, NETWORK, &bytes, &mut LastSender::default());
    }
}

#[test]
fn a_flow_to_another_peer_is_another_flow() {
    let (view, mut last) = (view(), LastSender::default());
    let to = |i: usize| ipv4(MACS[i], MACS[0], 0, v4(0), v4(i));
    for (i, peer) in [(2, 0), (2, 0), (2, 0), (3, 1), (2, 0), (3, 1), (3, 1), (3, 1), (2, 0)] {
        assert_eq!(view.outgoing(NETWORK, &to(i), &mut last), Verdict::Unicast(peer));
    }
    assert_eq!(view.outgoing(NETWORK, &to(4), &mut last), Verdict::Drop(DropReason::UnknownUnicast));
}

#[test]
fn every_fault_has_its_reason() {
    let view = view();
    let snapshot = snapshot(self::view());
    let incoming = |frame: &[u8]| snapshot.incoming(0, NETWORK, frame, &mut LastSender::default());
    use DropReason as R;
    let cases = [
        (0, 2, R::ForeignIp, R::SpoofedIp),
        (1, 2, R::ForeignNeighbor, R::SpoofedNeighbor),
        (2, 2, R::Unsupported, R::BadInner),
    ];
    for (case, peer, here, there) in cases {
        let frame = |from: usize, other: usize| match case {
            0 => ipv4(MACS[3], MACS[from], 0, v4(other), v4(3)),
            1 => arp(MACS[from], 2, (MACS[from], v4(other)), v4(3)),
            _ => arp(MACS[from], 9, (MACS[from], v4(from)), v4(3)),
        };
        assert_eq!(out(&view, &frame(0, 1)), Verdict::Drop(here));
        assert_eq!(incoming(&frame(peer, 3)), Err(there));
    }
    assert_eq!(out(&view, &ipv4(MACS[3], MACS[4], 0, v4(0), v4(3))), Verdict::Drop(R::ForeignSource));
    // Routers' messages, and neighbour discovery that may have passed a router or is a fragment.
    let own = link_local(0);
    let router = ipv6(BROADCAST, MACS[0], own, own, 58, &[134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(out(&view, &router), Verdict::Drop(R::ForeignNeighbor));
    let mut far = nd(MACS[0], v6(0), 136, v6(0), None, false);
    far[14 + 7] = 254;
    assert_eq!(out(&view, &far), Verdict::Drop(R::Unsupported));
    let fragment = [&[58, 0, 0, 1, 0, 0, 0, 9][..], &[136, 0, 0, 0, 0, 0, 0, 0], &v6(0).octets()].concat();
    assert_eq!(
        out(&view, &ipv6(BROADCAST, MACS[0], v6(0), v6(3), 44, &fragment)),
        Verdict::Drop(R::Unsupported)
    );
    let mut endless = nd(MACS[0], v6(0), 136, v6(0), Some(MACS[0]), false);
    endless[14 + 40 + 24 + 1] = 0;
    assert_eq!(out(&view, &endless), Verdict::Drop(R::Unsupported));
}

#[test]
fn who_has_no_address_yet_may_speak_to_groups_only() {
    let view = view();
    let none = Ipv4Addr::UNSPECIFIED;
    assert_eq!(out(&view, &ipv4(BROADCAST, MACS[0], 0, none, Ipv4Addr::BROADCAST)), Verdict::Flood);
    assert_eq!(out(&view, &ipv4(MACS[3], MACS[0], 0, none, v4(3))), Verdict::Drop(DropReason::ForeignIp));
    // Remembering the one must not let the other through.
    let mut last = LastSender::default();
    assert_eq!(view.outgoing(NETWORK, &ipv4(BROADCAST, MACS[0], 0, none, v4(3)), &mut last), Verdict::Flood);
    let next = ipv4(MACS[3], MACS[0], 0, none, v4(3));
    assert_eq!(view.outgoing(NETWORK, &next, &mut last), Verdict::Drop(DropReason::ForeignIp));
    let probe = |target| arp(MACS[0], 1, (MACS[0], none), target);
    assert_eq!(out(&view, &probe(v4(3))), Verdict::Answer(MACS[3]), "the address is taken");
    assert_eq!(out(&view, &probe(v4(0))), Verdict::Ignore);
    assert_eq!(out(&view, &probe(v4(9))), Verdict::Ignore);
    assert_eq!(
        out(&view, &arp(MACS[0], 2, (MACS[0], none), v4(3))),
        Verdict::Drop(DropReason::ForeignNeighbor)
    );
    let dad = |target, link| nd(MACS[0], Ipv6Addr::UNSPECIFIED, 135, target, link, false);
    assert_eq!(out(&view, &dad(v6(3), None)), Verdict::Answer(MACS[3]));
    assert_eq!(out(&view, &dad(link_local(0), None)), Verdict::Ignore);
    assert_eq!(out(&view, &dad(v6(9), None)), Verdict::Ignore);
    assert_eq!(out(&view, &dad(v6(3), Some(MACS[0]))), Verdict::Drop(DropReason::ForeignNeighbor));
}

#[test]
fn questions_are_answered_here_and_announcements_pass() {
    let view = view();
    let ask = |target| out(&view, &arp(MACS[0], 1, (MACS[0], v4(0)), target));
    assert_eq!(ask(v4(2)), Verdict::Answer(MACS[2]));
    assert_eq!(ask(v4(1)), Verdict::Ignore, "the bridge has delivered it");
    assert_eq!(ask(v4(9)), Verdict::UnknownNeighbor(v4(9).into()));
    assert_eq!(ask(v4(0)), Verdict::Flood, "gratuitous");
    let ask = |target| out(&view, &nd(MACS[0], v6(0), 135, target, Some(MACS[0]), false));
    assert_eq!(ask(v6(2)), Verdict::Answer(MACS[2]));
    assert_eq!(ask(link_local(2)), Verdict::Answer(MACS[2]));
    assert_eq!(ask(v6(9)), Verdict::UnknownNeighbor(v6(9).into()));
    assert_eq!(out(&view, &nd(MACS[0], v6(0), 136, v6(0), Some(MACS[0]), false)), Verdict::Flood);
}

#[test]
fn without_the_check_members_use_what_is_no_ones() {
    let open = || NetworkView { spoof_check: false, ..view() };
    let (view, snapshot) = (open(), snapshot(open()));
    let incoming = |peer, frame: &[u8]| snapshot.incoming(peer, NETWORK, frame, &mut LastSender::default());
    // A virtual router's addresses, by one of this host's endpoints and by a peer.
    let frame = ipv4(MACS[3], MACS[4], 0, v4(99), v4(3));
    assert_eq!(out(&view, &frame), Verdict::Unicast(1));
    assert_eq!(incoming(0, &frame), Ok(()));
    assert_eq!(incoming(2, &frame), Err(DropReason::NotMember));
    assert_eq!(out(&view, &arp(MACS[0], 2, (MACS[4], v4(99)), v4(99))), Verdict::Flood);
    assert_eq!(
        out(&view, &arp(MACS[0], 1, (MACS[0], v4(0)), v4(99))),
        Verdict::Flood,
        "its holder has no record"
    );
    // Ethernet addresses of others stay theirs.
    for (peer, from) in [(0, 3), (0, 0), (1, 2)] {
        let frame = ipv4(MACS[3], MACS[from], 0, v4(from), v4(3));
        assert_eq!(incoming(peer, &frame), Err(DropReason::SpoofedMac));
    }
    assert_eq!(
        out(&view, &ipv4(MACS[3], MACS[2], 0, v4(2), v4(3))),
        Verdict::Drop(DropReason::ForeignSource)
    );
}

fn folded(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|p| p.chunks(2)).map(|c| u32::from(c[0]) << 8 | u32::from(c[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn answers_are_what_the_owner_would_say() {
    let answer = |query: &[u8]| {
        let mut out = [0; MAX_ANSWER_LEN];
        let len = write_answer(query, MACS[2], &mut out).expect("a question");
        assert_eq!(out[..VnetHdr::LEN], VnetHdr::PLAIN.to_bytes());
        out[VnetHdr::LEN..len].to_vec()
    };
    let mut query = arp(MACS[0], 1, (MACS[0], v4(0)), v4(2));
    query.splice(12..12, [0x81, 0, 0, 9]);
    let arp_body =
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &MACS[2].0, &v4(2).octets(), &MACS[0].0, &v4(0).octets()].concat();
    let expected = [&MACS[0].0[..], &MACS[2].0, &[0x81, 0, 0, 9, 8, 6], &arp_body].concat();
    assert_eq!(answer(&query), expected);

    for (asker, to, to_mac, flags) in [
        (v6(0), v6(0), MACS[0], 0x60),
        (
            Ipv6Addr::UNSPECIFIED,
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            Mac([0x33, 0x33, 0, 0, 0, 1]),
            0x20,
        ),
    ] {
        let got = answer(&nd(MACS[0], asker, 135, v6(2), None, false));
        let message = &got[54..];
        assert_eq!(folded(&[&v6(2).octets(), &to.octets(), &[0, 32, 0, 58], message]), 0xffff);
        let mut expected = ipv6(
            to_mac,
            MACS[2],
            v6(2),
            to,
            58,
            &[&[136, 0, 0, 0, flags, 0, 0, 0][..], &v6(2).octets(), &[2, 1], &MACS[2].0].concat(),
        );
        expected[56..58].copy_from_slice(&message[2..4]);
        assert_eq!(got, expected);
    }
    let mut out = [0; MAX_ANSWER_LEN];
    for other in [arp(MACS[0], 2, (MACS[0], v4(0)), v4(2)), ipv4(MACS[3], MACS[0], 0, v4(0), v4(3))] {
        assert_eq!(write_answer(&other, MACS[2], &mut out), None);
    }
}
