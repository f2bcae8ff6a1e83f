//! Services at their virtual addresses.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{PLUGIN, wait_for, wait_until};

use crate::{
    load::{Load, failures, uptime},
    service::{
        START, Service, ask_often, ensure_no_faults, service_status, wait_for_answers, wait_for_state,
    },
};

/// How soon a change is to be followed.
const SOON: f64 = 1.0;

pub(crate) fn service_vip(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let clients = [(manager, network.run(manager, &[])?), (worker, network.run(worker, &[])?)];
    let service = Service::create(cluster, network.name(), &["--replicas=3"])?;
    let (vip, tasks) = (service.vip()?, service.all_containers()?);
    ensure!(tasks.len() == 3, "{tasks:?}");
    for (host, client) in &clients {
        let answers = wait_for_answers(host, client, &service.name, &tasks)?;
        println!("{}: {vip} answers as {answers:?}", host.name());
        let names = host.exec(client, &format!("nslookup {} 127.0.0.11", service.name))?;
        ensure!(names.contains(&vip), "the name is not the VIP's, {vip}: {names}");
        wait_for_answers(host, client, &vip, &tasks)?;
        host.exec(client, &format!("ping -c 2 -W 2 {vip}"))?;
        let shown = service_status(host, &service.name)?.context("the service is in the status")?;
        ensure!(shown["vip"] == vip.as_str(), "{shown}");
        ensure!(shown["tasks"].as_array().is_some_and(|tasks| tasks.len() == 3), "{shown}");
        wait_for_state(host, "on: told by")?;
    }
    // From the tasks, also each to itself.
    for host in cluster.lab.hosts() {
        for task in service.containers(host)? {
            wait_for_answers(host, &task, &service.name, &tasks)?;
        }
    }
    ensure_no_faults(cluster)?;
    service.remove()?;
    for (host, _) in &clients {
        wait_until("the service to leave the status", SETTLE, || {
            Ok(status(host)?["services"] == serde_json::json!([]))
        })?;
    }
    // Nothing stays in a namespace that goes on.
    for (host, client) in &clients {
        let pid = host.docker(["inspect", "--format", "{{.State.Pid}}", client])?;
        wait_until("the rules to go", SETTLE, || {
            let tables = host.run(["nsenter", "-t", &pid, "-n", "nft", "list", "tables"])?;
            Ok(!tables.contains("weft"))
        })?;
    }
    network.remove()
}

pub(crate) fn service_before_and_after(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    for options in [&[][..], &["--internal"]] {
        let network = cluster.network(options)?;
        let early = network.run(worker, &[])?;
        let service = Service::create(cluster, network.name(), &["--replicas=2"])?;
        let created = Instant::now();
        let tasks = service.all_containers()?;
        wait_for("an answer to the earlier client", START, || {
            worker.exec(&early, &format!("timeout 2 wget -qO- http://{}/", service.name)).map(Some)
        })?;
        println!("{options:?}: answers {:.2?} after `service create` had ended", created.elapsed());
        wait_for_answers(worker, &early, &service.name, &tasks)?;
        for host in [manager, worker] {
            let late = network.run(host, &[])?;
            wait_for_answers(host, &late, &service.name, &tasks)?;
        }
        service.remove()?;
        network.remove()?;
    }
    Ok(())
}

pub(crate) fn service_vip_follows_tasks(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let clients = [(manager, network.run(manager, &[])?), (worker, network.run(worker, &[])?)];
    let service = Service::create(cluster, network.name(), &["--replicas=2"])?;
    for (host, client) in &clients {
        wait_for_answers(host, client, &service.name, &service.all_containers()?)?;
    }

    // A task's container dies under load.
    let loads: Vec<Load<'_>> = clients
        .iter()
        .map(|(host, client)| Load::start(host, client, &service.name, "kill"))
        .collect::<Result<_>>()?;
    let (home, victim) = [manager, worker]
        .into_iter()
        .find_map(|host| Some((host, service.containers(host).ok()?.pop()?)))
        .context("a task runs somewhere")?;
    let killed = uptime()?;
    home.docker(["kill", &victim])?;
    wait_until("another task in its place", START, || {
        let now = service.all_containers()?;
        Ok(now.len() == 2 && !now.contains(&victim))
    })?;
    let replaced = service.all_containers()?;
    for ((host, client), load) in clients.iter().zip(loads) {
        wait_for_answers(host, client, &service.name, &replaced)?;
        let (n_failed, last) = failures(&load.stop()?, killed);
        println!("{}: task killed: {n_failed} requests failed, the last {last:.2} s after it", host.name());
        ensure!(last <= SOON + 0.5, "requests failed for {last:.2} s");
    }

    // More, fewer, none, and some again.
    for n in [4, 1] {
        service.scale(n)?;
        wait_until("as many tasks", START, || Ok(service.all_containers()?.len() == n))?;
        for (host, client) in &clients {
            wait_for_answers(host, client, &service.name, &service.all_containers()?)?;
        }
    }
    // By address: without tasks older engines do not know the name.
    let vip = service.vip()?;
    service.scale(0)?;
    for (host, client) in &clients {
        wait_until("the address to refuse", START, || {
            Ok(ask_often(host, client, &vip, 1)?.contains_key("failed"))
        })?;
        let refused = host.exec(
            client,
            &format!(
                "read -r from rest < /proc/uptime; wget -qO- http://{vip}/ 2>&1; read -r to rest < /proc/uptime; \
                 echo; echo took $from $to"
            ),
        )?;
        println!("{}: without tasks: {}", host.name(), refused.replace('\n', " "));
        ensure!(refused.contains("refused"), "{refused}");
        let times = refused.lines().find_map(|line| line.strip_prefix("took ")).context("times")?;
        let times: Vec<f64> = times.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(times[1] - times[0] < SOON, "it took {times:?}");
    }
    service.scale(2)?;
    for (host, client) in &clients {
        wait_for_answers(host, client, &service.name, &service.all_containers()?)?;
    }
    ensure_no_faults(cluster)?;
    service.remove()?;
    network.remove()
}

/// The only manager goes away: addresses of services stay, also in containers that start now and after the daemon of
/// another host has begun anew.
pub(crate) fn last_known_state(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let client = network.run(worker, &[])?;
    let here = ["--replicas=2", "--constraint=node.hostname==host2"];
    let service = Service::create(cluster, network.name(), &here)?;
    let tasks = service.all_containers()?;
    // By address: the engines' own names suffer without a manager, and are not weft's.
    let vip = service.vip()?;
    wait_for_answers(worker, &client, &vip, &tasks)?;
    wait_for_state(worker, "on: told by host1")?;

    let load = Load::start(worker, &client, &vip, "manager-gone")?;
    let stopped = uptime()?;
    manager.stop_dockerd()?;
    wait_for_state(worker, "as last known")?;
    let before = worker.plugin_pid(PLUGIN)?;
    worker.kill_plugin(PLUGIN)?;
    wait_until("another plugin process", SETTLE, || {
        Ok(worker.plugin_pid(PLUGIN).is_ok_and(|pid| pid != before))
    })?;
    wait_for_state(worker, "as last known")?;
    wait_for_answers(worker, &client, &vip, &tasks)?;
    let (n_failed, last) = failures(&load.stop()?, stopped);
    println!(
        "manager gone, plugin of the worker killed: {n_failed} requests failed, the last after {last:.2} s"
    );
    ensure!(n_failed == 0, "{n_failed} requests failed");

    manager.start_dockerd()?;
    cluster.wait_connected()?;
    wait_for_state(worker, "on: told by host1")?;
    wait_until("the manager to answer", START, || manager.docker(["service", "ls"]).map(|_| true))?;
    wait_for_answers(worker, &client, &vip, &service.all_containers()?)?;
    service.remove()?;
    network.remove()
}
