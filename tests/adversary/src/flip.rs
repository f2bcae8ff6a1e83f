//! Captured datagrams, each with each single bit flipped.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, thread, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use weft_wire::HEADER_LEN;

use crate::{capture, port::Port};

/// Bits behind the header that are flipped of a datagram that is not the first of its type.
const N_SAMPLED: usize = 64;
const BURST: usize = 64;
const REST: Duration = Duration::from_millis(2);

#[derive(Debug, Args)]
pub(crate) struct FlipArgs {
    /// A capture by tcpdump
    file: PathBuf,
    /// Where the host under attack is connected
    #[arg(long)]
    interface: String,
    /// Its address: what others were sent is left out
    #[arg(long)]
    to: IpAddr,
    /// Datagrams of the capture that are taken
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Flipped {
    /// Datagrams of the capture that were taken.
    captured: u64,
    /// Their types.
    types: BTreeSet<u8>,
    sent: u64,
}

pub(crate) fn run(args: &FlipArgs) -> Result<Flipped> {
    let mut datagrams = capture::datagrams_to(&args.file, args.to)?;
    datagrams.truncate(args.limit);
    ensure!(!datagrams.is_empty(), "the capture shows no datagram to {}", args.to);
    let port = Port::open(&args.interface)?;
    let mut report = Flipped { captured: datagrams.len() as u64, types: BTreeSet::new(), sent: 0 };
    for udp in &datagrams {
        let is_first = udp.payload.first().is_some_and(|kind| report.types.insert(*kind));
        let n_sampled = if is_first { usize::MAX } else { N_SAMPLED };
        for flipped in flips(&udp.payload, n_sampled) {
            port.send(&udp.frame_with(&flipped))?;
            report.sent += 1;
            if report.sent.is_multiple_of(BURST as u64) {
                thread::sleep(REST);
            }
        }
    }
    Ok(report)
}

/// `datagram` with every bit of its header flipped, and at most about `n_sampled` of those behind it, one at a time.
pub(crate) fn flips(datagram: &[u8], n_sampled: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
    let n_header = HEADER_LEN.min(datagram.len()) * 8;
    let n_behind = datagram.len() * 8 - n_header;
    let step = n_behind.div_ceil(n_sampled).max(1);
    let bits = (0..n_header).chain((n_header..datagram.len() * 8).step_by(step));
    bits.map(|bit| {
        let mut flipped = datagram.to_vec();
        if let Some(byte) = flipped.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        flipped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flip_changes_one_bit_and_no_two_are_the_same() {
        let datagram = vec![0xa5; 40];
        let all: BTreeSet<Vec<u8>> = flips(&datagram, usize::MAX).collect();
        assert_eq!(all.len(), 320);
        let n_changed = |flipped: &[u8]| -> u32 {
            flipped.iter().zip(&datagram).map(|(a, b)| (a ^ b).count_ones()).sum()
        };
        assert!(all.iter().all(|flipped| n_changed(flipped) == 1));
        assert_eq!(flips(&datagram, 12).count(), 128 + 12);
    }
}
