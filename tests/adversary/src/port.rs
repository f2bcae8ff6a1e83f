//! A packet socket on one interface: whole Ethernet frames out and in.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
        setsockopt, socket, sockopt,
    },
};

/// `PACKET_OUTGOING` of `linux/if_packet.h`: a frame that this host sends.
const OUTGOING: u8 = 4;
const BUFFER_LEN: usize = 8 << 20;

/// An interface of the network namespace that the program runs in. Needs `CAP_NET_RAW`.
pub(crate) struct Port {
    fd: OwnedFd,
    ifindex: usize,
}

impl Port {
    pub(crate) fn open(interface: &str) -> Result<Self> {
        let address = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .with_context(|| format!("no interface {interface}"))?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            .context("no packet socket: CAP_NET_RAW is needed")?;
        bind(fd.as_raw_fd(), &address)?;
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_LEN).or_else(|_| {
            // Without CAP_NET_ADMIN the system's limit has to do.
            setsockopt(&fd, sockopt::RcvBuf, &BUFFER_LEN)
        })?;
        Ok(Self { fd, ifindex: address.ifindex() })
    }

    /// Sends a frame, waiting while the interface's queue is full.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
                Err(error) => {
                    return Err(io::Error::from(error))
                        .with_context(|| format!("cannot send a frame of {} bytes", frame.len()));
                }
            }
        }
    }

    /// The next frame that came in, into `buf`; `None` when none comes before `until`.
    pub(crate) fn receive<'b>(&self, buf: &'b mut [u8], until: Instant) -> Result<Option<&'b [u8]>> {
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
            let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
            let timeout = nix::sys::time::TimeVal::new(micros / 1_000_000, micros % 1_000_000);
            setsockopt(&self.fd, sockopt::ReceiveTimeout, &timeout)?;
            match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), buf) {
                Ok((len, Some(from))) if from.pkttype() != OUTGOING && from.ifindex() == self.ifindex => {
                    return Ok(buf.get(..len));
                }
                Ok(_) | Err(Errno::EINTR | Errno::ENETDOWN) if Instant::now() < until => {}
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
                Err(error) => return Err(io::Error::from(error)).context("cannot receive frames"),
            }
        }
    }
}
