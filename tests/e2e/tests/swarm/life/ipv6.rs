//! IPv6 in a swarm: what engines give, and what they do not.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{Engine, wait_for, wait_until};

use super::Member;
use crate::service::{START, Service};

/// What a manager's log says where the engine's address manager fails for IPv6 in a swarm.
const NO_ADDRESSES: &str = "Failed allocation for network";

/// Whether the engine gives a service of two tasks its addresses on a network with an IPv6 subnet.
fn gives_addresses(cluster: &Cluster, service: &Service<'_>) -> Result<bool> {
    let log = cluster.manager().log_path("dockerd")?;
    let id = service.network_id()?;
    wait_for("tasks on a network with IPv6, or the engine's refusal", START, || {
        let is_refused =
            fs::read_to_string(&log)?.lines().any(|line| line.contains(NO_ADDRESSES) && line.contains(&id));
        if is_refused {
            return Ok(Some(false));
        }
        Ok((service.all_containers()?.len() == 2).then_some(true))
    })
}

/// 20.10.24 and 26.1.5 give a task one address that is its own on the network, of either family, and the other family's
/// host by host, so two hosts may give the same one: weft says so, and the other family goes on. 28.5.2 gives a network with
/// an IPv6 subnet no address at all, on Docker's own overlay neither.
pub(crate) fn ipv6_in_a_swarm(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&["--ipv6", "--subnet=10.207.0.0/24", "--subnet=fd99:207::/64"])?;
    let service = Service::create(cluster, network.name(), &["--mode=global", "--detach"])?;
    let is_given = gives_addresses(cluster, &service)?;
    ensure!(
        is_given == (manager.engine() != Engine::Sid),
        "engine {} has changed its mind about IPv6 in a swarm: docs/operations.md tells of it",
        manager.engine()
    );
    if is_given {
        let members = [Member::task(manager, &service.name)?, Member::task(worker, &service.name)?];
        let mut n_ways = 0;
        for (family, subnet) in [("-4", "10.207.0."), ("-6", "fd99:207::")] {
            let address = |member: &Member<'_>| -> Result<String> {
                let show = format!("ip {family} -o addr show dev eth0 scope global");
                let line = member.host.exec(&member.container, &show)?;
                let address = line.split_whitespace().nth(3).and_then(|word| word.split('/').next());
                Ok(address.with_context(|| format!("eth0 has no address: {line}"))?.to_owned())
            };
            let (here, there) = (address(&members[0])?, address(&members[1])?);
            println!("{}: {here} on one host, {there} on the other", manager.engine());
            wait_until("both claims to be told, where there are two", SETTLE, || {
                let is_told = status(manager)?["duplicates"].to_string().contains(subnet);
                Ok(is_told == (here == there))
            })?;
            if here != there {
                n_ways += 1;
                wait_until("an answer", SETTLE, || {
                    let ping = format!("ping {family} -c1 -W1 {there}");
                    manager.exec(&members[0].container, &ping).map(|_| true)
                })?;
            }
        }
        ensure!(n_ways > 0, "the engine gives two tasks the same addresses of both families");
    } else {
        let docker = cluster.unique("overlay");
        let subnets = ["--ipv6", "--subnet=10.208.0.0/24", "--subnet=fd99:208::/64"];
        let create = ["network", "create", "--driver=overlay", "--attachable"];
        manager.docker(create.iter().chain(&subnets).chain(&[docker.as_str()]))?;
        let other = Service::create(cluster, &docker, &["--mode=global", "--detach"])?;
        let is_given = gives_addresses(cluster, &other)?;
        other.remove()?;
        manager.docker(["network", "rm", &docker])?;
        ensure!(!is_given, "Docker gives addresses on its own overlay, and none on weft's network");
        println!("{}: no addresses on a network with IPv6, on Docker's overlay neither", manager.engine());
    }
    service.remove()?;
    network.remove()
}
