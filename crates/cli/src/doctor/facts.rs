//! What can be found out about this host.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use weft_api::{Client, Status};

use crate::docker;

/// Everything that findings are made of.
#[derive(Debug)]
pub(crate) struct Facts {
    /// What the daemon says, or why it could not be asked.
    pub(crate) daemon: Result<Daemon, String>,
    /// dockerd's plugins that are called weft; `None` when dockerd could not be asked.
    pub(crate) plugins: Option<Vec<Plugin>>,
    /// This host's part in a swarm; `None` when dockerd could not be asked.
    pub(crate) swarm: Option<Swarm>,
    /// Whether there is a `/dev/net/tun`.
    pub(crate) tun: bool,
    /// Parts of the kernel by their module's name: there, not there, or not known.
    pub(crate) modules: Vec<(&'static str, Option<bool>)>,
    /// weft's bridges on which this host itself has an IPv6 address.
    pub(crate) ipv6_bridges: Vec<String>,
    /// Whether bridged frames pass iptables (`net.bridge.bridge-nf-call-iptables`); `None` without that part.
    pub(crate) bridge_nf: Option<bool>,
}

/// A daemon that answered.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// What it says.
    pub(crate) status: Status,
}

/// A plugin as dockerd lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Plugin {
    /// Its name with its tag.
    pub(crate) name: String,
    /// Whether it runs.
    pub(crate) enabled: bool,
}

/// A host's part in a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swarm {
    /// It is in none.
    None,
    /// It runs tasks.
    Worker,
    /// It decides.
    Manager,
}

impl Facts {
    /// Asks the daemon, dockerd and the kernel.
    pub(crate) async fn gather(socket: Option<PathBuf>) -> Self {
        let daemon = daemon(socket).await;
        let bridges = daemon.iter().flat_map(|daemon| &daemon.status.networks);
        let bridges: Vec<String> = bridges.filter_map(|network| network.bridge.clone()).collect();
        let modules = ["veth", "bridge", "nf_tables"].map(|name| (name, module(name))).to_vec();
        Self {
            daemon,
            plugins: plugins().await,
            swarm: swarm().await,
            tun: fs::metadata("/dev/net/tun").is_ok(),
            modules,
            ipv6_bridges: with_address(
                bridges,
                &fs::read_to_string("/proc/net/if_inet6").unwrap_or_default(),
            ),
            bridge_nf: read_switch(Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables")),
        }
    }
}

async fn daemon(socket: Option<PathBuf>) -> Result<Daemon, String> {
    let client = Client::discover(socket).await.map_err(|error| error.to_string())?;
    let status = client.status().await.map_err(|error| weft_api::with_causes(&error))?;
    Ok(Daemon { socket: client.socket().to_owned(), status })
}

async fn plugins() -> Option<Vec<Plugin>> {
    let plugins: Vec<Plugin> = docker::get("/plugins").await?;
    let is_weft = |plugin: &Plugin| plugin.name.rsplit('/').next().is_some_and(|n| n.starts_with("weft"));
    Some(plugins.into_iter().filter(is_weft).collect())
}

async fn swarm() -> Option<Swarm> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Info {
        swarm: Part,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Part {
        local_node_state: String,
        control_available: bool,
    }
    let Info { swarm } = docker::get("/info").await?;
    Some(match (swarm.local_node_state.as_str(), swarm.control_available) {
        ("active", true) => Swarm::Manager,
        ("active", false) => Swarm::Worker,
        _ => Swarm::None,
    })
}

/// Whether the kernel has a module: loaded, built in, or to be loaded.
fn module(name: &str) -> Option<bool> {
    if Path::new("/sys/module").join(name).exists() {
        return Some(true);
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let dir = Path::new("/lib/modules").join(release.trim());
    let lists = ["modules.builtin", "modules.dep"].map(|list| fs::read_to_string(dir.join(list)).ok());
    let [Some(builtin), Some(loadable)] = lists else { return None };
    Some(is_listed(name, &builtin) || is_listed(name, &loadable))
}

/// Whether a list of modules has one with this name: `kernel/net/bridge/bridge.ko`, perhaps compressed, perhaps with what
/// it needs after a colon.
fn is_listed(name: &str, list: &str) -> bool {
    let file = |line: &str| {
        let path = line.split(':').next().unwrap_or(line);
        path.rsplit('/').next().and_then(|file| file.split(".ko").next()).map(|stem| stem.replace('-', "_"))
    };
    list.lines().any(|line| file(line).as_deref() == Some(name))
}

/// The interfaces that have an IPv6 address. `list` is the kernel's: an address a line, its interface's name last.
fn with_address(mut interfaces: Vec<String>, list: &str) -> Vec<String> {
    let has = |name: &String| list.lines().any(|line| line.split_whitespace().last() == Some(name.as_str()));
    interfaces.retain(has);
    interfaces
}

fn read_switch(path: &Path) -> Option<bool> {
    fs::read_to_string(path).ok().map(|text| text.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_lists() {
        let list = "kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz\nkernel/drivers/net/veth.ko:\n\
                    kernel/net/netfilter/nf-tables.ko\n";
        assert!(is_listed("br_netfilter", list) && is_listed("veth", list) && is_listed("nf_tables", list));
        assert!(!is_listed("bridge", list), "what another needs is not there by that");
    }

    #[test]
    fn interfaces_with_an_address_are_found() {
        let list = "fe80000000000000fc54fffefe5a40d1 02 40 20 80     eth0\nfd99 05 40 00 80 wfb0001\n";
        let interfaces = ["wfb0001", "wfb000", "wfb0002"].map(str::to_owned).to_vec();
        assert_eq!(with_address(interfaces, list), ["wfb0001"]);
    }

    #[test]
    fn dockerds_list_is_read() {
        let json = r#"[{"Id":"ab","Name":"weft:latest","Enabled":true,"Settings":{},"Config":{}}]"#;
        let plugins: Vec<Plugin> = serde_json::from_str(json).unwrap();
        assert_eq!(plugins, [Plugin { name: "weft:latest".to_owned(), enabled: true }]);
    }
}
