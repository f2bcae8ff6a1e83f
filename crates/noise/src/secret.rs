//! The secret that all members of a cluster hold.

use std::fmt;

use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Suite;
use crate::mac::{derive32, mac16};

/// 32 random bytes, known to the members of a cluster and to nobody else.
///
/// Whoever holds it may join; whoever does not gets no answer. Zeroized on drop, and `Debug` shows only the
/// [fingerprint](Self::fingerprint).
///
/// ```
/// # use weft_noise::ClusterSecret;
/// let secret = ClusterSecret::new([7; 32]);
/// assert_eq!(ClusterSecret::parse(&secret.to_text())?.fingerprint(), secret.fingerprint());
/// # Ok::<(), weft_noise::ParseSecretError>(())
/// ```
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClusterSecret([u8; 32]);

/// Tells secrets apart without giving them away: a keyed hash of one. Members may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId(pub [u8; 16]);

/// The text is no cluster secret. Nothing was changed; the operator (or a damaged file) wrote it. The text is not in
/// the error, since most of it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSecretError {
    /// Neither of the two forms.
    #[error(
        "a cluster secret is 64 hexadecimal digits or the base64 of 32 bytes; this text has {len} characters"
    )]
    Form {
        /// Bytes of the text without surrounding white space.
        len: usize,
    },
    /// All bytes are zero: a placeholder, not a secret.
    #[error("a cluster secret must not be all zero")]
    Zero,
}

impl ClusterSecret {
    /// Takes the bytes as they are.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Draws a new secret.
    #[must_use]
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut secret = Self([0; 32]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    /// Reads 64 hexadecimal digits, or base64 (either alphabet, padded or not) of 32 bytes. White space around it is
    /// ignored.
    ///
    /// # Errors
    /// See [`ParseSecretError`].
    pub fn parse(text: &str) -> Result<Self, ParseSecretError> {
        let text = text.trim();
        let digits = text.as_bytes();
        let parsed = match digits.len() {
            64 => unpack::<4>(digits, hex_digit),
            44 if digits.last() == Some(&b'=') => digits.get(..43).and_then(|d| unpack::<6>(d, base64_digit)),
            43 => unpack::<6>(digits, base64_digit),
            _ => None,
        };
        let secret = parsed.ok_or(ParseSecretError::Form { len: digits.len() })?;
        if secret.0 == [0; 32] { Err(ParseSecretError::Zero) } else { Ok(secret) }
    }

    /// The secret as 64 hexadecimal digits, for its file. Wiped when dropped.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // With its full capacity from the start the text never moves and leaves no copy behind.
        let mut text = Zeroizing::new(String::with_capacity(64));
        for byte in &self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text
    }

    /// 8 hexadecimal digits by which people can compare secrets. Safe to show: it is 32 bits of a keyed hash, which
    /// says nothing more of 256 random bits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        mac16(&self.0, &[b"weft fingerprint v1"]).iter().take(4).map(|b| format!("{b:02x}")).collect()
    }

    /// Which secret this is, among those that a cluster has and had.
    #[must_use]
    pub fn id(&self) -> SecretId {
        SecretId(mac16(&self.0, &[b"weft secret id v1"]))
    }

    /// The keys that handshakes of `suite` use in place of the secret.
    pub(crate) fn keys(&self, suite: Suite) -> SecretKeys {
        let name = suite.name().as_bytes();
        SecretKeys {
            id: self.id(),
            psk: derive32(&self.0, &[b"weft psk v1 ", name]),
            mac1: derive32(&self.0, &[b"weft mac1 v1 ", name]),
            cookie: derive32(&self.0, &[b"weft cookie v1 ", name]),
        }
    }
}

/// Compares keyed hashes, so that its time says nothing of the secrets.
impl PartialEq for ClusterSecret {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for ClusterSecret {}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterSecret({}…)", self.fingerprint())
    }
}

/// Keys from one cluster secret, one for each purpose.
pub(crate) struct SecretKeys {
    pub(crate) id: SecretId,
    pub(crate) psk: Zeroizing<[u8; 32]>,
    pub(crate) mac1: Zeroizing<[u8; 32]>,
    pub(crate) cookie: Zeroizing<[u8; 32]>,
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

fn base64_digit(digit: u8) -> Option<u8> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

/// Packs digits of `BITS` bits into 32 bytes; bits left over must be zero.
fn unpack<const BITS: u32>(digits: &[u8], value: fn(u8) -> Option<u8>) -> Option<ClusterSecret> {
    let mut secret = ClusterSecret([0; 32]);
    let mut bytes = secret.0.iter_mut();
    let (mut pending, mut n_bits) = (0u32, 0);
    for &digit in digits {
        pending = (pending << BITS) | u32::from(value(digit)?);
        n_bits += BITS;
        if n_bits >= 8 {
            n_bits -= 8;
            *bytes.next()? = (pending >> n_bits) as u8;
            pending &= (1 << n_bits) - 1;
        }
    }
    let complete = bytes.next().is_none() && pending == 0;
    complete.then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_are_read() {
        let secret = ClusterSecret::new(std::array::from_fn(|i| i as u8 * 7 + 3));
        let base64 = "AwoRGB8mLTQ7QklQV15lbHN6gYiPlp2kq7K5wMfO1dw=";
        for text in
            [base64, &base64[..43], " \nAwoRGB8mLTQ7QklQV15lbHN6gYiPlp2kq7K5wMfO1dw=\n", &secret.to_text()]
        {
            assert_eq!(ClusterSecret::parse(text).unwrap().0, secret.0, "{text}");
        }
        assert_eq!(ClusterSecret::parse(&secret.to_text().to_uppercase()).unwrap().0, secret.0);
    }

    #[test]
    fn other_texts_are_refused() {
        let texts = [
            "",
            "secret",
            &"g".repeat(64),
            &"a".repeat(63),
            &"é".repeat(32),
            &"/".repeat(43),
            &"=".repeat(44),
        ];
        for text in texts {
            let len = text.len();
            assert_eq!(ClusterSecret::parse(text).err(), Some(ParseSecretError::Form { len }), "{text}");
        }
        assert_eq!(ClusterSecret::parse(&"0".repeat(64)).err(), Some(ParseSecretError::Zero));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let secret = ClusterSecret::new([0xab; 32]);
        assert_eq!(format!("{secret:?}"), format!("ClusterSecret({}…)", secret.fingerprint()));
        assert!(!secret.to_text().contains(&secret.fingerprint()));
    }

    #[test]
    fn keys_differ_by_purpose_and_suite() {
        let secret = ClusterSecret::new([1; 32]);
        let [a, b] = [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].map(|suite| secret.keys(suite));
        let mut all = vec![*a.psk, *a.mac1, *a.cookie, *b.psk, *b.mac1, *b.cookie];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-fA-F+/=_-]{40,66}|\\PC*") {
            if let Ok(secret) = ClusterSecret::parse(&text) {
                prop_assert_eq!(ClusterSecret::parse(&secret.to_text()).unwrap().0, secret.0);
            }
        }
    }
}
