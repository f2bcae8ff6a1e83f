//! Real containers in multicast groups.

#[path = "bed/bed.rs"]
mod bed;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Bed, LIMIT, MACS, NETWORK, Plan, eventually, inner_v4};
use weft_dataplane::{DropReason, Groups};
use weft_router::NodeInput;

const V4: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
const V6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x777);
const PORT: u16 = 9;

fn interface_index(bed: &Bed, ns: &str) -> Result<u32> {
    Ok(bed.exec(ns, "cat /sys/class/net/eth-w/ifindex")?.trim().parse()?)
}

/// Sockets of container 0 in both groups.
fn join(bed: &Bed) -> Result<[UdpSocket; 2]> {
    let interface = interface_index(bed, "c0")?;
    let address: Ipv4Addr = inner_v4(0, "w").parse()?;
    let sockets = bed.in_ns("c0", || -> std::io::Result<[UdpSocket; 2]> {
        let v4 = UdpSocket::bind((V4, PORT))?;
        v4.join_multicast_v4(&V4, &address)?;
        let v6 = UdpSocket::bind(SocketAddrV6::new(V6, PORT, 0, 0))?;
        v6.join_multicast_v6(&V6, interface)?;
        Ok([v4, v6])
    })??;
    for socket in &sockets {
        socket.set_read_timeout(Some(LIMIT))?;
    }
    Ok(sockets)
}

fn send(bed: &Bed, text: &'static [u8]) -> Result<()> {
    let interface = interface_index(bed, "c1")?;
    bed.in_ns("c1", move || -> std::io::Result<()> {
        UdpSocket::bind("0.0.0.0:0")?.send_to(text, (V4, PORT))?;
        UdpSocket::bind("[::]:0")?.send_to(text, SocketAddrV6::new(V6, PORT, 0, interface))?;
        Ok(())
    })??;
    Ok(())
}

/// What host 0's node learnt from the reports so far.
fn learnt(bed: &Bed) -> Vec<IpAddr> {
    let (mut groups, now) = (Groups::default(), Instant::now());
    groups.add_network(NETWORK, now);
    for input in bed.inputs[0].lock().unwrap().iter() {
        if let NodeInput::GroupReport { network, mac, bytes } = input {
            // Reports of link-local groups come, too.
            let _ = groups.handle_report(*network, *mac, bytes, now);
            assert_eq!((*network, *mac), (NETWORK, MACS[0]));
        }
    }
    groups.subscriptions(NETWORK).collect()
}

fn bed() -> Result<Bed> {
    let bed = Bed::new(Plan::default())?;
    for c in ["c0", "c1"] {
        bed.exec(c, "ip route add 224.0.0.0/4 dev eth-w")?;
    }
    Ok(bed)
}

#[test]
#[ignore = "needs root"]
fn a_group_reaches_who_joined_it() -> Result<()> {
    let bed = bed()?;
    let dropped = || bed.router(1).stats().dropped(DropReason::NoSubscriber);
    let before = dropped();
    send(&bed, b"nobody")?;
    eventually("no_subscriber", || Ok(dropped() >= before + 2))?;

    let sockets = join(&bed)?;
    eventually("the reports", || Ok(learnt(&bed) == [IpAddr::V4(V4), IpAddr::V6(V6)]))?;
    let wanted = learnt(&bed);
    bed.publish(1, |s| {
        let view = s.networks.get_mut(&NETWORK).expect("the network");
        view.subscribers = wanted.iter().map(|group| (*group, vec![0])).collect();
    });
    send(&bed, b"members")?;
    for socket in &sockets {
        let mut buf = [0; 16];
        let n = socket.recv(&mut buf)?;
        ensure!(&buf[..n] == b"members", "{:?}", &buf[..n]);
    }
    drop(sockets);
    eventually("the leaves", || Ok(learnt(&bed).is_empty()))
}

#[test]
#[ignore = "needs root"]
fn a_query_brings_out_who_joined_before() -> Result<()> {
    let bed = bed()?;
    let _sockets = join(&bed)?;
    eventually("the reports", || Ok(learnt(&bed).len() == 2))?;
    // Linux repeats an unasked report within a second (RFC 3376, section 8.11); only after that an answer is one.
    let mut quiet_since = Instant::now();
    let mut n_before = 0;
    eventually("an end of unasked reports", || {
        let n = bed.inputs[0].lock().unwrap().len();
        if n != n_before {
            (n_before, quiet_since) = (n, Instant::now());
        }
        Ok(quiet_since.elapsed() > Duration::from_secs(3))
    })?;
    bed.inputs[0].lock().unwrap().clear();
    let mut groups = Groups::default();
    groups.add_network(NETWORK, Instant::now());
    groups.handle_timeout(Instant::now());
    while let Some(query) = groups.poll_query() {
        bed.router(0).inject(query.network, &query.frame);
    }
    eventually("the answers", || Ok(learnt(&bed) == [IpAddr::V4(V4), IpAddr::V6(V6)]))
}

#[test]
#[ignore = "needs root"]
fn without_multicast_broadcast_and_neighbour_discovery_pass() -> Result<()> {
    let bed = bed()?;
    let _sockets = join(&bed)?;
    for i in 0..2 {
        bed.publish(i, |s| s.networks.values_mut().for_each(|view| view.multicast = false));
    }
    let dropped = || bed.router(1).stats().dropped(DropReason::MulticastOff);
    let before = dropped();
    send(&bed, b"nobody")?;
    eventually("multicast_off", || Ok(dropped() >= before + 2))?;
    bed.exec("c0", &format!("ping -q -c 1 -W 5 {}", bed::inner_v6(1, "w")))?;
    Ok(())
}
