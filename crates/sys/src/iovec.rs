//! Scattered reads and gathered writes over one buffer.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::check_len;

/// The most pieces that one read or write may have.
pub const MAX_PIECES: usize = 128;

/// Where the bytes of one scattered read land in a buffer: `head` contiguous bytes at `start`, then pieces of
/// `piece_len` bytes each, the first at `first_piece`, each `stride` after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLayout {
    /// Offset of the head.
    pub start: usize,
    /// Length of the head.
    pub head_len: usize,
    /// Offset of the first piece.
    pub first_piece: usize,
    /// Length of every piece.
    pub piece_len: usize,
    /// Distance between the starts of two pieces; at least `piece_len`.
    pub stride: usize,
    /// How many pieces; at most [`MAX_PIECES`] − 1.
    pub n_pieces: usize,
}

/// Reads once into the places that `layout` names, in that order.
///
/// # Errors
/// `InvalidInput` when the layout does not lie within `buf` or overlaps itself; otherwise what the kernel says.
pub(crate) fn read_scattered(fd: &OwnedFd, buf: &mut [u8], layout: &ReadLayout) -> io::Result<usize> {
    let ReadLayout { start, head_len, first_piece, piece_len, stride, n_pieces } = *layout;
    let end = match n_pieces.checked_sub(1) {
        None => start.checked_add(head_len),
        Some(last) => {
            stride.checked_mul(last).and_then(|o| o.checked_add(first_piece)?.checked_add(piece_len))
        }
    };
    let head_end = start.checked_add(head_len);
    let disjoint = n_pieces == 0 || (stride >= piece_len && head_end.is_some_and(|e| e <= first_piece));
    if n_pieces >= MAX_PIECES || !disjoint || end.is_none_or(|end| end > buf.len()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut iov = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_PIECES];
    let base = buf.as_mut_ptr();
    // SAFETY: `start + head_len` was checked to be within `buf` (before `first_piece`, or itself the end).
    let head = unsafe { base.add(start) };
    iov[0].write(libc::iovec { iov_base: head.cast(), iov_len: head_len });
    for (i, slot) in iov.iter_mut().skip(1).take(n_pieces).enumerate() {
        // SAFETY: the last piece was checked to end within `buf`, and the others lie before it.
        let piece = unsafe { base.add(first_piece + i * stride) };
        slot.write(libc::iovec { iov_base: piece.cast(), iov_len: piece_len });
    }
    // SAFETY: the first `n_pieces + 1` entries are initialised, and describe disjoint parts of `buf`, which is
    // borrowed mutably until the call is over.
    check_len(unsafe { libc::readv(fd.as_raw_fd(), iov.as_ptr().cast(), n_pieces as libc::c_int + 1) })
}

/// Writes the named parts of `buf` once, in that order.
///
/// # Errors
/// `InvalidInput` when there are more than [`MAX_PIECES`] or one does not lie within `buf`; otherwise what the kernel
/// says.
pub(crate) fn write_gathered(fd: &OwnedFd, buf: &[u8], pieces: &[Range<u32>]) -> io::Result<usize> {
    let mut iov = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_PIECES];
    if pieces.len() > MAX_PIECES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (slot, piece) in iov.iter_mut().zip(pieces) {
        let Some(part) = buf.get(piece.start as usize..piece.end as usize) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        slot.write(libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    }
    // SAFETY: the first `pieces.len()` entries are initialised and describe parts of `buf`, which is borrowed until the
    // call is over; the kernel only reads through the entries of a write.
    check_len(unsafe { libc::writev(fd.as_raw_fd(), iov.as_ptr().cast(), pieces.len() as libc::c_int) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (OwnedFd, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        (a.into(), b)
    }

    #[test]
    fn scattered_read_fills_head_then_pieces() {
        let (fd, mut other) = pair();
        other.write_all(b"HEADaabbc").unwrap();
        let mut buf = [b'.'; 24];
        let layout =
            ReadLayout { start: 2, head_len: 4, first_piece: 8, piece_len: 2, stride: 5, n_pieces: 3 };
        assert_eq!(read_scattered(&fd, &mut buf, &layout).unwrap(), 9);
        assert_eq!(&buf, b"..HEAD..aa...bb...c.....");
    }

    #[test]
    fn layouts_outside_the_buffer_or_overlapping_are_refused() {
        let (fd, mut other) = pair();
        other.write_all(&[0; 64]).unwrap();
        let mut buf = [0; 24];
        let good = ReadLayout { start: 0, head_len: 4, first_piece: 4, piece_len: 4, stride: 8, n_pieces: 3 };
        assert!(read_scattered(&fd, &mut buf, &good).is_ok());
        for bad in [
            ReadLayout { n_pieces: 4, ..good },
            ReadLayout { stride: 3, ..good },
            ReadLayout { head_len: 5, ..good },
            ReadLayout { stride: usize::MAX, ..good },
            ReadLayout { n_pieces: 0, head_len: 25, ..good },
            ReadLayout { n_pieces: MAX_PIECES, stride: 4, ..good },
        ] {
            let error = read_scattered(&fd, &mut buf, &bad).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn gathered_write_joins_the_pieces() {
        let (fd, mut other) = pair();
        assert_eq!(write_gathered(&fd, b"0123456789", &[8..10, 0..3, 5..5, 4..5]).unwrap(), 6);
        let mut got = [0; 6];
        other.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"890124");
        let outside = 3..5;
        let reversed = Range { start: 3, end: 2 };
        for bad in [outside, reversed] {
            assert!(write_gathered(&fd, b"0123", &[bad, 0..1]).is_err());
        }
        assert!(write_gathered(&fd, b"0123", &vec![0..1; MAX_PIECES + 1]).is_err());
    }
}
