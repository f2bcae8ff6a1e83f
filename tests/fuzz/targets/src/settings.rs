//! Texts that operators write: settings, secrets, ids, options.

use weft_driver::{Engine, NetworkOptions, WeftId, endpoint_option_faults};
use weft_noise::{ClusterSecret, Suite};
use weft_wire::{Mac, PeerId};

use crate::state::survives;

#[path = "../../../../crates/daemon/src/settings.rs"]
#[allow(dead_code, unreachable_pub, reason = "the daemon's file; not all of it is wanted here")]
mod daemon;

use daemon::{PeerAddress, parse_admission, parse_peers, parse_suite};

/// Text for every parser of settings.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(peers) = parse_peers(text) {
        let shown: Vec<String> = peers.iter().map(ToString::to_string).collect();
        assert_eq!(parse_peers(&shown.join(",")).as_ref(), Ok(&peers));
    }
    if let Ok(peer) = text.parse::<PeerAddress>() {
        assert_ne!(peer.port, Some(0));
        assert_eq!(peer.to_string().parse(), Ok(peer));
    }
    if let Ok(suite) = parse_suite(text) {
        assert!(["", "auto"].contains(&text) || text.parse() == Ok(suite));
        assert_eq!(suite.name().is_empty(), suite.to_string().is_empty());
        assert_eq!(suite.to_string().parse::<Suite>(), Ok(suite));
    }
    let _ = parse_admission(text, "/etc/weft/peers".into());
    match ClusterSecret::parse(text) {
        Ok(secret) => {
            assert_eq!(ClusterSecret::parse(&secret.to_text()).as_ref(), Ok(&secret));
            assert!(!format!("{secret:?}").contains(secret.to_text().as_str()));
        }
        Err(error) => {
            let told = |error: &dyn std::fmt::Display| error.to_string().contains(text.trim());
            // A text that the error has of itself, whatever was read, is no secret.
            let told_anyway = ClusterSecret::parse("another").is_err_and(|error| told(&error));
            assert!(text.trim().len() < 12 || !told(&error) || told_anyway);
        }
    }
    if let Ok(id) = text.parse::<PeerId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(mac) = text.parse::<Mac>() {
        assert_eq!(mac.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(id) = text.parse::<WeftId>() {
        assert_eq!(id.as_str(), text);
        survives(&id);
    }
    let _ = Engine::from_host(Some(text));
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let options = NetworkOptions::parse(&[(name.to_owned(), value.to_owned())].into());
    assert_eq!(options.faults.len(), usize::from(options.mtu.is_none() && options.weft_id.is_none()));
    survives(&options);
    let faults = endpoint_option_faults([(name, value.to_owned())]);
    assert!(options.faults.iter().chain(&faults).all(|fault| fault.to_string().contains(name)));
}
