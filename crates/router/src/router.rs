//! Starting, feeding and stopping the workers.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use weft_dataplane::{Snapshot, VnetHdr};
use weft_sys::{EventFd, SegmentSupport, Tap, UdpSocket};
use weft_wire::{NetworkId, PeerId};

use crate::NodeInput;
use crate::bench::{self, BenchReceiver, BenchSender, BenchSink, Job};
use crate::capture::{CaptureFilter, CaptureHandle, CapturedFrame, Captures};
use crate::stats::{RouterStats, WorkerStats};
use crate::worker::{Command, Context, Worker};

/// Offset of the word in a datagram whose low four bits are the lane.
const RECEIVER_INDEX_OFFSET: u32 = 4;
const MAX_DEFAULT_WORKERS: usize = 4;

/// How a router is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// Worker threads; `None` takes one a core, 4 at most. More than 15 share lanes.
    pub n_workers: Option<usize>,
    /// The underlay address to bind. `[::]`, the default, serves IPv4, too, and IPv4 alone where the host has no IPv6.
    pub address: IpAddr,
    /// The UDP port; 0 takes a free one.
    pub port: u16,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self { n_workers: None, address: Ipv6Addr::UNSPECIFIED.into(), port: weft_wire::DEFAULT_PORT }
    }
}

/// The router was not started, and nothing is left of the attempt. The host's configuration causes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another process has the port.
    #[error("UDP port {0} is in use by another process")]
    PortInUse(u16),
    /// The host has no such address, or the port may not be bound.
    #[error("cannot bind {address}")]
    Bind {
        /// What was to be bound.
        address: SocketAddr,
        /// Why it was not.
        source: io::Error,
    },
    /// No more threads or descriptors.
    #[error("cannot start a worker thread")]
    Worker(#[source] io::Error),
}

/// A network was not attached. The TAP may exist now; the operator or the host's configuration causes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The kernel lacks TUN/TAP, or a container was not given the device.
    #[error("there is no /dev/net/tun")]
    NoTunDevice,
    /// The process may not open TAPs.
    #[error("no permission to open a TAP: CAP_NET_ADMIN is missing")]
    NoPermission,
    /// A device of that name is there and is no multi-queue TAP, or has no queue left.
    #[error("cannot open the TAP {name}")]
    Tap {
        /// Its name.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// What the router keeps of a worker.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) commands: Mutex<Vec<Command>>,
    pub(crate) wake: EventFd,
    pub(crate) stats: WorkerStats,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        Ok(Self { commands: Mutex::default(), wake: EventFd::new()?, stats: WorkerStats::default() })
    }

    fn tell(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        self.wake.notify();
    }
}

/// Where the node's inputs go.
struct Inlet(Arc<dyn Fn(NodeInput) -> bool + Send + Sync>);

impl std::fmt::Debug for Inlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inlet")
    }
}

/// The running workers. Dropping it stops them; TAP devices stay.
#[derive(Debug)]
pub struct Router {
    /// The first one's, through which the node sends.
    socket: Arc<UdpSocket>,
    /// Every worker's.
    sockets: Vec<Arc<UdpSocket>>,
    mailboxes: Vec<Arc<Mailbox>>,
    captures: Arc<Captures>,
    bench: Arc<BenchSink>,
    /// What the thread of a bench counts.
    bench_mailbox: Arc<Mailbox>,
    snapshots: Arc<ArcSwap<Snapshot>>,
    to_node: Inlet,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Router {
    /// Binds the port and starts the workers, in the network namespace of the calling thread.
    ///
    /// `to_node` is called by workers, so it must not wait; it returns `false` when it has no room, which is counted.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        config: RouterConfig,
        snapshots: Arc<ArcSwap<Snapshot>>,
        to_node: impl Fn(NodeInput) -> bool + Send + Sync + Clone + 'static,
    ) -> Result<Self, StartError> {
        let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
        let n_workers = config.n_workers.unwrap_or_else(|| n_cores.min(MAX_DEFAULT_WORKERS)).max(1);
        let address = SocketAddr::new(config.address, config.port);
        let sockets =
            UdpSocket::bind_group(address, n_workers, RECEIVER_INDEX_OFFSET).map_err(
                |source| match source.kind() {
                    io::ErrorKind::AddrInUse => StartError::PortInUse(config.port),
                    _ => StartError::Bind { address, source },
                },
            )?;
        let sockets: Vec<Arc<UdpSocket>> = sockets.into_iter().map(Arc::new).collect();
        let Some(socket) = sockets.first().cloned() else {
            return Err(StartError::Worker(io::ErrorKind::InvalidInput.into()));
        };
        let mut router = Self {
            socket,
            sockets,
            mailboxes: Vec::new(),
            captures: Arc::default(),
            bench: Arc::default(),
            bench_mailbox: Arc::new(Mailbox::new().map_err(StartError::Worker)?),
            snapshots: Arc::clone(&snapshots),
            to_node: Inlet(Arc::new(to_node.clone())),
            threads: Mutex::default(),
        };
        for (index, socket) in router.sockets.clone().into_iter().enumerate() {
            // On an error, dropping `router` stops the workers that were started.
            let mailbox = Arc::new(Mailbox::new().map_err(StartError::Worker)?);
            let worker = Worker::new(
                index,
                socket,
                Arc::clone(&mailbox),
                (Arc::clone(&router.captures), Arc::clone(&router.bench)),
                Arc::clone(&snapshots),
                Box::new(to_node.clone()),
            )
            .map_err(StartError::Worker)?;
            let thread = std::thread::Builder::new()
                .name(format!("weft-worker-{index}"))
                .spawn(move || worker.run())
                .map_err(StartError::Worker)?;
            router.mailboxes.push(mailbox);
            router.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(router)
    }

    /// The address the workers are bound to.
    ///
    /// # Errors
    /// Only by a bug.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Carries a network's frames to and from the TAP `tap_name` of the calling thread's network namespace, which is
    /// made persistent when there is none. A network that is attached already changes to that TAP.
    ///
    /// The TAP has to be set up by someone else; while it is down, its frames are dropped.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&self, network: NetworkId, tap_name: &str) -> Result<(), AttachError> {
        let taps = Tap::open(tap_name, self.mailboxes.len()).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => AttachError::NoTunDevice,
            io::ErrorKind::PermissionDenied => AttachError::NoPermission,
            _ => AttachError::Tap { name: tap_name.to_owned(), source },
        })?;
        for (mailbox, tap) in self.mailboxes.iter().zip(taps) {
            mailbox.tell(Command::Attach(network, tap));
        }
        Ok(())
    }

    /// Stops carrying a network's frames. The device stays. Nothing happens when it is not attached.
    ///
    /// The TAP's queues are closed when this returns, so that the device can be removed or opened again.
    pub fn detach(&self, network: NetworkId) {
        let (sender, receiver) = std::sync::mpsc::channel();
        for mailbox in &self.mailboxes {
            mailbox.tell(Command::Detach(network, sender.clone()));
        }
        drop(sender);
        // Ends when every worker has dropped its sender, or is gone.
        while receiver.recv().is_ok() {}
    }

    /// Hands `frame` to a network's containers on this host, as if it came from a peer. It goes through no check, and is
    /// dropped and counted while the network is not attached.
    pub fn inject(&self, network: NetworkId, frame: &[u8]) {
        if let Some(mailbox) = self.mailboxes.first() {
            mailbox.tell(Command::Inject(network, [&VnetHdr::PLAIN.to_bytes(), frame].concat()));
        }
    }

    /// Copies frames to `sink` until the handle is dropped: what containers of this host sent and what was let in from peers,
    /// and unless one peer is looked at, also what weft itself answered and what went nowhere. `sink` is called by workers,
    /// so it must not wait; it returns `false` when it has no room, which is counted.
    ///
    /// `None` when four captures are under way.
    pub fn capture(
        &self,
        filter: CaptureFilter,
        sink: impl Fn(CapturedFrame) -> bool + Send + Sync + 'static,
    ) -> Option<CaptureHandle> {
        self.captures.begin(filter, Box::new(sink))
    }

    /// Counts datagrams of a bench of `peer` until the receiver is dropped. There is one at a time: the one before ends.
    pub fn expect_bench(&self, peer: PeerId, run: u32) -> BenchReceiver {
        self.bench.expect(peer, run)
    }

    /// Sends datagrams of a bench to `peer` from a thread of its own for `time`, as long as the longest frames that go there
    /// whole, `rate` bytes of frames a second to begin with.
    ///
    /// # Errors
    /// When there are no more threads.
    pub fn send_bench(&self, peer: PeerId, run: u32, time: Duration, rate: u64) -> io::Result<BenchSender> {
        let to_node = Arc::clone(&self.to_node.0);
        let context = Context {
            lane: bench::LANE,
            socket: Arc::clone(&self.socket),
            mailbox: Arc::clone(&self.bench_mailbox),
            captures: Arc::clone(&self.captures),
            bench: Arc::clone(&self.bench),
            to_node: Box::new(move |input| to_node(input)),
        };
        bench::send(Job { context, snapshots: Arc::clone(&self.snapshots), peer, run, time }, rate)
    }

    /// Makes workers go by `snapshot` from now on. An idle one is woken to let go of the one before, with which keys of ended
    /// sessions would stay in memory; a busy one takes it with the next frame.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshots.store(snapshot);
        self.mailboxes.iter().for_each(|mailbox| mailbox.wake.notify());
    }

    /// Sends one datagram of the node from the port. Waits while the socket's buffer is full.
    ///
    /// # Errors
    /// What the kernel says: no route, longer than the MTU.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram, to)
    }

    /// Totals since the start.
    #[must_use]
    pub fn stats(&self) -> RouterStats {
        let mut stats =
            RouterStats::merge(self.mailboxes.iter().chain([&self.bench_mailbox]).map(|m| &m.stats));
        // Each socket falls back by itself: one that did is worth knowing.
        stats.sends_trains = self.sockets.iter().all(|s| s.segment_support() != SegmentSupport::Single);
        stats.receives_trains = self.sockets.iter().all(|s| s.receives_trains());
        stats
    }

    /// Stops the workers and waits for them. TAP devices stay. Further calls do nothing; traffic stands still.
    pub fn shutdown(&self) {
        for mailbox in &self.mailboxes {
            mailbox.tell(Command::Stop);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
        for mailbox in &self.mailboxes {
            // What was told after the end would hold a TAP open, or a caller of `detach`.
            mailbox.commands.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.shutdown();
    }
}
