//! Messages come in.

use std::time::Instant;

use weft_wire::PeerId;

use super::Mesh;
use crate::MAX_MESSAGE_LEN;
use crate::event::Target;
use crate::message::{Decoded, Message, decode, encode, encode_swim};
use crate::swim::Packet;

impl Mesh {
    /// Takes a message that `from` sent: the caller's session proves that it did.
    ///
    /// Never fails: what is malformed, comes from a revoked peer, or speaks for someone else is dropped and counted.
    pub fn handle_message(&mut self, from: PeerId, message: &[u8], now: Instant) {
        self.now = self.now.max(now);
        if self.left || self.revoked.contains(&from) {
            return;
        }
        let decoded = if message.len() > MAX_MESSAGE_LEN { None } else { decode(message) };
        let Some(decoded) = decoded else {
            self.counters.n_malformed += 1;
            return;
        };
        if from == self.me {
            let own_hello =
                matches!(decoded, Decoded::Other(Message::Hello { nonce, .. }) if self.is_own_hello(nonce));
            if !own_hello {
                self.found_clone(Vec::new());
            }
            return;
        }
        match decoded {
            Decoded::Swim(packet) => self.handle_swim(from, packet),
            Decoded::Other(message) => self.handle_other(from, message),
        }
        self.settle();
    }

    fn handle_swim(&mut self, from: PeerId, packet: &[u8]) {
        let Some(packet) = Packet::parse(packet) else {
            self.counters.n_malformed += 1;
            return;
        };
        let (src, dst) = (&packet.header.src, &packet.header.dst);
        if src.peer != from || dst.peer != self.me {
            self.counters.n_malformed += 1;
            return;
        }
        if dst != self.swim.id() {
            // It would wait in vain for an answer under that name.
            self.send(Target::Peer(from), &Message::IAm(self.swim.id().clone()));
        }
        let sifted = packet.sifted(|member| self.is_believed(from, member));
        let taken = sifted.is_some_and(|packet| self.swim.handle_data(&packet));
        if !taken {
            self.counters.n_malformed += 1;
        }
        self.drain_swim();
    }

    fn handle_other(&mut self, from: PeerId, message: Message) {
        match message {
            Message::Hello { nonce, id } => {
                if self.introduced(from, id) {
                    let id = self.swim.id().clone();
                    let digest = self.digest_for(from);
                    self.send(Target::Peer(from), &Message::Welcome { nonce, id, digest });
                }
            }
            Message::Welcome { nonce, id, digest } => {
                if self.introduced(from, id) {
                    self.seed_answered(from, nonce);
                    self.compare_digest(from, &digest);
                }
            }
            Message::IAm(id) => {
                self.introduced(from, id);
            }
            Message::YouAreDown(id) => self.called_down(from, &id),
            Message::Digest(digest) => self.compare_digest(from, &digest),
            Message::Buckets { tree, hashes } => self.compare_buckets(from, tree, &hashes),
            Message::Members { mask, members, reply } => self.compare_members(from, mask, members, reply),
            Message::Heads { scope, mask, heads, reply } => {
                self.compare_heads(from, scope, mask, &heads, reply)
            }
            Message::Want { scope, heads } => self.answer_want(from, scope, &heads),
            Message::Records(groups) => {
                self.apply_groups(from, groups, false);
            }
            Message::Push { nonce, groups } => {
                self.send(Target::Peer(from), &Message::Ack { nonce });
                self.apply_groups(from, groups, true);
            }
            Message::Ack { nonce } => self.pushes.acknowledged(from, nonce),
            Message::Rumor(groups) => {
                let fresh = self.apply_groups(from, groups, false);
                self.pass_on(from, fresh);
            }
        }
    }

    pub(super) fn send(&mut self, to: Target, message: &Message) {
        if let Some(bytes) = encode(message) {
            self.outbox.push(to, bytes);
        }
    }

    pub(super) fn send_bulk(&mut self, to: PeerId, message: &Message) -> bool {
        encode(message).is_some_and(|bytes| self.outbox.push_bulk(Target::Peer(to), bytes))
    }

    pub(super) fn send_swim(&mut self, to: PeerId, packet: &[u8]) {
        self.outbox.push(Target::Peer(to), encode_swim(packet));
    }
}
