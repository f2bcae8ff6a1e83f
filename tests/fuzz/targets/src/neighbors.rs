//! Whom frames name as their sender, questions for neighbours and their answers.

use std::net::{IpAddr, Ipv4Addr};

use arbitrary::{Arbitrary, Unstructured};
use weft_dataplane::{
    LastSender, MAX_ANSWER_LEN, Neighbor, NetworkView, Owner, Packet, Snapshot, Verdict, VnetHdr,
    write_answer,
};
use weft_wire::{Mac, NetworkId};

use crate::bytes::Bytes;

const NETWORK: NetworkId = NetworkId::from_u48(7);
const MAX_FRAMES: usize = 32;
/// Two of this host's, one of each of two peers', and no one's.
const MACS: [Mac; 5] = [mac(1), mac(2), mac(3), mac(4), mac(5)];
const OWNERS: [Option<Owner>; 5] =
    [Some(Owner::Local), Some(Owner::Local), Some(Owner::Peer(0)), Some(Owner::Peer(1)), None];

const fn mac(i: u8) -> Mac {
    Mac([2, 0x42, 10, 0, 0, i])
}

fn addresses(i: u8) -> [IpAddr; 2] {
    [[10, 0, 0, i + 1].into(), [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, i + 1].into()]
}

#[derive(Debug, Arbitrary)]
struct Made {
    to: u8,
    from: u8,
    kind: Kind,
}

/// Frames of the kinds that matter: random bytes hardly ever are one.
#[derive(Debug, Arbitrary)]
enum Kind {
    Raw(Bytes),
    Arp { operation: u8, sender: u8, link: u8, target: u8 },
    Ipv4 { source: u8, rest: Bytes },
    Ipv6 { source: u8, to_link_local: bool, next: u8, payload: Bytes },
    Neighbor { source: u8, advertisement: bool, target: u8, link: Option<u8>, rest: Bytes },
}

impl Made {
    fn frame(&self) -> Vec<u8> {
        let link = |i: u8| MACS[usize::from(i) % MACS.len()].0;
        let v4 = |i: u8| if i == 255 { [0; 4] } else { [10, 0, 0, i % 6] };
        let v6 = |i: u8| match i {
            255 => [0; 16],
            128.. => {
                let [a, b, c, d, e, f] = link(i);
                [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]
            }
            _ => [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, i % 6],
        };
        let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let ipv6 = |source, target: [u8; 16], next, payload: &[u8]| {
            let len = (payload.len() as u16).to_be_bytes();
            [&[0x86, 0xdd, 0x60, 0, 0, 0][..], &len, &[next, 255], &v6(source), &target, payload].concat()
        };
        let rest = match &self.kind {
            Kind::Raw(bytes) => bytes.to_vec(),
            Kind::Arp { operation, sender, link: named, target } => [
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation % 4][..],
                &link(*named),
                &v4(*sender),
                &[0; 6],
                &v4(*target),
            ]
            .concat(),
            Kind::Ipv4 { source, rest } => {
                let len = (20 + rest.len() as u16).to_be_bytes();
                let head = [&[8, 0, 0x45, 0][..], &len, &[0, 0, 0x40, 0, 64, 17, 0, 0], &v4(*source)];
                [&head.concat()[..], &[10, 0, 0, 9], rest].concat()
            }
            Kind::Ipv6 { source, to_link_local, next, payload } => {
                ipv6(*source, if *to_link_local { v6(200) } else { v6(1) }, *next, payload)
            }
            Kind::Neighbor { source, advertisement, target, link: named, rest } => {
                let mut message = vec![if *advertisement { 136 } else { 135 }, 0, 0, 0, 0, 0, 0, 0];
                message.extend(v6(*target));
                if let Some(named) = named {
                    message.extend([if *advertisement { 2 } else { 1 }, 1]);
                    message.extend(link(*named));
                }
                message.extend(rest.iter());
                ipv6(*source, all_nodes, 58, &message)
            }
        };
        let to = match self.to {
            0..100 => Mac::BROADCAST.0,
            100..150 => [0x33, 0x33, 0, 0, 0, 1],
            to => link(to),
        };
        [&to[..], &link(self.from), &rest].concat()
    }
}

fn snapshot() -> Snapshot {
    let mut view = NetworkView { members: vec![0, 1], ..NetworkView::default() };
    for ((i, owner), mac) in (0..).zip(OWNERS).zip(MACS) {
        let Some(owner) = owner else { continue };
        match owner {
            Owner::Local => drop(view.local.insert(mac)),
            Owner::Peer(peer) => drop(view.fdb.insert(mac, peer)),
        }
        view.hosts.extend(addresses(i).map(|ip| (ip, Neighbor { mac, owner })));
    }
    Snapshot { networks: [(NETWORK, view)].into_iter().collect(), ..Snapshot::default() }
}

/// That a frame which went through names its sender truly, read the plain way.
fn is_honest(frame: &[u8], owner: Owner) {
    let source = Mac(frame[6..12].try_into().expect("six bytes"));
    let i = MACS.iter().position(|mac| *mac == source).expect("an address of an endpoint");
    assert_eq!(OWNERS[i], Some(owner), "{source} went through");
    let own = addresses(i as u8);
    match frame.get(12..14) {
        Some([8, 6]) => {
            let sender = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[28..32]).expect("four bytes"));
            assert_eq!(frame[22..28], source.0, "ARP names another link");
            assert!(own.contains(&sender.into()) || sender.is_unspecified(), "ARP names {sender}");
        }
        Some([8, 0]) => {
            let sender = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[26..30]).expect("four bytes"));
            let is_nameless = sender.is_unspecified() && frame[0] & 1 == 1;
            assert!(own.contains(&sender.into()) || is_nameless, "IPv4 from {sender}");
        }
        _ => {}
    }
    if let Some(packet) = Packet::parse(frame)
        && !packet.ipv6
    {
        assert_ne!(frame[packet.l3 + 12], 0xe0, "from a group");
    }
}

fn answer(frame: &[u8], mac: Mac) {
    let mut out = [0; MAX_ANSWER_LEN];
    let len = write_answer(frame, mac, &mut out).expect("what is to be answered can be");
    assert_eq!(VnetHdr::parse(&out), Some(VnetHdr::PLAIN));
    let answer = &out[VnetHdr::LEN..len];
    assert_eq!(answer[6..12], mac.0);
    assert!(answer[..6] == frame[6..12] || answer[..6] == [0x33, 0x33, 0, 0, 0, 1]);
    assert!(MACS[2..4].contains(&mac), "answered in the name of {mac}");
}

/// ARP, neighbour discovery, and the senders of everything.
pub fn neighbors(bytes: &[u8]) {
    let Ok(made) = Vec::<Made>::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let snapshot = snapshot();
    let view = &snapshot.networks[&NETWORK];
    let mut last = [(); 3].map(|()| LastSender::default());
    for frame in made.into_iter().take(MAX_FRAMES).map(|made| made.frame()) {
        let verdict = view.outgoing(NETWORK, &frame, &mut LastSender::default());
        assert_eq!(
            view.outgoing(NETWORK, &frame, &mut last[2]),
            verdict,
            "what came before makes a difference"
        );
        match verdict {
            Verdict::Unicast(_) | Verdict::Flood | Verdict::Multicast(_) => is_honest(&frame, Owner::Local),
            Verdict::Answer(mac) => {
                is_honest(&frame, Owner::Local);
                answer(&frame, mac);
            }
            Verdict::UnknownNeighbor(ip) => assert!(!view.hosts.contains_key(&ip)),
            _ => {}
        }
        for peer in [0, 1] {
            let result = snapshot.incoming(peer, NETWORK, &frame, &mut LastSender::default());
            assert_eq!(snapshot.incoming(peer, NETWORK, &frame, &mut last[peer]), result);
            if result.is_ok() {
                is_honest(&frame, Owner::Peer(peer));
            }
        }
        let _ = write_answer(&frame, MACS[2], &mut [0; MAX_ANSWER_LEN]);
    }
}
