//! Which frames a container may send, as rules.

use std::net::IpAddr;

use weft_nft::{Base, Expr, MetaKey, Rule, Verdict};
use weft_wire::Mac;

use crate::links::EndpointSpec;

const IPV4: [u8; 2] = 0x0800_u16.to_be_bytes();
const ARP: [u8; 2] = 0x0806_u16.to_be_bytes();
const IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();
const IGMP: u8 = 2;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const DHCP_SERVER: [u8; 2] = 67_u16.to_be_bytes();
/// Ethernet and IPv4, with the lengths of their addresses (RFC 826).
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Why a frame is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Mac,
    Arp,
    Ip,
    Other,
}

impl Cause {
    const ALL: [Self; 4] = [Self::Mac, Self::Arp, Self::Ip, Self::Other];

    fn word(self) -> &'static str {
        match self {
            Self::Mac => "mac",
            Self::Arp => "arp",
            Self::Ip => "ip",
            Self::Other => "other",
        }
    }

    /// The cause in a rule's comment.
    pub(super) fn of_comment(comment: &str) -> Option<Self> {
        let word = comment.strip_prefix("weft ")?.split(' ').next()?;
        Self::ALL.into_iter().find(|cause| cause.word() == word)
    }
}

/// The rules for the frames that come out of an endpoint's container, in their order.
///
/// The first after the MAC's lets the bulk pass: it comes from the endpoint's own IPv4 or IPv6 address. A comment names
/// cause and digest, so that rules can be compared with what the kernel has.
pub(super) fn rules(spec: &EndpointSpec) -> Vec<Rule> {
    let of = |ipv6: bool| -> Vec<Vec<u8>> {
        let addresses = spec.addresses.iter().map(|ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        });
        addresses.filter(|bytes| (bytes.len() == 16) == ipv6).collect()
    };
    let (ipv4, ipv6) = (of(false), of(true));
    let Mac(mac) = spec.mac;
    let mut rules = vec![drop(Cause::Mac, [Expr::payload(Base::Link, 6, 6), Expr::differs(mac)])];
    rules.extend(ipv4.iter().map(|ip| pass(is(IPV4).chain([ipv4_source(), Expr::equals(ip.clone())]))));
    rules.extend(ipv6.iter().map(|ip| {
        let not_icmp = [Expr::meta(MetaKey::TransportProtocol), Expr::differs([ICMPV6])];
        pass(is(IPV6).chain([ipv6_source(), Expr::equals(ip.clone())]).chain(not_icmp))
    }));

    let is_none_of =
        |allowed: &[Vec<u8>]| -> Vec<Expr> { allowed.iter().cloned().map(Expr::differs).collect() };
    rules.push(drop(
        Cause::Ip,
        is(IPV4).chain([ipv4_source()]).chain(is_none_of(&ipv4)).chain([Expr::differs([0; 4])]),
    ));
    // Without an address one may ask for one, and report groups.
    let from_nowhere = || is(IPV4).chain([ipv4_source(), Expr::equals([0; 4])]);
    let transport = || Expr::meta(MetaKey::TransportProtocol);
    rules.push(drop(
        Cause::Ip,
        from_nowhere().chain([transport(), Expr::differs([IGMP]), Expr::differs([UDP])]),
    ));
    let to_another_port = [Expr::payload(Base::Transport, 2, 2), Expr::differs(DHCP_SERVER)];
    rules.push(drop(
        Cause::Ip,
        from_nowhere().chain([transport(), Expr::equals([UDP])]).chain(to_another_port),
    ));

    let unspecified = [0; 16];
    rules.push(drop(
        Cause::Ip,
        is(IPV6)
            .chain([ipv6_source()])
            .chain(is_none_of(&ipv6))
            .chain([Expr::differs(unspecified)])
            .chain(not_link_local(Base::Network, 8)),
    ));
    rules.push(drop(
        Cause::Ip,
        is(IPV6)
            .chain([ipv6_source(), Expr::equals(unspecified)])
            .chain([transport(), Expr::differs([ICMPV6])]),
    ));
    rules.push(drop(
        Cause::Arp,
        is(IPV6)
            .chain([transport(), Expr::equals([ICMPV6])])
            .chain([Expr::payload(Base::Transport, 0, 1), Expr::equals([NEIGHBOUR_ADVERTISEMENT])])
            .chain([Expr::payload(Base::Transport, 8, 16)])
            .chain(is_none_of(&ipv6))
            .chain(not_link_local(Base::Transport, 8)),
    ));

    let arp = |offset, len, differs: Vec<Expr>| {
        drop(Cause::Arp, is(ARP).chain([Expr::payload(Base::Network, offset, len)]).chain(differs))
    };
    rules.push(arp(0, 6, vec![Expr::differs(ARP_OF_IPV4)]));
    rules.push(arp(8, 6, vec![Expr::differs(mac)]));
    // A probe's sender is 0.0.0.0 (RFC 5227).
    rules.push(arp(14, 4, is_none_of(&ipv4).into_iter().chain([Expr::differs([0; 4])]).collect()));
    // Among these are VLAN tags within tags, behind which no address would be seen.
    let other = [Expr::differs(IPV4), Expr::differs(ARP), Expr::differs(IPV6)];
    rules.push(drop(Cause::Other, [Expr::meta(MetaKey::Protocol)].into_iter().chain(other)));
    rules
}

fn is(ethertype: [u8; 2]) -> impl Iterator<Item = Expr> {
    [Expr::meta(MetaKey::Protocol), Expr::equals(ethertype)].into_iter()
}

fn ipv4_source() -> Expr {
    Expr::payload(Base::Network, 12, 4)
}

fn ipv6_source() -> Expr {
    Expr::payload(Base::Network, 8, 16)
}

/// The IPv6 address there is not in fe80::/10.
fn not_link_local(base: Base, offset: u32) -> [Expr; 3] {
    [Expr::payload(base, offset, 2), Expr::mask([0xff, 0xc0]), Expr::differs([0xfe, 0x80])]
}

fn drop(cause: Cause, when: impl IntoIterator<Item = Expr>) -> Rule {
    named(cause.word(), when.into_iter().chain([Expr::Counter, Expr::Verdict(Verdict::Drop)]))
}

fn pass(when: impl IntoIterator<Item = Expr>) -> Rule {
    named("pass", when.into_iter().chain([Expr::Verdict(Verdict::Accept)]))
}

fn named(word: &str, expressions: impl Iterator<Item = Expr>) -> Rule {
    let rule = Rule::new(expressions.collect::<Vec<_>>());
    let comment = format!("weft {word} {:016x}", rule.digest());
    rule.with_comment(comment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::{EndpointId, NetworkId};

    fn spec(addresses: &[&str]) -> EndpointSpec {
        EndpointSpec {
            id: EndpointId("01".repeat(32)),
            network: NetworkId::from_u48(1),
            docker_network_id: "n".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            spoof_check: true,
            overlay_mtu: 1418,
        }
    }

    fn comments(spec: &EndpointSpec) -> Vec<String> {
        rules(spec).into_iter().map(|rule| rule.comment.unwrap()).collect()
    }

    #[test]
    fn every_rule_that_drops_counts_under_a_cause() {
        for rule in rules(&spec(&["10.0.0.1", "fd00::1"])) {
            let cause = Cause::of_comment(&rule.comment.unwrap());
            assert_eq!(cause.is_some(), rule.expressions.contains(&Expr::Counter));
            assert_eq!(cause.is_some(), rule.expressions.last() == Some(&Expr::Verdict(Verdict::Drop)));
        }
    }

    #[test]
    fn comments_change_with_addresses_and_only_then() {
        let one = comments(&spec(&["10.0.0.1"]));
        assert_eq!(one, comments(&spec(&["10.0.0.1"])));
        assert_ne!(one, comments(&spec(&["10.0.0.2"])));
        assert_ne!(one, comments(&EndpointSpec { mac: Mac([2; 6]), ..spec(&["10.0.0.1"]) }));
        assert_eq!(Cause::of_comment("weft arp 0011"), Some(Cause::Arp));
        assert_eq!(Cause::of_comment("arp"), None);
    }
}
