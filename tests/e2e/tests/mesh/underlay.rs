//! Hosts that have IPv6 alone.

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{Engine, LabConfig, Weft, wait_until};

use crate::path_mtu::{End, passes, peer};

pub(crate) fn underlay_v6_only(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("v6only", engine, 2);
    config.ipv6 = true;
    let cluster = Cluster::with(config, weft)?;
    let hosts = [cluster.manager(), cluster.worker()];
    for host in hosts {
        host.run_in_network(["ip", "-4", "address", "flush", "dev", "eth0"])?;
    }
    // A session that began over IPv4 is given up first.
    for (host, other) in [(hosts[0], "host2"), (hosts[1], "host1")] {
        wait_until("a session over IPv6", SETTLE, || {
            let peer = peer(host, other)?;
            let address = peer["address"].as_str().unwrap_or_default();
            ensure!(address.starts_with('[') && peer["state"] == "connected", "{peer}");
            Ok(true)
        })?;
    }
    // The address manager of newer engines fails for IPv6 in a swarm, on Docker's own networks too.
    let dual_stack: &[&str] = match engine {
        Engine::Bookworm => &["--ipv6", "--subnet=10.203.0.0/24", "--subnet=fd99:203::/64"],
        _ => &[],
    };
    let network = cluster.network(dual_stack)?;
    let mut ends: Vec<End<'_>> = Vec::new();
    let mut v6 = None;
    for host in hosts {
        let container = network.run(host, &[])?;
        let addresses = host.exec(&container, "hostname -i")?;
        let v4 = addresses.split_whitespace().find(|address| !address.contains(':'));
        ends.push((host, container, v4.context("a container has an IPv4 address")?.to_owned()));
        let global = host.exec(&ends[ends.len() - 1].1, "ip -6 -o address show dev eth0 scope global")?;
        let address = global.split_whitespace().find(|word| word.contains(':') && word.contains('/'));
        v6 = address.and_then(|address| address.split_once('/')).map(|(address, _)| address.to_owned());
    }
    let capture = cluster.lab.capture(cluster.worker(), "udp port 6783")?;
    passes(&ends[0], &ends[1])?;
    passes(&ends[1], &ends[0])?;
    ensure!(v6.is_some() != dual_stack.is_empty(), "the container's IPv6 address: {v6:?}");
    if let Some(address) = v6 {
        wait_until("an answer over IPv6", SETTLE, || {
            ends[0].0.exec(&ends[0].1, &format!("ping -6 -c1 -W1 -s 10000 {address}")).map(|_| true)
        })?;
    }
    let wire = capture.stop()?;
    ensure!(wire.count("ip6")? > 0 && wire.count("ip")? == 0, "the datagrams are not IPv6");
    for (host, other) in [(hosts[0], "host2"), (hosts[1], "host1")] {
        wait_until("the whole path", SETTLE, || {
            let peer = peer(host, other)?;
            // 1500 less 102.
            ensure!(peer["path_mtu"] == 1398, "{peer}");
            Ok(true)
        })?;
    }
    network.remove()
}
