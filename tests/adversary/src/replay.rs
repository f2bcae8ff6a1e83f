//! Captured datagrams, sent again.

use std::{net::IpAddr, path::PathBuf, thread, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;
use weft_wire::{Header, MessageType};

use crate::{capture, port::Port};

/// Datagrams between two rests, so that the receiver's queue holds them.
const BURST: usize = 64;
const REST: Duration = Duration::from_millis(2);

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A capture by tcpdump
    file: PathBuf,
    /// How often all of it is sent
    #[arg(long, default_value_t = 3)]
    times: u64,
    /// Where the host under attack is connected
    #[arg(long)]
    interface: String,
    /// Its address: what others were sent is left out
    #[arg(long)]
    to: IpAddr,
}

#[derive(Debug, Serialize)]
pub(crate) struct Replayed {
    /// Datagrams in the capture.
    captured: u64,
    /// Of these, of the type that sessions are made of.
    captured_data: u64,
    sent: u64,
    sent_data: u64,
}

pub(crate) fn run(args: &ReplayArgs) -> Result<Replayed> {
    let datagrams = capture::datagrams_to(&args.file, args.to)?;
    ensure!(!datagrams.is_empty(), "the capture shows no datagram to {}", args.to);
    let is_data = |payload: &[u8]| Header::parse(payload).is_some_and(|h| h.message == MessageType::Data);
    let captured_data = datagrams.iter().filter(|udp| is_data(&udp.payload)).count() as u64;
    let port = Port::open(&args.interface)?;
    for _ in 0..args.times {
        for burst in datagrams.chunks(BURST) {
            for udp in burst {
                port.send(&udp.frame_with(&udp.payload))?;
            }
            thread::sleep(REST);
        }
    }
    let captured = datagrams.len() as u64;
    Ok(Replayed {
        captured,
        captured_data,
        sent: captured * args.times,
        sent_data: captured_data * args.times,
    })
}
