//! Hosts that restart, leave, and are replaced.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, status};
use weft_lab::{Engine, Host, LabConfig, PLUGIN, Weft, wait_until};

use super::{
    Member, all, create_global_service, create_network, ensure_nothing_left, ensure_unique_addresses, remove,
    wait_healed, wait_node, wait_peers,
};
use crate::service::START;

const NETWORK: &str = "net";
const SERVICE: &str = "web";

fn members<'a>(hosts: &[&'a Host]) -> Result<Vec<Member<'a>>> {
    hosts.iter().map(|host| Member::task(host, SERVICE)).collect()
}

/// All processes of a host end at once: with `/run` kept, with `/run` gone as at a reboot, and with the daemon's state
/// gone as well.
pub(crate) fn host_rebooted(engine: Engine, weft: &Weft) -> Result<()> {
    let mut cluster = Cluster::with(LabConfig::new("reboot", engine, 2), weft)?;
    create_network(cluster.manager(), NETWORK)?;
    create_global_service(cluster.manager(), NETWORK, SERVICE)?;
    wait_healed("before", &members(&all(&cluster.lab))?)?;
    let first = status(cluster.worker())?["peer_id"].clone();

    for what in ["/run kept", "/run gone", "state gone"] {
        if what == "/run kept" {
            cluster.lab.kill_all(cluster.worker())?;
        } else {
            if what == "state gone" {
                // In a subshell of the host, since the plugin's directory is named by its id.
                cluster.worker().sh("rm /var/lib/docker/plugins/*/propagated-mount/*.redb")?;
            }
            cluster.lab.power_off(1)?;
            cluster.lab.power_on(1)?;
        }
        let (manager, worker) = (cluster.manager(), cluster.worker());
        let booted = Instant::now();
        worker.start_dockerd()?;
        let dockerd = booted.elapsed();
        let hosts = [manager, worker];
        if what == "state gone" {
            // It is another peer of the same name now, and the name is the old one's until it is forgotten.
            wait_until("the new peer to be refused", START, || {
                let status = status(manager)?;
                ensure!(status["refused"].to_string().contains("weft forget"), "{status}");
                Ok(true)
            })?;
            manager.run(["weft", "forget", "host2"])?;
        }
        let connected = wait_peers(&hosts, 1)?;
        wait_node(manager, "host2", "{{.Status.State}}", "ready")?;
        let members = members(&hosts)?;
        println!("{what}: dockerd {dockerd:.1?}, session {connected:.1?}, task {:.1?}", booted.elapsed());
        wait_healed(&format!("host rebooted, {what}"), &members)?;
        ensure_unique_addresses(&hosts)?;
        let is_same = status(worker)?["peer_id"] == first;
        ensure!(is_same == (what != "state gone"), "{what}: the peer's id");
    }
    remove(cluster.manager(), Some(SERVICE), NETWORK)?;
    ensure_nothing_left(&all(&cluster.lab))
}

fn peer<'a>(status: &'a Value, id: &Value) -> Option<&'a Value> {
    status["peers"].as_array()?.iter().find(|peer| peer["id"] == *id)
}

/// A node is drained, comes back, leaves, is removed, dies; another machine takes its name and address.
pub(crate) fn node_drained_left_removed_replaced(engine: Engine, weft: &Weft) -> Result<()> {
    let mut cluster = Cluster::with(LabConfig::new("nodes", engine, 3), weft)?;
    create_network(cluster.manager(), NETWORK)?;
    create_global_service(cluster.manager(), NETWORK, SERVICE)?;
    wait_healed("before", &members(&all(&cluster.lab))?)?;

    let [manager, worker, third] = cluster.lab.hosts() else { unreachable!("three hosts") };
    manager.docker(["node", "update", "--availability=drain", "host3"])?;
    wait_until("the drained node's task to end", START, || Ok(third.docker(["ps", "--quiet"])?.is_empty()))?;
    wait_healed("drained", &members(&[manager, worker])?)?;
    wait_answers_of(&[manager, worker], 2)?;
    ensure_nothing_left(&[third])?;
    manager.docker(["node", "update", "--availability=active", "host3"])?;
    wait_healed("active again", &members(&[manager, worker, third])?)?;
    wait_answers_of(&[manager, worker, third], 3)?;

    // It leaves. weft goes on there: it is a host that knows the secret, without networks.
    third.docker(["swarm", "leave"])?;
    wait_node(manager, "host3", "{{.Status.State}}", "down")?;
    manager.docker(["node", "rm", "host3"])?;
    wait_healed("left", &members(&[manager, worker])?)?;
    wait_answers_of(&[manager, worker], 2)?;
    ensure_nothing_left(&[third])?;
    let old = status(third)?["peer_id"].clone();
    let seen = status(manager)?;
    let left = peer(&seen, &old).context("a host that left the swarm is still a peer")?;
    println!("left the swarm: {} is {} ({})", left["name"], left["state"], left["problem"]);

    // The machine dies for good, and a new one takes its name and address.
    cluster.lab.power_off(2)?;
    let died = Instant::now();
    wait_until("the peer to be down", START, || {
        let seen = status(cluster.manager())?;
        let peer = peer(&seen, &old).context("the peer is listed")?;
        ensure!(peer["state"] == "down", "{peer}");
        Ok(true)
    })?;
    println!("died: down after {:.1?}", died.elapsed());
    cluster.lab.replace_disk(2)?;
    cluster.lab.power_on(2)?;
    let [manager, worker, third] = cluster.lab.hosts() else { unreachable!("three hosts") };
    cluster.lab.start_engine(third)?;
    weft.give_secret(third, "cluster")?;
    weft.install(third, &format!("{}/{}", weft_lab::REGISTRY, weft_lab::DRIVER), &[])?;
    cluster.lab.join_swarm(third)?;
    let new = status(third)?["peer_id"].clone();
    ensure!(new.is_string() && new != old, "the new machine is the old peer");
    for host in [manager, worker] {
        wait_until("the new machine to be refused", START, || {
            let status = status(host)?;
            let refused = status["refused"].to_string();
            ensure!(refused.contains("weft forget") && refused.contains("host3"), "{status}");
            Ok(true)
        })?;
    }
    let told = manager.run(["weft", "forget", "host3"])?;
    println!("weft forget host3: {told}");
    let took = wait_peers(&[manager, worker, third], 2)?;
    println!("replaced: sessions {took:.1?} after `weft forget`");
    for host in [manager, worker] {
        let seen = status(host)?;
        ensure!(
            peer(&seen, &old).is_none(),
            "{}: the old peer is still listed: {}",
            host.name(),
            seen["peers"]
        );
        ensure!(seen["refused"] == serde_json::json!([]), "{}: {}", host.name(), seen["refused"]);
    }
    cluster.lab.wait_for_plugin_on_nodes()?;
    wait_healed("replaced", &members(&[manager, worker, third])?)?;
    wait_answers_of(&[manager, worker, third], 3)?;
    ensure_unique_addresses(&[manager, worker, third])?;
    ensure!(third.docker(["plugin", "ls"])?.contains(PLUGIN), "the plugin is installed");
    remove(manager, Some(SERVICE), NETWORK)?;
    ensure_nothing_left(&[manager, worker, third])
}

/// Waits until the service's address leads to as many tasks, from a container of each host.
fn wait_answers_of(hosts: &[&Host], n: usize) -> Result<()> {
    for host in hosts {
        let member = Member::task(host, SERVICE)?;
        wait_until(&format!("{n} tasks behind the address on {}", host.name()), super::HEAL, || {
            let answers = crate::service::ask_often(host, &member.container, SERVICE, 8 * n)?;
            ensure!(answers.len() == n && !answers.contains_key("failed"), "{answers:?}");
            Ok(true)
        })?;
    }
    Ok(())
}
