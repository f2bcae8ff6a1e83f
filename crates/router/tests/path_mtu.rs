//! Paths that carry less than the interfaces say, and routers on them that say nothing of it.

#[path = "bed/bed.rs"]
mod bed;
#[path = "bed/traffic.rs"]
mod traffic;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, Result, ensure};
use bed::{Bed, LIMIT, Plan, eventually, inner_v4, inner_v6};
use traffic::{noise, tcp_echo, udp};
use weft_dataplane::{DropReason, PathView};

/// What IPv4, UDP and weft's headers take of an underlay's packet.
const OVERHEAD: u16 = 82;

fn limited(underlay: u16) -> PathView {
    PathView { overlay_mtu: underlay - OVERHEAD, limited: true }
}

/// A bed whose underlay carries so much towards host 0 and host 1.
fn bed(carries: [u16; 2], paths: [PathView; 2]) -> Result<Bed> {
    Bed::new(Plan { black_hole: Some(carries), paths, ..Plan::default() })
}

fn ping(bed: &Bed, options: &str, ip: &str) -> Result<String> {
    bed.exec("c0", &format!("ping -q -i 0.05 -W 2 {options} {ip}"))
}

/// Everything passes once the containers were told, which takes the first packet that is too long.
fn whole_path(bed: &Bed, overlay_mtu: u16) -> Result<()> {
    let data = noise(3_000_000, 7);
    for (ip, headers_len) in [(inner_v4(1, "w"), 28), (inner_v6(1, "w"), 48)] {
        tcp_echo(bed, &ip, &data)?;
        ping(bed, &format!("-c 3 -s {}", overlay_mtu - headers_len), &ip)?;
        ping(bed, "-c 3 -s 10000", &ip)?;
    }
    let lens = || (1100..1400).step_by(13).chain([4000, 9001, 60_000]);
    udp(bed, &inner_v4(0, "w"), &inner_v4(1, "w"), lens())?;
    udp(bed, &inner_v6(0, "w"), &inner_v6(1, "w"), lens())
}

#[test]
#[ignore = "needs root"]
fn all_passes_a_black_hole_of_every_size() -> Result<()> {
    for underlay in [1280, 1362, 1400, 1492] {
        let bed = bed([underlay; 2], [limited(underlay); 2])?;
        whole_path(&bed, 1418).with_context(|| format!("underlay of {underlay}"))?;
        let stats = bed.router(0).stats();
        ensure!(stats.mss_clamped > 0, "{underlay}: {stats:?}");
        ensure!(stats.dropped(DropReason::PathMtu) > 0, "nobody was told: {stats:?}");
        ensure!(stats.dropped(DropReason::TooLong) == 0, "{stats:?}");
        // With clamped TCP nothing is cut again.
        ensure!(stats.recut == 0, "{stats:?}");
        // IPv6 may always send 1280 bytes.
        ensure!(stats.fragmented > 0 || underlay > 1280, "{underlay}: {stats:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_hole_is_one() -> Result<()> {
    let bed = bed([1400; 2], [PathView::UNLIMITED; 2])?;
    let ip = inner_v4(1, "w");
    ensure!(ping(&bed, "-c 2 -s 1290", &ip).is_ok());
    ensure!(ping(&bed, "-c 2 -s 1291", &ip).is_err(), "a packet of 1319 bytes passes 1400 less 82");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn while_the_path_is_not_known_nothing_is_lost_and_nobody_is_told() -> Result<()> {
    let unknown = PathView { overlay_mtu: 1280 - OVERHEAD, limited: false };
    let bed = bed([1280; 2], [unknown; 2])?;
    for ip in [inner_v4(1, "w"), inner_v6(1, "w")] {
        ping(&bed, "-c 1 -s 1300", &ip)?;
        ping(&bed, "-c 1 -s 10000", &ip)?;
        tcp_echo(&bed, &ip, &noise(3_000_000, 9))?;
    }
    let lens = || (1100..1400).step_by(13).chain([4000, 9001, 60_000]);
    udp(&bed, &inner_v4(0, "w"), &inner_v4(1, "w"), lens())?;
    udp(&bed, &inner_v6(0, "w"), &inner_v6(1, "w"), lens())?;
    let [stats, there] = [0, 1].map(|i| bed.router(i).stats());
    ensure!(stats.dropped(DropReason::PathMtu) == 0 && stats.mss_clamped == 0, "{stats:?}");
    ensure!(stats.recut > 0 && stats.fragmented > 0 && there.reassembled > 0, "{stats:?} {there:?}");
    ensure!(there.dropped(DropReason::FragmentLost) == 0, "{there:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn datagrams_that_leave_together_stay_as_they_are() -> Result<()> {
    let unknown = PathView { overlay_mtu: 1280 - OVERHEAD, limited: false };
    let bed = bed([1280; 2], [unknown; 2])?;
    let address = |i| -> SocketAddr { format!("{}:9", inner_v4(i, "w")).parse().expect("an address") };
    let open = |i: usize| -> Result<weft_sys::UdpSocket> {
        let mut group =
            bed.in_ns(&format!("c{i}"), || weft_sys::UdpSocket::bind_group(address(i), 1, 4))??;
        Ok(group.pop().expect("one was asked for"))
    };
    let (sender, receiver) = (open(0)?, open(1)?);
    let len = 1380;
    let train = noise(len * 40 - 100, 3);
    sender.send_train(&train, len, address(1))?;
    ensure!(sender.segment_support() != weft_sys::SegmentSupport::Single, "no trains from containers");
    let mut got: Vec<Vec<u8>> = Vec::new();
    let mut buf = vec![0; 1 << 16];
    eventually("all datagrams", || {
        while let Ok(received) = receiver.receive(&mut buf) {
            got.extend(buf[..received.len].chunks(received.segment_len).map(<[u8]>::to_vec));
        }
        Ok(got.len() >= 40)
    })?;
    let sent: Vec<Vec<u8>> = train.chunks(len).map(<[u8]>::to_vec).collect();
    ensure!(got == sent, "the datagrams are not those that were sent");
    ensure!(bed.router(0).stats().fragmented >= 39, "{:?}", bed.router(0).stats());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn connections_that_began_before_go_on_when_the_path_shrinks() -> Result<()> {
    let bed = bed([1500; 2], [PathView::UNLIMITED; 2])?;
    let ip = inner_v4(1, "w");
    let listener = bed.in_ns("c1", || TcpListener::bind((ip.as_str(), 7)))??;
    let mut near = bed.in_ns("c0", || TcpStream::connect((ip.as_str(), 7)))??;
    let (mut far, _) = listener.accept()?;
    far.set_read_timeout(Some(LIMIT))?;
    near.set_write_timeout(Some(LIMIT))?;
    let data = noise(4_000_000, 11);
    let mut pass = || -> Result<()> {
        let mut got = vec![0; data.len()];
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| near.write_all(&data));
            far.read_exact(&mut got)?;
            sender.join().expect("the sender does not panic")
        })?;
        ensure!(got == data);
        Ok(())
    };
    pass()?;
    ensure!(bed.router(0).stats().recut == 0);
    bed.exec("m", "ip route change 192.0.2.2/32 dev to1 mtu lock 1400")?;
    bed.publish(0, |snapshot| snapshot.peers.iter_mut().for_each(|peer| peer.path = limited(1400)));
    pass()?;
    let stats = bed.router(0).stats();
    ensure!(stats.recut > 0 && stats.mss_clamped == 0, "{stats:?}");
    ensure!(stats.dropped(DropReason::PathMtu) == 0, "TCP needs not be told: {stats:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn each_direction_has_its_own() -> Result<()> {
    let bed = bed([1500, 1362], [limited(1362), PathView::UNLIMITED])?;
    whole_path(&bed, 1418)?;
    let [from_0, from_1] = [0, 1].map(|i| bed.router(i).stats());
    // What host 0 may send is said in the SYNs that it gets.
    ensure!(from_0.mss_clamped > 0 && from_1.mss_clamped == 0, "{from_0:?} {from_1:?}");
    ensure!(from_0.dropped(DropReason::PathMtu) > 0 && from_1.dropped(DropReason::PathMtu) == 0);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn jumbo_interfaces_on_an_ordinary_path() -> Result<()> {
    let plan = Plan {
        underlay_mtu: 9000,
        overlay_mtu: 8918,
        black_hole: Some([1500; 2]),
        paths: [limited(1500); 2],
        ..Plan::default()
    };
    whole_path(&Bed::new(plan)?, 8918)?;
    let plan = Plan { black_hole: Some([9000; 2]), paths: [limited(9000); 2], ..plan };
    let bed = Bed::new(plan)?;
    whole_path(&bed, 8918)?;
    let stats = bed.router(0).stats();
    ensure!(stats.fragmented == 0 && stats.recut == 0 && stats.mss_clamped == 0, "{stats:?}");
    Ok(())
}
