//! What sealing and opening one data datagram costs, for both suites: `cargo bench -p weft-noise`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use weft_noise::{RecvSession, SendSession, Suite};
use weft_wire::{HEADER_LEN, Header, Lane, TAG_LEN};

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
/// Inner header and payload: of a small packet, and of a full segment on an underlay of 1500 bytes.
const LENS: [usize; 2] = [64, 1440];
/// Datagrams between two locks of a lane, as in a train.
const TRAIN: usize = 44;
const KEY: [u8; 32] = [7; 32];

type Bench = fn(&mut BenchmarkGroup<'_, WallTime>, Suite, usize);

fn datagram_len(len: usize) -> usize {
    HEADER_LEN + len + TAG_LEN
}

fn seal(group: &mut BenchmarkGroup<'_, WallTime>, suite: Suite, len: usize) {
    let session = SendSession::new(suite, &KEY, 1);
    let lane = Lane::of_worker(0);
    let mut datagram = vec![0; datagram_len(len)];
    // Not reserved, since a quick machine would use up a lane; the key protects nothing.
    let mut counter = 0;
    group.bench_function(BenchmarkId::new(suite.name(), len), |bencher| {
        bencher.iter(|| {
            session.seal(lane, counter, black_box(&mut datagram));
            counter += 1;
        });
    });
}

fn open(group: &mut BenchmarkGroup<'_, WallTime>, suite: Suite, len: usize) {
    let lane = Lane::of_worker(0);
    let mut train = vec![0; TRAIN * datagram_len(len)];
    group.bench_function(BenchmarkId::new(suite.name(), len), |bencher| {
        // Opening destroys the datagram, and works once: each train is sealed anew, off the clock.
        bencher.iter_custom(|n_iterations| {
            let send = SendSession::new(suite, &KEY, 1);
            let recv = RecvSession::new(suite, &KEY);
            let (mut left, mut counter, mut elapsed) = (n_iterations, 0, Duration::ZERO);
            while left > 0 {
                let n = left.min(TRAIN as u64);
                for datagram in train.chunks_mut(datagram_len(len)).take(n as usize) {
                    send.seal(lane, counter, datagram);
                    counter += 1;
                }
                let start = Instant::now();
                let mut lane = recv.lane(lane);
                for datagram in train.chunks_mut(datagram_len(len)).take(n as usize) {
                    let header = Header::parse(datagram).expect("it was sealed");
                    black_box(lane.open(&header, datagram).expect("it was sealed just now"));
                }
                elapsed += start.elapsed();
                left -= n;
            }
            elapsed
        });
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, bench) in [("seal", seal as Bench), ("open", open)] {
        let mut group = criterion.benchmark_group(name);
        for suite in SUITES {
            for len in LENS {
                group.throughput(Throughput::Bytes(len as u64));
                bench(&mut group, suite, len);
            }
        }
        group.finish();
    }
    criterion.final_summary();
}
