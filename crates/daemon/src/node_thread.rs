//! The thread that owns the node: feeds it the router's input, the time and what the daemon asks, and carries out what it
//! decides.
//!
//! It is a thread of its own for two reasons. What else the daemon does, some of which waits for the kernel, does not make
//! peers wait for an answer. And a message wakes one thread: threads that share their tasks wake each other, too. It has no
//! runtime: all that it waits for is its queue and the next of the node's times.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot, watch};
use tracing::{debug, info, warn};
use weft_dataplane::Snapshot;
use weft_node::{Event, Node, ServiceView};
use weft_router::{NodeInput, Router};

use crate::store::{Changes, Store};

/// Inputs of the router that may wait for the node; more are dropped, and sent again by their peers.
const MAX_WAITING: usize = 4096;
/// Events that a slow listener may be behind.
const MAX_EVENTS: usize = 256;
/// Inputs handled before their effects are carried out.
const BATCH: usize = 64;
/// Writes that may wait for the disk; beyond that the node waits, too.
const MAX_WRITES: usize = 1024;

type Call = Box<dyn FnOnce(&mut Node, Instant) + Send>;

enum Input {
    Router(NodeInput),
    Call(Call),
    Stop,
}

/// The router's end of the queue to the node.
#[derive(Clone)]
pub(crate) struct Inlet {
    sender: mpsc::Sender<Input>,
    n_waiting: Arc<AtomicUsize>,
}

impl Inlet {
    /// Hands over an input; `false` when the queue is full.
    pub(crate) fn offer(&self, input: NodeInput) -> bool {
        if self.n_waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.n_waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.sender.send(Input::Router(input)).is_ok()
    }
}

/// Where the node's inputs wait until its thread runs. The router's are counted; of others there are no more than callers,
/// each of which waits.
pub(crate) struct Queue {
    sender: mpsc::Sender<Input>,
    receiver: mpsc::Receiver<Input>,
    n_waiting: Arc<AtomicUsize>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver, n_waiting: Arc::default() }
    }

    pub(crate) fn inlet(&self) -> Inlet {
        Inlet { sender: self.sender.clone(), n_waiting: Arc::clone(&self.n_waiting) }
    }
}

/// Speaks to the node from any task.
#[derive(Clone)]
pub(crate) struct NodeHandle {
    sender: mpsc::Sender<Input>,
    events: broadcast::Sender<Event>,
    counts: Arc<EventCounts>,
    services: watch::Receiver<Arc<ServiceView>>,
    snapshots: Arc<ArcSwap<Snapshot>>,
}

/// The node's events since its start, by kind.
#[derive(Default)]
pub(crate) struct EventCounts([AtomicU64; EventCounts::NAMES.len()]);

impl EventCounts {
    /// In the order of their counters.
    const NAMES: [&str; 8] = [
        "peers_up",
        "peers_down",
        "paths_lost",
        "paths_regained",
        "peers_moved",
        "peers_refused",
        "addresses_duplicate",
        "keys_duplicate",
    ];

    fn count(&self, event: &Event) {
        let place = match event {
            Event::PeerUp { .. } => 0,
            Event::PeerDown { .. } => 1,
            Event::PathChanged { direct: false, .. } => 2,
            Event::PathChanged { direct: true, .. } => 3,
            Event::PeerMoved(_) => 4,
            Event::Refused(_) => 5,
            Event::DuplicateAddress { .. } => 6,
            Event::SameKeyTwice { .. } => 7,
            _ => return,
        };
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::NAMES.into_iter().zip(self.0.iter().map(|n| n.load(Ordering::Relaxed)))
    }
}

impl NodeHandle {
    /// The services on this host's networks, and their changes from now on.
    pub(crate) fn services(&self) -> watch::Receiver<Arc<ServiceView>> {
        self.services.clone()
    }

    /// What forwarding knows at this moment.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.load_full()
    }

    /// The node's events from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// What was counted of them since the start.
    pub(crate) fn counts(&self) -> &EventCounts {
        &self.counts
    }

    /// Ends the thread, which lets go of the router.
    pub(crate) fn stop(&self) {
        // It may have ended.
        let _ = self.sender.send(Input::Stop);
    }

    /// Runs `f` on the node, and waits for its result; `None` when the node has stopped.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Node, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let call: Call = Box::new(move |node, now| {
            // The caller may have gone; then its answer is of no use.
            let _ = sender.send(f(node, now));
        });
        self.sender.send(Input::Call(call)).ok()?;
        receiver.await.ok()
    }
}

/// Starts the thread. It ends when it is told to, or when the handle and the router's inlet are gone; then the receiver has
/// its word, or an error if it panicked. Must be called within a tokio runtime, which writes what the node has to keep.
pub(crate) fn spawn(
    node: Node,
    queue: Queue,
    router: Arc<Router>,
    snapshots: Arc<ArcSwap<Snapshot>>,
    store: Arc<Store>,
) -> io::Result<(NodeHandle, oneshot::Receiver<()>)> {
    let Queue { sender, receiver, n_waiting } = queue;
    let (events, _) = broadcast::channel(MAX_EVENTS);
    let counts = Arc::new(EventCounts::default());
    let (view, services) = watch::channel(Arc::clone(node.services()));
    let (keeper, writes) = tokio::sync::mpsc::channel(MAX_WRITES);
    let outlets = Outlets { events: events.clone(), counts: Arc::clone(&counts), services: view, keeper };
    let runtime = Handle::current();
    let (end, ended) = oneshot::channel();
    let work = move || {
        let writing = runtime.spawn(write_all(store, writes));
        drive(node, &receiver, &n_waiting, &router, outlets);
        // Who waits for this thread's end may bind the port again once it has let go of the router, too, and finds on the disk
        // what the node had to keep.
        drop(router);
        if let Err(error) = runtime.block_on(writing) {
            warn!(%error, "the task that writes to the disk ended badly");
        }
        // The daemon may have given up waiting.
        let _ = end.send(());
    };
    std::thread::Builder::new().name("node".to_owned()).spawn(work)?;
    Ok((NodeHandle { sender, events, counts, services, snapshots }, ended))
}

/// Where others see what the node has come to.
struct Outlets {
    events: broadcast::Sender<Event>,
    counts: Arc<EventCounts>,
    services: watch::Sender<Arc<ServiceView>>,
    keeper: Keeper,
}

fn drive(
    mut node: Node,
    inputs: &mpsc::Receiver<Input>,
    n_waiting: &AtomicUsize,
    router: &Router,
    outlets: Outlets,
) {
    let mut incarnation = node.incarnation();
    let mut now = Instant::now();
    loop {
        let (deadline, _) = node.poll_timeout();
        let first = match inputs.recv_timeout(deadline.saturating_duration_since(now)) {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        now = Instant::now();
        // When the time is up, what came meanwhile is taken before it is looked whether all is as it should be.
        for input in first.into_iter().chain(inputs.try_iter()).take(BATCH) {
            if matches!(input, Input::Router(_)) {
                n_waiting.fetch_sub(1, Ordering::Relaxed);
            }
            if !feed(&mut node, input, now) {
                return;
            }
        }
        if node.is_due(now) {
            node.handle_timeout(now, &mut rand::rng());
        }
        if let Some(snapshot) = node.take_snapshot() {
            router.publish(snapshot);
        }
        if let Some(services) = node.take_services() {
            outlets.services.send_replace(services);
        }
        while let Some(transmit) = node.poll_transmit() {
            if let Err(error) = router.send(transmit.to, &transmit.datagram) {
                debug!(to = %transmit.to, %error, "datagram not sent");
            }
        }
        while let Some(query) = node.poll_query() {
            router.inject(query.network, &query.frame);
        }
        while let Some(event) = node.poll_event() {
            report(&event, &outlets.keeper);
            outlets.counts.count(&event);
            // Nobody may be listening.
            let _ = outlets.events.send(event);
        }
        if node.incarnation() != incarnation {
            incarnation = node.incarnation();
            write(&outlets.keeper, "number of this run", Changes::default().set_incarnation(incarnation));
        }
    }
}

/// Whether to go on.
fn feed(node: &mut Node, input: Input, now: Instant) -> bool {
    match input {
        Input::Stop => return false,
        Input::Call(call) => call(node, now),
        Input::Router(NodeInput::Handshake { from, bytes }) => {
            node.handle_handshake(from, &bytes, now, &mut rand::rng());
        }
        Input::Router(NodeInput::Control { session, bytes, .. }) => {
            node.handle_control(session, &bytes, now);
        }
        Input::Router(NodeInput::FirstRx { session }) => node.handle_first_datagram(session, now),
        Input::Router(NodeInput::Roamed { session, from }) => node.handle_roamed(session, from),
        Input::Router(NodeInput::MessageTooLong { peer, frame_len }) => {
            node.handle_too_long(peer, frame_len, now);
        }
        Input::Router(NodeInput::GroupReport { network, mac, bytes }) => {
            node.handle_group_report(network, mac, &bytes, now);
        }
        Input::Router(other) => debug!(?other, "not of the node's concern"),
    }
    true
}

fn report(event: &Event, keeper: &Keeper) {
    match event.clone() {
        Event::PeerUp { id, name } => info!(peer = %name, %id, "peer up"),
        Event::PeerDown { id, name } => warn!(peer = %name, %id, "peer down: nobody hears it"),
        Event::PeerMoved(peer) => {
            info!(peer = %peer.name, id = %peer.id, address = %peer.address, "peer reached at another address or name");
            write(keeper, "peer", Changes::default().put_peer(peer));
        }
        Event::PathChanged { id, name, direct: true } => {
            info!(peer = %name, %id, "peer answers directly again")
        }
        Event::PathChanged { id, name, .. } => {
            warn!(peer = %name, %id, "peer is alive, but does not answer directly: is its UDP port open to this host?");
        }
        Event::DuplicateAddress { network, address, keeper, loser } => {
            warn!(%network, ?address, %keeper, %loser, "two hosts announce one address; the keeper gets its frames");
        }
        Event::SameKeyTwice { peer, names } => {
            warn!(id = %peer, ?names, "two hosts run with one key: copies of a machine? Remove the state directory of one of them");
        }
        Event::Refused(peer) => {
            warn!(peer = %peer.name, id = %peer.id, address = %peer.address, reason = ?peer.reason, "peer not admitted");
        }
        Event::Judged(verdict) => {
            let judgement = verdict.judgement;
            warn!(peer = %verdict.name, id = %verdict.peer, ?judgement, by = %verdict.by, "decision about a peer");
            write(keeper, "decision about a peer", Changes::default().put_verdict(&verdict));
        }
        Event::TokenUsed(peer) => {
            info!(peer = %peer.name, id = %peer.id, address = %peer.address, "a host joined by a token");
        }
        Event::Welcome(secret) => {
            info!(fingerprint = %secret.fingerprint(), "joined: the cluster secret was received");
            write(keeper, "secret", Changes::default().set_secrets(&[secret]));
        }
        Event::Echoed { .. } | Event::Bench { .. } => {}
        other => info!(?other, "node event"),
    }
}

/// Something to be kept, and what it is.
type Write = (&'static str, Changes);
type Keeper = tokio::sync::mpsc::Sender<Write>;

/// Hands a write to [`write_all`]. The node does not wait for the disk, which may take long: its peers, which ask whether
/// it lives, do not either.
fn write(keeper: &Keeper, what: &'static str, changes: Changes) {
    if keeper.blocking_send((what, changes)).is_err() {
        warn!("{what} not kept on disk");
    }
}

/// Writes to the disk in the order that it was told; what fails is said, and known until the daemon ends.
async fn write_all(store: Arc<Store>, mut writes: tokio::sync::mpsc::Receiver<Write>) {
    while let Some((what, changes)) = writes.recv().await {
        if let Err(error) = store.write(changes).await {
            warn!(%error, "{what} not kept on disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use weft_node::{Admission, NodeConfig};
    use weft_noise::{ClusterSecret, Suite};
    use weft_router::RouterConfig;

    use super::*;

    fn node(store: &Store) -> Node {
        let mut rng = StdRng::seed_from_u64(1);
        let config = NodeConfig {
            key: store.identity().unwrap(),
            name: "host".to_owned(),
            secrets: vec![ClusterSecret::generate(&mut rng)],
            joining: false,
            suite: Suite::auto(),
            incarnation: 1,
            addresses: Vec::new(),
            known: Vec::new(),
            admission: Admission::Secret,
            verdicts: Vec::new(),
            rekey_after: Duration::from_secs(120),
        };
        Node::new(config, Instant::now(), &mut rng).unwrap()
    }

    /// A host that has joined by a token starts with the cluster's secret at once, on the same port, which must be free.
    #[tokio::test]
    async fn the_thread_has_let_go_of_the_router_when_it_says_that_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        for _ in 0..1000 {
            let snapshots = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
            let queue = Queue::new();
            let inlet = queue.inlet();
            let config = RouterConfig { n_workers: Some(1), address: Ipv4Addr::LOCALHOST.into(), port: 0 };
            let router =
                Router::start(config, Arc::clone(&snapshots), move |input| inlet.offer(input)).unwrap();
            let router = Arc::new(router);
            let (handle, ended) =
                spawn(node(&store), queue, Arc::clone(&router), snapshots, Arc::clone(&store)).unwrap();
            handle.stop();
            ended.await.unwrap();
            assert_eq!(Arc::strong_count(&router), 1);
        }
    }
}
