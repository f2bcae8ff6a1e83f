//! Handshakes over a channel that loses, duplicates, delays, changes and replays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weft_noise::{
    ClusterSecret, DropReason, Established, FailReason, HandshakeConfig, HandshakeEvent, Handshakes,
    Identity, MAX_HALF_OPEN, MAX_HELLO_LEN, N_INITS_UNDER_LOAD, RecvSession, Role, SendSession, Suite,
};
use weft_wire::{HEADER_LEN, Header, Lane, MessageType, TAG_LEN};

const SECRET: [u8; 32] = [7; 32];
const ALICE: &str = "10.0.0.1:6783";
const BOB: &str = "10.0.0.2:6783";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn node(key: u8, secret: [u8; 32], suite: Suite, now: Instant) -> Handshakes {
    Handshakes::new(HandshakeConfig {
        identity: Identity::from_bytes([key; 32]),
        secrets: vec![ClusterSecret::new(secret)],
        suite,
        hello: format!("hello of {key}").into_bytes(),
        now,
    })
    .unwrap()
}

/// Alice dials, Bob answers; datagrams are passed by hand.
struct Pair {
    alice: Handshakes,
    bob: Handshakes,
    now: Instant,
    rng: StdRng,
}

impl Pair {
    fn new(suite: Suite) -> Self {
        let now = Instant::now();
        let rng = StdRng::seed_from_u64(3);
        Self { alice: node(1, SECRET, suite, now), bob: node(2, SECRET, suite, now), now, rng }
    }

    fn dial(&mut self) -> Vec<u8> {
        self.alice.initiate(at(BOB), 42, self.now, &mut self.rng);
        self.alice_sends()
    }

    fn alice_sends(&mut self) -> Vec<u8> {
        let (to, datagram) = self.alice.poll_transmit().expect("Alice sends");
        assert_eq!(to, at(BOB));
        datagram
    }

    fn bob_sends(&mut self) -> Vec<u8> {
        let (to, datagram) = self.bob.poll_transmit().expect("Bob sends");
        assert_eq!(to, at(ALICE));
        datagram
    }

    fn give_alice(&mut self, datagram: &[u8]) -> Result<(), DropReason> {
        self.alice.handle_datagram(at(BOB), datagram, self.now, &mut self.rng)
    }

    fn give_bob(&mut self, datagram: &[u8]) -> Result<(), DropReason> {
        self.bob.handle_datagram(at(ALICE), datagram, self.now, &mut self.rng)
    }

    /// Init, Response and Finish of a handshake that both sides complete, and the sessions.
    fn complete(&mut self) -> ([Vec<u8>; 3], Established, Established) {
        let init = self.dial();
        self.give_bob(&init).unwrap();
        let response = self.bob_sends();
        self.give_alice(&response).unwrap();
        let finish = self.alice_sends();
        self.give_bob(&finish).unwrap();
        let (alice, bob) = (established(&mut self.alice), established(&mut self.bob));
        ([init, response, finish], alice, bob)
    }

    /// Lets Alice's timers run for `duration`; what she sent, and when.
    fn pass(&mut self, duration: Duration) -> Vec<(Duration, Vec<u8>)> {
        let (start, end) = (self.now, self.now + duration);
        let mut sent = Vec::new();
        while let Some((due, _)) = self.alice.poll_timeout().filter(|&(due, _)| due <= end) {
            self.now = due;
            self.alice.handle_timeout(due, &mut self.rng);
            sent.extend(std::iter::from_fn(|| self.alice.poll_transmit()).map(|(_, d)| (due - start, d)));
        }
        self.now = end;
        sent
    }
}

fn established(side: &mut Handshakes) -> Established {
    match side.poll_event() {
        Some(HandshakeEvent::Established(established)) => established,
        other => panic!("{other:?}"),
    }
}

fn sealed(send: &SendSession, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [&[0; HEADER_LEN], payload, &[0; TAG_LEN]].concat();
    send.seal(Lane::CONTROL, send.reserve(Lane::CONTROL, 1).unwrap(), &mut datagram);
    datagram
}

fn opened(recv: &RecvSession, datagram: &[u8]) -> Option<Vec<u8>> {
    let header = Header::parse(datagram)?;
    let mut datagram = datagram.to_vec();
    recv.lane(header.receiver.lane()).open(&header, &mut datagram).ok().map(|text| text.to_vec())
}

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

#[test]
fn three_datagrams_make_a_session() {
    for suite in SUITES {
        let mut pair = Pair::new(suite);
        let (datagrams, alice, bob) = pair.complete();
        let types = datagrams.each_ref().map(|d| Header::parse(d).unwrap().message);
        assert_eq!(types, [MessageType::Init, MessageType::Response, MessageType::Finish]);
        assert_eq!((alice.role, bob.role), (Role::Initiator, Role::Responder));
        assert_eq!((alice.tag, bob.tag), (Some(42), None));
        assert_eq!((&alice.hello[..], &bob.hello[..]), (&b"hello of 2"[..], &b"hello of 1"[..]));
        let [alice_key, bob_key] = [1, 2].map(|key| Identity::from_bytes([key; 32]));
        assert_eq!((alice.peer, bob.peer), (bob_key.peer_id(), alice_key.peer_id()));
        assert_eq!((alice.public_key, bob.public_key), (bob_key.public_key(), alice_key.public_key()));
        assert_eq!((alice.remote, bob.remote), (at(BOB), at(ALICE)));
        assert_eq!(alice.send.remote_session(), bob.session);
        assert_eq!(bob.send.remote_session(), alice.session);
        assert_eq!(opened(&bob.recv, &sealed(&alice.send, b"to Bob")).unwrap(), b"to Bob");
        assert_eq!(opened(&alice.recv, &sealed(&bob.send, b"to Alice")).unwrap(), b"to Alice");
        assert!(opened(&alice.recv, &sealed(&alice.send, b"reflected")).is_none());
    }
}

#[test]
fn longest_hello_arrives_and_a_longer_one_is_refused() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let hello = vec![0xee; MAX_HELLO_LEN];
    pair.alice.set_hello(hello.clone()).unwrap();
    pair.bob.set_hello(hello.clone()).unwrap();
    assert!(pair.bob.set_hello(vec![0; MAX_HELLO_LEN + 1]).is_err());
    let (datagrams, alice, bob) = pair.complete();
    assert_eq!((alice.hello, bob.hello), (hello.clone(), hello));
    assert_eq!(datagrams.map(|datagram| datagram.len()), [96, 660, 628]);
}

/// Delivers between two nodes that both play the caller's part as documented.
struct World {
    now: Instant,
    rng: StdRng,
    nodes: Vec<(SocketAddr, Handshakes)>,
    /// By arrival: from, to, datagram.
    underway: BTreeMap<(Instant, u64), (usize, usize, Vec<u8>)>,
    n_sent: u64,
    loss: f64,
    duplication: f64,
    max_delay: Duration,
    sessions: Vec<Vec<Established>>,
    confirmed: Vec<Vec<u32>>,
}

impl World {
    fn new(seed: u64, suite: Suite, loss: f64, duplication: f64, max_delay: Duration) -> Self {
        let now = Instant::now();
        let nodes = [(ALICE, 1), (BOB, 2)];
        Self {
            now,
            rng: StdRng::seed_from_u64(seed),
            nodes: nodes.map(|(address, key)| (at(address), node(key, SECRET, suite, now))).into(),
            underway: BTreeMap::new(),
            n_sent: 0,
            loss,
            duplication,
            max_delay,
            sessions: vec![Vec::new(), Vec::new()],
            confirmed: vec![Vec::new(), Vec::new()],
        }
    }

    fn dial(&mut self, from: usize) {
        let to = self.nodes[1 - from].0;
        self.nodes[from].1.initiate(to, 42, self.now, &mut self.rng);
    }

    fn send(&mut self, from: usize, datagram: Vec<u8>) {
        let n_copies = if self.rng.random_bool(self.duplication) { 2 } else { 1 };
        for _ in 0..n_copies {
            if !self.rng.random_bool(self.loss) {
                let arrival = self.now + self.max_delay.mul_f64(self.rng.random());
                self.n_sent += 1;
                self.underway.insert((arrival, self.n_sent), (from, 1 - from, datagram.clone()));
            }
        }
    }

    fn drain(&mut self) {
        for i in 0..2 {
            while let Some(event) = self.nodes[i].1.poll_event() {
                match event {
                    HandshakeEvent::Established(session) => {
                        if session.role == Role::Responder {
                            let keepalive = sealed(&session.send, b"");
                            self.send(i, keepalive);
                        }
                        self.sessions[i].push(session);
                    }
                    HandshakeEvent::Reconfirm { session } => {
                        let session = self.sessions[i].iter().find(|s| s.session == session).unwrap();
                        let keepalive = sealed(&session.send, b"");
                        self.send(i, keepalive);
                    }
                    HandshakeEvent::Failed { session, .. } => {
                        self.sessions[i].retain(|s| Some(s.session) != session);
                        self.dial(i);
                    }
                    other => panic!("{other:?}"),
                }
            }
            while let Some((to, datagram)) = self.nodes[i].1.poll_transmit() {
                assert_eq!(to, self.nodes[1 - i].0);
                self.send(i, datagram);
            }
        }
    }

    fn arrive(&mut self, from: usize, to: usize, datagram: &[u8]) {
        let header = Header::parse(datagram).unwrap();
        if header.message != MessageType::Data {
            let from = self.nodes[from].0;
            let _ = self.nodes[to].1.handle_datagram(from, datagram, self.now, &mut self.rng);
            return;
        }
        let session = self.sessions[to].iter().find(|s| s.session == header.receiver.session());
        if let Some(session) = session
            && opened(&session.recv, datagram).is_some()
        {
            self.nodes[to].1.confirmed(session.session);
            self.confirmed[to].push(session.session);
        }
    }

    /// Whether `done` comes true within `limit`.
    fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.drain();
            if done(self) {
                return true;
            }
            let arrival = self.underway.keys().next().map(|&(arrival, _)| arrival);
            let timeouts = self.nodes.iter().filter_map(|(_, node)| node.poll_timeout()).map(|(due, _)| due);
            let Some(next) = timeouts.chain(arrival).min().filter(|&next| next <= end) else { return false };
            self.now = self.now.max(next);
            if let Some(entry) = self.underway.first_entry()
                && entry.key().0 <= self.now
            {
                let (from, to, datagram) = entry.remove();
                self.arrive(from, to, &datagram);
            } else {
                let (now, rng) = (self.now, &mut self.rng);
                self.nodes.iter_mut().for_each(|(_, node)| node.handle_timeout(now, rng));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn bad_channels_only_take_longer(
        seed: u64, loss in 0.0..0.6, duplication in 0.0..0.5, delay_ms in 0u64..400, aes: bool,
    ) {
        let suite = SUITES[usize::from(!aes)];
        let mut world = World::new(seed, suite, loss, duplication, Duration::from_millis(delay_ms));
        world.dial(0);
        prop_assert!(world.run(Duration::from_secs(600), |world| !world.confirmed[0].is_empty()));
        let session = world.confirmed[0][0];
        let alice = world.sessions[0].iter().find(|s| s.session == session).unwrap();
        let bob = world.sessions[1].iter().find(|s| s.session == alice.send.remote_session()).unwrap();
        prop_assert_eq!(opened(&bob.recv, &sealed(&alice.send, b"data")).unwrap(), b"data");
    }

    #[test]
    fn sides_that_dial_at_once_get_a_session_each(seed: u64, loss in 0.0..0.4) {
        let mut world = World::new(seed, Suite::Aes256Gcm, loss, 0.1, Duration::from_millis(100));
        world.dial(0);
        world.dial(1);
        prop_assert!(world.run(Duration::from_secs(600), |w| w.confirmed.iter().all(|c| !c.is_empty())));
        for i in 0..2 {
            let roles = [Role::Initiator, Role::Responder];
            prop_assert!(roles.iter().all(|&role| world.sessions[i].iter().any(|s| s.role == role)));
        }
    }

    #[test]
    fn random_bytes_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..800), kind in 0u8..8, plain_header: bool, trim in 0usize..120,
    ) {
        let mut pair = Pair::new(Suite::Aes256Gcm);
        pair.dial();
        let mut bytes = bytes;
        if plain_header && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        for bytes in [&bytes[..], &bytes[..bytes.len().min(trim)]] {
            prop_assert!(pair.give_alice(bytes).is_err());
            prop_assert!(pair.give_bob(bytes).is_err());
        }
        prop_assert!(pair.alice.poll_transmit().is_none() && pair.bob.poll_transmit().is_none());
    }
}

/// Flips each bit of `datagram`, and cuts it short: `handle` must refuse all of it.
fn refuses_changes(datagram: &[u8], mut handle: impl FnMut(&[u8]) -> Result<(), DropReason>) {
    for bit in 0..datagram.len() * 8 {
        let mut changed = datagram.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(handle(&changed).is_err(), "bit {bit}");
    }
    for len in 0..datagram.len() {
        assert!(handle(&datagram[..len]).is_err(), "length {len}");
    }
    assert!(handle(&[datagram, &[0]].concat()).is_err());
}

#[test]
fn every_changed_bit_of_a_handshake_is_refused_and_changes_nothing() {
    for suite in SUITES {
        let mut pair = Pair::new(suite);
        let silent = |pair: &mut Pair| {
            assert!(pair.alice.poll_transmit().is_none() && pair.bob.poll_transmit().is_none());
            assert!(pair.alice.poll_event().is_none() && pair.bob.poll_event().is_none());
        };
        let init = pair.dial();
        refuses_changes(&init, |changed| pair.give_bob(changed));
        silent(&mut pair);
        assert_eq!(pair.bob.n_half_open(), 0);
        pair.give_bob(&init).unwrap();
        let response = pair.bob_sends();
        refuses_changes(&response, |changed| pair.give_alice(changed));
        silent(&mut pair);
        pair.give_alice(&response).unwrap();
        let finish = pair.alice_sends();
        let alice = established(&mut pair.alice);
        refuses_changes(&finish, |changed| pair.give_bob(changed));
        silent(&mut pair);
        assert_eq!(pair.bob.n_half_open(), 1);
        pair.give_bob(&finish).unwrap();
        let bob = established(&mut pair.bob);
        assert_eq!(opened(&bob.recv, &sealed(&alice.send, b"data")).unwrap(), b"data");
    }
}

#[test]
fn strangers_get_not_one_byte() {
    let now = Instant::now();
    let strangers = [node(2, [8; 32], Suite::Aes256Gcm, now), node(2, SECRET, Suite::ChaCha20Poly1305, now)];
    for bob in strangers {
        let mut pair = Pair { bob, ..Pair::new(Suite::Aes256Gcm) };
        let init = pair.dial();
        assert_eq!(pair.give_bob(&init), Err(DropReason::BadMac));
        for (_, again) in pair.pass(Duration::from_secs(6)) {
            assert_eq!(pair.give_bob(&again), Err(DropReason::BadMac));
        }
        assert!(pair.bob.poll_transmit().is_none() && pair.bob.poll_event().is_none());
        assert_eq!((pair.bob.n_half_open(), pair.bob.poll_timeout()), (0, None));
        let Some(HandshakeEvent::Failed { tag: 42, session: None, reason: FailReason::NoAnswer, remote }) =
            pair.alice.poll_event()
        else {
            panic!()
        };
        assert_eq!(remote, at(BOB));
    }
}

#[test]
fn a_stranger_that_dials_us_too_is_recognised() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    pair.bob = node(2, [8; 32], Suite::Aes256Gcm, pair.now);
    pair.dial();
    pair.bob.initiate(at(ALICE), 1, pair.now, &mut pair.rng);
    let init = pair.bob_sends();
    assert_eq!(pair.give_alice(&init), Err(DropReason::BadMac));
    pair.pass(Duration::from_secs(5));
    let event = pair.alice.poll_event();
    assert!(
        matches!(event, Some(HandshakeEvent::Failed { reason: FailReason::WrongSecretOrVersion, .. })),
        "{event:?}"
    );
}

#[test]
fn secrets_change_without_a_gap() {
    let [old, new] = [SECRET, [8; 32]];
    let secrets = |list: &[[u8; 32]]| list.iter().map(|&s| ClusterSecret::new(s)).collect::<Vec<_>>();
    // Add, prefer, drop: at every step, and between any two neighbouring steps, sides hear each other.
    let steps = [vec![old], vec![old, new], vec![new, old], vec![new]];
    for pair_of_steps in steps.windows(2) {
        for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut pair = Pair::new(Suite::Aes256Gcm);
            pair.alice.set_secrets(secrets(&pair_of_steps[a]));
            pair.bob.set_secrets(secrets(&pair_of_steps[b]));
            pair.complete();
        }
    }
    let mut pair = Pair::new(Suite::Aes256Gcm);
    pair.bob.set_secrets(secrets(&[new]));
    let init = pair.dial();
    assert_eq!(pair.give_bob(&init), Err(DropReason::BadMac));
    pair.alice.set_secrets(Vec::new());
    pair.alice.initiate(at(BOB), 5, pair.now, &mut pair.rng);
    let event = pair.alice.poll_event();
    assert!(
        matches!(event, Some(HandshakeEvent::Failed { tag: 5, reason: FailReason::NoSecret, .. })),
        "{event:?}"
    );
}

#[test]
fn init_is_sent_four_times_in_five_seconds() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let first = pair.dial();
    let sent = pair.pass(Duration::from_secs(30));
    let times: Vec<f64> = sent.iter().map(|(at, _)| at.as_secs_f64()).collect();
    let (lows, highs) = ([0.5, 1.5, 3.5], [0.625, 1.875, 4.375]);
    assert_eq!(times.len(), 3, "{times:?}");
    assert!(
        times.iter().zip(lows.iter().zip(highs)).all(|(t, (low, high))| (*low..=high).contains(t)),
        "{times:?}"
    );
    assert!(sent.iter().all(|(_, datagram)| *datagram == first));
    assert!(matches!(pair.alice.poll_event(), Some(HandshakeEvent::Failed { .. })));
    assert_eq!((pair.alice.poll_event().is_none(), pair.alice.poll_timeout()), (true, None));
}

#[test]
fn finish_is_sent_until_confirmed() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let ([.., finish], alice, bob) = pair.complete();
    assert_eq!(pair.alice.poll_timeout().unwrap().1, "Finish unconfirmed");
    let sent = pair.pass(Duration::from_secs(1));
    assert_eq!(sent.len(), 2);
    for (_, again) in sent {
        assert_eq!(again, finish);
        pair.give_bob(&again).unwrap();
        let event = pair.bob.poll_event();
        assert!(
            matches!(event, Some(HandshakeEvent::Reconfirm { session }) if session == bob.session),
            "{event:?}"
        );
    }
    pair.alice.confirmed(alice.session);
    assert_eq!(pair.alice.poll_timeout(), None);
    assert!(pair.pass(Duration::from_secs(30)).is_empty() && pair.alice.poll_event().is_none());
}

#[test]
fn a_session_that_is_not_confirmed_fails() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let (_, alice, _) = pair.complete();
    pair.pass(Duration::from_millis(4999));
    assert!(pair.alice.poll_event().is_none());
    pair.pass(Duration::from_millis(1));
    let event = pair.alice.poll_event();
    assert!(
        matches!(event, Some(HandshakeEvent::Failed { tag: 42, session, reason: FailReason::NotConfirmed, .. })
            if session == Some(alice.session)),
        "{event:?}"
    );
}

#[test]
fn cancelled_attempts_end_silently() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let init = pair.dial();
    pair.alice.cancel(41);
    assert!(pair.alice.poll_timeout().is_some());
    pair.alice.cancel(42);
    assert_eq!((pair.alice.poll_timeout(), pair.alice.poll_event().is_none()), (None, true));
    pair.give_bob(&init).unwrap();
    let response = pair.bob_sends();
    assert_eq!(pair.give_alice(&response), Err(DropReason::UnknownSession));
}

#[test]
fn duplicates_make_no_second_state() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let init = pair.dial();
    pair.give_bob(&init).unwrap();
    let response = pair.bob_sends();
    pair.give_bob(&init).unwrap();
    assert_eq!(pair.bob_sends(), response, "the lost Response is repeated");
    assert_eq!(pair.bob.n_half_open(), 1);
    pair.give_alice(&response).unwrap();
    let finish = pair.alice_sends();
    assert_eq!(pair.give_alice(&response), Err(DropReason::Duplicate));
    pair.give_bob(&finish).unwrap();
    assert_eq!(pair.give_bob(&init), Err(DropReason::Duplicate));
    assert!(pair.bob.poll_transmit().is_none());
    assert_eq!(pair.bob.n_half_open(), 0);
}

#[test]
fn a_recorded_handshake_makes_no_session() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let ([init, response, finish], alice, bob) = pair.complete();
    pair.alice.confirmed(alice.session);
    pair.now += Duration::from_secs(10);
    pair.bob.handle_timeout(pair.now, &mut pair.rng);
    for _ in 0..3 {
        pair.give_bob(&init).unwrap();
        assert_ne!(pair.bob_sends(), response);
        assert_eq!(pair.give_bob(&finish), Err(DropReason::UnknownSession));
        assert_eq!(pair.give_alice(&response), Err(DropReason::UnknownSession));
        pair.now += Duration::from_secs(5);
        pair.bob.handle_timeout(pair.now, &mut pair.rng);
    }
    pair.bob.release(bob.session);
    assert!(pair.bob.poll_event().is_none() && pair.alice.poll_event().is_none());
    assert_eq!((pair.bob.n_half_open(), pair.bob.poll_timeout()), (0, None));
}

#[test]
fn finish_must_come_from_where_init_came_from() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let init = pair.dial();
    pair.give_bob(&init).unwrap();
    let response = pair.bob_sends();
    pair.alice.handle_datagram(at("10.9.9.9:9"), &response, pair.now, &mut pair.rng).unwrap();
    let finish = pair.alice_sends();
    assert_eq!(
        established(&mut pair.alice).remote,
        at(BOB),
        "where it dialed, not where the answer came from"
    );
    let other = pair.bob.handle_datagram(at("10.0.0.1:6784"), &finish, pair.now, &mut pair.rng);
    assert_eq!(other, Err(DropReason::WrongAddress));
    pair.give_bob(&finish).unwrap();
    assert_eq!(established(&mut pair.bob).remote, at(ALICE));
}

#[test]
fn dialing_oneself_fails_at_once() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let init = pair.dial();
    let (now, rng) = (pair.now, &mut pair.rng);
    pair.alice.handle_datagram(at(BOB), &init, now, rng).unwrap();
    let response = pair.alice_sends();
    assert_eq!(pair.give_alice(&response), Err(DropReason::Itself));
    let event = pair.alice.poll_event();
    assert!(
        matches!(event, Some(HandshakeEvent::Failed { tag: 42, reason: FailReason::Itself, .. })),
        "{event:?}"
    );
    assert!(pair.alice.poll_transmit().is_none());
}

/// Brings Bob under load with Inits from many addresses; returns how many he answered with a Response.
fn load(pair: &mut Pair) -> usize {
    let mut crowd = node(3, SECRET, Suite::Aes256Gcm, pair.now);
    let mut n_answered = 0;
    for i in 0..2 * N_INITS_UNDER_LOAD {
        crowd.initiate(at(BOB), 0, pair.now, &mut pair.rng);
        let (_, init) = crowd.poll_transmit().unwrap();
        let from = SocketAddr::from(([10, 1, 0, i as u8], 1));
        match pair.bob.handle_datagram(from, &init, pair.now, &mut pair.rng) {
            Ok(()) => n_answered += 1,
            Err(reason) => assert_eq!(reason, DropReason::CookieDemanded),
        }
    }
    while let Some((_, datagram)) = pair.bob.poll_transmit() {
        let is_cookie = Header::parse(&datagram).unwrap().message == MessageType::Cookie;
        assert!(!is_cookie || datagram.len() < 96, "an answer is no longer than an Init");
    }
    n_answered
}

#[test]
fn under_load_a_cookie_is_demanded_and_then_all_goes_on() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    assert_eq!(load(&mut pair), N_INITS_UNDER_LOAD as usize);
    let init = pair.dial();
    assert_eq!(pair.give_bob(&init), Err(DropReason::CookieDemanded));
    let cookie = pair.bob_sends();
    assert_eq!(pair.give_bob(&init), Err(DropReason::CookieDemanded));
    pair.bob_sends();

    refuses_changes(&cookie, |changed| pair.give_alice(changed));
    assert!(pair.alice.poll_transmit().is_none());
    pair.give_alice(&cookie).unwrap();
    let proved = pair.alice_sends();
    assert_ne!(proved, init);
    assert_eq!(pair.give_alice(&cookie), Err(DropReason::BadCookie), "it answers the Init before");

    for elsewhere in ["10.0.0.1:6784", "10.0.0.3:6783"] {
        let result = pair.bob.handle_datagram(at(elsewhere), &proved, pair.now, &mut pair.rng);
        assert_eq!(result, Err(DropReason::CookieDemanded), "a cookie is good for one address and port");
        pair.bob.poll_transmit();
    }
    pair.give_bob(&proved).unwrap();
    let response = pair.bob_sends();
    pair.give_alice(&response).unwrap();
    let finish = pair.alice_sends();
    refuses_changes(&finish, |changed| pair.give_bob(changed));
    pair.give_bob(&finish).unwrap();
    let (alice, bob) = (established(&mut pair.alice), established(&mut pair.bob));
    assert_eq!(opened(&alice.recv, &sealed(&bob.send, b"data")).unwrap(), b"data");
}

#[test]
fn cookies_go_out_of_date_and_load_passes() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    load(&mut pair);
    let init = pair.dial();
    assert_eq!(pair.give_bob(&init), Err(DropReason::CookieDemanded));
    let cookie = pair.bob_sends();
    pair.give_alice(&cookie).unwrap();
    let proved = pair.alice_sends();
    pair.now += Duration::from_secs(120);
    load(&mut pair);
    assert_eq!(pair.give_bob(&proved), Err(DropReason::CookieDemanded));
    pair.now += Duration::from_secs(2);
    pair.give_bob(&proved).expect("without load a cookie of old is ignored");
}

#[test]
fn one_source_gets_twenty_a_second_and_twenty_more_with_a_cookie() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let mut accepted = [0, 0];
    let mut outcomes = Vec::new();
    for _ in 0..30 {
        let init = pair.dial();
        match pair.give_bob(&init) {
            Ok(()) => accepted[0] += 1,
            Err(reason) => {
                assert_eq!(reason, DropReason::CookieDemanded);
                let cookie = pair.bob_sends();
                pair.give_alice(&cookie).unwrap();
                let proved = pair.alice_sends();
                outcomes.push(pair.give_bob(&proved));
            }
        }
        while pair.bob.poll_transmit().is_some() {}
    }
    for _ in 0..20 {
        let init = pair.dial();
        assert_eq!(pair.give_bob(&init), Err(DropReason::CookieDemanded));
        let cookie = pair.bob_sends();
        pair.give_alice(&cookie).unwrap();
        let proved = pair.alice_sends();
        outcomes.push(pair.give_bob(&proved));
        while pair.bob.poll_transmit().is_some() {}
    }
    accepted[1] = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(accepted, [20, 20]);
    assert!(outcomes[20..].iter().all(|&outcome| outcome == Err(DropReason::RateLimited)));

    let mut other = node(4, SECRET, Suite::Aes256Gcm, pair.now);
    pair.now += Duration::from_secs(2);
    other.initiate(at(BOB), 0, pair.now, &mut pair.rng);
    let (_, init) = other.poll_transmit().unwrap();
    pair.bob
        .handle_datagram(at("10.0.0.9:1"), &init, pair.now, &mut pair.rng)
        .expect("others are not affected");
}

#[test]
fn half_open_handshakes_are_bounded_and_expire() {
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let mut crowd = node(3, SECRET, Suite::Aes256Gcm, pair.now);
    let (now, rng) = (pair.now, &mut pair.rng);
    let mut n_refused = 0;
    for i in 0..MAX_HALF_OPEN as u32 + 10 {
        let from = SocketAddr::from(((0x0a00_0000 + i / 15).to_be_bytes(), 7));
        crowd.initiate(at(BOB), 0, now, rng);
        let (_, mut init) = crowd.poll_transmit().unwrap();
        let mut result = pair.bob.handle_datagram(from, &init, now, rng);
        if result == Err(DropReason::CookieDemanded) {
            let (_, cookie) = pair.bob.poll_transmit().unwrap();
            crowd.handle_datagram(at(BOB), &cookie, now, rng).unwrap();
            init = crowd.poll_transmit().unwrap().1;
            result = pair.bob.handle_datagram(from, &init, now, rng);
        }
        match result {
            Ok(()) => assert!(pair.bob.poll_transmit().is_some()),
            Err(reason) => {
                assert_eq!(reason, DropReason::TooManyHalfOpen);
                n_refused += 1;
            }
        }
    }
    assert_eq!((pair.bob.n_half_open(), n_refused), (MAX_HALF_OPEN, 10));
    let later = now + Duration::from_secs(5);
    pair.bob.handle_timeout(later - Duration::from_millis(1), rng);
    assert_eq!(pair.bob.n_half_open(), MAX_HALF_OPEN);
    pair.bob.handle_timeout(later, rng);
    assert_eq!((pair.bob.n_half_open(), pair.bob.poll_timeout()), (0, None));
}

#[test]
fn secrets_do_not_show() {
    let now = Instant::now();
    let mut pair = Pair::new(Suite::Aes256Gcm);
    let (_, alice, _) = pair.complete();
    let config = HandshakeConfig {
        identity: Identity::from_bytes([0xab; 32]),
        secrets: vec![ClusterSecret::new([0xcd; 32])],
        suite: Suite::Aes256Gcm,
        hello: Vec::new(),
        now,
    };
    let shown = format!("{config:?} {alice:?} {:?}", pair.alice);
    for hidden in ["171, 171", "205, 205", "abab", "cdcd", "7, 7, 7"] {
        assert!(!shown.contains(hidden), "{hidden} in {shown}");
    }
    let shared: Arc<SendSession> = alice.send;
    assert!(format!("{shared:?}").contains("n_sealed"));
}
