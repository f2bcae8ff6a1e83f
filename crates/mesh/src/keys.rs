//! One key for a peer: it signs the peer's records, and in its other form opens its sessions.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use weft_wire::PeerId;
use zeroize::Zeroizing;

/// A peer's secret, an Ed25519 seed, from which the X25519 key of its sessions follows.
///
/// The X25519 public key is the Montgomery form of the Ed25519 public key (RFC 7748, section 4.1) and
/// [`PeerId::from_public_key`] hashes the X25519 form. So whoever sees an Ed25519 public key computes the one
/// peer that it belongs to: a record that carries its key needs no one to vouch for it, and no member can pin a
/// false key to a peer. The map forgets the sign of a point, so two Ed25519 keys (a point and its negative) lead
/// to the same peer; who can sign for one of them knows the secret of both, hence nothing is lost.
///
/// The secret is wiped when dropped, and `Debug` shows the peer id only.
pub struct IdentityKey {
    signing: SigningKey,
    peer: PeerId,
}

impl IdentityKey {
    /// Takes a seed: 32 bytes of a cryptographic random source, kept for the life of the host.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let peer = PeerId::from_public_key(&signing.verifying_key().to_montgomery().to_bytes());
        Self { signing, peer }
    }

    /// The id of the peer that has this key.
    #[must_use]
    pub const fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// The Ed25519 public key, which records carry.
    #[must_use]
    pub fn ed25519_public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// The X25519 public key, static key of the handshake.
    #[must_use]
    pub fn x25519_public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_montgomery().to_bytes()
    }

    /// The X25519 secret, static key of the handshake. Not clamped: X25519 itself does that (RFC 7748, section 5).
    #[must_use]
    pub fn x25519_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_scalar_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityKey").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The X25519 form of an Ed25519 public key; `None` when the bytes are no point of the curve or one of small order.
///
/// ```
/// # use weft_mesh::{IdentityKey, x25519_from_ed25519};
/// let key = IdentityKey::from_seed(&[7; 32]);
/// assert_eq!(x25519_from_ed25519(&key.ed25519_public()), Some(key.x25519_public()));
/// ```
#[must_use]
pub fn x25519_from_ed25519(public: &[u8; 32]) -> Option<[u8; 32]> {
    let key = VerifyingKey::from_bytes(public).ok().filter(|key| !key.is_weak())?;
    Some(key.to_montgomery().to_bytes())
}

/// The peer that an Ed25519 public key belongs to; `None` as in [`x25519_from_ed25519`].
#[must_use]
pub fn peer_of_ed25519(public: &[u8; 32]) -> Option<PeerId> {
    Some(PeerId::from_public_key(&x25519_from_ed25519(public)?))
}

/// Whether `signature` over `message` is by the holder of `public`; strict, so that a signature has one form only.
pub(crate) fn verify(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(public)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use curve25519_dalek::montgomery::MontgomeryPoint;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn session_secret_belongs_to_session_key(seed: [u8; 32]) {
            let key = IdentityKey::from_seed(&seed);
            let public = MontgomeryPoint::mul_base_clamped(*key.x25519_secret());
            prop_assert_eq!(public.to_bytes(), key.x25519_public());
            prop_assert_eq!(x25519_from_ed25519(&key.ed25519_public()), Some(key.x25519_public()));
            prop_assert_eq!(peer_of_ed25519(&key.ed25519_public()), Some(key.peer_id()));
        }

        #[test]
        fn changed_message_or_signature_is_refused(seed: [u8; 32], at in 0usize..64, bit in 0u8..8) {
            let key = IdentityKey::from_seed(&seed);
            let mut signature = key.sign(b"message");
            prop_assert!(verify(&key.ed25519_public(), b"message", &signature));
            prop_assert!(!verify(&key.ed25519_public(), b"messagE", &signature));
            signature[at] ^= 1 << bit;
            prop_assert!(!verify(&key.ed25519_public(), b"message", &signature));
        }
    }

    #[test]
    fn keys_of_small_order_name_no_peer() {
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(peer_of_ed25519(&one), None);
        assert_eq!(peer_of_ed25519(&[0; 32]), None);
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = IdentityKey::from_seed(&[0x41; 32]);
        assert_eq!(format!("{key:?}"), format!("IdentityKey {{ peer: {}, .. }}", key.peer_id()));
    }
}
