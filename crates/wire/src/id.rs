//! Identifiers of peers, networks and endpoints, and Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use blake2::digest::consts::U32;
use blake2::{Blake2s, Digest};
use serde::{Deserialize, Serialize};

/// A string that is not an identifier of the kind asked for. Nothing was changed; the operator (or dockerd) sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// Not a peer id.
    #[error("a peer id is 32 hexadecimal digits")]
    Peer,
    /// Not an Ethernet address.
    #[error("an Ethernet address is six pairs of hexadecimal digits separated by colons")]
    Mac,
}

fn blake2s(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s::<U32>::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// The name that no one else can take: 128 bits of a hash over a peer's public key.
///
/// Ordering is that of the bytes; "the lower peer id" means this order. Printed as 32 hexadecimal digits,
/// [`PeerId::short`] as the first 12.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId(pub [u8; 16]);

impl PeerId {
    /// Derives the id from an X25519 public key.
    ///
    /// ```
    /// # use weft_wire::PeerId;
    /// assert_ne!(PeerId::from_public_key(&[1; 32]), PeerId::from_public_key(&[2; 32]));
    /// ```
    #[must_use]
    pub fn from_public_key(public: &[u8; 32]) -> Self {
        let hash = blake2s(&[b"weft peer id v1", public]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }

    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerId {
    type Err = ParseIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() != 32 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseIdError::Peer);
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(s.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ParseIdError::Peer)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseIdError::Peer)?;
        }
        Ok(Self(id))
    }
}

/// A network as it is named inside the seal: 48 bits.
///
/// Derived from Docker's network id, which all hosts of a swarm share, so that no one has to hand out numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkId(u64);

impl NetworkId {
    const MASK: u64 = (1 << 48) - 1;

    /// The low 48 bits of `value`.
    #[must_use]
    pub const fn from_u48(value: u64) -> Self {
        Self(value & Self::MASK)
    }

    /// Hashes the name by which all hosts know the network (in a swarm: Docker's network id).
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let hash = blake2s(&[b"weft network id v1", name.as_bytes()]);
        let mut value = [0; 8];
        value[2..].copy_from_slice(&hash[..6]);
        Self(u64::from_be_bytes(value))
    }

    /// The 48-bit number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Docker's endpoint id: 64 hexadecimal digits, opaque to weft.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId(pub String);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set: broadcast or multicast.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// A locally administered unicast address made of `bytes`, with the two flag bits forced.
    #[must_use]
    pub const fn local_from(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] & 0xfc) | 0x02;
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = ParseIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut mac = [0; 6];
        let mut pairs = s.split(':');
        for byte in &mut mac {
            // `from_str_radix` would take a sign for a digit.
            let is_byte = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
            let pair = pairs.next().filter(is_byte).ok_or(ParseIdError::Mac)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseIdError::Mac)?;
        }
        if pairs.next().is_some() { Err(ParseIdError::Mac) } else { Ok(Self(mac)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn network_names_spread_over_48_bits() {
        let a = NetworkId::from_name("u48gny859s078wz2qe8dulj4a");
        assert_ne!(a, NetworkId::from_name("u48gny859s078wz2qe8dulj4b"));
        assert_eq!(a.get() >> 48, 0);
    }

    #[test]
    fn bad_peer_ids_are_refused() {
        assert_eq!("00".repeat(16).parse(), Ok(PeerId([0; 16])));
        for bad in
            ["", "0", &"0".repeat(31), &"0".repeat(33), &"+0".repeat(16), &"é".repeat(16), &"0g".repeat(16)]
        {
            assert_eq!(bad.parse::<PeerId>(), Err(ParseIdError::Peer), "{bad}");
        }
    }

    #[test]
    fn bad_macs_are_refused() {
        for bad in [
            "",
            "+2:42:0a:00:00:01",
            "02:42",
            "02:42:0a:47:00:4",
            "02:42:0a:47:00:4d:00",
            "zz:42:0a:47:00:4d",
            "+2:42:0a:47:00:4d ",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(ParseIdError::Mac), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn mac_text_round_trips(bytes: [u8; 6]) {
            prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>(), Ok(Mac(bytes)));
        }

        #[test]
        fn peer_id_text_round_trips(bytes: [u8; 16]) {
            prop_assert_eq!(PeerId(bytes).to_string().parse::<PeerId>(), Ok(PeerId(bytes)));
        }

        #[test]
        fn any_text_is_parsed_or_refused(s in "\\PC*") {
            let _ = s.parse::<Mac>();
            let _ = s.parse::<PeerId>();
        }
    }
}
