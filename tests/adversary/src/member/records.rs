//! Records in another's name.
//!
//! The mesh's types are its own; what stands here is their encoding once more, from what the protocol's description says
//! of it, with which a forger would begin as well.

use std::collections::VecDeque;

use anyhow::Result;
use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use weft_mesh::{Scope, peer_of_ed25519};
use weft_wire::{Mac, PeerId};

/// The kind of message that carries records, and the numbers of three such messages.
const OTHER: u8 = 1;
const RECORDS: u8 = 9;
const PUSH: u8 = 10;
const RUMOR: u8 = 12;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SignedRecord {
    version: u64,
    live_hash: [u8; 16],
    body: Vec<u8>,
    signature: ([u8; 32], [u8; 32]),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Group {
    key: [u8; 32],
    incarnation: u64,
    scope: Scope,
    live: Option<Vec<(u32, u32)>>,
    records: Vec<SignedRecord>,
}

impl Group {
    fn sign(&mut self, key: &SigningKey) {
        for record in &mut self.records {
            let scope = match self.scope {
                Scope::Global => u64::MAX,
                Scope::Network(network) => network.get(),
            };
            let bytes = [
                &b"weft record v1\0\0"[..],
                &self.key,
                &self.incarnation.to_be_bytes(),
                &scope.to_be_bytes(),
                &record.version.to_be_bytes(),
                &record.live_hash,
                &record.body,
            ];
            let signature = key.sign(&bytes.concat()).to_bytes();
            let (low, high) = signature.split_at(32);
            record.signature.0.copy_from_slice(low);
            record.signature.1.copy_from_slice(high);
        }
    }
}

/// A membership name, as in `Hello`.
#[derive(Serialize)]
struct SwimId {
    peer: PeerId,
    incarnation: u64,
    renewal: u32,
    addresses: Vec<std::net::SocketAddr>,
}

/// Messages by which the victim's endpoint would get the forger's Ethernet address, made of what the forger has heard.
///
/// Empty when nothing that was heard is a record of the victim that names `victims_mac`.
pub(super) fn forge(
    heard: &VecDeque<Vec<u8>>,
    victim: PeerId,
    victims_mac: Mac,
    own_mac: Mac,
    own_seed: &[u8; 32],
) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let own_key = SigningKey::from_bytes(own_seed);
    let Some(genuine) = heard.iter().flat_map(|message| groups(message)).find_map(|group| {
        let is_victims = peer_of_ed25519(&group.key) == Some(victim);
        let names_it = |record: &SignedRecord| find(&record.body, &victims_mac.0).is_some();
        let records: Vec<_> = group.records.iter().filter(|record| names_it(record)).cloned().collect();
        (is_victims && !records.is_empty()).then_some(Group { records, live: None, ..group })
    }) else {
        return Ok(Vec::new());
    };
    // Another address, and newer than what is known.
    let mut changed = genuine.clone();
    for record in &mut changed.records {
        record.version += 1000;
        while let Some(at) = find(&record.body, &victims_mac.0) {
            if let Some(place) = record.body.get_mut(at..at + 6) {
                place.copy_from_slice(&own_mac.0);
            }
        }
    }
    let mut signed = changed.clone();
    signed.sign(&own_key);
    let mut later_run = signed.clone();
    later_run.incarnation += 1000;
    later_run.sign(&own_key);
    let mut elsewhere = genuine;
    elsewhere.scope = Scope::Global;

    let mut forged = Vec::new();
    for (label, group) in [
        ("changed-record", changed),
        ("record-under-own-signature", signed),
        ("record-of-a-later-run", later_run),
        ("record-of-another-scope", elsewhere),
    ] {
        let groups = vec![group];
        forged.push((label, encode(RECORDS, &groups)?));
        forged.push((label, encode(PUSH, &(7_u32, &groups))?));
        forged.push((label, encode(RUMOR, &groups)?));
    }
    let name = SwimId { peer: victim, incarnation: u64::MAX >> 1, renewal: 0, addresses: Vec::new() };
    forged.push(("hello-as-victim", encode(0, &(7_u32, name))?));
    Ok(forged)
}

fn encode(number: u8, content: &impl Serialize) -> Result<Vec<u8>> {
    Ok(postcard::to_extend(content, vec![OTHER, number])?)
}

/// The records in a message; none when it is of another kind.
fn groups(message: &[u8]) -> Vec<Group> {
    match message {
        [OTHER, RECORDS | RUMOR, rest @ ..] => postcard::from_bytes(rest).unwrap_or_default(),
        [OTHER, PUSH, rest @ ..] => {
            postcard::from_bytes::<(u32, Vec<Group>)>(rest).map(|(_, groups)| groups).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use weft_mesh::{Endpoint, EndpointTag, IdentityKey, Membership, Mesh, MeshConfig, Target};
    use weft_wire::NetworkId;

    const NETWORK: NetworkId = NetworkId::from_u48(7);
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn mesh(seed: u8) -> Mesh {
        let config = MeshConfig::new(IdentityKey::from_seed(&[seed; 32]), 1, "x");
        Mesh::new(config, Instant::now(), &mut rand::rng())
    }

    /// The types above are read from real messages, and a real mesh takes the genuine record and none of the forged.
    #[test]
    fn what_is_forged_has_the_right_form() {
        let now = Instant::now();
        let (mut victim, mut other) = (mesh(1), mesh(2));
        for (mesh, tag) in [(&mut victim, 1), (&mut other, 2)] {
            mesh.join_network(NETWORK, Membership { overlay_mtu: 1400 });
            let endpoint = Endpoint {
                tag: EndpointTag([tag; 16]),
                mac: Mac([2, 0, 0, 0, 0, tag]),
                addresses: vec![],
                name: None,
            };
            mesh.set_local_endpoint(NETWORK, endpoint).unwrap();
        }
        let mut heard = VecDeque::new();
        let address = "192.0.2.1:1".parse().unwrap();
        victim.add_seed(address, now);
        victim.handle_timeout(now);
        let mut now = now;
        for _ in 0..40 {
            now += std::time::Duration::from_millis(100);
            victim.handle_timeout(now);
            other.handle_timeout(now);
            while let Some((_, message)) = victim.poll_transmit() {
                heard.push_back(message.clone());
                other.handle_message(victim.id(), &message, now);
            }
            while let Some((target, message)) = other.poll_transmit() {
                assert!(matches!(target, Target::Peer(_)));
                victim.handle_message(other.id(), &message, now);
            }
        }
        let owner = |mesh: &Mesh| mesh.endpoint_by_mac(NETWORK, MAC).map(|(owner, _)| owner);
        assert_eq!(owner(&other), Some(victim.id()));
        let own = Mac([2, 0xbb, 0, 0, 0, 9]);
        let forged = forge(&heard, victim.id(), MAC, own, &[3; 32]).unwrap();
        assert_eq!(forged.len(), 13);
        let forger = IdentityKey::from_seed(&[3; 32]).peer_id();
        let before = *other.counters();
        for (label, message) in forged {
            other.handle_message(forger, &message, now);
            assert_eq!(owner(&other), Some(victim.id()), "{label}");
            assert_eq!(other.endpoint_by_mac(NETWORK, own).map(|(peer, _)| peer), None, "{label}");
        }
        assert_ne!(format!("{before:?}"), format!("{:?}", other.counters()), "nothing was refused");
    }
}
