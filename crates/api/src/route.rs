//! Where frames for an address go.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::PathKind;

/// Where forwarding sends frames for one Ethernet address of a network on this host: what is in effect, with one host an
/// address, where [`Status::endpoints`](crate::Status::endpoints) lists all that was announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Docker's id of the network.
    pub network: String,
    /// The Ethernet address as text.
    pub mac: String,
    /// The IP addresses whose frames go to it.
    pub addresses: Vec<IpAddr>,
    /// Name of the host that has it.
    pub host: String,
    /// Whether that is this host: such frames do not leave it.
    pub local: bool,
    /// The way to the host; `None`: frames are dropped, since there is no session or no relay.
    pub path: Option<PathKind>,
    /// Name of the relay, on a way over one.
    pub via: Option<String>,
    /// Where datagrams are sent: to the host, or to the relay.
    pub address: Option<SocketAddr>,
    /// The longest IP packet in bytes that goes there whole, as far as is known.
    pub path_mtu: Option<u16>,
}
