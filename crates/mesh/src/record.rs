//! Records: what one peer says about itself, signed by it alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_wire::{EndpointId, Mac, NetworkId, PeerId};

use crate::keys::IdentityKey;
use crate::tree::hash128;

/// Longest name of a host or an endpoint, in bytes.
pub const MAX_NAME_LEN: usize = 63;
/// Most underlay addresses of a peer.
pub const MAX_ADDRESSES: usize = 8;
/// Most addresses of an endpoint.
pub const MAX_ENDPOINT_ADDRESSES: usize = 8;
/// Longest key of a [`KvKey`], in bytes.
pub const MAX_KEY_LEN: usize = 64;
/// Longest value under a [`KvKey`], in bytes.
pub const MAX_VALUE_LEN: usize = 640;
/// Peers that one `Unreachable` record lists.
pub(crate) const MAX_UNREACHABLE: usize = 28;
/// Longest encoded body of a record.
const MAX_BODY_LEN: usize = 760;

/// Who may hold a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Every peer.
    Global,
    /// The members of a network.
    Network(NetworkId),
}

/// A hash of Docker's endpoint id, which is unique by itself; 128 bits are enough to tell endpoints apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointTag(pub [u8; 16]);

impl From<&EndpointId> for EndpointTag {
    fn from(id: &EndpointId) -> Self {
        Self(hash128(&[b"weft endpoint v1", id.0.as_bytes()]))
    }
}

/// What a peer says of itself to all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// What people call the host.
    pub name: String,
    /// Where it is reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// Drawn at start: two hosts with the same key differ in it.
    pub boot: u64,
    /// It is about to stop on purpose.
    pub leaving: bool,
}

/// A peer's part in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The MTU of the network's interfaces on that host, in bytes.
    pub overlay_mtu: u16,
}

/// An endpoint of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which.
    pub tag: EndpointTag,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its addresses, at most [`MAX_ENDPOINT_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// Its name, at most [`MAX_NAME_LEN`] bytes.
    pub name: Option<String>,
}

/// Key of a record that the mesh carries without knowing what it means: by convention a prefix that tells the use,
/// then what that use needs. At most [`MAX_KEY_LEN`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KvKey(pub Vec<u8>);

/// What a record is about; within an owner's scope one record per key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Key {
    Peer,
    Member(NetworkId),
    Unreachable(u8),
    Present,
    Endpoint(EndpointTag),
    Kv(KvKey),
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    Peer(PeerInfo),
    Member(NetworkId, Membership),
    /// Part of the sorted list of peers that the owner cannot reach directly.
    Unreachable(u8, Vec<PeerId>),
    /// The owner has this scope. So every scope has a record, and a complete set can be told from an empty one.
    Present,
    Endpoint(Endpoint),
    Kv(KvKey, Vec<u8>),
}

impl Entry {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Peer(_) => Key::Peer,
            Self::Member(network, _) => Key::Member(*network),
            Self::Unreachable(part, _) => Key::Unreachable(*part),
            Self::Present => Key::Present,
            Self::Endpoint(endpoint) => Key::Endpoint(endpoint.tag),
            Self::Kv(key, _) => Key::Kv(key.clone()),
        }
    }

    fn is_within_limits(&self) -> bool {
        match self {
            Self::Peer(info) => info.name.len() <= MAX_NAME_LEN && info.addresses.len() <= MAX_ADDRESSES,
            Self::Member(..) | Self::Present => true,
            Self::Unreachable(_, peers) => peers.len() <= MAX_UNREACHABLE,
            Self::Endpoint(endpoint) => {
                endpoint.name.as_ref().is_none_or(|name| name.len() <= MAX_NAME_LEN)
                    && endpoint.addresses.len() <= MAX_ENDPOINT_ADDRESSES
                    && !endpoint.mac.is_group()
            }
            Self::Kv(key, value) => key.0.len() <= MAX_KEY_LEN && value.len() <= MAX_VALUE_LEN,
        }
    }
}

impl Key {
    const fn belongs_in(&self, scope: Scope) -> bool {
        match self {
            Self::Peer | Self::Member(_) | Self::Unreachable(_) => matches!(scope, Scope::Global),
            Self::Present | Self::Endpoint(_) => matches!(scope, Scope::Network(_)),
            Self::Kv(_) => true,
        }
    }
}

/// What the signed bytes say: an entry, or that the entry of a key is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Body {
    Put(Entry),
    Delete(Key),
}

impl Body {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Put(entry) => entry.key(),
            Self::Delete(key) => key.clone(),
        }
    }

    /// Decodes a body; `None` when it is malformed, over a limit, or does not belong in `scope`.
    pub(crate) fn decode(bytes: &[u8], scope: Scope) -> Option<Self> {
        if bytes.len() > MAX_BODY_LEN {
            return None;
        }
        let (body, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        let fits = match &body {
            Self::Put(entry) => entry.is_within_limits(),
            Self::Delete(Key::Kv(key)) => key.0.len() <= MAX_KEY_LEN,
            Self::Delete(_) => true,
        };
        (rest.is_empty() && fits && body.key().belongs_in(scope)).then_some(body)
    }

    /// Encodes; `None` when the result is over a limit, which only a caller's oversized entry makes it.
    pub(crate) fn encode(&self, scope: Scope) -> Option<Vec<u8>> {
        let bytes = postcard::to_allocvec(self).ok()?;
        Self::decode(&bytes, scope).map(|_| bytes)
    }
}

/// The owner's run and scope that records are of: signed with each, written once for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) key: [u8; 32],
    pub(crate) incarnation: u64,
    pub(crate) scope: Scope,
}

/// A record as it travels, without its [`Origin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignedRecord {
    /// Counts the owner's changes within the scope and run, from 1.
    pub(crate) version: u64,
    /// [`live_hash`] of the scope when this change was made (or the last of those made with it).
    pub(crate) live_hash: [u8; 16],
    pub(crate) body: Vec<u8>,
    signature: ([u8; 32], [u8; 32]),
}

impl SignedRecord {
    pub(crate) fn sign(
        key: &IdentityKey,
        origin: &Origin,
        version: u64,
        live_hash: [u8; 16],
        body: Vec<u8>,
    ) -> Self {
        let mut record = Self { version, live_hash, body, signature: ([0; 32], [0; 32]) };
        let signature = key.sign(&record.signed_bytes(origin));
        let (low, high) = signature.split_at(32);
        record.signature.0.copy_from_slice(low);
        record.signature.1.copy_from_slice(high);
        record
    }

    /// Everything that the signature covers.
    pub(crate) fn signed_bytes(&self, origin: &Origin) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(112 + self.body.len());
        bytes.extend_from_slice(b"weft record v1\0\0");
        bytes.extend_from_slice(&origin.key);
        bytes.extend_from_slice(&origin.incarnation.to_be_bytes());
        bytes.extend_from_slice(&scope_bytes(origin.scope));
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&self.live_hash);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub(crate) fn signature(&self) -> [u8; 64] {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&self.signature.0);
        signature[32..].copy_from_slice(&self.signature.1);
        signature
    }

    /// Upper bound of the encoded length.
    pub(crate) fn encoded_len(&self) -> usize {
        10 + 16 + 2 + self.body.len() + 64
    }
}

/// A record whose signature was checked, with its body decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) signed: SignedRecord,
    pub(crate) body: Body,
}

impl Record {
    pub(crate) const fn is_live(&self) -> bool {
        matches!(self.body, Body::Put(_))
    }
}

/// Versions of live records, as runs of consecutive numbers: (versions skipped, versions in the run).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Runs(Vec<(u32, u32)>);

impl Runs {
    /// Most runs of a scope; an owner with more signs its records anew under consecutive versions.
    pub(crate) const MAX_RUNS: usize = 40;

    pub(crate) fn of(versions: impl Iterator<Item = u64>) -> Self {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut next = 1;
        for version in versions {
            match runs.last_mut() {
                Some((_, len)) if version == next => *len += 1,
                _ => runs.push((u32::try_from(version.saturating_sub(next)).unwrap_or(u32::MAX), 1)),
            }
            next = version + 1;
        }
        Self(runs)
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Upper bound of the encoded length: numbers take a byte for every 7 bits.
    fn encoded_len(&self) -> usize {
        let number = |n: u32| (38 - n.leading_zeros() as usize) / 7;
        2 + self.0.iter().map(|(gap, len)| number(*gap).max(1) + number(*len).max(1)).sum::<usize>()
    }

    /// The versions, ascending; `None` when they are more than `limit`.
    pub(crate) fn versions(&self, limit: usize) -> Option<Vec<u64>> {
        let n = self.0.iter().try_fold(0usize, |n, (_, len)| n.checked_add(*len as usize))?;
        if n > limit {
            return None;
        }
        let mut versions = Vec::with_capacity(n);
        let mut next = 1u64;
        for (gap, len) in &self.0 {
            next += u64::from(*gap);
            versions.extend(next..next + u64::from(*len));
            next += u64::from(*len);
        }
        Some(versions)
    }
}

/// What stands for the set of live records of a scope: an owner gives each change a version of its own, so the
/// versions name the set.
pub(crate) fn live_hash(origin: &Origin, versions: impl Iterator<Item = u64>) -> [u8; 16] {
    let mut bytes = Vec::new();
    for version in versions {
        bytes.extend_from_slice(&version.to_be_bytes());
    }
    hash128(&[
        b"weft live set v1",
        &origin.key,
        &origin.incarnation.to_be_bytes(),
        &scope_bytes(origin.scope),
        &bytes,
    ])
}

/// 48 bits name a network, so that the highest bit can tell the global scope.
fn scope_bytes(scope: Scope) -> [u8; 8] {
    match scope {
        Scope::Global => u64::MAX.to_be_bytes(),
        Scope::Network(network) => network.get().to_be_bytes(),
    }
}

/// Records of one owner and scope, as they travel together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) key: [u8; 32],
    pub(crate) incarnation: u64,
    pub(crate) scope: Scope,
    /// Live versions as the sender holds them, when it holds all; proved by the `live_hash` of the newest record.
    pub(crate) live: Option<Runs>,
    pub(crate) records: Vec<SignedRecord>,
}

impl Group {
    pub(crate) const fn origin(&self) -> Origin {
        Origin { key: self.key, incarnation: self.incarnation, scope: self.scope }
    }

    /// Upper bound of the encoded length without records.
    pub(crate) fn head_len(&self) -> usize {
        32 + 10 + 10 + 1 + self.live.as_ref().map_or(0, Runs::encoded_len) + 2
    }
}

/// Cuts groups so that each list's encoded length is at most `limit`. Records keep their order.
pub(crate) fn pack(
    groups: impl IntoIterator<Item = (Origin, Option<Runs>, Vec<Arc<Record>>)>,
    limit: usize,
) -> Vec<Vec<Group>> {
    let mut lists: Vec<Vec<Group>> = Vec::new();
    let mut room = 0;
    for (origin, live, records) in groups {
        let empty = || Group {
            key: origin.key,
            incarnation: origin.incarnation,
            scope: origin.scope,
            live: live.clone(),
            records: Vec::new(),
        };
        let head_len = empty().head_len();
        let mut open = false;
        for record in records {
            let len = record.signed.encoded_len();
            let needed = if open { len } else { head_len + len };
            if needed > room || lists.is_empty() {
                lists.push(Vec::new());
                room = limit;
                open = false;
            }
            let Some(list) = lists.last_mut() else { continue };
            if !open {
                list.push(empty());
                room = room.saturating_sub(head_len);
                open = true;
            }
            if let Some(group) = list.last_mut() {
                group.records.push(record.signed.clone());
            }
            room = room.saturating_sub(len);
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin() -> Origin {
        Origin { key: [3; 32], incarnation: 4, scope: Scope::Global }
    }

    proptest! {
        #[test]
        fn runs_round_trip(versions in proptest::collection::btree_set(1u64..500, 0..80)) {
            let runs = Runs::of(versions.iter().copied());
            prop_assert_eq!(runs.versions(80), Some(versions.iter().copied().collect()));
            prop_assert!(postcard::to_allocvec(&runs).unwrap().len() <= runs.encoded_len());
            if !versions.is_empty() {
                prop_assert_eq!(runs.versions(versions.len() - 1), None);
            }
        }

        #[test]
        fn bodies_of_any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
            if let Some(body) = Body::decode(&bytes, Scope::Global) {
                prop_assert!(body.encode(Scope::Global).is_some());
            }
        }

        #[test]
        fn packed_lists_keep_to_the_limit(lens in proptest::collection::vec(0usize..700, 1..30)) {
            let record = |len: &usize| Arc::new(Record {
                signed: SignedRecord {
                    version: 1, live_hash: [0; 16], body: vec![0; *len], signature: ([0; 32], [0; 32]),
                },
                body: Body::Delete(Key::Peer),
            });
            let groups = lens.chunks(3).map(|lens| {
                (origin(), Some(Runs::of(1..4)), lens.iter().map(record).collect::<Vec<_>>())
            });
            let lists = pack(groups, 1000);
            for list in &lists {
                prop_assert!(postcard::to_allocvec(list).unwrap().len() <= 1002);
            }
            let n: usize = lists.iter().flatten().map(|group| group.records.len()).sum();
            prop_assert_eq!(n, lens.len());
        }
    }

    #[test]
    fn every_part_of_a_record_is_signed() {
        let key = IdentityKey::from_seed(&[9; 32]);
        let origin = Origin {
            key: key.ed25519_public(),
            incarnation: 1,
            scope: Scope::Network(NetworkId::from_u48(7)),
        };
        let body = Body::Put(Entry::Present).encode(origin.scope).unwrap();
        let record = SignedRecord::sign(&key, &origin, 1, [5; 16], body);
        let holds = |record: &SignedRecord, origin: &Origin| {
            crate::keys::verify(&origin.key, &record.signed_bytes(origin), &record.signature())
        };
        assert!(holds(&record, &origin));
        assert!(!holds(&SignedRecord { version: 2, ..record.clone() }, &origin));
        assert!(!holds(&SignedRecord { live_hash: [6; 16], ..record.clone() }, &origin));
        assert!(!holds(&SignedRecord { body: vec![0], ..record.clone() }, &origin));
        assert!(!holds(&record, &Origin { incarnation: 2, ..origin }));
        assert!(!holds(&record, &Origin { scope: Scope::Global, ..origin }));
        assert!(!holds(&record, &Origin { key: [0; 32], ..origin }));
    }

    #[test]
    fn entries_stay_in_their_scope() {
        let network = Scope::Network(NetworkId::from_u48(7));
        assert!(Body::Put(Entry::Present).encode(Scope::Global).is_none());
        assert!(Body::Delete(Key::Peer).encode(network).is_none());
        assert!(Body::Put(Entry::Kv(KvKey(vec![1]), vec![2])).encode(network).is_some());
        assert!(Body::Put(Entry::Kv(KvKey(vec![1; MAX_KEY_LEN + 1]), vec![2])).encode(network).is_none());
        assert!(Body::Put(Entry::Kv(KvKey(vec![1]), vec![2; MAX_VALUE_LEN])).encode(network).is_some());
    }
}
