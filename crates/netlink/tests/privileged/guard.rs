//! What a hostile container on the same host can send, and what not.

use std::os::fd::{AsRawFd, OwnedFd};
use std::slice::from_ref;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use weft_netlink::{
    EndpointSpec, EnsureError, GuardDrops, GuardError, GuardReport, GuardState, Guarded, Links, Wiring, names,
};

use crate::namespace::{Sandbox, on_a_host, run, succeeds};
use crate::wiring::{endpoint, network};

const BROADCAST: [u8; 6] = [0xff; 6];
const OWN_MAC: [u8; 6] = [2, 0x42, 10, 9, 0, 1];
const OTHER_MAC: [u8; 6] = [2, 0x42, 10, 9, 0, 9];
const OWN: [u8; 4] = [10, 9, 0, 1];
const OTHER: [u8; 4] = [10, 9, 0, 9];
/// Local experimental ethertype (IEEE 802), for the frame that says that all before it has passed.
const END: [u8; 2] = [0x88, 0xb5];

fn own6() -> [u8; 16] {
    "fd09::1".parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn other6() -> [u8; 16] {
    "fd09::9".parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn link_local() -> [u8; 16] {
    "fe80::42".parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn frame(source: [u8; 6], ethertype: [u8; 2], rest: &[u8]) -> Vec<u8> {
    [&BROADCAST[..], &source, &ethertype, rest].concat()
}

fn arp(hardware: u8, mac: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    let head = [0, hardware, 8, 0, 6, 4, 0, 1];
    frame(OWN_MAC, [8, 6], &[&head[..], &mac, &ip, &[0; 6], &OTHER].concat())
}

/// With a good checksum: br_netfilter drops others.
fn ipv4_packet(source: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
    let head = [0x45, 0, 0, 36, 0, 0, 0, 0, 64, protocol, 0, 0];
    let mut header = [&head[..], &source, &[255; 4]].concat();
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = words.sum::<u32>();
    header[10..12].copy_from_slice(&(!((sum >> 16) + sum) as u16).to_be_bytes());
    [&header[..], &[0, 68], &port.to_be_bytes(), &[0, 16, 0, 0], &[0; 8]].concat()
}

fn ipv4(source: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
    frame(OWN_MAC, [8, 0], &ipv4_packet(source, protocol, port))
}

fn ipv6(source: [u8; 16], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let head = [0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 255];
    let mut all_nodes = [0; 16];
    (all_nodes[0], all_nodes[1], all_nodes[15]) = (0xff, 2, 1);
    frame(OWN_MAC, [0x86, 0xdd], &[&head[..], &source, &all_nodes, payload].concat())
}

fn advertisement(source: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    ipv6(source, 58, &[&[136, 0, 0, 0, 0, 0, 0, 0][..], &target].concat())
}

/// Every kind of frame, and under which cause it is dropped; `None`: it passes.
fn frames() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let vlan = |tag: [u8; 2], rest: &[u8]| [&[0, 5][..], &tag, rest].concat();
    let spoofed = ipv4_packet(OTHER, 17, 9);
    let tagged = frame(OWN_MAC, [0x81, 0], &vlan([8, 0], &spoofed));
    let twice_tagged = frame(OWN_MAC, [0x81, 0], &vlan([0x81, 0], &vlan([8, 0], &spoofed)));
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &own6()].concat();
    let udp = [0, 9, 0, 9, 0, 8, 0, 0];
    vec![
        ("another MAC", frame(OTHER_MAC, [8, 0], &ipv4_packet(OWN, 17, 9)), Some("mac")),
        ("ARP", arp(1, OWN_MAC, OWN), None),
        ("ARP probe", arp(1, OWN_MAC, [0; 4]), None),
        ("ARP for another's IP", arp(1, OWN_MAC, OTHER), Some("arp")),
        ("ARP with another's MAC", arp(1, OTHER_MAC, OWN), Some("arp")),
        ("ARP of another hardware", arp(6, OWN_MAC, OWN), Some("arp")),
        ("IPv4", ipv4(OWN, 17, 9), None),
        ("IPv4 from another", ipv4(OTHER, 17, 9), Some("ip")),
        ("DHCP", ipv4([0; 4], 17, 67), None),
        ("UDP from nowhere", ipv4([0; 4], 17, 53), Some("ip")),
        ("IGMP from nowhere", ipv4([0; 4], 2, 0), None),
        ("TCP from nowhere", ipv4([0; 4], 6, 67), Some("ip")),
        ("IPv6", ipv6(own6(), 17, &udp), None),
        ("ICMPv6", ipv6(own6(), 58, &[128, 0, 0, 0, 0, 0, 0, 0]), None),
        ("IPv6 from another", ipv6(other6(), 17, &udp), Some("ip")),
        ("link-local", ipv6(link_local(), 17, &udp), None),
        ("duplicate detection", ipv6([0; 16], 58, &solicitation), None),
        ("UDP from ::", ipv6([0; 16], 17, &udp), Some("ip")),
        ("advertisement", advertisement(own6(), own6()), None),
        ("link-local advertisement", advertisement(link_local(), link_local()), None),
        ("advertisement of another's", advertisement(own6(), other6()), Some("arp")),
        ("IPv4 from another behind a VLAN tag", tagged, Some("ip")),
        ("two VLAN tags", twice_tagged, Some("other")),
        ("neither ARP nor IP", frame(OWN_MAC, [0x88, 0xb6], b"hello"), Some("other")),
    ]
}

fn raw_socket() -> OwnedFd {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap()
}

fn device(name: &str) -> LinkAddr {
    let all = getifaddrs().unwrap().filter(|one| one.interface_name == name);
    all.filter_map(|one| one.address?.as_link_addr().copied()).next().unwrap()
}

/// Two containers of one network: the first is hostile, the second listens.
struct Pair {
    hostile: Sandbox,
    listener: OwnedFd,
    /// From which the frame is sent that ends a try; it is not guarded.
    helper: String,
    _victim: Sandbox,
}

impl Pair {
    /// The host side of the second container's veth goes on the bridge unguarded by a third pair, made by hand.
    async fn new(wiring: &Wiring, hostile_spec: &EndpointSpec) -> Self {
        let (hostile, victim) = (Sandbox::new(), Sandbox::new());
        let bridge = wiring.ensure_bridge(&network(1418)).await.unwrap().name;
        hostile.claim(&wiring.ensure_endpoint(hostile_spec).await.unwrap().names.container, 1);
        victim.claim(&wiring.ensure_endpoint(&endpoint(2, 1418)).await.unwrap().names.container, 2);
        let helper = "helper0".to_owned();
        run("ip link add helper0 type veth peer name helper1");
        run(&format!("ip link set helper1 up master {bridge}"));
        run("ip link set helper0 up");
        let listener = victim.call(raw_socket);
        setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::new(10, 0)).unwrap();
        Self { hostile, listener, helper, _victim: victim }
    }

    /// Sends a frame from the hostile container and says whether it comes to the other.
    fn passes(&self, frame: &[u8]) -> bool {
        let sent = frame.to_vec();
        self.hostile.call(move || {
            sendto(raw_socket().as_raw_fd(), &sent, &device("eth0"), MsgFlags::empty()).unwrap();
        });
        // A veth delivers in the order of sending, but each on its sender's processor: see that ours is through.
        let end = crate::guard::frame(OTHER_MAC, END, &[0; 46]);
        let mut seen = false;
        for _ in 0..2 {
            sendto(raw_socket().as_raw_fd(), &end, &device(&self.helper), MsgFlags::empty()).unwrap();
            let mut buffer = [0; 2000];
            loop {
                let len = recv(self.listener.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
                let received = &buffer[..len];
                if received.get(12..14) == Some(&END) {
                    break;
                }
                // A tag may have been taken off.
                seen |=
                    received == frame || received[..12] == frame[..12] && received.ends_with(&frame[18..]);
            }
        }
        seen
    }
}

async fn drops_of(wiring: &Wiring, spec: &EndpointSpec) -> GuardDrops {
    let drops = wiring.guard_drops().await.unwrap();
    drops.into_iter().find(|(id, _)| *id == spec.id).unwrap().1
}

#[test]
#[ignore = "needs root"]
fn a_container_sends_only_as_itself_to_its_neighbour() {
    on_a_host(async || {
        let wiring = Wiring::new().unwrap();
        let spec = endpoint(1, 1418);
        let pair = Pair::new(&wiring, &spec).await;
        assert_eq!(wiring.guard_state(), GuardState::Working);
        for (what, frame, cause) in frames() {
            let before = drops_of(&wiring, &spec).await;
            assert_eq!(pair.passes(&frame), cause.is_none(), "{what}");
            let after = drops_of(&wiring, &spec).await;
            let counted = [
                ("mac", after.mac - before.mac),
                ("arp", after.arp - before.arp),
                ("ip", after.ip - before.ip),
                ("other", after.other - before.other),
            ];
            let expected = counted.map(|(name, _)| (name, u64::from(cause == Some(name))));
            assert_eq!(counted, expected, "{what}");
        }
        // The neighbour's own guard has dropped nothing.
        assert_eq!(drops_of(&wiring, &endpoint(2, 1418)).await.total(), 0);
    });
}

#[test]
#[ignore = "needs root"]
fn without_the_check_everything_passes() {
    on_a_host(async || {
        let wiring = Wiring::new().unwrap();
        let spec = EndpointSpec { spoof_check: false, ..endpoint(1, 1418) };
        let pair = Pair::new(&wiring, &spec).await;
        assert_eq!(wiring.ensure_endpoint(&spec).await.unwrap().guarded, Guarded::Off);
        for (what, frame, _) in frames() {
            assert!(pair.passes(&frame), "{what}");
        }
        let listed: Vec<_> = wiring.guard_drops().await.unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(listed, [endpoint(2, 1418).id]);

        // It can be turned on and off again.
        let spoofed = arp(1, OWN_MAC, OTHER);
        let on = endpoint(1, 1418);
        assert_eq!(wiring.ensure_endpoint(&on).await.unwrap().guarded, Guarded::Yes);
        assert!(!pair.passes(&spoofed));
        let removed = GuardReport { n_restored: 0, n_removed: 1 };
        assert_eq!(wiring.ensure_guards(from_ref(&spec)).await.unwrap(), removed);
        assert!(pair.passes(&spoofed));
    });
}

#[test]
#[ignore = "needs root"]
fn guards_are_kept_restored_and_collected() {
    on_a_host(async || {
        let wiring = Wiring::new().unwrap();
        let specs = [endpoint(1, 1418), endpoint(2, 1418)];
        let pair = Pair::new(&wiring, &specs[0]).await;
        let spoofed = arp(1, OWN_MAC, OTHER);
        assert!(!pair.passes(&spoofed));
        let veths: Vec<_> = specs.iter().map(|spec| names::veth_names(&spec.id).unwrap().host).collect();
        let listing = run(&format!("nft list chain netdev weft {}", veths[0]));
        let hook = format!("type filter hook ingress device \"{}\" priority -300; policy accept;", veths[0]);
        assert!(listing.contains(&hook), "{listing}");
        assert!(run("nft list table netdev weft").contains("comment \"weft"), "the table says whose it is");

        // Nothing to do: the counters stay.
        let nothing = GuardReport::default();
        assert_eq!(wiring.ensure_guards(&specs).await.unwrap(), nothing);
        wiring.ensure_endpoint(&specs[0]).await.unwrap();
        assert_eq!(drops_of(&wiring, &specs[0]).await.arp, 1);

        for damage in [
            "nft flush ruleset".to_owned(),
            format!("nft flush chain netdev weft {}", veths[0]),
            format!("nft delete chain netdev weft {}", veths[0]),
            format!("nft insert rule netdev weft {} accept", veths[0]),
        ] {
            run(&damage);
            assert!(pair.passes(&spoofed), "{damage}");
            let restored = wiring.ensure_guards(&specs).await.unwrap().n_restored;
            assert_eq!(restored, if damage.contains("ruleset") { 2 } else { 1 }, "{damage}");
            assert!(!pair.passes(&spoofed), "{damage}");
            assert_eq!(wiring.ensure_guards(&specs).await.unwrap(), nothing, "{damage}");
        }

        // Another address replaces the rules in one go.
        let moved = EndpointSpec { addresses: vec![OTHER.into()], ..specs[0].clone() };
        assert_eq!(wiring.ensure_guards(from_ref(&moved)).await.unwrap().n_restored, 1);
        assert!(pair.passes(&spoofed));
        wiring.ensure_endpoint(&specs[0]).await.unwrap();
        assert!(!pair.passes(&spoofed));

        // A guard goes with its endpoint, by whatever way that goes.
        wiring.remove_endpoint(&specs[0].id).await.unwrap();
        assert!(!succeeds(&format!("nft list chain netdev weft {}", veths[0])));
        run(&format!("ip link delete {}", veths[1]));
        wiring.ensure_guards(&specs).await.unwrap();
        assert_eq!(run("nft list chains netdev"), "table netdev weft {\n}\n");
        wiring.ensure_endpoint(&specs[0]).await.unwrap();
        wiring.remove_network(specs[0].network).await.unwrap();
        assert_eq!(run("nft list chains netdev"), "table netdev weft {\n}\n");
    });
}

#[test]
#[ignore = "needs root"]
fn a_table_of_others_is_refused_and_kept() {
    on_a_host(async || {
        run("nft add table netdev weft { comment \"mine\"; }");
        let wiring = Wiring::new().unwrap();
        wiring.ensure_bridge(&network(1418)).await.unwrap();
        let spec = endpoint(1, 1418);
        let error = wiring.ensure_endpoint(&spec).await.unwrap_err();
        assert!(matches!(error, EnsureError::Guard(GuardError::Foreign)), "{error}");
        assert_eq!(wiring.inventory().await.unwrap().endpoints, [], "the pair is undone");
        assert!(matches!(wiring.ensure_guards(from_ref(&spec)).await, Err(GuardError::Foreign)));
        let listing = run("nft list ruleset");
        assert!(listing.contains("comment \"mine\"") && !listing.contains("chain"), "{listing}");
        let open = EndpointSpec { spoof_check: false, ..spec };
        assert!(wiring.ensure_endpoint(&open).await.is_ok_and(|links| links.guarded == Guarded::Off));
    });
}

/// The median is far below the limit on an idle machine; the limit is what a user would notice.
#[test]
#[ignore = "needs root"]
fn a_guard_costs_little_time() {
    on_a_host(async || {
        const LIMIT: Duration = Duration::from_millis(20);
        let wiring = Wiring::new().unwrap();
        wiring.ensure_bridge(&network(1418)).await.unwrap();
        let median = async |spoof_check: bool| {
            let mut times = Vec::new();
            for n in 1..=100 {
                let spec = EndpointSpec { spoof_check, ..endpoint(n, 1418) };
                let start = Instant::now();
                wiring.ensure_endpoint(&spec).await.unwrap();
                times.push(start.elapsed());
            }
            let specs: Vec<_> = (1..=100).map(|n| endpoint(n, 1418)).collect();
            if spoof_check {
                let start = Instant::now();
                assert_eq!(wiring.ensure_guards(&specs).await.unwrap(), GuardReport::default());
                println!("100 guards looked over in {:?}", start.elapsed());
            }
            for spec in specs {
                wiring.remove_endpoint(&spec.id).await.unwrap();
            }
            assert_eq!(wiring.ensure_guards(&[]).await.unwrap(), GuardReport::default(), "rules were left");
            times.sort();
            println!("spoof_check={spoof_check}: median {:?}, greatest {:?}", times[50], times[99]);
            times[50]
        };
        let (without, with) = (median(false).await, median(true).await);
        assert!(with < without + LIMIT, "{without:?} without, {with:?} with guards");
    });
}
