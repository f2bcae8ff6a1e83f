//! What a worker knows when a datagram comes.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use weft_dataplane::{DropReason, PathView, PeerView, SessionActivity, SessionView, Snapshot};
use weft_noise::{RecvSession, SendSession, Suite};
use weft_router::{NodeInput, Router, RouterConfig};
use weft_wire::{HEADER_LEN, Header, InnerHeader, InnerKind, Lane, MessageType, NetworkId, PeerId};
use weft_wire::{ReceiverIndex, TAG_LEN};

const KEY: [u8; 32] = [7; 32];
const SESSION: u32 = 5;

fn snapshot(activity: &Arc<SessionActivity>) -> Snapshot {
    let peer = PeerView {
        id: PeerId([1; 16]),
        remote: (Ipv4Addr::LOCALHOST, 9).into(),
        send: None,
        counters: Arc::default(),
        path: PathView::UNLIMITED,
        relay: None,
    };
    let recv = Arc::new(RecvSession::new(Suite::ChaCha20Poly1305, &KEY));
    let session = SessionView { peer: 0, recv, activity: Arc::clone(activity) };
    Snapshot {
        peers: vec![peer],
        sessions: [(SESSION, session)].into_iter().collect(),
        ..Snapshot::default()
    }
}

fn keepalive() -> Vec<u8> {
    let send = SendSession::new(Suite::ChaCha20Poly1305, &KEY, SESSION);
    let inner = InnerHeader { kind: InnerKind::Keepalive, ttl: 0, network: NetworkId::from_u48(0) };
    let mut datagram = [&[0; HEADER_LEN][..], &inner.to_bytes(), &[0; TAG_LEN]].concat();
    let counter = send.reserve(Lane::CONTROL, 1).unwrap();
    send.seal(Lane::CONTROL, counter, &mut datagram);
    datagram
}

/// As at the end of a handshake: the node publishes the session while the worker is still at the datagram before, and the
/// peer uses it at once.
#[test]
fn a_session_counts_for_the_datagram_after_its_publication() {
    let activity = Arc::new(SessionActivity::default());
    let snapshots = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let both_sent = Arc::new(Barrier::new(2));
    let (published, wait) = (Arc::clone(&snapshots), Arc::clone(&both_sent));
    let (told, shown) = (Arc::clone(&activity), Arc::clone(&activity));
    let to_node = move |input: NodeInput| {
        if matches!(input, NodeInput::Handshake { .. }) {
            wait.wait();
            published.store(Arc::new(snapshot(&told)));
        }
        true
    };
    let config = RouterConfig { n_workers: Some(1), address: Ipv4Addr::LOCALHOST.into(), port: 0 };
    let router = Router::start(config, snapshots, to_node).unwrap();
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    peer.connect(router.local_addr().unwrap()).unwrap();
    let init = Header { message: MessageType::Init, receiver: ReceiverIndex(0), counter: 0 };
    peer.send(&init.to_bytes()).unwrap();
    peer.send(&keepalive()).unwrap();
    both_sent.wait();
    let deadline = Instant::now() + Duration::from_secs(20);
    while shown.n_received.load(Ordering::Relaxed) == 0 {
        assert_eq!(router.stats().dropped(DropReason::UnknownSession), 0);
        assert!(Instant::now() < deadline, "the second datagram did not come");
        std::thread::yield_now();
    }
}

/// It holds keys of sessions that may have ended.
#[test]
fn an_idle_worker_lets_go_of_the_snapshot_before() {
    let first = Arc::new(snapshot(&Arc::default()));
    let (snapshots, held) = (Arc::new(ArcSwap::new(Arc::clone(&first))), Arc::downgrade(&first));
    drop(first);
    let config = RouterConfig { n_workers: Some(2), address: Ipv4Addr::LOCALHOST.into(), port: 0 };
    let router = Router::start(config, snapshots, |_| true).unwrap();
    assert!(held.upgrade().is_some());
    router.publish(Arc::new(Snapshot::default()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while held.upgrade().is_some() {
        assert!(Instant::now() < deadline, "a worker holds on to it");
        std::thread::yield_now();
    }
}
