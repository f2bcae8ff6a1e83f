//! The header of a part of a frame that is longer than the path carries.
//!
//! ```text
//! offset  size  fragment header (sealed, behind the inner header)
//! 0       1     number of the part, from 0
//! 1       1     parts of the frame, 2 to 64
//! 2       2     length of the frame
//! ```
//!
//! All parts but the last are of one length, the frame's divided by their number and rounded up, so that a part's place
//! follows from its header and parts cannot overlap.

use std::ops::Range;

/// Length of a [`FragmentHeader`].
pub const FRAGMENT_HEADER_LEN: usize = 4;
/// Parts that a frame is divided into at most.
pub const MAX_FRAGMENTS: u8 = 64;

/// Says which part of which frame follows. Parts of one frame are sealed with consecutive counters of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    index: u8,
    count: u8,
    frame_len: u16,
}

impl FragmentHeader {
    /// The first header for a frame of `frame_len` bytes whose parts have `max_part_len` bytes at most; `None` when it
    /// takes more than [`MAX_FRAGMENTS`], fewer than two, or the frame is longer than the header can say.
    ///
    /// ```
    /// # use weft_wire::FragmentHeader;
    /// let first = FragmentHeader::first(3000, 1200).unwrap();
    /// let places: Vec<_> = first.all().map(|header| header.range()).collect();
    /// assert_eq!(places, [0..1000, 1000..2000, 2000..3000]);
    /// ```
    #[must_use]
    pub fn first(frame_len: usize, max_part_len: usize) -> Option<Self> {
        let count =
            frame_len.checked_div(max_part_len)? + usize::from(!frame_len.is_multiple_of(max_part_len));
        let header =
            Self { index: 0, count: u8::try_from(count).ok()?, frame_len: u16::try_from(frame_len).ok()? };
        header.is_sound().then_some(header)
    }

    /// The headers of all parts, in order.
    pub fn all(self) -> impl ExactSizeIterator<Item = Self> {
        (0..self.count).map(move |index| Self { index, ..self })
    }

    const fn is_sound(&self) -> bool {
        let (len, count) = (self.frame_len as usize, self.count as usize);
        self.index < self.count
            && count >= 2
            && self.count <= MAX_FRAGMENTS
            // No part is empty.
            && (count - 1) * len.div_ceil(count) < len
    }

    /// Number of the part, from 0.
    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// How many parts the frame has.
    #[must_use]
    pub const fn count(&self) -> u8 {
        self.count
    }

    /// Length of the frame.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        self.frame_len as usize
    }

    /// Length of all parts but the last, which may be shorter.
    #[must_use]
    pub const fn part_len(&self) -> usize {
        self.frame_len().div_ceil(if self.count == 0 { 1 } else { self.count as usize })
    }

    /// Where the part lies in the frame.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let start = usize::from(self.index) * self.part_len();
        start..(start + self.part_len()).min(self.frame_len())
    }

    /// Encodes the header.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; FRAGMENT_HEADER_LEN] {
        let [l0, l1] = self.frame_len.to_be_bytes();
        [self.index, self.count, l0, l1]
    }

    /// Decodes the header of an opened part; `None` when it contradicts itself.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let &[index, count, l0, l1] = payload.first_chunk::<FRAGMENT_HEADER_LEN>()?;
        let header = Self { index, count, frame_len: u16::from_be_bytes([l0, l1]) };
        header.is_sound().then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_needs_parts_and_can_have_them_is_divided() {
        assert_eq!(FragmentHeader::first(1200, 1200), None);
        assert_eq!(FragmentHeader::first(1201, 1200).map(|h| h.count()), Some(2));
        assert_eq!(FragmentHeader::first(64 * 1000 + 1, 1000), None);
        assert_eq!(FragmentHeader::first(70_000, 60_000), None);
        assert_eq!(FragmentHeader::first(5, 0), None);
    }

    proptest! {
        #[test]
        fn parts_cover_the_frame_and_fit(frame_len in 0usize..70_000, max_part_len in 1usize..10_000) {
            let Some(first) = FragmentHeader::first(frame_len, max_part_len) else { return Ok(()) };
            let mut end = 0;
            for header in first.all() {
                let range = header.range();
                prop_assert_eq!(range.start, end);
                prop_assert!(!range.is_empty() && range.len() <= max_part_len);
                prop_assert!(range.len() == header.part_len() || header.index() + 1 == header.count());
                prop_assert_eq!(FragmentHeader::parse(&header.to_bytes()), Some(header));
                end = range.end;
            }
            prop_assert_eq!(end, frame_len);
        }

        #[test]
        fn parsed_headers_are_sound(bytes in proptest::collection::vec(any::<u8>(), 0..8)) {
            if let Some(header) = FragmentHeader::parse(&bytes) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..FRAGMENT_HEADER_LEN]);
                prop_assert!(!header.range().is_empty() && header.range().end <= header.frame_len());
            }
        }
    }
}
