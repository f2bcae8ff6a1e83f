//! A peer's long-term key.

use std::fmt;

use rand_core::CryptoRng;
use weft_wire::PeerId;
use zeroize::Zeroizing;

use crate::handshake::public_key_of;

/// A peer's X25519 static key. Made at its first start and kept for life: the peer's name is a hash of it.
///
/// Zeroized on drop; `Debug` shows the public half only.
#[derive(Clone)]
pub struct Identity {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Identity {
    /// Draws a new key.
    #[must_use]
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut private = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *private);
        Self::from_bytes(*private)
    }

    /// The key of which these are the private bytes. Any 32 bytes are a key.
    #[must_use]
    pub fn from_bytes(private: [u8; 32]) -> Self {
        Self { public: public_key_of(&private), private: Zeroizing::new(private) }
    }

    /// The private bytes, for the file that keeps them.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.private.clone()
    }

    pub(crate) fn private(&self) -> &[u8; 32] {
        &self.private
    }

    /// The public half.
    #[must_use]
    pub const fn public_key(&self) -> [u8; 32] {
        self.public
    }

    /// The peer's name.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        PeerId::from_public_key(&self.public)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer_id", &self.peer_id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn public_key_is_that_of_the_rfc() {
        let alice =
            Identity::from_bytes(hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
        let public = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(alice.public_key(), public);
        assert_eq!(alice.peer_id(), PeerId::from_public_key(&public));
    }

    #[test]
    fn debug_does_not_show_the_private_key() {
        let identity = Identity::from_bytes([0xab; 32]);
        let shown = format!("{identity:?}");
        assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
    }
}
