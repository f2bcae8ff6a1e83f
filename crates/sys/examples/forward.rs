//! Forwards between a TAP and the same program on another host, with the calls and offloads that weft uses and nothing else:
//! no cipher, no check of a frame, no table, no joining of segments. No overlay over TAP and UDP carries one stream faster, so
//! `cargo xtask bench` measures it as the bound.
//!
//! `forward TAP PORT PEER:PORT`, one thread. A super-frame of the TAP must fit into one train.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use weft_sys::{Epoll, Events, Tap, UdpSocket};

const TAP: u64 = 0;
const UDP: u64 = 1;
/// What a datagram carries over IPv4 on a link of 1500 bytes.
const SEGMENT: usize = 1472;
const MAX_FRAME_LEN: usize = 1 << 16;
/// Frames that are read before what was read is sent.
const BATCH: usize = 32;
/// Receive calls before the TAP gets its turn.
const MAX_CALLS: usize = 16;
/// As weft's workers do.
const STAY_AWAKE: Duration = Duration::from_micros(100);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tap, port, peer] = &args[..] else { return Err("forward TAP PORT PEER:PORT".into()) };
    let peer: SocketAddr = peer.parse()?;
    let tap = Tap::open(tap, 1)?.pop().ok_or("no queue")?;
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.parse()?));
    let socket = UdpSocket::bind_group(local, 1, 0)?.pop().ok_or("no socket")?;
    let epoll = Epoll::new()?;
    epoll.add(&tap, TAP)?;
    epoll.add(&socket, UDP)?;
    let (mut events, mut awake_until) = (Events::new(), Instant::now());
    let mut buf = vec![0; BATCH * MAX_FRAME_LEN];
    loop {
        let awake = Instant::now() < awake_until;
        epoll.wait(&mut events, awake.then_some(Duration::ZERO))?;
        if awake && events.is_empty() {
            std::thread::yield_now();
            continue;
        }
        for token in events.tokens() {
            if token == TAP {
                leave(&tap, &socket, peer, &mut buf)?;
            } else {
                arrive(&tap, &socket, &mut buf);
            }
        }
        awake_until = Instant::now() + STAY_AWAKE;
    }
}

/// From the TAP to the other host. A super-frame is a train; so are small frames of one length that follow each other.
fn leave(tap: &Tap, socket: &UdpSocket, peer: SocketAddr, buf: &mut [u8]) -> io::Result<()> {
    let (mut start, mut end, mut frame_len) = (0, 0, 0);
    for _ in 0..BATCH {
        let Some(free) = buf.get_mut(end..end + MAX_FRAME_LEN) else { break };
        let len = match tap.read(free) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        if start < end && (len != frame_len || len > SEGMENT) {
            send(socket, &buf[start..end], frame_len, peer);
            start = end;
        }
        (end, frame_len) = (end + len, len);
    }
    if start < end {
        send(socket, &buf[start..end], frame_len, peer);
    }
    Ok(())
}

fn send(socket: &UdpSocket, train: &[u8], frame_len: usize, peer: SocketAddr) {
    // The other end may not be there yet.
    if let Err(error) = socket.send_train(train, frame_len.min(SEGMENT), peer) {
        eprintln!("not sent: {error}");
    }
}

/// From the other host to the TAP.
fn arrive(tap: &Tap, socket: &UdpSocket, buf: &mut [u8]) {
    for _ in 0..MAX_CALLS {
        let Ok(received) = socket.receive(buf) else { break };
        // Whole segments are a super-frame's; shorter ones are frames.
        let len = if received.segment_len == SEGMENT { received.len } else { received.segment_len };
        for frame in buf[..received.len].chunks(len.max(1)) {
            let whole = 0..frame.len() as u32;
            if let Err(error) = tap.write(frame, std::slice::from_ref(&whole)) {
                eprintln!("not written: {error}");
            }
        }
    }
}
