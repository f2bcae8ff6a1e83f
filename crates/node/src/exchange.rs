//! Who is on which network, with which addresses: a log that each peer writes for itself and all others follow.
//!
//! A peer numbers its own changes (its *head*). It says its head to every connected peer now and then, pushes each
//! change at once, and a follower that misses something asks for what came after the version it has. A peer speaks
//! only for itself, over its own session, so nothing is relayed and the session's key is all the proof there is.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use weft_wire::{EndpointId, Mac, NetworkId, PeerId};

/// Largest encoded control message. With all headers it fits the smallest underlay MTU, 1280 bytes.
const MAX_MESSAGE_LEN: usize = 1150;
/// Removals kept in the log, so that a follower that is a little behind need not start anew.
const MAX_TOMBSTONES: usize = 512;

/// An endpoint as its owner announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Docker's endpoint id.
    pub id: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IP addresses, without prefix lengths; at most one of each family.
    pub addresses: Vec<IpAddr>,
}

/// A peer as others tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerHint {
    /// Its id.
    pub(crate) id: PeerId,
    /// Its name.
    pub(crate) name: String,
    /// Where it was last reached.
    pub(crate) address: SocketAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Key {
    Network(NetworkId),
    Endpoint(EndpointId),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Value {
    Network,
    Endpoint(EndpointRecord),
    Gone,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    version: u64,
    key: Key,
    value: Value,
}

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// The sender's head, and how much of the receiver's log it has.
    Announce { incarnation: u64, head: u64 },
    /// Asks for what came after `have`; another incarnation than the receiver's asks for everything.
    Pull { incarnation: u64, have: u64 },
    /// Records with versions in `from..=to`; `from` 0 starts anew.
    Update { incarnation: u64, from: u64, to: u64, records: Vec<Record> },
    /// Other peers, to be contacted.
    Peers(Vec<PeerHint>),
}

/// What one peer has announced.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    incarnation: u64,
    have: u64,
    records: BTreeMap<Key, Value>,
}

impl Remote {
    /// Whether the peer is on `network`.
    #[must_use]
    pub(crate) fn is_member(&self, network: NetworkId) -> bool {
        self.records.contains_key(&Key::Network(network))
    }

    /// The peer's networks.
    pub(crate) fn networks(&self) -> impl Iterator<Item = NetworkId> {
        self.records.keys().filter_map(|k| if let Key::Network(id) = k { Some(*id) } else { None })
    }

    /// The peer's endpoints.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &EndpointRecord> {
        self.records.values().filter_map(|v| if let Value::Endpoint(e) = v { Some(e) } else { None })
    }
}

/// What [`Exchange::handle_message`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// The sender's records changed.
    pub(crate) changed: bool,
    /// Peers to contact.
    pub(crate) hints: Vec<PeerHint>,
}

/// Bytes that are no message of the exchange; nothing was changed. Only a faulty or malicious peer sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The log of this peer and its copies of the others'.
#[derive(Debug)]
pub(crate) struct Exchange {
    incarnation: u64,
    head: u64,
    /// Versions up to this were forgotten with their tombstones; who has less starts anew.
    floor: u64,
    log: BTreeMap<u64, (Key, Value)>,
    versions: HashMap<Key, u64>,
    remotes: HashMap<PeerId, Remote>,
    followers: Vec<PeerId>,
    outbox: VecDeque<(PeerId, Vec<u8>)>,
}

impl Exchange {
    /// An empty log. `incarnation` must be larger than at any earlier start of this peer.
    #[must_use]
    pub(crate) fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            head: 0,
            floor: 0,
            log: BTreeMap::new(),
            versions: HashMap::new(),
            remotes: HashMap::new(),
            followers: Vec::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Announces that this peer is on `network`.
    pub(crate) fn join_network(&mut self, network: NetworkId) {
        self.write(Key::Network(network), Value::Network);
    }

    /// Withdraws from `network`.
    pub(crate) fn leave_network(&mut self, network: NetworkId) {
        self.write(Key::Network(network), Value::Gone);
    }

    /// Announces an endpoint, or its change.
    pub(crate) fn set_endpoint(&mut self, endpoint: EndpointRecord) {
        self.write(Key::Endpoint(endpoint.id.clone()), Value::Endpoint(endpoint));
    }

    /// Withdraws an endpoint.
    pub(crate) fn remove_endpoint(&mut self, id: &EndpointId) {
        self.write(Key::Endpoint(id.clone()), Value::Gone);
    }

    fn write(&mut self, key: Key, value: Value) {
        let old = self.versions.get(&key).and_then(|v| self.log.get(v)).map(|(_, v)| v);
        if old == Some(&value) || (old.is_none() && value == Value::Gone) {
            return;
        }
        let from = self.head;
        self.head += 1;
        if let Some(version) = self.versions.insert(key.clone(), self.head) {
            self.log.remove(&version);
        }
        self.log.insert(self.head, (key.clone(), value.clone()));
        self.forget_tombstones();
        let update = Message::Update {
            incarnation: self.incarnation,
            from,
            to: self.head,
            records: vec![Record { version: self.head, key, value }],
        };
        for peer in self.followers.clone() {
            self.send(peer, &update);
        }
    }

    fn forget_tombstones(&mut self) {
        let gone: Vec<u64> =
            self.log.iter().filter(|(_, (_, v))| *v == Value::Gone).map(|(k, _)| *k).collect();
        for version in gone.iter().take(gone.len().saturating_sub(MAX_TOMBSTONES)) {
            if let Some((key, _)) = self.log.remove(version) {
                self.versions.remove(&key);
                self.floor = *version;
            }
        }
    }

    /// Starts to push to `peer`, and to follow it: call when a session with it begins.
    pub(crate) fn connect(&mut self, peer: PeerId, hints: Vec<PeerHint>) {
        if !self.followers.contains(&peer) {
            self.followers.push(peer);
        }
        self.announce_to(peer);
        self.tell(peer, hints);
    }

    /// Stops pushing to `peer`. What it announced is kept.
    pub(crate) fn disconnect(&mut self, peer: PeerId) {
        self.followers.retain(|p| *p != peer);
    }

    /// Forgets `peer` and what it announced.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.disconnect(peer);
        self.remotes.remove(&peer);
    }

    /// Says the head to `peer`.
    pub(crate) fn announce_to(&mut self, peer: PeerId) {
        self.send(peer, &Message::Announce { incarnation: self.incarnation, head: self.head });
    }

    /// Tells `peer` of others.
    pub(crate) fn tell(&mut self, peer: PeerId, hints: Vec<PeerHint>) {
        let mut rest = hints;
        while !rest.is_empty() {
            // 100 bytes bound a hint: id 16, address 19, name at most 64.
            let tail = rest.split_off(rest.len().min(MAX_MESSAGE_LEN / 100));
            self.send(peer, &Message::Peers(rest));
            rest = tail;
        }
    }

    /// What `peer` has announced.
    #[must_use]
    pub(crate) fn remote(&self, peer: PeerId) -> Option<&Remote> {
        self.remotes.get(&peer)
    }

    /// Takes in a control message that came over a session of `from`.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no message: nothing is changed, `from` is at fault.
    pub(crate) fn handle_message(&mut self, from: PeerId, bytes: &[u8]) -> Result<Received, Malformed> {
        let message: Message = postcard::from_bytes(bytes).map_err(|_| Malformed)?;
        let mut received = Received::default();
        match message {
            Message::Announce { incarnation, head } => {
                let remote = self.remotes.entry(from).or_default();
                if (remote.incarnation, remote.have) != (incarnation, head)
                    && incarnation >= remote.incarnation
                {
                    let pull = Message::Pull { incarnation: remote.incarnation, have: remote.have };
                    self.send(from, &pull);
                }
            }
            Message::Pull { incarnation, have } => self.answer_pull(from, incarnation, have),
            Message::Update { incarnation, from: first, to, records } => {
                received.changed = self.apply(from, incarnation, first, to, records);
            }
            Message::Peers(hints) => received.hints = hints,
        }
        Ok(received)
    }

    fn answer_pull(&mut self, peer: PeerId, incarnation: u64, have: u64) {
        let known = incarnation == self.incarnation && have >= self.floor && have <= self.head;
        let mut from = if known { have } else { 0 };
        let newer: Vec<Record> = self
            .log
            .range(from + 1..)
            .filter(|(_, (_, value))| from > 0 || *value != Value::Gone)
            .map(|(version, (key, value))| Record {
                version: *version,
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        let mut rest = newer.into_iter().peekable();
        loop {
            let mut chunk = Vec::new();
            let mut chunk_len = 32;
            while let Some(record) = rest.peek() {
                let record_len = postcard::to_allocvec(record).map_or(0, |b| b.len());
                if !chunk.is_empty() && chunk_len + record_len > MAX_MESSAGE_LEN {
                    break;
                }
                chunk_len += record_len;
                chunk.extend(rest.next());
            }
            let to = match (rest.peek(), chunk.last()) {
                (Some(_), Some(last)) => last.version,
                _ => self.head,
            };
            self.send(peer, &Message::Update { incarnation: self.incarnation, from, to, records: chunk });
            if rest.peek().is_none() {
                break;
            }
            from = to;
        }
    }

    fn apply(&mut self, peer: PeerId, incarnation: u64, from: u64, to: u64, records: Vec<Record>) -> bool {
        let remote = self.remotes.entry(peer).or_default();
        let anew = from == 0
            && (incarnation > remote.incarnation || (incarnation == remote.incarnation && to > remote.have));
        let follows = incarnation == remote.incarnation && from == remote.have && to > from;
        if !anew && !follows {
            if incarnation > remote.incarnation || (incarnation == remote.incarnation && to > remote.have) {
                let pull = Message::Pull { incarnation: remote.incarnation, have: remote.have };
                self.send(peer, &pull);
            }
            return false;
        }
        if !follows {
            remote.records.clear();
        }
        remote.incarnation = incarnation;
        remote.have = to;
        for Record { key, value, .. } in records {
            match value {
                Value::Gone => {
                    remote.records.remove(&key);
                }
                value => {
                    remote.records.insert(key, value);
                }
            }
        }
        true
    }

    fn send(&mut self, peer: PeerId, message: &Message) {
        // Encoding plain data into a growing buffer has no failure.
        if let Ok(bytes) = postcard::to_allocvec(message) {
            self.outbox.push_back((peer, bytes));
        }
    }

    /// The next message to seal and send.
    pub(crate) fn poll_transmit(&mut self) -> Option<(PeerId, Vec<u8>)> {
        self.outbox.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: PeerId = PeerId([1; 16]);
    const B: PeerId = PeerId([2; 16]);

    fn endpoint(n: u32) -> EndpointRecord {
        let [_, _, _, d] = n.to_be_bytes();
        EndpointRecord {
            id: EndpointId(format!("{n:064x}")),
            network: NetworkId::from_u48(7),
            mac: Mac([2, 0x42, 10, 0, 0, d]),
            addresses: vec![IpAddr::from([10, 0, 0, d])],
        }
    }

    /// Delivers everything both ways, dropping what `lose` says; returns the longest message.
    fn deliver(a: &mut Exchange, b: &mut Exchange, mut lose: impl FnMut() -> bool) -> usize {
        let mut longest = 0;
        loop {
            let mut idle = true;
            for ab in [true, false] {
                let (sender, receiver, id) = if ab { (&mut *a, &mut *b, A) } else { (&mut *b, &mut *a, B) };
                while let Some((_, bytes)) = sender.poll_transmit() {
                    idle = false;
                    longest = longest.max(bytes.len());
                    if !lose() {
                        receiver.handle_message(id, &bytes).expect("own messages are well formed");
                    }
                }
            }
            if idle {
                return longest;
            }
        }
    }

    fn view(of: &Exchange, peer: PeerId) -> Vec<EndpointRecord> {
        let mut list: Vec<_> = of.remote(peer).map(|r| r.endpoints().cloned().collect()).unwrap_or_default();
        list.sort_by(|x: &EndpointRecord, y| x.id.cmp(&y.id));
        list
    }

    #[test]
    fn a_late_follower_gets_all_in_small_messages() {
        let (mut a, mut b) = (Exchange::new(1), Exchange::new(1));
        a.join_network(NetworkId::from_u48(7));
        (0..100).for_each(|n| a.set_endpoint(endpoint(n)));
        a.connect(B, vec![]);
        b.connect(A, vec![]);
        assert!(deliver(&mut a, &mut b, || false) <= MAX_MESSAGE_LEN);
        assert_eq!(view(&b, A).len(), 100);
        assert!(b.remote(A).unwrap().is_member(NetworkId::from_u48(7)));
    }

    #[test]
    fn a_restart_replaces_what_was_announced_before() {
        let (mut a, mut b) = (Exchange::new(1), Exchange::new(1));
        a.connect(B, vec![]);
        (0..3).for_each(|n| a.set_endpoint(endpoint(n)));
        deliver(&mut a, &mut b, || false);
        let mut a = Exchange::new(2);
        a.set_endpoint(endpoint(9));
        a.connect(B, vec![]);
        deliver(&mut a, &mut b, || false);
        assert_eq!(view(&b, A), vec![endpoint(9)]);
    }

    #[test]
    fn an_update_of_an_older_incarnation_is_ignored() {
        let (mut old, mut new, mut b) = (Exchange::new(1), Exchange::new(2), Exchange::new(1));
        new.set_endpoint(endpoint(1));
        new.connect(B, vec![]);
        deliver(&mut new, &mut b, || false);
        (2..9).for_each(|n| old.set_endpoint(endpoint(n)));
        old.connect(B, vec![]);
        deliver(&mut old, &mut b, || false);
        assert_eq!(view(&b, A), vec![endpoint(1)]);
    }

    proptest! {
        #[test]
        fn follower_converges_after_loss(ops in proptest::collection::vec((any::<bool>(), 0u32..40, any::<bool>()), 1..900)) {
            let (mut a, mut b) = (Exchange::new(1), Exchange::new(1));
            a.connect(B, vec![]);
            let mut model = BTreeMap::new();
            for (add, n, lost) in ops {
                if add {
                    a.set_endpoint(endpoint(n));
                    model.insert(n, endpoint(n));
                } else {
                    a.remove_endpoint(&endpoint(n).id);
                    model.remove(&n);
                }
                deliver(&mut a, &mut b, || lost);
            }
            a.announce_to(B);
            deliver(&mut a, &mut b, || false);
            prop_assert_eq!(view(&b, A), model.into_values().collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Exchange::new(1).handle_message(A, &bytes);
        }
    }
}
