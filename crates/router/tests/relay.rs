//! Two hosts that do not reach each other, and a third that hands on between them.
//!
//! The third is the router in the middle of the bed, which no longer forwards.

#[path = "bed/bed.rs"]
mod bed;
#[path = "bed/traffic.rs"]
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use arc_swap::ArcSwap;
use bed::{Bed, PORT, Plan, eventually, inner_v4, inner_v6};
use traffic::{noise, tcp_echo, udp};
use weft_dataplane::{DropReason, PathView, PeerView, SessionView, Snapshot};
use weft_noise::{RecvSession, SendSession, Suite};
use weft_router::{Router, RouterConfig};
use weft_wire::{HEADER_LEN, InnerHeader, InnerKind, Lane, NetworkId, PeerId, TAG_LEN};

const RELAY: PeerId = PeerId([9; 16]);
const RELAY_AT: &str = "192.0.2.3";

fn host(i: usize) -> PeerId {
    PeerId([i as u8; 16])
}

/// Between a host and the relay: `to_relay` says in which direction.
fn key(i: usize, to_relay: bool) -> [u8; 32] {
    [0x50 + i as u8 * 2 + u8::from(to_relay); 32]
}

struct Trio {
    bed: Bed,
    relay: Router,
    /// From each host to the relay.
    sessions: [Arc<SendSession>; 2],
}

fn peer(id: PeerId, remote: SocketAddr, send: &Arc<SendSession>) -> PeerView {
    PeerView {
        id,
        remote,
        send: Some(Arc::clone(send)),
        counters: Arc::default(),
        path: PathView::UNLIMITED,
        relay: None,
    }
}

fn session(suite: Suite, key: [u8; 32], peer: usize) -> SessionView {
    SessionView { peer, recv: Arc::new(RecvSession::new(suite, &key)), activity: Arc::default() }
}

impl Trio {
    fn new() -> Result<Self> {
        let plan = Plan { black_hole: Some([1500; 2]), ..Plan::default() };
        let (bed, suite) = (Bed::new(plan)?, plan.suite);
        bed.exec(
            "m",
            "nft add chain ip silent forward { type filter hook forward priority 0; policy drop; }",
        )?;
        bed.exec("m", "ip link set lo up")?;
        bed.exec("m", &format!("ip addr add {RELAY_AT}/32 dev lo"))?;
        let at: SocketAddr = format!("{RELAY_AT}:{PORT}").parse()?;
        let sessions = [0, 1].map(|i| Arc::new(SendSession::new(suite, &key(i, true), 200 + i as u32)));
        for (i, to_relay) in sessions.iter().enumerate() {
            bed.exec(&format!("h{i}"), &format!("ip route add {RELAY_AT} dev eth0"))?;
            bed.publish(i, |snapshot| {
                let other = &mut snapshot.peers[0];
                other.remote = host(1 - i).relayed_address();
                other.relay = Some(1);
                other.path = PathView { overlay_mtu: 1362, limited: true };
                snapshot.peers.push(peer(RELAY, at, to_relay));
                snapshot.sessions.insert(300 + i as u32, session(suite, key(i, false), 1));
            });
        }
        let back = [0, 1].map(|i| Arc::new(SendSession::new(suite, &key(i, false), 300 + i as u32)));
        let snapshot = Snapshot {
            peers: (0..2).map(|i| peer(host(i), bed.underlay(i), &back[i])).collect(),
            sessions: (0..2).map(|i| (200 + i as u32, session(suite, key(i, true), i))).collect(),
            served: (0..2).map(|i| (host(i), i)).collect(),
            ..Snapshot::default()
        };
        let config = RouterConfig { n_workers: Some(2), port: PORT, ..RouterConfig::default() };
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let relay = bed.in_ns("m", || Router::start(config, snapshot, |_| true))??;
        Ok(Self { bed, relay, sessions })
    }

    /// Seals for the relay what it is to hand on from host 0, or anything else.
    fn sealed(&self, kind: InnerKind, ttl: u8, payload: &[u8]) -> Result<Vec<u8>> {
        seal(&self.sessions[0], kind, ttl, payload)
    }
}

fn seal(session: &SendSession, kind: InnerKind, ttl: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let inner = InnerHeader { kind, ttl, network: NetworkId::from_u48(0) }.to_bytes();
    let mut datagram = [&[0; HEADER_LEN][..], &inner, payload, &[0; TAG_LEN]].concat();
    let counter = session.reserve(Lane::CONTROL, 1)?;
    session.seal(Lane::CONTROL, counter, &mut datagram);
    Ok(datagram)
}

#[test]
#[ignore = "needs root"]
fn everything_passes_and_the_relay_opens_none_of_it() -> Result<()> {
    let trio = Trio::new()?;
    let bed = &trio.bed;
    for (ip, headers_len) in [(inner_v4(1, "w"), 28), (inner_v6(1, "w"), 48)] {
        tcp_echo(bed, &ip, &noise(5_000_000, 3))?;
        // The first one teaches the sender that there is less room.
        bed.exec("c0", &format!("ping -q -i 0.05 -c 3 -W 2 -s {} {ip}", 1418 - headers_len))?;
        bed.exec("c0", &format!("ping -q -i 0.05 -c 3 -W 2 -s 10000 {ip}"))?;
    }
    let lens = || (0..1400).step_by(37).chain([4000, 60_000]);
    udp(bed, &inner_v4(0, "w"), &inner_v4(1, "w"), lens())?;
    udp(bed, &inner_v6(0, "w"), &inner_v6(1, "w"), lens())?;
    let stats = trio.relay.stats();
    ensure!(stats.handed_on > 5000, "{stats:?}");
    ensure!(stats.datagrams_received == stats.handed_on && stats.tap_writes == 0, "{stats:?}");
    ensure!(stats.datagrams_received > 2 * stats.trains_received, "no trains: {stats:?}");
    for reason in [DropReason::TooLong, DropReason::RelayUnknown, DropReason::RelayLimited] {
        ensure!(stats.dropped(reason) == 0, "{stats:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn without_a_relay_nothing_leaves() -> Result<()> {
    let trio = Trio::new()?;
    trio.bed.publish(0, |snapshot| {
        snapshot.peers[0].remote = host(1).relayed_address();
    });
    ensure!(trio.bed.exec("c0", &format!("ping -q -c 1 -W 1 {}", inner_v4(1, "w"))).is_err());
    ensure!(trio.bed.router(0).stats().dropped(DropReason::NoRelay) > 0);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_was_handed_on_is_not_handed_on_again() -> Result<()> {
    let trio = Trio::new()?;
    let at: SocketAddr = format!("{RELAY_AT}:{PORT}").parse()?;
    let handed_on = || trio.relay.stats().handed_on;
    let send = |datagram: &[u8]| trio.bed.router(0).send(at, datagram);
    let to = |id: PeerId, inside: &[u8]| [&id.0[..], inside].concat();

    // For host 1 to hand on to host 0, and so on: it came over a relay, and ends there.
    let inner = seal(&trio.bed.sessions[0], InnerKind::Relay, 1, &to(host(0), &[5; 40]))?;
    let bad = || trio.bed.router(1).stats().dropped(DropReason::BadInner);
    let (before, n_bad) = (handed_on(), bad());
    send(&trio.sealed(InnerKind::Relay, 1, &to(host(1), &inner))?)?;
    eventually("the end of a chain", || Ok(bad() == n_bad + 1))?;
    ensure!(handed_on() == before + 1);

    // As if it had been handed on before.
    let refused = |reason| trio.relay.stats().dropped(reason);
    let cases = [
        (InnerKind::Relay, 0, to(host(1), &[5; 40]), DropReason::BadInner),
        (InnerKind::Relay, 1, to(host(0), &[5; 40]), DropReason::RelayUnknown),
        (InnerKind::Relay, 1, to(RELAY, &[5; 40]), DropReason::RelayUnknown),
        (InnerKind::Relay, 1, to(PeerId([77; 16]), &[5; 40]), DropReason::RelayUnknown),
        (InnerKind::Relay, 1, to(host(1), &[5; 15]), DropReason::BadInner),
        (InnerKind::Relayed, 1, to(host(1), &[5; 15]), DropReason::BadInner),
        (InnerKind::Relayed, 0, to(host(1), &[5; 40]), DropReason::Malformed),
    ];
    let before = handed_on();
    for (kind, ttl, payload, reason) in cases {
        let n = refused(reason);
        send(&trio.sealed(kind, ttl, &payload)?)?;
        eventually(reason.name(), || Ok(refused(reason) == n + 1))?;
    }
    ensure!(handed_on() == before, "something was handed on");
    Ok(())
}
