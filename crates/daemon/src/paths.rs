//! What an operator asks about the ways that frames take.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use weft_api::{
    CommonNetwork, ControlError, MAX_MTU_WAIT, MtuAnswer, MtuRequest, PathKind, ProbeCounts, RouteStatus,
    SearchState,
};
use weft_dataplane::{PeerView, Snapshot, Way};
use weft_wire::{Mac, PeerId};

use crate::control::{NodeView, peer_status, view};
use crate::core::{Core, Topology};
use crate::orders::{node_stopped, refused, running};

/// How often it is looked whether a search has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Finds the peer that an operator named.
///
/// # Errors
/// Refused when it is none, or this host.
pub(crate) fn find_peer(node: &weft_node::Node, text: &str) -> Result<PeerId, ControlError> {
    let id = node.find_peer(text).map_err(|error| ControlError::Refused(error.into()))?;
    if id == node.id() { Err(refused("that is this host itself")) } else { Ok(id) }
}

pub(crate) async fn routes(core: &Core) -> Result<Vec<RouteStatus>, ControlError> {
    let running = running(core)?;
    let view = view(&running).await.ok_or_else(node_stopped)?;
    let topology = core.topology.read().await;
    Ok(routes_of(&topology, &running.node.snapshot(), &view, &core.name()))
}

fn routes_of(topology: &Topology, snapshot: &Snapshot, view: &NodeView, own_name: &str) -> Vec<RouteStatus> {
    let mut routes = Vec::new();
    for (docker_id, network) in &topology.networks {
        let Some(forwarding) = snapshot.networks.get(&network.id) else { continue };
        let mut addresses: BTreeMap<Mac, Vec<IpAddr>> = BTreeMap::new();
        for (address, neighbor) in &forwarding.hosts {
            addresses.entry(neighbor.mac).or_default().push(*address);
        }
        let mut of = |mac: Mac| {
            let mut list = addresses.remove(&mac).unwrap_or_default();
            list.sort_unstable();
            list
        };
        let local = forwarding.local.iter().map(|mac| (*mac, None));
        let remote = forwarding.fdb.iter().map(|(mac, peer)| (*mac, snapshot.peers.get(*peer)));
        let mut list: Vec<RouteStatus> = local
            .chain(remote.filter(|(_, peer)| peer.is_some()))
            .map(|(mac, peer)| {
                let way = peer.and_then(|peer| way(snapshot, peer));
                RouteStatus {
                    network: docker_id.clone(),
                    mac: mac.to_string(),
                    addresses: of(mac),
                    host: peer.map_or_else(|| own_name.to_owned(), |peer| view.name_of(peer.id)),
                    local: peer.is_none(),
                    path: way.map(|(kind, _)| kind),
                    via: way.filter(|(kind, _)| *kind == PathKind::Relay).map(|(_, to)| view.name_of(to.id)),
                    address: way.map(|(_, to)| to.remote),
                    path_mtu: peer.filter(|_| way.is_some()).map(|peer| peer.path.overlay_mtu),
                }
            })
            .collect();
        list.sort_by(|a, b| (&a.addresses, &a.mac).cmp(&(&b.addresses, &b.mac)));
        routes.extend(list);
    }
    routes
}

/// Which way a peer's frames take, and to whom they leave.
fn way<'a>(snapshot: &'a Snapshot, peer: &'a PeerView) -> Option<(PathKind, &'a PeerView)> {
    peer.send.as_ref()?;
    Some(match snapshot.way(peer)? {
        Way::Direct => (PathKind::Direct, peer),
        Way::Relay { relay, .. } => (PathKind::Relay, relay),
    })
}

pub(crate) async fn mtu(core: &Core, request: MtuRequest) -> Result<MtuAnswer, ControlError> {
    let running = running(core)?;
    let MtuRequest { peer: text, probe } = request;
    let begun = running.node.call(move |node, now| {
        let id = find_peer(node, &text)?;
        let known = node.path_mtu(id);
        let known =
            known.ok_or_else(|| refused(format!("`{text}` is known, but no peer: revoked or refused")))?;
        Ok((id, known.probes, probe && node.look_at_path(id, now)))
    });
    let (id, before, looks) = begun.await.ok_or_else(node_stopped)??;
    let deadline = Instant::now() + MAX_MTU_WAIT;
    let mut interval = tokio::time::interval(LOOK_EVERY);
    while looks && Instant::now() < deadline {
        interval.tick().await;
        if running.node.call(move |node, _| node.path_mtu_is_known(id)).await.ok_or_else(node_stopped)? {
            break;
        }
    }
    let report = running.node.call(move |node, _| node.path_mtu(id)).await.ok_or_else(node_stopped)?;
    let report = report.ok_or_else(|| refused("the peer was forgotten meanwhile"))?;
    let view = view(&running).await.ok_or_else(node_stopped)?;
    let peer = view.peers.iter().find(|peer| peer.id == Some(id));
    let common: Vec<_> = peer.map(|peer| peer.networks.clone()).unwrap_or_default();
    let status = peer.map(|peer| peer_status(peer, &view, core.settings.port));
    let networks = {
        let topology = core.topology.read().await;
        let common = topology.networks.values().filter(|network| common.contains(&network.id));
        common
            .filter_map(|n| Some(CommonNetwork { id: n.record.network.network_id.clone(), mtu: n.up? }))
            .collect()
    };
    let counts = |counts: weft_node::ProbeCounts| ProbeCounts {
        sent: counts.sent,
        answered: counts.answered,
        lost: counts.lost,
    };
    let (all, earlier) = (counts(report.probes), counts(before));
    Ok(MtuAnswer {
        id: id.to_string(),
        name: status.as_ref().and_then(|peer| peer.name.clone()).unwrap_or_default(),
        path: status.as_ref().and_then(|peer| peer.path),
        via: status.and_then(|peer| peer.via),
        address: report.remote,
        state: match report.state {
            weft_node::SearchState::Disabled => SearchState::Disabled,
            weft_node::SearchState::Base => SearchState::Base,
            weft_node::SearchState::Searching => SearchState::Searching,
            weft_node::SearchState::Complete => SearchState::SearchComplete,
            weft_node::SearchState::Error => SearchState::Error,
        },
        path_mtu: report.passes,
        underlay_mtu: report.overhead.map(|overhead| report.passes + overhead),
        overhead: report.overhead,
        base: report.base,
        ceiling: report.ceiling,
        failed: report.failed,
        waiting: report.waiting,
        probes: all,
        now: ProbeCounts {
            sent: all.sent - earlier.sent,
            answered: all.answered - earlier.answered,
            lost: all.lost - earlier.lost,
        },
        networks,
        max_overlay_mtu: core.max_overlay_mtu().await.ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use weft_dataplane::{PathView, PeerCounters};
    use weft_noise::{SendSession, Suite};

    fn peer(n: u8, remote: &str, relay: Option<usize>, has_session: bool) -> PeerView {
        let session = || Arc::new(SendSession::new(Suite::auto(), &[n; 32], u32::from(n)));
        PeerView {
            id: PeerId([n; 16]),
            remote: remote.parse().unwrap(),
            send: has_session.then(session),
            counters: Arc::new(PeerCounters::default()),
            path: PathView::UNLIMITED,
            relay,
        }
    }

    #[test]
    fn frames_go_directly_over_a_relay_or_nowhere() {
        let (direct, inside) = ("10.0.0.2:6783", "[fd00::]:0");
        let snapshot = Snapshot {
            peers: vec![
                peer(1, direct, None, true),
                peer(2, inside, Some(0), true),
                peer(3, inside, Some(4), true),
                peer(4, inside, None, true),
                peer(5, direct, None, false),
            ],
            ..Snapshot::default()
        };
        let way = |i: usize| way(&snapshot, &snapshot.peers[i]).map(|(kind, to)| (kind, to.id.0[0]));
        assert_eq!(way(0), Some((PathKind::Direct, 1)));
        assert_eq!(way(1), Some((PathKind::Relay, 1)));
        assert_eq!(
            (way(2), way(3), way(4)),
            (None, None, None),
            "no session with the relay, none, none itself"
        );
    }
}
