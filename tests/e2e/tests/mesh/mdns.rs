//! A question and an answer of multicast DNS (RFC 6762), as small as they can be.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};
use weft_e2e::SETTLE;
use weft_lab::wait_for;

pub(crate) const PORT: u16 = 5353;
const TO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251)), PORT);
/// A question is asked again after this long.
const AGAIN: Duration = Duration::from_millis(250);

/// Labels of a name, each with its length before it, and the root.
fn encode(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes()));
    labels.chain([0]).collect()
}

/// One question after an address (type A, class IN), without the bit that asks for a unicast answer.
fn question(name: &str) -> Vec<u8> {
    [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &encode(name), &[0, 1, 0, 1]].concat()
}

/// An authoritative answer that empties caches, good for 120 s.
fn answer(name: &str, address: Ipv4Addr) -> Vec<u8> {
    let head = [0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let record = [0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4];
    [&head[..], &encode(name), &record, &address.octets()].concat()
}

/// The address in an answer about `name`; nothing in anything else.
fn address_in(message: &[u8], name: &str) -> Option<Ipv4Addr> {
    let about = answer(name, Ipv4Addr::UNSPECIFIED);
    let (begin, octets) = message.split_at_checked(about.len() - 4)?;
    (begin == &about[..about.len() - 4])
        .then(|| octets.try_into().ok().map(<Ipv4Addr as From<[u8; 4]>>::from))?
}

/// Asks from one socket after `name` until the other, which has it, has heard the question and its answer came; both are
/// at port 5353 and in the group. Returns the address in the answer.
pub(crate) fn ask_and_answer(
    querier: &UdpSocket,
    responder: &UdpSocket,
    name: &str,
    address: Ipv4Addr,
) -> Result<Ipv4Addr> {
    let mut message = [0; 512];
    for socket in [querier, responder] {
        socket.set_read_timeout(Some(AGAIN))?;
    }
    let asker = wait_for("a question by multicast", SETTLE, || {
        querier.send_to(&question(name), TO)?;
        let Ok((n, from)) = responder.recv_from(&mut message) else { return Ok(None) };
        Ok((message[..n] == question(name)).then_some(from))
    })?;
    ensure!(asker.port() == PORT, "the question comes from {asker}");
    wait_for("an answer by multicast", SETTLE, || {
        responder.send_to(&answer(name, address), TO)?;
        // It hears its own question, too.
        while let Ok((n, _)) = querier.recv_from(&mut message) {
            if let Some(found) = address_in(&message[..n], name) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    })
}
