//! Frames with addresses that their sender does not own, marked so that whoever hears one can tell which.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    str::FromStr,
};

use anyhow::Context as _;
use weft_wire::Mac;

use crate::packet::{checksum, ipv4_udp};

/// Before the label in a frame.
pub(crate) const MARK: &[u8] = b"weft-adversary:";
/// After it.
pub(crate) const MARK_END: u8 = b';';
/// The label of the last frame, which an honest endpoint could have sent.
pub(crate) const END: &str = "end";

const PORT: u16 = 4999;
/// An address that nobody has, for forged neighbour advertisements.
const NOBODY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0xbad, 0xbad);

/// An endpoint's addresses, written `MAC/IPV4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) mac: Mac,
    pub(crate) ip: Ipv4Addr,
}

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (mac, ip) = text.split_once('/').context("an endpoint is written MAC/IPV4")?;
        Ok(Self { mac: mac.parse()?, ip: ip.parse()? })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mac, self.ip)
    }
}

/// Who is who in an attack.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Cast {
    /// The attacker's own endpoint, whose addresses it may use
    #[arg(long, value_name = "MAC/IPV4")]
    pub(crate) own: Endpoint,
    /// The endpoint that the frames are sent to
    #[arg(long, value_name = "MAC/IPV4")]
    pub(crate) to: Endpoint,
    /// The endpoint whose addresses are abused
    #[arg(long, value_name = "MAC/IPV4")]
    pub(crate) victim: Endpoint,
}

impl Cast {
    /// A frame that the attacker may send.
    pub(crate) fn honest(&self, label: &str) -> Vec<u8> {
        self.udp(self.own.mac, self.own.ip, label)
    }

    /// Frames under addresses of the victim, of the receiver itself, or of nobody.
    pub(crate) fn forged(&self) -> Vec<(&'static str, Vec<u8>)> {
        let nobody = Mac([0x02, 0xba, 0xdb, 0xad, 0, 1]);
        let [a, b, c, _] = self.own.ip.octets();
        vec![
            ("mac-of-victim", self.udp(self.victim.mac, self.victim.ip, "mac-of-victim")),
            ("mac-of-receiver", self.udp(self.to.mac, self.to.ip, "mac-of-receiver")),
            ("mac-of-nobody", self.udp(nobody, self.own.ip, "mac-of-nobody")),
            ("ip-of-victim", self.udp(self.own.mac, self.victim.ip, "ip-of-victim")),
            ("ip-of-receiver", self.udp(self.own.mac, self.to.ip, "ip-of-receiver")),
            ("ip-of-nobody", self.udp(self.own.mac, Ipv4Addr::new(a, b, c, 253), "ip-of-nobody")),
            ("arp-of-victim", self.arp(self.own.mac, self.own.mac, "arp-of-victim")),
            // The Ethernet header is right, what stands inside is not.
            ("arp-of-victims-mac", self.arp(self.own.mac, self.victim.mac, "arp-of-victims-mac")),
            ("gratuitous-arp-of-victim", self.gratuitous("gratuitous-arp-of-victim")),
            ("advertisement-of-nobody", self.advertisement("advertisement-of-nobody")),
        ]
    }

    fn udp(&self, source: Mac, ip: Ipv4Addr, label: &str) -> Vec<u8> {
        let to = SocketAddrV4::new(self.to.ip, PORT);
        ethernet(self.to.mac, source, 0x0800, &ipv4_udp(SocketAddrV4::new(ip, PORT), to, &mark(label)))
    }

    /// Tells the receiver that the victim's IP address is at `sender`.
    fn arp(&self, source: Mac, sender: Mac, label: &str) -> Vec<u8> {
        let body = arp_body(2, sender, self.victim.ip, self.to.mac, self.to.ip);
        ethernet(self.to.mac, source, 0x0806, &[body, mark(label)].concat())
    }

    /// The same to everyone.
    fn gratuitous(&self, label: &str) -> Vec<u8> {
        let body = arp_body(1, self.own.mac, self.victim.ip, Mac([0; 6]), self.victim.ip);
        ethernet(Mac::BROADCAST, self.own.mac, 0x0806, &[body, mark(label)].concat())
    }

    /// An unsolicited neighbour advertisement (RFC 4861, section 4.4) for an address that is not the sender's.
    fn advertisement(&self, label: &str) -> Vec<u8> {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        message.extend_from_slice(&NOBODY.octets());
        message.extend_from_slice(&[2, 1]);
        message.extend_from_slice(&self.own.mac.0);
        let len = message.len() as u16;
        let pseudo =
            [&NOBODY.octets()[..], &all_nodes.octets(), &u32::from(len).to_be_bytes(), &[0, 0, 0, 58]];
        let sum = checksum(&[&pseudo.concat()[..], &message].concat());
        if let Some(place) = message.get_mut(2..4) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend_from_slice(&len.to_be_bytes());
        packet.extend_from_slice(&[58, 255]);
        packet.extend_from_slice(&NOBODY.octets());
        packet.extend_from_slice(&all_nodes.octets());
        packet.extend(message);
        // Behind the packet's end there may be padding.
        packet.extend(mark(label));
        ethernet(Mac([0x33, 0x33, 0, 0, 0, 1]), self.own.mac, 0x86dd, &packet)
    }
}

/// What makes a frame known to [`hear`](crate::hear).
pub(crate) fn mark(label: &str) -> Vec<u8> {
    [MARK, label.as_bytes(), &[MARK_END]].concat()
}

fn ethernet(to: Mac, from: Mac, ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &ethertype.to_be_bytes(), body].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An ARP message (RFC 826) for Ethernet and IPv4; 1 asks, 2 answers.
fn arp_body(operation: u8, sender: Mac, sender_ip: Ipv4Addr, target: Mac, target_ip: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0, &sender_ip.octets(), &target.0, &target_ip.octets()].concat()
}
