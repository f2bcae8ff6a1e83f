//! The plugin: upgraded, and without dockerd's socket.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use weft_e2e::{Cluster, status};
use weft_lab::{Engine, LabConfig, PLUGIN, SECRET, Weft, wait_until};

use super::{
    HEAL, Member, create_global_service, create_network, ensure_nothing_left, ensure_unique_addresses,
    remove, wait_healed,
};
use crate::service::{START, wait_for_state};

/// `docker plugin upgrade` as docs/operations.md has it, with containers on the host.
pub(crate) fn plugin_upgraded(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.unique("net");
    create_network(manager, &network)?;
    let members = [
        Member::run(manager, &network, &[])?,
        Member::run(worker, &network, &[])?,
        Member::run(worker, &network, &[])?,
    ];
    wait_healed("before", &members)?;
    let id = status(worker)?["peer_id"].clone();

    // The same program, with one file more: an engine takes the same content once only.
    let (next, _) = manager.shared_dir("next")?;
    let next = next.join("plugin");
    ensure!(
        Command::new("cp").arg("--archive").arg(&cluster.weft.plugin_dir).arg(&next).status()?.success(),
        "the plugin cannot be copied"
    );
    fs::write(next.join("rootfs/etc/weft/next"), "next\n")?;
    let next = manager.push_plugin("weft:next", &next)?;
    worker.docker(["plugin", "disable", "--force", PLUGIN])?;
    // What docs/operations.md says of the time between.
    worker.exec(&members[1].container, &format!("timeout 2 wget -qO- http://{}/", members[2].address))?;
    worker.docker(["plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", PLUGIN, &next])?;
    worker.docker(["plugin", "set", PLUGIN, &format!("secret.source={SECRET}")])?;
    worker.docker(["plugin", "enable", PLUGIN])?;
    let reference = worker.docker(["plugin", "inspect", "--format", "{{.PluginReference}}", PLUGIN])?;
    ensure!(reference.ends_with("weft:next"), "the plugin is {reference} still");
    wait_healed("plugin upgraded", &members)?;
    ensure!(status(worker)?["peer_id"] == id, "the host is another peer after the upgrade");
    ensure_unique_addresses(&[manager, worker])?;
    for member in &members {
        member.host.docker(["rm", "--force", &member.container])?;
    }
    remove(manager, None, &network)?;
    ensure_nothing_left(&[manager, worker])
}

/// No manager's plugin has dockerd's socket: `weft status` says that services are off, and all else works.
pub(crate) fn docker_socket_withheld(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = weft_lab::Lab::start(LabConfig::new("nosock", engine, 2))?;
    weft.make_secret(&lab, "cluster")?;
    weft.install_everywhere(&lab, &["docker.sock.source=/dev/null"])?;
    lab.swarm()?;
    lab.wait_for_plugin_on_nodes()?;
    let (manager, worker) = (lab.host(0), lab.host(1));
    create_network(manager, "net")?;
    create_global_service(manager, "net", "web")?;
    let members = [Member::task(manager, "web")?, Member::task(worker, "web")?];
    wait_healed("without dockerd's socket", &members)?;
    for host in [manager, worker] {
        wait_for_state(host, "off")?;
        let status = status(host)?;
        println!("{}: {}", host.name(), status["services_state"]);
        let text = status["services_state"].to_string();
        ensure!(text.contains("docker.sock"), "the status does not say what to do: {text}");
        ensure!(status["ready"] == true, "{status}");
    }
    // The names that Docker resolves by itself go on.
    wait_until("tasks.web", START, || {
        manager.exec(&members[0].container, "timeout 2 wget -qO- http://tasks.web/").map(|_| true)
    })?;
    let vip = manager.docker([
        "service",
        "inspect",
        "--format",
        "{{(index .Endpoint.VirtualIPs 0).Addr}}",
        "web",
    ])?;
    let vip = vip.split('/').next().unwrap_or_default();
    let asked = manager.docker_output([
        "exec",
        &members[0].container,
        "timeout",
        "2",
        "wget",
        "-qO-",
        &format!("http://{vip}/"),
    ])?;
    ensure!(!asked.success(), "the virtual address answers though nobody could tell of it: {asked}");

    // Granted on the manager, services are there.
    manager.docker(["plugin", "disable", "--force", PLUGIN])?;
    manager.docker(["plugin", "set", PLUGIN, "docker.sock.source=/run/docker.sock"])?;
    manager.docker(["plugin", "enable", PLUGIN])?;
    for host in [manager, worker] {
        wait_for_state(host, "on: told by")?;
    }
    wait_until("the virtual address", HEAL, || {
        worker.exec(&members[1].container, &format!("timeout 2 wget -qO- http://{vip}/")).map(|_| true)
    })
}
