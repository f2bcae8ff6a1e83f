//! The words of nf_tables: families, tables, chains, verdicts, rules, sets.

use std::fmt;

use crate::attr::{Attribute, Attributes, Writer};
use crate::expr::Expr;

/// Protocol family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6 together.
    Inet,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Frames as they come from a device, before everything else.
    Netdev,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Netdev => 5,
            Self::Ipv6 => 10,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Netdev => "netdev",
        })
    }
}

/// Names a table. A name is at most 255 bytes and has no NUL; the kernel refuses longer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table<'a> {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: &'a str,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// Where the kernel calls a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Frames that a device received; [`Family::Netdev`] only.
    Ingress,
    /// Packets that came in, before routing.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets that are routed through.
    Forward,
    /// Packets that this host makes.
    Output,
    /// Packets that go out, after routing.
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Ingress | Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// To let pass and to drop.
    Filter,
    /// To translate addresses: sees only the first packet of a connection.
    Nat,
}

/// What becomes of a packet that a base chain says nothing about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// It passes.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// What it is for.
    pub kind: ChainType,
    /// Where it is called.
    pub hook: Hook,
    /// Lower is earlier.
    pub priority: i32,
    /// The device of an ingress chain, which must exist.
    pub device: Option<String>,
    /// For packets that run off its end.
    pub policy: Policy,
}

impl BaseChain {
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.put_str(
            7,
            match self.kind {
                ChainType::Filter => "filter",
                ChainType::Nat => "nat",
            },
        );
        w.put_u32(5, u32::from(self.policy == Policy::Accept));
        w.nest(4, |w| {
            w.put_u32(1, self.hook.number());
            w.put(2, &self.priority.to_be_bytes());
            if let Some(device) = &self.device {
                w.put_str(3, device);
            }
        });
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Leaves this base chain; later base chains of the hook still see it.
    Accept,
    /// Is no more.
    Drop,
    /// Goes on with the next rule.
    Continue,
    /// Goes back to the calling chain; in a base chain, to its policy.
    Return,
    /// Goes through that chain and comes back.
    Jump(String),
    /// Goes through that chain and does not come back.
    Goto(String),
}

impl Verdict {
    pub(crate) fn encode(&self, w: &mut Writer) {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Continue => (-1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5_i32, None),
        };
        // NFTA_DATA_VERDICT
        w.nest(2, |w| {
            w.put(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                w.put_str(2, chain);
            }
        });
    }
}

/// A rule: expressions from left to right, until one says no.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// What it does.
    pub expressions: Vec<Expr>,
    /// Shown by `nft list` and read back in dumps; at most [`MAX_COMMENT_LEN`] bytes, the rest is cut off.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule without a comment.
    #[must_use]
    pub fn new(expressions: impl Into<Vec<Expr>>) -> Self {
        Self { expressions: expressions.into(), comment: None }
    }

    /// A number that tells rules apart by what they do, the same in every process: FNV-1a of the encoding.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut w = Writer::default();
        self.expressions.iter().for_each(|expression| expression.encode(&mut w));
        w.bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
    }

    /// The same rule with a comment.
    #[must_use]
    pub fn with_comment(self, comment: impl Into<String>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }
}

/// The longest comment of a table or a rule, in bytes, as `nft` has it.
pub const MAX_COMMENT_LEN: usize = 127;

/// A comment in the form that `nft` reads and writes: type 0, length with the NUL, text, NUL.
pub(crate) fn encode_comment(comment: &str) -> Vec<u8> {
    let mut end = comment.len().min(MAX_COMMENT_LEN);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let text = comment.get(..end).unwrap_or_default();
    let mut data = vec![0, text.len() as u8 + 1];
    data.extend(text.as_bytes());
    data.push(0);
    data
}

/// The comment in user data, if there is one.
pub(crate) fn decode_comment(mut data: &[u8]) -> Option<&str> {
    while let [kind, len, rest @ ..] = data {
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if *kind == 0 {
            return std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok();
        }
        data = rest;
    }
    None
}

/// What a set maps its keys to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapTo {
    /// To verdicts.
    Verdict,
    /// To values of that many bytes.
    Data(DataType),
}

/// A type of keys or values: its length in bytes, and its number in `nft`'s listing (the kernel uses the length only).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataType {
    number: u32,
    len: u32,
}

impl DataType {
    /// An IPv4 address.
    pub const IPV4: Self = Self { number: 7, len: 4 };
    /// An IPv6 address.
    pub const IPV6: Self = Self { number: 8, len: 16 };
    /// An Ethernet address.
    pub const MAC: Self = Self { number: 9, len: 6 };
    /// A port of TCP or UDP, 2 bytes, big-endian.
    pub const PORT: Self = Self { number: 13, len: 2 };
    /// A number of 4 bytes in the host's order, as `numgen` makes and marks are.
    pub const MARK: Self = Self { number: 19, len: 4 };
}

/// A set or a map, with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Unique in its table.
    pub name: String,
    /// What is looked up.
    pub key: DataType,
    /// What a map gives; `None` for a plain set.
    pub map: Option<MapTo>,
    /// Will not change once a rule uses it.
    pub constant: bool,
}

impl Set {
    pub(crate) fn encode(&self, table: &str, id: u32, w: &mut Writer) {
        const CONSTANT: u32 = 2;
        const MAP: u32 = 8;
        const VERDICT_TYPE: u32 = 0xffff_ff00;
        w.put_str(1, table);
        w.put_str(2, &self.name);
        let flags = if self.constant { CONSTANT } else { 0 } | if self.map.is_some() { MAP } else { 0 };
        w.put_u32(3, flags);
        w.put_u32(4, self.key.number);
        w.put_u32(5, self.key.len);
        let data = match self.map {
            None => None,
            Some(MapTo::Verdict) => Some((VERDICT_TYPE, 0)),
            Some(MapTo::Data(data)) => Some((data.number, data.len)),
        };
        if let Some((number, len)) = data {
            w.put_u32(6, number);
            w.put_u32(7, len);
        }
        w.put_u32(10, id);
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// What a map gives for it.
    pub value: Option<Value>,
}

/// What a map gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Bytes.
    Data(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

impl Element {
    /// An element of a plain set.
    #[must_use]
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: None }
    }

    pub(crate) fn encode(&self, with_value: bool, w: &mut Writer) {
        w.nest(1, |w| {
            w.nest(1, |w| w.put(1, &self.key));
            match self.value.as_ref().filter(|_| with_value) {
                Some(Value::Data(data)) => w.nest(2, |w| w.put(1, data)),
                Some(Value::Verdict(verdict)) => w.nest(2, |w| verdict.encode(w)),
                None => {}
            }
        });
    }
}

/// What a counter has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Packets.
    pub n_packets: u64,
    /// Their bytes.
    pub n_bytes: u64,
}

/// A table that the kernel listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTable {
    /// Its name.
    pub name: String,
    /// Its comment; also `None` on kernels before 5.10, which keep none.
    pub comment: Option<String>,
}

impl FoundTable {
    pub(crate) fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let comment = attributes.find(6).and_then(|data| decode_comment(data.value));
        Some(Self { name: attributes.find(1)?.text()?.to_owned(), comment: comment.map(str::to_owned) })
    }
}

/// A chain that the kernel listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundChain {
    /// Its table's name.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Unique in its table.
    pub handle: u64,
    /// Priority, for a base chain.
    pub priority: Option<i32>,
    /// The devices of an ingress chain.
    pub devices: Vec<String>,
}

impl FoundChain {
    pub(crate) fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let hook = attributes.find(4).map(|hook| hook.nested());
        // The kernel lists all devices, and names a single one besides; old ones name it only.
        let devices = |hook: Attributes<'_>| -> Vec<String> {
            let text = |device: Attribute<'_>| device.text().map(str::to_owned);
            match hook.find(4) {
                Some(list) => list.nested().filter_map(text).collect(),
                None => hook.find(3).and_then(text).into_iter().collect(),
            }
        };
        Some(Self {
            table: attributes.find(1)?.text()?.to_owned(),
            name: attributes.find(3)?.text()?.to_owned(),
            handle: attributes.find(2)?.u64()?,
            priority: hook.and_then(|hook| hook.find(2)?.value.try_into().ok().map(i32::from_be_bytes)),
            devices: hook.map(devices).unwrap_or_default(),
        })
    }
}

/// A rule that the kernel listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRule {
    /// Its chain's name.
    pub chain: String,
    /// Unique in its table.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// Its first counter.
    pub counter: Option<Counter>,
}

impl FoundRule {
    pub(crate) fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let comment = attributes.find(7).and_then(|data| decode_comment(data.value));
        let counter = attributes.find(4).and_then(|list| {
            list.nested().find_map(|expression| {
                let expression = expression.nested();
                expression.find(1).and_then(|name| name.text()).filter(|name| *name == "counter")?;
                let data = expression.find(2)?.nested();
                Some(Counter { n_bytes: data.find(1)?.u64()?, n_packets: data.find(2)?.u64()? })
            })
        });
        Some(Self {
            chain: attributes.find(2)?.text()?.to_owned(),
            handle: attributes.find(3)?.u64()?,
            comment: comment.map(str::to_owned),
            counter,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_cut_at_characters_and_read_back() {
        for comment in ["", "weft mac", &"ä".repeat(100)] {
            let data = encode_comment(comment);
            let read = decode_comment(&data).unwrap();
            assert!(comment.starts_with(read) && read.len() <= MAX_COMMENT_LEN);
            assert_eq!(read == comment, comment.len() <= MAX_COMMENT_LEN);
        }
        assert_eq!(decode_comment(&[3, 1, 9, 0, 3, b'h', b'i', 0]), Some("hi"));
        assert_eq!(decode_comment(&[0, 9, b'h']), None);
        assert_eq!(decode_comment(&[]), None);
    }
}
