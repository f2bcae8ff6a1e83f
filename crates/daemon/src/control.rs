//! Answers the command line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::info;
use weft_api::{
    BenchRequest, CHECK_DOCKER, CHECK_FIREWALL, CHECK_GUARD, CHECK_HTTP, CHECK_STATE, CaptureRequest,
    CheckStatus, Control, ControlError, DuplicateStatus, EndCapture, EndpointStatus, JudgedStatus, MtuAnswer,
    MtuRequest, NetworkStatus, Order, OrderAnswer, PathKind, PeerState, PeerStatus, Pieces, PingAnswer,
    PingRequest, RefusedStatus, RouteStatus, Secret, SecretAnswer, SecretRequest, ServiceStatus, Status,
    TrafficStatus,
};
use weft_netlink::{LinkTraffic, names};
use weft_node::{
    Duplicate, Judgement, NodeCounts, PathState, PeerReport, Refusal, RefusedPeer, RemoteEndpoint,
    ServiceSource, ServiceView, Verdict,
};
use weft_noise::ClusterSecret;
use weft_wire::{NetworkId, PeerId};

use crate::core::{Core, Running, Topology};
use crate::run::{has_secret_file, secrets};
use crate::store::Changes;

/// What can be wrong with a peer that does not answer. Strangers get no answer, so it cannot be known which it is.
fn no_answer(port: u16) -> String {
    format!(
        "does not answer: check that weft runs there, that UDP port {port} is open both ways, and that both hosts have \
         the same cluster secret and SUITE"
    )
}

/// Whose datagrams came within this time is heard, whatever becomes of what is sent to it.
const HEARD_LATELY: Duration = Duration::from_secs(5);

/// The daemon's side of the control API.
pub(crate) struct Controls(pub(crate) Arc<Core>);

/// What the node says, taken in one go.
pub(crate) struct NodeView {
    id: PeerId,
    pub(crate) peers: Vec<PeerReport>,
    duplicates: Vec<Duplicate>,
    counts: NodeCounts,
    remote: Vec<RemoteEndpoint>,
    refused: Vec<RefusedPeer>,
    verdicts: Vec<Verdict>,
    services: Arc<ServiceView>,
    same_keys: Vec<(PeerId, Vec<String>)>,
}

impl NodeView {
    pub(crate) fn name_of(&self, id: PeerId) -> String {
        let known = self.peers.iter().find(|p| p.id == Some(id)).map(|p| p.name.clone());
        known.filter(|name| !name.is_empty()).unwrap_or_else(|| id.to_string())
    }

    fn name_or_here(&self, id: PeerId) -> String {
        if id == self.id { "this host".to_owned() } else { self.name_of(id) }
    }
}

impl Control for Controls {
    async fn status(&self) -> Status {
        let core = &self.0;
        let running = core.running.load_full();
        let view = match &running {
            Some(running) => view(running).await,
            None => None,
        };
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: core.name(),
            peer_id: view.as_ref().map(|v| v.id.to_string()).unwrap_or_default(),
            listen: running.iter().filter_map(|r| r.router.local_addr().ok()).collect(),
            suite: core.settings.suite.to_string(),
            secret_fingerprint: running.as_ref().map(|r| r.fingerprint.clone()),
            ready: running.is_some(),
            faults: core
                .faults()
                .into_iter()
                .chain(core.firewall_fault.get())
                .chain(core.guard_fault.get())
                .chain(core.http_fault.get())
                .chain(core.store.fault())
                .collect(),
            http: core.http_at.get().copied(),
            max_overlay_mtu: core.max_overlay_mtu().await.ok(),
            checks: checks(core, running.is_some()),
            ..Status::default()
        };
        if let Some(running) = &running {
            let stats = running.router.stats();
            status.drops = stats.drops.iter().map(|(reason, n)| (reason.name().to_owned(), *n)).collect();
            status.counters = counters(&stats);
            let events = running.node.counts().all().map(|(name, n)| (name.to_owned(), n));
            status.counters.extend(events);
        }
        if let Ok(drops) = core.links.guard_drops().await {
            let mut add = |name: &str, n: u64| *status.drops.entry(name.to_owned()).or_default() += n;
            for (_, drops) in drops {
                add("container_mac", drops.mac);
                add("container_arp", drops.arp);
                add("container_ip", drops.ip);
                add("container_other", drops.other);
            }
        }
        let traffic: BTreeMap<NetworkId, LinkTraffic> =
            core.links.traffic().await.unwrap_or_default().into_iter().collect();
        let topology = core.topology.read().await;
        let Some(view) = view else {
            let nothing = NodeView {
                id: PeerId([0; 16]),
                duplicates: Vec::new(),
                counts: NodeCounts::default(),
                peers: Vec::new(),
                remote: Vec::new(),
                refused: Vec::new(),
                verdicts: Vec::new(),
                services: Arc::default(),
                same_keys: Vec::new(),
            };
            status.networks = networks(&topology, &nothing, &traffic);
            status.endpoints = endpoints(&topology, &nothing, &status.name);
            return status;
        };
        status.peers = view.peers.iter().map(|peer| peer_status(peer, &view, core.settings.port)).collect();
        status.refused = view.refused.iter().map(|peer| refused_status(peer, &view)).collect();
        status.judged = view.verdicts.iter().map(|verdict| judged_status(verdict, &view)).collect();
        if let Some(verdict) = view.verdicts.iter().find(|v| v.peer == view.id)
            && verdict.judgement == Judgement::Revoked
        {
            status.faults.push(format!(
                "this host was revoked on {}: if that was wrong, `weft allow {}` there",
                view.name_of(verdict.by),
                status.name
            ));
        }
        status.faults.extend(view.same_keys.iter().map(|(id, names)| {
            format!(
                "two hosts run with the key of peer {id}, seen as {}: copies of a machine? Remove the state directory of \
                 one of them, and start weft there anew",
                names.join(" and ")
            )
        }));
        let NodeCounts { handshakes_made, handshakes_failed, n_sessions } = view.counts;
        let counts = [
            ("handshakes", handshakes_made),
            ("handshakes_failed", handshakes_failed),
            ("sessions", n_sessions as u64),
        ];
        status.counters.extend(counts.map(|(name, n)| (name.to_owned(), n)));
        status.duplicates = duplicates(&topology, &view, &status.name);
        status.networks = networks(&topology, &view, &traffic);
        status.endpoints = endpoints(&topology, &view, &status.name);
        status.services = services(&topology, &view);
        status.services_state = services_state(&view);
        status.service_faults = core.publish_fault.get().into_iter().chain(core.sandbox_faults()).collect();
        status
    }

    async fn secret(&self) -> Result<SecretAnswer, ControlError> {
        let known = secrets(&self.0).await.map_err(|error| ControlError::Failed(error.into()))?;
        let known = known.first().ok_or_else(|| ControlError::Refused(crate::run::NO_SECRET.into()))?;
        Ok(SecretAnswer {
            fingerprint: known.fingerprint(),
            secret: Some(Secret::new(known.to_text().to_string())),
        })
    }

    async fn set_secret(&self, request: SecretRequest) -> Result<SecretAnswer, ControlError> {
        let core = &self.0;
        let refused = |text: String| ControlError::Refused(text.into());
        if has_secret_file(core).await {
            return Err(refused(format!(
                "the secret is in the file {}, which comes first: change it there and restart weft",
                core.settings.secret_file.display()
            )));
        }
        let current = secrets(core).await.map_err(|error| ControlError::Failed(error.into()))?;
        let (new, generated) = match request {
            SecretRequest::Generate if !current.is_empty() => {
                return Err(refused(
                    "this host has a cluster secret already: `weft secret show` prints it for the other hosts".to_owned(),
                ));
            }
            SecretRequest::Generate => (ClusterSecret::generate(&mut rand::rng()), true),
            SecretRequest::Join(text) => {
                let parsed = ClusterSecret::parse(text.expose())
                    .map_err(|error| ControlError::Refused(error.into()))?;
                (parsed, false)
            }
        };
        let keep = Changes::default().set_secrets(std::slice::from_ref(&new));
        core.write(keep).await.map_err(|error| ControlError::Failed(error.into()))?;
        let fingerprint = new.fingerprint();
        info!(%fingerprint, "cluster secret set");
        core.retry.notify_one();
        let secret = generated.then(|| Secret::new(new.to_text().to_string()));
        Ok(SecretAnswer { fingerprint, secret })
    }

    async fn order(&self, order: Order) -> Result<OrderAnswer, ControlError> {
        crate::orders::carry_out(&self.0, order).await
    }

    async fn ping(&self, request: PingRequest) -> Result<PingAnswer, ControlError> {
        crate::ping::ping(&self.0, request).await
    }

    async fn routes(&self) -> Result<Vec<RouteStatus>, ControlError> {
        crate::paths::routes(&self.0).await
    }

    async fn mtu(&self, request: MtuRequest) -> Result<MtuAnswer, ControlError> {
        crate::paths::mtu(&self.0, request).await
    }

    async fn capture(&self, request: CaptureRequest) -> Result<Pieces, ControlError> {
        crate::capture::begin(&self.0, request).await
    }

    async fn end_capture(&self, request: EndCapture) -> Result<(), ControlError> {
        crate::capture::end(&self.0, &request)
    }

    async fn bench(&self, request: BenchRequest) -> Result<Pieces, ControlError> {
        crate::bench::begin(&self.0, request).await
    }
}

fn checks(core: &Core, running: bool) -> Vec<CheckStatus> {
    let mut checks = vec![(CHECK_DOCKER, core.docker_fault.get()), (CHECK_STATE, core.store.fault())];
    // These are looked at while traffic is carried only.
    if running {
        checks.extend([(CHECK_FIREWALL, core.firewall_fault.get()), (CHECK_GUARD, core.guard_fault.get())]);
    }
    if core.settings.http.is_some() {
        checks.push((CHECK_HTTP, core.http_fault.get()));
    }
    checks.into_iter().map(|(name, fault)| CheckStatus { name: name.to_owned(), fault }).collect()
}

fn duplicates(topology: &Topology, view: &NodeView, own: &str) -> Vec<DuplicateStatus> {
    let name = |id: PeerId| if id == view.id { own.to_owned() } else { view.name_of(id) };
    let one = |duplicate: &Duplicate| {
        let network = topology.networks.values().find(|n| n.id == duplicate.network)?;
        Some(DuplicateStatus {
            network: network.record.network.network_id.clone(),
            address: duplicate.address.clone(),
            keeper: name(duplicate.keeper),
            loser: name(duplicate.loser),
        })
    };
    view.duplicates.iter().filter_map(one).collect()
}

pub(crate) async fn view(running: &Running) -> Option<NodeView> {
    running
        .node
        .call(|node, now| NodeView {
            id: node.id(),
            duplicates: node.duplicates().collect(),
            counts: node.counts(),
            peers: node.peer_reports(now),
            remote: node.remote_endpoints(),
            refused: node.refused().cloned().collect(),
            verdicts: node.verdicts().cloned().collect(),
            services: Arc::clone(node.services()),
            same_keys: node.same_keys(now).map(|(id, names)| (id, names.iter().cloned().collect())).collect(),
        })
        .await
}

fn counters(stats: &weft_router::RouterStats) -> BTreeMap<String, u64> {
    [
        ("datagrams_sent", stats.datagrams_sent),
        ("datagrams_received", stats.datagrams_received),
        ("trains_sent", stats.trains_sent),
        ("trains_received", stats.trains_received),
        ("tap_reads", stats.tap_reads),
        ("tap_writes", stats.tap_writes),
        ("super_frames_recut", stats.recut),
        ("frames_sent_in_parts", stats.fragmented),
        ("frames_put_together", stats.reassembled),
        ("tcp_mss_lowered", stats.mss_clamped),
        ("datagrams_handed_on", stats.handed_on),
        ("udp_segmentation_offload", stats.sends_trains.into()),
        ("udp_receive_offload", stats.receives_trains.into()),
    ]
    .into_iter()
    .map(|(name, n)| (name.to_owned(), n))
    .collect()
}

pub(crate) fn peer_status(peer: &PeerReport, view: &NodeView, port: u16) -> PeerStatus {
    let load = |pick: fn(&weft_dataplane::PeerCounters) -> &std::sync::atomic::AtomicU64| {
        peer.counters.as_ref().map_or(0, |c| pick(c).load(Ordering::Relaxed))
    };
    let problem = match (&peer.refused_us, peer.state) {
        (Some(reason), _) => Some(refuses_us(reason, view)),
        (None, PathState::NoAnswer) if peer.silent_for.is_some_and(|silent| silent < HEARD_LATELY) => {
            Some(format!(
                "its datagrams arrive, and what this host sends to it is not answered: check that UDP port {port} is open \
                 from this host to that one"
            ))
        }
        (None, PathState::NoAnswer) => Some(no_answer(port)),
        (None, PathState::Cut) => Some(format!(
            "alive, as other hosts say, but does not answer this one: check that UDP port {port} is open both ways"
        )),
        (None, PathState::Relayed) => Some(format!(
            "does not answer this host directly, so another one hands on: check that UDP port {port} is open both ways"
        )),
        (None, PathState::Up | PathState::Connecting) => None,
    };
    PeerStatus {
        id: peer.id.map(|id| id.to_string()),
        name: Some(peer.name.clone()).filter(|name| !name.is_empty()),
        state: match peer.state {
            PathState::Up | PathState::Relayed => PeerState::Connected,
            PathState::Connecting => PeerState::Connecting,
            PathState::Cut | PathState::NoAnswer => PeerState::Down,
        },
        address: peer.address,
        // Who is alive need not have been spoken to.
        path: peer.session_age.and(match peer.state {
            PathState::Up => Some(PathKind::Direct),
            PathState::Relayed => Some(PathKind::Relay),
            PathState::Cut | PathState::Connecting | PathState::NoAnswer => None,
        }),
        via: peer.via.clone(),
        rtt_us: peer.rtt.and_then(|rtt| rtt.as_micros().try_into().ok()),
        same_secret: peer.same_secret,
        path_mtu: peer.path_mtu,
        session_age: peer.session_age,
        rx_bytes: load(|c| &c.received_len),
        tx_bytes: load(|c| &c.sent_len),
        rx_datagrams: load(|c| &c.n_received),
        tx_datagrams: load(|c| &c.n_sent),
        last_seen: peer.silent_for,
        problem,
    }
}

fn refuses_us(reason: &Refusal, view: &NodeView) -> String {
    match reason {
        Refusal::NotAllowed => {
            format!("refuses this host: its allowlist lacks this host's id, {}", view.id)
        }
        Refusal::NameTaken { keeper } => format!(
            "refuses this host: the name belongs to {keeper} there; if that was this host before its state was lost, run \
             `weft forget {keeper}` there, else set another NAME here"
        ),
    }
}

fn refused_status(peer: &RefusedPeer, view: &NodeView) -> RefusedStatus {
    let reason = match &peer.reason {
        Refusal::NotAllowed => "not on the allowlist: add its id to ALLOWLIST_FILE to admit it".to_owned(),
        Refusal::NameTaken { keeper } => format!(
            "the name belongs to {}: if that host was set up anew, `weft forget {keeper}`, else give this one another NAME",
            view.name_of(*keeper)
        ),
    };
    RefusedStatus { id: peer.id.to_string(), name: peer.name.clone(), address: peer.address, reason }
}

fn judged_status(verdict: &Verdict, view: &NodeView) -> JudgedStatus {
    JudgedStatus {
        id: verdict.peer.to_string(),
        name: verdict.name.clone(),
        judgement: match verdict.judgement {
            Judgement::Revoked => weft_api::Judgement::Revoked,
            Judgement::Allowed => weft_api::Judgement::Allowed,
            Judgement::Forgotten => weft_api::Judgement::Forgotten,
        },
        by: view.name_or_here(verdict.by),
        at_ms: verdict.stamp,
    }
}

fn networks(
    topology: &Topology,
    view: &NodeView,
    traffic: &BTreeMap<NetworkId, LinkTraffic>,
) -> Vec<NetworkStatus> {
    let one = |network: &crate::core::Network| {
        let docker_id = &network.record.network.network_id;
        let on_it = |peer: &&PeerReport| peer.networks.contains(&network.id);
        let options = &network.record.network.options;
        let clamped =
            options.mtu.zip(network.up).filter(|(asked, used)| asked > used).map(|(asked, used)| {
                format!(
                    "com.docker.network.driver.mtu={asked} is more than the underlay carries; {used} is used"
                )
            });
        NetworkStatus {
            id: docker_id.clone(),
            wire_id: network.id.to_string(),
            mtu: network.up,
            bridge: network.up.map(|_| names::bridge_name(network.id)),
            peers: view.peers.iter().filter(on_it).map(|p| p.name.clone()).collect(),
            n_local_endpoints: local_endpoints(topology, docker_id).count(),
            n_remote_endpoints: view.remote.iter().filter(|e| e.network == network.id).count(),
            faults: options.faults.iter().map(ToString::to_string).chain(clamped).collect(),
            // What comes in by the TAP is from other hosts.
            traffic: traffic.get(&network.id).map(|link| TrafficStatus {
                rx_bytes: link.rx_bytes,
                rx_frames: link.rx_frames,
                tx_bytes: link.tx_bytes,
                tx_frames: link.tx_frames,
                tx_dropped: link.tx_dropped,
            }),
        }
    };
    topology.networks.values().map(one).collect()
}

fn services(topology: &Topology, view: &NodeView) -> Vec<ServiceStatus> {
    let mut list = Vec::new();
    for (docker_id, network) in &topology.networks {
        for live in view.services.networks.get(&network.id).into_iter().flatten() {
            list.push(ServiceStatus {
                network: docker_id.clone(),
                vip: live.service.vip,
                name: live.service.name.clone(),
                tasks: live.service.tasks.iter().copied().collect(),
                n_unreachable: live.n_published.saturating_sub(live.service.tasks.len()),
                from: view.name_or_here(live.from),
            });
        }
    }
    list
}

fn services_state(view: &NodeView) -> String {
    match &view.services.source {
        ServiceSource::None => {
            "off: no manager of a swarm is reached whose weft plugin is granted dockerd's socket \
            (setting docker.sock.source)"
                .to_owned()
        }
        ServiceSource::LastKnown => {
            "as last known: no manager whose weft plugin is granted dockerd's socket is reached, \
            or its dockerd does not answer"
                .to_owned()
        }
        ServiceSource::Managers(managers) => {
            let names: Vec<String> = managers.iter().map(|manager| view.name_or_here(*manager)).collect();
            format!("on: told by {}", names.join(", "))
        }
    }
}

fn local_endpoints<'a>(
    topology: &'a Topology,
    docker_id: &'a str,
) -> impl Iterator<Item = &'a weft_driver::CreateEndpoint> {
    topology.endpoints.values().map(|e| &e.record.endpoint).filter(move |e| e.network_id == docker_id)
}

fn endpoints(topology: &Topology, view: &NodeView, name: &str) -> Vec<EndpointStatus> {
    let docker_id = |id: NetworkId| {
        topology.networks.values().find(|n| n.id == id).map(|n| n.record.network.network_id.clone())
    };
    let local = topology.networks.keys().flat_map(|id| local_endpoints(topology, id)).map(|endpoint| {
        let v4 = endpoint.address.map(|a| a.addr().into());
        EndpointStatus {
            id: endpoint.endpoint_id.clone(),
            network: endpoint.network_id.clone(),
            mac: endpoint.mac.to_string(),
            addresses: v4.into_iter().chain(endpoint.address_v6.map(|a| a.addr().into())).collect(),
            host: name.to_owned(),
            local: true,
        }
    });
    let remote = view.remote.iter().filter_map(|endpoint| {
        Some(EndpointStatus {
            id: endpoint.id.clone(),
            network: docker_id(endpoint.network)?,
            mac: endpoint.mac.to_string(),
            addresses: endpoint.addresses.clone(),
            host: endpoint.peer_name.clone(),
            local: false,
        })
    });
    local.chain(remote).collect()
}
