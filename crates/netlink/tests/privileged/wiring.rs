//! Links.

use std::net::UdpSocket;

use serde_json::Value;
use weft_netlink::{
    EndpointLinks, EndpointSpec, EnsureError, Ipv6State, Links, NetworkSpec, Outcome, Wiring, names,
};
use weft_wire::{EndpointId, Mac, NetworkId};

use crate::namespace::{Sandbox, assert_dropped, assert_reaches, on_a_host, run, succeeds, wait_until};

const DOCKER_ID: &str = "u48gny859s078wz2qe8dulj4a";

pub(crate) fn network(overlay_mtu: u16) -> NetworkSpec {
    NetworkSpec { id: NetworkId::from_name(DOCKER_ID), docker_id: DOCKER_ID.into(), overlay_mtu }
}

pub(crate) fn endpoint(n: u8, overlay_mtu: u16) -> EndpointSpec {
    EndpointSpec {
        id: EndpointId(format!("{n:02x}").repeat(32)),
        network: NetworkId::from_name(DOCKER_ID),
        docker_network_id: DOCKER_ID.into(),
        mac: Mac([2, 0x42, 10, 9, 0, n]),
        addresses: vec![[10, 9, 0, n].into(), format!("fd09::{n}").parse().unwrap()],
        spoof_check: true,
        overlay_mtu,
    }
}

fn make_tap(network: &NetworkSpec) -> String {
    let tap = names::tap_name(network.id);
    run(&format!("ip tuntap add {tap} mode tap multi_queue vnet_hdr"));
    tap
}

fn show(link: &str) -> Value {
    let all: Value = serde_json::from_str(&run(&format!("ip -d -j link show {link}"))).unwrap();
    all[0].clone()
}

fn weft_links() -> Vec<String> {
    let all: Value = serde_json::from_str(&run("ip -j link show")).unwrap();
    let names = all.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().to_owned());
    names.filter(|name| names::is_weft_name(name)).collect()
}

/// All links as they are, without what changes by itself.
fn settings() -> Vec<(String, Value, Value, Value, Value, Value)> {
    let all: Value = serde_json::from_str(&run("ip -d -j link show")).unwrap();
    let field = |l: &Value, key: &str| l[key].clone();
    all.as_array()
        .unwrap()
        .iter()
        .map(|l| {
            let name = l["ifname"].as_str().unwrap().to_owned();
            (
                name,
                field(l, "mtu"),
                field(l, "address"),
                field(l, "ifalias"),
                field(l, "master"),
                field(l, "ifindex"),
            )
        })
        .collect()
}

#[test]
#[ignore = "needs root"]
fn links_are_made_right_adopted_and_removed() {
    on_a_host(async || {
        for overlay_mtu in [1418, 1500, 8918] {
            let (spec, tap) = (network(overlay_mtu), make_tap(&network(overlay_mtu)));
            let (a, b) = (endpoint(0xa1, overlay_mtu), endpoint(0xb2, overlay_mtu));
            let wiring = Wiring::new().unwrap();
            let bridge = wiring.ensure_bridge(&spec).await.unwrap();
            assert_eq!((bridge.outcome, bridge.ipv6), (Outcome::Created, Ipv6State::Disabled));
            assert_eq!(wiring.attach_tap(&spec).await.unwrap().outcome, Outcome::Created);
            let EndpointLinks { names: veth, outcome, claimed, .. } =
                wiring.ensure_endpoint(&a).await.unwrap();
            assert_eq!((outcome, claimed), (Outcome::Created, false));
            wiring.ensure_endpoint(&b).await.unwrap();

            for link in [&bridge.name, &tap, &veth.host, &veth.container] {
                let shown = show(link);
                assert_eq!(shown["mtu"], overlay_mtu, "{link}");
                assert_eq!(shown["gso_max_size"], 65536, "{link}");
                let is_up = shown["flags"].as_array().unwrap().contains(&"UP".into());
                assert_eq!(is_up, *link != veth.container, "{link}");
                let master = shown["master"].as_str();
                let is_port = *link == tap || *link == veth.host;
                assert_eq!(master, is_port.then_some(bridge.name.as_str()), "{link}");
            }
            let shown = show(&bridge.name);
            assert_eq!(shown["address"], names::bridge_mac(spec.id).to_string());
            assert_eq!(shown["ifalias"], format!("weft network={DOCKER_ID}"));
            let options = &shown["linkinfo"]["info_data"];
            let wanted =
                [("stp_state", 0), ("forward_delay", 0), ("vlan_filtering", 0), ("mcast_snooping", 1)];
            for (option, value) in wanted {
                // A kernel without an option shows none.
                assert!(options[option].is_null() || options[option] == value, "{option}");
            }
            assert_eq!(show(&veth.container)["address"], a.mac.to_string());
            assert_eq!(show(&veth.host)["ifalias"], format!("weft endpoint={} network={DOCKER_ID}", a.id));
            assert_eq!(run("ip -6 -o address show").lines().count(), 1, "only lo has an IPv6 address");

            // A restarted daemon finds it all and changes nothing.
            let before = settings();
            let wiring = Wiring::new().unwrap();
            let inventory = wiring.inventory().await.unwrap();
            let found = inventory.networks.first().unwrap();
            assert_eq!((found.id, found.docker_id.as_str(), found.up), (spec.id, DOCKER_ID, true));
            assert_eq!((found.overlay_mtu, found.tap.as_deref()), (overlay_mtu, Some(tap.as_str())));
            let mut ids: Vec<_> =
                inventory.endpoints.iter().map(|e| (&e.id, e.attached_to, e.unclaimed)).collect();
            ids.sort();
            assert_eq!(ids, [(&a.id, Some(spec.id), true), (&b.id, Some(spec.id), true)]);
            assert_eq!(inventory.strays, []);
            assert_eq!(wiring.ensure_bridge(&spec).await.unwrap().outcome, Outcome::Adopted);
            assert_eq!(wiring.attach_tap(&spec).await.unwrap().outcome, Outcome::Adopted);
            assert_eq!(wiring.ensure_endpoint(&a).await.unwrap().outcome, Outcome::Adopted);
            assert_eq!(settings(), before);

            // What someone bent is straightened.
            run(&format!("ip link set {} down mtu 1300", bridge.name));
            run(&format!("ip link set {} nomaster mtu 1300", veth.host));
            run(&format!("ip link set {tap} nomaster"));
            wiring.ensure_bridge(&spec).await.unwrap();
            wiring.attach_tap(&spec).await.unwrap();
            wiring.ensure_endpoint(&a).await.unwrap();
            assert_eq!(settings(), before);

            // The bridge keeps MTU and address when its ports go.
            wiring.remove_endpoint(&a.id).await.unwrap();
            wiring.remove_endpoint(&a.id).await.unwrap();
            run(&format!("ip link set {tap} nomaster"));
            run(&format!("ip link set {} nomaster", names::veth_names(&b.id).unwrap().host));
            assert_eq!(show(&bridge.name)["mtu"], overlay_mtu);
            assert_eq!(show(&bridge.name)["address"], names::bridge_mac(spec.id).to_string());

            wiring.remove_endpoint(&b.id).await.unwrap();
            wiring.remove_network(spec.id).await.unwrap();
            wiring.remove_network(spec.id).await.unwrap();
            assert_eq!(weft_links(), [] as [&str; 0]);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_claimed_endpoint_is_left_alone_and_goes_with_its_sandbox() {
    on_a_host(async || {
        let wiring = Wiring::new().unwrap();
        wiring.ensure_bridge(&network(1418)).await.unwrap();
        let spec = endpoint(1, 1418);
        let links = wiring.ensure_endpoint(&spec).await.unwrap();
        let sandbox = Sandbox::new();
        sandbox.claim(&links.names.container, 1);
        let inventory = wiring.inventory().await.unwrap();
        assert_eq!(inventory.endpoints.iter().map(|e| e.unclaimed).collect::<Vec<_>>(), [false]);

        let again = wiring.ensure_endpoint(&spec).await.unwrap();
        assert_eq!((again.outcome, again.claimed), (Outcome::Adopted, true));
        assert_eq!(sandbox.call(|| show("eth0")["mtu"].clone()), 1418);

        drop(sandbox);
        wait_until("the pair goes with its sandbox", || {
            !succeeds(&format!("ip link show {}", links.names.host))
        });
        assert_eq!(wiring.inventory().await.unwrap().endpoints, []);

        // Removing works from this side while the other is in a sandbox.
        wiring.ensure_endpoint(&spec).await.unwrap();
        let sandbox = Sandbox::new();
        sandbox.claim(&links.names.container, 1);
        wiring.remove_endpoint(&spec.id).await.unwrap();
        assert!(!sandbox.call(|| succeeds("ip link show eth0")));

        // So does removing the network under an endpoint.
        wiring.ensure_endpoint(&spec).await.unwrap();
        sandbox.claim(&links.names.container, 1);
        wiring.remove_network(spec.network).await.unwrap();
        assert_eq!(weft_links(), [] as [&str; 0]);
        assert!(!sandbox.call(|| succeeds("ip link show eth0")));
    });
}

#[test]
#[ignore = "needs root"]
fn links_of_others_are_refused_and_kept() {
    on_a_host(async || {
        let wiring = Wiring::new().unwrap();
        let (spec, ep) = (network(1418), endpoint(1, 1418));
        let (bridge, tap) = (names::bridge_name(spec.id), names::tap_name(spec.id));
        let veth = names::veth_names(&ep.id).unwrap();
        let is_foreign = |error: EnsureError, link: &str| match error {
            EnsureError::Foreign { name } => assert_eq!(name, link),
            other => panic!("{other}"),
        };

        run(&format!("ip link add {bridge} type bridge"));
        is_foreign(wiring.ensure_bridge(&spec).await.unwrap_err(), &bridge);
        is_foreign(wiring.ensure_endpoint(&ep).await.unwrap_err(), &bridge);
        wiring.remove_network(spec.id).await.unwrap();
        wiring.remove_stray(&bridge).await.unwrap();
        assert_eq!(weft_links(), [bridge.as_str()]);
        run(&format!("ip link del {bridge}"));

        let missing = wiring.ensure_endpoint(&ep).await.unwrap_err();
        assert!(matches!(missing, EnsureError::Missing { name } if name == bridge));
        wiring.ensure_bridge(&spec).await.unwrap();
        let missing = wiring.attach_tap(&spec).await.unwrap_err();
        assert!(matches!(missing, EnsureError::Missing { name } if name == tap));
        run(&format!("ip link add {tap} type bridge"));
        is_foreign(wiring.attach_tap(&spec).await.unwrap_err(), &tap);

        run(&format!("ip link add {} type bridge", veth.container));
        is_foreign(wiring.ensure_endpoint(&ep).await.unwrap_err(), &veth.container);
        assert!(!weft_links().contains(&veth.host), "nothing is left half done");
        run(&format!("ip link del {}", veth.container));

        // Another endpoint's id with the same first digits.
        wiring.ensure_endpoint(&ep).await.unwrap();
        let twin = EndpointSpec { id: EndpointId(format!("{}ff", &ep.id.0[..62])), ..ep.clone() };
        is_foreign(wiring.ensure_endpoint(&twin).await.unwrap_err(), &veth.host);
        wiring.remove_endpoint(&twin.id).await.unwrap();
        assert!(weft_links().contains(&veth.host));

        // The kernel refuses a group address; nothing is left.
        let group = EndpointSpec { mac: Mac([3, 0, 0, 0, 0, 1]), ..endpoint(2, 1418) };
        let refused = wiring.ensure_endpoint(&group).await.unwrap_err();
        assert!(matches!(refused, EnsureError::Kernel(_)), "{refused}");
        wiring.remove_endpoint(&ep.id).await.unwrap();
        wiring.remove_network(spec.id).await.unwrap();
        assert_eq!(weft_links(), [tap.as_str()]);
    });
}

#[test]
#[ignore = "needs root"]
fn half_made_links_are_completed_or_collected() {
    on_a_host(async || {
        let wiring = Wiring::new().unwrap();
        let (spec, ep) = (network(1418), endpoint(1, 1418));
        let bridge = names::bridge_name(spec.id);
        let veth = names::veth_names(&ep.id).unwrap();
        let half_bridge = format!("ip link add {bridge} address {} type bridge", names::bridge_mac(spec.id));
        run(&half_bridge);
        make_tap(&spec);
        let strays = wiring.inventory().await.unwrap().strays;
        for stray in &strays {
            wiring.remove_stray(&stray.name).await.unwrap();
        }
        assert_eq!((strays.len(), weft_links()), (2, vec![]));

        run(&half_bridge);
        assert_eq!(wiring.ensure_bridge(&spec).await.unwrap().outcome, Outcome::Adopted);
        wiring.ensure_endpoint(&ep).await.unwrap();
        let host_mac = show(&veth.host)["address"].as_str().unwrap().to_owned();
        wiring.remove_endpoint(&ep.id).await.unwrap();
        run(&format!("ip link add {} address {host_mac} type veth peer name {}", veth.host, veth.container));
        assert_eq!(wiring.ensure_endpoint(&ep).await.unwrap().outcome, Outcome::Adopted);
        assert_eq!(show(&veth.container)["address"], ep.mac.to_string());

        // A container side that has another name is of no use to dockerd: the pair is made anew.
        run(&format!("ip link set {} name stolen", veth.container));
        assert_eq!(wiring.ensure_endpoint(&ep).await.unwrap().outcome, Outcome::Created);
        assert!(weft_links().contains(&veth.container) && !succeeds("ip link show stolen"));
    });
}

#[test]
#[ignore = "needs root"]
fn a_read_only_proc_sys_is_made_do_with() {
    on_a_host(async || {
        // As in a managed plugin. The mount namespace is this thread's own.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        for line in [
            "mount --make-rprivate /",
            "mount --bind /proc/sys /proc/sys",
            "mount -o remount,ro,bind /proc/sys",
        ] {
            run(line);
        }
        let wiring = Wiring::new().unwrap();
        let bridge = wiring.ensure_bridge(&network(1418)).await.unwrap();
        assert_eq!(bridge.ipv6, Ipv6State::NoAddress);
        make_tap(&network(1418));
        wiring.attach_tap(&network(1418)).await.unwrap();
        let links = wiring.ensure_endpoint(&endpoint(1, 1418)).await.unwrap();
        for link in [&bridge.name, &names::tap_name(network(1418).id), &links.names.host] {
            assert_eq!(show(link)["inet6_addr_gen_mode"], "none", "{link}");
            for (key, value) in [("rp_filter", "1"), ("arp_ignore", "8")] {
                let path = format!("/proc/sys/net/ipv4/conf/{link}/{key}");
                assert_eq!(std::fs::read_to_string(path).unwrap().trim(), value, "{link} {key}");
            }
        }
        assert_eq!(run("ip -6 -o address show").lines().count(), 1, "only lo has an IPv6 address");
    });
}

/// Packets refused because no route leads back over the link that they came from.
fn refused_by_reverse_path() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "IPReversePathFilter");
    found.unwrap().1.parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn containers_do_not_reach_the_host_over_the_bridge() {
    on_a_host(async || {
        run("ip link add uplink type bridge");
        run("ip address add 192.0.2.1/24 dev uplink");
        run("ip link set uplink up");
        let wiring = Wiring::new().unwrap();
        let spec = network(1418);
        let bridge = wiring.ensure_bridge(&spec).await.unwrap().name;
        let links = wiring.ensure_endpoint(&endpoint(1, 1418)).await.unwrap();
        let sandbox = Sandbox::new();
        sandbox.claim(&links.names.container, 1);
        let mac = names::bridge_mac(spec.id);
        sandbox.call(move || {
            run("ip route add 192.0.2.1 dev eth0");
            run(&format!("ip neigh add 192.0.2.1 lladdr {mac} dev eth0"));
        });
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        assert_dropped(&sandbox, &socket, refused_by_reverse_path);

        // Without what `ensure_bridge` sets they would.
        let set = |key: &str, value: &str| {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{bridge}/{key}"), value).unwrap();
        };
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
        set("rp_filter", "0");
        assert_reaches(&sandbox, &socket);
        wiring.ensure_bridge(&spec).await.unwrap();
        assert_dropped(&sandbox, &socket, refused_by_reverse_path);
    });
}

#[test]
#[ignore = "needs root"]
fn the_underlay_is_measured() {
    on_a_host(async || {
        let wiring = Wiring::new().unwrap();
        assert_eq!(wiring.underlay_mtu(None).await.unwrap(), None);
        for (name, mtu, ip) in [("up0", 1500, "192.0.2.1/24"), ("up1", 9000, "fd01::1/64")] {
            run(&format!("ip link add {name} mtu {mtu} type bridge"));
            run(&format!("ip address add {ip} dev {name} {}", if ip.contains(':') { "nodad" } else { "" }));
            run(&format!("ip link set {name} up"));
        }
        run("ip -6 route add default via fd01::2");
        assert_eq!(wiring.underlay_mtu(None).await.unwrap(), Some(9000));
        run("ip route add default via 192.0.2.2");
        assert_eq!(wiring.underlay_mtu(None).await.unwrap(), Some(1500));
        run("ip route change default via 192.0.2.2 mtu 1400");
        assert_eq!(wiring.underlay_mtu(None).await.unwrap(), Some(1400));
        let of = async |ip: &str| wiring.underlay_mtu(Some(ip.parse().unwrap())).await.unwrap();
        assert_eq!(of("fd01::1").await, Some(9000));
        assert_eq!(of("192.0.2.1").await, Some(1500));
        assert_eq!(of("192.0.2.9").await, None);
        let mut addresses = wiring.local_addresses().await.unwrap();
        addresses.sort();
        let addresses: Vec<_> = addresses.iter().map(|(ip, name)| format!("{ip} {name}")).collect();
        assert_eq!(addresses, ["192.0.2.1 up0", "fd01::1 up1"]);
    });
}

#[test]
#[ignore = "needs root"]
fn several_tasks_list_at_once() {
    on_a_host(async || {
        // So many that the kernel does not give them in one go.
        (0..80).for_each(|n| drop(run(&format!("ip link add b{n} type bridge"))));
        let wiring = Wiring::new().unwrap();
        let lists = (0..20).map(|_| async {
            wiring.inventory().await.unwrap();
            wiring.local_addresses().await.unwrap();
        });
        futures_util::future::join_all(lists).await;
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_being_made_is_no_stray() {
    on_a_host(async || {
        let spec = network(1418);
        make_tap(&spec);
        let wiring = Wiring::new().unwrap();
        wiring.ensure_bridge(&spec).await.unwrap();
        wiring.attach_tap(&spec).await.unwrap();
        let specs: Vec<EndpointSpec> = (1..=40).map(|n| endpoint(n, 1418)).collect();
        let turns = specs.iter().map(|spec| async {
            let (made, listed) =
                futures_util::future::join(wiring.ensure_endpoint(spec), wiring.inventory()).await;
            made.unwrap();
            let listed = listed.unwrap();
            assert_eq!(listed.strays, []);
            listed.endpoints.len()
        });
        let listed = futures_util::future::join_all(turns).await;
        assert!(listed.iter().any(|n| (1..40).contains(n)), "none was listed meanwhile: {listed:?}");
        assert_eq!(wiring.inventory().await.unwrap().endpoints.len(), 40);
        let removed =
            futures_util::future::join_all(specs.iter().map(|spec| wiring.remove_endpoint(&spec.id))).await;
        assert!(removed.iter().all(Result::is_ok), "{removed:?}");
        assert_eq!(wiring.inventory().await.unwrap().endpoints, []);
    });
}
