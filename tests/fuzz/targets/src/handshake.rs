//! Two peers that share a secret, and whatever strangers, members and the network make of their datagrams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use blake2::Blake2sMac;
use blake2::digest::consts::{U16, U32};
use blake2::digest::{KeyInit, Mac};
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_noise::{
    ClusterSecret, DropReason, Established, HandshakeConfig, HandshakeEvent, Handshakes, Identity,
    MAX_HALF_OPEN, Suite,
};
use weft_wire::{HEADER_LEN, Header, Lane, MessageType, TAG_LEN};

use crate::bytes::Bytes;

const SECRET: [u8; 32] = [7; 32];
const MAC_LEN: usize = 16;
const MAX_STEPS: usize = 48;

#[derive(Debug, Arbitrary)]
struct Input {
    chacha: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Dial {
        from: Side,
    },
    /// One of the datagrams sent so far, perhaps for the second time, perhaps from another address.
    Deliver {
        nth: u8,
        moved: bool,
    },
    /// The same with a bit changed; a member can make its mac1 right again.
    Change {
        nth: u8,
        at: u16,
        flip: u8,
        member: bool,
    },
    /// What a member makes up, about a handshake that it has seen.
    Member {
        to: Side,
        message: u8,
        about: Option<u8>,
        noise: Bytes,
    },
    /// What a stranger makes up.
    Raw {
        to: Side,
        bytes: Bytes,
    },
    Wait {
        ms: u16,
    },
    Cancel {
        side: Side,
    },
    Release {
        side: Side,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Side {
    Alice,
    Bob,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Alice => Self::Bob,
            Self::Bob => Self::Alice,
        }
    }

    fn hello(self) -> Vec<u8> {
        format!("{self:?}").into_bytes()
    }

    fn identity(self) -> Identity {
        Identity::from_bytes([self as u8 + 1; 32])
    }

    fn address(self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, self as u8 + 1], 6783))
    }
}

/// mac1 after the crate's documentation, not by its code.
fn mac1(suite: Suite, bytes: &[u8]) -> [u8; MAC_LEN] {
    let mut derive = <Blake2sMac<U32> as KeyInit>::new_from_slice(&SECRET).expect("32 bytes are a key");
    derive.update(b"weft mac1 v1 ");
    derive.update(suite.name().as_bytes());
    let key = derive.finalize().into_bytes();
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key).expect("32 bytes are a key");
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

struct World {
    suite: Suite,
    now: Instant,
    rng: StdRng,
    alice: Handshakes,
    bob: Handshakes,
    sent: Vec<(Side, Vec<u8>)>,
    sessions: Vec<(Side, Established)>,
}

impl World {
    fn new(suite: Suite) -> Self {
        let now = Instant::now();
        let node = |side: Side| {
            let config = HandshakeConfig {
                identity: side.identity(),
                secrets: vec![ClusterSecret::new(SECRET)],
                suite,
                hello: side.hello(),
                now,
            };
            Handshakes::new(config).expect("the hello is short")
        };
        Self {
            suite,
            now,
            rng: StdRng::seed_from_u64(1),
            alice: node(Side::Alice),
            bob: node(Side::Bob),
            sent: Vec::new(),
            sessions: Vec::new(),
        }
    }

    fn node(&mut self, side: Side) -> &mut Handshakes {
        match side {
            Side::Alice => &mut self.alice,
            Side::Bob => &mut self.bob,
        }
    }

    /// What a side sends, and how many events it had.
    fn drain(&mut self, side: Side) -> (usize, usize) {
        let (mut n_sent, mut n_events) = (0, 0);
        while let Some((_, datagram)) = self.node(side).poll_transmit() {
            n_sent += 1;
            self.sent.push((side, datagram));
        }
        while let Some(event) = self.node(side).poll_event() {
            n_events += 1;
            if let HandshakeEvent::Established(session) = event {
                let peer = side.other().identity();
                assert_eq!((session.peer, session.public_key), (peer.peer_id(), peer.public_key()));
                assert_eq!(session.hello, side.other().hello(), "the hello is the peer's");
                assert_ne!(session.session, 0);
                self.sessions.push((side, session));
            }
        }
        assert!(self.node(side).n_half_open() <= MAX_HALF_OPEN);
        (n_sent, n_events)
    }

    fn give(&mut self, to: Side, from: SocketAddr, datagram: &[u8]) {
        let (now, before) = (self.now, self.node(to).n_half_open());
        let node = match to {
            Side::Alice => &mut self.alice,
            Side::Bob => &mut self.bob,
        };
        let result = node.handle_datagram(from, datagram, now, &mut self.rng);
        let n_half_open = node.n_half_open();
        let was_sent = self.sent.iter().any(|(_, sent)| sent == datagram);
        let (n_sent, n_events) = self.drain(to);
        assert!(n_sent <= 1, "one datagram is answered with one at most");
        if result.is_err() {
            assert!(n_sent == 0 || result == Err(DropReason::CookieDemanded), "{result:?} was answered");
        }
        // A cookie has a seal of its own in mac1's place.
        let is_genuine = match Header::parse(datagram).map(|header| header.message) {
            Some(MessageType::Cookie) => was_sent,
            _ => datagram.split_last_chunk().is_some_and(|(bytes, mac)| *mac == mac1(self.suite, bytes)),
        };
        if !is_genuine {
            assert!(result.is_err(), "accepted without a right mac");
            assert_eq!((n_sent, n_events, n_half_open), (0, 0, before), "a stranger had an effect");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Dial { from } => {
                let now = self.now;
                match from {
                    Side::Alice => self.alice.initiate(Side::Bob.address(), 1, now, &mut self.rng),
                    Side::Bob => self.bob.initiate(Side::Alice.address(), 1, now, &mut self.rng),
                }
                self.drain(from);
            }
            Step::Deliver { nth, moved } => {
                let Some((side, datagram)) = self.nth(nth) else { return };
                let address = if moved { SocketAddr::from(([10, 0, 0, 9], 9)) } else { side.address() };
                self.give(side.other(), address, &datagram);
            }
            Step::Change { nth, at, flip, member } => {
                let Some((side, mut datagram)) = self.nth(nth) else { return };
                let at = usize::from(at) % datagram.len();
                datagram[at] ^= flip.max(1);
                if let Some((bytes, mac)) = datagram.split_last_chunk_mut::<MAC_LEN>()
                    && member
                {
                    *mac = mac1(self.suite, bytes);
                }
                self.give(side.other(), side.address(), &datagram);
            }
            Step::Member { to, message, about, noise } => {
                let message = MessageType::from_u8(message % 5 + 1).expect("there are five");
                let header = about.and_then(|nth| self.nth(nth)).and_then(|(_, sent)| Header::parse(&sent));
                let mut header = header.unwrap_or(Header {
                    message,
                    receiver: weft_wire::ReceiverIndex::new(0, Lane::of_worker(0)),
                    counter: 5 << 36,
                });
                header.message = message;
                let mut datagram = [&header.to_bytes()[..], &noise, &[0; MAC_LEN]].concat();
                datagram.extend(mac1(self.suite, &datagram));
                self.give(to, to.other().address(), &datagram);
            }
            Step::Raw { to, bytes } => self.give(to, to.other().address(), &bytes),
            Step::Wait { ms } => {
                self.now += Duration::from_millis(ms.into());
                self.wake();
            }
            Step::Cancel { side } => self.node(side).cancel(1),
            Step::Release { side } => {
                if let Some(at) = self.sessions.iter().position(|(of, _)| *of == side) {
                    let (_, session) = self.sessions.remove(at);
                    self.node(side).release(session.session);
                }
            }
        }
    }

    fn nth(&self, nth: u8) -> Option<(Side, Vec<u8>)> {
        // The newest is number 0, so that short inputs make whole handshakes.
        self.sent.len().checked_sub(1 + usize::from(nth)).and_then(|at| self.sent.get(at)).cloned()
    }

    fn wake(&mut self) {
        let now = self.now;
        self.alice.handle_timeout(now, &mut self.rng);
        self.bob.handle_timeout(now, &mut self.rng);
        for side in [Side::Alice, Side::Bob] {
            let due = self.node(side).poll_timeout();
            assert!(due.is_none_or(|(due, _)| due > now), "a timer stays due: {due:?}");
            self.drain(side);
        }
    }

    /// Sessions that name each other have the same keys; nothing is left of attempts when their time is over.
    fn end(mut self) {
        for (_, a) in self.sessions.iter().filter(|(side, _)| *side == Side::Alice) {
            for (_, b) in self.sessions.iter().filter(|(side, _)| *side == Side::Bob) {
                if (a.send.remote_session(), b.send.remote_session()) == (b.session, a.session) {
                    assert_ne!(a.role, b.role);
                    assert_eq!(pass(a, b), pass(b, a));
                }
            }
        }
        for _ in 0..100 {
            self.now += Duration::from_millis(500);
            self.wake();
        }
        for side in [Side::Alice, Side::Bob] {
            assert_eq!((self.node(side).poll_timeout(), self.node(side).n_half_open()), (None, 0));
        }
    }
}

/// Seals on one side and opens on the other.
fn pass(from: &Established, to: &Established) -> Vec<u8> {
    let counter = from.send.reserve(Lane::CONTROL, 1).expect("the lane is fresh");
    let mut datagram = [&[0; HEADER_LEN][..], b"text", &[0; TAG_LEN]].concat();
    from.send.seal(Lane::CONTROL, counter, &mut datagram);
    let header = Header::parse(&datagram).expect("sealed datagrams have a header");
    let opened = to.recv.lane(header.receiver.lane()).open(&header, &mut datagram).map(|text| text.to_vec());
    assert_eq!(opened, Ok(b"text".to_vec()));
    opened.unwrap_or_default()
}

/// The handshake, in both roles.
pub fn handshake(bytes: &[u8]) {
    let Ok(Input { chacha, steps }) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut world = World::new(if chacha { Suite::ChaCha20Poly1305 } else { Suite::Aes256Gcm });
    for step in steps.into_iter().take(MAX_STEPS) {
        world.step(step);
    }
    world.end();
}
