//! News at once: pushed and acknowledged to those concerned, passed on from peer to peer to all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use weft_wire::{NetworkId, PeerId};

use super::Mesh;
use crate::event::Target;
use crate::message::{Message, network_of};
use crate::record::{Key, Origin, Record, Runs, Scope, pack};

/// To how many a piece of news is passed on.
const FANOUT: usize = 4;
/// How often a push is sent at most.
const MAX_PUSHES: u32 = 4;
/// Messages of others' news passed on, a second, and at once.
const RUMOR_RATE: f32 = 100.0;
/// Up to so many members of a network are given this peer's records as soon as they enter; in larger ones comparing
/// does it.
const MAX_GREETED: usize = 64;
/// Room for groups in a message.
const ROOM: usize = crate::MAX_MESSAGE_LEN - 20;

/// Records of one owner and scope that are sent together.
pub(super) type Bundle = (Origin, Option<Runs>, Vec<Arc<Record>>);

#[derive(Debug)]
struct Push {
    to: PeerId,
    message: Arc<[u8]>,
    n_sent: u32,
}

/// Pushes not yet acknowledged.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    nonce: u32,
    open: BTreeMap<(u32, PeerId), Push>,
    due: BTreeSet<(Instant, u32, PeerId)>,
}

impl Pushes {
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    pub(super) fn acknowledged(&mut self, from: PeerId, nonce: u32) {
        self.open.remove(&(nonce, from));
        if self.open.is_empty() {
            self.due.clear();
        }
    }

    pub(super) fn forget(&mut self, peer: PeerId) {
        self.open.retain(|_, push| push.to != peer);
    }
}

impl Mesh {
    /// Signs and sends what was set locally.
    pub(super) fn flush(&mut self) {
        if !self.own.is_dirty() {
            return;
        }
        let mut global: Option<Bundle> = None;
        let mut touched: BTreeMap<NetworkId, Option<Bundle>> = BTreeMap::new();
        for flushed in self.own.flush() {
            let scope = flushed.origin.scope;
            self.store.put_own(self.me, flushed.set);
            let bundle = (flushed.origin, flushed.live, flushed.records);
            match network_of(scope) {
                Some(network) => {
                    touched.insert(network, Some(bundle));
                }
                None => {
                    for record in &bundle.2 {
                        if let Key::Member(network) = record.body.key() {
                            touched.entry(network).or_default();
                        }
                    }
                    global = Some(bundle);
                }
            }
        }
        self.refresh_all(self.me);
        for (network, bundle) in touched {
            let entered = |(_, _, records): &&Bundle| {
                records.iter().any(|record| record.body.key() == Key::Member(network))
            };
            let bundles: Vec<Bundle> = global.iter().filter(entered).cloned().chain(bundle).collect();
            let fellows: Vec<PeerId> = self.fellows(network).collect();
            self.push_to(&fellows, bundles);
        }
        if let Some(bundle) = global {
            for groups in pack([bundle], ROOM) {
                self.pass_on_to(self.me, &Message::Rumor(groups));
            }
        }
    }

    fn push_to(&mut self, peers: &[PeerId], bundles: Vec<Bundle>) {
        if peers.is_empty() {
            return;
        }
        for groups in pack(bundles, ROOM) {
            self.pushes.nonce = self.pushes.nonce.wrapping_add(1);
            let nonce = self.pushes.nonce;
            let Some(message) = crate::message::encode(&Message::Push { nonce, groups }) else { continue };
            let message: Arc<[u8]> = message.into();
            for to in peers {
                self.outbox.push(Target::Peer(*to), message.to_vec());
                self.pushes
                    .open
                    .insert((nonce, *to), Push { to: *to, message: Arc::clone(&message), n_sent: 1 });
                self.pushes.due.insert((self.now + self.timers.push_retry, nonce, *to));
            }
        }
    }

    /// Sends again what was not acknowledged.
    pub(super) fn push_again(&mut self) {
        while let Some((at, nonce, to)) = self.pushes.due.first().copied()
            && at <= self.now
        {
            self.pushes.due.pop_first();
            let Some(push) = self.pushes.open.get_mut(&(nonce, to)) else { continue };
            if push.n_sent >= MAX_PUSHES {
                // Comparing will find it.
                self.pushes.open.remove(&(nonce, to));
                continue;
            }
            let pause: Duration = self.timers.push_retry * 2u32.pow(push.n_sent);
            push.n_sent += 1;
            let message = push.message.to_vec();
            self.outbox.push(Target::Peer(to), message);
            self.pushes.due.insert((self.now + pause, nonce, to));
        }
    }

    /// Gives `peer`, which just entered `network`, this peer's records there.
    pub(super) fn greet(&mut self, network: NetworkId, peer: PeerId) {
        if self.fellows(network).take(MAX_GREETED + 1).count() > MAX_GREETED || !self.is_up(peer) {
            return;
        }
        let scopes = [Scope::Global, Scope::Network(network)];
        let bundles: Vec<Bundle> = scopes
            .into_iter()
            .filter_map(|scope| self.store.current(self.me, scope))
            .map(|set| (set.origin, set.runs(), set.since(0)))
            .collect();
        self.push_to(&[peer], bundles);
    }

    /// This peer entered a network: it wants to know what is there.
    pub(super) fn entered(&mut self, network: NetworkId) {
        let fellows: Vec<PeerId> = self.fellows(network).collect();
        if fellows.is_empty() {
            return;
        }
        self.flush();
        for _ in 0..2 {
            if let Some(fellow) = fellows.get(self.rng.random_range(0..fellows.len())) {
                self.compare_networks(*fellow);
            }
        }
    }

    /// Passes on news of others.
    pub(super) fn pass_on(&mut self, from: PeerId, fresh: Vec<Bundle>) {
        let global = fresh.into_iter().filter(|(origin, ..)| origin.scope == Scope::Global);
        let elapsed = self.now.saturating_duration_since(self.rumor_at).as_secs_f32();
        self.rumor_at = self.now;
        self.rumor_tokens = (self.rumor_tokens + elapsed * RUMOR_RATE).min(RUMOR_RATE);
        for groups in pack(global, ROOM) {
            if self.rumor_tokens < 1.0 {
                return;
            }
            self.rumor_tokens -= 1.0;
            self.pass_on_to(from, &Message::Rumor(groups));
        }
    }

    fn pass_on_to(&mut self, but: PeerId, message: &Message) {
        for _ in 0..FANOUT.min(self.alive.len()) {
            let to = self.alive.get(self.rng.random_range(0..self.alive.len())).copied();
            if let Some(to) = to.filter(|to| *to != but) {
                self.send(Target::Peer(to), message);
            }
        }
    }
}
