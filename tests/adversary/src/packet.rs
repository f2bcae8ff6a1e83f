//! UDP datagrams inside Ethernet frames, taken apart and put together.

use std::net::{Ipv4Addr, SocketAddrV4};

use weft_wire::{HEADER_LEN, Header, MessageType, TAG_LEN};

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;
const UDP: u8 = 17;

/// A UDP datagram over IPv4, or a train of datagrams that the kernel has not cut yet, as a capture shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Udp {
    /// Destination and source of the Ethernet frame.
    pub(crate) macs: [u8; 12],
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) payload: Vec<u8>,
}

impl Udp {
    /// `None` for what is no whole UDP datagram over IPv4.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let macs = *frame.first_chunk()?;
        let packet = frame.strip_prefix(&macs)?.strip_prefix(&[0x08, 0x00])?;
        let header_len = usize::from(packet.first()? & 0xf) * 4;
        let total_len = usize::from(u16_at(packet, 2)?);
        let fragment = u16_at(packet, 6)? & 0x3fff;
        if packet.first()? >> 4 != 4 || *packet.get(9)? != UDP || fragment != 0 {
            return None;
        }
        // Of a train longer than 64 KiB the length is not told.
        let total_len = if total_len == 0 { packet.len() } else { total_len };
        let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let datagram = packet.get(header_len..total_len)?;
        let payload = datagram.get(UDP_LEN..)?.to_vec();
        let from = SocketAddrV4::new(ip(12)?, u16_at(datagram, 0)?);
        let to = SocketAddrV4::new(ip(16)?, u16_at(datagram, 2)?);
        Some(Self { macs, from, to, payload })
    }

    /// The frame, with `payload` in place of its own. Without a UDP checksum: captures hold unfinished ones.
    pub(crate) fn frame_with(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(ETHERNET_LEN + IPV4_LEN + UDP_LEN + payload.len());
        frame.extend_from_slice(&self.macs);
        frame.extend_from_slice(&[0x08, 0x00]);
        frame.extend_from_slice(&ipv4_udp(self.from, self.to, payload));
        frame
    }

    /// weft's datagrams in it, each by itself.
    pub(crate) fn datagrams(&self) -> Vec<&[u8]> {
        let mut found = Vec::new();
        let mut rest = self.payload.as_slice();
        while let Some(len) = first_len(rest) {
            let (first, others) = rest.split_at(len);
            found.push(first);
            rest = others;
        }
        found.push(rest);
        found
    }
}

/// Where the second datagram of a train begins: its header is the first one's with the next counter.
fn first_len(train: &[u8]) -> Option<usize> {
    let header = Header::parse(train).filter(|header| header.message == MessageType::Data)?;
    let next = Header { counter: header.counter.checked_add(1)?, ..header }.to_bytes();
    let body = train.get(HEADER_LEN + TAG_LEN..)?;
    body.windows(HEADER_LEN).position(|window| window == next).map(|at| HEADER_LEN + TAG_LEN + at)
}

/// An IPv4 packet with a UDP datagram that has no checksum.
pub(crate) fn ipv4_udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp_len = UDP_LEN + payload.len();
    let mut packet = ipv4_header(*from.ip(), *to.ip(), UDP, udp_len);
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&(udp_len as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

/// An IPv4 header without options for `payload_len` bytes behind it.
fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload_len: usize) -> Vec<u8> {
    let total_len = (IPV4_LEN + payload_len) as u16;
    let [a, b] = total_len.to_be_bytes();
    let mut header = vec![0x45, 0, a, b, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend_from_slice(&from.octets());
    header.extend_from_slice(&to.octets());
    let sum = checksum(&header);
    if let Some(place) = header.get_mut(10..12) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    header
}

/// The internet checksum (RFC 1071) of `bytes`.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let high = u32::from(pair.first().copied().unwrap_or(0));
        (high << 8) | u32::from(pair.get(1).copied().unwrap_or(0))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_wire::{Lane, ReceiverIndex};

    fn udp(payload: Vec<u8>) -> Udp {
        let at = |n| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 6783);
        Udp { macs: [7; 12], from: at(1), to: at(2), payload }
    }

    fn datagram(counter: u64, len: usize) -> Vec<u8> {
        let receiver = ReceiverIndex::new(9, Lane::of_worker(0));
        let header = Header { message: MessageType::Data, receiver, counter };
        [&header.to_bytes()[..], &vec![0xaa; len]].concat()
    }

    #[test]
    fn a_frame_is_parsed_back_and_its_ip_header_sums_up() {
        let sent = udp(vec![1, 2, 3]);
        let frame = sent.frame_with(&sent.payload);
        assert_eq!(Udp::parse(&frame), Some(sent));
        assert_eq!(checksum(&frame[14..34]), 0);
    }

    #[test]
    fn a_train_is_cut_where_the_counter_goes_on() {
        let parts = [datagram(5, 100), datagram(6, 100), datagram(7, 40)];
        let train = udp(parts.concat());
        assert_eq!(train.datagrams(), parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let single = udp(datagram(5, 300));
        assert_eq!(single.datagrams(), [&single.payload[..]]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some(udp) = Udp::parse(&bytes) {
                prop_assert!(udp.datagrams().iter().map(|part| part.len()).sum::<usize>() == udp.payload.len());
            }
        }
    }
}
