//! What an operator looks at: copies of frames, and datagrams that carry nothing.

#[path = "bed/bed.rs"]
mod bed;
#[path = "bed/traffic.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod traffic;

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bed::{Bed, NETWORK, Plan, eventually, inner_v4};
use traffic::{noise, tcp_echo};
use weft_dataplane::{DropReason, Packet, PathView, Transport};
use weft_router::{CaptureFilter, CapturedFrame};
use weft_wire::PeerId;

const OTHER: PeerId = PeerId([1; 16]);

#[test]
#[ignore = "needs root"]
fn a_capture_has_every_byte_of_a_transfer_and_none_after_its_end() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    let (sender, frames) = mpsc::sync_channel::<CapturedFrame>(100_000);
    let filter = CaptureFilter { networks: vec![NETWORK], peer: Some(OTHER), snap_len: 65_535 };
    let capture = bed.router(0).capture(filter, move |frame| sender.try_send(frame).is_ok());
    let capture = capture.context("nobody else looks")?;
    let data = noise(3_000_000, 5);
    tcp_echo(&bed, &inner_v4(1, "w"), &data)?;
    capture.end();
    ensure!(capture.n_dropped() == [0]);
    let mut sums = [0_usize; 2];
    let mut longest = 0;
    for mut frame in frames.try_iter() {
        longest = longest.max(frame.len);
        frame.complete_checksum();
        ensure!(!frame.partial && frame.bytes.len() == frame.len);
        // The containers' kernels look for neighbours and routers too.
        let packet = Packet::parse(&frame.bytes).filter(|p| p.transport == Transport::Tcp && !p.ipv6);
        let Some(packet) = packet else { continue };
        // Whole, its sum with the pseudo-header's is all ones: what tcpdump calls correct.
        ensure!(is_correct(&frame.bytes, &packet), "a wrong checksum");
        sums[usize::from(frame.inbound)] += packet.end - packet.payload;
    }
    // Segments that were sent twice are seen twice.
    ensure!(sums.iter().all(|sum| *sum >= data.len()), "{sums:?}");
    ensure!(longest <= 1418 + 14, "super-frames are cut: {longest}");
    tcp_echo(&bed, &inner_v4(1, "w"), &data[..1000])?;
    ensure!(frames.try_iter().count() == 0, "it goes on");
    Ok(())
}

fn is_correct(frame: &[u8], packet: &Packet) -> bool {
    let words = |bytes: &[u8]| -> u64 {
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
    };
    let len = packet.end - packet.l4;
    let mut sum =
        words(&frame[packet.l3 + 12..packet.l3 + 20]) + 6 + len as u64 + words(&frame[packet.l4..packet.end]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

#[test]
#[ignore = "needs root"]
fn a_bench_keeps_to_rate_and_time_and_all_is_counted() -> Result<()> {
    let paths = [PathView { overlay_mtu: 1418, limited: false }; 2];
    let bed = Bed::new(Plan { paths, ..Plan::default() })?;
    let receiver = bed.router(1).expect_bench(PeerId([0; 16]), 7);
    // 80 Mb/s for half a second.
    let time = Duration::from_millis(500);
    let sender = bed.router(0).send_bench(OTHER, 7, time, 10_000_000)?;
    eventually("the end", || Ok(sender.is_done()))?;
    let sent = sender.counts();
    ensure!((2_000_000..=5_500_000).contains(&sent.len) && sent.len == sent.n * 1432, "{sent:?}");
    eventually("all of it", || Ok(receiver.counts() == sent))?;
    ensure!(bed.router(0).stats().datagrams_sent >= sent.n, "they are counted as any others");

    // Nobody counts any more, or another run: it is dropped, and that is seen.
    drop(receiver);
    let unasked = || bed.router(1).stats().dropped(DropReason::BenchUnasked);
    let late = bed.router(0).send_bench(OTHER, 7, time, 1_000_000)?;
    eventually("what is not asked for", || Ok(unasked() > 0))?;
    drop(late);
    let other = bed.router(1).expect_bench(PeerId([0; 16]), 8);
    let wrong = bed.router(0).send_bench(OTHER, 9, time, 1_000_000)?;
    eventually("the end of the wrong one", || Ok(wrong.is_done()))?;
    ensure!(other.counts().n == 0);
    Ok(())
}
