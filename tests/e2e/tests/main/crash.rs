//! The daemon or dockerd ends without warning.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE, leftovers, ping_losses, status};
use weft_lab::{PLUGIN, wait_until};

/// Between two echo requests.
const INTERVAL: Duration = Duration::from_millis(50);

/// How long traffic between hosts may rest when the daemon is killed.
const RESUME: Duration = Duration::from_secs(2);

pub(crate) fn plugin_killed_under_ping(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let here = network.run(manager, &[])?;
    let beside = network.run(manager, &[])?;
    let there = network.run(worker, &[])?;
    let near = manager.exec(&beside, "hostname -i")?;
    let far = worker.exec(&there, "hostname -i")?;
    for address in [&near, &far] {
        wait_until("an answer", SETTLE, || {
            manager.exec(&here, &format!("ping -c1 -W1 {address}")).map(|_| true)
        })?;
    }
    let interval = INTERVAL.as_secs_f64().to_string();
    let ping = |log: &str, address: &str| {
        manager.spawn(log, ["docker", "exec", &here, "ping", "-i", &interval, "-c", "200", "-W1", address])
    };
    let (same_host, cross_host) = (ping("ping-near", &near)?, ping("ping-far", &far)?);
    for running in [&same_host, &cross_host] {
        wait_until("pings to be answered", Duration::from_secs(5), || {
            Ok(running.text()?.contains("seq=5 "))
        })?;
    }
    let before = manager.plugin_pid(PLUGIN)?;
    manager.kill_plugin(PLUGIN)?;
    let killed = Instant::now();
    wait_until("another plugin process", Duration::from_secs(20), || {
        Ok(manager.plugin_pid(PLUGIN).is_ok_and(|pid| pid != before))
    })?;
    let restarted = killed.elapsed();
    let (same_host, cross_host) =
        (same_host.wait(Duration::from_secs(30))?, cross_host.wait(Duration::from_secs(30))?);

    let lost = ping_losses(&same_host);
    ensure!(lost.is_empty(), "same-host echoes were lost: {lost:?}");
    ensure!(same_host.contains("seq=199 "), "same-host pings ended early:\n{same_host}");
    let n_lost = u32::try_from(ping_losses(&cross_host).len())?;
    ensure!(cross_host.contains("seq=199 "), "cross-host traffic did not resume:\n{cross_host}");
    let gap = INTERVAL * n_lost;
    println!(
        "plugin killed: process back after {restarted:.2?}, cross-host gap {gap:.2?}, no same-host loss"
    );
    ensure!(gap <= RESUME, "cross-host traffic rested {gap:?}");
    network.remove()
}

pub(crate) fn plugin_disabled_and_enabled(cluster: &Cluster) -> Result<()> {
    let worker = cluster.worker();
    let before = status(worker)?["peer_id"].clone();
    worker.docker(["plugin", "disable", "--force", PLUGIN])?;
    worker.docker(["plugin", "enable", PLUGIN])?;
    cluster.wait_connected()?;
    let after = status(worker)?["peer_id"].clone();
    ensure!(before.is_string() && before == after, "the peer's identity changed from {before} to {after}");

    let network = cluster.network(&[])?;
    let here = network.run(cluster.manager(), &[])?;
    let there = network.run(worker, &[])?;
    wait_until("an answer", SETTLE, || {
        cluster.manager().exec(&here, &format!("timeout 3 wget -qO- http://{there}")).map(|_| true)
    })?;
    network.remove()
}

pub(crate) fn dockerd_killed(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let here = network.run(manager, &[])?;
    let there = network.run(worker, &["--restart=always"])?;
    wait_until("an answer", SETTLE, || {
        manager.exec(&here, &format!("timeout 3 wget -qO- http://{there}")).map(|_| true)
    })?;

    worker.kill_dockerd()?;
    worker.start_dockerd()?;
    cluster.wait_connected()?;
    // Now and then dockerd gives up on attaching its restarted container, before it hears from the manager, and its own
    // gossip of names stays broken; neither is weft's. So the container is started if it is not running, and asked by
    // its address.
    wait_until("the restarted container's answer", Duration::from_secs(90), || {
        worker.docker(["start", &there])?;
        let address = worker.exec(&there, "hostname -i")?;
        let address = address.split_whitespace().next().context("a container has an address")?;
        manager.exec(&here, &format!("timeout 3 wget -qO- http://{address}")).map(|_| true)
    })?;
    // dockerd never tells of the endpoint that died: it must go without.
    wait_until("one endpoint for one container", SETTLE, || {
        let status = status(worker)?;
        let endpoints = status["endpoints"].as_array().context("endpoints are listed")?;
        let n_local = endpoints.iter().filter(|endpoint| endpoint["local"] == true).count();
        ensure!(n_local == 1, "{n_local} endpoints on the worker: {endpoints:?}");
        Ok(true)
    })?;
    network.remove()?;
    // Nor does it always delete the network on a host where its gossip stayed broken; then weft removes the links 60 s
    // after the last endpoint.
    for host in cluster.lab.hosts() {
        wait_until("nothing to be left behind", Duration::from_secs(90), || {
            let left = leftovers(host)?;
            ensure!(left.is_empty(), "{}: {left}", host.name());
            Ok(true)
        })?;
    }
    Ok(())
}
