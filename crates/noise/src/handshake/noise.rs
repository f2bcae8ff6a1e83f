//! `snow`, with our generator and our X25519.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use zeroize::Zeroizing;

use crate::secret::SecretKeys;
use crate::{Identity, MAX_HELLO_LEN, Role, Suite};

/// Length of Init's Noise message: the ephemeral key and a tag.
pub(super) const INIT_LEN: usize = 32 + 16;
/// Length of the sender's index, the first part of the other messages' payload.
pub(super) const INDEX_LEN: usize = 4;
/// Length of Response's Noise message without the hello.
pub(super) const RESPONSE_MIN_LEN: usize = 32 + 48 + INDEX_LEN + 16;
/// Length of Finish's Noise message without the hello.
pub(super) const FINISH_MIN_LEN: usize = 48 + INDEX_LEN + 16;
const MAX_LEN: usize = RESPONSE_MIN_LEN + MAX_HELLO_LEN;

/// 32 bytes of which an ephemeral key is made.
pub(super) type Seed = Zeroizing<[u8; 32]>;

/// The public half of an X25519 key.
pub(crate) fn public_key_of(private: &[u8; 32]) -> [u8; 32] {
    let mut dh = DhX25519::default();
    dh.set(private);
    dh.public
}

/// X25519 of the bulk cipher's library: faster than the one `snow` brings, wiped when dropped, and it refuses public
/// keys of low order, with which anyone could force the shared secret.
#[derive(Default)]
struct DhX25519 {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    key: Option<PrivateKey>,
}

impl Dh for DhX25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        // Every string of 32 bytes is an X25519 key.
        let key = PrivateKey::from_private_key(&X25519, private).expect("32 bytes are a key");
        self.public
            .copy_from_slice(key.compute_public_key().expect("a private key has a public one").as_ref());
        self.key = Some(key);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *private)?;
        self.set(&*private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let key = self.key.as_ref().ok_or(Error::Dh)?;
        // `snow` hands over its buffer, which has room for longer curves.
        let public = UnparsedPublicKey::new(&X25519, public.get(..32).ok_or(Error::Dh)?);
        agree(key, public, Error::Dh, |shared| {
            out.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(shared);
            Ok(())
        })
    }
}

/// Hands out its 32 bytes, once.
struct Once(Option<Seed>);

impl Random for Once {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let seed = self.0.take().filter(|seed| seed.len() == out.len()).ok_or(Error::Rng)?;
        out.copy_from_slice(&*seed);
        Ok(())
    }
}

struct Resolver(Seed);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.0.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<DhX25519>::default() as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// One side's state of a handshake.
pub(super) struct Noise(HandshakeState);

impl Noise {
    /// A fresh state, whose ephemeral key `seed` determines.
    pub(super) fn new(role: Role, suite: Suite, identity: &Identity, keys: &SecretKeys, seed: &Seed) -> Self {
        let params = suite.noise_name().parse().expect("the protocol's name is one that snow knows");
        let prologue = [b"weft v1", suite.name().as_bytes()].concat();
        let builder = Builder::with_resolver(params, Box::new(Resolver(seed.clone())))
            .psk(3, &keys.psk)
            .and_then(|builder| builder.local_private_key(identity.private()))
            .and_then(|builder| builder.prologue(&prologue));
        let state = builder.and_then(|builder| match role {
            Role::Initiator => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        });
        Self(state.expect("everything that the pattern needs is set"))
    }

    /// The next message, with `payload` of at most an index and a hello.
    ///
    /// `None` when the peer's key is of low order: a peer that knows the cluster secret sent it.
    pub(super) fn write(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut message = vec![0; MAX_LEN];
        let len = self.0.write_message(payload, &mut message).ok()?;
        message.truncate(len);
        Some(message)
    }

    /// The payload of the next message. `None` when it is not the peer's; [`Role::Initiator`] can then go on as if
    /// nothing had come, [`Role::Responder`] cannot.
    pub(super) fn read(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let mut payload = vec![0; message.len()];
        let len = self.0.read_message(message, &mut payload).ok()?;
        payload.truncate(len);
        Some(payload)
    }

    pub(super) fn remote_key(&self) -> Option<[u8; 32]> {
        self.0.get_remote_static()?.try_into().ok()
    }

    /// Keys of the initiator's and the responder's datagrams; for a finished handshake.
    pub(super) fn split(mut self) -> [Zeroizing<[u8; 32]>; 2] {
        debug_assert!(self.0.is_handshake_finished());
        let (initiator, responder) = self.0.dangerously_get_raw_split();
        [Zeroizing::new(initiator), Zeroizing::new(responder)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusterSecret;

    fn seed(byte: u8) -> Seed {
        Zeroizing::new([byte; 32])
    }

    #[test]
    fn messages_have_the_documented_lengths_and_both_sides_the_same_keys() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let keys = ClusterSecret::new([9; 32]).keys(suite);
            let [alice, bob] = [[1; 32], [2; 32]].map(Identity::from_bytes);
            let mut initiator = Noise::new(Role::Initiator, suite, &alice, &keys, &seed(3));
            let mut responder = Noise::new(Role::Responder, suite, &bob, &keys, &seed(4));
            let init = initiator.write(&[]).unwrap();
            assert_eq!(init.len(), INIT_LEN);
            assert_eq!(init[..32], public_key_of(&[3; 32]), "the ephemeral key is the seed's");
            assert_eq!(responder.read(&init).unwrap(), b"");
            let response = responder.write(&[5; MAX_HELLO_LEN + INDEX_LEN]).unwrap();
            assert_eq!(response.len(), RESPONSE_MIN_LEN + MAX_HELLO_LEN);
            assert!(initiator.read(&[7; RESPONSE_MIN_LEN]).is_none(), "and the state stays as it was");
            let mut changed = response.clone();
            *changed.last_mut().unwrap() ^= 1;
            assert!(initiator.read(&changed).is_none(), "and the state stays as it was");
            assert_eq!(initiator.read(&response).unwrap(), [5; MAX_HELLO_LEN + INDEX_LEN]);
            let finish = initiator.write(&[6; INDEX_LEN]).unwrap();
            assert_eq!(finish.len(), FINISH_MIN_LEN);
            assert_eq!(responder.read(&finish).unwrap(), [6; INDEX_LEN]);
            assert_eq!(initiator.remote_key(), Some(bob.public_key()));
            assert_eq!(responder.remote_key(), Some(alice.public_key()));
            let (a, b) = (initiator.split(), responder.split());
            assert_eq!(a, b);
            assert_ne!(a[0], a[1]);
        }
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn agreement_is_that_of_the_rfc() {
        let hex = |text: &str| -> Vec<u8> {
            (0..32).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
        };
        let mut alice = DhX25519::default();
        alice.set(&hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
        let bob = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        let mut shared = [0; 56];
        alice.dh(&bob, &mut shared).unwrap();
        assert_eq!(shared[..32], hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"));
    }

    #[test]
    fn keys_of_low_order_are_refused() {
        let mut dh = DhX25519::default();
        dh.set(&[1; 32]);
        for public in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert!(dh.dh(&public, &mut [0; 32]).is_err());
        }
    }
}
