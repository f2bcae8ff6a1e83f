//! What containers send each other.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use anyhow::{Context as _, Result, ensure};

use crate::bed::{Bed, LIMIT};

/// Bytes that no shift or swap leaves as they are.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Sends `data` from container 0 to container 1 and back again.
pub(crate) fn tcp_echo(bed: &Bed, ip: &str, data: &[u8]) -> Result<()> {
    let bind = ip.to_owned();
    let listener = bed.in_ns("c1", move || TcpListener::bind((bind.as_str(), 7)))??;
    let server = std::thread::spawn(move || -> Result<()> {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        let (mut from, mut to) = (stream.try_clone()?, stream);
        std::io::copy(&mut from, &mut to)?;
        Ok(())
    });
    let to = ip.to_owned();
    let stream = bed.in_ns("c0", move || TcpStream::connect((to.as_str(), 7)))??;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let (mut writer, mut reader, sent) = (stream.try_clone()?, stream, data.to_vec());
    let sender = std::thread::spawn(move || -> Result<()> {
        // Odd sizes, so that super-frames end anywhere.
        for part in sent.chunks(100_003) {
            writer.write_all(part)?;
        }
        writer.shutdown(std::net::Shutdown::Write)?;
        Ok(())
    });
    let mut echoed = Vec::new();
    reader.read_to_end(&mut echoed)?;
    sender.join().expect("the sender does not panic")?;
    server.join().expect("the server does not panic")?;
    ensure!(echoed == data, "{ip}: {} of {} bytes came back, or others", echoed.len(), data.len());
    Ok(())
}

/// Sends datagrams of many lengths, and compares each with what arrives. They are counted by their first two bytes.
pub(crate) fn udp(bed: &Bed, from: &str, to: &str, lens: impl Iterator<Item = usize>) -> Result<()> {
    let (bind, target, source) = (to.to_owned(), to.to_owned(), from.to_owned());
    let receiver = bed.in_ns("c1", move || UdpSocket::bind((bind.as_str(), 9)))??;
    let sender = bed.in_ns("c0", move || UdpSocket::bind((source.as_str(), 0)))??;
    sender.connect((target.as_str(), 9))?;
    receiver.set_read_timeout(Some(LIMIT))?;
    let mut buf = vec![0; 1 << 16];
    for (i, len) in lens.enumerate() {
        let data = noise(len, i as u64 + 99);
        sender.send(&data)?;
        let n = receiver.recv(&mut buf).with_context(|| format!("datagram of {len} bytes to {to}"))?;
        ensure!(buf[..n] == data, "a datagram of {len} bytes to {to} arrived as another");
    }
    Ok(())
}
