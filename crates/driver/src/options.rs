//! The options of a network (`-o NAME=VALUE`): one table of what is known, and faults instead of errors.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weft_wire::{AddressFamily, MIN_OVERLAY_MTU, overhead};

/// The least MTU of a network: IPv6's minimum (RFC 8200, section 5).
pub const MIN_MTU: u16 = MIN_OVERLAY_MTU;
/// The greatest MTU of a network: its packet, sealed, must fit in the largest IP packet there is (65,535 bytes).
pub const MAX_MTU: u16 = u16::MAX - overhead(AddressFamily::Ipv4);

const MTU: &str = "com.docker.network.driver.mtu";
const ID: &str = "weft.id";
const SPOOF_CHECK: &str = "weft.spoof-check";
const MULTICAST: &str = "weft.multicast";

/// The name by which hosts outside a swarm agree that they mean the same network: 1 to 64 of `A-Z a-z 0-9 _ . -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WeftId(String);

/// Not a [`WeftId`]. The user sent it; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a weft.id is 1 to 64 characters of A-Z a-z 0-9 _ . -")]
pub struct ParseWeftIdError;

impl WeftId {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WeftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WeftId {
    type Err = ParseWeftIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if (1..=64).contains(&s.len()) && s.bytes().all(known) {
            Ok(Self(s.to_owned()))
        } else {
            Err(ParseWeftIdError)
        }
    }
}

impl TryFrom<String> for WeftId {
    type Error = ParseWeftIdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<WeftId> for String {
    fn from(id: WeftId) -> Self {
        id.0
    }
}

/// An option that weft does not know, or whose value it does not accept. Its `Display` names the option and what is
/// accepted, in one line for the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionFault {
    /// The option as given.
    pub name: String,
    /// The value as given.
    pub value: String,
    /// What is accepted: for a known option its values, for an unknown one the known options.
    pub accepted: String,
    /// Whether the option is known, and only its value bad.
    pub known: bool,
}

impl fmt::Display for OptionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, accepted, known } = self;
        if *known {
            write!(f, "option {name}={value:?} is not valid: accepted is {accepted}")
        } else {
            write!(f, "option {name} is not known to weft: accepted are {accepted}")
        }
    }
}

/// A switch that is on unless it is turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OnByDefault(pub bool);

impl OnByDefault {
    /// Whether it is on.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.0
    }

    /// `on` and `off`, in lower case, and nothing else.
    fn set(&mut self, value: &str) -> bool {
        match value {
            "on" => self.0 = true,
            "off" => self.0 = false,
            _ => return false,
        }
        true
    }
}

impl Default for OnByDefault {
    fn default() -> Self {
        Self(true)
    }
}

/// A network's options after checking.
///
/// A network with [`faults`](Self::faults) is recorded but carries nothing: its endpoints are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkOptions {
    /// `com.docker.network.driver.mtu`, in bytes, [`MIN_MTU`]`..=`[`MAX_MTU`]; `None`: from the underlay's.
    pub mtu: Option<u16>,
    /// `weft.id`; `None`: Docker's network id names the network.
    pub weft_id: Option<WeftId>,
    /// `weft.spoof-check`: drop what a container sends from addresses that Docker did not give it. On by default.
    #[serde(default)]
    pub spoof_check: OnByDefault,
    /// `weft.multicast`: carry multicast. On by default.
    #[serde(default)]
    pub multicast: OnByDefault,
    /// Everything that was given and cannot be honoured, in the order of the options' names.
    #[serde(default)]
    pub faults: Vec<OptionFault>,
}

/// One known option.
pub struct OptionSpec {
    /// As after `-o`.
    pub name: &'static str,
    /// The accepted values, for people.
    pub accepted: fn() -> String,
    /// Sets the value; `false`, with nothing changed, when it is not accepted.
    set: fn(&mut NetworkOptions, &str) -> bool,
}

impl fmt::Debug for OptionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptionSpec").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A new option is an entry here, and a field of [`NetworkOptions`].
const KNOWN: &[OptionSpec] = &[
    OptionSpec {
        name: MTU,
        accepted: || format!("a decimal number of bytes from {MIN_MTU} to {MAX_MTU}"),
        set: |options, value| {
            // `u16::from_str` also takes a leading plus.
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            match value.parse::<u16>() {
                Ok(mtu) if digits && (MIN_MTU..=MAX_MTU).contains(&mtu) => {
                    options.mtu = Some(mtu);
                    true
                }
                _ => false,
            }
        },
    },
    OptionSpec {
        name: ID,
        accepted: || "a name of 1 to 64 characters of A-Z a-z 0-9 _ . -".to_owned(),
        set: |options, value| match value.parse() {
            Ok(id) => {
                options.weft_id = Some(id);
                true
            }
            Err(_) => false,
        },
    },
    OptionSpec {
        name: SPOOF_CHECK,
        accepted: on_or_off,
        set: |options, value| options.spoof_check.set(value),
    },
    OptionSpec { name: MULTICAST, accepted: on_or_off, set: |options, value| options.multicast.set(value) },
];

fn on_or_off() -> String {
    "on or off".to_owned()
}

/// The options that a network may be given.
#[must_use]
pub fn known_options() -> &'static [OptionSpec] {
    KNOWN
}

impl NetworkOptions {
    /// Checks the options of a network. Never fails: what cannot be honoured is in [`faults`](Self::faults).
    ///
    /// ```
    /// # use weft_driver::NetworkOptions;
    /// let given = [("com.docker.network.driver.mtu".to_owned(), "1400".to_owned())].into();
    /// assert_eq!(NetworkOptions::parse(&given).mtu, Some(1400));
    /// ```
    #[must_use]
    pub fn parse(given: &BTreeMap<String, String>) -> Self {
        let mut options = Self::default();
        for (name, value) in given {
            let fault = match KNOWN.iter().find(|spec| spec.name == name) {
                Some(spec) if (spec.set)(&mut options, value) => continue,
                Some(spec) => OptionFault {
                    name: name.clone(),
                    value: value.clone(),
                    accepted: (spec.accepted)(),
                    known: true,
                },
                None => OptionFault {
                    name: name.clone(),
                    value: value.clone(),
                    accepted: list_known(),
                    known: false,
                },
            };
            options.faults.push(fault);
        }
        options
    }
}

fn list_known() -> String {
    let one = |spec: &OptionSpec| format!("{} ({})", spec.name, (spec.accepted)());
    KNOWN.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The faults among an endpoint's options (`--driver-opt` of `docker network connect`, and of a service's network).
///
/// weft has no endpoint options. Docker's own, `com.docker.…`, are not judged: dockerd puts ports and the like there.
#[must_use]
pub fn endpoint_option_faults<'a>(given: impl IntoIterator<Item = (&'a str, String)>) -> Vec<OptionFault> {
    given
        .into_iter()
        .filter(|(name, _)| !name.starts_with("com.docker."))
        .map(|(name, value)| OptionFault {
            name: name.to_owned(),
            value,
            accepted: "only options of the network, not of a container's connection to it".to_owned(),
            known: false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(name: &str, value: &str) -> NetworkOptions {
        NetworkOptions::parse(&[(name.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn mtu_takes_its_range_and_nothing_else() {
        for good in [MIN_MTU, 1418, MAX_MTU] {
            let options = parse(MTU, &good.to_string());
            assert_eq!((options.mtu, options.faults.len()), (Some(good), 0));
        }
        for bad in ["", "abc", "1279", "65454", "65535", "70000", "-1", "+1400", " 1400", "0x580", "1400.0"] {
            let options = parse(MTU, bad);
            assert_eq!((options.mtu, options.faults.len()), (None, 1), "{bad:?}");
            let text = options.faults[0].to_string();
            assert!(text.contains(MTU) && text.contains("1280") && text.contains("65453"), "{text}");
        }
    }

    #[test]
    fn weft_id_is_a_plain_name() {
        assert_eq!(parse(ID, "prod-A_1.x").weft_id.map(String::from), Some("prod-A_1.x".to_owned()));
        for bad in ["", "a b", "ä", "a/b", &"x".repeat(65)] {
            let options = parse(ID, bad);
            assert_eq!((options.weft_id, options.faults.len()), (None, 1), "{bad:?}");
        }
    }

    #[test]
    fn switches_are_on_unless_turned_off() {
        let states = |options: &NetworkOptions| (options.spoof_check.is_on(), options.multicast.is_on());
        assert_eq!(states(&NetworkOptions::default()), (true, true));
        assert_eq!(states(&parse(SPOOF_CHECK, "off")), (false, true));
        assert_eq!(states(&parse(MULTICAST, "off")), (true, false));
        for name in [SPOOF_CHECK, MULTICAST] {
            assert_eq!((states(&parse(name, "on")), parse(name, "on").faults.len()), ((true, true), 0));
            for bad in ["", "On", "OFF", "true", "false", "0", "1", " off", "no"] {
                let options = parse(name, bad);
                assert_eq!((states(&options), options.faults.len()), ((true, true), 1), "{name}={bad:?}");
                let text = options.faults[0].to_string();
                assert!(text.contains(name) && text.contains("accepted is on or off"), "{text}");
            }
        }
    }

    #[test]
    fn records_from_before_the_switches_are_read_as_on() {
        let old = r#"{"mtu":1400,"weft_id":null,"faults":[]}"#;
        let options: NetworkOptions = serde_json::from_str(old).unwrap();
        assert_eq!(
            (options.mtu, options.spoof_check.is_on(), options.multicast.is_on()),
            (Some(1400), true, true)
        );
        let off = NetworkOptions { spoof_check: OnByDefault(false), ..options };
        let text = serde_json::to_string(&off).unwrap();
        assert!(text.contains(r#""spoof_check":false"#), "{text}");
        assert_eq!(serde_json::from_str::<NetworkOptions>(&text).unwrap(), off);
    }

    #[test]
    fn an_unknown_option_is_named_beside_the_known_ones() {
        let text = parse("weft.mtuu", "1").faults[0].to_string();
        assert!(text.contains("weft.mtuu") && KNOWN.iter().all(|spec| text.contains(spec.name)), "{text}");
    }

    #[test]
    fn good_options_count_beside_bad_ones() {
        let given = [("foo", "bar"), (MTU, "1400")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let options = NetworkOptions::parse(&given.into());
        assert_eq!((options.mtu, options.faults.len()), (Some(1400), 1));
    }

    proptest! {
        #[test]
        fn every_option_is_taken_or_a_fault_that_names_it(name in "\\PC{0,20}", value in "\\PC{0,20}") {
            let options = parse(&name, &value);
            prop_assert_eq!(options.faults.len(), usize::from(options.mtu.is_none() && options.weft_id.is_none()));
            prop_assert!(options.faults.iter().all(|fault| fault.to_string().contains(&name)));
        }
    }
}
