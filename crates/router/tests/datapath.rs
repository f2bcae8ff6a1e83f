//! Real sockets in namespaces, through two routers and the kernel.

#[path = "bed/bed.rs"]
mod bed;
#[path = "bed/traffic.rs"]
mod traffic;

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use bed::{Bed, LIMIT, MACS, NETWORK, Plan, eventually, inner_v4, inner_v6};
use traffic::{noise, tcp_echo, udp};
use weft_dataplane::DropReason;
use weft_noise::Suite;
use weft_router::NodeInput;
use weft_wire::{HEADER_LEN, InnerHeader, InnerKind, Lane, NetworkId, TAG_LEN};

fn whole_path(bed: &Bed) -> Result<()> {
    let data = noise(8_000_000, 5);
    for ip in [inner_v4(1, "w"), inner_v6(1, "w")] {
        tcp_echo(bed, &ip, &data)?;
        bed.exec("c0", &format!("ping -q -c 3 -i 0.01 -W 2 {ip}"))?;
        // Longer than the MTU: IP fragments pass.
        bed.exec("c0", &format!("ping -q -c 3 -i 0.01 -W 2 -s 5000 {ip}"))?;
    }
    let lens = || (0..64).chain((64..1472).step_by(37)).chain([1389, 1390, 1391, 4000, 9001, 60_000]);
    udp(bed, &inner_v4(0, "w"), &inner_v4(1, "w"), lens())?;
    udp(bed, &inner_v6(0, "w"), &inner_v6(1, "w"), lens())
}

#[test]
#[ignore = "needs root"]
fn tcp_udp_and_icmp_pass_unchanged() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    whole_path(&bed)?;
    let stats = bed.router(0).stats();
    ensure!(stats.sends_trains && stats.receives_trains, "{stats:?}");
    ensure!(stats.datagrams_sent > 4 * stats.trains_sent, "offloads do not work: {stats:?}");
    ensure!(stats.datagrams_received > 2 * stats.tap_writes, "nothing is joined: {stats:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn ipv6_underlay_other_cipher_and_one_worker() -> Result<()> {
    let plan = Plan {
        ipv6_underlay: true,
        overlay_mtu: 1398,
        suite: Suite::ChaCha20Poly1305,
        n_workers: 1,
        ..Plan::default()
    };
    whole_path(&Bed::new(plan)?)
}

#[test]
#[ignore = "needs root"]
fn without_offloads_in_containers_and_trains_on_the_underlay() -> Result<()> {
    let bed = Bed::new(Plan { n_workers: 3, ..Plan::default() })?;
    for i in 0..2 {
        // Frames are cut and summed in the container's kernel.
        bed.exec(&format!("c{i}"), "ip link set eth-w gso_max_segs 1")?;
        bed.exec(&format!("h{i}"), "ip link set eth0 gso_max_segs 1")?;
    }
    whole_path(&bed)
}

#[test]
#[ignore = "needs root"]
fn datagrams_that_come_one_by_one_are_joined() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    for i in 0..2 {
        // Trains are cut in the sender's kernel, and a veth does not join them again.
        bed.exec(&format!("h{i}"), "ip link set eth0 gso_max_segs 1")?;
    }
    whole_path(&bed)?;
    let stats = bed.router(1).stats();
    ensure!(stats.datagrams_received == stats.trains_received, "they came as trains: {stats:?}");
    ensure!(stats.datagrams_received > 2 * stats.tap_writes, "nothing is joined: {stats:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn jumbo_underlay() -> Result<()> {
    whole_path(&Bed::new(Plan { underlay_mtu: 9000, overlay_mtu: 8918, ..Plan::default() })?)
}

/// Sets `SO_NO_CHECK` on sockets of another process: its number and theirs are the arguments.
const NO_CHECK: &str = r#"
    my ($pid, @fds) = @ARGV;
    my $process = syscall(434, $pid + 0, 0);
    die "pidfd_open: $!" if $process < 0;
    for my $fd (@fds) {
        my $own = syscall(438, $process, $fd + 0, 0);
        die "pidfd_getfd: $!" if $own < 0;
        open(my $socket, "+<&=", $own) or die "open: $!";
        setsockopt($socket, 1, 11, pack("i", 1)) or die "SO_NO_CHECK: $!";
    }
"#;

/// Makes the kernel refuse trains (`UDP_SEGMENT`) from the running router of host `i`, as it does by itself where a
/// device or an IPsec policy is in the way: it cuts none that leave without a checksum.
fn refuse_trains(bed: &Bed, i: usize) -> Result<()> {
    let sockets = bed.in_host(i, || -> std::io::Result<String> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        // A machine without IPv6 has no such file.
        Ok(read("udp")? + &read("udp6").unwrap_or_default())
    })??;
    let port = format!(":{:04X}", bed::PORT);
    let links: Vec<String> = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&port)))
        .filter_map(|fields| Some(format!("socket:[{}]", fields.get(9)?)))
        .collect();
    let mut perl = std::process::Command::new("perl");
    perl.args(["-e", NO_CHECK]).arg(std::process::id().to_string());
    let mut n = 0;
    for fd in std::fs::read_dir("/proc/self/fd")?.flatten() {
        // Other tests' descriptors come and go.
        let target = std::fs::read_link(fd.path()).unwrap_or_default();
        if links.iter().any(|link| target.as_os_str() == link.as_str()) {
            perl.arg(fd.file_name());
            n += 1;
        }
    }
    ensure!(n > 0, "no socket of {links:?} among this process's");
    let output = perl.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_kernel_that_refuses_trains_gets_datagrams_and_none_is_lost() -> Result<()> {
    let bed = Bed::new(Plan { n_workers: 1, ..Plan::default() })?;
    whole_path(&bed)?;
    let stats = |i| bed.router(i).stats();
    ensure!(stats(0).sends_trains && stats(1).sends_trains);
    // What was sent before the other router was up is missing there.
    let n_missing = || stats(0).datagrams_sent as i64 - stats(1).datagrams_received as i64;
    let (n_missing_before, n_sent_before) = (n_missing(), stats(0).datagrams_sent);
    refuse_trains(&bed, 0)?;
    whole_path(&bed)?;
    ensure!(!stats(0).sends_trains, "the fallback is not shown: {:?}", stats(0));
    ensure!(stats(1).sends_trains, "the other router fell back as well: {:?}", stats(1));
    ensure!(stats(0).datagrams_sent > n_sent_before + 5000, "{:?}", stats(0));
    for reason in [DropReason::SendFailed, DropReason::TooLong] {
        ensure!(stats(0).dropped(reason) == 0, "{:?}", stats(0));
    }
    // TCP would hide what was lost while the router found out.
    eventually("arrival of every datagram", || Ok(n_missing() <= n_missing_before))
}

/// Seals a frame as host 0 would, for host 1.
fn forged(bed: &Bed, network: NetworkId, from: [u8; 6]) -> Vec<u8> {
    let inner = InnerHeader { kind: InnerKind::Frame, ttl: 1, network }.to_bytes();
    let mut datagram =
        [&[0; HEADER_LEN][..], &inner, &MACS[1].0, &from, &[0x88, 0xb5], &[7; 46], &[0; TAG_LEN]].concat();
    let counter = bed.sessions[0].reserve(Lane::CONTROL, 1).expect("a new session");
    bed.sessions[0].seal(Lane::CONTROL, counter, &mut datagram);
    datagram
}

#[test]
#[ignore = "needs root"]
fn what_a_peer_may_not_send_is_dropped_and_counted() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    let to = bed.underlay(1);
    let dropped = |reason| bed.router(1).stats().dropped(reason);
    let good = forged(&bed, NETWORK, MACS[0].0);
    let mut flipped = forged(&bed, NETWORK, MACS[0].0);
    *flipped.last_mut().context("a datagram")? ^= 1;
    let mut unknown = good.clone();
    unknown[5] ^= 1;
    let cases = [
        (forged(&bed, NetworkId::from_u48(666), MACS[0].0), DropReason::UnknownNetwork),
        (forged(&bed, NETWORK, MACS[1].0), DropReason::SpoofedMac),
        (flipped, DropReason::BadSeal),
        (unknown, DropReason::UnknownSession),
        (vec![9; 40], DropReason::Malformed),
    ];
    for (datagram, reason) in cases {
        let before = dropped(reason);
        bed.router(0).send(to, &datagram)?;
        eventually(reason.name(), || Ok(dropped(reason) == before + 1))?;
    }
    bed.publish(1, |s| {
        s.networks.entry(NETWORK).and_modify(|view| {
            view.members.clear();
            view.fdb.clear();
        });
    });
    bed.router(0).send(to, &forged(&bed, NETWORK, MACS[0].0))?;
    eventually("not_member", || Ok(dropped(DropReason::NotMember) >= 1))?;
    bed.publish(1, |_| {});
    let (before, replayed) = (bed.router(1).stats().tap_writes, dropped(DropReason::Replayed));
    bed.router(0).send(to, &good)?;
    bed.router(0).send(to, &good)?;
    eventually("replayed", || Ok(dropped(DropReason::Replayed) == replayed + 1))?;
    eventually("the good one", || Ok(bed.router(1).stats().tap_writes > before))
}

#[test]
#[ignore = "needs root"]
fn unknown_unicast_is_dropped_and_broadcast_reaches_members() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    let unknown = || bed.router(0).stats().dropped(DropReason::UnknownUnicast);
    let before = unknown();
    bed.exec("c0", &format!("ip neigh add {} lladdr 02:00:00:00:00:77 dev eth-w", inner_v4(77, "w")))?;
    let target = inner_v4(77, "w");
    let socket = bed.in_ns("c0", || UdpSocket::bind("0.0.0.0:0"))??;
    socket.send_to(b"nobody", (target.as_str(), 5))?;
    eventually("unknown_unicast", || Ok(unknown() > before))?;

    let receiver = bed.in_ns("c1", || UdpSocket::bind("0.0.0.0:9"))??;
    receiver.set_read_timeout(Some(LIMIT))?;
    socket.set_broadcast(true)?;
    socket.send_to(b"everyone", ("10.119.0.255", 9))?;
    let mut buf = [0; 64];
    let n = receiver.recv(&mut buf)?;
    ensure!(&buf[..n] == b"everyone");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_node_hears_what_is_its_own() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    let to = bed.underlay(1);
    let heard = |wanted: &dyn Fn(&NodeInput) -> bool| bed.inputs[1].lock().unwrap().iter().any(wanted);
    let mut init = vec![0; 100];
    init[0] = 1;
    bed.router(0).send(to, &init)?;
    eventually("handshake", || {
        Ok(heard(&|i| matches!(i, NodeInput::Handshake { bytes, .. } if *bytes == init)))
    })?;

    let inner = InnerHeader { kind: InnerKind::Control, ttl: 0, network: NetworkId::from_u48(0) }.to_bytes();
    let mut control = [&[0; HEADER_LEN][..], &inner, b"hello", &[0; TAG_LEN]].concat();
    let counter = bed.sessions[0].reserve(Lane::CONTROL, 1)?;
    bed.sessions[0].seal(Lane::CONTROL, counter, &mut control);
    bed.snapshots[1]
        .load()
        .sessions
        .values()
        .for_each(|s| s.activity.tell_once.store(true, std::sync::atomic::Ordering::Relaxed));
    // From another port than the snapshot knows, as behind a NAT that forgot.
    let stranger = bed.in_ns("h0", || UdpSocket::bind("0.0.0.0:7777"))??;
    stranger.send_to(&control, to)?;
    eventually("control", || {
        Ok(heard(&|i| matches!(i, NodeInput::Control { session: 101, bytes, .. } if bytes == b"hello")))
    })?;
    eventually("first", || Ok(heard(&|i| *i == NodeInput::FirstRx { session: 101 })))?;
    eventually("roamed", || {
        Ok(heard(&|i| matches!(i, NodeInput::Roamed { session: 101, from } if from.port() == 7777)))
    })
}

#[test]
#[ignore = "needs root"]
fn too_long_datagrams_are_reported_not_fragmented() -> Result<()> {
    let bed = Bed::new(Plan { overlay_mtu: 1450, ..Plan::default() })?;
    let socket = bed.in_ns("c0", || UdpSocket::bind("0.0.0.0:0"))??;
    bed.exec("c0", &format!("ping -q -c 1 -W 2 {}", inner_v4(1, "w")))?;
    socket.send_to(&[1; 1420], (inner_v4(1, "w").as_str(), 5))?;
    let heard = || {
        let inputs = bed.inputs[0].lock().unwrap();
        Ok(inputs.iter().any(|i| matches!(i, NodeInput::MessageTooLong { frame_len: 1462, .. })))
    };
    eventually("message_too_long", heard)?;
    ensure!(bed.router(0).stats().dropped(DropReason::TooLong) == 1);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn networks_detach_and_attach_again_and_the_port_is_exclusive() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    let ping = || bed.exec("c0", &format!("ping -q -c 1 -W 1 {}", inner_v4(1, "w")));
    ping()?;
    bed.router(1).detach(NETWORK);
    bed.router(1).detach(NETWORK);
    ensure!(ping().is_err());
    ensure!(bed.exec("h1", "ip link show tap").is_ok(), "the device stays");
    let before = bed.router(1).stats().dropped(DropReason::UnknownNetwork);
    ensure!(before > 0);
    bed.in_host(1, || bed.router(1).attach(NETWORK, "tap"))??;
    eventually("the network is back", || Ok(ping().is_ok()))?;
    let second = bed.in_host(1, || {
        let config = weft_router::RouterConfig { port: bed::PORT, ..Default::default() };
        weft_router::Router::start(config, Default::default(), |_| true).map(drop)
    })?;
    ensure!(matches!(second, Err(weft_router::StartError::PortInUse(bed::PORT))), "{second:?}");
    Ok(())
}
