//! Hosts that have one family of addresses alone.

use anyhow::{Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{BUSYBOX, Engine, Host, Lab, LabConfig, Weft, wait_until};

use crate::{
    daemons::{create_dual_stack, ensure_connected, start_with},
    path_mtu::{End, passes, peer},
};

/// What IPv6, UDP, the outer and inner header, Ethernet and the tag take.
const OVERHEAD: u64 = 102;

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
    let network = cluster.network(&[])?;
    let mut ends: Vec<End<'_>> = Vec::new();
    for host in hosts {
        let container = network.run(host, &[])?;
        let address = host.exec(&container, "hostname -i")?;
        ends.push((host, container, address));
    }
    let capture = cluster.lab.capture(cluster.worker(), "udp port 6783")?;
    passes(&ends[0], &ends[1])?;
    passes(&ends[1], &ends[0])?;
    let wire = capture.stop()?;
    ensure!(wire.count("ip6")? > 0 && wire.count("ip")? == 0, "the datagrams are not IPv6");
    for (host, other) in [(hosts[0], "host2"), (hosts[1], "host1")] {
        wait_until("the whole path", SETTLE, || {
            let peer = peer(host, other)?;
            ensure!(peer["path_mtu"] == 1500 - OVERHEAD, "{peer}");
            Ok(true)
        })?;
    }
    network.remove()
}

/// A host with IPv4 alone and one with IPv6 alone reach each other by one that has both, and so do their containers over
/// either family.
pub(crate) fn underlay_mixed(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("mixed", engine, 3);
    config.ipv6 = true;
    let lab = Lab::start(config)?;
    let [old, both, new] = lab.hosts() else { unreachable!("the lab has three hosts") };
    old.run_in_network(["ip", "-6", "address", "flush", "dev", "eth0", "scope", "global"])?;
    new.run_in_network(["ip", "-4", "address", "flush", "dev", "eth0"])?;
    weft.make_secret(&lab, "cluster")?;
    let mut daemons = Vec::new();
    for (host, seed) in
        [(old, both.ipv4().to_string()), (both, String::new()), (new, both.underlay().to_string())]
    {
        weft.install_program(host)?;
        daemons.push(start_with(host, &[seed], &[])?);
    }
    for host in lab.hosts() {
        wait_until("all peers", SETTLE, || ensure_connected(host, 2).map(|()| true))?;
        // They know each other by the one between; there is a way once there is a session.
        for name in lab.hosts().iter().map(Host::name).filter(|name| *name != host.name()) {
            let peer = peer(host, name)?;
            ensure!(peer["path"].is_null() == peer["session_age_s"].is_null(), "{peer}");
        }
    }
    let ends: Vec<(End<'_>, String)> =
        lab.hosts().iter().zip(11..).map(|(host, last)| run_dual_stack(host, last)).collect::<Result<_>>()?;
    for (from, _) in &ends {
        for (to, v6) in &ends {
            if from.1 == to.1 {
                continue;
            }
            // It goes there and back.
            if from.2 < to.2 {
                passes(from, to)?;
            }
            // Each direction loses one to the packet-too-big that tells how long they may be.
            wait_until("an answer over IPv6", SETTLE, || {
                from.0.exec(&from.1, &format!("ping -6 -c1 -W1 -s 10000 {v6}")).map(|_| true)
            })?;
            let name = from.0.exec(&from.1, &format!("timeout 5 wget -qO- http://[{v6}]/"))?;
            ensure!(name == to.1, "{name} answers at {v6} of {}", to.1);
        }
    }
    for (host, name) in [(old, "host3"), (new, "host1")] {
        let peer = peer(host, name)?;
        ensure!(peer["path"] == "relay" && peer["via"] == "host2", "{peer}");
    }
    for (host, name, is_v6) in [(old, "host2", false), (new, "host2", true)] {
        let peer = peer(host, name)?;
        let address = peer["address"].as_str().unwrap_or_default();
        ensure!(peer["path"] == "direct" && address.starts_with('[') == is_v6, "{peer}");
    }
    Ok(())
}

/// Creates the host's network and a container on it, named as it names itself; returns it and its IPv6 address.
fn run_dual_stack(host: &Host, last: u8) -> Result<(End<'_>, String)> {
    let (v4, v6) = (format!("10.203.0.{last}"), format!("fd99:203::{last}"));
    create_dual_stack(host, "net", 203, &[])?;
    let (ip, ip6) = (format!("--ip={v4}"), format!("--ip6={v6}"));
    let id = host.docker(["run", "--detach", "--network=net", &ip, &ip6, BUSYBOX])?;
    Ok(((host, id[..12].to_owned(), v4), v6))
}
