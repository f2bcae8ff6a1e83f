//! A link as the kernel describes it, and whose it is.

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use weft_wire::Mac;

use crate::names::{self, Alias};

/// What weft needs to know of a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) alias: Option<String>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    /// Index of the bridge that the link is a port of.
    pub(crate) master: Option<u32>,
    /// Index of a veth's other end, in the namespace that that end is in.
    pub(crate) peer: Option<u32>,
    /// Whether a veth's other end is in another namespace.
    pub(crate) peer_away: bool,
    pub(crate) traffic: LinkTraffic,
}

/// What passed a link since it was made, as the kernel counts it: a super-frame is one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkTraffic {
    /// Bytes that came in by it.
    pub rx_bytes: u64,
    /// Frames that came in by it.
    pub rx_frames: u64,
    /// Bytes that went out by it.
    pub tx_bytes: u64,
    /// Frames that went out by it.
    pub tx_frames: u64,
    /// Frames that should have gone out and found no room.
    pub tx_dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    Bridge,
    Tun,
    Veth,
    #[default]
    Other,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()).filter(|a| !a.is_empty()),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.master = Some(*index).filter(|i| *i != 0),
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::LinkNetNsId(_) => link.peer_away = true,
                LinkAttribute::Stats64(stats) => {
                    link.traffic = LinkTraffic {
                        rx_bytes: stats.rx_bytes,
                        rx_frames: stats.rx_packets,
                        tx_bytes: stats.tx_bytes,
                        tx_frames: stats.tx_packets,
                        tx_dropped: stats.tx_dropped,
                    };
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = match kind {
                                InfoKind::Bridge => Kind::Bridge,
                                InfoKind::Tun => Kind::Tun,
                                InfoKind::Veth => Kind::Veth,
                                _ => Kind::Other,
                            };
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

/// Whose a link of a given name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Kind and alias are as they should be.
    Ours,
    /// Made by weft, which did not come to give it its alias. A new link gets its address in the message that makes
    /// it but its alias in the next (the kernel takes none before), so the derived address tells.
    HalfMade,
    /// Someone else's: hands off.
    Foreign,
}

impl Link {
    /// Whose this link is, if it ought to be of `kind` and to bear `alias`; `mac` is what a half-made one has.
    pub(crate) fn owner(&self, kind: Kind, alias: &Alias, mac: Option<Mac>) -> Owner {
        match &self.alias {
            _ if self.kind != kind => Owner::Foreign,
            Some(found) if *found == alias.to_string() => Owner::Ours,
            None if mac.is_some() && self.mac == mac => Owner::HalfMade,
            _ => Owner::Foreign,
        }
    }

    /// What the alias says, when it is one of weft's.
    pub(crate) fn weft_alias(&self) -> Option<Alias> {
        self.alias.as_deref().and_then(|a| a.parse().ok())
    }

    /// Whether weft may delete this link: by name, kind, and alias or (half-made) address.
    ///
    /// A TAP without an alias is weft's by its name alone: the router makes it and cannot give it one.
    pub(crate) fn is_removable(&self) -> bool {
        let alias = self.weft_alias();
        let (network, endpoint) =
            (matches!(alias, Some(Alias::Network { .. })), matches!(alias, Some(Alias::Endpoint { .. })));
        let nameless = self.alias.is_none();
        if let Some(id) = names::network_of_bridge(&self.name) {
            self.kind == Kind::Bridge && (network || nameless && self.mac == Some(names::bridge_mac(id)))
        } else if names::network_of_tap(&self.name).is_some() {
            self.kind == Kind::Tun && (network || nameless)
        } else if names::is_host_veth(&self.name) {
            self.kind == Kind::Veth && (endpoint || nameless && self.mac == names::host_veth_mac(&self.name))
        } else {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::NetworkId;

    fn bridge(alias: Option<&str>, mac: Option<Mac>) -> Link {
        let name = names::bridge_name(NetworkId::from_u48(7));
        Link { name, kind: Kind::Bridge, alias: alias.map(str::to_owned), mac, ..Link::default() }
    }

    #[test]
    fn owner_goes_by_alias_then_by_address() {
        let mac = Some(names::bridge_mac(NetworkId::from_u48(7)));
        let alias = Alias::Network { docker_id: "n1".into() };
        let owner = |link: Link| link.owner(Kind::Bridge, &alias, mac);
        assert_eq!(owner(bridge(Some("weft network=n1"), None)), Owner::Ours);
        assert_eq!(owner(bridge(None, mac)), Owner::HalfMade);
        assert_eq!(owner(bridge(None, None)), Owner::Foreign);
        assert_eq!(owner(bridge(Some("weft network=n2"), mac)), Owner::Foreign);
        assert_eq!(owner(bridge(Some("mine"), mac)), Owner::Foreign);
        assert_eq!(bridge(None, None).owner(Kind::Bridge, &alias, None), Owner::Foreign);
        let veth = Link { kind: Kind::Veth, ..bridge(Some("weft network=n1"), mac) };
        assert_eq!(owner(veth), Owner::Foreign);
    }

    #[test]
    fn only_ours_are_removable() {
        let mac = Some(names::bridge_mac(NetworkId::from_u48(7)));
        assert!(bridge(Some("weft network=n1"), None).is_removable());
        assert!(bridge(None, mac).is_removable());
        assert!(!bridge(None, None).is_removable());
        assert!(!bridge(Some("weft endpoint=e network=n1"), mac).is_removable());
        assert!(!Link { name: "docker0".into(), ..bridge(Some("weft network=n1"), mac) }.is_removable());
        let tap = Link { name: names::tap_name(NetworkId::from_u48(7)), kind: Kind::Tun, ..Link::default() };
        assert!(tap.is_removable());
        assert!(!Link { alias: Some("vpn".into()), ..tap }.is_removable());
    }
}
