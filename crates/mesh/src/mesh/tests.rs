//! What a member that lies can do.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use weft_wire::{Mac, NetworkId, PeerId};

use super::*;
use crate::keys::IdentityKey;
use crate::message::{Message, TreeId, decode, encode};
use crate::record::{Group, Origin, Runs, SignedRecord, live_hash};
use crate::store::Head;
use crate::swim::Packet;
use crate::swim_id::SwimId;
use crate::{Address, Endpoint};

const NETWORK: NetworkId = NetworkId::from_u48(0x7777);

/// Meshes that hear each other without loss or delay.
struct Room {
    now: Instant,
    meshes: Vec<Mesh>,
    /// Every message: from, to, bytes.
    heard: Vec<(PeerId, PeerId, Vec<u8>)>,
}

fn key(n: u8) -> IdentityKey {
    IdentityKey::from_seed(&[n; 32])
}

impl Room {
    fn new(n: u8) -> Self {
        let now = Instant::now();
        let mut rng = SmallRng::seed_from_u64(7);
        let mut meshes: Vec<Mesh> = Vec::new();
        for i in 0..n {
            let mut config = MeshConfig::new(key(i), 1, &format!("host-{i}"));
            config.known_peers =
                meshes.iter().map(|mesh| crate::KnownPeer { peer: mesh.me, addresses: Vec::new() }).collect();
            meshes.push(Mesh::new(config, now, &mut rng));
        }
        let mut room = Self { now, meshes, heard: Vec::new() };
        room.run(Duration::from_secs(5));
        assert!(room.meshes.iter().all(|mesh| mesh.alive().len() == usize::from(n) - 1));
        room
    }

    fn deliver(&mut self) {
        loop {
            let mut under_way = Vec::new();
            for mesh in &mut self.meshes {
                while let Some((to, bytes)) = mesh.poll_transmit() {
                    if let Target::Peer(to) = to {
                        under_way.push((mesh.me, to, bytes));
                    }
                }
            }
            if under_way.is_empty() {
                return;
            }
            for (from, to, bytes) in under_way {
                if let Some(mesh) = self.meshes.iter_mut().find(|mesh| mesh.me == to) {
                    mesh.handle_message(from, &bytes, self.now);
                }
                self.heard.push((from, to, bytes));
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.deliver();
            self.now += Duration::from_millis(20);
            self.meshes.iter_mut().for_each(|mesh| mesh.handle_timeout(self.now));
        }
        self.deliver();
    }

    /// Hosts 0 and 1 are in the network, 0 with an endpoint; 2 is not.
    fn with_network() -> Self {
        let mut room = Self::new(3);
        for i in 0..2 {
            room.meshes[i].join_network(NETWORK, Membership { overlay_mtu: 1418 });
        }
        room.meshes[0].set_local_endpoint(NETWORK, endpoint(1)).unwrap();
        room.run(Duration::from_secs(5));
        assert_eq!(room.meshes[1].endpoints(NETWORK).count(), 1);
        room
    }
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint {
        tag: EndpointTag([n; 16]),
        mac: Mac([2, 0x42, 0xde, 0xad, 0xbe, n]),
        addresses: vec![[10, 9, 8, n].into()],
        name: Some("canary".to_owned()),
    }
}

/// A group of one record, signed by `signer` in the name of `owner`.
fn group(owner: &IdentityKey, signer: &IdentityKey, incarnation: u64, version: u64, body: &Body) -> Group {
    let origin = Origin { key: owner.ed25519_public(), incarnation, scope: Scope::Network(NETWORK) };
    let hash = live_hash(&origin, [version].into_iter());
    let bytes = body.encode(origin.scope).unwrap();
    let record = SignedRecord::sign(signer, &origin, version, hash, bytes);
    let Origin { key, incarnation, scope } = origin;
    Group { key, incarnation, scope, live: Some(Runs::of([version].into_iter())), records: vec![record] }
}

fn say(room: &mut Room, from: usize, to: usize, message: &Message) {
    let from = room.meshes[from].me;
    let bytes = encode(message).unwrap();
    room.meshes[to].handle_message(from, &bytes, room.now);
}

#[test]
fn nobody_writes_for_another() {
    let mut room = Room::with_network();
    let body = Body::Put(Entry::Endpoint(endpoint(9)));
    for (incarnation, version) in [(1, 50), (9, 1), (u64::MAX, u64::MAX - 1)] {
        let forged = group(&key(0), &key(2), incarnation, version, &body);
        for message in [
            Message::Records(vec![forged.clone()]),
            Message::Rumor(vec![forged.clone()]),
            Message::Push { nonce: 1, groups: vec![forged.clone()] },
        ] {
            say(&mut room, 2, 1, &message);
            say(&mut room, 2, 0, &message);
        }
    }
    assert_eq!(room.meshes[1].counters().n_refused, 9);
    assert!(room.meshes[1].endpoints(NETWORK).all(|(_, at)| **at == endpoint(1)));
    assert_eq!(room.meshes[0].incarnation(), 1);
}

#[test]
fn what_one_is_not_a_member_of_one_cannot_place_endpoints_in() {
    let mut room = Room::with_network();
    let own = group(&key(2), &key(2), 1, 1, &Body::Put(Entry::Endpoint(endpoint(9))));
    say(&mut room, 2, 1, &Message::Records(vec![own]));
    assert_eq!(room.meshes[1].endpoints(NETWORK).count(), 1);
    assert_eq!(room.meshes[1].endpoint_by_mac(NETWORK, endpoint(9).mac), None);
}

#[test]
fn a_deleted_record_cannot_be_brought_back() {
    let mut room = Room::with_network();
    room.meshes[0].remove_local_endpoint(NETWORK, endpoint(1).tag);
    room.run(Duration::from_secs(1));
    assert_eq!(room.meshes[1].endpoints(NETWORK).count(), 0);
    let copies = room.heard.clone();
    let liar = room.meshes[2].me;
    for (_, _, bytes) in copies {
        room.meshes[1].handle_message(liar, &bytes, room.now);
        assert_eq!(room.meshes[1].endpoints(NETWORK).count(), 0);
    }
}

#[test]
fn nothing_of_a_network_goes_to_others() {
    let mut room = Room::with_network();
    let outsider = room.meshes[2].me;
    let scope = Scope::Network(NETWORK);
    let n_before = room.heard.len();
    let nothing = Head { owner: room.meshes[0].me, incarnation: 0, version: 0, hash: 0, complete: false };
    for message in [
        Message::Want { scope, heads: vec![nothing] },
        Message::Heads { scope, mask: u64::MAX, heads: Vec::new(), reply: true },
        Message::Buckets { tree: TreeId::Records(scope), hashes: vec![0; 64] },
        Message::Digest(crate::message::Digest { members: None, scopes: vec![(scope, 1)] }),
    ] {
        say(&mut room, 2, 0, &message);
        say(&mut room, 2, 1, &message);
    }
    assert!(room.meshes[1].counters().n_not_member >= 3);
    room.deliver();
    assert_eq!(room.heard.len(), n_before);
    let canary = |bytes: &[u8]| bytes.windows(6).any(|six| six == b"canary" || *six == endpoint(1).mac.0);
    assert!(room.heard.iter().any(|(_, _, bytes)| canary(bytes)));
    assert!(room.heard.iter().all(|(_, to, bytes)| *to != outsider || !canary(bytes)));
}

#[test]
fn membership_packets_speak_for_their_sender_only() {
    let mut room = Room::new(3);
    let packet = room.heard.iter().find(|(from, to, bytes)| {
        (*from, *to) == (room.meshes[0].me, room.meshes[1].me) && bytes.first() == Some(&0)
    });
    let (_, _, bytes) = packet.unwrap().clone();
    let liar = room.meshes[2].me;
    room.meshes[1].handle_message(liar, &bytes, room.now);
    assert_eq!(room.meshes[1].counters().n_malformed, 1);
    let id = room.meshes[0].swim.id().clone();
    for message in [Message::IAm(id.clone()), Message::Hello { nonce: 1, id }] {
        say(&mut room, 2, 1, &message);
    }
    assert_eq!(room.meshes[1].counters().n_malformed, 3);
}

#[test]
fn who_is_called_down_goes_on_under_a_new_name_and_nobody_sees_it_down() {
    let mut room = Room::new(3);
    room.meshes.iter_mut().for_each(|mesh| mesh.events.clear());
    let id = room.meshes[0].swim.id().clone();
    let lie = vec![foca::Member::down(id.clone())];
    say(&mut room, 2, 1, &Message::Members { mask: 0, members: lie, reply: false });
    room.run(Duration::from_secs(5));
    assert!(room.meshes[0].swim.id().age() > id.age());
    for mesh in &mut room.meshes {
        while let Some(event) = mesh.poll_event() {
            assert!(!matches!(event, Event::PeerDown { .. }), "{event:?}");
        }
    }
}

/// What `from` may send to `to` to say this of members, by comparing and as news.
fn hearsay(room: &Room, from: usize, to: usize, member: &foca::Member<SwimId>) -> [Vec<u8>; 2] {
    let pair = (room.meshes[from].me, room.meshes[to].me);
    let mut packets = room.heard.iter().filter(|(from, to, bytes)| (*from, *to) == pair && bytes[0] == 0);
    let genuine = &packets.next_back().unwrap().2[1..];
    let forged = Packet::parse(genuine).unwrap().with_news(std::slice::from_ref(member), &[]).unwrap();
    let compared = Message::Members { mask: 0, members: vec![member.clone()], reply: false };
    [crate::message::encode_swim(&forged), encode(&compared).unwrap()]
}

#[test]
fn names_that_no_peer_bore_are_not_believed() {
    let mut room = Room::new(3);
    room.meshes[1].events.clear();
    let liar = room.meshes[2].me;
    let name = room.meshes[0].swim.id().clone();
    let names = [
        SwimId { incarnation: 2, ..name.clone() },
        SwimId { incarnation: u64::MAX, ..name },
        SwimId::new(PeerId([9; 16]), 5, &[]),
    ];
    for name in names {
        for state in [foca::State::Alive, foca::State::Suspect, foca::State::Down] {
            for lie in hearsay(&room, 2, 1, &foca::Member::new(name.clone(), 0, state)) {
                room.meshes[1].handle_message(liar, &lie, room.now);
            }
            room.run(Duration::from_secs(5));
        }
    }
    assert_eq!(room.meshes[1].counters().n_malformed, 0);
    let events: Vec<Event> = std::iter::from_fn(|| room.meshes[1].poll_event()).collect();
    assert!(events.is_empty(), "{events:?}");
    assert!(room.meshes.iter().all(|mesh| mesh.alive().len() == 2 && mesh.incarnation() == 1));
    assert!(room.meshes[1].peers.len() == 2);
}

#[test]
fn who_is_called_down_under_the_last_name_of_a_run_signs_another_run() {
    for is_told in [false, true] {
        let mut room = Room::new(3);
        room.meshes.iter_mut().for_each(|mesh| mesh.events.clear());
        let (owner, liar) = (room.meshes[0].me, room.meshes[2].me);
        let last = SwimId { renewal: u32::MAX, ..room.meshes[0].swim.id().clone() };
        let lies = hearsay(&room, 2, 1, &foca::Member::down(last.clone()));
        if is_told {
            say(&mut room, 2, 0, &Message::YouAreDown(last));
        }
        for lie in lies {
            room.meshes[1].handle_message(liar, &lie, room.now);
        }
        room.run(Duration::from_secs(5));
        for other in [1, 2] {
            assert_eq!(room.meshes[other].peer(owner).unwrap().incarnation, Some(2));
            assert!(room.meshes[other].is_up(owner));
            assert_eq!(room.meshes[other].store.head(owner, Scope::Global).incarnation, 2);
        }
    }
}

#[test]
fn a_restart_with_the_same_endpoints_is_not_seen_in_the_network() {
    let mut room = Room::with_network();
    room.meshes[1].events.clear();
    let mut config = MeshConfig::new(key(0), 2, "host-0");
    config.known_peers = room.meshes[1].known_peers();
    config.known_peers.push(crate::KnownPeer { peer: room.meshes[1].me, addresses: Vec::new() });
    let mut again = Mesh::new(config, room.now, &mut SmallRng::seed_from_u64(8));
    again.join_network(NETWORK, Membership { overlay_mtu: 1418 });
    again.set_local_endpoint(NETWORK, endpoint(1)).unwrap();
    room.meshes[0] = again;
    room.run(Duration::from_secs(5));
    let me = room.meshes[0].me;
    assert_eq!(room.meshes[1].peer(me).unwrap().incarnation, Some(2));
    assert_eq!(room.meshes[1].store.head(me, Scope::Network(NETWORK)).incarnation, 2);
    while let Some(event) = room.meshes[1].poll_event() {
        assert!(
            !matches!(
                event,
                Event::PeerDown { .. } | Event::EndpointRemoved { .. } | Event::MembershipChanged { .. }
            ),
            "{event:?}"
        );
    }
    room.meshes[0].remove_local_endpoint(NETWORK, endpoint(1).tag);
    room.run(Duration::from_secs(1));
    assert_eq!(room.meshes[1].endpoints(NETWORK).count(), 0);
}

#[test]
fn who_is_revoked_is_not_heard() {
    let mut room = Room::with_network();
    let gone = room.meshes[0].me;
    let now = room.now;
    room.meshes[1].revoke(gone, now);
    assert_eq!(room.meshes[1].endpoints(NETWORK).count(), 0);
    room.run(Duration::from_secs(20));
    assert!(!room.meshes[1].is_up(gone));
    assert_eq!(room.meshes[1].endpoints(NETWORK).count(), 0);
    assert!(room.meshes[1].members(NETWORK).all(|(peer, _)| peer != gone));
}

/// Both hosts hold the address for `keeper`'s, and said so once.
fn is_kept(room: &mut Room, claimed: &Endpoint, keeper: PeerId) {
    for mesh in &mut room.meshes[..2] {
        assert_eq!(mesh.endpoint_by_mac(NETWORK, claimed.mac).unwrap().0, keeper);
        assert_eq!(mesh.endpoint_by_ip(NETWORK, claimed.addresses[0]).unwrap().0, keeper);
        let events: Vec<Event> = std::iter::from_fn(|| mesh.poll_event()).collect();
        let told = events.iter().filter(|event| {
            matches!(event, Event::DuplicateAddress { keeper: kept, address: Address::Mac(_), .. } if *kept == keeper)
        });
        assert_eq!(told.count(), 1);
    }
}

#[test]
fn an_address_in_use_is_kept_against_later_claims_of_any_id() {
    for owner in [0, 1] {
        let mut room = Room::with_network();
        room.meshes[owner].set_local_endpoint(NETWORK, endpoint(7)).unwrap();
        room.run(Duration::from_secs(4));
        room.meshes[1 - owner].set_local_endpoint(NETWORK, endpoint(7)).unwrap();
        room.run(Duration::from_secs(4));
        let keeper = room.meshes[owner].me;
        is_kept(&mut room, &endpoint(7), keeper);
    }
}

#[test]
fn of_two_claims_at_one_time_the_lower_id_gets_the_address() {
    let mut room = Room::with_network();
    room.meshes[0].set_local_endpoint(NETWORK, endpoint(7)).unwrap();
    room.meshes[1].set_local_endpoint(NETWORK, endpoint(7)).unwrap();
    room.run(Duration::from_secs(4));
    let keeper = room.meshes[0].me.min(room.meshes[1].me);
    is_kept(&mut room, &endpoint(7), keeper);
}

#[test]
fn kept_records_come_and_go() {
    let mut room = Room::with_network();
    let prefix = KvKey(b"vip/1".to_vec());
    room.meshes[0].put(Scope::Network(NETWORK), prefix.clone(), vec![1, 2]).unwrap();
    room.meshes[2].put(Scope::Global, prefix.clone(), vec![3]).unwrap();
    assert_eq!(
        room.meshes[2].put(Scope::Network(NETWORK), prefix.clone(), vec![]),
        Err(EntryError::NotMember)
    );
    let long = vec![0; crate::MAX_VALUE_LEN + 1];
    assert_eq!(room.meshes[2].put(Scope::Global, prefix.clone(), long), Err(EntryError::Limit));
    room.run(Duration::from_secs(3));
    let owner = room.meshes[0].me;
    assert_eq!(room.meshes[1].record(owner, Scope::Network(NETWORK), &prefix), Some(&[1, 2][..]));
    assert_eq!(room.meshes[2].record(owner, Scope::Network(NETWORK), &prefix), None);
    assert_eq!(room.meshes[1].records(Scope::Global, b"vip/").count(), 1);
    assert!(room.meshes[0].delete(Scope::Network(NETWORK), &prefix));
    room.run(Duration::from_secs(1));
    assert_eq!(room.meshes[1].record(owner, Scope::Network(NETWORK), &prefix), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_taken_without_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<proptest::sample::Index>(), 0u8..8), 0..40),
    ) {
        let mut room = Room::with_network();
        let (liar, now) = (room.meshes[2].me, room.now);
        for first in [0, 1] {
            let mut bytes = bytes.clone();
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            let _ = decode(&bytes);
            room.meshes[1].handle_message(liar, &bytes, now);
        }
        for (which, at, bit) in changes {
            let (_, _, mut bytes) = which.get(&room.heard).clone();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            room.meshes[1].handle_message(liar, &bytes, now);
        }
        prop_assert!(room.meshes[1].endpoints(NETWORK).all(|(_, at)| **at == endpoint(1)));
    }
}
