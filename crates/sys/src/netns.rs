//! Network namespaces of threads.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::check;

/// Moves the calling thread into the network namespace that is mounted at `path` (for example `/run/netns/NAME`).
///
/// Threads that it starts, and devices and sockets that it opens afterwards, belong to that namespace.
///
/// # Errors
/// There is nothing at `path`, it is not a network namespace, or the caller may not enter it (`CAP_SYS_ADMIN`). The
/// thread then stays where it was.
pub fn enter(path: impl AsRef<Path>) -> io::Result<()> {
    let namespace = File::open(path)?;
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}
