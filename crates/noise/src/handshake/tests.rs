//! What a member with modified software can send: datagrams with a right mac1 and a wrong rest.

use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_wire::{HEADER_LEN, Lane, ReceiverIndex};

use super::*;
use crate::mac::MAC_LEN;

struct Pair {
    alice: Handshakes,
    bob: Handshakes,
    alice_at: SocketAddr,
    bob_at: SocketAddr,
    keys: SecretKeys,
    now: Instant,
    rng: StdRng,
}

impl Pair {
    fn new() -> Self {
        let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut node = || {
            let config = HandshakeConfig {
                identity: Identity::generate(&mut rng),
                secrets: vec![ClusterSecret::new([7; 32])],
                suite: Suite::Aes256Gcm,
                hello: b"hello".to_vec(),
                now,
            };
            Handshakes::new(config).unwrap()
        };
        let (alice, bob) = (node(), node());
        let keys = ClusterSecret::new([7; 32]).keys(Suite::Aes256Gcm);
        let [alice_at, bob_at] = ["10.0.0.1:1", "10.0.0.2:2"].map(|at| at.parse().unwrap());
        Self { alice, bob, alice_at, bob_at, keys, now, rng }
    }

    /// Alice's Init.
    fn init(&mut self) -> Vec<u8> {
        self.alice.initiate(self.bob_at, 1, self.now, &mut self.rng);
        self.alice.poll_transmit().unwrap().1
    }

    fn give_alice(&mut self, datagram: &[u8]) -> Result<Option<Vec<u8>>, DropReason> {
        self.alice.handle_datagram(self.bob_at, datagram, self.now, &mut self.rng)?;
        Ok(self.alice.poll_transmit().map(|(_, datagram)| datagram))
    }

    fn give_bob(&mut self, datagram: &[u8]) -> Result<Option<Vec<u8>>, DropReason> {
        self.bob.handle_datagram(self.alice_at, datagram, self.now, &mut self.rng)?;
        Ok(self.bob.poll_transmit().map(|(_, datagram)| datagram))
    }

    /// `datagram` with one bit before its MACs flipped and mac1 made right again.
    fn forged(&self, datagram: &[u8], byte: usize) -> Vec<u8> {
        let mut forged = datagram[..datagram.len() - MAC_LEN].to_vec();
        forged[byte] ^= 0x10;
        let mac1 = crate::mac::mac16(&self.keys.mac1, &[&forged]);
        forged.extend_from_slice(&mac1);
        forged
    }
}

fn is_established(event: Option<HandshakeEvent>) -> bool {
    matches!(event, Some(HandshakeEvent::Established(_)))
}

#[test]
fn forged_finishes_do_not_spoil_the_right_one() {
    let mut pair = Pair::new();
    let init = pair.init();
    let response = pair.give_bob(&init).unwrap().unwrap();
    let finish = pair.give_alice(&response).unwrap().unwrap();
    for byte in HEADER_LEN..finish.len() - 2 * MAC_LEN {
        let forged = pair.forged(&finish, byte);
        assert_eq!(pair.give_bob(&forged), Err(DropReason::BadHandshake), "byte {byte}");
        assert!(pair.bob.poll_event().is_none());
    }
    assert_eq!(pair.give_bob(&finish), Ok(None));
    assert!(is_established(pair.bob.poll_event()));
}

#[test]
fn forged_responses_do_not_spoil_the_right_one() {
    let mut pair = Pair::new();
    let init = pair.init();
    let response = pair.give_bob(&init).unwrap().unwrap();
    for byte in HEADER_LEN..response.len() - 2 * MAC_LEN {
        let forged = pair.forged(&response, byte);
        assert_eq!(pair.give_alice(&forged), Err(DropReason::BadHandshake), "byte {byte}");
        assert!(pair.alice.poll_event().is_none());
    }
    assert!(pair.give_alice(&response).unwrap().is_some());
    assert!(is_established(pair.alice.poll_event()));
}

#[test]
fn session_numbers_come_from_inside_the_seal() {
    let mut pair = Pair::new();
    let init = pair.init();
    let response = pair.give_bob(&init).unwrap().unwrap();
    let forged = pair.forged(&response, 9);
    assert_ne!(Header::parse(&forged).unwrap().counter, Header::parse(&response).unwrap().counter);
    let finish = pair.give_alice(&forged).unwrap().unwrap();
    let Some(HandshakeEvent::Established(alice)) = pair.alice.poll_event() else { panic!() };
    assert_eq!(pair.give_bob(&finish), Ok(None));
    let Some(HandshakeEvent::Established(bob)) = pair.bob.poll_event() else { panic!() };
    assert_eq!((alice.send.remote_session(), bob.send.remote_session()), (bob.session, alice.session));
}

#[test]
fn ephemeral_keys_of_low_order_are_refused() {
    let mut pair = Pair::new();
    let init = [&[0; 32], &pair.init()[HEADER_LEN + 32..HEADER_LEN + 48]].concat();
    let (datagram, _) = datagram::build(MessageType::Init, 0, 5, &init, &pair.keys, None);
    assert_eq!(pair.give_bob(&datagram), Err(DropReason::BadHandshake));
    assert_eq!((pair.bob.n_half_open(), pair.bob.live.len()), (0, 0));
}

#[test]
fn a_responder_that_demands_cookies_for_ever_is_left_waiting() {
    let mut pair = Pair::new();
    let mut datagram = pair.init();
    for i in 0..initiator::MAX_COOKIES_PER_ATTEMPT {
        let cookie = cookie_for(&pair, &datagram, i);
        datagram = pair.give_alice(&cookie).unwrap().unwrap();
    }
    let cookie = cookie_for(&pair, &datagram, 99);
    assert_eq!(pair.give_alice(&cookie), Err(DropReason::RateLimited));
    assert!(pair.alice.poll_transmit().is_none());
}

fn cookie_for(pair: &Pair, init: &[u8], i: u8) -> Vec<u8> {
    let parsed = Parsed::new(&Header::parse(init).unwrap(), init).unwrap();
    datagram::build_cookie(&parsed, &pair.keys, &[i; MAC_LEN], [i; 24])
}

#[test]
fn nothing_is_left_when_all_is_over() {
    let mut pair = Pair::new();
    let init = pair.init();
    let response = pair.give_bob(&init).unwrap().unwrap();
    let finish = pair.give_alice(&response).unwrap().unwrap();
    pair.give_bob(&finish).unwrap();
    pair.init();
    let Some(HandshakeEvent::Established(session)) = pair.bob.poll_event() else { panic!() };
    let later = pair.now + Duration::from_secs(20);
    for side in [&mut pair.alice, &mut pair.bob] {
        while side.poll_timeout().is_some() {
            side.handle_timeout(later, &mut pair.rng);
        }
        assert!(side.initiations.is_empty() && side.dialed.is_empty() && side.responses.is_empty());
        assert!(side.answered.is_empty());
        assert_eq!(side.n_half_open, 0);
    }
    assert!(pair.alice.live.is_empty());
    assert_eq!(pair.bob.live, HashSet::from([session.session]));
    pair.bob.release(session.session);
    assert!(pair.bob.live.is_empty());
}

proptest! {
    #[test]
    fn members_garbage_is_refused(
        kind in 1u8..=5, receiver: u32, counter: u64, fit in any::<bool>(),
        noise in prop_oneof![
            prop::collection::vec(any::<u8>(), 48),
            prop::collection::vec(any::<u8>(), 0..700),
        ],
    ) {
        let mut pair = Pair::new();
        let init = pair.init();
        pair.give_bob(&init).unwrap();
        let message = MessageType::from_u8(kind).unwrap();
        let of_bob = *pair.bob.responses.keys().next().unwrap();
        let of_alice = *pair.alice.initiations.keys().next().unwrap();
        let receiver = match (fit, message) {
            (false, _) => ReceiverIndex(receiver),
            (true, MessageType::Init) => index_of(0),
            (true, MessageType::Finish) => index_of(of_bob),
            (true, _) => index_of(of_alice),
        };
        let counter = if fit { u64::from(ReceiverIndex::new(of_alice, Lane::of_worker(0)).0) << 32 } else { counter };
        let header = Header { message, receiver, counter };
        let mut datagram = [&header.to_bytes()[..], &noise, &[0; MAC_LEN]].concat();
        datagram.extend_from_slice(&crate::mac::mac16(&pair.keys.mac1, &[&datagram]));
        // Anything may be an ephemeral key with an empty payload, if the tag fits; it does not.
        prop_assert!(pair.give_bob(&datagram).is_err());
        prop_assert!(pair.give_alice(&datagram).is_err());
    }
}
