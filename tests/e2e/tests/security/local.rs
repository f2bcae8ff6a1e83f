//! What other users and containers of a host get to see.

use anyhow::{Result, ensure};
use weft_e2e::{Cluster, status};
use weft_lab::{BUSYBOX, Host, PLUGIN, SECRET};

/// The control socket is root's, and nothing else listens but HTTP, read-only, on the loopback.
pub(crate) fn control_socket(cluster: &Cluster) -> Result<()> {
    for host in cluster.lab.hosts() {
        let sockets = host.plugin_sockets(PLUGIN)?;
        let sockets = sockets.display();
        let modes = host.sh(&format!("stat --format='%a %U %n' {sockets}/*.sock"))?;
        ensure!(
            modes.lines().count() >= 2 && modes.lines().all(|line| line.starts_with("600 root ")),
            "{modes}"
        );
        ensure!(host.run(["weft", "status"]).is_ok(), "root is refused");
        let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        for command in [&["weft", "status"][..], &["weft", "secret", "show"], &["weft", "revoke", "host1"]] {
            let done = host.output(other.iter().chain(command))?;
            ensure!(done.code.is_some_and(|code| code != 0), "another user may: {command:?}: {done}");
        }
        let listening = host.sh("ss -Hltnp | grep weft; true")?;
        ensure!(
            listening.lines().all(|line| line.contains(" 127.0.0.1:6784 ")),
            "weft listens on TCP for others than this host: {listening}"
        );
    }
    // A container that is no more privileged than others, as root and with the host's network.
    let host = cluster.manager();
    let sockets = host.plugin_sockets(PLUGIN)?.display().to_string();
    for network in ["none", "host"] {
        let look = format!("ls /run/docker/plugins {sockets} /run/weft 2>/dev/null; true");
        let seen = host.docker(["run", "--rm", "--network", network, BUSYBOX, "sh", "-c", &look])?;
        ensure!(seen.is_empty(), "a container sees {seen}");
    }
    Ok(())
}

/// The secret is in no argument, environment, log, status or readable file.
pub(crate) fn secret_is_never_shown(cluster: &Cluster) -> Result<()> {
    for host in cluster.lab.hosts() {
        let secret = host.run(["cat", SECRET])?;
        ensure!(secret.len() == 64, "the secret is 64 digits");
        // The search itself must not show it: it reads it from a file.
        let found = host.sh(&format!(
            "grep -lasFf {SECRET} /proc/[0-9]*/cmdline /proc/[0-9]*/environ /lab/*/*.log; true"
        ))?;
        ensure!(found.is_empty(), "the secret is in {found}");
        let said = [
            host.run(["weft", "status"])?,
            status(host)?.to_string(),
            host.docker(["plugin", "inspect", PLUGIN])?,
        ];
        ensure!(!said.concat().contains(&secret), "the secret is shown");
        ensure!(host.run(["weft", "secret", "show"])? == secret, "root may see it when it asks");
        private_files(host)?;
    }
    Ok(())
}

fn private_files(host: &Host) -> Result<()> {
    let files = host.sh(&format!(
        "find /var/lib/docker/plugins/*/propagated-mount {SECRET} -type f -printf '%m %u %p\\n'"
    ))?;
    ensure!(files.contains("state.redb"), "there is no state: {files}");
    ensure!(files.lines().all(|line| line.starts_with("600 root ")), "readable to others: {files}");
    Ok(())
}
