//! [`Links`] by rtnetlink.

mod kernel;
mod underlay;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::{Arc, PoisonError, Weak};

use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Mutex, RwLock, mpsc};
use tokio::task::JoinError;
use weft_wire::{ETHERNET_HEADER_LEN, EndpointId, HEADER_LEN, INNER_HEADER_LEN, Mac, NetworkId, TAG_LEN};

use crate::guard::{GuardDrops, GuardError, GuardReport, GuardState, Guards};
use crate::link::{Kind, Link, Owner};
use crate::links::{
    BoxFuture, EndpointLinks, EndpointSpec, EnsureError, LinkFailure, LinkState, Links, NetworkSpec, Outcome,
    QueryError, RemoveError, Step,
};
use crate::names::{self, Alias};
use crate::{FoundEndpoint, FoundNetwork, Inventory, LinkTraffic, VethNames};
use kernel::{Kernel, Which};

const EEXIST: i32 = 17;

/// The links of one network namespace. Cheap to clone; all clones share a thread, which does the work, and its sockets.
///
/// # Example
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use weft_netlink::{Links, NetworkSpec, Wiring};
/// let docker_id = "u48gny859s078wz2qe8dulj4a".to_owned();
/// let id = weft_wire::NetworkId::from_name(&docker_id);
/// let wiring = Wiring::new()?;
/// let bridge = wiring.ensure_bridge(&NetworkSpec { id, docker_id, overlay_mtu: 1418 }).await?;
/// println!("{} is up", bridge.name);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Wiring {
    wires: Wires,
    thread: Handle,
    /// The thread ends with the last clone.
    _alive: mpsc::Sender<Infallible>,
}

impl Wiring {
    /// Opens netlink sockets in the calling thread's network namespace and starts the threads that use them, which end when
    /// the last clone is dropped. Needs no privilege; changing links later needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// When the kernel gives no socket or thread. Nothing is left behind.
    pub fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (thread, (alive, mut ended)) = (runtime.handle().clone(), mpsc::channel(1));
        let wires = {
            let _runtime = runtime.enter();
            Wires::new()?
        };
        let run = move || {
            let _: Option<Infallible> = runtime.block_on(ended.recv());
        };
        std::thread::Builder::new().name("links".to_owned()).spawn(run)?;
        Ok(Self { wires, thread, _alive: alive })
    }

    /// Has the thread do it. A dozen requests to the kernel, each of which waits for the one before, then cost a caller
    /// two switches between threads, and not two each: on a busy machine those take longer than all the rest.
    async fn run<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        f: impl FnOnce(Wires) -> F,
    ) -> T {
        match self.thread.spawn(f(self.wires.clone())).await.map_err(JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => resume_unwind(panic),
            // The thread does not end while it is borrowed.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

/// What the thread works with.
#[derive(Debug, Clone)]
struct Wires {
    kernel: Kernel,
    guards: Guards,
    /// Held while links change, so that two calls for one link do not both find it missing: shared by calls for one
    /// endpoint, alone by all others.
    changing: Arc<RwLock<()>>,
    turns: Arc<Turns>,
    bridges: Arc<Bridges>,
}

/// The indexes of bridges that were found to be weft's. The kernel gives an index to no other link while it runs, so one that
/// is out of date is refused.
#[derive(Debug, Default)]
struct Bridges(std::sync::Mutex<HashMap<NetworkId, u32>>);

impl Bridges {
    fn known(&self, network: NetworkId) -> Option<u32> {
        self.lock().get(&network).copied()
    }

    fn keep(&self, network: NetworkId, index: u32) {
        self.lock().insert(network, index);
    }

    fn forget(&self, network: NetworkId) {
        self.lock().remove(&network);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NetworkId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls for one endpoint come one after the other, those for different ones side by side.
#[derive(Debug, Default)]
struct Turns(std::sync::Mutex<HashMap<EndpointId, Weak<Mutex<()>>>>);

impl Turns {
    fn of(&self, endpoint: &EndpointId) -> Arc<Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(endpoint).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(endpoint.clone(), Arc::downgrade(&turn));
        turn
    }
}

/// How many segments the container's kernel may put into a super-frame, so that it leaves the host as one train of
/// datagrams, of which UDP carries 65507 bytes at once. More would leave a short second train behind.
fn segments_of_a_train(overlay_mtu: u16) -> u32 {
    const TRAIN_LEN: u32 = 65507;
    let around = ETHERNET_HEADER_LEN + HEADER_LEN + INNER_HEADER_LEN + TAG_LEN;
    (TRAIN_LEN / (u32::from(overlay_mtu) + around as u32)).max(1)
}

impl Wires {
    fn new() -> io::Result<Self> {
        Ok(Self {
            kernel: Kernel::new()?,
            guards: Guards::new(),
            changing: Arc::default(),
            turns: Arc::default(),
            bridges: Arc::default(),
        })
    }

    async fn ensure_bridge(&self, spec: &NetworkSpec) -> Result<LinkState, EnsureError> {
        let alias = network_alias(&spec.docker_id)?;
        let name = names::bridge_name(spec.id);
        let mac = names::bridge_mac(spec.id);
        let _changing = self.changing.write().await;
        let outcome = match self.find_ours(&name, Kind::Bridge, &alias, Some(mac)).await? {
            Some(_) => Outcome::Adopted,
            None => {
                // A bridge keeps the MTU that it was *changed* to; one that it was made with follows its ports'. So
                // it is made with another than it will have.
                let first_mtu = u32::from(spec.overlay_mtu) ^ 1;
                let message = LinkBridge::new(&name)
                    .down()
                    .address(mac.0.to_vec())
                    .mtu(first_mtu)
                    .set_info_data(bridge_options())
                    .build();
                self.kernel.create(&name, message).await?;
                Outcome::Created
            }
        };
        self.undo_if_created(&name, outcome, self.configure_bridge(spec, &name, mac, &alias, outcome)).await
    }

    async fn configure_bridge(
        &self,
        spec: &NetworkSpec,
        name: &str,
        mac: Mac,
        alias: &Alias,
        outcome: Outcome,
    ) -> Result<LinkState, EnsureError> {
        let link = self.expect(name).await?;
        let message = LinkUnspec::new_with_index(link.index)
            .alias(alias.to_string())
            .mtu(spec.overlay_mtu.into())
            .build();
        self.kernel.change(name, Step::Configure, message).await?;
        self.bridges.keep(spec.id, link.index);
        if outcome == Outcome::Adopted {
            self.kernel.change(name, Step::Configure, bridge_change(link.index, bridge_options())).await?;
            // Off in a new bridge. Kernels without VLAN filtering refuse even this.
            let no_vlans = InfoData::Bridge(vec![InfoBridge::VlanFiltering(false)]);
            if let Err(failure) =
                self.kernel.change(name, Step::Configure, bridge_change(link.index, no_vlans)).await
            {
                tracing::debug!(%failure, "VLAN filtering was not turned off");
            }
            if link.mac != Some(mac) {
                let message = LinkUnspec::new_with_index(link.index).address(mac.0.to_vec()).build();
                self.kernel.change(name, Step::Configure, message).await?;
            }
        }
        let ipv6 = self.kernel.isolate(name, Which::Index(link.index)).await;
        self.kernel.up(name, Which::Index(link.index)).await?;
        Ok(LinkState { name: name.to_owned(), index: link.index, outcome, ipv6 })
    }

    async fn attach_tap(&self, spec: &NetworkSpec) -> Result<LinkState, EnsureError> {
        let alias = network_alias(&spec.docker_id)?;
        let name = names::tap_name(spec.id);
        let _changing = self.changing.write().await;
        let bridge = self.bridge_of(spec.id, &spec.docker_id).await?;
        let tap = self.expect(&name).await?;
        // The router makes the TAP and cannot give it an alias.
        if tap.alias.is_some() && tap.owner(Kind::Tun, &alias, None) != Owner::Ours || tap.kind != Kind::Tun {
            return Err(EnsureError::Foreign { name });
        }
        let outcome = if tap.master == Some(bridge.index) { Outcome::Adopted } else { Outcome::Created };
        let message = LinkUnspec::new_with_index(tap.index)
            .alias(alias.to_string())
            .mtu(spec.overlay_mtu.into())
            .controller(bridge.index)
            .build();
        self.kernel.change(&name, Step::Configure, message).await?;
        let ipv6 = self.kernel.isolate(&name, Which::Index(tap.index)).await;
        self.kernel.up(&name, Which::Index(tap.index)).await?;
        Ok(LinkState { name, index: tap.index, outcome, ipv6 })
    }

    async fn ensure_endpoint(&self, spec: &EndpointSpec) -> Result<EndpointLinks, EnsureError> {
        let bad_id = || EnsureError::BadId { id: spec.id.0.clone() };
        let names = names::veth_names(&spec.id).ok_or_else(bad_id)?;
        let mac = names::host_veth_mac(&names.host).ok_or_else(bad_id)?;
        if !names::is_docker_id(&spec.id.0) {
            return Err(bad_id());
        }
        network_alias(&spec.docker_network_id)?;
        let alias =
            Alias::Endpoint { id: spec.id.clone(), docker_network_id: spec.docker_network_id.clone() };
        let _changing = self.changing.read().await;
        let turn = self.turns.of(&spec.id);
        let _turn = turn.lock().await;
        // Most often nothing is there yet, and the bridge is. Not to look first spares requests, each of which waits until the
        // kernel is done with all changes of links that others are making.
        if let Some(bridge) = self.bridges.known(spec.network)
            && self.create_veth(spec, &names, mac, bridge).await.is_ok()
        {
            return self.set_up_endpoint(spec, names, &alias).await;
        }
        let bridge = self.bridge_of(spec.network, &spec.docker_network_id).await?.index;
        self.bridges.keep(spec.network, bridge);
        match self.create_veth(spec, &names, mac, bridge).await {
            Err(failure) if failure.source.raw_os_error() == Some(EEXIST) => {}
            created => {
                created?;
                return self.set_up_endpoint(spec, names, &alias).await;
            }
        }
        let found = self.find_ours(&names.host, Kind::Veth, &alias, Some(mac)).await?;
        let container = self.kernel.find(&names.container).await?;
        let Some(host) = found else { return Err(EnsureError::Foreign { name: names.container }) };
        if host.peer_away || container.as_ref().is_some_and(|c| Some(c.index) == host.peer) {
            return self.adopt_endpoint(spec, names, &alias, bridge, host, container).await;
        }
        // The other end is here under another name, so dockerd would not find it: start anew.
        self.kernel.delete(&names.host, host.index).await?;
        if self.kernel.find(&names.container).await?.is_some() {
            return Err(EnsureError::Foreign { name: names.container });
        }
        self.create_veth(spec, &names, mac, bridge).await?;
        self.set_up_endpoint(spec, names, &alias).await
    }

    async fn create_veth(
        &self,
        spec: &EndpointSpec,
        names: &VethNames,
        host_mac: Mac,
        bridge: u32,
    ) -> Result<(), LinkFailure> {
        // gso_max_size is the kernel's default, 65536: the most that a TAP's header can describe.
        let container = LinkUnspec::new_with_name(&names.container)
            .mtu(spec.overlay_mtu.into())
            .address(spec.mac.0.to_vec())
            .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments_of_a_train(spec.overlay_mtu)))
            .build();
        let host = LinkVeth::new(&names.host, &names.container)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(container)))
            .mtu(spec.overlay_mtu.into())
            .address(host_mac.0.to_vec())
            .controller(bridge)
            .build();
        self.kernel.create(&names.host, host).await
    }

    /// Does the rest for a veth pair that was just made. By names, which nobody else can have got hold of; the index would
    /// have to be asked for.
    async fn set_up_endpoint(
        &self,
        spec: &EndpointSpec,
        names: VethNames,
        alias: &Alias,
    ) -> Result<EndpointLinks, EnsureError> {
        let host = Which::Name(&names.host);
        let rest = async {
            // Nothing can come through it before the guard is there: until this call is answered, the container's end is down.
            let (ipv6, guarded) = tokio::join!(
                self.kernel.set_up_veth(&names.host, alias, host),
                self.guards.ensure(&names.host, spec, true)
            );
            let (ipv6, guarded) = (ipv6?, guarded?);
            let names = names.clone();
            Ok(EndpointLinks { names, outcome: Outcome::Created, claimed: false, ipv6, guarded })
        };
        self.undo_if_created(&names.host, Outcome::Created, rest).await
    }

    async fn adopt_endpoint(
        &self,
        spec: &EndpointSpec,
        names: VethNames,
        alias: &Alias,
        bridge: u32,
        host: Link,
        container: Option<Link>,
    ) -> Result<EndpointLinks, EnsureError> {
        let message = LinkUnspec::new_with_index(host.index)
            .alias(alias.to_string())
            .mtu(spec.overlay_mtu.into())
            .controller(bridge)
            .build();
        self.kernel.change(&names.host, Step::Configure, message).await?;
        let ipv6 = self.kernel.isolate(&names.host, Which::Index(host.index)).await;
        let claimed = host.peer_away;
        if !claimed {
            let container =
                container.ok_or_else(|| EnsureError::Missing { name: names.container.clone() })?;
            let message = LinkUnspec::new_with_index(container.index)
                .mtu(spec.overlay_mtu.into())
                .address(spec.mac.0.to_vec())
                .build();
            self.kernel.change(&names.container, Step::Configure, message).await?;
        }
        // A bridge takes no frames from a port that is down.
        let guarded = self.guards.ensure(&names.host, spec, false).await?;
        self.kernel.up(&names.host, Which::Index(host.index)).await?;
        Ok(EndpointLinks { names, outcome: Outcome::Adopted, claimed, ipv6, guarded })
    }

    async fn remove(&self, wanted: impl Fn(&Link) -> bool + Send) -> Result<(), RemoveError> {
        let _changing = self.changing.write().await;
        let links = match self.kernel.links().await {
            Ok(links) => links,
            Err(source) => {
                let failure = LinkFailure { step: Step::Find, name: "*".to_owned(), source };
                return Err(RemoveError { failures: vec![failure] });
            }
        };
        let mut failures = Vec::new();
        for link in links.iter().filter(|l| l.is_removable() && wanted(l)) {
            failures.extend(self.remove_link(link).await.err());
        }
        if failures.is_empty() { Ok(()) } else { Err(RemoveError { failures }) }
    }

    async fn remove_link(&self, link: &Link) -> Result<(), LinkFailure> {
        self.kernel.delete(&link.name, link.index).await?;
        // Some kernels remove the chain with its device. One that is left does no harm and is collected later.
        if names::is_host_veth(&link.name)
            && let Err(error) = self.guards.remove(&link.name).await
        {
            tracing::debug!(link = link.name, %error, "a guard is left behind");
        }
        Ok(())
    }

    async fn remove_endpoint(&self, endpoint: &EndpointId) -> Result<(), RemoveError> {
        let Some(names) = names::veth_names(endpoint) else { return Ok(()) };
        let is_its = |link: &Link| match link.weft_alias() {
            Some(Alias::Endpoint { id, .. }) => id == *endpoint,
            _ => true,
        };
        let _changing = self.changing.read().await;
        let turn = self.turns.of(endpoint);
        let _turn = turn.lock().await;
        let removed = async {
            match self.kernel.find(&names.host).await? {
                Some(link) if link.is_removable() && is_its(&link) => self.remove_link(&link).await,
                _ => Ok(()),
            }
        };
        removed.await.map_err(|failure| RemoveError { failures: vec![failure] })
    }

    async fn remove_network(&self, network: NetworkId) -> Result<(), RemoveError> {
        let (bridge, tap) = (names::bridge_name(network), names::tap_name(network));
        self.bridges.forget(network);
        let index = match self.kernel.find(&bridge).await {
            Ok(found) => found.map(|link| link.index),
            Err(failure) => return Err(RemoveError { failures: vec![failure] }),
        };
        self.remove(|link| {
            link.name == tap
                || link.name == bridge
                || link.kind == Kind::Veth && index.is_some() && link.master == index
        })
        .await
    }

    async fn ensure_guards(&self, endpoints: &[EndpointSpec]) -> Result<GuardReport, GuardError> {
        let _changing = self.changing.write().await;
        let links = self.kernel.links().await.map_err(GuardError::Links)?;
        let veths =
            links.into_iter().filter(|link| link.kind == Kind::Veth && names::is_host_veth(&link.name));
        self.guards.ensure_all(endpoints, &veths.map(|link| link.name).collect()).await
    }

    async fn guard_drops(&self) -> Result<Vec<(EndpointId, GuardDrops)>, GuardError> {
        let drops = self.guards.drops().await?;
        let inventory = Inventory::of(&self.kernel.links().await.map_err(GuardError::Links)?);
        let of = |endpoint: FoundEndpoint| Some((endpoint.id, *drops.get(&endpoint.host)?));
        Ok(inventory.endpoints.into_iter().filter_map(of).collect())
    }

    /// The link of that name if it is weft's; `None` when there is none.
    async fn find_ours(
        &self,
        name: &str,
        kind: Kind,
        alias: &Alias,
        mac: Option<Mac>,
    ) -> Result<Option<Link>, EnsureError> {
        match self.kernel.find(name).await? {
            Some(link) if link.owner(kind, alias, mac) == Owner::Foreign => {
                Err(EnsureError::Foreign { name: name.to_owned() })
            }
            found => Ok(found),
        }
    }

    async fn bridge_of(&self, network: NetworkId, docker_id: &str) -> Result<Link, EnsureError> {
        let name = names::bridge_name(network);
        let alias = network_alias(docker_id)?;
        self.find_ours(&name, Kind::Bridge, &alias, Some(names::bridge_mac(network)))
            .await?
            .ok_or(EnsureError::Missing { name })
    }

    async fn expect(&self, name: &str) -> Result<Link, EnsureError> {
        self.kernel.find(name).await?.ok_or_else(|| EnsureError::Missing { name: name.to_owned() })
    }

    /// While no links are being made: half of an endpoint's would be taken for a stray.
    async fn inventory(&self) -> Result<Inventory, QueryError> {
        let _changing = self.changing.write().await;
        Ok(Inventory::of(&self.kernel.links().await?))
    }

    async fn traffic(&self) -> Result<Vec<(NetworkId, LinkTraffic)>, QueryError> {
        let links = self.kernel.links().await?;
        let of = |network: &FoundNetwork| {
            let tap = network.tap.as_ref()?;
            Some((network.id, links.iter().find(|link| link.name == *tap)?.traffic))
        };
        Ok(Inventory::of(&links).networks.iter().filter_map(of).collect())
    }

    async fn underlay_mtu(&self, local: Option<IpAddr>) -> Result<Option<u16>, QueryError> {
        let (links, addresses) = (self.kernel.links().await?, self.kernel.addresses().await?);
        let routes = match local {
            Some(local) if !local.is_unspecified() => Vec::new(),
            _ => self.kernel.default_routes().await?,
        };
        Ok(underlay::mtu(local, &links, &addresses, &routes))
    }

    async fn local_addresses(&self) -> Result<Vec<(IpAddr, String)>, QueryError> {
        Ok(underlay::reachable(&self.kernel.links().await?, &self.kernel.addresses().await?))
    }

    async fn undo_if_created<T>(
        &self,
        name: &str,
        outcome: Outcome,
        rest: impl Future<Output = Result<T, EnsureError>>,
    ) -> Result<T, EnsureError> {
        let result = rest.await;
        if result.is_err() && outcome == Outcome::Created {
            let undone = match self.kernel.find(name).await {
                Ok(Some(link)) => self.kernel.delete(name, link.index).await,
                Ok(None) => Ok(()),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = undone {
                tracing::warn!(%failure, "a link that could not be set up is left behind");
            }
        }
        result
    }
}

fn network_alias(docker_id: &str) -> Result<Alias, EnsureError> {
    if names::is_docker_id(docker_id) {
        Ok(Alias::Network { docker_id: docker_id.to_owned() })
    } else {
        Err(EnsureError::BadId { id: docker_id.to_owned() })
    }
}

fn bridge_change(index: u32, options: InfoData) -> LinkMessage {
    LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
        .index(index)
        .set_info_data(options)
        .build()
}

/// With snooping, a container gets the multicast that it asked for, and no other's. The bridge asks nobody itself: weft's
/// queries come through the TAP, which it therefore takes for the way to a multicast router, and sends all reports and all
/// multicast to. While there are none (`-o weft.multicast=off`, or the daemon is away for minutes) it floods as without.
fn bridge_options() -> InfoData {
    InfoData::Bridge(vec![
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::ForwardDelay(0),
        InfoBridge::MulticastSnooping(true),
    ])
}

impl Links for Wiring {
    fn ensure_bridge<'a>(&'a self, spec: &'a NetworkSpec) -> BoxFuture<'a, Result<LinkState, EnsureError>> {
        let spec = spec.clone();
        Box::pin(self.run(|wires| async move { wires.ensure_bridge(&spec).await }))
    }

    fn attach_tap<'a>(&'a self, spec: &'a NetworkSpec) -> BoxFuture<'a, Result<LinkState, EnsureError>> {
        let spec = spec.clone();
        Box::pin(self.run(|wires| async move { wires.attach_tap(&spec).await }))
    }

    fn ensure_endpoint<'a>(
        &'a self,
        spec: &'a EndpointSpec,
    ) -> BoxFuture<'a, Result<EndpointLinks, EnsureError>> {
        let spec = spec.clone();
        Box::pin(self.run(|wires| async move { wires.ensure_endpoint(&spec).await }))
    }

    fn remove_endpoint<'a>(&'a self, endpoint: &'a EndpointId) -> BoxFuture<'a, Result<(), RemoveError>> {
        let endpoint = endpoint.clone();
        Box::pin(self.run(|wires| async move { wires.remove_endpoint(&endpoint).await }))
    }

    fn remove_network(&self, network: NetworkId) -> BoxFuture<'_, Result<(), RemoveError>> {
        Box::pin(self.run(move |wires| async move { wires.remove_network(network).await }))
    }

    fn remove_stray<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), RemoveError>> {
        let name = name.to_owned();
        Box::pin(self.run(|wires| async move {
            // An endpoint's that was adopted since it was listed is none any more.
            let is_stray = |link: &Link| !matches!(link.weft_alias(), Some(Alias::Endpoint { .. }));
            wires.remove(|link| link.name == name && is_stray(link)).await
        }))
    }

    fn ensure_guards<'a>(
        &'a self,
        endpoints: &'a [EndpointSpec],
    ) -> BoxFuture<'a, Result<GuardReport, GuardError>> {
        let endpoints = endpoints.to_vec();
        Box::pin(self.run(|wires| async move { wires.ensure_guards(&endpoints).await }))
    }

    fn guard_drops(&self) -> BoxFuture<'_, Result<Vec<(EndpointId, GuardDrops)>, GuardError>> {
        Box::pin(self.run(|wires| async move { wires.guard_drops().await }))
    }

    fn guard_state(&self) -> GuardState {
        self.wires.guards.state()
    }

    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, QueryError>> {
        Box::pin(self.run(|wires| async move { wires.inventory().await }))
    }

    fn traffic(&self) -> BoxFuture<'_, Result<Vec<(NetworkId, LinkTraffic)>, QueryError>> {
        Box::pin(self.run(|wires| async move { wires.traffic().await }))
    }

    fn underlay_mtu(&self, local: Option<IpAddr>) -> BoxFuture<'_, Result<Option<u16>, QueryError>> {
        Box::pin(self.run(move |wires| async move { wires.underlay_mtu(local).await }))
    }

    fn local_addresses(&self) -> BoxFuture<'_, Result<Vec<(IpAddr, String)>, QueryError>> {
        Box::pin(self.run(|wires| async move { wires.local_addresses().await }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_for_one_endpoint_take_turns_which_are_forgotten_with_them() {
        let turns = Turns::default();
        let id = |n: u32| EndpointId(format!("{n:064x}"));
        let (first, again, other) = (turns.of(&id(0)), turns.of(&id(0)), turns.of(&id(1)));
        let held = first.lock().await;
        assert!(again.try_lock().is_err());
        assert!(other.try_lock().is_ok());
        drop(held);
        assert!(again.try_lock().is_ok());
        drop((first, again, other));
        (2..1000).for_each(|n| drop(turns.of(&id(n))));
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
