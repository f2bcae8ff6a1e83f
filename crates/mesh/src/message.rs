//! Messages between meshes: one byte that says which kind, then the kind's own encoding.

use foca::Member;
use serde::{Deserialize, Serialize};
use weft_wire::NetworkId;

use crate::record::{Group, Scope};
use crate::store::Head;
use crate::swim_id::SwimId;

const SWIM: u8 = 0;
const OTHER: u8 = 1;

/// Which digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum TreeId {
    Members,
    Records(Scope),
}

/// Roots of the digests that two peers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest {
    pub(crate) members: Option<u64>,
    pub(crate) scopes: Vec<(Scope, u64)>,
}

/// Everything but membership packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// First words, to a seed or a peer that may know nothing of the sender.
    Hello { nonce: u32, id: SwimId },
    /// The answer, with which the comparing begins.
    Welcome { nonce: u32, id: SwimId, digest: Digest },
    /// The sender's present name.
    IAm(SwimId),
    /// Someone holds the receiver for down under this name: it should take a new one.
    YouAreDown(SwimId),
    /// Compare these.
    Digest(Digest),
    /// The sender's bucket hashes of a digest whose roots differed.
    Buckets { tree: TreeId, hashes: Vec<u32> },
    /// The sender's members in the buckets of `mask`, all of them.
    Members { mask: u64, members: Vec<Member<SwimId>>, reply: bool },
    /// How far the sender has come with the owners in the buckets of `mask`, all of them.
    Heads { scope: Scope, mask: u64, heads: Vec<Head>, reply: bool },
    /// Send what is newer than these.
    Want { scope: Scope, heads: Vec<Head> },
    /// Records asked for.
    Records(Vec<Group>),
    /// Records just made by the sender, to be acknowledged.
    Push { nonce: u32, groups: Vec<Group> },
    /// Acknowledges a push.
    Ack { nonce: u32 },
    /// Records just made by someone, to be passed on by those to whom they are new.
    Rumor(Vec<Group>),
}

/// A decoded message.
#[derive(Debug)]
pub(crate) enum Decoded<'a> {
    Swim(&'a [u8]),
    Other(Message),
}

/// Decodes; `None` when malformed.
pub(crate) fn decode(bytes: &[u8]) -> Option<Decoded<'_>> {
    match bytes.split_first()? {
        (&SWIM, packet) => Some(Decoded::Swim(packet)),
        (&OTHER, rest) => match postcard::take_from_bytes(rest) {
            Ok((message, [])) => Some(Decoded::Other(message)),
            _ => None,
        },
        _ => None,
    }
}

pub(crate) fn encode_swim(packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packet.len() + 1);
    bytes.push(SWIM);
    bytes.extend_from_slice(packet);
    bytes
}

/// Encodes; `None` when a value does not encode, which no message of ours does.
pub(crate) fn encode(message: &Message) -> Option<Vec<u8>> {
    postcard::to_extend(message, vec![OTHER]).ok()
}

/// Scopes of the networks among a digest's.
pub(crate) fn network_of(scope: Scope) -> Option<NetworkId> {
    match scope {
        Scope::Global => None,
        Scope::Network(network) => Some(network),
    }
}
