//! What a peer is called in membership messages.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weft_wire::PeerId;

/// At most so many addresses travel with membership news; the Peer record has the rest.
const MAX_ADDRESSES: usize = 2;

/// A peer, the run it is in, and how often it renewed its name within that run.
///
/// "Down" is final for a name, so a peer that was called down by mistake goes on under the next `renewal`, and one
/// that restarted under the next `incarnation`. Equality is of these three; the addresses are a hint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub(crate) struct SwimId {
    pub(crate) peer: PeerId,
    pub(crate) incarnation: u64,
    pub(crate) renewal: u32,
    pub(crate) addresses: Vec<SocketAddr>,
}

#[derive(Deserialize)]
struct Raw {
    peer: PeerId,
    incarnation: u64,
    renewal: u32,
    addresses: Vec<SocketAddr>,
}

impl TryFrom<Raw> for SwimId {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        if raw.addresses.len() > MAX_ADDRESSES {
            return Err("too many addresses");
        }
        let Raw { peer, incarnation, renewal, addresses } = raw;
        Ok(Self { peer, incarnation, renewal, addresses })
    }
}

impl SwimId {
    pub(crate) fn new(peer: PeerId, incarnation: u64, addresses: &[SocketAddr]) -> Self {
        let addresses = addresses.iter().take(MAX_ADDRESSES).copied().collect();
        Self { peer, incarnation, renewal: 0, addresses }
    }

    /// Later names win.
    pub(crate) const fn age(&self) -> (u64, u32) {
        (self.incarnation, self.renewal)
    }

    pub(crate) fn renewed(&self) -> Self {
        match self.renewal.checked_add(1) {
            Some(renewal) => Self { renewal, ..self.clone() },
            None => Self { incarnation: self.incarnation.saturating_add(1), renewal: 0, ..self.clone() },
        }
    }
}

impl PartialEq for SwimId {
    fn eq(&self, other: &Self) -> bool {
        self.peer == other.peer && self.age() == other.age()
    }
}

impl Eq for SwimId {}

impl foca::Identity for SwimId {
    type Addr = PeerId;

    fn renew(&self) -> Option<Self> {
        Some(self.renewed())
    }

    fn addr(&self) -> PeerId {
        self.peer
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.age() > adversary.age()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    #[test]
    fn a_renewed_name_wins_even_at_the_end_of_the_count() {
        let mut id = SwimId::new(PeerId([1; 16]), 5, &[]);
        for renewal in [0, 7, u32::MAX] {
            id.renewal = renewal;
            assert!(id.renewed().win_addr_conflict(&id));
            assert!(!id.win_addr_conflict(&id.renewed()));
        }
    }

    #[test]
    fn a_name_with_many_addresses_is_refused() {
        let mut id = SwimId::new(PeerId([1; 16]), 5, &["10.0.0.1:1".parse().unwrap(); 5]);
        assert_eq!(id.addresses.len(), MAX_ADDRESSES);
        let bytes = postcard::to_allocvec(&id).unwrap();
        assert_eq!(postcard::from_bytes::<SwimId>(&bytes).unwrap(), id);
        id.addresses.push("10.0.0.2:1".parse().unwrap());
        assert!(postcard::from_bytes::<SwimId>(&postcard::to_allocvec(&id).unwrap()).is_err());
    }
}
