//! Carries out dockerd's calls.
//!
//! dockerd is answered when both records and links are there, so that what it takes as done is known after a restart.
//! Endpoints of different containers are made side by side (the topology is not locked meanwhile); networks one after the
//! other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use weft_driver::{
    AllocateNetwork, Backend, BackendError, CreateEndpoint, CreateNetwork, EndpointRecord, Join, Joined,
    NetworkRecord, NodeDiscovery, OptionFault,
};
use weft_netlink::names;
use weft_wire::EndpointId;

use crate::core::{Core, Endpoint, Network, Running, failed, wire_id};
use crate::store::Changes;

/// What the interface is called inside the container, before its number.
const CONTAINER_PREFIX: &str = "eth";

/// The driver's backend.
#[derive(Clone)]
pub(crate) struct Engine(pub(crate) Arc<Core>);

impl Engine {
    fn running(&self) -> Result<Arc<Running>, BackendError> {
        self.0.running.load_full().ok_or_else(|| failed(self.0.faults().join("; ")))
    }
}

impl Backend for Engine {
    fn not_ready(&self) -> Option<String> {
        let faults = self.0.faults();
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    async fn network_faults(&self, network_id: &str) -> Result<Vec<OptionFault>, BackendError> {
        let topology = self.0.topology.read().await;
        let network = topology.networks.get(network_id);
        let network = network.ok_or_else(|| BackendError::UnknownNetwork(network_id.to_owned()))?;
        Ok(network.record.network.options.faults.clone())
    }

    async fn allocate_network(
        &self,
        request: AllocateNetwork,
    ) -> Result<BTreeMap<String, String>, BackendError> {
        // Hosts see only what is answered here, so it is the user's options; hosts derive the rest by themselves.
        Ok(request.given)
    }

    async fn free_network(&self, _network_id: &str) -> Result<(), BackendError> {
        Ok(())
    }

    async fn create_network(&self, request: CreateNetwork) -> Result<(), BackendError> {
        let record = NetworkRecord { network: request };
        let id = wire_id(&record);
        let docker_id = record.network.network_id.clone();
        let mut topology = self.0.topology.write().await;
        let in_use = topology.endpoints.values().any(|e| e.record.endpoint.network_id == docker_id);
        let known = topology.networks.get(&docker_id);
        if in_use && known.is_some_and(|known| known.record != record) {
            warn!(network = %docker_id, "created again with other options while containers are on it: the old ones stay");
        } else if known.is_none_or(|known| known.record != record) {
            let clash =
                topology.networks.values().find(|n| n.id == id && n.record.network.network_id != docker_id);
            if let Some(other) = clash {
                return Err(failed(format!(
                    "network {} on this host has the same weft.id: give one of them another",
                    other.record.network.network_id
                )));
            }
            self.0.write(Changes::default().put_network(&record)).await?;
            // Its links are as the old options asked.
            if let Some(mut old) = topology.networks.remove(&docker_id) {
                self.0.take_down(&mut old).await?;
            }
        }
        // A repeated call for a network in use must not start the time after which an empty one is taken down.
        let empty_since = (!in_use).then(Instant::now);
        let new = Network { record, id, up: None, empty_since };
        let network = topology.networks.entry(docker_id).or_insert(new);
        network.empty_since = empty_since;
        let Some(running) = self.0.running.load_full() else { return Ok(()) };
        if network.record.network.options.faults.is_empty() {
            self.0.bring_up(&running, network).await?;
            drop(topology);
            self.0.guard_bridges().await;
        }
        Ok(())
    }

    async fn delete_network(&self, network_id: &str) -> Result<(), BackendError> {
        let mut topology = self.0.topology.write().await;
        let leftover: Vec<String> = topology
            .endpoints
            .values()
            .map(|e| &e.record.endpoint)
            .filter(|e| e.network_id == network_id)
            .map(|e| e.endpoint_id.clone())
            .collect();
        for endpoint_id in leftover {
            self.0.drop_endpoint(&mut topology, &endpoint_id).await?;
        }
        if let Some(network) = topology.networks.get_mut(network_id) {
            self.0.take_down(network).await?;
            self.0.write(Changes::default().remove_network(network_id)).await?;
            topology.networks.remove(network_id);
            info!(network = network_id, "network removed");
            drop(topology);
            self.0.guard_bridges().await;
        }
        Ok(())
    }

    async fn create_endpoint(&self, request: CreateEndpoint) -> Result<(), BackendError> {
        let since = Instant::now();
        let running = self.running()?;
        let record = EndpointRecord { endpoint: request, sandbox_key: None, multicast_route: false };
        let (network_id, endpoint_id) =
            (record.endpoint.network_id.clone(), record.endpoint.endpoint_id.clone());
        // Until this call ends, the endpoint is not taken for one whose container is gone.
        let making = Arc::new(());
        let up = {
            let mut topology = self.0.topology.write().await;
            let network = topology.networks.get_mut(&network_id);
            let network = network.ok_or_else(|| BackendError::UnknownNetwork(network_id.clone()))?;
            let was_up = network.up.is_some();
            self.0.bring_up(&running, network).await?;
            network.empty_since = None;
            let up = network.place();
            let new = || Endpoint::new(record.clone());
            let endpoint = topology.endpoints.entry(endpoint_id.clone()).or_insert_with(new);
            endpoint.making = Arc::downgrade(&making);
            drop(topology);
            if !was_up {
                self.0.guard_bridges().await;
            }
            up
        };
        let Some(place) = up else {
            return Err(failed("the network's links were removed meanwhile"));
        };
        // Side by side: links without a record are collected, and so is a record without links. dockerd is answered
        // when there are both.
        let (stored, made) =
            tokio::join!(self.0.put_endpoint(&record), self.0.connect(&running, place, &record));
        if let Err(error) = stored.and(made) {
            if let Err(error) = self.forget_endpoint(&endpoint_id).await {
                warn!(endpoint = %endpoint_id, %error, "half-made endpoint not removed");
            }
            return Err(error);
        }
        self.0.set_linked(&endpoint_id, Some(since.elapsed())).await;
        debug!(endpoint = %endpoint_id, network = %network_id, "endpoint created");
        Ok(())
    }

    async fn endpoint_info(
        &self,
        network_id: &str,
        endpoint_id: &str,
    ) -> Result<BTreeMap<String, String>, BackendError> {
        let topology = self.0.topology.read().await;
        let Some(endpoint) = topology.endpoints.get(endpoint_id) else { return Ok(BTreeMap::new()) };
        let mut info = BTreeMap::from([("mac".to_owned(), endpoint.record.endpoint.mac.to_string())]);
        if let Some(network) = topology.networks.get(network_id) {
            info.insert("bridge".to_owned(), names::bridge_name(network.id));
            info.extend(network.up.map(|mtu| ("mtu".to_owned(), mtu.to_string())));
        }
        if let Some(veth) = names::veth_names(&EndpointId(endpoint_id.to_owned())) {
            info.insert("veth".to_owned(), veth.host);
        }
        Ok(info)
    }

    async fn delete_endpoint(&self, _network_id: &str, endpoint_id: &str) -> Result<(), BackendError> {
        self.forget_endpoint(endpoint_id).await
    }

    async fn join(&self, request: Join) -> Result<Joined, BackendError> {
        let since = Instant::now();
        let running = self.running()?;
        let unknown = || BackendError::UnknownEndpoint {
            network_id: request.network_id.clone(),
            endpoint_id: request.endpoint_id.clone(),
        };
        let (record, place, is_linked, created_in) = {
            let mut topology = self.0.topology.write().await;
            let network = topology.networks.get(&request.network_id);
            let network = network.ok_or_else(|| BackendError::UnknownNetwork(request.network_id.clone()))?;
            let place = network.place();
            let multicast_route = topology.wants_multicast_route(&request.endpoint_id, &request.sandbox_key);
            let endpoint = topology.endpoints.get_mut(&request.endpoint_id).ok_or_else(unknown)?;
            if endpoint.record.endpoint.network_id != request.network_id {
                return Err(unknown());
            }
            endpoint.record.sandbox_key = Some(request.sandbox_key.clone());
            endpoint.record.multicast_route = multicast_route;
            endpoint.unclaimed_since = None;
            (endpoint.record.clone(), place, endpoint.is_linked, endpoint.created_in.take())
        };
        let place = place.ok_or_else(|| BackendError::UnknownNetwork(request.network_id.clone()))?;
        if !is_linked {
            // The daemon was away since CreateEndpoint.
            self.0.connect(&running, place, &record).await?;
            self.0.set_linked(&request.endpoint_id, None).await;
        }
        let multicast_route = record.multicast_route;
        self.0.put_endpoint(&record).await?;
        self.0.sandboxes_changed.notify_one();
        let veth = names::veth_names(&EndpointId(request.endpoint_id.clone())).ok_or_else(unknown)?;
        if let Some(created_in) = created_in {
            self.0.calls.count_set_up(created_in + since.elapsed());
        }
        Ok(Joined { src_name: veth.container, dst_prefix: CONTAINER_PREFIX.to_owned(), multicast_route })
    }

    async fn leave(&self, _network_id: &str, endpoint_id: &str) -> Result<(), BackendError> {
        let record = {
            let mut topology = self.0.topology.write().await;
            let Some(endpoint) = topology.endpoints.get_mut(endpoint_id) else { return Ok(()) };
            endpoint.record.sandbox_key = None;
            endpoint.record.multicast_route = false;
            endpoint.record.clone()
        };
        self.0.sandboxes_changed.notify_one();
        self.0.put_endpoint(&record).await
    }

    async fn discover_new(&self, node: NodeDiscovery) -> Result<(), BackendError> {
        if node.self_ {
            self.0.set_advertised(node.address).await;
            return Ok(());
        }
        let seed = SocketAddr::new(node.address, self.0.settings.port);
        self.0.discover(vec![seed]).await;
        Ok(())
    }

    async fn discover_delete(&self, node: NodeDiscovery) -> Result<(), BackendError> {
        // It also comes for a host that is merely down, so it is no reason to give up on one.
        debug!(address = %node.address, "dockerd lost sight of a host");
        Ok(())
    }

    fn answered(&self, path: &'static str, elapsed: Duration, failed: bool) {
        self.0.calls.count(path, elapsed, failed);
    }
}

impl Engine {
    async fn forget_endpoint(&self, endpoint_id: &str) -> Result<(), BackendError> {
        self.0.disconnect(endpoint_id).await?;
        self.0.topology.write().await.remove_endpoint(endpoint_id);
        self.0.forget_record(endpoint_id).await
    }
}

#[cfg(test)]
mod tests;
