//! Finding members: seeds for ever, and peers that are down.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use weft_wire::PeerId;

use super::Mesh;
use crate::event::Target;
use crate::message::Message;

/// An address at which some member may answer.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) address: SocketAddr,
    pub(super) next: Instant,
    pause: Duration,
    nonce: u32,
    /// Who answered last.
    peer: Option<PeerId>,
}

impl Seed {
    pub(super) const fn new(address: SocketAddr, now: Instant) -> Self {
        Self { address, next: now, pause: Duration::ZERO, nonce: 0, peer: None }
    }
}

impl Mesh {
    pub(super) fn contact_seeds(&mut self) {
        let now = self.now;
        if self.seeds.iter().all(|seed| seed.next > now) {
            return;
        }
        let longest = if self.alive.is_empty() { self.timers.seed_alone } else { self.timers.seed_longest };
        let mut hellos = Vec::new();
        for seed in &mut self.seeds {
            if seed.next > now {
                continue;
            }
            seed.pause = (seed.pause * 2).clamp(self.timers.seed_first.min(longest), longest);
            seed.next = now + seed.pause.mul_f64(self.rng.random_range(0.75..1.25));
            let served = seed
                .peer
                .is_some_and(|peer| peer == self.me || self.peers.get(&peer).is_some_and(|peer| peer.up));
            if !served && !self.info.addresses.contains(&seed.address) {
                seed.nonce = self.rng.random();
                hellos.push((seed.address, seed.nonce));
            }
        }
        for (address, nonce) in hellos {
            self.say_hello(Target::Address(address), nonce);
        }
    }

    /// Tries peers that are down: several often while alone, else one now and then.
    pub(super) fn contact_down(&mut self) {
        if self.down.is_empty() || self.next_contact > self.now {
            return;
        }
        let alone = self.alive.is_empty();
        let pause = if alone { self.timers.seed_first } else { self.timers.contact_down };
        self.next_contact = self.now + pause.mul_f64(self.rng.random_range(0.75..1.25));
        for _ in 0..if alone { 3 } else { 1 } {
            let Some(peer) = self.down.get(self.rng.random_range(0..self.down.len())).copied() else {
                return;
            };
            let nonce = self.rng.random();
            self.say_hello(Target::Peer(peer), nonce);
        }
    }

    fn say_hello(&mut self, to: Target, nonce: u32) {
        let hello = Message::Hello { nonce, id: self.swim.id().clone() };
        self.send(to, &hello);
    }

    /// Someone answered a hello with `nonce`.
    pub(super) fn seed_answered(&mut self, from: PeerId, nonce: u32) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.nonce == nonce) {
            seed.peer = Some(from);
        }
    }

    /// A hello of our own came back: that seed is this peer.
    pub(super) fn is_own_hello(&mut self, nonce: u32) -> bool {
        let me = self.me;
        let own = self.seeds.iter_mut().find(|seed| seed.nonce == nonce && nonce != 0);
        own.map(|seed| seed.peer = Some(me)).is_some()
    }
}
