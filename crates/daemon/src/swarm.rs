//! Services and tasks of the swarm, as a manager's dockerd tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use weft_driver::NetworkOptions;
use weft_services::Service;
use weft_wire::NetworkId;

use crate::core::network_id;
use crate::docker::{DockerError, Info, get, get_filtered, target};

/// The driver's socket in a plugin's configuration: plugins that have it are weft, whatever their name.
const DRIVER_SOCKET: &str = "weft.sock";
/// How old the list of networks and of weft's names may be.
const NETWORKS_AGE: Duration = Duration::from_secs(15);
/// How old the list of services may be, when no event told of a change.
const SERVICES_AGE: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    #[serde(default)]
    name: String,
    config: PluginConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PluginConfig {
    interface: PluginInterface,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PluginInterface {
    #[serde(default)]
    socket: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    id: String,
    #[serde(default)]
    driver: String,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    #[serde(default)]
    index: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmService {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    version: Version,
    spec: ServiceSpec,
    #[serde(default)]
    endpoint: ServiceEndpoint,
    #[serde(default)]
    update_status: Option<UpdateStatus>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceSpec {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceEndpoint {
    #[serde(rename = "VirtualIPs", default)]
    virtual_ips: Option<Vec<VirtualIp>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VirtualIp {
    #[serde(rename = "NetworkID", default)]
    network_id: String,
    #[serde(default)]
    addr: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateStatus {
    #[serde(default)]
    state: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Task {
    #[serde(default)]
    version: Version,
    #[serde(rename = "ServiceID", default)]
    service_id: String,
    #[serde(default)]
    status: TaskStatus,
    #[serde(default)]
    desired_state: String,
    #[serde(default)]
    networks_attachments: Option<Vec<Attachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskStatus {
    #[serde(default)]
    state: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attachment {
    network: AttachedNetwork,
    #[serde(default)]
    addresses: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct AttachedNetwork {
    #[serde(rename = "ID", default)]
    id: String,
}

/// What a look at dockerd came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// This host is no manager of a swarm.
    NoManager,
    /// The services on weft's networks.
    Services {
        /// The swarm's id.
        swarm: String,
        /// All of them.
        services: Vec<Service>,
        /// Tasks are about to start or to be replaced.
        is_moving: bool,
    },
}

/// Looks again and again, and asks only for what may have changed.
#[derive(Debug, Default)]
pub(crate) struct Look {
    swarm: String,
    networks: BTreeMap<String, NetworkId>,
    networks_at: Option<Instant>,
    services: Vec<SwarmService>,
    services_at: Option<Instant>,
}

impl Look {
    /// An event told that services changed.
    pub(crate) fn expire(&mut self) {
        self.services_at = None;
    }

    /// Asks dockerd at `socket`.
    ///
    /// # Errors
    /// [`DockerError`]; also while the swarm's managers have no leader.
    pub(crate) async fn look(&mut self, socket: &Path) -> Result<Seen, DockerError> {
        let is_old = |at: Option<Instant>, age| at.is_none_or(|at| at.elapsed() >= age);
        if is_old(self.services_at, SERVICES_AGE) {
            let info: Info = get(socket, "/info").await?;
            let swarm = info.swarm.filter(|swarm| swarm.control_available).and_then(|swarm| swarm.cluster);
            let Some(cluster) = swarm else {
                *self = Self::default();
                return Ok(Seen::NoManager);
            };
            self.swarm = cluster.id;
            let services: Vec<SwarmService> = get(socket, "/services").await?;
            let has_new =
                services.iter().flat_map(vips).any(|vip| !self.networks.contains_key(&vip.network_id));
            if is_old(self.networks_at, NETWORKS_AGE) || has_new {
                self.networks = networks(socket).await?;
                self.networks_at = Some(Instant::now());
            }
            self.services = services;
            self.services.retain(|s| vips(s).any(|vip| self.networks.contains_key(&vip.network_id)));
            self.services_at = Some(Instant::now());
        }
        let tasks: Vec<Task> = if self.services.is_empty() {
            Vec::new()
        } else {
            let ids: Vec<&str> = self.services.iter().map(|service| service.id.as_str()).collect();
            let filters = json!({ "service": ids, "desired-state": ["running"] }).to_string();
            get_filtered(socket, "/tasks", &filters).await?
        };
        let services = assemble(&self.networks, &self.services, &tasks);
        let is_moving = self.services.iter().any(is_updating) || tasks.iter().any(is_starting);
        Ok(Seen::Services { swarm: self.swarm.clone(), services, is_moving })
    }
}

/// The networks that weft drives, and their ids inside the seal.
async fn networks(socket: &Path) -> Result<BTreeMap<String, NetworkId>, DockerError> {
    let plugins: Vec<Plugin> = get(socket, "/plugins").await?;
    let drivers: BTreeSet<String> =
        plugins.into_iter().filter(|p| p.config.interface.socket == DRIVER_SOCKET).map(|p| p.name).collect();
    let filters = json!({ "scope": ["swarm"] }).to_string();
    let networks: Vec<Network> = get_filtered(socket, "/networks", &filters).await?;
    let driven = networks.into_iter().filter(|network| drivers.contains(&network.driver));
    Ok(driven
        .map(|network| {
            let options = NetworkOptions::parse(&network.options.unwrap_or_default());
            let id = network_id(&network.id, &options);
            (network.id, id)
        })
        .collect())
}

fn vips(service: &SwarmService) -> impl Iterator<Item = &VirtualIp> {
    service.endpoint.virtual_ips.iter().flatten()
}

fn is_updating(service: &SwarmService) -> bool {
    let state = service.update_status.as_ref().map(|update| update.state.as_str());
    matches!(state, Some("updating" | "rollback_started"))
}

fn is_starting(task: &Task) -> bool {
    matches!(task.status.state.as_str(), "ready" | "starting")
}

/// An address without its prefix length.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn assemble(
    networks: &BTreeMap<String, NetworkId>,
    services: &[SwarmService],
    tasks: &[Task],
) -> Vec<Service> {
    let mut list = Vec::new();
    for service in services {
        let tasks: Vec<&Task> = tasks.iter().filter(|task| task.service_id == service.id).collect();
        let index = tasks.iter().map(|task| task.version.index).fold(service.version.index, u64::max);
        for virtual_ip in vips(service) {
            let (Some(network), Some(vip)) =
                (networks.get(&virtual_ip.network_id), address(&virtual_ip.addr))
            else {
                continue;
            };
            let running =
                tasks.iter().filter(|t| t.status.state == "running" && t.desired_state == "running");
            let attachments = running.flat_map(|task| task.networks_attachments.iter().flatten());
            let here = attachments.filter(|attachment| attachment.network.id == virtual_ip.network_id);
            let addresses = here.flat_map(|a| a.addresses.iter().flatten()).filter_map(|a| address(a));
            let tasks = addresses.filter(|a| a.is_ipv4() == vip.is_ipv4()).collect();
            let name = service.spec.name.clone();
            list.push(Service { network: *network, vip, name, index, tasks });
        }
    }
    list
}

/// Notifies `wake` whenever dockerd tells that a service or network changed, or that a container of this host came or
/// went. Ends when the connection does.
///
/// # Errors
/// [`DockerError`].
pub(crate) async fn follow_events(socket: &Path, wake: &Notify) -> Result<(), DockerError> {
    let stream = UnixStream::connect(socket).await.map_err(|e| DockerError::Connect(socket.to_owned(), e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let filters = json!({
        "type": ["service", "node", "network", "container"],
        "event": ["create", "update", "remove", "start", "die", "connect", "disconnect"],
    });
    let path = "/events";
    let request = Request::get(target(path, &filters.to_string())).header("Host", "docker");
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| DockerError::Body)?;
    let events = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(DockerError::Status { path, status: status.as_u16() });
        }
        // Nothing was heard before this moment.
        wake.notify_one();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
            wake.notify_one();
        }
        Ok(())
    };
    tokio::pin!(events);
    tokio::select! {
        ended = &mut events => ended,
        closed = connection => { closed?; events.await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = r#"[
        {"ID":"s1","Version":{"Index":20},"Spec":{"Name":"web","EndpointSpec":{"Mode":"vip"}},
         "Endpoint":{"Spec":{"Mode":"vip"},"VirtualIPs":[
            {"NetworkID":"n1","Addr":"10.0.1.2/24"},{"NetworkID":"n1","Addr":"fd00::2/64"},
            {"NetworkID":"n2","Addr":"10.0.2.2/24"}]},
         "UpdateStatus":{"State":"completed"}},
        {"ID":"s2","Version":{"Index":21},"Spec":{"Name":"rr","EndpointSpec":{"Mode":"dnsrr"}},
         "Endpoint":{"Spec":{"Mode":"dnsrr"}}},
        {"ID":"s3","Version":{"Index":22},"Spec":{"Name":"none"},"Endpoint":{}}]"#;

    const TASKS: &str = r#"[
        {"ID":"t1","Version":{"Index":30},"ServiceID":"s1","Status":{"State":"running"},"DesiredState":"running",
         "NetworksAttachments":[{"Network":{"ID":"n1"},"Addresses":["10.0.1.5/24","fd00::5/64"]},
                                {"Network":{"ID":"n2"},"Addresses":["10.0.2.5/24"]}]},
        {"ID":"t2","Version":{"Index":31},"ServiceID":"s1","Status":{"State":"starting"},"DesiredState":"running",
         "NetworksAttachments":[{"Network":{"ID":"n1"},"Addresses":["10.0.1.6/24"]}]},
        {"ID":"t3","Version":{"Index":29},"ServiceID":"s1","Status":{"State":"running"},"DesiredState":"shutdown",
         "NetworksAttachments":[{"Network":{"ID":"n1"},"Addresses":["10.0.1.7/24"]}]},
        {"ID":"t4","Version":{"Index":40},"ServiceID":"s2","Status":{"State":"running"},"DesiredState":"running",
         "NetworksAttachments":null}]"#;

    #[test]
    fn running_tasks_stand_behind_their_services_addresses() {
        let services: Vec<SwarmService> = serde_json::from_str(SERVICES).unwrap();
        let tasks: Vec<Task> = serde_json::from_str(TASKS).unwrap();
        let network = NetworkId::from_u48(1);
        let found = assemble(&[("n1".to_owned(), network)].into(), &services, &tasks);
        let expected = |vip: &str, task: &str| Service {
            network,
            vip: vip.parse().unwrap(),
            name: "web".into(),
            index: 31,
            tasks: [task.parse().unwrap()].into(),
        };
        assert_eq!(found, [expected("10.0.1.2", "10.0.1.5"), expected("fd00::2", "fd00::5")]);
        assert!(tasks.iter().any(is_starting) && !services.iter().any(is_updating));
    }

    #[test]
    fn weft_is_known_by_its_socket() {
        let plugins: Vec<Plugin> = serde_json::from_str(
            r#"[{"Id":"x","Name":"overlay2:latest","Enabled":true,"Config":{"Interface":{"Socket":"weft.sock",
                "Types":["docker.networkdriver/1.0"]}}}]"#,
        )
        .unwrap();
        assert_eq!(
            (plugins[0].name.as_str(), plugins[0].config.interface.socket.as_str()),
            ("overlay2:latest", DRIVER_SOCKET)
        );
    }

    #[test]
    fn filters_are_escaped() {
        assert_eq!(target("/tasks", r#"{"a":["b1"]}"#), "/tasks?filters=%7B%22a%22%3A%5B%22b1%22%5D%7D");
        assert_eq!(target("/info", ""), "/info");
    }
}
