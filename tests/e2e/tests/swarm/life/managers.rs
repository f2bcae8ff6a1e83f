//! Three managers, of which the leader goes.

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{BUSYBOX, Engine, Host, LabConfig, Weft, wait_for, wait_until};

use super::{
    HEAL, Member, all, create_network, ensure_nothing_left, ensure_unique_addresses, remove, wait_healed,
    wait_node, wait_peers,
};
use crate::service::{START, ask_often, containers, wait_for_state};

const SERVICE: &str = "web";

/// The service's containers on the hosts that live.
fn tasks(hosts: &[&Host]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for host in hosts {
        found.extend(containers(host, &format!("label=com.docker.swarm.service.name={SERVICE}"))?);
    }
    Ok(found)
}

/// Waits until all of the service's containers and nothing else answer at its address, on every host.
fn wait_answers(members: &[Member<'_>], vip: &str, expected: &BTreeSet<String>) -> Result<()> {
    for member in members {
        wait_until(&format!("the tasks behind {vip} on {}", member.host.name()), HEAL, || {
            let answers = ask_often(member.host, &member.container, vip, 8 * expected.len())?;
            ensure!(answers.keys().eq(expected.iter()), "{answers:?}, not {expected:?}");
            Ok(true)
        })?;
    }
    Ok(())
}

/// The leader's host dies: another manager leads, services are scaled there, and their addresses follow; it comes back,
/// and is one of three again.
pub(crate) fn leader_failover(engine: Engine, weft: &Weft) -> Result<()> {
    let mut cluster = Cluster::with(LabConfig::new("leader", engine, 3), weft)?;
    cluster.manager().docker(["node", "promote", "host2", "host3"])?;
    for node in ["host2", "host3"] {
        let manager = cluster.manager();
        wait_node(manager, node, "{{if .ManagerStatus}}{{.ManagerStatus.Reachability}}{{end}}", "reachable")?;
    }
    create_network(cluster.manager(), "net")?;
    let create =
        ["service", "create", "--quiet", "--no-resolve-image", "--replicas=3", "--network=net", "--name"];
    cluster.manager().docker(create.iter().chain(&[SERVICE, BUSYBOX]))?;
    let format = "{{(index .Endpoint.VirtualIPs 0).Addr}}";
    let vip = cluster.manager().docker(["service", "inspect", "--format", format, SERVICE])?;
    let vip = vip.split('/').next().context("a service has an address")?.to_owned();
    for host in cluster.lab.hosts() {
        wait_for_state(host, "on: told by")?;
    }
    let clients = ["client2", "client3"];
    let run = |host: &Host, name: &str| {
        host.docker(["run", "--detach", "--network=net", "--name", name, BUSYBOX]).map(drop)
    };
    run(cluster.lab.host(1), clients[0])?;
    run(cluster.lab.host(2), clients[1])?;
    let of = |cluster: &'_ Cluster| -> Result<()> {
        let (second, third) = (cluster.lab.host(1), cluster.lab.host(2));
        let members = [Member::of(second, clients[0])?, Member::of(third, clients[1])?];
        wait_answers(&members, &vip, &tasks(&all(&cluster.lab))?)
    };
    of(&cluster)?;

    cluster.lab.power_off(0)?;
    let died = Instant::now();
    let living = [cluster.lab.host(1), cluster.lab.host(2)];
    let members = [Member::of(living[0], clients[0])?, Member::of(living[1], clients[1])?];
    // The dead host's tasks are out of the service before swarm has replaced them.
    wait_until("only living tasks to answer", HEAL, || {
        let (answers, running) = (ask_often(living[0], clients[0], &vip, 12)?, tasks(&living)?);
        ensure!(answers.keys().all(|answer| running.contains(answer)), "{answers:?} of {running:?}");
        Ok(true)
    })?;
    println!("leader's host died: no connection goes to its tasks after {:.1?}", died.elapsed());
    let leader = wait_for("another leader", START, || {
        for host in living {
            let lead = host.docker(["node", "inspect", "--format", "{{.ManagerStatus.Leader}}", "self"])?;
            if lead == "true" {
                return Ok(Some(host));
            }
        }
        Ok(None)
    })?;
    println!("leader's host died: {} leads after {:.1?}", leader.name(), died.elapsed());
    wait_until("three tasks on the two hosts", START, || Ok(tasks(&living)?.len() == 3))?;
    println!("leader's host died: swarm has replaced its tasks after {:.1?}", died.elapsed());
    let since = Instant::now();
    wait_answers(&members, &vip, &tasks(&living)?)?;
    println!("leader's host died: the address leads to the new tasks {:.1?} later", since.elapsed());
    leader.docker(["service", "scale", &format!("{SERVICE}=5")])?;
    wait_until("five tasks", START, || Ok(tasks(&living)?.len() == 5))?;
    let since = Instant::now();
    wait_answers(&members, &vip, &tasks(&living)?)?;
    println!(
        "leader's host died: scaled under the new leader, {:.1?} until all tasks answer",
        since.elapsed()
    );
    wait_healed("two of three managers", &members)?;
    ensure_unique_addresses(&living)?;

    cluster.lab.power_on(0)?;
    let first = cluster.lab.host(0);
    first.start_dockerd()?;
    wait_peers(&all(&cluster.lab), 2)?;
    wait_node(cluster.lab.host(1), "host1", "{{.ManagerStatus.Reachability}}", "reachable")?;
    run(first, "client1")?;
    let hosts = all(&cluster.lab);
    let members = [
        Member::of(hosts[0], "client1")?,
        Member::of(hosts[1], clients[0])?,
        Member::of(hosts[2], clients[1])?,
    ];
    wait_healed("three managers again", &members)?;
    wait_until("swarm to have five tasks", SETTLE, || Ok(tasks(&hosts)?.len() == 5))?;
    wait_answers(&members, &vip, &tasks(&hosts)?)?;
    ensure_unique_addresses(&hosts)?;
    for member in &members {
        member.host.docker(["rm", "--force", &member.container])?;
    }
    remove(first, Some(SERVICE), "net")?;
    ensure_nothing_left(&hosts)
}
