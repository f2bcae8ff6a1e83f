//! What Docker's own socket tells of the swarm, where the operator has granted it.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Longest answer that is read.
const MAX_BODY_LEN: usize = 16 << 20;
/// dockerd does not serve its socket while it restores plugins, so nothing may wait for it for long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Docker did not answer. Asked again later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DockerError {
    /// No socket, or no permission.
    #[error("cannot connect to {0}: {1}")]
    Connect(PathBuf, std::io::Error),
    /// The connection broke.
    #[error("Docker's answer did not arrive: {0}")]
    Http(#[from] hyper::Error),
    /// Not a success, or too long.
    #[error("Docker answered {path} with status {status}")]
    Status {
        /// What was asked for.
        path: &'static str,
        /// The HTTP status.
        status: u16,
    },
    /// The body is longer than 16 MiB or breaks off.
    #[error("Docker's answer could not be read")]
    Body,
    /// Not the JSON that was expected.
    #[error("Docker's answer is of an unknown form: {0}")]
    Json(#[from] serde_json::Error),
    /// Nothing came within 5 s.
    #[error("Docker did not answer within 5 seconds")]
    Timeout,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Info {
    #[serde(default)]
    pub(crate) swarm: Option<SwarmInfo>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SwarmInfo {
    #[serde(default)]
    node_addr: String,
    #[serde(default)]
    pub(crate) control_available: bool,
    #[serde(default)]
    remote_managers: Option<Vec<Manager>>,
    /// Told to managers only.
    #[serde(default)]
    pub(crate) cluster: Option<Cluster>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Cluster {
    #[serde(rename = "ID", default)]
    pub(crate) id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manager {
    #[serde(default)]
    addr: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmNode {
    #[serde(default)]
    status: NodeStatus,
    #[serde(default)]
    manager_status: Option<Manager>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeStatus {
    #[serde(default)]
    addr: String,
}

/// What a host can know of its swarm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SwarmView {
    /// The address that this host advertises.
    pub(crate) own: Option<IpAddr>,
    /// Addresses of the others: on a worker the managers', on a manager everyone's.
    pub(crate) others: Vec<IpAddr>,
}

/// Whether the operator has granted the socket: a plugin without it has something else in its place.
pub(crate) fn is_granted(socket: &Path) -> bool {
    std::fs::metadata(socket).is_ok_and(|m| m.file_type().is_socket())
}

/// Asks dockerd for the swarm's hosts.
///
/// # Errors
/// [`DockerError`].
pub(crate) async fn swarm_view(socket: &Path) -> Result<SwarmView, DockerError> {
    let info: Info = get(socket, "/info").await?;
    let Some(swarm) = info.swarm else { return Ok(SwarmView::default()) };
    let nodes: Vec<SwarmNode> =
        if swarm.control_available { get(socket, "/nodes").await? } else { Vec::new() };
    Ok(view(swarm, nodes))
}

fn view(swarm: SwarmInfo, nodes: Vec<SwarmNode>) -> SwarmView {
    let own = usable(&swarm.node_addr);
    let managers = swarm.remote_managers.unwrap_or_default().into_iter().map(|m| m.addr);
    let nodes =
        nodes.into_iter().flat_map(|n| [Some(n.status.addr), n.manager_status.map(|m| m.addr)]).flatten();
    let mut others: Vec<IpAddr> =
        managers.chain(nodes).filter_map(|a| usable(&a)).filter(|a| Some(*a) != own).collect();
    others.sort_unstable();
    others.dedup();
    SwarmView { own, others }
}

/// The address in `text`, with or without a port; a manager's own entry may be 0.0.0.0, which is of no use.
fn usable(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|a| a.ip())).ok()?;
    (!address.is_unspecified()).then_some(address)
}

pub(crate) async fn get<T: DeserializeOwned>(socket: &Path, path: &'static str) -> Result<T, DockerError> {
    get_filtered(socket, path, "").await
}

/// Asks with filters, in Docker's JSON.
pub(crate) async fn get_filtered<T: DeserializeOwned>(
    socket: &Path,
    path: &'static str,
    filters: &str,
) -> Result<T, DockerError> {
    let answer = tokio::time::timeout(TIMEOUT, fetch(socket, path, filters));
    answer.await.map_err(|_| DockerError::Timeout)?
}

/// The path with its filters, all but letters and digits of which are escaped.
pub(crate) fn target(path: &str, filters: &str) -> String {
    if filters.is_empty() {
        return path.to_owned();
    }
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    format!("{path}?filters={}", filters.bytes().map(escape).collect::<String>())
}

async fn fetch<T: DeserializeOwned>(
    socket: &Path,
    path: &'static str,
    filters: &str,
) -> Result<T, DockerError> {
    let stream = UnixStream::connect(socket).await.map_err(|e| DockerError::Connect(socket.to_owned(), e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(target(path, filters)).header("Host", "docker").body(Empty::<Bytes>::new());
    let request = request.map_err(|_| DockerError::Body)?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(DockerError::Status { path, status: status.as_u16() });
        }
        let body = Limited::new(response.into_body(), MAX_BODY_LEN).collect().await;
        Ok(serde_json::from_slice(&body.map_err(|_| DockerError::Body)?.to_bytes())?)
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        closed = connection => { closed?; exchange.await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_sees_every_host() {
        let info: Info = serde_json::from_str(
            r#"{"Name":"m1","Swarm":{"NodeID":"a","NodeAddr":"10.0.0.1","ControlAvailable":true,
                "RemoteManagers":[{"NodeID":"a","Addr":"10.0.0.1:2377"}]}}"#,
        )
        .unwrap();
        let nodes = serde_json::from_str(
            r#"[{"ID":"a","Status":{"State":"ready","Addr":"0.0.0.0"},"ManagerStatus":{"Addr":"10.0.0.1:2377"}},
                {"ID":"b","Status":{"State":"ready","Addr":"10.0.0.2"}},{"ID":"c","Status":{"State":"unknown"}}]"#,
        )
        .unwrap();
        let view = view(info.swarm.unwrap(), nodes);
        assert_eq!(view.own, Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(view.others, [IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn a_host_without_a_swarm_sees_no_one() {
        let info: Info =
            serde_json::from_str(r#"{"Swarm":{"NodeID":"","NodeAddr":"","RemoteManagers":null}}"#).unwrap();
        assert_eq!(view(info.swarm.unwrap(), Vec::new()), SwarmView::default());
    }
}
