//! What a verdict, cutting and joining cost: `cargo bench -p weft-dataplane`.

use std::hint::black_box;
use std::net::IpAddr;
use std::ops::Range;

use criterion::{Criterion, Throughput};
use weft_dataplane::{
    Coalescer, GsoKind, LastSender, Neighbor, NetworkView, Owner, Segments, Verdict, VnetHdr,
};
use weft_wire::{HEADER_LEN, INNER_HEADER_LEN, Mac, NetworkId, TAG_LEN};

/// Ethernet, IPv4, TCP with timestamps.
const HEADERS_LEN: usize = 14 + 20 + 32;
/// Payload of a segment on an overlay of 1418 bytes.
const SEGMENT_LEN: usize = 1418 - 20 - 32;
/// Segments in the longest super-frame that IP's length field can say.
const N_SPLIT: usize = (65_535 - 52) / SEGMENT_LEN;
const N_JOINED: usize = 44;
const N_ENDPOINTS: u32 = 1000;

fn mac(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    Mac([2, 0x42, a, b, c, d])
}

/// The headers of a super-frame with `payload_len` bytes of TCP payload.
fn headers(payload_len: usize) -> [u8; HEADERS_LEN] {
    let mut headers = [0; HEADERS_LEN];
    headers[..6].copy_from_slice(&mac(1).0);
    headers[6..12].copy_from_slice(&mac(0).0);
    headers[12..14].copy_from_slice(&[8, 0]);
    let total_len = u16::try_from(52 + payload_len).expect("it fits IP's length field");
    let [l0, l1] = total_len.to_be_bytes();
    // Not to be fragmented, TCP.
    headers[14..34].copy_from_slice(&[0x45, 0, l0, l1, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    // Header length 32, ACK.
    headers[46..48].copy_from_slice(&[8 << 4, 0x10]);
    headers
}

fn vnet() -> VnetHdr {
    VnetHdr {
        needs_csum: true,
        gso: GsoKind::TcpV4,
        hdr_len: HEADERS_LEN as u16,
        gso_size: SEGMENT_LEN as u16,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHdr::PLAIN
    }
}

fn forward(criterion: &mut Criterion) {
    let view = NetworkView {
        overlay_mtu: 1418,
        fdb: (1..=N_ENDPOINTS).map(|i| (mac(i), i as usize % 8)).collect(),
        members: (0..8).collect(),
        local: [mac(0)].into_iter().collect(),
        hosts: [(IpAddr::from([10, 0, 0, 1]), Neighbor { mac: mac(0), owner: Owner::Local })]
            .into_iter()
            .collect(),
        ..NetworkView::default()
    };
    let network = NetworkId::from_u48(1);
    let frames: Vec<_> = (1..=N_ENDPOINTS)
        .map(|i| {
            let mut frame = headers(1000);
            frame[..6].copy_from_slice(&mac(i).0);
            frame
        })
        .collect();
    assert_eq!(view.forward(&frames[8]), Verdict::Unicast(1));
    let flow = frames[0];
    criterion.bench_function("forward/1000 endpoints, one flow", |bencher| {
        bencher.iter(|| view.forward(black_box(&flow)));
    });
    let mut frames = frames.iter().cycle();
    criterion.bench_function("forward/1000 endpoints", |bencher| {
        bencher.iter(|| frames.next().map(|frame| view.forward(black_box(frame))));
    });
    let mut last = LastSender::default();
    assert_eq!(view.outgoing(network, &headers(1000), &mut last), Verdict::Unicast(1));
    criterion.bench_function("outgoing/1000 endpoints, one flow", |bencher| {
        bencher.iter(|| view.outgoing(network, black_box(&flow), &mut last));
    });
    criterion.bench_function("outgoing/1000 endpoints, one sender", |bencher| {
        bencher.iter(|| frames.next().map(|frame| view.outgoing(network, black_box(frame), &mut last)));
    });
    criterion.bench_function("outgoing/1000 endpoints, changing senders", |bencher| {
        bencher.iter(|| {
            frames.next().map(|frame| view.outgoing(network, black_box(frame), &mut LastSender::default()))
        });
    });
}

/// The places of `n` frames in a buffer, each with a datagram's headers and tag around it.
fn places(n: usize) -> impl Iterator<Item = Range<usize>> {
    const BEFORE: usize = HEADER_LEN + INNER_HEADER_LEN;
    const FRAME_LEN: usize = HEADERS_LEN + SEGMENT_LEN;
    (0..n).map(|i| {
        let start = i * (BEFORE + FRAME_LEN + TAG_LEN) + BEFORE;
        start..start + FRAME_LEN
    })
}

fn buffer(n: usize) -> Vec<u8> {
    vec![0; places(n).last().map_or(0, |place| place.end + TAG_LEN)]
}

/// Writes the headers of all segments; their payload is read into place by the kernel.
fn cut(head: &[u8], n: usize, buf: &mut [u8]) {
    let plan = Segments::plan(&vnet(), head, HEADERS_LEN + n * SEGMENT_LEN).expect("a sound super-frame");
    for (i, place) in places(plan.count()).enumerate() {
        plan.write_headers(i, &mut buf[place]);
    }
}

fn split(criterion: &mut Criterion) {
    let head = headers(N_SPLIT * SEGMENT_LEN);
    let mut buf = buffer(N_SPLIT);
    let mut group = criterion.benchmark_group("split");
    group.throughput(Throughput::Elements(N_SPLIT as u64));
    group.bench_function(format!("{N_SPLIT} segments"), |bencher| {
        bencher.iter(|| cut(black_box(&head), N_SPLIT, black_box(&mut buf)));
    });
    group.finish();
}

fn coalesce(criterion: &mut Criterion) {
    let mut buf = buffer(N_JOINED);
    cut(&headers(N_JOINED * SEGMENT_LEN), N_JOINED, &mut buf);
    let first = places(1).next().expect("one place").start;
    let first = first..first + HEADERS_LEN;
    let segment_headers = buf[first.clone()].to_vec();
    let mut coalescer = Coalescer::new();
    let mut group = criterion.benchmark_group("coalesce");
    group.throughput(Throughput::Elements(N_JOINED as u64));
    group.bench_function(format!("{N_JOINED} segments"), |bencher| {
        bencher.iter(|| {
            let buf = black_box(&mut buf);
            // Joining writes the super-frame's headers over the first segment's.
            buf[first.clone()].copy_from_slice(&segment_headers);
            for (i, place) in places(N_JOINED).enumerate() {
                if i == 0 {
                    coalescer.start(buf, place, true);
                } else {
                    assert!(coalescer.offer(buf, place, true), "segment {i} was refused");
                }
            }
            coalescer.finish(buf)
        });
    });
    assert_eq!(coalescer.n_frames(), N_JOINED);
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    forward(&mut criterion);
    split(&mut criterion);
    coalesce(&mut criterion);
    criterion.final_summary();
}
