//! What the host's own addresses and routes say about the underlay.

use std::net::IpAddr;

use crate::inventory::clamp_mtu;
use crate::link::Link;
use crate::names;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) link: u32,
    pub(super) ip: IpAddr,
    /// Of global scope, past duplicate detection and not deprecated.
    pub(super) usable: bool,
}

/// One way out of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DefaultRoute {
    pub(super) link: u32,
    /// The route's own MTU, in bytes, when it has one.
    pub(super) mtu: Option<u32>,
}

pub(super) fn mtu(
    local: Option<IpAddr>,
    links: &[Link],
    addresses: &[Address],
    routes: &[DefaultRoute],
) -> Option<u16> {
    let link_mtu = |index: u32| links.iter().find(|l| l.index == index).map(|l| l.mtu);
    match local {
        Some(local) if !local.is_unspecified() => {
            addresses.iter().filter(|a| a.ip == local).filter_map(|a| link_mtu(a.link)).min()
        }
        _ => routes.iter().filter_map(|r| Some(link_mtu(r.link)?.min(r.mtu.unwrap_or(u32::MAX)))).min(),
    }
    .map(clamp_mtu)
}

pub(super) fn reachable(links: &[Link], addresses: &[Address]) -> Vec<(IpAddr, String)> {
    addresses
        .iter()
        .filter(|a| a.usable && !a.ip.is_loopback() && !a.ip.is_unspecified())
        .filter_map(|a| {
            let link = links.iter().find(|l| l.index == a.link)?;
            (!link.loopback && !names::is_weft_name(&link.name)).then(|| (a.ip, link.name.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (Vec<Link>, Vec<Address>) {
        let link = |index, name: &str, mtu| Link { index, name: name.into(), mtu, ..Link::default() };
        let links = vec![
            Link { loopback: true, ..link(1, "lo", 65536) },
            link(2, "eth0", 1500),
            link(3, "eth1", 9000),
            link(4, "wfb00000000000a", 1418),
        ];
        let address = |link, ip: &str, usable| Address { link, ip: ip.parse().unwrap(), usable };
        let addresses = vec![
            address(1, "127.0.0.1", false),
            address(2, "10.0.0.1", true),
            address(2, "fe80::1", false),
            address(3, "fd00::1", true),
            address(4, "10.9.0.1", true),
        ];
        (links, addresses)
    }

    #[test]
    fn mtu_is_that_of_the_address_or_the_least_of_the_default_routes() {
        let (links, addresses) = host();
        let routes = [DefaultRoute { link: 2, mtu: None }, DefaultRoute { link: 3, mtu: None }];
        let of = |local: &str| mtu(Some(local.parse().unwrap()), &links, &addresses, &routes);
        assert_eq!(of("10.0.0.1"), Some(1500));
        assert_eq!(of("fd00::1"), Some(9000));
        assert_eq!(of("127.0.0.1"), Some(65535));
        assert_eq!(of("192.0.2.1"), None);
        assert_eq!(of("::"), Some(1500));
        assert_eq!(mtu(None, &links, &addresses, &routes), Some(1500));
        assert_eq!(mtu(None, &links, &addresses, &[DefaultRoute { link: 3, mtu: Some(1400) }]), Some(1400));
        assert_eq!(mtu(None, &links, &addresses, &[]), None);
    }

    #[test]
    fn only_addresses_that_others_can_reach_are_listed() {
        let (links, addresses) = host();
        let listed = reachable(&links, &addresses);
        let listed: Vec<_> = listed.iter().map(|(ip, name)| (ip.to_string(), name.as_str())).collect();
        assert_eq!(listed, [("10.0.0.1".to_owned(), "eth0"), ("fd00::1".to_owned(), "eth1")]);
    }
}
