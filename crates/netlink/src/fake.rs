//! In-memory stand-ins for the kernel's links and the host's firewall.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weft_wire::{EndpointId, Mac, NetworkId};

use crate::firewall::{Backend, Family, Finding, FirewallError, FirewallReport, ForwardRules, Table};
use crate::guard::{GuardDrops, GuardError, GuardReport, GuardState, Guarded};
use crate::links::{
    BoxFuture, EndpointLinks, EndpointSpec, EnsureError, Ipv6State, LinkFailure, LinkState, Links,
    NetworkSpec, Outcome, QueryError, RemoveError, Step,
};
use crate::{FoundEndpoint, FoundNetwork, Inventory, LinkTraffic, StrayLink, names};

/// [`Links`] in memory, for tests of what uses them. A TAP need not have been opened before it is attached.
#[derive(Debug, Default)]
pub struct FakeWiring {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    networks: BTreeMap<NetworkId, FakeNetwork>,
    endpoints: BTreeMap<EndpointId, FakeEndpoint>,
    stray_taps: BTreeSet<NetworkId>,
    foreign: BTreeSet<String>,
    fail_next: Option<io::ErrorKind>,
    guards: BTreeMap<EndpointId, (Mac, Vec<IpAddr>)>,
    drops: BTreeMap<EndpointId, GuardDrops>,
    guards_lacking: bool,
    underlay_mtu: Option<u16>,
    addresses: Vec<(IpAddr, String)>,
    n_links: u32,
}

#[derive(Debug, Clone)]
struct FakeNetwork {
    docker_id: String,
    overlay_mtu: u16,
    index: u32,
    has_tap: bool,
}

#[derive(Debug, Clone)]
struct FakeEndpoint {
    spec: EndpointSpec,
    claimed: bool,
}

impl FakeWiring {
    /// No links, no addresses, an underlay of 1500 bytes.
    #[must_use]
    pub fn new() -> Self {
        let state = State { underlay_mtu: Some(weft_wire::DEFAULT_UNDERLAY_MTU), ..State::default() };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next call that changes links fails with this error and changes nothing.
    pub fn fail_next(&self, kind: io::ErrorKind) {
        self.state().fail_next = Some(kind);
    }

    /// Someone else's link of that name is there from now on.
    pub fn add_foreign(&self, name: &str) {
        self.state().foreign.insert(name.to_owned());
    }

    /// A TAP without a bridge is there from now on.
    pub fn add_stray_tap(&self, network: NetworkId) {
        self.state().stray_taps.insert(network);
    }

    /// dockerd has moved the container side into a sandbox, or back.
    pub fn set_claimed(&self, endpoint: &EndpointId, claimed: bool) {
        if let Some(found) = self.state().endpoints.get_mut(endpoint) {
            found.claimed = claimed;
        }
    }

    /// The endpoint's sandbox is gone, and the pair with it.
    pub fn destroy_sandbox(&self, endpoint: &EndpointId) {
        self.state().endpoints.remove(endpoint);
    }

    /// The kernel cannot check what containers send from now on.
    pub fn lack_guards(&self) {
        let mut state = self.state();
        state.guards_lacking = true;
        state.guards.clear();
    }

    /// Someone has thrown all guards away.
    pub fn flush_guards(&self) {
        self.state().guards.clear();
    }

    /// The endpoints that have a guard, with the addresses it lets pass.
    #[must_use]
    pub fn guards(&self) -> Vec<(EndpointId, Mac, Vec<IpAddr>)> {
        let guards = self.state().guards.clone();
        guards.into_iter().map(|(id, (mac, addresses))| (id, mac, addresses)).collect()
    }

    /// Sets what [`Links::guard_drops`] answers for an endpoint while it has a guard.
    pub fn set_guard_drops(&self, endpoint: &EndpointId, drops: GuardDrops) {
        self.state().drops.insert(endpoint.clone(), drops);
    }

    /// Sets what [`Links::underlay_mtu`] answers, in bytes.
    pub fn set_underlay_mtu(&self, mtu: Option<u16>) {
        self.state().underlay_mtu = mtu;
    }

    /// Sets what [`Links::local_addresses`] answers.
    pub fn set_local_addresses(&self, addresses: Vec<(IpAddr, String)>) {
        self.state().addresses = addresses;
    }

    /// The address that the container side of an endpoint was given.
    #[must_use]
    pub fn container_mac(&self, endpoint: &EndpointId) -> Option<Mac> {
        self.state().endpoints.get(endpoint).map(|e| e.spec.mac)
    }

    /// Whether there is no link left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.networks.is_empty() && state.endpoints.is_empty() && state.stray_taps.is_empty()
    }
}

impl State {
    fn failure(&mut self, step: Step, name: &str) -> Option<LinkFailure> {
        let source = self.fail_next.take()?.into();
        Some(LinkFailure { step, name: name.to_owned(), source })
    }

    fn begin(&mut self, name: &str) -> Result<(), EnsureError> {
        if let Some(failure) = self.failure(Step::Configure, name) {
            return Err(failure.into());
        }
        if self.foreign.contains(name) {
            return Err(EnsureError::Foreign { name: name.to_owned() });
        }
        Ok(())
    }

    fn removing(&mut self, name: &str) -> Result<(), RemoveError> {
        match self.failure(Step::Delete, name) {
            Some(failure) => Err(RemoveError { failures: vec![failure] }),
            None => Ok(()),
        }
    }

    fn ensure_bridge(&mut self, spec: &NetworkSpec) -> Result<LinkState, EnsureError> {
        let name = names::bridge_name(spec.id);
        if !names::is_docker_id(&spec.docker_id) {
            return Err(EnsureError::BadId { id: spec.docker_id.clone() });
        }
        self.begin(&name)?;
        let outcome = match self.networks.get_mut(&spec.id) {
            Some(found) if found.docker_id != spec.docker_id => return Err(EnsureError::Foreign { name }),
            Some(found) => {
                found.overlay_mtu = spec.overlay_mtu;
                Outcome::Adopted
            }
            None => {
                self.n_links += 1;
                let network = FakeNetwork {
                    docker_id: spec.docker_id.clone(),
                    overlay_mtu: spec.overlay_mtu,
                    index: self.n_links,
                    has_tap: false,
                };
                self.networks.insert(spec.id, network);
                Outcome::Created
            }
        };
        let index = self.networks.get(&spec.id).map_or(0, |n| n.index);
        Ok(LinkState { name, index, outcome, ipv6: Ipv6State::Disabled })
    }

    fn attach_tap(&mut self, spec: &NetworkSpec) -> Result<LinkState, EnsureError> {
        let name = names::tap_name(spec.id);
        self.begin(&name)?;
        let network = self
            .networks
            .get_mut(&spec.id)
            .ok_or_else(|| EnsureError::Missing { name: names::bridge_name(spec.id) })?;
        let outcome = if network.has_tap { Outcome::Adopted } else { Outcome::Created };
        network.has_tap = true;
        self.stray_taps.remove(&spec.id);
        self.n_links += 1;
        Ok(LinkState { name, index: self.n_links, outcome, ipv6: Ipv6State::Disabled })
    }

    fn ensure_endpoint(&mut self, spec: &EndpointSpec) -> Result<EndpointLinks, EnsureError> {
        let names =
            names::veth_names(&spec.id).ok_or_else(|| EnsureError::BadId { id: spec.id.0.clone() })?;
        self.begin(&names.host)?;
        if !self.networks.contains_key(&spec.network) {
            return Err(EnsureError::Missing { name: names::bridge_name(spec.network) });
        }
        let (outcome, claimed) = match self.endpoints.get_mut(&spec.id) {
            Some(found) => {
                let mac = if found.claimed { found.spec.mac } else { spec.mac };
                found.spec = EndpointSpec { mac, ..spec.clone() };
                (Outcome::Adopted, found.claimed)
            }
            None => {
                self.endpoints.insert(spec.id.clone(), FakeEndpoint { spec: spec.clone(), claimed: false });
                (Outcome::Created, false)
            }
        };
        let guarded = match (spec.spoof_check, self.guards_lacking) {
            (false, _) => Guarded::Off,
            (true, true) => Guarded::Lacking,
            (true, false) => Guarded::Yes,
        };
        self.set_guard(spec);
        Ok(EndpointLinks { names, outcome, claimed, ipv6: Ipv6State::Disabled, guarded })
    }

    /// Whether that changed something.
    fn set_guard(&mut self, spec: &EndpointSpec) -> bool {
        let wanted = (spec.mac, spec.addresses.clone());
        if !spec.spoof_check || self.guards_lacking {
            self.guards.remove(&spec.id).is_some()
        } else {
            self.guards.insert(spec.id.clone(), wanted.clone()) != Some(wanted)
        }
    }

    fn ensure_guards(&mut self, specs: &[EndpointSpec]) -> GuardReport {
        let mut report = GuardReport::default();
        for spec in specs.iter().filter(|spec| self.endpoints.contains_key(&spec.id)).collect::<Vec<_>>() {
            let changed = usize::from(self.set_guard(spec));
            *if spec.spoof_check { &mut report.n_restored } else { &mut report.n_removed } += changed;
        }
        let Self { guards, endpoints, .. } = self;
        let n_before = guards.len();
        guards.retain(|id, _| endpoints.contains_key(id));
        report.n_removed += n_before - guards.len();
        report
    }

    fn inventory(&self) -> Inventory {
        let networks = self.networks.iter().map(|(id, network)| FoundNetwork {
            id: *id,
            docker_id: network.docker_id.clone(),
            bridge: names::bridge_name(*id),
            overlay_mtu: network.overlay_mtu,
            up: true,
            tap: network.has_tap.then(|| names::tap_name(*id)),
        });
        let endpoints = self.endpoints.values().map(|endpoint| FoundEndpoint {
            id: endpoint.spec.id.clone(),
            docker_network_id: endpoint.spec.docker_network_id.clone(),
            attached_to: Some(endpoint.spec.network).filter(|n| self.networks.contains_key(n)),
            host: names::veth_names(&endpoint.spec.id).map(|n| n.host).unwrap_or_default(),
            overlay_mtu: endpoint.spec.overlay_mtu,
            unclaimed: !endpoint.claimed,
        });
        let strays =
            self.stray_taps.iter().map(|id| StrayLink { name: names::tap_name(*id), tap_of: Some(*id) });
        Inventory { networks: networks.collect(), endpoints: endpoints.collect(), strays: strays.collect() }
    }
}

impl Links for FakeWiring {
    fn ensure_bridge<'a>(&'a self, spec: &'a NetworkSpec) -> BoxFuture<'a, Result<LinkState, EnsureError>> {
        Box::pin(async move { self.state().ensure_bridge(spec) })
    }

    fn attach_tap<'a>(&'a self, spec: &'a NetworkSpec) -> BoxFuture<'a, Result<LinkState, EnsureError>> {
        Box::pin(async move { self.state().attach_tap(spec) })
    }

    fn ensure_endpoint<'a>(
        &'a self,
        spec: &'a EndpointSpec,
    ) -> BoxFuture<'a, Result<EndpointLinks, EnsureError>> {
        Box::pin(async move { self.state().ensure_endpoint(spec) })
    }

    fn remove_endpoint<'a>(&'a self, endpoint: &'a EndpointId) -> BoxFuture<'a, Result<(), RemoveError>> {
        Box::pin(async move {
            let mut state = self.state();
            state.removing(&endpoint.0)?;
            state.endpoints.remove(endpoint);
            state.guards.remove(endpoint);
            Ok(())
        })
    }

    fn remove_network(&self, network: NetworkId) -> BoxFuture<'_, Result<(), RemoveError>> {
        Box::pin(async move {
            let mut state = self.state();
            state.removing(&names::bridge_name(network))?;
            state.networks.remove(&network);
            state.stray_taps.remove(&network);
            state.endpoints.retain(|_, endpoint| endpoint.spec.network != network);
            let State { guards, endpoints, .. } = &mut *state;
            guards.retain(|id, _| endpoints.contains_key(id));
            Ok(())
        })
    }

    fn remove_stray<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), RemoveError>> {
        Box::pin(async move {
            let mut state = self.state();
            state.removing(name)?;
            state.stray_taps.retain(|id| names::tap_name(*id) != name);
            Ok(())
        })
    }

    fn ensure_guards<'a>(
        &'a self,
        endpoints: &'a [EndpointSpec],
    ) -> BoxFuture<'a, Result<GuardReport, GuardError>> {
        Box::pin(async move { Ok(self.state().ensure_guards(endpoints)) })
    }

    fn guard_drops(&self) -> BoxFuture<'_, Result<Vec<(EndpointId, GuardDrops)>, GuardError>> {
        Box::pin(async {
            let state = self.state();
            let drops = |id: &EndpointId| state.drops.get(id).copied().unwrap_or_default();
            Ok(state.guards.keys().map(|id| (id.clone(), drops(id))).collect())
        })
    }

    fn guard_state(&self) -> GuardState {
        if self.state().guards_lacking {
            GuardState::Lacking { reason: "the fake was told to".to_owned() }
        } else {
            GuardState::Working
        }
    }

    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, QueryError>> {
        Box::pin(async { Ok(self.state().inventory()) })
    }

    fn traffic(&self) -> BoxFuture<'_, Result<Vec<(NetworkId, LinkTraffic)>, QueryError>> {
        Box::pin(async {
            let state = self.state();
            let taps = state.networks.iter().filter(|(_, network)| network.has_tap);
            Ok(taps.map(|(id, _)| (*id, LinkTraffic::default())).collect())
        })
    }

    fn underlay_mtu(&self, _local: Option<IpAddr>) -> BoxFuture<'_, Result<Option<u16>, QueryError>> {
        Box::pin(async { Ok(self.state().underlay_mtu) })
    }

    fn local_addresses(&self) -> BoxFuture<'_, Result<Vec<(IpAddr, String)>, QueryError>> {
        Box::pin(async { Ok(self.state().addresses.clone()) })
    }
}

/// [`ForwardRules`] in memory: one table, in which every bridge needs a rule.
#[derive(Debug, Default)]
pub struct FakeFirewall {
    rules: Mutex<BTreeSet<String>>,
}

impl FakeFirewall {
    /// No rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// dockerd has thrown all rules away.
    pub fn flush(&self) {
        self.state().clear();
    }

    /// The bridges that have a rule.
    #[must_use]
    pub fn bridges(&self) -> Vec<String> {
        self.state().iter().cloned().collect()
    }
}

impl ForwardRules for FakeFirewall {
    fn ensure<'a>(&'a self, bridges: &'a [String]) -> BoxFuture<'a, Result<FirewallReport, FirewallError>> {
        Box::pin(async move {
            let wanted: BTreeSet<String> = bridges.iter().cloned().collect();
            let mut rules = self.state();
            let report = FirewallReport {
                n_inserted: wanted.difference(&rules).count(),
                n_deleted: rules.difference(&wanted).count(),
            };
            *rules = wanted;
            Ok(report)
        })
    }

    fn remove<'a>(&'a self, bridge: &'a str) -> BoxFuture<'a, Result<FirewallReport, FirewallError>> {
        Box::pin(async move {
            let n_deleted = self.state().remove(bridge).into();
            Ok(FirewallReport { n_inserted: 0, n_deleted })
        })
    }

    fn check<'a>(&'a self, bridges: &'a [String]) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(async move {
            let table = Table { family: Family::Ipv4, backend: Backend::Nft };
            let rules = self.state();
            let missing = bridges.iter().filter(|bridge| !rules.contains(*bridge));
            missing
                .map(|bridge| Finding::RuleMissing { table, chain: "DOCKER-USER", bridge: bridge.clone() })
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> (NetworkSpec, EndpointSpec) {
        let network = NetworkSpec { id: NetworkId::from_u48(1), docker_id: "n1".into(), overlay_mtu: 1418 };
        let endpoint = EndpointSpec {
            id: EndpointId("0123456789abcdef".repeat(4)),
            network: network.id,
            docker_network_id: "n1".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec![[10, 0, 0, 1].into()],
            spoof_check: true,
            overlay_mtu: 1418,
        };
        (network, endpoint)
    }

    #[tokio::test]
    async fn fake_links_behave_as_links_do() {
        let fake = FakeWiring::new();
        let links: &dyn Links = &fake;
        let (network, endpoint) = specs();
        assert!(matches!(links.ensure_endpoint(&endpoint).await, Err(EnsureError::Missing { .. })));
        assert_eq!(links.ensure_bridge(&network).await.unwrap().outcome, Outcome::Created);
        assert_eq!(links.ensure_bridge(&network).await.unwrap().outcome, Outcome::Adopted);
        links.attach_tap(&network).await.unwrap();
        links.ensure_endpoint(&endpoint).await.unwrap();
        fake.set_claimed(&endpoint.id, true);
        assert!(links.ensure_endpoint(&endpoint).await.unwrap().claimed);
        let inventory = links.inventory().await.unwrap();
        assert_eq!((inventory.networks.len(), inventory.endpoints.len()), (1, 1));
        assert!(!inventory.endpoints.iter().any(|e| e.unclaimed));
        links.remove_network(network.id).await.unwrap();
        links.remove_endpoint(&endpoint.id).await.unwrap();
        assert!(fake.is_empty());
    }

    #[tokio::test]
    async fn fake_guards_come_and_go_with_their_endpoints() {
        let fake = FakeWiring::new();
        let (network, endpoint) = specs();
        let nothing = GuardReport::default();
        assert_eq!(fake.ensure_guards(std::slice::from_ref(&endpoint)).await.unwrap(), nothing);
        fake.ensure_bridge(&network).await.unwrap();
        assert_eq!(fake.ensure_endpoint(&endpoint).await.unwrap().guarded, Guarded::Yes);
        assert_eq!(fake.ensure_guards(std::slice::from_ref(&endpoint)).await.unwrap(), nothing);
        fake.flush_guards();
        assert_eq!(fake.ensure_guards(std::slice::from_ref(&endpoint)).await.unwrap().n_restored, 1);
        let drops = GuardDrops { ip: 3, ..GuardDrops::default() };
        fake.set_guard_drops(&endpoint.id, drops);
        assert_eq!(fake.guard_drops().await.unwrap(), [(endpoint.id.clone(), drops)]);
        let open = EndpointSpec { spoof_check: false, ..endpoint.clone() };
        assert_eq!(fake.ensure_guards(&[open]).await.unwrap().n_removed, 1);
        fake.lack_guards();
        assert_eq!(fake.ensure_endpoint(&endpoint).await.unwrap().guarded, Guarded::Lacking);
        assert_eq!(fake.guards(), []);
    }

    #[tokio::test]
    async fn fake_links_fail_when_told_and_change_nothing() {
        let fake = FakeWiring::new();
        let (network, _) = specs();
        fake.fail_next(io::ErrorKind::PermissionDenied);
        let error = fake.ensure_bridge(&network).await.unwrap_err();
        assert!(
            matches!(error, EnsureError::Kernel(f) if f.source.kind() == io::ErrorKind::PermissionDenied)
        );
        assert!(fake.is_empty());
        fake.add_foreign(&names::bridge_name(network.id));
        assert!(matches!(fake.ensure_bridge(&network).await, Err(EnsureError::Foreign { .. })));
    }
}
