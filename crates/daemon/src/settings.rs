//! What the operator can set.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use weft_noise::Suite;
use weft_wire::DEFAULT_PORT;

/// A setting that cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingError {
    /// An entry of PEERS is no host with an optional port.
    #[error("PEERS: `{0}` is not HOST or HOST:PORT (an IPv6 address with a port is written [ADDRESS]:PORT)")]
    Peer(String),
    /// ADMISSION names no way to admit peers.
    #[error("ADMISSION: `{0}` is not one of secret, allowlist")]
    Admission(String),
    /// SUITE names no suite.
    #[error("SUITE: `{0}` is not one of auto, aes-256-gcm, chacha20-poly1305")]
    Suite(String),
    /// HTTP is no address with a port.
    #[error("HTTP: `{0}` is not ADDRESS:PORT, such as 127.0.0.1:6784 or [::1]:6784, or off")]
    Http(String),
}

/// A host to contact, as it is written in PEERS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress {
    /// A name or an address.
    pub host: String,
    /// The port, when it is not this host's own.
    pub port: Option<u16>,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => f.write_str(&self.host),
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let bad = || SettingError::Peer(text.to_owned());
        let plain = |host: &str| Self { host: host.to_owned(), port: None };
        if text.parse::<IpAddr>().is_ok() {
            return Ok(plain(text));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(bad)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                (host, port.strip_prefix(':'))
            }
            None => match text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        if host.is_empty() || !host.chars().all(named) || (host.contains(':') && !text.starts_with('[')) {
            return Err(bad());
        }
        let port = port.map(|p| p.parse().ok().filter(|p| *p != 0).ok_or_else(bad)).transpose()?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Reads a list as in PEERS: entries separated by commas or white space; empty ones are passed over.
///
/// # Errors
/// [`SettingError::Peer`] names the first bad entry.
pub fn parse_peers(text: &str) -> Result<Vec<PeerAddress>, SettingError> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|s| !s.is_empty()).map(str::parse).collect()
}

/// Reads SUITE: `auto` or empty takes what this machine is fastest with.
///
/// # Errors
/// [`SettingError::Suite`].
pub fn parse_suite(text: &str) -> Result<Suite, SettingError> {
    match text {
        "" | "auto" => Ok(Suite::auto()),
        other => other.parse().map_err(|_| SettingError::Suite(other.to_owned())),
    }
}

/// Reads ADMISSION: `secret` or empty admits whoever knows the secret, `allowlist` only those in the file.
///
/// # Errors
/// [`SettingError::Admission`].
pub fn parse_admission(text: &str, file: PathBuf) -> Result<Option<PathBuf>, SettingError> {
    match text {
        "" | "secret" => Ok(None),
        "allowlist" => Ok(Some(file)),
        other => Err(SettingError::Admission(other.to_owned())),
    }
}

/// Where HTTP is served when nothing is said.
const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6784);

/// Reads HTTP: an address with a port, `off`, or empty for this host's loopback at port 6784.
///
/// # Errors
/// [`SettingError::Http`].
pub fn parse_http(text: &str) -> Result<Option<SocketAddr>, SettingError> {
    match text {
        "" => Ok(Some(DEFAULT_HTTP)),
        "off" => Ok(None),
        other => {
            let address = other.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
            address.map(Some).ok_or_else(|| SettingError::Http(other.to_owned()))
        }
    }
}

/// Checked settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Runs as a managed plugin: scope global, sockets in the plugin's directory.
    pub plugin: bool,
    /// Hosts to contact.
    pub peers: Vec<PeerAddress>,
    /// UDP port of this host, for control and data.
    pub port: u16,
    /// This host's name among the peers; `None`: its hostname.
    pub name: Option<String>,
    /// The address at which others reach this host; picks the interface whose MTU counts.
    pub advertise: Option<IpAddr>,
    /// The cluster's suite.
    pub suite: Suite,
    /// MTU of the underlay; `None`: the interface's.
    pub underlay_mtu: Option<u16>,
    /// Worker threads; `None`: one per core, at most four.
    pub n_workers: Option<usize>,
    /// File with the ids of the peers to admit; `None`: whoever knows the secret.
    pub allowlist_file: Option<PathBuf>,
    /// Age at which a session in use is replaced.
    pub rekey_after: Duration,
    /// File with the cluster secret. Missing or empty: the one that `weft init` gave to the daemon.
    pub secret_file: PathBuf,
    /// Directory of the state file.
    pub state_dir: PathBuf,
    /// Socket that dockerd calls.
    pub driver_socket: PathBuf,
    /// Socket of the command line.
    pub control_socket: PathBuf,
    /// Docker's own socket; used only if it is there.
    pub docker_socket: PathBuf,
    /// Where health, metrics and the live map are served; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// What is wrong with the settings themselves. A plugin cannot just end, so it runs and says this on every call.
    pub fault: Option<String>,
}

impl Settings {
    /// The defaults, as a managed plugin or on a host.
    #[must_use]
    pub fn new(plugin: bool) -> Self {
        let (secret, control) = if plugin {
            ("/run/secrets/weft", "/run/docker/plugins/weft-control.sock")
        } else {
            ("/etc/weft/secret", "/run/weft/control.sock")
        };
        Self {
            plugin,
            peers: Vec::new(),
            port: DEFAULT_PORT,
            name: None,
            advertise: None,
            suite: Suite::auto(),
            underlay_mtu: None,
            n_workers: None,
            allowlist_file: None,
            rekey_after: weft_noise::REKEY_AFTER,
            secret_file: secret.into(),
            state_dir: "/var/lib/weft".into(),
            driver_socket: "/run/docker/plugins/weft.sock".into(),
            control_socket: control.into(),
            docker_socket: "/run/docker.sock".into(),
            http: Some(DEFAULT_HTTP),
            fault: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read() {
        let peers = parse_peers("10.0.0.1, host-b:7000 [fd00::1]:6784,fd00::2,").unwrap();
        let shown: Vec<_> = peers.iter().map(|p| (p.host.as_str(), p.port)).collect();
        assert_eq!(
            shown,
            [("10.0.0.1", None), ("host-b", Some(7000)), ("fd00::1", Some(6784)), ("fd00::2", None)]
        );
    }

    #[test]
    fn bad_peers_are_named() {
        for bad in ["host:0", "host:70000", "ho/st", ":6783", "[fd00::1", "[10.0.0.1]:1", "fd00::zz:1"] {
            assert_eq!(parse_peers(&format!("ok,{bad}")), Err(SettingError::Peer(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn http_is_an_address_or_off() {
        assert_eq!(parse_http(""), Ok(Some("127.0.0.1:6784".parse().unwrap())));
        assert_eq!(parse_http("[::]:80"), Ok(Some("[::]:80".parse().unwrap())));
        assert_eq!(parse_http("off"), Ok(None));
        for bad in ["on", "6784", ":6784", "127.0.0.1", "127.0.0.1:0", "host:6784"] {
            assert_eq!(parse_http(bad), Err(SettingError::Http(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn suites_are_read() {
        assert_eq!(parse_suite("auto"), Ok(Suite::auto()));
        assert_eq!(parse_suite("chacha20-poly1305"), Ok(Suite::ChaCha20Poly1305));
        assert_eq!(parse_suite("none"), Err(SettingError::Suite("none".into())));
    }
}
