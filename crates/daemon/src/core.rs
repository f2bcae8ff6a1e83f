//! What all tasks of the daemon share, and the networks and endpoints that Docker asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, RwLock, oneshot};
use tracing::{info, warn};
use weft_driver::{BackendError, EndpointRecord, NetworkOptions, NetworkRecord};
use weft_netlink::{EndpointSpec, ForwardRules, GuardState, Links, NetworkSpec, names};
use weft_node::LocalNetwork;
use weft_noise::ClusterSecret;
use weft_router::Router;
use weft_wire::{AddressFamily, DEFAULT_UNDERLAY_MTU, EndpointId, MIN_UNDERLAY_MTU, NetworkId, overlay_mtu};

use crate::metrics::DriverCalls;
use crate::node_thread::NodeHandle;
use crate::settings::{PeerAddress, Settings};
use crate::store::{Changes, Store, StoreError};

/// Links of a network without endpoints are removed after this long. dockerd deletes a network when its last
/// container is gone, but not one whose containers died with dockerd.
pub(crate) const EMPTY_NETWORK_HOLD: Duration = Duration::from_secs(60);

/// The parts that carry traffic; there are none while the daemon is not ready.
pub(crate) struct Running {
    pub(crate) node: NodeHandle,
    pub(crate) router: Arc<Router>,
    /// Of the preferred secret.
    pub(crate) fingerprint: String,
}

/// Something that is looked at again and again, and wrong at times.
#[derive(Default)]
pub(crate) struct Fault(Mutex<Option<String>>);

impl Fault {
    /// Takes the outcome of another look; whether it differs from the last one, and so is worth a line in the log.
    pub(crate) fn set(&self, fault: Option<String>) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *last != fault;
        *last = fault;
        changed
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A wish to join a cluster by a token.
pub(crate) struct JoinWish {
    /// The host that gave the token, as it was typed.
    pub(crate) host: PeerAddress,
    pub(crate) token: ClusterSecret,
    /// Is told the secret's fingerprint, or why not.
    pub(crate) done: oneshot::Sender<Result<String, String>>,
}

/// A network that Docker created.
pub(crate) struct Network {
    pub(crate) record: NetworkRecord,
    pub(crate) id: NetworkId,
    /// MTU of its links; `None` while it has none.
    pub(crate) up: Option<u16>,
    pub(crate) empty_since: Option<Instant>,
}

/// What an endpoint must know of its network, whose links are there.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    network: NetworkId,
    overlay_mtu: u16,
    spoof_check: bool,
}

impl Network {
    /// `None` while it has no links.
    pub(crate) fn place(&self) -> Option<Place> {
        let spoof_check = self.record.network.options.spoof_check.is_on();
        Some(Place { network: self.id, overlay_mtu: self.up?, spoof_check })
    }
}

/// An endpoint that Docker created.
pub(crate) struct Endpoint {
    pub(crate) record: EndpointRecord,
    /// Since when its container side lies in the host's namespace without being asked for.
    pub(crate) unclaimed_since: Option<Instant>,
    /// Held by the call that makes its links, until it ends one way or the other. It has none before.
    pub(crate) making: Weak<()>,
    /// This run of the daemon has made its links.
    pub(crate) is_linked: bool,
    /// How long CreateEndpoint took in this run of the daemon.
    pub(crate) created_in: Option<Duration>,
}

impl Endpoint {
    /// One that has no links that this run of the daemon made.
    pub(crate) fn new(record: EndpointRecord) -> Self {
        Self { record, unclaimed_since: None, making: Weak::new(), is_linked: false, created_in: None }
    }
}

/// Everything that Docker asked for, by Docker's ids.
#[derive(Default)]
pub(crate) struct Topology {
    pub(crate) networks: BTreeMap<String, Network>,
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
}

impl Topology {
    /// Whether multicast of programs in the sandbox that name no interface is to take the endpoint's: it has IPv4, its
    /// network carries multicast, and no other endpoint of the sandbox has it already.
    pub(crate) fn wants_multicast_route(&self, endpoint_id: &str, sandbox_key: &str) -> bool {
        let Some(endpoint) = self.endpoints.get(endpoint_id).map(|e| &e.record.endpoint) else {
            return false;
        };
        let network = self.networks.get(&endpoint.network_id).map(|n| &n.record.network);
        let mut others = self.endpoints.iter().filter(|(id, _)| *id != endpoint_id).map(|(_, e)| &e.record);
        endpoint.address.is_some()
            && network.is_some_and(|network| network.options.multicast.is_on())
            && !others.any(|other| other.multicast_route && other.sandbox_key.as_deref() == Some(sandbox_key))
    }

    /// Takes the endpoint out, and notes since when its network has none left.
    pub(crate) fn remove_endpoint(&mut self, endpoint_id: &str) {
        let Some(gone) = self.endpoints.remove(endpoint_id) else { return };
        let network_id = gone.record.endpoint.network_id;
        let last = !self.endpoints.values().any(|e| e.record.endpoint.network_id == network_id);
        if let Some(network) = self.networks.get_mut(&network_id).filter(|_| last) {
            network.empty_since = Some(Instant::now());
        }
    }
}

/// See the module's documentation.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) store: Arc<Store>,
    pub(crate) links: Box<dyn Links>,
    pub(crate) firewall: Box<dyn ForwardRules>,
    pub(crate) topology: RwLock<Topology>,
    pub(crate) running: ArcSwapOption<Running>,
    /// Why no traffic can be carried; empty when all is well or nothing was tried yet.
    faults: Mutex<Vec<String>>,
    /// The address that Docker says this host advertises.
    advertised: Mutex<Option<IpAddr>>,
    /// What is wrong with the firewall's rules, if anything.
    pub(crate) firewall_fault: Fault,
    /// What is wrong with the rules against spoofing, if anything.
    pub(crate) guard_fault: Fault,
    /// Why HTTP is not served though it is asked for, if so.
    pub(crate) http_fault: Fault,
    /// Where HTTP is served.
    pub(crate) http_at: OnceLock<SocketAddr>,
    /// Why Docker cannot be asked for the swarm's hosts, if so.
    pub(crate) docker_fault: Fault,
    /// How long dockerd's calls took.
    pub(crate) calls: DriverCalls,
    /// Why this host publishes no services though it could, if so.
    pub(crate) publish_fault: Fault,
    /// Containers whose namespaces do not translate services as they should; one line each.
    pub(crate) sandbox_faults: Mutex<Vec<String>>,
    /// A container got or lost an endpoint.
    pub(crate) sandboxes_changed: Notify,
    /// Addresses of hosts that Docker told of.
    discovered: Mutex<BTreeSet<SocketAddr>>,
    /// To be carried out by the task that starts the daemon, while there is no secret.
    pub(crate) join: Mutex<Option<JoinWish>>,
    /// The kept hosts to contact are others than before.
    pub(crate) seeds_changed: Notify,
    /// A secret was handed over, or something else changed that is worth another try.
    pub(crate) retry: Notify,
    /// Captures that can be told to end.
    pub(crate) captures: crate::capture::Captures,
    /// Whether a bench is under way, begun by this host or by another.
    pub(crate) bench: crate::bench::Slot,
}

impl Core {
    pub(crate) fn new(
        settings: Settings,
        store: Store,
        links: Box<dyn Links>,
        firewall: Box<dyn ForwardRules>,
    ) -> Result<Self, StoreError> {
        let mut topology = Topology::default();
        for record in store.networks()? {
            let id = wire_id(&record);
            let network = Network { record, id, up: None, empty_since: None };
            topology.networks.insert(network.record.network.network_id.clone(), network);
        }
        for record in store.endpoints()? {
            let endpoint = Endpoint::new(record);
            topology.endpoints.insert(endpoint.record.endpoint.endpoint_id.clone(), endpoint);
        }
        Ok(Self {
            settings,
            store: Arc::new(store),
            links,
            firewall,
            topology: RwLock::new(topology),
            running: ArcSwapOption::empty(),
            faults: Mutex::new(vec!["weft is starting; try again in a moment".to_owned()]),
            advertised: Mutex::new(None),
            firewall_fault: Fault::default(),
            guard_fault: Fault::default(),
            http_fault: Fault::default(),
            http_at: OnceLock::new(),
            docker_fault: Fault::default(),
            calls: DriverCalls::default(),
            publish_fault: Fault::default(),
            sandbox_faults: Mutex::default(),
            sandboxes_changed: Notify::new(),
            discovered: Mutex::default(),
            join: Mutex::default(),
            seeds_changed: Notify::new(),
            retry: Notify::new(),
            captures: crate::capture::Captures::default(),
            bench: crate::bench::Slot::default(),
        })
    }

    /// This host's name among the peers.
    pub(crate) fn name(&self) -> String {
        let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = self.settings.name.clone().unwrap_or_else(kernel);
        let name = name.trim();
        if name.is_empty() { "unnamed".to_owned() } else { name.to_owned() }
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn sandbox_faults(&self) -> Vec<String> {
        self.sandbox_faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_faults(&self, faults: Vec<String>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Takes in the address that Docker says this host advertises.
    pub(crate) async fn set_advertised(&self, address: IpAddr) {
        let last = self.advertised.lock().unwrap_or_else(PoisonError::into_inner).replace(address);
        if last != Some(address)
            && let Some(running) = self.running.load_full()
        {
            let addresses = self.addresses();
            running.node.call(move |node, now| node.set_addresses(addresses, now)).await;
        }
    }

    /// Where others reach this host, as far as settings and Docker tell.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.advertised().map(|ip| SocketAddr::new(ip, self.settings.port)).into_iter().collect()
    }

    fn advertised(&self) -> Option<IpAddr> {
        let docker = *self.advertised.lock().unwrap_or_else(PoisonError::into_inner);
        self.settings.advertise.or(docker)
    }

    /// Keeps the address of a host that Docker told of; contacts it if traffic can be carried.
    pub(crate) async fn discover(&self, addresses: Vec<SocketAddr>) {
        let new: Vec<SocketAddr> = {
            let mut discovered = self.discovered.lock().unwrap_or_else(PoisonError::into_inner);
            addresses.into_iter().filter(|a| discovered.insert(*a)).collect()
        };
        if let Some(running) = self.running.load_full()
            && !new.is_empty()
        {
            running
                .node
                .call(move |node, now| new.into_iter().for_each(|seed| node.add_seed(seed, now)))
                .await;
        }
    }

    pub(crate) fn discovered(&self) -> Vec<SocketAddr> {
        self.discovered.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Sees to it that dockerd's FORWARD policy lets frames pass within each of weft's bridges.
    pub(crate) async fn guard_bridges(&self) {
        let bridges: Vec<String> = {
            let topology = self.topology.read().await;
            topology.networks.values().filter(|n| n.up.is_some()).map(|n| names::bridge_name(n.id)).collect()
        };
        let fault = self.firewall.ensure(&bridges).await.err().map(|error| error.to_string());
        if self.firewall_fault.set(fault.clone()) {
            match fault {
                Some(fault) => warn!(%fault, "containers of one host may not reach each other"),
                None => info!("firewall rules are in place"),
            }
        }
    }

    /// Sees to it that every endpoint on this host can send from its own addresses only.
    pub(crate) async fn guard_endpoints(&self) {
        let specs: Vec<EndpointSpec> = {
            let topology = self.topology.read().await;
            let endpoints = topology.endpoints.values().filter_map(|endpoint| {
                let network = topology.networks.get(&endpoint.record.endpoint.network_id)?;
                Some(spec_of(network.place()?, &endpoint.record))
            });
            endpoints.collect()
        };
        let fault = match self.links.ensure_guards(&specs).await {
            Ok(report) => {
                if report.n_restored > 0 {
                    warn!(
                        n_endpoints = report.n_restored,
                        "rules against spoofing were missing and are restored"
                    );
                }
                match self.links.guard_state() {
                    GuardState::Lacking { reason } => {
                        Some(format!("containers of one host can take each other's addresses: {reason}"))
                    }
                    _ => None,
                }
            }
            Err(error) => Some(format!("rules against spoofing are not in place: {error}")),
        };
        if self.guard_fault.set(fault.clone())
            && let Some(fault) = fault
        {
            warn!("{fault}");
        }
    }

    /// Makes changes of the state file; they are on the disk when this returns.
    pub(crate) async fn write(&self, changes: Changes) -> Result<(), BackendError> {
        self.store.write(changes).await.map_err(failed)
    }

    /// Keeps an endpoint's record; it outlives the daemon when this returns.
    pub(crate) async fn put_endpoint(&self, record: &EndpointRecord) -> Result<(), BackendError> {
        self.store.put_endpoint(record).await.map_err(failed)
    }

    /// The largest MTU that containers can have on this host's underlay.
    ///
    /// # Errors
    /// A line for the operator when the underlay has less than 1280 bytes.
    pub(crate) async fn max_overlay_mtu(&self) -> Result<u16, String> {
        let local = self.advertised();
        let family =
            if local.is_some_and(|a| a.is_ipv6()) { AddressFamily::Ipv6 } else { AddressFamily::Ipv4 };
        let underlay = match self.settings.underlay_mtu {
            Some(mtu) => mtu,
            None => match self.links.underlay_mtu(local).await {
                Ok(mtu) => mtu.unwrap_or(DEFAULT_UNDERLAY_MTU),
                Err(error) => {
                    warn!(%error, "the underlay's MTU is not known; assuming {DEFAULT_UNDERLAY_MTU}");
                    DEFAULT_UNDERLAY_MTU
                }
            },
        };
        overlay_mtu(underlay, family).ok_or_else(|| {
            format!(
                "the underlay's MTU is {underlay} bytes: raise the MTU of the host's interface to {MIN_UNDERLAY_MTU} or \
                 more, or set UNDERLAY_MTU if it is larger than the interface says"
            )
        })
    }

    async fn network_mtu(&self, record: &NetworkRecord) -> Result<u16, BackendError> {
        let most = self.max_overlay_mtu().await.map_err(failed)?;
        match record.network.options.mtu {
            Some(mtu) if mtu > most => {
                warn!(network = %record.network.network_id, asked = mtu, used = most, "the MTU asked for is more than the underlay carries");
                Ok(most)
            }
            Some(mtu) => Ok(mtu),
            None => Ok(most),
        }
    }

    /// Makes the network's links, and tells router, firewall and peers. Idempotent; undone when a step fails.
    pub(crate) async fn bring_up(
        &self,
        running: &Running,
        network: &mut Network,
    ) -> Result<(), BackendError> {
        if network.up.is_some() {
            return Ok(());
        }
        let overlay_mtu = self.network_mtu(&network.record).await?;
        let docker_id = network.record.network.network_id.clone();
        let spec = NetworkSpec { id: network.id, docker_id, overlay_mtu };
        if let Err(error) = self.wire(running, &spec).await {
            running.router.detach(spec.id);
            if let Err(error) = self.links.remove_network(spec.id).await {
                warn!(network = %spec.docker_id, %error, "half-made links not removed");
            }
            return Err(error);
        }
        let options = &network.record.network.options;
        let local = LocalNetwork {
            id: spec.id,
            overlay_mtu,
            spoof_check: options.spoof_check.is_on(),
            multicast: options.multicast.is_on(),
        };
        running.node.call(move |node, now| node.join_network(local, now)).await;
        network.up = Some(overlay_mtu);
        info!(network = %spec.docker_id, bridge = %names::bridge_name(spec.id), overlay_mtu, "network up");
        Ok(())
    }

    async fn wire(&self, running: &Running, spec: &NetworkSpec) -> Result<(), BackendError> {
        self.links.ensure_bridge(spec).await.map_err(failed)?;
        running.router.attach(spec.id, &names::tap_name(spec.id)).map_err(failed)?;
        self.links.attach_tap(spec).await.map_err(failed)?;
        Ok(())
    }

    /// Removes the network's links. Idempotent; every step is done even if another fails.
    pub(crate) async fn take_down(&self, network: &mut Network) -> Result<(), BackendError> {
        if let Some(running) = self.running.load_full() {
            let id = network.id;
            running.node.call(move |node, now| node.leave_network(id, now)).await;
            running.router.detach(id);
        }
        let removed = self.links.remove_network(network.id).await.map_err(failed);
        network.up = None;
        removed
    }

    /// Makes the endpoint's links and announces it meanwhile; both, or none. The network must be up.
    pub(crate) async fn connect(
        &self,
        running: &Running,
        place: Place,
        record: &EndpointRecord,
    ) -> Result<(), BackendError> {
        let (spec, announced) = (spec_of(place, record), announcement(place.network, record));
        let (linked, _) = tokio::join!(
            self.links.ensure_endpoint(&spec),
            running.node.call(move |node, now| node.set_endpoint(announced, now))
        );
        if let Err(error) = linked {
            running.node.call(move |node, now| node.remove_endpoint(&spec.id, now)).await;
            return Err(failed(error));
        }
        Ok(())
    }

    /// Notes that this run has made the endpoint's links, and how long CreateEndpoint took if that was the call.
    pub(crate) async fn set_linked(&self, endpoint_id: &str, created_in: Option<Duration>) {
        if let Some(endpoint) = self.topology.write().await.endpoints.get_mut(endpoint_id) {
            endpoint.is_linked = true;
            endpoint.created_in = created_in;
        }
    }

    /// Forgets an endpoint whose container is gone.
    pub(crate) async fn drop_endpoint(
        &self,
        topology: &mut Topology,
        endpoint_id: &str,
    ) -> Result<(), BackendError> {
        self.disconnect(endpoint_id).await?;
        self.forget_record(endpoint_id).await?;
        topology.remove_endpoint(endpoint_id);
        Ok(())
    }

    /// Forgets an endpoint's record.
    pub(crate) async fn forget_record(&self, endpoint_id: &str) -> Result<(), BackendError> {
        self.store.remove_endpoint(endpoint_id).await.map_err(failed)
    }

    /// Withdraws the endpoint and removes its links.
    pub(crate) async fn disconnect(&self, endpoint_id: &str) -> Result<(), BackendError> {
        let id = EndpointId(endpoint_id.to_owned());
        if let Some(running) = self.running.load_full() {
            let id = id.clone();
            running.node.call(move |node, now| node.remove_endpoint(&id, now)).await;
        }
        self.links.remove_endpoint(&id).await.map_err(failed)
    }
}

/// The network's id inside the seal: from the name that the operator gave, else from Docker's id, which all hosts of a
/// swarm share.
pub(crate) fn wire_id(record: &NetworkRecord) -> NetworkId {
    network_id(&record.network.network_id, &record.network.options)
}

/// See [`wire_id`].
pub(crate) fn network_id(docker_id: &str, options: &NetworkOptions) -> NetworkId {
    match &options.weft_id {
        Some(name) => NetworkId::from_name(&format!("weft.id={}", name.as_str())),
        None => NetworkId::from_name(docker_id),
    }
}

fn announcement(network: NetworkId, record: &EndpointRecord) -> weft_node::EndpointRecord {
    let endpoint = &record.endpoint;
    weft_node::EndpointRecord {
        id: EndpointId(endpoint.endpoint_id.clone()),
        network,
        mac: endpoint.mac,
        addresses: addresses_of(record),
    }
}

fn spec_of(place: Place, record: &EndpointRecord) -> EndpointSpec {
    let endpoint = &record.endpoint;
    EndpointSpec {
        id: EndpointId(endpoint.endpoint_id.clone()),
        network: place.network,
        docker_network_id: endpoint.network_id.clone(),
        mac: endpoint.mac,
        addresses: addresses_of(record),
        spoof_check: place.spoof_check,
        overlay_mtu: place.overlay_mtu,
    }
}

/// The IP addresses that Docker gave an endpoint.
pub(crate) fn addresses_of(record: &EndpointRecord) -> Vec<IpAddr> {
    let endpoint = &record.endpoint;
    let v4 = endpoint.address.map(|a| IpAddr::V4(a.addr()));
    v4.into_iter().chain(endpoint.address_v6.map(|a| IpAddr::V6(a.addr()))).collect()
}

pub(crate) fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackendError {
    BackendError::Failed(error.into())
}
