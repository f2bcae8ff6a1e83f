//! What of weft's is there, read from one listing of the host's links.

use weft_wire::{EndpointId, NetworkId};

use crate::link::{Kind, Link};
use crate::names::{self, Alias};

/// Everything on the host that is weft's, for adoption after a restart and for collecting garbage.
///
/// An endpoint whose sandbox is gone is not in it: the kernel destroys both ends of the pair with the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Networks that have a bridge.
    pub networks: Vec<FoundNetwork>,
    /// Endpoints whose host side is there.
    pub endpoints: Vec<FoundEndpoint>,
    /// What belongs to nothing above: remove it with [`crate::Links::remove_stray`].
    pub strays: Vec<StrayLink>,
}

/// A network's links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundNetwork {
    /// From the bridge's name.
    pub id: NetworkId,
    /// From the bridge's alias.
    pub docker_id: String,
    /// The bridge's name.
    pub bridge: String,
    /// The bridge's MTU in bytes.
    pub overlay_mtu: u16,
    /// Whether the bridge is up.
    pub up: bool,
    /// The TAP's name, when it is a port of the bridge.
    pub tap: Option<String>,
}

/// An endpoint's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundEndpoint {
    /// From the alias.
    pub id: EndpointId,
    /// From the alias.
    pub docker_network_id: String,
    /// The network whose bridge the host side is a port of.
    pub attached_to: Option<NetworkId>,
    /// Name of the host side.
    pub host: String,
    /// The host side's MTU in bytes.
    pub overlay_mtu: u16,
    /// The container side is still in this namespace: dockerd has not moved it into a sandbox, or has moved it back.
    pub unclaimed: bool,
}

/// A link of weft that nothing uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrayLink {
    /// The link's name.
    pub name: String,
    /// The network of a TAP.
    pub tap_of: Option<NetworkId>,
}

pub(crate) fn clamp_mtu(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

impl Inventory {
    /// Sorts a listing of all links of the host.
    pub(crate) fn of(links: &[Link]) -> Self {
        let mut inventory = Self::default();
        let bridges: Vec<(&Link, NetworkId, String)> = links
            .iter()
            .filter(|link| link.kind == Kind::Bridge)
            .filter_map(|link| {
                let id = names::network_of_bridge(&link.name)?;
                let Alias::Network { docker_id } = link.weft_alias()? else { return None };
                Some((link, id, docker_id))
            })
            .collect();
        let mut used = Vec::new();
        for (bridge, id, docker_id) in &bridges {
            let tap = links.iter().find(|l| {
                l.kind == Kind::Tun && l.name == names::tap_name(*id) && l.master == Some(bridge.index)
            });
            used.extend([bridge.index].into_iter().chain(tap.map(|t| t.index)));
            inventory.networks.push(FoundNetwork {
                id: *id,
                docker_id: docker_id.clone(),
                bridge: bridge.name.clone(),
                overlay_mtu: clamp_mtu(bridge.mtu),
                up: bridge.up,
                tap: tap.map(|t| t.name.clone()),
            });
        }
        for link in links.iter().filter(|l| l.kind == Kind::Veth && names::is_host_veth(&l.name)) {
            let Some(Alias::Endpoint { id, docker_network_id }) = link.weft_alias() else { continue };
            used.push(link.index);
            let attached_to =
                bridges.iter().find(|(b, ..)| Some(b.index) == link.master).map(|(_, id, _)| *id);
            inventory.endpoints.push(FoundEndpoint {
                id,
                docker_network_id,
                attached_to,
                host: link.name.clone(),
                overlay_mtu: clamp_mtu(link.mtu),
                unclaimed: !link.peer_away,
            });
        }
        let stray = |l: &&Link| l.is_removable() && !used.contains(&l.index);
        inventory.strays = links
            .iter()
            .filter(stray)
            .map(|l| StrayLink { name: l.name.clone(), tap_of: names::network_of_tap(&l.name) })
            .collect();
        inventory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Kind, alias: &str) -> Link {
        let alias = Some(alias.to_owned()).filter(|a| !a.is_empty());
        Link { index, name: name.into(), kind, alias, mtu: 1418, up: true, ..Link::default() }
    }

    #[test]
    fn links_are_sorted_by_what_they_are() {
        let id = NetworkId::from_u48(0xa);
        let links = [
            link(1, "lo", Kind::Other, ""),
            link(2, "docker0", Kind::Bridge, ""),
            link(3, "wfb00000000000a", Kind::Bridge, "weft network=n1"),
            Link { master: Some(3), ..link(4, "wft00000000000a", Kind::Tun, "weft network=n1") },
            Link {
                master: Some(3),
                peer_away: true,
                ..link(5, "wfv0123456789ab", Kind::Veth, "weft endpoint=e1 network=n1")
            },
            link(6, "wfvffffffffffff", Kind::Veth, "weft endpoint=e2 network=n1"),
            link(7, "wfcffffffffffff", Kind::Veth, "weft endpoint=e2 network=n1"),
            link(8, "wft00000000000b", Kind::Tun, ""),
            link(9, "wfb00000000000c", Kind::Bridge, "someone's"),
        ];
        let inventory = Inventory::of(&links);
        assert_eq!(
            inventory.networks,
            [FoundNetwork {
                id,
                docker_id: "n1".into(),
                bridge: "wfb00000000000a".into(),
                overlay_mtu: 1418,
                up: true,
                tap: Some("wft00000000000a".into()),
            }]
        );
        let endpoints: Vec<_> =
            inventory.endpoints.iter().map(|e| (e.id.0.as_str(), e.attached_to, e.unclaimed)).collect();
        assert_eq!(endpoints, [("e1", Some(id), false), ("e2", None, true)]);
        assert_eq!(
            inventory.strays,
            [StrayLink { name: "wft00000000000b".into(), tap_of: Some(NetworkId::from_u48(0xb)) }]
        );
    }

    #[test]
    fn a_tap_beside_its_bridge_is_a_stray() {
        let links = [
            link(3, "wfb00000000000a", Kind::Bridge, "weft network=n1"),
            link(4, "wft00000000000a", Kind::Tun, "weft network=n1"),
        ];
        let inventory = Inventory::of(&links);
        assert_eq!(inventory.networks.first().and_then(|n| n.tap.clone()), None);
        assert_eq!(inventory.strays.len(), 1);
    }

    #[test]
    fn the_eth0_of_a_nested_host_is_no_endpoint() {
        let links = [Link { peer_away: true, ..link(5, "eth0", Kind::Veth, "weft endpoint=e1 network=n1") }];
        assert_eq!(Inventory::of(&links), Inventory::default());
    }
}
