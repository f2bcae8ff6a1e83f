//! Names, aliases and Ethernet addresses of weft's links, all derived from ids.

use std::fmt;
use std::str::FromStr;

use weft_wire::{EndpointId, Mac, NetworkId};

const BRIDGE: &str = "wfb";
const TAP: &str = "wft";
const HOST_VETH: &str = "wfv";
const CONTAINER_VETH: &str = "wfc";
const HEX_LEN: usize = 12;

/// The two ends of an endpoint's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethNames {
    /// The end that stays on the host, a port of the bridge: `wfv<12 hex>`.
    pub host: String,
    /// The end that dockerd moves into the sandbox and renames there: `wfc<12 hex>`.
    pub container: String,
}

/// Name of the network's bridge.
///
/// ```
/// # use weft_wire::NetworkId;
/// assert_eq!(weft_netlink::names::bridge_name(NetworkId::from_u48(0xabc)), "wfb000000000abc");
/// ```
#[must_use]
pub fn bridge_name(network: NetworkId) -> String {
    format!("{BRIDGE}{network}")
}

/// Name of the network's TAP, by which the router has to open it.
#[must_use]
pub fn tap_name(network: NetworkId) -> String {
    format!("{TAP}{network}")
}

/// Names of the endpoint's veth pair: the first 12 hexadecimal digits of Docker's id, as `docker ps` shows of others.
///
/// `None` when the id does not begin with 12 lower-case hexadecimal digits.
#[must_use]
pub fn veth_names(endpoint: &EndpointId) -> Option<VethNames> {
    let hex = endpoint.0.get(..HEX_LEN).filter(|h| is_hex(h))?;
    Some(VethNames { host: format!("{HOST_VETH}{hex}"), container: format!("{CONTAINER_VETH}{hex}") })
}

/// The bridge's own Ethernet address, the same for the bridge's life.
///
/// Without one of its own a bridge takes its lowest port's, which changes as ports come and go.
#[must_use]
pub fn bridge_mac(network: NetworkId) -> Mac {
    let [_, _, bytes @ ..] = network.get().to_be_bytes();
    Mac::local_from(bytes)
}

/// The Ethernet address of a host-side veth, from the 12 digits in its name; never on the wire.
#[must_use]
pub(crate) fn host_veth_mac(name: &str) -> Option<Mac> {
    let digits = u64::from_str_radix(digits_of(name, HOST_VETH)?, 16).ok()?;
    let [_, _, _, bytes @ ..] = digits.to_be_bytes();
    let [a, b, c, d, e] = bytes;
    Some(Mac([0xfe, a, b, c, d, e]))
}

fn is_hex(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn digits_of<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix).filter(|h| h.len() == HEX_LEN && is_hex(h))
}

fn network_of(name: &str, prefix: &str) -> Option<NetworkId> {
    u64::from_str_radix(digits_of(name, prefix)?, 16).ok().map(NetworkId::from_u48)
}

/// The network whose bridge is called `name`.
#[must_use]
pub fn network_of_bridge(name: &str) -> Option<NetworkId> {
    network_of(name, BRIDGE)
}

/// The network whose TAP is called `name`.
#[must_use]
pub fn network_of_tap(name: &str) -> Option<NetworkId> {
    network_of(name, TAP)
}

/// Whether `name` is that of a link of weft on the host: bridge, TAP or either side of a veth pair.
#[must_use]
pub fn is_weft_name(name: &str) -> bool {
    [BRIDGE, TAP, HOST_VETH, CONTAINER_VETH].iter().any(|prefix| digits_of(name, prefix).is_some())
}

pub(crate) fn is_host_veth(name: &str) -> bool {
    digits_of(name, HOST_VETH).is_some()
}

/// Whether `id` can be written into an alias and read back: printable ASCII without blanks, of 1 to 100 bytes.
pub(crate) fn is_docker_id(id: &str) -> bool {
    (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

/// What a link's alias says about whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Alias {
    Network { docker_id: String },
    Endpoint { id: EndpointId, docker_network_id: String },
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { docker_id } => write!(f, "weft network={docker_id}"),
            Self::Endpoint { id, docker_network_id } => {
                write!(f, "weft endpoint={id} network={docker_network_id}")
            }
        }
    }
}

impl FromStr for Alias {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let mut words = s.strip_prefix("weft ").ok_or(())?.split(' ');
        let mut word =
            |key: &str| words.next().and_then(|w| w.strip_prefix(key)).filter(|id| is_docker_id(id));
        let alias = if s.starts_with("weft endpoint=") {
            let id = EndpointId(word("endpoint=").ok_or(())?.to_owned());
            Self::Endpoint { id, docker_network_id: word("network=").ok_or(())?.to_owned() }
        } else {
            Self::Network { docker_id: word("network=").ok_or(())?.to_owned() }
        };
        if words.next().is_some() { Err(()) } else { Ok(alias) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_fit_the_kernel_and_are_read_back() {
        let id = NetworkId::from_name("u48gny859s078wz2qe8dulj4a");
        assert_eq!(bridge_name(id).len(), 15);
        assert_eq!(network_of_bridge(&bridge_name(id)), Some(id));
        assert_eq!(network_of_tap(&tap_name(id)), Some(id));
        assert_eq!(network_of_tap(&bridge_name(id)), None);
        let veth = veth_names(&EndpointId("0123456789abcdef".repeat(4))).unwrap();
        assert_eq!((veth.host.as_str(), veth.container.as_str()), ("wfv0123456789ab", "wfc0123456789ab"));
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for name in
            ["wfb", "wfb0", "wfbABCDEF012345", "wfb00000000000g", "docker0", "wfb0000000000000", "wlan0"]
        {
            assert!(!is_weft_name(name), "{name}");
        }
    }

    #[test]
    fn ids_that_are_not_hexadecimal_make_no_name() {
        for id in ["", "0123", "ABCDEF0123456789", "0123456789a\u{e9}", "../../etc/passwd"] {
            assert_eq!(veth_names(&EndpointId(id.into())), None, "{id}");
        }
    }

    #[test]
    fn addresses_are_local_unicast() {
        let mac = bridge_mac(NetworkId::from_u48(0xffff_ffff_ffff));
        assert_eq!(mac.0[0] & 3, 2);
        assert_eq!(host_veth_mac("wfv0123456789ab"), Some(Mac([0xfe, 0x23, 0x45, 0x67, 0x89, 0xab])));
    }

    #[test]
    fn aliases_of_others_are_refused() {
        for alias in ["", "weft", "weft ", "weft network=", "weft network=a b", "weft endpoint=a", "uplink"] {
            assert!(alias.parse::<Alias>().is_err(), "{alias}");
        }
    }

    proptest! {
        #[test]
        fn alias_round_trips(a in "[!-~]{1,100}", b in "[!-~]{1,100}") {
            let network = Alias::Network { docker_id: a.clone() };
            prop_assert_eq!(network.to_string().parse(), Ok(network));
            let endpoint = Alias::Endpoint { id: EndpointId(a), docker_network_id: b };
            prop_assert!(endpoint.to_string().len() < 256, "IFALIASZ");
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }

        #[test]
        fn any_text_is_an_alias_or_not(s in "(weft )?\\PC*") {
            if let Ok(alias) = s.parse::<Alias>() {
                prop_assert_eq!(alias.to_string(), s);
            }
        }
    }
}
