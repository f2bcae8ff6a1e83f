//! TAP devices with virtio-net headers and several queues.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::iovec::{ReadLayout, read_scattered, write_gathered};
use crate::{check, check_len};

/// Length of the virtio-net header in front of every frame that is read from or written to a [`Tap`].
///
/// Its fields are in the byte order of the machine.
pub const VNET_HDR_LEN: usize = 10;

const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// One queue of a TAP device.
///
/// Reads never block: they fail with `WouldBlock`. The kernel keeps the frames of one flow on one queue: that which
/// last wrote a frame of the flow's other direction.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    udp_segmentation: bool,
}

impl Tap {
    /// Opens `n_queues` more queues of the device `name` in the namespace of the calling thread, and makes the device
    /// when there is none. A device that is made here is persistent: it stays when its last queue is closed.
    ///
    /// # Errors
    /// `NotFound`: the host has no `/dev/net/tun`. `PermissionDenied`: no `CAP_NET_ADMIN`. `InvalidInput`: a name that
    /// cannot be one, or a device of that name that is not a multi-queue TAP. Queues that were opened are closed; a
    /// device that was made stays.
    pub fn open(name: &str, n_queues: usize) -> io::Result<Vec<Self>> {
        (0..n_queues).map(|_| Self::open_queue(name)).collect()
    }

    fn open_queue(name: &str) -> io::Result<Self> {
        let fd: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?
            .into();
        let mut request = interface_request(name)?;
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an `ifreq`, which `request` is.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        let header_len = VNET_HDR_LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an `int`.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header_len) })?;
        // SAFETY: TUNSETPERSIST takes its argument by value.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) })?;
        let mut tap = Self { fd, udp_segmentation: false };
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        // Kernels before 6.2 do not know USO, and refuse the whole set with it.
        tap.udp_segmentation = tap.set_offloads(tcp | TUN_F_USO4 | TUN_F_USO6).is_ok();
        if !tap.udp_segmentation {
            tap.set_offloads(tcp)?;
        }
        Ok(tap)
    }

    fn set_offloads(&self, offloads: libc::c_uint) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
            .map(drop)
    }

    /// Removes the device once every queue is closed (or keeps it again).
    ///
    /// # Errors
    /// Only by a bug.
    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes its argument by value.
        check(unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(persistent))
        })
        .map(drop)
    }

    /// Whether the kernel hands over and takes UDP super-frames (USO, Linux 6.2 and later).
    #[must_use]
    pub const fn udp_segmentation(&self) -> bool {
        self.udp_segmentation
    }

    /// Reads one frame, virtio-net header first, into the start of `buf`. Returns the length with the header.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        // SAFETY: pointer and length describe `buf`, which is borrowed mutably.
        check_len(unsafe { libc::read(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) })
    }

    /// Reads one frame, virtio-net header first, into the places of `layout`. Returns the length with the header.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `InvalidInput` when the layout does not fit `buf`.
    pub fn read_scattered(&self, buf: &mut [u8], layout: &ReadLayout) -> io::Result<usize> {
        read_scattered(&self.fd, buf, layout)
    }

    /// Writes one frame, virtio-net header first, that lies in `pieces` of `buf`.
    ///
    /// # Errors
    /// `InvalidInput`: a header that contradicts the frame, or bad pieces. Raw error `EIO`: the device is down.
    pub fn write(&self, buf: &[u8], pieces: &[Range<u32>]) -> io::Result<()> {
        write_gathered(&self.fd, buf, pieces).map(drop)
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // An empty name or one with '%' would make the kernel choose one.
    let valid = !name.is_empty() && name.len() < libc::IFNAMSIZ && !name.contains(['%', '/', '\0']);
    if !valid {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_change_are_refused() {
        for bad in ["", "tap%d", "a/b", "sixteen-bytes-00"] {
            assert!(interface_request(bad).is_err(), "{bad}");
        }
        assert!(interface_request("fifteen-bytes-0").is_ok());
    }
}
