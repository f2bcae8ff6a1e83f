//! Bad handshakes at a rate, from many source ports.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use rand::{Rng as _, RngExt as _};
use serde::Serialize;
use weft_noise::{ClusterSecret, Suite};
use weft_wire::{Header, Lane, MessageType, ReceiverIndex};

use crate::secret::{self, Mac1};

/// Datagrams made before the clock runs.
const N_PREPARED: usize = 4096;
/// Noise message and both MACs of an Init.
const INIT_BODY_LEN: usize = 80;
/// Datagrams between two looks at the clock.
const MAX_BURST: u64 = 256;
/// How long to rest when ahead of the rate.
const REST: Duration = Duration::from_micros(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// Random bytes behind headers of every type
    Random,
    /// Of an Init's form, with a wrong mac1
    WrongMac1,
    /// With the right mac1 and a Noise message that is garbage
    RightMac1,
}

#[derive(Debug, Args)]
pub(crate) struct FloodArgs {
    /// Whom to flood
    #[arg(long)]
    target: SocketAddr,
    #[arg(long, value_enum, default_value_t = Kind::WrongMac1)]
    kind: Kind,
    /// The cluster's secret, for the right mac1
    #[arg(long, value_name = "FILE", required_if_eq("kind", "right-mac1"))]
    secret: Option<PathBuf>,
    /// The cluster's suite
    #[arg(long, default_value_t = Suite::auto())]
    suite: Suite,
    /// Datagrams a second
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Source ports
    #[arg(long, default_value_t = 64)]
    sources: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Flooded {
    kind: Kind,
    sent: u64,
    /// Refused by this host's own kernel.
    unsent: u64,
    seconds: f64,
    /// Datagrams a second that were reached.
    rate: f64,
    received_datagrams: u64,
    received_bytes: u64,
}

pub(crate) fn run(args: &FloodArgs) -> Result<Flooded> {
    let prepared = prepare(args)?;
    let sockets = sockets(args.target, args.sources.max(1))?;
    // A route looked up once is a third of the work saved.
    sockets.iter().try_for_each(|socket| socket.connect(args.target))?;
    let (started, lasting) = (Instant::now(), Duration::from_secs_f64(args.seconds));
    let (mut sent, mut unsent) = (0_u64, 0_u64);
    let mut turns = prepared.iter().cycle().zip(sockets.iter().cycle());
    loop {
        let elapsed = started.elapsed();
        if elapsed >= lasting {
            break;
        }
        let due = (elapsed.as_secs_f64() * f64::from(args.rate)) as u64;
        if sent + unsent >= due {
            thread::sleep(REST);
            continue;
        }
        for _ in sent + unsent..due.min(sent + unsent + MAX_BURST) {
            let Some((datagram, socket)) = turns.next() else { break };
            match send(socket, datagram) {
                Ok(_) => sent += 1,
                Err(_) => unsent += 1,
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let (received_datagrams, received_bytes) = drain(&sockets);
    let rate = sent as f64 / seconds;
    Ok(Flooded { kind: args.kind, sent, unsent, seconds, rate, received_datagrams, received_bytes })
}

/// Sends, whatever was said of an earlier datagram: a port where nobody listens is refused once a call.
fn send(socket: &UdpSocket, datagram: &[u8]) -> std::io::Result<usize> {
    match socket.send(datagram) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => socket.send(datagram),
        result => result,
    }
}

/// Sockets on ports of their own that never block.
pub(crate) fn sockets(target: SocketAddr, n: usize) -> Result<Vec<UdpSocket>> {
    let any = if target.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    (0..n)
        .map(|_| {
            let socket = UdpSocket::bind(any)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect()
}

/// What has come back: datagrams and bytes.
pub(crate) fn drain(sockets: &[UdpSocket]) -> (u64, u64) {
    let (mut datagrams, mut bytes) = (0, 0);
    let mut buf = [0; 2048];
    for socket in sockets {
        loop {
            match socket.recv_from(&mut buf) {
                Ok((len, _)) => {
                    datagrams += 1;
                    bytes += len as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An ICMP error to something sent before.
                Err(_) => {}
            }
        }
    }
    (datagrams, bytes)
}

fn prepare(args: &FloodArgs) -> Result<Vec<Vec<u8>>> {
    let mac1 = match (&args.secret, args.kind) {
        (Some(file), Kind::RightMac1) => Some(Mac1::new(&secret::read(file)?, args.suite)?),
        _ => None,
    };
    (0..N_PREPARED)
        .map(|n| match (args.kind, &mac1) {
            (Kind::Random, _) => Ok(random(n)),
            (_, None) => Ok(init()),
            (_, Some(mac1)) => {
                let mut datagram = init();
                let (body, place) = datagram.split_last_chunk_mut::<16>().context("an Init has a mac1")?;
                *place = mac1.of(body)?;
                Ok(datagram)
            }
        })
        .collect()
}

/// Every type in turn, for any session and lane.
fn random(n: usize) -> Vec<u8> {
    let mut rng = rand::rng();
    let message = MessageType::from_u8(n as u8 % 5 + 1).unwrap_or(MessageType::Init);
    let header = Header { message, receiver: ReceiverIndex(rng.next_u32()), counter: rng.next_u64() };
    let mut body = vec![0; rng.random_range(0..600)];
    rng.fill_bytes(&mut body);
    [&header.to_bytes()[..], &body].concat()
}

/// Of an Init's length and header, but for its contents.
fn init() -> Vec<u8> {
    let mut rng = rand::rng();
    let sender = ReceiverIndex::new(rng.random_range(1..1 << 28), Lane::of_worker(0));
    let counter = u64::from(sender.0) << 32;
    let header = Header { message: MessageType::Init, receiver: ReceiverIndex(0), counter };
    let mut body = [0; INIT_BODY_LEN];
    rng.fill_bytes(&mut body);
    // mac2: no cookie.
    if let Some(mac2) = body.get_mut(INIT_BODY_LEN - 32..INIT_BODY_LEN - 16) {
        mac2.fill(0);
    }
    [&header.to_bytes()[..], &body].concat()
}

/// An Init as a stranger makes it, with a secret of his own.
pub(crate) fn strangers_init(suite: Suite, secret: ClusterSecret) -> Result<Vec<u8>> {
    let (mut rng, now) = (rand::rng(), Instant::now());
    let config = weft_noise::HandshakeConfig {
        identity: weft_noise::Identity::generate(&mut rng),
        secrets: vec![secret],
        suite,
        hello: Vec::new(),
        now,
    };
    let mut handshakes = weft_noise::Handshakes::new(config)?;
    handshakes.initiate(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), 0, now, &mut rng);
    Ok(handshakes.poll_transmit().context("a handshake begins with an Init")?.1)
}
