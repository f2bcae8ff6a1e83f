//! TAP devices with segmentation offloads, UDP sockets with GSO and GRO, epoll: the only crate with `unsafe`.
//!
//! Everything here is a thin, safe wrapper of one system call, or of the few that only make sense together. Nothing
//! here knows what the bytes mean: the virtio-net header in front of a TAP frame and the datagrams of a train are
//! made and read in `weft-dataplane`.
//!
//! All sizes are bytes. Errors are those of the system calls, as [`std::io::Error`]; the calls that set something up
//! undo nothing by hand, because every descriptor they opened closes with its owner.

pub mod heap;
mod iovec;
pub mod netns;
mod poll;
mod tap;
mod udp;

pub use iovec::{MAX_PIECES, ReadLayout};
pub use poll::{Epoll, EventFd, Events};
pub use tap::{Tap, VNET_HDR_LEN};
pub use udp::{MAX_DATAGRAM_LEN, MAX_TRAIN_LEN, Received, SegmentSupport, UdpSocket, is_too_long};

use std::io;

/// Turns the `-1` of a system call into the error that `errno` holds.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for calls that return a length.
fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sets one integer socket option.
fn set_option(
    fd: &impl std::os::fd::AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which outlives the call; the kernel only reads it.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}
