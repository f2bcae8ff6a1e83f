//! The cluster secret: absent, handed over later, or not the others'.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{BUSYBOX, DRIVER, Engine, Lab, LabConfig, PLUGIN, SECRET, Weft, wait_until};

pub(crate) fn no_secret(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("nosecret", engine, 1))?;
    let host = lab.host(0);
    lab.swarm()?;
    weft.install_program(host)?;
    host.create_plugin(PLUGIN, &weft.plugin_dir, &[])?;
    lab.wait_for_plugin_on_nodes()?;
    host.docker(["network", "create", &format!("--driver={DRIVER}"), "--attachable", "net"])?;
    let run = host.docker_output(["run", "--rm", "--network=net", BUSYBOX, "true"])?;
    ensure!(!run.success(), "a container was started without a cluster secret");
    ensure!(run.text().contains("weft init"), "the user is not told how to make a secret: {run}");
    let state = status(host)?;
    ensure!(state["ready"] == false && state["faults"].to_string().contains("weft init"), "{state}");

    host.run(["weft", "init"])?;
    wait_until("the daemon to be ready", SETTLE, || Ok(status(host)?["ready"] == true))?;
    host.docker(["run", "--rm", "--network=net", BUSYBOX, "true"])?;
    // It is kept over a restart of the plugin.
    host.docker(["plugin", "disable", "--force", PLUGIN])?;
    host.docker(["plugin", "enable", PLUGIN])?;
    wait_until("the daemon to be ready", SETTLE, || Ok(status(host)?["ready"] == true))
}

pub(crate) fn wrong_secret(engine: Engine, weft: &Weft) -> Result<()> {
    let mut cluster = Cluster::with(LabConfig::new("wrong", engine, 2), weft)?;
    cluster.lab.add_host(engine)?;
    let stranger = cluster.lab.host(2);
    cluster.lab.start_engine(stranger)?;
    weft.install_program(stranger)?;
    stranger.sh(&format!("mkdir -p /etc/weft && weft init --out {SECRET}"))?;
    let manager = cluster.manager();
    let peers = format!("PEERS={}", manager.ipv4());
    let secret = format!("secret.source={SECRET}");
    stranger.create_plugin(PLUGIN, &weft.plugin_dir, &[&secret, &peers])?;

    wait_until("the stranger to say that the peer does not answer", Duration::from_secs(40), || {
        let status = status(stranger)?;
        let peer = &status["peers"][0];
        ensure!(peer["state"] != "connected", "a session without the secret: {peer}");
        ensure!(peer["problem"].as_str().is_some_and(|problem| problem.contains("secret")), "{status}");
        Ok(true)
    })?;
    let state = status(manager)?;
    ensure!(
        state["peers"].as_array().is_some_and(|peers| peers.iter().all(|peer| peer["name"] != "host3")),
        "the stranger is a peer: {}",
        state["peers"]
    );
    // Never which secret: neither side shows it.
    let own = stranger.run(["cat", SECRET])?;
    let shown = format!("{}{}", status(stranger)?, std::fs::read_to_string(stranger.log_path("dockerd")?)?);
    ensure!(!shown.contains(own.trim()), "the secret is shown");
    Ok(())
}
