//! The bulk cipher: one lane's key, by the back-end that is fastest on this processor.

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use weft_wire::{HEADER_LEN, Lane, TAG_LEN};
use zeroize::Zeroizing;

use crate::Suite;

/// Who computes the cipher. Both give the same bytes, so the two ends need not agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    /// Ahead with AES-GCM where there is AVX-512: 157 ns for 1420 bytes against 209.
    AwsLc,
    /// Ahead with AES-GCM elsewhere (285 ns for 1440 bytes against 479, with AVX2 and VAES) and with ChaCha20-Poly1305.
    Ring,
}

impl Backend {
    fn fastest(suite: Suite) -> Self {
        match suite {
            Suite::Aes256Gcm if has_avx512() => Self::AwsLc,
            Suite::Aes256Gcm | Suite::ChaCha20Poly1305 => Self::Ring,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("vaes")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

fn aws_lc_algorithm(suite: Suite) -> &'static aws_lc_rs::aead::Algorithm {
    match suite {
        Suite::Aes256Gcm => &aws_lc_rs::aead::AES_256_GCM,
        Suite::ChaCha20Poly1305 => &aws_lc_rs::aead::CHACHA20_POLY1305,
    }
}

fn ring_algorithm(suite: Suite) -> &'static ring::aead::Algorithm {
    match suite {
        Suite::Aes256Gcm => &ring::aead::AES_256_GCM,
        Suite::ChaCha20Poly1305 => &ring::aead::CHACHA20_POLY1305,
    }
}

/// One direction's key from the handshake, from which the keys of its lanes come.
pub(crate) struct DirectionKey(Prk);

impl DirectionKey {
    /// `key` is uniformly random, so HKDF's extraction step is not needed.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(Prk::new_less_safe(HKDF_SHA256, key))
    }

    pub(crate) fn lane(&self, suite: Suite, lane: Lane) -> LaneKey {
        let lane = [lane.index() as u8];
        let info = [b"weft lane".as_slice(), &lane];
        let mut key = Zeroizing::new([0; 32]);
        // HKDF fails only for outputs of more than 255 hashes, and both ciphers' keys have 32 bytes.
        let output = self.0.expand(&info, aws_lc_algorithm(suite)).expect("32 bytes are not too long");
        output.fill(key.as_mut_slice()).expect("a key has 32 bytes");
        LaneKey::new(Backend::fastest(suite), suite, &key)
    }
}

/// A lane's key. Neither sealing nor opening allocates.
pub(crate) struct LaneKey(Key);

enum Key {
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    /// Boxed, since it is large and most lanes are never used.
    Ring(Box<ring::aead::LessSafeKey>),
}

/// 4 zero bytes and the counter, big-endian.
#[inline]
pub(crate) fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

impl LaneKey {
    fn new(backend: Backend, suite: Suite, key: &[u8; 32]) -> Self {
        const LEN: &str = "a key has 32 bytes";
        Self(match backend {
            Backend::AwsLc => {
                let key = aws_lc_rs::aead::UnboundKey::new(aws_lc_algorithm(suite), key).expect(LEN);
                Key::AwsLc(aws_lc_rs::aead::LessSafeKey::new(key))
            }
            Backend::Ring => {
                let key = ring::aead::UnboundKey::new(ring_algorithm(suite), key).expect(LEN);
                Key::Ring(Box::new(ring::aead::LessSafeKey::new(key)))
            }
        })
    }

    /// Encrypts `text` in place.
    #[inline]
    pub(crate) fn seal(
        &self,
        nonce: [u8; 12],
        head: &[u8; HEADER_LEN],
        text: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        self.seal_with(nonce, head, text, tag);
    }

    /// As [`Self::seal`], for associated data of any length.
    #[inline]
    fn seal_with(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        // The ciphers refuse only texts of more than 64 GiB. No text of a UDP datagram is, and sending it in clear
        // instead must never be possible.
        const FITS: &str = "a datagram is not too long";
        match &self.0 {
            Key::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_scatter(nonce, Aad::from(aad), text, &[], tag).expect(FITS);
            }
            Key::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, Aad::from(aad), text).expect(FITS);
                tag.copy_from_slice(made.as_ref());
            }
        }
    }

    /// Decrypts `text` in place; `false`, with its bytes in disorder, when the tag is not right.
    #[inline]
    pub(crate) fn open(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        match &self.0 {
            Key::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                // Unlike `open_in_place`, this does not move the text over itself afterwards.
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text).is_ok()
            }
            Key::Ring(key) => {
                use ring::aead::{Aad, Nonce, Tag};
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(*tag), text, 0..).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    const BACKENDS: [Backend; 2] = [Backend::AwsLc, Backend::Ring];

    fn check(suite: Suite, vector: [&str; 6]) {
        BACKENDS.into_iter().for_each(|backend| check_backend(backend, suite, vector));
    }

    fn check_backend(backend: Backend, suite: Suite, [k, nonce, aad, text, sealed, tag]: [&str; 6]) {
        let key = LaneKey::new(backend, suite, &hex(k).try_into().unwrap());
        let (nonce, aad) = (hex(nonce).try_into().unwrap(), hex(aad));
        let mut buffer = hex(text);
        let mut found = [0; TAG_LEN];
        key.seal_with(nonce, &aad, &mut buffer, &mut found);
        assert_eq!((&buffer, found.to_vec()), (&hex(sealed), hex(tag)));
        let mut opened = buffer.clone();
        assert!(key.open(nonce, &aad, &mut opened, &found));
        assert_eq!(opened, hex(text));
        for bit in 0..(buffer.len() + TAG_LEN) * 8 {
            let (mut changed, mut tag) = (buffer.clone(), found);
            let byte = changed.iter_mut().chain(&mut tag).nth(bit / 8).unwrap();
            *byte ^= 1 << (bit % 8);
            assert!(!key.open(nonce, &aad, &mut changed, &tag), "bit {bit}");
        }
    }

    /// RFC 8439, section 2.8.2.
    #[test]
    fn chacha20_poly1305_matches_the_rfc() {
        check(
            Suite::ChaCha20Poly1305,
            [
                "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
                "070000004041424344454647",
                "50515253c0c1c2c3c4c5c6c7",
                "4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a204966204920636f75\
                 6c64206f6666657220796f75206f6e6c79206f6e652074697020666f7220746865206675747572652c2073756e7363726565\
                 6e20776f756c642062652069742e",
                "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71\
                 de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def0\
                 8e4b7a9de576d26586cec64b6116",
                "1ae10b594f09e26a7e902ecbd0600691",
            ],
        );
    }

    /// McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13, 14 and 16, which NIST adopted.
    #[test]
    fn aes_256_gcm_matches_nist() {
        let zeros = "0".repeat(64);
        check(Suite::Aes256Gcm, [&zeros, &zeros[..24], "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"]);
        check(
            Suite::Aes256Gcm,
            [
                &zeros,
                &zeros[..24],
                "",
                &zeros[..32],
                "cea7403d4d606b6e074ec5d3baf39d18",
                "d0d1c8a799996bf0265b98b5d48ab919",
            ],
        );
        check(
            Suite::Aes256Gcm,
            [
                "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
                "cafebabefacedbaddecaf888",
                "feedfacedeadbeeffeedfacedeadbeefabaddad2",
                "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16a\
                 edf5aa0de657ba637b39",
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f6\
                 1e6393ba7a0abcc9f662",
                "76fc6ece0f4e1768cddf8853bb2d551b",
            ],
        );
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference_ciphers(
            k: [u8; 32], nonce: [u8; 12], aad: [u8; HEADER_LEN], text in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let payload = Payload { msg: &text, aad: &aad };
            let chacha = chacha20poly1305::ChaCha20Poly1305::new(&k.into()).encrypt(&nonce.into(), payload).unwrap();
            let payload = Payload { msg: &text, aad: &aad };
            let aes = aes_gcm::Aes256Gcm::new(&k.into()).encrypt(&nonce.into(), payload).unwrap();
            for (suite, expected) in [(Suite::ChaCha20Poly1305, chacha), (Suite::Aes256Gcm, aes)] {
                for backend in BACKENDS {
                    let key = LaneKey::new(backend, suite, &k);
                    let mut sealed = text.clone();
                    let mut tag = [0; TAG_LEN];
                    key.seal(nonce, &aad, &mut sealed, &mut tag);
                    prop_assert_eq!(&[&sealed[..], &tag].concat(), &expected);
                    prop_assert!(key.open(nonce, &aad, &mut sealed, &tag));
                    prop_assert_eq!(&sealed, &text);
                }
            }
        }
    }
}
