//! The exercise: a service whose containers on different hosts talk.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE, leftovers, status};
use weft_lab::{BUSYBOX, DRIVER, Host, wait_for, wait_until};

/// Names reach another host by the engines' gossip, within some seconds.
const NAMES: Duration = Duration::from_secs(20);

pub(crate) fn exercise(cluster: &Cluster) -> Result<()> {
    let manager = cluster.manager();
    let (network, service) = ("weft-custom-net", "workshop");
    manager.docker(["network", "create", &format!("--driver={DRIVER}"), network])?;
    let result = start_and_talk(cluster, network, service);
    // Also when that failed: later scenarios want a clean cluster.
    let _ = manager.docker_output(["service", "rm", service])?;
    for host in cluster.lab.hosts() {
        wait_until("end of the service's containers", SETTLE, || Ok(tasks(host, service)?.is_empty()))?;
    }
    wait_until("removal of the network", SETTLE, || {
        manager.docker(["network", "rm", network]).map(|_| true)
    })?;
    result?;

    for host in cluster.lab.hosts() {
        wait_until("nothing to be left behind", SETTLE, || {
            let left = leftovers(host)?;
            ensure!(left.is_empty(), "{}: {left}", host.name());
            let status = status(host)?;
            ensure!(status["networks"] == serde_json::json!([]), "{}: {}", host.name(), status["networks"]);
            ensure!(status["endpoints"] == serde_json::json!([]), "{}: {}", host.name(), status["endpoints"]);
            Ok(true)
        })?;
    }
    Ok(())
}

fn start_and_talk(cluster: &Cluster, network: &str, service: &str) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let (on, named) = (format!("--network={network}"), format!("--name={service}"));
    manager.docker([
        "service",
        "create",
        "--quiet",
        "--no-resolve-image",
        &on,
        "--replicas=3",
        &named,
        BUSYBOX,
    ])?;
    let (on_manager, on_worker) = (tasks(manager, service)?, tasks(worker, service)?);
    let ((here, near), (there, far)) = if on_manager.len() == 2 {
        ((manager, on_manager), (worker, on_worker))
    } else {
        ((worker, on_worker), (manager, on_manager))
    };
    ensure!(near.len() == 2 && far.len() == 1, "tasks are not spread over the hosts: {near:?}, {far:?}");
    let (first, second, third) = (&near[0], &near[1], &far[0]);
    for (host, from, to) in
        [(here, first, second), (here, first, third), (there, third, first), (there, third, second)]
    {
        ask(host, &from.id, &to.id, &to.id)?;
        ask(host, &from.id, &to.name, &to.id)?;
    }
    // The name of all tasks gives the address of each.
    let addresses = here.exec(&first.id, &format!("nslookup tasks.{service} 127.0.0.11"))?;
    let n_addresses =
        addresses.lines().filter(|line| line.starts_with("Address") && line.contains(": 10.")).count();
    ensure!(n_addresses >= 3, "tasks.{service}: {addresses}");
    Ok(())
}

/// Asks `to` for its host name from a container, until it is known there.
fn ask(host: &Host, from: &str, to: &str, expected: &str) -> Result<()> {
    let answer = wait_for(&format!("an answer of {to} to {from} on {}", host.name()), NAMES, || {
        host.exec(from, &format!("timeout 5 wget -qO- http://{to}")).map(Some)
    })?;
    ensure!(answer == expected, "{to} was asked and {answer} answered");
    Ok(())
}

/// A container of a service.
#[derive(Debug)]
struct Task {
    /// The short id, which is its host name as well.
    id: String,
    /// `SERVICE.SLOT.TASK`.
    name: String,
}

fn tasks(host: &Host, service: &str) -> Result<Vec<Task>> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let list = host.docker(["ps", "--filter", &filter, "--format", "{{.ID}} {{.Names}}"])?;
    list.lines()
        .map(|line| {
            let (id, name) = line.split_once(' ').context("an id and a name")?;
            Ok(Task { id: id.to_owned(), name: name.to_owned() })
        })
        .collect()
}

pub(crate) fn status_tells_peers_networks_and_counters(cluster: &Cluster) -> Result<()> {
    let network = cluster.network(&[])?;
    let here = network.run(cluster.manager(), &[])?;
    let there = network.run(cluster.worker(), &[])?;
    wait_for("an answer", NAMES, || {
        cluster.manager().exec(&here, &format!("timeout 5 wget -qO- http://{there}")).map(Some)
    })?;

    let id = cluster.manager().docker(["network", "inspect", "--format", "{{.Id}}", network.name()])?;
    wait_until("the status to be whole", SETTLE, || {
        let status = status(cluster.manager())?;
        ensure!(status["ready"] == true, "not ready: {}", status["faults"]);
        let peer = &status["peers"][0];
        ensure!(peer["state"] == "connected" && peer["path"] == "direct", "{peer}");
        ensure!(peer["name"] == "host2" && peer["rx_datagrams"].as_u64() > Some(0), "{peer}");
        let networks = status["networks"].as_array().context("networks are listed")?;
        let network =
            networks.iter().find(|network| network["id"] == id.as_str()).context("the network is listed")?;
        ensure!(network["n_local_endpoints"] == 1 && network["n_remote_endpoints"] == 1, "{network}");
        let endpoints = status["endpoints"].as_array().context("endpoints are listed")?;
        ensure!(endpoints.iter().any(|endpoint| endpoint["local"] == true), "no local endpoint: {status}");
        ensure!(
            endpoints.iter().any(|endpoint| endpoint["host"] == "host2"),
            "no endpoint of host2: {status}"
        );
        Ok(true)
    })?;
    let table = cluster.manager().run(["weft", "status"])?;
    for word in ["host2", "connected", "direct"] {
        ensure!(table.contains(word), "the table lacks {word}:\n{table}");
    }
    network.remove()
}
