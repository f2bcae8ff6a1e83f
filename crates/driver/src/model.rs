//! What a backend is asked for, after checking.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use weft_wire::Mac;

use crate::NetworkOptions;

/// A subnet of a network, as Docker's address manager gave it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The subnet; `0.0.0.0/0` under `--ipam-driver null`.
    pub subnet: IpNet,
    /// The gateway's address, with the subnet's prefix. Informative: weft gives containers no gateway, docker_gwbridge
    /// does.
    pub gateway: Option<IpNet>,
    /// Addresses reserved by name (`--aux-address`). Swarm loses them.
    pub reserved: BTreeMap<String, IpAddr>,
}

/// AllocateNetwork: on a swarm manager, once, and again when a manager restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocateNetwork {
    /// Docker's id.
    pub network_id: String,
    /// The options as given; after a manager's restart also what was answered before. The answer to this call is all
    /// that hosts get to see as options in CreateNetwork: answer at least these.
    pub given: BTreeMap<String, String>,
    /// `given`, checked. Faults must not fail the call: its errors reach no one.
    pub options: NetworkOptions,
    /// IPv4 subnets.
    pub ipv4: Vec<Pool>,
    /// IPv6 subnets.
    pub ipv6: Vec<Pool>,
}

/// CreateNetwork: on a host, before its first endpoint on the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateNetwork {
    /// Docker's id: 25 characters in a swarm, 64 hexadecimal digits outside.
    pub network_id: String,
    /// The options, checked.
    pub options: NetworkOptions,
    /// IPv4 subnets.
    pub ipv4: Vec<Pool>,
    /// IPv6 subnets.
    pub ipv6: Vec<Pool>,
    /// `--internal`: no way out of the network.
    pub internal: bool,
}

/// CreateEndpoint: a container is about to be put on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateEndpoint {
    /// Docker's id of the network.
    pub network_id: String,
    /// Docker's id of the endpoint.
    pub endpoint_id: String,
    /// IPv4 address with the subnet's prefix; `None` on a network without IPv4.
    pub address: Option<Ipv4Net>,
    /// IPv6 address with the subnet's prefix.
    pub address_v6: Option<Ipv6Net>,
    /// The container's Ethernet address: the one dockerd gave, else [`derive_mac`]'s. Never a group address.
    pub mac: Mac,
}

/// Join: the endpoint's interface is to go into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Docker's id of the network.
    pub network_id: String,
    /// Docker's id of the endpoint.
    pub endpoint_id: String,
    /// Path of the container's network namespace. On older engines the file appears only after Join has returned.
    pub sandbox_key: String,
}

/// The answer to [`Join`]. There is no gateway in it: docker_gwbridge sees to egress and published ports.
///
/// Its default route would take multicast of programs that name no interface, too, and so would their subscriptions go
/// there: hence a route of its own. dockerd fails to put a second one into a sandbox, so one endpoint of it has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The interface that dockerd moves into the sandbox; at most 15 bytes.
    pub src_name: String,
    /// What it is called there, without its number: `eth`.
    pub dst_prefix: String,
    /// Whether IPv4 multicast of programs that name no interface takes this one.
    pub multicast_route: bool,
}

/// DiscoverNew, DiscoverDelete: a hint that a host of the swarm came or went. Not to be relied upon: a Delete also
/// comes for a mere failure, and after a restart only this host itself is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeDiscovery {
    /// The host's advertised address.
    pub address: IpAddr,
    /// The address it binds to; given for this host only.
    pub bind_address: Option<IpAddr>,
    /// Whether it is this host.
    pub self_: bool,
}

/// The Ethernet address of an endpoint for which none was given: the same whenever asked, and different for different
/// addresses of a network.
///
/// | endpoint | address |
/// |---|---|
/// | has IPv4 | `02:42` and the address, as Docker's own drivers do |
/// | has IPv6 only | `02:43` and the last four bytes of the address |
/// | has neither | `02` and 40 bits of a hash of its id |
#[must_use]
pub fn derive_mac(address: Option<Ipv4Net>, address_v6: Option<Ipv6Net>, endpoint_id: &str) -> Mac {
    if let Some(address) = address {
        let [a, b, c, d] = address.addr().octets();
        return Mac([0x02, 0x42, a, b, c, d]);
    }
    if let Some(address) = address_v6 {
        let [.., a, b, c, d] = address.addr().octets();
        return Mac([0x02, 0x43, a, b, c, d]);
    }
    // FNV-1a: spreads ids that differ anywhere; nothing here needs it to be hard to invert.
    let hash = endpoint_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let [.., a, b, c, d, e] = hash.to_be_bytes();
    Mac([0x02, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_make_ethernet_addresses() {
        let mac = |v4: Option<&str>, v6: Option<&str>, id| {
            derive_mac(v4.map(|a| a.parse().unwrap()), v6.map(|a| a.parse().unwrap()), id).to_string()
        };
        assert_eq!(mac(Some("10.71.0.77/24"), Some("fd00::1/64"), "x"), "02:42:0a:47:00:4d");
        assert_eq!(mac(None, Some("fd00::1:2/64"), "x"), "02:43:00:01:00:02");
        let (x, y) = (mac(None, None, "62d6a351b764"), mac(None, None, "62d6a351b765"));
        assert!(x.starts_with("02:") && x != y, "{x} {y}");
    }
}
