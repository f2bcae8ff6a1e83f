//! Datagrams of every type, by one who does not know the secret.

use std::{
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use rand::{Rng as _, RngExt as _};
use serde::Serialize;
use weft_noise::{ClusterSecret, Suite};
use weft_wire::{Header, MessageType, ReceiverIndex};

use crate::{
    flood::{drain, sockets, strangers_init},
    secret,
};

/// Time between two rounds.
const ROUND: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Whom to probe
    #[arg(long)]
    target: SocketAddr,
    /// The secret to probe with; a new one, of a cluster that nobody knows, without it
    #[arg(long, value_name = "FILE")]
    secret: Option<PathBuf>,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Probed {
    sent: u64,
    received_datagrams: u64,
    received_bytes: u64,
}

pub(crate) fn run(args: &ProbeArgs) -> Result<Probed> {
    let secret = match &args.secret {
        Some(file) => secret::read(file)?,
        None => ClusterSecret::generate(&mut rand::rng()),
    };
    let sockets = sockets(args.target, 4)?;
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut report = Probed { sent: 0, received_datagrams: 0, received_bytes: 0 };
    while Instant::now() < until {
        for (datagram, socket) in round(&secret)?.iter().zip(sockets.iter().cycle()) {
            // Refused by this host's kernel: counted as not sent.
            report.sent += u64::from(socket.send_to(datagram, args.target).is_ok());
        }
        thread::sleep(ROUND);
        let (datagrams, bytes) = drain(&sockets);
        report.received_datagrams += datagrams;
        report.received_bytes += bytes;
    }
    Ok(report)
}

/// What a stranger may try: handshakes of another cluster in either suite, every type at every length that it can have
/// and at others, and garbage.
fn round(secret: &ClusterSecret) -> Result<Vec<Vec<u8>>> {
    let mut rng = rand::rng();
    let mut all = vec![Vec::new()];
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        all.push(strangers_init(suite, secret.clone())?);
    }
    for message in (0..=u8::MAX).filter_map(MessageType::from_u8) {
        for len in [0, 15, 16, 24, 32, 39, 56, 80, 108, 116, 132, 148, 212, 1400] {
            let header = Header { message, receiver: ReceiverIndex(rng.next_u32()), counter: rng.next_u64() };
            let mut body = vec![0; len];
            rng.fill_bytes(&mut body);
            all.push([&header.to_bytes()[..], &body].concat());
        }
    }
    for kind in 0..=u8::MAX {
        let mut garbage = vec![0; rng.random_range(1..300)];
        rng.fill_bytes(&mut garbage);
        if let Some(first) = garbage.first_mut() {
            *first = kind;
        }
        all.push(garbage);
    }
    Ok(all)
}
