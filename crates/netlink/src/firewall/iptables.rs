//! Running the iptables programs.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

use super::plan::Edit;
use super::rules::{COMMENT, FilterTable};
use super::{Backend, Family, FirewallError, Table};

/// How long a program may take; it waits half as long for the lock that dockerd may hold.
const LIMIT: Duration = Duration::from_secs(10);
const LOCK_WAIT: &str = "5";

/// The programs of this host, looked for once found.
#[derive(Debug, Default)]
pub(super) struct Iptables {
    found: OnceCell<Vec<Tool>>,
}

/// The program for one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tool {
    table: Table,
    program: &'static str,
}

/// The tables that are in use.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) usable: Vec<Tool>,
    /// Why a table that is in use is not among the usable.
    pub(super) unusable: Option<FirewallError>,
}

impl Iptables {
    /// Whether the programs were found.
    pub(super) fn are_found(&self) -> bool {
        self.found.initialized()
    }

    /// Whether the kernel has a `filter` table of the legacy backend.
    pub(super) async fn has_legacy(&self) -> bool {
        has_legacy_filter(Family::Ipv4).await || has_legacy_filter(Family::Ipv6).await
    }

    /// The tables in use and the programs for them.
    pub(super) async fn tables(&self) -> Result<Tables, FirewallError> {
        let found = self
            .found
            .get_or_try_init(|| async {
                let tools = find_tools().await;
                if tools.is_empty() { Err(FirewallError::NoIptables) } else { Ok(tools) }
            })
            .await;
        let found = match found {
            // Without br_netfilter no rule is needed, and so no program.
            Err(_) if !bridge_netfilter_is_on().await => &Vec::new(),
            other => other?,
        };
        let mut tables = Tables { usable: Vec::new(), unusable: None };
        for family in [Family::Ipv4, Family::Ipv6] {
            let tool = |backend| found.iter().find(|tool| tool.table == Table { family, backend }).cloned();
            tables.usable.extend(tool(Backend::Nft));
            if has_legacy_filter(family).await {
                match tool(Backend::Legacy) {
                    Some(tool) => tables.usable.push(tool),
                    None if bridge_netfilter_is_on().await => {
                        tables.unusable.get_or_insert(FirewallError::NoLegacyIptables(family));
                    }
                    None => {}
                }
            }
        }
        Ok(tables)
    }
}

/// Whether the kernel passes bridged packets to the IP filters in this namespace.
async fn bridge_netfilter_is_on() -> bool {
    for file in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        let path = format!("/proc/sys/net/bridge/{file}");
        if tokio::fs::read_to_string(path).await.is_ok_and(|value| value.trim() != "0") {
            return true;
        }
    }
    false
}

/// Whether the legacy `filter` table is there. Not by asking iptables-legacy, which would create it.
async fn has_legacy_filter(family: Family) -> bool {
    // Of the thread, for it is the thread's namespace that the programs inherit.
    let path = match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    };
    tokio::fs::read_to_string(path).await.is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

async fn find_tools() -> Vec<Tool> {
    let mut tools = Vec::new();
    for (family, plain, nft, legacy) in [
        (Family::Ipv4, "iptables", "iptables-nft", "iptables-legacy"),
        (Family::Ipv6, "ip6tables", "ip6tables-nft", "ip6tables-legacy"),
    ] {
        let plain_backend = version(plain).await.map(|v| backend_of(&v));
        for (backend, named) in [(Backend::Nft, nft), (Backend::Legacy, legacy)] {
            let program = if version(named).await.is_some() {
                Some(named)
            } else {
                Some(plain).filter(|_| plain_backend == Some(backend))
            };
            tools.extend(program.map(|program| Tool { table: Table { family, backend }, program }));
        }
    }
    tools
}

/// From what `--version` prints: before 1.8 there was only legacy, and it did not say so.
fn backend_of(version: &str) -> Backend {
    if version.contains("nf_tables") { Backend::Nft } else { Backend::Legacy }
}

async fn version(program: &str) -> Option<String> {
    let output = run(program, &["--version"]).await.ok()??;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the program; `None` when it was killed for taking too long.
async fn run(program: &str, args: &[&str]) -> io::Result<Option<Output>> {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    match tokio::time::timeout(LIMIT, child.wait_with_output()).await {
        Ok(output) => output.map(Some),
        Err(_) => Ok(None),
    }
}

impl Tool {
    pub(super) fn table(&self) -> Table {
        self.table
    }

    /// The whole `filter` table; `None` when the kernel lacks this backend, so that nothing there can drop a frame.
    pub(super) async fn list(&self) -> Result<Option<FilterTable>, FirewallError> {
        match self.run(&["-w", LOCK_WAIT, "-S"]).await {
            Ok(text) => Ok(Some(FilterTable::parse(&text))),
            Err(FirewallError::Failed { stderr, .. }) if is_missing_backend(&stderr) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn apply(&self, edit: &Edit) -> Result<(), FirewallError> {
        let (verb, chain, bridge) = match edit {
            Edit::Insert { chain, bridge } => ("-I", *chain, bridge),
            Edit::Delete { chain, bridge } => ("-D", chain.as_str(), bridge),
        };
        let rule = ["-i", bridge, "-o", bridge, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"];
        let args: Vec<&str> = ["-w", LOCK_WAIT, verb, chain].into_iter().chain(rule).collect();
        self.run(&args).await.map(drop)
    }

    async fn run(&self, args: &[&str]) -> Result<String, FirewallError> {
        let table = self.table;
        let output = run(self.program, args)
            .await
            .map_err(|source| FirewallError::Spawn { table, source })?
            .ok_or(FirewallError::TimedOut { table, limit: LIMIT })?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(FirewallError::Failed {
                table,
                stderr: String::from_utf8_lossy(&output.stderr).trim().into(),
            })
        }
    }
}

/// Whether the program says that the kernel has no such backend, or none of this family.
fn is_missing_backend(stderr: &str) -> bool {
    [
        "Protocol not supported",
        "Table does not exist",
        "Address family not supported",
        "does not support nf_tables",
    ]
    .iter()
    .any(|text| stderr.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_is_read_from_the_version() {
        assert_eq!(backend_of("iptables v1.8.9 (nf_tables)"), Backend::Nft);
        assert_eq!(backend_of("iptables v1.8.9 (legacy)"), Backend::Legacy);
        assert_eq!(backend_of("iptables v1.4.21"), Backend::Legacy);
    }

    #[test]
    fn a_kernel_without_the_backend_is_told_from_a_refusal() {
        assert!(is_missing_backend("iptables: Failed to initialize nft: Protocol not supported"));
        assert!(is_missing_backend(
            "can't initialize iptables table `filter': Table does not exist (do you need to insmod?)"
        ));
        assert!(!is_missing_backend(
            "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)"
        ));
    }
}
