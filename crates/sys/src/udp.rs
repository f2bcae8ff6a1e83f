//! UDP sockets that send and receive trains of datagrams in one call.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::{check, check_len, set_option};

/// The most bytes a train may have, all datagrams together: what fits into one IPv4 datagram.
pub const MAX_TRAIN_LEN: usize = 65507;
/// The most bytes one datagram may have.
pub const MAX_DATAGRAM_LEN: usize = MAX_TRAIN_LEN;

const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
/// What Linux allowed in a train before 6.9, and always takes.
const MIN_MAX_SEGMENTS: u8 = 64;
/// What Linux has allowed since.
const NEW_MAX_SEGMENTS: u8 = 128;
const BUFFER_LEN: libc::c_int = 8 << 20;

/// Whether trains leave in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentSupport {
    /// The kernel cuts trains of up to `max_segments` datagrams.
    Offloaded {
        /// Datagrams in one train.
        max_segments: usize,
    },
    /// The kernel or a device on the way refused (`UDP_SEGMENT`): datagrams leave one by one, in batches of system
    /// calls.
    Single,
}

/// What one receive call returned: a datagram, or a train of them that the kernel joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer.
    pub len: usize,
    /// Length of every datagram but the last, which may be shorter. At least 1.
    pub segment_len: usize,
    /// Who sent it. An IPv4 address is never given in its IPv6-mapped form.
    pub from: SocketAddr,
}

impl Received {
    /// What a place holds before something was received into it.
    pub const NONE: Self =
        Self { len: 0, segment_len: 1, from: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0) };
}

/// A UDP socket for both IP families, whose datagrams are never fragmented by IP on the way.
///
/// Receiving never blocks. Sending waits while the socket's buffer is full, which pushes back on the sender.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    ipv6: bool,
    /// Datagrams in one train; 0 when `UDP_SEGMENT` does not work. Only ever lowered.
    max_segments: AtomicU8,
    gro: bool,
}

impl UdpSocket {
    /// Binds `n` sockets to the same address and port in the namespace of the calling thread; port 0 takes a free one.
    ///
    /// With `[::]` the sockets serve IPv4, too, and where the host has no IPv6 they serve IPv4 only. The kernel gives a
    /// datagram to the socket number `lane mod n`, where the lane is the low four bits of the word at `steering_offset`
    /// in the datagram; if that filter cannot be set, by a hash of the addresses.
    ///
    /// # Errors
    /// `AddrInUse`: another process has the port. `AddrNotAvailable`: the host has no such address.
    pub fn bind_group(address: SocketAddr, n: usize, steering_offset: u32) -> io::Result<Vec<Self>> {
        // SO_REUSEPORT would let two daemons of one user share the port and lose half of their datagrams each. So the
        // first socket takes the port for itself, and shares it afterwards. It is never given back in between: a child
        // that is being started by another thread has a copy of every socket for a moment.
        let first = Self::bind(address, false)?;
        let address = SocketAddr::new(
            if first.ipv6 || address.is_ipv4() { address.ip() } else { Ipv4Addr::UNSPECIFIED.into() },
            first.local_addr()?.port(),
        );
        set_option(&first.fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        let others = (1..n).map(|_| Self::bind(address, true));
        let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<Vec<_>>>()?;
        if let Some(first) = sockets.first() {
            // Without the filter everything still works: any worker can open any datagram.
            let _ = first.steer_by_lane(steering_offset, n);
        }
        Ok(sockets)
    }

    fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        let any_v6 = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        match Self::bind_exact(address, reuse_port) {
            Err(e)
                if any_v6 && matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
            {
                Self::bind_exact((Ipv4Addr::UNSPECIFIED, address.port()).into(), reuse_port)
            }
            result => result,
        }
    }

    fn bind_exact(address: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        let ipv6 = address.is_ipv6();
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        // SAFETY: the call takes no pointers.
        let fd = check(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: `fd` was just made, and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if ipv6 {
            set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
            set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        }
        set_option(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        if reuse_port {
            set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        for (forced, asked) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            // Without CAP_NET_ADMIN the system's limit has to do.
            if set_option(&fd, libc::SOL_SOCKET, forced, BUFFER_LEN).is_err() {
                set_option(&fd, libc::SOL_SOCKET, asked, BUFFER_LEN)?;
            }
        }
        let gro = set_option(&fd, libc::SOL_UDP, UDP_GRO, 1).is_ok();
        let gso = set_option(&fd, libc::SOL_UDP, UDP_SEGMENT, 0).is_ok();
        let (name, name_len) = to_raw(address, ipv6);
        // SAFETY: pointer and length describe `name`, which the kernel only reads.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), name_len) })?;
        Ok(Self { fd, ipv6, max_segments: AtomicU8::new(if gso { NEW_MAX_SEGMENTS } else { 0 }), gro })
    }

    fn steer_by_lane(&self, offset: u32, n: usize) -> io::Result<()> {
        let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let mut program = [
            op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset),
            op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xf),
            op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, u32::try_from(n.max(1)).unwrap_or(1)),
            op(libc::BPF_RET | libc::BPF_A, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: pointer and length describe `program`, whose pointer is to an array that outlives the call.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        })
        .map(drop)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// Only by a bug.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut name_len = size_of_val(&name) as libc::socklen_t;
        // SAFETY: pointer and length describe `name`, which the kernel fills.
        check(unsafe {
            libc::getsockname(self.fd.as_raw_fd(), name.as_mut_ptr().cast(), &raw mut name_len)
        })?;
        // SAFETY: zeroes are a valid `sockaddr_storage`, and the kernel wrote an address over them.
        from_raw(&unsafe { name.assume_init() }).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whether trains are sent in one call.
    #[must_use]
    pub fn segment_support(&self) -> SegmentSupport {
        match self.max_segments.load(Ordering::Relaxed) {
            0 => SegmentSupport::Single,
            n => SegmentSupport::Offloaded { max_segments: n.into() },
        }
    }

    /// Whether the kernel joins datagrams that arrive together (`UDP_GRO`, Linux 5.0 and later).
    #[must_use]
    pub const fn receives_trains(&self) -> bool {
        self.gro
    }

    /// Stops using `UDP_SEGMENT`.
    pub fn disable_segmentation(&self) {
        self.max_segments.store(0, Ordering::Relaxed);
    }

    /// Sends the datagrams in `train`, each `segment_len` bytes long but for the last, which may be shorter. Trains are
    /// split as the kernel's limits ask, and sent one by one where it knows no trains.
    ///
    /// # Errors
    /// Raw error `EMSGSIZE`: a datagram is longer than the first link's MTU allows. Others: no route, or refused
    /// earlier by the other host. Datagrams behind the failed one may have been sent or not.
    pub fn send_train(&self, train: &[u8], segment_len: usize, to: SocketAddr) -> io::Result<()> {
        let segment_len = segment_len.max(1);
        if train.len() <= segment_len {
            return self.send(train, to);
        }
        let mut rest = train;
        loop {
            let max_segments = usize::from(self.max_segments.load(Ordering::Relaxed));
            let n = max_segments.min(MAX_TRAIN_LEN / segment_len);
            if n < 2 {
                return self.send_each(rest, segment_len, to);
            }
            let (now, later) = rest.split_at(rest.len().min(n * segment_len));
            match self.send_segmented(now, segment_len, to) {
                Ok(()) => rest = later,
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINVAL) if max_segments > MIN_MAX_SEGMENTS.into() => {
                        self.max_segments.store(MIN_MAX_SEGMENTS, Ordering::Relaxed);
                    }
                    // Either this kernel or device cannot (and single datagrams pass), or they are too long for the
                    // MTU, of which older kernels say EINVAL, too.
                    Some(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP) => {
                        self.send_each(now, segment_len, to)?;
                        self.disable_segmentation();
                        rest = later;
                    }
                    _ => return Err(e),
                },
            }
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// As [`UdpSocket::send_train`].
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let (name, name_len) = to_raw(to, self.ipv6);
        loop {
            // SAFETY: both pointers and lengths describe borrowed data that the kernel only reads.
            let sent = check_len(unsafe {
                libc::sendto(
                    self.fd.as_raw_fd(),
                    datagram.as_ptr().cast(),
                    datagram.len(),
                    0,
                    (&raw const name).cast(),
                    name_len,
                )
            });
            match sent {
                Err(e) if is_stale(&e) => {}
                other => return other.map(drop),
            }
        }
    }

    fn send_segmented(&self, train: &[u8], segment_len: usize, to: SocketAddr) -> io::Result<()> {
        let (mut name, name_len) = to_raw(to, self.ipv6);
        let segment_len =
            u16::try_from(segment_len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut iov = libc::iovec { iov_base: train.as_ptr().cast_mut().cast(), iov_len: train.len() };
        let mut control = Control::EMPTY;
        // SAFETY: `msghdr` is plain data, for which zeroes are valid.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = name_len;
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as _;
        // SAFETY: `control` is large and aligned enough for one header and a u16 behind it, and CMSG_FIRSTHDR points
        // into it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment_len);
        }
        loop {
            // SAFETY: every pointer in `message` is to data that lives until the call is over.
            match check_len(unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, 0) }) {
                Err(e) if is_stale(&e) => {}
                other => return other.map(drop),
            }
        }
    }

    fn send_each(&self, train: &[u8], segment_len: usize, to: SocketAddr) -> io::Result<()> {
        const BATCH: usize = 64;
        let (mut name, name_len) = to_raw(to, self.ipv6);
        for batch in train.chunks(segment_len * BATCH) {
            let mut iov = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
            // SAFETY: `mmsghdr` is plain data, for which zeroes are valid.
            let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
            let mut n = 0;
            for ((datagram, iov), message) in batch.chunks(segment_len).zip(&mut iov).zip(&mut messages) {
                *iov = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
                message.msg_hdr.msg_iov = iov;
                message.msg_hdr.msg_iovlen = 1;
                message.msg_hdr.msg_name = (&raw mut name).cast();
                message.msg_hdr.msg_namelen = name_len;
                n += 1;
            }
            let mut done = 0;
            while done < n {
                // SAFETY: `done < n <= BATCH`, so pointer and count describe initialised entries, whose pointers are to
                // data that lives until the call is over.
                let sent = check(unsafe {
                    libc::sendmmsg(
                        self.fd.as_raw_fd(),
                        messages.as_mut_ptr().add(done),
                        (n - done) as libc::c_uint,
                        0,
                    )
                });
                match sent {
                    Ok(sent) => done += sent as usize,
                    Err(e) if is_stale(&e) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Receives one datagram or train into the start of `buf`. A longer one than `buf` is cut off.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<Received> {
        let mut received = [Received::NONE];
        self.receive_many(buf, buf.len(), &mut received)?;
        let [received] = received;
        Ok(received)
    }

    /// Receives in one call up to `N` datagrams or trains, the one with index i into `buf` from `i * stride` on; how
    /// many there were, at least 1. One that is longer than `stride` is cut off. Fewer than `N`, if `buf` has that many
    /// places, means that there are no more for now.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn receive_many<const N: usize>(
        &self,
        buf: &mut [u8],
        stride: usize,
        received: &mut [Received; N],
    ) -> io::Result<usize> {
        // SAFETY: all of these are plain data, for which zeroes are valid.
        let (mut names, mut iovs, mut messages) = unsafe {
            (
                std::mem::zeroed::<[libc::sockaddr_storage; N]>(),
                std::mem::zeroed::<[libc::iovec; N]>(),
                std::mem::zeroed::<[libc::mmsghdr; N]>(),
            )
        };
        let mut controls = [const { Control::EMPTY }; N];
        let mut n = 0;
        let places = buf.chunks_mut(stride.max(1)).zip(&mut names).zip(&mut iovs).zip(&mut controls);
        for ((((place, name), iov), control), message) in places.zip(&mut messages) {
            *iov = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = size_of_val(name) as libc::socklen_t;
            header.msg_iov = iov;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control.0) as _;
            n += 1;
        }
        let n_received = loop {
            // SAFETY: `messages` has `n` entries that were filled in, and every pointer in them is to data that is
            // borrowed mutably until the call is over.
            let got = check(unsafe {
                libc::recvmmsg(
                    self.fd.as_raw_fd(),
                    messages.as_mut_ptr(),
                    n,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            });
            match got {
                Err(e) if is_stale(&e) => {}
                other => break other? as usize,
            }
        };
        for ((received, message), name) in received.iter_mut().zip(&messages).zip(&names).take(n_received) {
            let len = message.msg_len as usize;
            let mut segment_len = len;
            // SAFETY: the kernel filled the control buffer up to `msg_controllen`, within which the CMSG macros walk;
            // UDP_GRO's data is an int.
            unsafe {
                let mut header = libc::CMSG_FIRSTHDR(&raw const message.msg_hdr);
                while !header.is_null() {
                    if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == UDP_GRO {
                        let value = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
                        segment_len = usize::try_from(value).unwrap_or(len);
                    }
                    header = libc::CMSG_NXTHDR(&raw const message.msg_hdr, header);
                }
            }
            let from = from_raw(name).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            *received = Received { len, segment_len: segment_len.max(1), from };
        }
        Ok(n_received)
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Room for control messages, aligned as their headers ask.
#[repr(align(8))]
struct Control([u8; 64]);

impl Control {
    const EMPTY: Self = Self([0; 64]);
}

/// Whether an error is no answer to this call: a signal, or an ICMP error to an earlier datagram.
fn is_stale(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNREFUSED))
}

/// Whether `error` says that a datagram is longer than the first link's MTU allows.
#[must_use]
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// The address as the kernel takes it; as an IPv4-mapped one for an IPv6 socket.
fn to_raw(address: SocketAddr, ipv6_socket: bool) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: `sockaddr_storage` is plain data, for which zeroes are valid.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let v6 = match address {
        SocketAddr::V4(a) if !ipv6_socket => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: a.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(a.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is larger than and aligned for every kind of address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            return (storage, size_of::<libc::sockaddr_in>() as libc::socklen_t);
        }
        SocketAddr::V4(a) => SocketAddrV6::new(a.ip().to_ipv6_mapped(), a.port(), 0, 0),
        SocketAddr::V6(a) => a,
    };
    let raw = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: v6.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
        sin6_scope_id: v6.scope_id(),
    };
    // SAFETY: `sockaddr_storage` is larger than and aligned for every kind of address.
    unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
    (storage, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
}

fn from_raw(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let pointer = &raw const *storage;
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is what was stored.
            let raw = unsafe { pointer.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is what was stored.
            let raw = unsafe { pointer.cast::<libc::sockaddr_in6>().read() };
            let (ip, port) = (Ipv6Addr::from(raw.sin6_addr.s6_addr), u16::from_be(raw.sin6_port));
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddrV4::new(v4, port).into(),
                None => SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn receive(socket: &UdpSocket, buf: &mut [u8]) -> Received {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match socket.receive(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "nothing arrived");
                    std::thread::yield_now();
                }
                result => return result.unwrap(),
            }
        }
    }

    fn one(address: &str) -> UdpSocket {
        UdpSocket::bind_group(address.parse().unwrap(), 1, 4).unwrap().pop().unwrap()
    }

    fn collect(socket: &UdpSocket, n_bytes: usize) -> Vec<Vec<u8>> {
        let (mut datagrams, mut buf, mut got) = (Vec::new(), vec![0; 1 << 16], 0);
        while got < n_bytes {
            let r = receive(socket, &mut buf);
            datagrams.extend(buf[..r.len].chunks(r.segment_len).map(<[u8]>::to_vec));
            got += r.len;
        }
        datagrams
    }

    #[test]
    fn addresses_survive_the_kernel_form() {
        for (text, v6) in [("10.1.2.3:45", false), ("10.1.2.3:45", true), ("[fe80::1%7]:9", true)] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_raw(&to_raw(address, v6).0), Some(address));
        }
    }

    #[test]
    fn train_arrives_whole_with_and_without_segmentation() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let (a, b) = (one(address), one(address));
            let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), b.local_addr().unwrap().port());
            let train: Vec<u8> = (0..100 * 1400 + 37).map(|i| (i / 1400) as u8).collect();
            let expected: Vec<Vec<u8>> = train.chunks(1400).map(<[u8]>::to_vec).collect();
            a.send_train(&train, 1400, to).unwrap();
            assert_eq!(collect(&b, train.len()), expected);
            a.disable_segmentation();
            assert_eq!(a.segment_support(), SegmentSupport::Single);
            a.send_train(&train, 1400, to).unwrap();
            assert_eq!(collect(&b, train.len()), expected);
        }
    }

    #[test]
    fn several_datagrams_and_trains_arrive_in_one_call() {
        const STRIDE: usize = 1 << 16;
        let (a, b) = (one("127.0.0.1:0"), one("127.0.0.1:0"));
        let to = b.local_addr().unwrap();
        let mut buf = vec![0; 3 * STRIDE];
        let mut received = [Received::NONE; 8];
        let nothing = b.receive_many(&mut buf, STRIDE, &mut received).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);

        // Loopback delivers within the call that sends.
        a.send(&[1; 10], to).unwrap();
        a.send_train(&[2; 250], 100, to).unwrap();
        a.send(&[3; 30], to).unwrap();
        a.send(&[4; 40], to).unwrap();
        // There are three places in the buffer.
        assert_eq!(b.receive_many(&mut buf, STRIDE, &mut received).unwrap(), 3);
        let from = a.local_addr().unwrap();
        let expected = [(10, 10), (250, 100), (30, 30)];
        assert_eq!(received[..3], expected.map(|(len, segment_len)| Received { len, segment_len, from }));
        for (i, (len, _)) in expected.into_iter().enumerate() {
            assert_eq!(buf[i * STRIDE..i * STRIDE + len], vec![i as u8 + 1; len]);
        }
        assert_eq!(b.receive_many(&mut buf, STRIDE, &mut received).unwrap(), 1);
        assert_eq!((received[0].len, buf[0]), (40, 4));
    }

    #[test]
    fn lane_chooses_the_socket() {
        let group = UdpSocket::bind_group("127.0.0.1:0".parse().unwrap(), 3, 4).unwrap();
        let to = group[0].local_addr().unwrap();
        let sender = one("127.0.0.1:0");
        for lane in 0..16u8 {
            sender.send(&[0, 0, 0, 0, 9, 9, 9, 0x50 | lane], to).unwrap();
            let got = receive(&group[usize::from(lane) % 3], &mut [0; 64]);
            assert_eq!((got.len, got.from), (8, sender.local_addr().unwrap()));
        }
    }

    #[test]
    fn children_that_start_meanwhile_do_not_keep_the_port() {
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
            let bound: Vec<_> = (0..400)
                .map(|_| UdpSocket::bind_group("127.0.0.1:0".parse().unwrap(), 2, 4).map(drop))
                .collect();
            done.store(true, Ordering::Relaxed);
            let failed: Vec<_> = bound.into_iter().filter_map(Result::err).collect();
            assert!(failed.is_empty(), "{} of 400: {failed:?}", failed.len());
        });
    }

    #[test]
    fn a_port_in_use_is_an_error_although_ports_are_shared() {
        let group = UdpSocket::bind_group("127.0.0.1:0".parse().unwrap(), 2, 4).unwrap();
        let error = UdpSocket::bind_group(group[0].local_addr().unwrap(), 2, 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
