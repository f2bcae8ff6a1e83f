//! Keyed BLAKE2s: short tags, and keys from keys.

use blake2::Blake2sMac;
use blake2::digest::consts::{U16, U32};
use blake2::digest::{KeyInit, Mac};
use zeroize::Zeroizing;

/// Length of mac1, mac2 and cookies.
pub(crate) const MAC_LEN: usize = 16;

fn keyed(key: &[u8]) -> Blake2sMac<U16> {
    // The only failing case is a key of more than 32 bytes; every caller passes a fixed array of 16 or 32.
    Blake2sMac::new_from_slice(key).expect("key fits")
}

/// Tag of `parts`, one after the other, under `key`.
pub(crate) fn mac16<const N: usize>(key: &[u8; N], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    const { assert!(N <= 32) }
    let mut mac = keyed(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Whether `tag` is the tag of `message` under `key`, in constant time.
pub(crate) fn verify16<const N: usize>(key: &[u8; N], message: &[u8], tag: &[u8]) -> bool {
    const { assert!(N <= 32) }
    let mut mac = keyed(key);
    mac.update(message);
    mac.verify_slice(tag).is_ok()
}

/// The key that `parts`, one after the other, name under `key`.
pub(crate) fn derive32(key: &[u8; 32], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = <Blake2sMac<U32> as KeyInit>::new_from_slice(key).expect("key fits");
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}
