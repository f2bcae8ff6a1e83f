//! The Internet checksum (RFC 1071), whole and partial.

/// The sum of `bytes` as 16-bit words, not folded; a last odd byte counts as the upper half of a word.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(4);
    let mut total: u64 = 0;
    for chunk in &mut chunks {
        if let Ok(word) = chunk.try_into() {
            total += u64::from(u32::from_be_bytes(word));
        }
    }
    match *chunks.remainder() {
        [a] => total + u64::from(u16::from_be_bytes([a, 0])),
        [a, b] => total + u64::from(u16::from_be_bytes([a, b])),
        [a, b, c] => total + u64::from(u16::from_be_bytes([a, b])) + u64::from(u16::from_be_bytes([c, 0])),
        _ => total,
    }
}

/// Folds a sum to 16 bits with end-around carry.
pub(crate) const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Completes a partial checksum: `frame` from `start` on is summed, the field `offset` behind `start` (which holds the
/// pseudo-header's sum) included, and the result put there. `false`, with nothing changed, when they lie outside.
///
/// A result of 0 is written as `0xffff`, which is the same number and, in UDP, not "no checksum".
#[must_use]
pub fn complete_checksum(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = frame.get_mut(start..) else { return false };
    if covered.len() < offset.saturating_add(2) {
        return false;
    }
    let folded = !fold(sum(covered));
    put_u16(covered, offset, if folded == 0 { 0xffff } else { folded });
    true
}

/// The 16 bits at `offset`; 0 outside of `bytes`.
#[inline]
pub(crate) fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_be_bytes(*b))
}

/// The 32 bits at `offset`; 0 outside of `bytes`.
#[inline]
pub(crate) fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_be_bytes(*b))
}

/// Puts 16 bits at `offset`; nothing outside of `bytes`.
#[inline]
pub(crate) fn put_u16(bytes: &mut [u8], offset: usize, value: u16) {
    if let Some(to) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *to = value.to_be_bytes();
    }
}

/// Puts 32 bits at `offset`; nothing outside of `bytes`.
#[inline]
pub(crate) fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    if let Some(to) = bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
        *to = value.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sum_equals_the_textbook(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let textbook: u64 = bytes.chunks(2)
                .map(|c| u64::from(c[0]) << 8 | u64::from(*c.get(1).unwrap_or(&0)))
                .sum();
            prop_assert_eq!(fold(sum(&bytes)), fold(textbook));
        }

        #[test]
        fn completed_checksum_verifies(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), start in 0usize..64, offset in 0usize..32,
        ) {
            // Only fields at even offsets are in step with the sum's words.
            let (before, offset) = (bytes.clone(), offset * 2);
            if complete_checksum(&mut bytes, start, offset) {
                let pseudo = get_u16(&before[start..], offset);
                prop_assert_eq!(fold(sum(&bytes[start..]) + u64::from(pseudo)), 0xffff);
            } else {
                prop_assert_eq!(bytes, before);
            }
        }
    }
}
