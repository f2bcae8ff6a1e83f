//! What the daemon says of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The whole state of a daemon at one moment.
///
/// Spans of time are whole seconds in JSON, under names that end in `_s`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// This host's name among its peers.
    pub name: String,
    /// 32 hexadecimal digits.
    pub peer_id: String,
    /// The UDP addresses that are listened on.
    pub listen: Vec<SocketAddr>,
    /// The AEAD suite of the cluster.
    pub suite: String,
    /// A short hash by which people can compare cluster secrets; `None` without a secret.
    pub secret_fingerprint: Option<String>,
    /// Whether containers can be put on networks.
    pub ready: bool,
    /// Why not, and whatever else is wrong with the host as a whole; one line each.
    pub faults: Vec<String>,
    /// Every peer that is known, whether it answers or not.
    pub peers: Vec<PeerStatus>,
    /// Peers that know the secret and were not admitted.
    #[serde(default)]
    pub refused: Vec<RefusedStatus>,
    /// Operators' decisions about peers, also those made on other hosts.
    #[serde(default)]
    pub judged: Vec<JudgedStatus>,
    /// The networks on this host.
    pub networks: Vec<NetworkStatus>,
    /// The endpoints on the networks of this host, wherever they are.
    pub endpoints: Vec<EndpointStatus>,
    /// Where health, metrics and the live map are served over HTTP; `None`: nowhere at the moment.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// The largest MTU in bytes that containers can have on this host's underlay; `None` while it is not known.
    #[serde(default)]
    pub max_overlay_mtu: Option<u16>,
    /// What the daemon looks at again and again, and how it found it.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// Addresses that two living peers announce.
    #[serde(default)]
    pub duplicates: Vec<DuplicateStatus>,
    /// Services of the swarm with an address on a network of this host.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
    /// Whether services are reached at their addresses, and who tells of them; one line.
    #[serde(default)]
    pub services_state: String,
    /// Containers of this host that do not reach them, and why; one line each.
    #[serde(default)]
    pub service_faults: Vec<String>,
    /// Counters since the start of the daemon, by name.
    pub counters: BTreeMap<String, u64>,
    /// Datagrams and frames that were thrown away, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// How it stands with a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PeerState {
    /// There is a session.
    Connected,
    /// A handshake is being tried.
    Connecting,
    /// It does not answer any more.
    #[default]
    Down,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connected => "connected",
            Self::Connecting => "connecting",
            Self::Down => "down",
        })
    }
}

/// The way datagrams take to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PathKind {
    /// From host to host.
    Direct,
    /// Through another peer.
    Relay,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
        })
    }
}

/// One peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// 32 hexadecimal digits; `None` until a handshake has shown it.
    pub id: Option<String>,
    /// Its name; `None` until it has said it.
    pub name: Option<String>,
    /// How it stands.
    pub state: PeerState,
    /// Where its datagrams come from, or where it is looked for.
    pub address: Option<SocketAddr>,
    /// `None` without a session.
    pub path: Option<PathKind>,
    /// Name of the peer through which datagrams go; `None` when they go directly.
    #[serde(default)]
    pub via: Option<String>,
    /// Smoothed round trip to it in microseconds, of pings inside the session.
    #[serde(default)]
    pub rtt_us: Option<u64>,
    /// Whether it prefers the same cluster secret as this host; `None`: it has not said so.
    #[serde(default)]
    pub same_secret: Option<bool>,
    /// The longest IP packet of a container, in bytes, that goes there whole, as far as is known; `None` where no frames
    /// go.
    #[serde(default)]
    pub path_mtu: Option<u16>,
    /// Since the handshake.
    #[serde(rename = "session_age_s", with = "seconds")]
    pub session_age: Option<Duration>,
    /// Bytes of datagrams received.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent.
    pub tx_bytes: u64,
    /// Datagrams received.
    pub rx_datagrams: u64,
    /// Datagrams sent.
    pub tx_datagrams: u64,
    /// Since the last authenticated datagram; `None`: there was none.
    #[serde(rename = "last_seen_s", with = "seconds")]
    pub last_seen: Option<Duration>,
    /// What is wrong, and what to check; one line.
    pub problem: Option<String>,
}

/// A peer that was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// 32 hexadecimal digits.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// Where it came from.
    pub address: SocketAddr,
    /// Why, and what to do about it; one line.
    pub reason: String,
}

/// A decision about a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedStatus {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name; empty when it was not known.
    pub name: String,
    /// What was decided.
    pub judgement: crate::Judgement,
    /// On which host.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// One network on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Docker's id.
    pub id: String,
    /// The number inside the seal: 12 hexadecimal digits.
    pub wire_id: String,
    /// The containers' MTU in bytes; `None` while it is not known.
    pub mtu: Option<u16>,
    /// The bridge's interface name; `None` while there is none.
    pub bridge: Option<String>,
    /// Names of the peers that are on it too.
    pub peers: Vec<String>,
    /// Endpoints on this host.
    pub n_local_endpoints: usize,
    /// Endpoints on other hosts.
    pub n_remote_endpoints: usize,
    /// Why its containers are refused: bad options and the like; one line each.
    pub faults: Vec<String>,
    /// What was exchanged with other hosts since its links were made; `None` while there are none.
    #[serde(default)]
    pub traffic: Option<TrafficStatus>,
}

/// What passed between a network's containers on this host and other hosts, as the kernel counts at the TAP: a super-frame
/// of up to 64 KiB is one frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Bytes of frames from other hosts.
    pub rx_bytes: u64,
    /// Those frames.
    pub rx_frames: u64,
    /// Bytes of frames for other hosts.
    pub tx_bytes: u64,
    /// Those frames.
    pub tx_frames: u64,
    /// Frames for other hosts that weft did not take in time.
    pub tx_dropped: u64,
}

/// One endpoint of a network on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Docker's id.
    pub id: String,
    /// Docker's id of its network.
    pub network: String,
    /// Its Ethernet address as text.
    pub mac: String,
    /// Its addresses, without prefix.
    pub addresses: Vec<IpAddr>,
    /// Name of the peer that it is on.
    pub host: String,
    /// Whether that is this host.
    pub local: bool,
}

/// One of the things that a daemon looks at again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// What: one of the constants `CHECK_…`, or one that a later version knows.
    pub name: String,
    /// What is wrong with it; one line. `None`: nothing.
    pub fault: Option<String>,
}

/// [`CheckStatus::name`]: dockerd's FORWARD policy lets frames pass within weft's bridges.
pub const CHECK_FIREWALL: &str = "firewall";
/// [`CheckStatus::name`]: containers of this host are held to their addresses.
pub const CHECK_GUARD: &str = "spoof-guard";
/// [`CheckStatus::name`]: the HTTP server has its port.
pub const CHECK_HTTP: &str = "http";
/// [`CheckStatus::name`]: Docker's own socket is granted and answers.
pub const CHECK_DOCKER: &str = "docker-socket";
/// [`CheckStatus::name`]: what was last to be kept in the state directory was kept.
pub const CHECK_STATE: &str = "state-file";

/// An address that two living peers announce in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateStatus {
    /// Docker's id of the network.
    pub network: String,
    /// The Ethernet or IP address as text.
    pub address: String,
    /// Name of the peer that gets the frames.
    pub keeper: String,
    /// Name of the one that does not.
    pub loser: String,
}

/// A service on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Docker's id of the network.
    pub network: String,
    /// The service's address there.
    pub vip: IpAddr,
    /// Its name.
    pub name: String,
    /// Addresses of the tasks that connections go to.
    pub tasks: Vec<IpAddr>,
    /// Tasks that swarm takes for running and no living host has announced.
    pub n_unreachable: usize,
    /// Name of the peer that told of it.
    pub from: String,
}

/// Whole seconds, or null.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        value.map(|span| span.as_secs()).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(d)?.map(Duration::from_secs))
    }
}
