//! The task that owns the node: feeds it the router's input, the time and what the daemon asks, and carries out what it
//! decides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};
use weft_dataplane::Snapshot;
use weft_node::{Event, Node};
use weft_router::{NodeInput, Router};

use crate::store::{Store, StoredPeer};

/// Inputs of the router that may wait for the node; more are dropped, and sent again by their peers.
const MAX_WAITING: usize = 4096;
/// Inputs handled before their effects are carried out.
const BATCH: usize = 64;

type Call = Box<dyn FnOnce(&mut Node, Instant) + Send>;

enum Input {
    Router(NodeInput),
    Call(Call),
}

/// The router's end of the queue to the node.
#[derive(Clone)]
pub(crate) struct Inlet {
    sender: mpsc::Sender<Input>,
}

impl Inlet {
    /// Hands over an input; `false` when the queue is full.
    pub(crate) fn offer(&self, input: NodeInput) -> bool {
        self.sender.try_send(Input::Router(input)).is_ok()
    }
}

/// Where the node's inputs wait until its task runs.
pub(crate) struct Queue {
    sender: mpsc::Sender<Input>,
    receiver: mpsc::Receiver<Input>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        Self { sender, receiver }
    }

    pub(crate) fn inlet(&self) -> Inlet {
        Inlet { sender: self.sender.clone() }
    }
}

/// Speaks to the node from any task.
#[derive(Clone)]
pub(crate) struct NodeHandle {
    sender: mpsc::Sender<Input>,
}

impl NodeHandle {
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
        self.sender.send(Input::Call(call)).await.ok()?;
        receiver.await.ok()
    }
}

/// Starts the task. It ends when the handle and the router's inlet are gone.
pub(crate) fn spawn(
    node: Node,
    queue: Queue,
    router: Arc<Router>,
    snapshots: Arc<ArcSwap<Snapshot>>,
    store: Arc<Store>,
) -> NodeHandle {
    let Queue { sender, receiver } = queue;
    tokio::spawn(run(node, receiver, router, snapshots, store));
    NodeHandle { sender }
}

async fn run(
    mut node: Node,
    mut inputs: mpsc::Receiver<Input>,
    router: Arc<Router>,
    snapshots: Arc<ArcSwap<Snapshot>>,
    store: Arc<Store>,
) {
    loop {
        let (deadline, _) = node.poll_timeout();
        tokio::select! {
            input = inputs.recv() => {
                let Some(input) = input else { return };
                feed(&mut node, input);
                for _ in 1..BATCH {
                    let Ok(input) = inputs.try_recv() else { break };
                    feed(&mut node, input);
                }
            }
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
        let now = Instant::now();
        if now >= node.poll_timeout().0 {
            node.handle_timeout(now, &mut rand::rng());
        }
        if let Some(snapshot) = node.take_snapshot(now) {
            snapshots.store(snapshot);
        }
        while let Some(transmit) = node.poll_transmit() {
            if let Err(error) = router.send(transmit.to, &transmit.datagram) {
                debug!(to = %transmit.to, %error, "datagram not sent");
            }
        }
        while let Some(event) = node.poll_event() {
            report(event, &store).await;
        }
    }
}

fn feed(node: &mut Node, input: Input) {
    let now = Instant::now();
    match input {
        Input::Call(call) => call(node, now),
        Input::Router(NodeInput::Handshake { from, bytes }) => {
            node.handle_handshake(from, &bytes, now, &mut rand::rng());
        }
        Input::Router(NodeInput::Control { session, bytes, .. }) => {
            node.handle_control(session, &bytes, now);
        }
        Input::Router(NodeInput::FirstRx { session }) => node.handle_first_datagram(session, now),
        Input::Router(NodeInput::Roamed { session, from }) => node.handle_roamed(session, from),
        Input::Router(other) => debug!(?other, "not of the node's concern"),
    }
}

async fn report(event: Event, store: &Arc<Store>) {
    match event {
        Event::PeerUp(peer) => {
            info!(peer = %peer.name, id = %peer.id, address = %peer.address, "peer up");
            remember(store, peer).await;
        }
        Event::PeerMoved(peer) => {
            info!(peer = %peer.name, id = %peer.id, address = %peer.address, "peer moved");
            remember(store, peer).await;
        }
        Event::PeerDown { id, name } => warn!(peer = %name, %id, "peer down: no answer"),
        Event::DuplicateMac { network, mac, keeper, loser } => {
            warn!(%network, %mac, %keeper, %loser, "two hosts announce one Ethernet address");
        }
        other => info!(?other, "node event"),
    }
}

/// Writes a peer to the disk, so that it is contacted after a restart.
async fn remember(store: &Arc<Store>, peer: weft_node::KnownPeer) {
    let store = Arc::clone(store);
    let name = peer.name.clone();
    let written = tokio::task::spawn_blocking(move || {
        let address: SocketAddr = peer.address;
        store.put_peer(peer.id, &StoredPeer { name: peer.name, address })
    })
    .await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(peer = %name, %error, "peer not remembered on disk"),
        Err(error) => warn!(peer = %name, %error, "peer not remembered on disk"),
    }
}
