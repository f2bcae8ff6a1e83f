//! The loop of a worker thread.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use weft_dataplane::{DropReason, FastMap, Snapshot};
use weft_sys::{Epoll, Events, Tap, UdpSocket};
use weft_wire::{Lane, NetworkId};

use crate::NodeInput;
use crate::bench::BenchSink;
use crate::capture::Captures;
use crate::egress::Egress;
use crate::ingress::Ingress;
use crate::router::Mailbox;
use crate::stats::add;

const WAKE: u64 = u64::MAX;
const UDP: u64 = u64::MAX - 1;
/// After the last frame a worker looks for the next one this long before it sleeps. An answer mostly comes within it, and
/// waking a thread of a virtual machine costs up to 50 µs. Control messages keep no one awake.
const STAY_AWAKE: Duration = Duration::from_micros(100);

/// What the router tells a worker.
#[derive(Debug)]
pub(crate) enum Command {
    Attach(NetworkId, Tap),
    /// The sender is dropped when it is done.
    Detach(NetworkId, Sender<()>),
    /// A frame for the TAP, virtio-net header first.
    Inject(NetworkId, Vec<u8>),
    Stop,
}

pub(crate) type ToNode = Box<dyn Fn(NodeInput) -> bool + Send>;

/// What both directions use.
pub(crate) struct Context {
    pub(crate) lane: Lane,
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) captures: Arc<Captures>,
    pub(crate) bench: Arc<BenchSink>,
    pub(crate) to_node: ToNode,
}

impl Context {
    pub(crate) fn drop(&self, reason: DropReason, n: u64) {
        self.mailbox.stats.drop(reason, n);
    }

    /// Writes a frame that is not part of a flow: virtio-net header first.
    pub(crate) fn write(&self, tap: &Tap, frame: &[u8]) {
        let whole = 0..frame.len() as u32;
        match tap.write(frame, std::slice::from_ref(&whole)) {
            Ok(()) => add(&self.mailbox.stats.tap_writes, 1),
            Err(_) => self.drop(DropReason::TapRefused, 1),
        }
    }

    pub(crate) fn tell_node(&self, input: NodeInput) {
        if !(self.to_node)(input) {
            self.drop(DropReason::NodeBusy, 1);
        }
    }
}

/// The networks' TAP queues. A slot's index is its token, and is used again after a detach.
#[derive(Default)]
pub(crate) struct Taps {
    slots: Vec<Option<(NetworkId, Tap)>>,
    by_network: FastMap<NetworkId, usize>,
}

impl Taps {
    pub(crate) fn of(&self, network: NetworkId) -> Option<&Tap> {
        let slot = *self.by_network.get(&network)?;
        self.slots.get(slot)?.as_ref().map(|(_, tap)| tap)
    }

    fn at(&self, token: u64) -> Option<&(NetworkId, Tap)> {
        self.slots.get(usize::try_from(token).ok()?)?.as_ref()
    }

    fn remove(&mut self, network: NetworkId) {
        if let Some(slot) = self.by_network.remove(&network).and_then(|slot| self.slots.get_mut(slot)) {
            *slot = None;
        }
    }

    fn insert(&mut self, network: NetworkId, tap: Tap) -> usize {
        self.remove(network);
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some((network, tap));
        }
        self.by_network.insert(network, slot);
        slot
    }
}

/// What forwarding knows, as the node published it last.
pub(crate) type Snapshots = Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>;

pub(crate) struct Worker {
    context: Context,
    epoll: Epoll,
    snapshots: Snapshots,
    taps: Taps,
    egress: Egress,
    ingress: Ingress,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        socket: Arc<UdpSocket>,
        mailbox: Arc<Mailbox>,
        (captures, bench): (Arc<Captures>, Arc<BenchSink>),
        snapshots: Arc<ArcSwap<Snapshot>>,
        to_node: ToNode,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(&mailbox.wake, WAKE)?;
        epoll.add(&*socket, UDP)?;
        Ok(Self {
            context: Context { lane: Lane::of_worker(index), socket, mailbox, captures, bench, to_node },
            epoll,
            snapshots: Cache::new(snapshots),
            taps: Taps::default(),
            egress: Egress::new(),
            ingress: Ingress::new(),
        })
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::new();
        let mut awake_until = Instant::now();
        loop {
            let awake = Instant::now() < awake_until;
            if let Err(error) = self.epoll.wait(&mut events, awake.then_some(Duration::ZERO)) {
                tracing::error!(%error, "a worker cannot wait for its sockets");
                return;
            }
            if awake && events.is_empty() {
                // Whoever else wants the core gets it first.
                std::thread::yield_now();
                continue;
            }
            let mut moved = false;
            for token in events.tokens() {
                match token {
                    WAKE => {
                        if obey(&self.context, &self.epoll, &mut self.taps) {
                            return;
                        }
                        // What it held of the one before, it lets go of.
                        self.snapshots.load();
                    }
                    UDP => moved |= self.ingress.run(&self.context, &mut self.snapshots, &self.taps),
                    token => {
                        // An event of a slot that an earlier one of this batch emptied, or filled again.
                        if let Some((network, tap)) = self.taps.at(token) {
                            let snapshot = self.snapshots.load();
                            moved |= self.egress.run(&self.context, snapshot, *network, tap);
                        }
                    }
                }
            }
            if moved {
                awake_until = Instant::now() + STAY_AWAKE;
            }
        }
    }
}

/// Carries out what was told; whether the worker is to stop.
fn obey(context: &Context, epoll: &Epoll, taps: &mut Taps) -> bool {
    let mailbox = &context.mailbox;
    mailbox.wake.drain();
    let commands = std::mem::take(&mut *mailbox.commands.lock().unwrap_or_else(PoisonError::into_inner));
    for command in commands {
        match command {
            Command::Attach(network, tap) => {
                let slot = taps.insert(network, tap);
                if let Some((_, tap)) = taps.at(slot as u64)
                    && let Err(error) = epoll.add(tap, slot as u64)
                {
                    tracing::error!(%network, %error, "a worker cannot wait for a TAP");
                }
            }
            Command::Detach(network, done) => {
                taps.remove(network);
                drop(done);
            }
            Command::Inject(network, frame) => match taps.of(network) {
                Some(tap) => context.write(tap, &frame),
                None => context.drop(DropReason::UnknownNetwork, 1),
            },
            Command::Stop => return true,
        }
    }
    false
}
