//! Expressions: the instructions of which rules are made.

use crate::attr::Writer;
use crate::model::{Family, Verdict};

/// A register of the rule's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Register(u32);

impl Register {
    /// The first of four registers of 16 bytes.
    pub const R1: Self = Self(1);
    /// The second.
    pub const R2: Self = Self(2);
    /// The third.
    pub const R3: Self = Self(3);
    /// The fourth.
    pub const R4: Self = Self(4);

    /// One of the sixteen words of 4 bytes that the four registers are made of, for keys of several fields; words 0
    /// to 3 are [`Register::R1`]. `None` above 15.
    #[must_use]
    pub const fn word(n: u32) -> Option<Self> {
        if n < 16 { Some(Self(8 + n)) } else { None }
    }
}

/// What [`Expr::Meta`] reads of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// Ethertype, 2 bytes, big-endian; of the packet behind an accelerated VLAN tag.
    Protocol,
    /// Index of the device it came by, 4 bytes.
    InputInterface,
    /// Index of the device it leaves by, 4 bytes.
    OutputInterface,
    /// Name of the device it came by, 16 bytes padded with NUL.
    InputInterfaceName,
    /// Protocol of the transport, 1 byte, behind all IPv6 extension headers.
    TransportProtocol,
    /// Its mark, 4 bytes.
    Mark,
    /// Kind of link, 2 bytes in the host's order: 1 is Ethernet.
    InputLinkType,
}

/// Where [`Expr::Payload`] counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The Ethernet header.
    Link,
    /// The header of ARP, IPv4 or IPv6.
    Network,
    /// The header of TCP, UDP or ICMP. The expression says no for fragments but the first.
    Transport,
}

/// How [`Expr::Compare`] compares, the bytes being a big-endian number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// Less.
    Less,
    /// Less or the same.
    AtMost,
    /// Greater.
    Greater,
    /// Greater or the same.
    AtLeast,
}

/// How [`Expr::Numgen`] makes numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numgen {
    /// One more than the last.
    Incremental,
    /// Random ones.
    Random,
}

/// Which address [`Expr::Nat`] changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// The source's.
    Source,
    /// The destination's.
    Destination,
}

/// What [`Expr::Conntrack`] reads of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConntrackKey {
    /// Bits, 4 bytes in the host's order: 1 invalid, 2 established, 4 related, 8 new.
    State,
    /// Bits, 4 bytes in the host's order: 0x10 source, 0x20 destination translated.
    Status,
    /// Its mark, 4 bytes.
    Mark,
}

/// What [`Expr::Reject`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// ICMP or ICMPv6 of that code, by the table's family (`ip` or `ip6`).
    Icmp(u8),
    /// A TCP reset; TCP only.
    TcpReset,
    /// Port unreachable, in any family.
    PortUnreachable,
}

/// One expression. Lengths are bytes; values are what the packet has, so in network order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expr {
    /// Loads something about the packet.
    Meta {
        /// What.
        key: MetaKey,
        /// Into this.
        to: Register,
    },
    /// Loads bytes of the packet; says no when it has not so many.
    Payload {
        /// Where to count from.
        base: Base,
        /// The first byte.
        offset: u32,
        /// How many, 1 to 16.
        len: u32,
        /// Into this.
        to: Register,
    },
    /// Goes on if the register compares so to the value.
    Compare {
        /// The register.
        from: Register,
        /// How.
        how: Comparison,
        /// With what.
        value: Vec<u8>,
    },
    /// `to = from & mask ^ xor`; mask and xor of one length.
    Bitwise {
        /// From this.
        from: Register,
        /// Into this.
        to: Register,
        /// Bits that stay.
        mask: Vec<u8>,
        /// Bits that are turned after that.
        xor: Vec<u8>,
    },
    /// Goes on if the register lies from `low` to `high`.
    Range {
        /// The register.
        from: Register,
        /// Goes on if it does *not*.
        negated: bool,
        /// The least.
        low: Vec<u8>,
        /// The greatest.
        high: Vec<u8>,
    },
    /// Goes on if the set has the register as a key.
    Lookup {
        /// Name of the set.
        set: String,
        /// Goes on if it has *not*.
        negated: bool,
        /// The register.
        from: Register,
        /// Where what a map gives is put.
        to: Option<Register>,
    },
    /// Does what the verdict map gives for the register; goes on if it has nothing for it.
    VerdictMap {
        /// Name of the map.
        map: String,
        /// The register.
        from: Register,
    },
    /// Loads a value.
    Data {
        /// The value.
        value: Vec<u8>,
        /// Into this.
        to: Register,
    },
    /// Ends the rule.
    Verdict(Verdict),
    /// Counts, beginning at zero.
    Counter,
    /// Loads a number from `offset` to `offset + modulus - 1`, in the host's order.
    Numgen {
        /// How.
        how: Numgen,
        /// How many numbers, at least 1.
        modulus: u32,
        /// The least.
        offset: u32,
        /// Into this.
        to: Register,
    },
    /// Translates an address of the connection.
    Nat {
        /// Which.
        what: Nat,
        /// IPv4 or IPv6.
        family: Family,
        /// Holds the new address.
        address: Option<Register>,
        /// Holds the new port, in network order.
        port: Option<Register>,
    },
    /// Gives the connection the outgoing device's address as its source.
    Masquerade,
    /// Loads something about the connection.
    Conntrack {
        /// What.
        key: ConntrackKey,
        /// Into this.
        to: Register,
    },
    /// Drops and answers.
    Reject(Reject),
}

impl Expr {
    /// Shorthand for [`Expr::Meta`] into the first register.
    #[must_use]
    pub fn meta(key: MetaKey) -> Self {
        Self::Meta { key, to: Register::R1 }
    }

    /// Shorthand for [`Expr::Payload`] into the first register.
    #[must_use]
    pub fn payload(base: Base, offset: u32, len: u32) -> Self {
        Self::Payload { base, offset, len, to: Register::R1 }
    }

    /// Shorthand: the first register is this.
    #[must_use]
    pub fn equals(value: impl Into<Vec<u8>>) -> Self {
        Self::Compare { from: Register::R1, how: Comparison::Equal, value: value.into() }
    }

    /// Shorthand: the first register is not this.
    #[must_use]
    pub fn differs(value: impl Into<Vec<u8>>) -> Self {
        Self::Compare { from: Register::R1, how: Comparison::NotEqual, value: value.into() }
    }

    /// Shorthand: keeps the bits of the first register that the mask has.
    #[must_use]
    pub fn mask(mask: impl Into<Vec<u8>>) -> Self {
        let mask = mask.into();
        let xor = vec![0; mask.len()];
        Self::Bitwise { from: Register::R1, to: Register::R1, mask, xor }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Range { .. } => "range",
            Self::Lookup { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Data { .. } | Self::Verdict(_) => "immediate",
            Self::Counter => "counter",
            Self::Numgen { .. } => "numgen",
            Self::Nat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Conntrack { .. } => "ct",
            Self::Reject(_) => "reject",
        }
    }

    /// Writes an element of a list of expressions.
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.nest(1, |w| {
            w.put_str(1, self.name());
            w.nest(2, |w| self.encode_data(w));
        });
    }

    fn encode_data(&self, w: &mut Writer) {
        let data = |w: &mut Writer, kind: u16, value: &[u8]| w.nest(kind, |w| w.put(1, value));
        match self {
            Self::Meta { key, to } => {
                w.put_u32(2, key.number());
                w.put_u32(1, to.0);
            }
            Self::Payload { base, offset, len, to } => {
                w.put_u32(1, to.0);
                w.put_u32(2, *base as u32);
                w.put_u32(3, *offset);
                w.put_u32(4, *len);
            }
            Self::Compare { from, how, value } => {
                w.put_u32(1, from.0);
                w.put_u32(2, *how as u32);
                data(w, 3, value);
            }
            Self::Bitwise { from, to, mask, xor } => {
                w.put_u32(1, from.0);
                w.put_u32(2, to.0);
                w.put_u32(3, mask.len() as u32);
                data(w, 4, mask);
                data(w, 5, xor);
            }
            Self::Range { from, negated, low, high } => {
                w.put_u32(1, from.0);
                w.put_u32(2, u32::from(*negated));
                data(w, 3, low);
                data(w, 4, high);
            }
            Self::Lookup { set, negated, from, to } => {
                w.put_u32(2, from.0);
                if let Some(to) = to {
                    w.put_u32(3, to.0);
                }
                w.put_str(1, set);
                if *negated {
                    w.put_u32(5, 1);
                }
            }
            Self::VerdictMap { map, from } => {
                w.put_u32(2, from.0);
                w.put_u32(3, 0);
                w.put_str(1, map);
            }
            Self::Data { value, to } => {
                w.put_u32(1, to.0);
                data(w, 2, value);
            }
            Self::Verdict(verdict) => {
                w.put_u32(1, 0);
                w.nest(2, |w| verdict.encode(w));
            }
            Self::Counter | Self::Masquerade => {}
            Self::Numgen { how, modulus, offset, to } => {
                w.put_u32(1, to.0);
                w.put_u32(2, *modulus);
                w.put_u32(3, *how as u32);
                w.put_u32(4, *offset);
            }
            Self::Nat { what, family, address, port } => {
                w.put_u32(1, *what as u32);
                w.put_u32(2, family.number().into());
                if let Some(address) = address {
                    w.put_u32(3, address.0);
                }
                if let Some(port) = port {
                    w.put_u32(5, port.0);
                }
                // NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED; the kernel sets them itself, `nft` only this.
                if port.is_some() {
                    w.put_u32(7, 2);
                }
            }
            Self::Conntrack { key, to } => {
                w.put_u32(
                    2,
                    match key {
                        ConntrackKey::State => 0,
                        ConntrackKey::Status => 2,
                        ConntrackKey::Mark => 3,
                    },
                );
                w.put_u32(1, to.0);
            }
            Self::Reject(reject) => {
                let (kind, code) = match reject {
                    Reject::Icmp(code) => (0, *code),
                    Reject::TcpReset => (1, 0),
                    // NFT_REJECT_ICMPX_PORT_UNREACH
                    Reject::PortUnreachable => (2, 1),
                };
                w.put_u32(1, kind);
                w.put_u8(2, code);
            }
        }
    }
}

impl MetaKey {
    fn number(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Mark => 3,
            Self::InputInterface => 4,
            Self::OutputInterface => 5,
            Self::InputInterfaceName => 6,
            Self::InputLinkType => 8,
            Self::TransportProtocol => 16,
        }
    }
}
