//! Waiting for several descriptors at once, and waking the one who waits.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::{check, check_len};

/// An epoll instance, level-triggered.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// Room for the events of one [`Epoll::wait`].
pub struct Events {
    raw: [libc::epoll_event; Self::CAPACITY],
    n: usize,
}

impl Events {
    const CAPACITY: usize = 32;

    /// No events yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { raw: [libc::epoll_event { events: 0, u64: 0 }; Self::CAPACITY], n: 0 }
    }

    /// Whether nothing was ready.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The tokens of the descriptors that are ready (to read, or broken).
    pub fn tokens(&self) -> impl Iterator<Item = u64> + '_ {
        self.raw.iter().take(self.n).map(|e| e.u64)
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl Epoll {
    /// Makes an instance that waits for nothing yet.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just made, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for `fd` to become readable, too; `token` names it. It leaves when it is closed.
    ///
    /// # Errors
    /// `fd` is there already, or cannot be waited for.
    pub fn add(&self, fd: &impl AsRawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: `event` outlives the call, which only reads it.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        })
        .map(drop)
    }

    /// Waits until something is ready or `timeout` is over (`None`: for ever). An interrupted wait is one without
    /// events.
    ///
    /// # Errors
    /// Only by a bug: the descriptor is not an epoll instance.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let timeout =
            timeout.map_or(-1, |t| libc::c_int::try_from(t.as_millis()).unwrap_or(libc::c_int::MAX));
        // SAFETY: pointer and length describe `events.raw`, which is borrowed mutably during the call.
        let n = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.raw.as_mut_ptr(),
                Events::CAPACITY as libc::c_int,
                timeout,
            )
        });
        events.n = match n {
            Ok(n) => n as usize,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        Ok(())
    }
}

/// A descriptor that becomes readable when someone [notifies](EventFd::notify) it.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one that is not notified.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: `fd` was just made, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it readable.
    pub fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: pointer and length describe `one`. The only failure is a counter that is full, which is readable.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable; whether it was notified.
    pub fn drain(&self) -> bool {
        let mut count = [0u8; 8];
        // SAFETY: pointer and length describe `count`, which is borrowed mutably.
        check_len(unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) }).is_ok()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_names_only_what_was_notified() {
        let (epoll, a, b) = (Epoll::new().unwrap(), EventFd::new().unwrap(), EventFd::new().unwrap());
        epoll.add(&a, 1).unwrap();
        epoll.add(&b, 2).unwrap();
        let mut events = Events::new();
        epoll.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.tokens().count(), 0);
        b.notify();
        b.notify();
        epoll.wait(&mut events, None).unwrap();
        assert_eq!(events.tokens().collect::<Vec<_>>(), [2]);
        assert!(b.drain() && !b.drain());
    }
}
