//! Carries the mesh's messages over sessions, and turns its events into the node's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use weft_mesh::{Event as MeshEvent, KvKey, Scope, Target};
use weft_noise::SecretId;
use weft_wire::{Mac, NetworkId, PeerId};

use crate::admission::Verdict;
use crate::control::Control;
use crate::node::{Event, MAX_PEERS, Node};
use crate::peer::Peer;
use crate::status::SAME_KEY_HOLD;

/// Key of the record in which a peer says which secrets it has, the preferred one first.
const SECRETS_KEY: &[u8] = b"secrets";
/// Prefix of the key of a verdict; the judged peer's id follows.
const VERDICT_PREFIX: &[u8] = b"verdict/";

/// Prefix of the keys of the records, in a network's scope, of the multicast groups that a host's containers are in; a
/// number follows.
const GROUPS_PREFIX: &[u8] = b"groups/";
/// Addresses in one such record: 17 bytes each bound it.
const GROUPS_PER_RECORD: usize = 32;

/// Names that are kept of the hosts that share a key.
const MAX_SAME_KEY_NAMES: usize = 4;

pub(crate) fn verdict_key(peer: PeerId) -> KvKey {
    KvKey([VERDICT_PREFIX, &peer.0].concat())
}

impl Node {
    /// Takes what the mesh has to send and to tell, until there is nothing more.
    pub(crate) fn pump(&mut self, now: Instant) {
        if self.joining {
            return;
        }
        loop {
            let mut idle = true;
            while let Some((target, message)) = self.mesh.poll_transmit() {
                idle = false;
                self.send_mesh(target, &message, now);
            }
            while let Some(event) = self.mesh.poll_event() {
                idle = false;
                self.handle_mesh_event(event, now);
            }
            if idle {
                break;
            }
        }
        if std::mem::take(&mut self.neighbors_changed) {
            self.refresh_neighbors();
            self.next_probe = self.next_probe.min(now);
        }
        self.refresh_services(now);
    }

    fn send_mesh(&mut self, target: Target, message: &[u8], now: Instant) {
        let message = Control::Mesh(message).to_bytes();
        match target {
            Target::Peer(id) => {
                if self.gate.is_barred(id) {
                    return;
                }
                if !self.say_of_mesh(id, &message, now)
                    && let Some(peer) = self.ensure_peer(id, now)
                {
                    peer.enqueue(message);
                    self.tick.hasten(now);
                }
            }
            Target::Address(address) => {
                let connected = self.peers.values().find(|peer| {
                    let session = peer.current.and_then(|n| self.sessions.get(&n));
                    session.is_some_and(|s| s.remote == address && s.unanswered_since.is_none())
                });
                if let Some(id) = connected.map(|peer| peer.id) {
                    self.say_of_mesh(id, &message, now);
                } else if let Some(seed) = self.seeds.get_mut(&address) {
                    seed.message = Some(message);
                    self.tick.hasten(now);
                }
            }
        }
    }

    pub(crate) fn ensure_peer(&mut self, id: PeerId, now: Instant) -> Option<&mut Peer> {
        if id == self.id || (self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&id)) {
            return None;
        }
        let name = self.mesh.peer_info(id).map(|info| info.name.clone()).unwrap_or_default();
        Some(self.peers.entry(id).or_insert_with(|| Peer::new(id, name, None, now)))
    }

    fn handle_mesh_event(&mut self, event: MeshEvent, now: Instant) {
        self.services.hear(&event);
        match event {
            MeshEvent::PeerUp { peer } => {
                if self.gate.is_barred(peer) {
                    self.mesh.revoke(peer, now);
                    return;
                }
                if let Some(known) = self.ensure_peer(peer, now) {
                    known.dial.reset(now);
                    let name = known.name.clone();
                    self.events.push_back(Event::PeerUp { id: peer, name });
                }
                self.neighbors_changed = true;
                self.dirty = true;
            }
            MeshEvent::PeerDown { peer } | MeshEvent::PeerLeft { peer } => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.is_cut = false;
                    let name = known.name.clone();
                    self.events.push_back(Event::PeerDown { id: peer, name });
                }
                self.mesh.peer_reachable(peer);
                self.neighbors_changed = true;
                self.dirty = true;
            }
            MeshEvent::PeerChanged { peer } => {
                let name = self.mesh.peer_info(peer).map(|info| info.name.clone());
                if let Some(known) = self.peers.get_mut(&peer)
                    && known.name.is_empty()
                {
                    known.name = name.unwrap_or_default();
                }
            }
            MeshEvent::MembershipChanged { network, peer } if self.networks.contains_key(&network) => {
                self.ensure_peer(peer, now);
                self.neighbors_changed = true;
                self.dirty = true;
            }
            MeshEvent::EndpointAdded { peer, .. } => {
                self.ensure_peer(peer, now);
                self.dirty = true;
            }
            MeshEvent::EndpointMoved { .. } | MeshEvent::EndpointRemoved { .. } => self.dirty = true,
            MeshEvent::DuplicateAddress { network, address, keeper, loser } => {
                self.events.push_back(Event::DuplicateAddress { network, address, keeper, loser });
            }
            MeshEvent::SameKeyTwice { peer, names } => {
                // What was found long ago is forgotten, so that its names take no room of those found now.
                self.same_keys.retain(|_, (_, last)| now < *last + SAME_KEY_HOLD);
                let (all, last) = self.same_keys.entry(peer).or_insert_with(|| (BTreeSet::new(), now));
                // A member that lies has as many as it likes.
                let n_room = MAX_SAME_KEY_NAMES.saturating_sub(all.len());
                all.extend(names.iter().take(n_room).cloned());
                *last = now;
                self.events.push_back(Event::SameKeyTwice { peer, names });
            }
            MeshEvent::RecordChanged { peer, scope: Scope::Global, key }
                if key.0.starts_with(VERDICT_PREFIX) =>
            {
                self.hear_verdict(peer, &key, now);
            }
            MeshEvent::RecordChanged { scope: Scope::Network(network), key, .. }
                if key.0.starts_with(GROUPS_PREFIX) && self.networks.contains_key(&network) =>
            {
                self.dirty = true;
            }
            _ => {}
        }
    }

    /// Takes in what a container says of its multicast groups: an Ethernet frame with IGMP or MLD.
    pub fn handle_group_report(&mut self, network: NetworkId, mac: Mac, frame: &[u8], now: Instant) {
        // What cannot be read is the container's own loss.
        if self.groups.handle_report(network, mac, frame, now).unwrap_or(false) {
            self.announce_groups();
            self.pump(now);
        }
    }

    /// Tells the members of each network which groups this host wants.
    pub(crate) fn announce_groups(&mut self) {
        for network in self.networks.keys() {
            let scope = Scope::Network(*network);
            let groups: Vec<IpAddr> = self.groups.subscriptions(*network).collect();
            let key = |n: u8| KvKey([GROUPS_PREFIX, &[n]].concat());
            let mut n_records = 0;
            for (n, part) in (0..u8::MAX).zip(groups.chunks(GROUPS_PER_RECORD)) {
                if let Ok(value) = postcard::to_allocvec(part) {
                    // Within the limits of a value, and the network is joined.
                    let put = self.mesh.put(scope, key(n), value);
                    debug_assert!(put.is_ok(), "{put:?}");
                }
                n_records = n + 1;
            }
            let _ = (n_records..u8::MAX).take_while(|n| self.mesh.delete(scope, &key(*n))).count();
        }
    }

    /// Who wants which group in a network.
    pub(crate) fn subscriptions(&self, network: NetworkId) -> impl Iterator<Item = (PeerId, IpAddr)> + '_ {
        let records = self.mesh.records(Scope::Network(network), GROUPS_PREFIX);
        let groups = |value: &[u8]| postcard::from_bytes::<Vec<IpAddr>>(value).unwrap_or_default();
        records.flat_map(move |(owner, _, value)| groups(value).into_iter().map(move |group| (owner, group)))
    }

    fn hear_verdict(&mut self, owner: PeerId, key: &KvKey, now: Instant) {
        if owner == self.id || self.gate.is_barred(owner) {
            return;
        }
        let Some(bytes) = self.mesh.record(owner, Scope::Global, key) else { return };
        let Ok(verdict) = postcard::from_bytes::<Verdict>(bytes) else { return };
        if verdict_key(verdict.peer) == *key && verdict.is_sound() {
            self.adopt(verdict, now);
        }
    }

    /// Tells all which secrets this host has, so that an old one is not dropped while someone needs it.
    pub(crate) fn announce_secrets(&mut self) {
        let ids: Vec<[u8; 16]> = self.secrets.iter().map(|secret| secret.id().0).take(8).collect();
        if let Ok(value) = postcard::to_allocvec(&ids) {
            // Within the limits of a value.
            let put = self.mesh.put(Scope::Global, KvKey(SECRETS_KEY.to_vec()), value);
            debug_assert!(put.is_ok(), "{put:?}");
        }
    }

    /// Peers that are alive or remembered and do not prefer `secret`, or did not say so.
    #[must_use]
    pub fn peers_not_preferring(&self, secret: SecretId) -> Vec<PeerId> {
        self.peers.keys().copied().filter(|id| self.preferred_by(*id) != Some(secret.0)).collect()
    }

    /// The secret that a peer said it prefers.
    fn preferred_by(&self, id: PeerId) -> Option<[u8; 16]> {
        let bytes = self.mesh.record(id, Scope::Global, &KvKey(SECRETS_KEY.to_vec()))?;
        postcard::from_bytes::<Vec<[u8; 16]>>(bytes).ok()?.first().copied()
    }

    /// Whether a peer said that it prefers the same secret as this one.
    pub(crate) fn prefers_same_secret(&self, id: PeerId) -> Option<bool> {
        let own = self.secrets.first()?.id().0;
        self.preferred_by(id).map(|theirs| theirs == own)
    }

    /// Which peers' sessions are to be kept: those of the members of this host's networks.
    fn refresh_neighbors(&mut self) {
        let mut neighbors = BTreeSet::new();
        for network in self.networks.keys() {
            neighbors.extend(self.mesh.members(*network).map(|(id, _)| id));
        }
        for peer in self.peers.values_mut() {
            peer.is_neighbor = neighbors.contains(&peer.id) && self.mesh.is_up(peer.id);
        }
    }
}
