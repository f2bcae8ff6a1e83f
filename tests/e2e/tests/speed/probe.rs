//! Bytes on their way between two containers, compared with what was sent.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use weft_sys::UdpSocket as TrainSocket;

use crate::sandbox::Sandbox;

/// How long an answer may take that should come at once.
const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 4007;

/// `len` bytes that no shift, swap or loss leaves as they are; others for another `seed`.
fn noise(len: usize, seed: usize) -> &'static [u8] {
    const LEN: usize = 1 << 20;
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        words.take(LEN / 8).flatten().collect()
    });
    &bytes[seed * 97 % (LEN - len)..][..len]
}

/// Sends `len` bytes by TCP to `to`, which sends them back.
pub(crate) fn tcp(from: &Sandbox<'_>, to: &Sandbox<'_>, ipv6: bool, len: usize) -> Result<()> {
    let address = SocketAddr::new(to.address(ipv6), PORT);
    let listener = to.enter(|| TcpListener::bind(address))??;
    let stream = from.enter(|| TcpStream::connect_timeout(&address, LIMIT))??;
    let (echo, _) = listener.accept()?;
    for stream in [&stream, &echo] {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
    }
    let sent = noise(len, len);
    let mut echoed = Vec::with_capacity(len);
    thread::scope(|scope| -> Result<()> {
        let server = scope.spawn(|| -> io::Result<()> {
            io::copy(&mut &echo, &mut &echo)?;
            echo.shutdown(Shutdown::Write)
        });
        let sender = scope.spawn(|| -> io::Result<()> {
            // Odd sizes, so that super-frames end anywhere.
            for part in sent.chunks(50_021) {
                (&stream).write_all(part)?;
            }
            stream.shutdown(Shutdown::Write)
        });
        let received = (&stream).read_to_end(&mut echoed);
        let ended = [sender.join(), server.join()];
        received?;
        for result in ended {
            result.map_err(|_| anyhow!("a thread with a TCP connection panicked"))??;
        }
        Ok(())
    })
    .with_context(|| format!("TCP, {len} bytes to {address} and back"))?;
    ensure!(echoed == sent, "TCP: {} of {len} bytes came back from {address}, or others", echoed.len());
    Ok(())
}

/// Sends datagrams of the lengths by UDP to `to`, which sends each back.
pub(crate) fn udp(from: &Sandbox<'_>, to: &Sandbox<'_>, ipv6: bool, lens: &[usize]) -> Result<()> {
    let address = SocketAddr::new(to.address(ipv6), PORT);
    let near = from.enter(|| UdpSocket::bind((from.address(ipv6), 0)))??;
    let far = to.enter(|| UdpSocket::bind(address))??;
    near.connect(address)?;
    far.connect(near.local_addr()?)?;
    let mut buf = vec![0; 1 << 16];
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(LIMIT))?;
    }
    for &len in lens {
        let sent = noise(len, len);
        for (sender, receiver) in [(&near, &far), (&far, &near)] {
            let what = || format!("UDP, {len} bytes between {address} and {}", from.address(ipv6));
            sender.send(sent).with_context(what)?;
            let n = receiver.recv(&mut buf).with_context(what)?;
            ensure!(buf[..n] == *sent, "{}: {n} bytes came, or others", what());
        }
    }
    Ok(())
}

/// Sends a train of datagrams in one call (`UDP_SEGMENT`), which arrives as the same datagrams; then one back.
pub(crate) fn udp_train(
    from: &Sandbox<'_>,
    to: &Sandbox<'_>,
    ipv6: bool,
    len: usize,
    segment_len: usize,
) -> Result<()> {
    let bind = |sandbox: &Sandbox<'_>| -> Result<TrainSocket> {
        let address = SocketAddr::new(sandbox.address(ipv6), 0);
        let group = sandbox.enter(|| TrainSocket::bind_group(address, 1, 0))??;
        group.into_iter().next().context("a group of one has one socket")
    };
    let (near, far) = (bind(from)?, bind(to)?);
    let train = noise(len, segment_len);
    let expected: Vec<&[u8]> = train.chunks(segment_len).collect();
    for (sender, receiver) in [(&near, &far), (&far, &near)] {
        let to = receiver.local_addr()?;
        sender.send_train(train, segment_len, to)?;
        let got = collect(receiver, len)
            .with_context(|| format!("a train of {len} bytes in datagrams of {segment_len} to {to}"))?;
        ensure!(got == expected, "a train of {len} bytes in datagrams of {segment_len} to {to} is another");
    }
    Ok(())
}

/// The datagrams that arrive, until they have `len` bytes.
fn collect(socket: &TrainSocket, len: usize) -> Result<Vec<Vec<u8>>> {
    let (mut datagrams, mut n_got, mut buf) = (Vec::new(), 0, vec![0; 1 << 16]);
    let end = Instant::now() + LIMIT;
    while n_got < len {
        match socket.receive(&mut buf) {
            Ok(received) => {
                n_got += received.len;
                datagrams.extend(buf[..received.len].chunks(received.segment_len).map(<[u8]>::to_vec));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                thread::yield_now();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!("{n_got} of {len} bytes came"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(datagrams)
}
