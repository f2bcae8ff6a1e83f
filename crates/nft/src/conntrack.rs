//! Connections that the kernel follows, so that it translates their packets always alike.
//!
//! Source: the kernel's `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::IpAddr;

use crate::attr::{Attribute, Attributes};
use crate::model::Family;
use crate::socket::{DumpError, Nft};

/// `NFNL_SUBSYS_CTNETLINK`, as the high byte of a message's type.
const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;

const ENOENT: i32 = 2;

/// A connection, as it was when it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Protocol of the transport: 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Where its first packet was sent to, before any translation.
    pub to: IpAddr,
    /// Who answers: where its packets are really sent.
    pub answerer: IpAddr,
    family: Family,
    /// What names it towards the kernel.
    original: Vec<u8>,
    id: Vec<u8>,
}

/// Source, destination and protocol.
fn tuple(attribute: Attribute<'_>) -> Option<(IpAddr, IpAddr, u8)> {
    let parts = attribute.nested();
    let addresses = parts.find(1)?.nested();
    let v4 = |kind| addresses.find(kind).and_then(|a| <[u8; 4]>::try_from(a.value).ok()).map(IpAddr::from);
    let v6 = |kind| addresses.find(kind).and_then(|a| <[u8; 16]>::try_from(a.value).ok()).map(IpAddr::from);
    let protocol = *parts.find(2)?.nested().find(1)?.value.first()?;
    Some((v4(1).or_else(|| v6(3))?, v4(2).or_else(|| v6(4))?, protocol))
}

impl Connection {
    fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let original = attributes.find(TUPLE_ORIGINAL)?;
        let (_, to, protocol) = tuple(original)?;
        let (answerer, _, _) = tuple(attributes.find(TUPLE_REPLY)?)?;
        Some(Self {
            protocol,
            to,
            answerer,
            family: if to.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 },
            original: original.value.to_vec(),
            id: attributes.find(ID)?.value.to_vec(),
        })
    }
}

impl Nft {
    /// Lists the connections of the namespace, of [`Family::Ipv4`] or [`Family::Ipv6`].
    ///
    /// # Errors
    /// When the kernel refuses, or follows no connections that can be listed (`CONFIG_NF_CT_NETLINK`).
    pub async fn connections(&self, family: Family) -> Result<Vec<Connection>, DumpError> {
        self.dump("connections", GET, family, |_| {}, Connection::parse).await
    }

    /// Has the kernel forget the connection: its next packet is the first of a new one. Whether it still followed it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn forget(&self, connection: &Connection) -> io::Result<bool> {
        let forgotten = self
            .order(DELETE, connection.family, |w| {
                w.nest(TUPLE_ORIGINAL, |w| w.bytes.extend(&connection.original));
                w.put(ID, &connection.id);
            })
            .await;
        match forgotten {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Writer;

    fn write_tuple(w: &mut Writer, kind: u16, source: &[u8], destination: &[u8]) {
        let first = if source.len() == 4 { 1 } else { 3 };
        w.nest(kind, |w| {
            w.nest(1, |w| {
                w.put(first, source);
                w.put(first + 1, destination);
            });
            w.nest(2, |w| {
                w.put_u8(1, 17);
                w.put(2, &53_u16.to_be_bytes());
            });
        });
    }

    #[test]
    fn both_directions_are_read() {
        for (vip, task) in [(vec![10, 0, 0, 2], vec![10, 0, 0, 3]), (vec![0xfd; 16], vec![0xfe; 16])] {
            let client = vec![9; vip.len()];
            let mut w = Writer::default();
            write_tuple(&mut w, TUPLE_ORIGINAL, &client, &vip);
            write_tuple(&mut w, TUPLE_REPLY, &task, &client);
            w.put_u32(ID, 77);
            let connection = Connection::parse(Attributes(&w.bytes)).unwrap();
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            assert_eq!((octets(connection.to), octets(connection.answerer)), (vip, task));
            assert_eq!((connection.protocol, connection.id.as_slice()), (17, &77_u32.to_be_bytes()[..]));
        }
    }

    #[test]
    fn what_lacks_a_part_is_passed_over() {
        let mut w = Writer::default();
        write_tuple(&mut w, TUPLE_ORIGINAL, &[1; 4], &[2; 4]);
        w.put_u32(ID, 77);
        assert_eq!(Connection::parse(Attributes(&w.bytes)), None);
        assert_eq!(Connection::parse(Attributes(&[])), None);
    }
}
