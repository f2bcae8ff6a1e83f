//! What happens to hosts, engines and daemons in their lives, and that all is right again soon after.

#[path = "life/clock.rs"]
pub(crate) mod clock;
#[path = "life/disk.rs"]
pub(crate) mod disk;
#[path = "life/hosts.rs"]
pub(crate) mod hosts;
#[path = "life/ipv6.rs"]
pub(crate) mod ipv6;
#[path = "life/local.rs"]
pub(crate) mod local;
#[path = "life/managers.rs"]
pub(crate) mod managers;
#[path = "life/plugin.rs"]
pub(crate) mod plugin;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, leftovers, n_connected, status};
use weft_lab::{BUSYBOX, DRIVER, Host, Lab, wait_for, wait_until};

use crate::service::START;

/// Within which containers reach each other again once what was wrong has gone.
const HEAL: Duration = Duration::from_secs(10);
/// Within which weft collects what dockerd never takes back.
const COLLECT: Duration = Duration::from_secs(90);

/// A container and its address on the network in question.
struct Member<'a> {
    host: &'a Host,
    container: String,
    address: String,
}

impl<'a> Member<'a> {
    /// Starts a container on the network.
    fn run(host: &'a Host, network: &str, options: &[&str]) -> Result<Self> {
        let network = format!("--network={network}");
        let container = host.docker(["run", "--detach", &network].iter().chain(options).chain(&[BUSYBOX]))?;
        Self::of(host, &container)
    }

    /// One that runs already.
    fn of(host: &'a Host, container: &str) -> Result<Self> {
        let addresses = host.exec(container, "hostname -i")?;
        let address = addresses.split_whitespace().next().context("a container has an address")?.to_owned();
        Ok(Self { host, container: container.to_owned(), address })
    }

    /// The service's task on the host, once it runs and has its address.
    fn task(host: &'a Host, service: &str) -> Result<Self> {
        wait_for(&format!("a task of {service} on {}", host.name()), START, || {
            let filter = format!("label=com.docker.swarm.service.name={service}");
            let list = ["ps", "--quiet", "--filter", &filter, "--filter", "status=running"];
            match host.docker(list)?.lines().next() {
                Some(container) => Self::of(host, container).map(Some),
                None => Ok(None),
            }
        })
    }
}

/// Waits until all reach each other over HTTP, at their addresses, from now on; prints how long that took.
fn wait_healed(what: &str, members: &[Member<'_>]) -> Result<Duration> {
    let since = Instant::now();
    for from in members {
        for to in members {
            let left = HEAL.saturating_sub(since.elapsed());
            let url = format!("timeout 2 wget -qO- http://{}/", to.address);
            let between =
                format!("{what}: {} of {} to reach {}", from.container, from.host.name(), to.address);
            wait_until(&between, left, || from.host.exec(&from.container, &url).map(|_| true))?;
        }
    }
    let took = since.elapsed();
    println!("{what}: all of {} containers reach each other after {took:.2?}", members.len());
    Ok(took)
}

/// Waits until no host holds an address for two endpoints, nor hears two peers announce one.
fn ensure_unique_addresses(hosts: &[&Host]) -> Result<()> {
    for host in hosts {
        wait_until("every address to be announced once", COLLECT, || {
            let status = status(host)?;
            ensure!(
                status["duplicates"] == serde_json::json!([]),
                "{}: {}",
                host.name(),
                status["duplicates"]
            );
            let mut owners = BTreeMap::new();
            for endpoint in status["endpoints"].as_array().context("endpoints are listed")? {
                for address in endpoint["addresses"].as_array().context("an endpoint has addresses")? {
                    let key = (endpoint["network"].to_string(), address.to_string());
                    let other = owners.insert(key, endpoint);
                    ensure!(other.is_none(), "{}: {address} twice: {endpoint}, {other:?}", host.name());
                }
            }
            Ok(true)
        })?;
    }
    Ok(())
}

/// Waits until weft has no link, rule, network or endpoint left on the hosts.
fn ensure_nothing_left(hosts: &[&Host]) -> Result<()> {
    for host in hosts {
        wait_until("nothing to be left", COLLECT, || {
            let left = leftovers(host)?;
            ensure!(left.is_empty(), "{}: {left}", host.name());
            let status = status(host)?;
            let nothing = serde_json::json!([]);
            ensure!(status["networks"] == nothing, "{}: {}", host.name(), status["networks"]);
            ensure!(status["endpoints"] == nothing, "{}: {}", host.name(), status["endpoints"]);
            Ok(true)
        })?;
    }
    Ok(())
}

/// Waits until the hosts' daemons have sessions with that many peers each; prints how long that took.
fn wait_peers(hosts: &[&Host], n: usize) -> Result<Duration> {
    let since = Instant::now();
    for host in hosts {
        wait_until(&format!("{} peers of {}", n, host.name()), START, || {
            let found = n_connected(host)?;
            ensure!(found == n, "{} has {found} peers: {}", host.name(), status(host)?["peers"]);
            Ok(true)
        })?;
    }
    Ok(since.elapsed())
}

/// Creates an attachable network on a manager.
fn create_network(manager: &Host, name: &str) -> Result<()> {
    let driver = format!("--driver={DRIVER}");
    manager.docker(["network", "create", &driver, "--attachable", name]).map(drop)
}

/// Creates a service with a task on every active node.
fn create_global_service(manager: &Host, network: &str, name: &str) -> Result<()> {
    let (on, named) = (format!("--network={network}"), format!("--name={name}"));
    let create =
        ["service", "create", "--quiet", "--no-resolve-image", "--mode=global", &on, &named, BUSYBOX];
    manager.docker(create).map(drop)
}

/// Removes a service and a network, once the swarm lets go of it.
fn remove(manager: &Host, service: Option<&str>, network: &str) -> Result<()> {
    if let Some(service) = service {
        manager.docker(["service", "rm", service])?;
    }
    wait_until("removal of the network", START, || manager.docker(["network", "rm", network]).map(|_| true))
}

/// Waits until the swarm says of a node what is expected, by a manager.
fn wait_node(manager: &Host, node: &str, format: &str, expected: &str) -> Result<Duration> {
    let since = Instant::now();
    wait_until(&format!("{node} to be {expected}"), START, || {
        let found = manager.docker(["node", "inspect", "--format", format, node])?;
        ensure!(found == expected, "{node} is {found}");
        Ok(true)
    })?;
    Ok(since.elapsed())
}

fn all(lab: &Lab) -> Vec<&Host> {
    lab.hosts().iter().collect()
}

/// dockerd stopped in order, then killed, on the worker, then on the manager: what ran comes back, and all is reached.
pub(crate) fn dockerd_restarted(cluster: &Cluster) -> Result<()> {
    let hosts = all(&cluster.lab);
    let network = cluster.unique("net");
    create_network(cluster.manager(), &network)?;
    let service = cluster.unique("svc");
    create_global_service(cluster.manager(), &network, &service)?;
    for (host, how) in [
        (cluster.worker(), "stopped"),
        (cluster.worker(), "killed"),
        (cluster.manager(), "stopped"),
        (cluster.manager(), "killed"),
    ] {
        if how == "stopped" {
            host.stop_dockerd()?
        } else {
            host.kill_dockerd()?
        }
        host.start_dockerd()?;
        cluster.wait_connected()?;
        wait_node(cluster.manager(), host.name(), "{{.Status.State}}", "ready")?;
        let members: Vec<_> = hosts.iter().map(|host| Member::task(host, &service)).collect::<Result<_>>()?;
        wait_healed(&format!("dockerd of {} {how}", host.name()), &members)?;
        ensure_unique_addresses(&hosts)?;
    }
    remove(cluster.manager(), Some(&service), &network)?;
    ensure_nothing_left(&hosts)
}

/// A network goes while a host that has it is away: the host lets go of it when it is back.
pub(crate) fn network_removed_while_a_host_is_down(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.unique("net");
    create_network(manager, &network)?;
    let service = cluster.unique("svc");
    create_global_service(manager, &network, &service)?;
    let members = [Member::task(manager, &service)?, Member::task(worker, &service)?];
    wait_healed("before", &members)?;
    worker.kill_dockerd()?;
    wait_node(manager, worker.name(), "{{.Status.State}}", "down")?;
    remove(manager, Some(&service), &network)?;
    worker.start_dockerd()?;
    cluster.wait_connected()?;
    let since = Instant::now();
    ensure_nothing_left(&[manager, worker])?;
    println!(
        "network removed while a host was down: nothing left there {:.1?} after its return",
        since.elapsed()
    );
    // The same name and, since the first one is free again, the same addresses.
    create_network(manager, &network)?;
    let members = [Member::run(manager, &network, &[])?, Member::run(worker, &network, &[])?];
    wait_healed("network of the same name", &members)?;
    ensure_unique_addresses(&[manager, worker])?;
    for member in &members {
        member.host.docker(["rm", "--force", &member.container])?;
    }
    remove(manager, None, &network)?;
    ensure_nothing_left(&[manager, worker])
}
