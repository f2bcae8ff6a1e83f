//! What the wire between the hosts carries, and how.

use anyhow::{Result, ensure};
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{Engine, LabConfig, PLUGIN, Weft, wait_until};

/// What IPv4, UDP, the outer and inner header and the tag take of a 1500-byte underlay.
const MTU_OVER_IPV4: u16 = 1418;

pub(crate) fn only_ciphertext_on_the_wire(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let here = network.run(manager, &[])?;
    let there = network.run(worker, &[])?;
    wait_until("an answer", SETTLE, || {
        manager.exec(&here, &format!("timeout 3 wget -qO- http://{there}")).map(|_| true)
    })?;
    let address = worker.exec(&there, "hostname -i")?;

    let capture = cluster.lab.capture(worker, "not tcp port 2377 and not port 7946")?;
    let canary = "canary-0123456789-canary";
    worker.exec(&there, &format!("for i in $(seq 200); do echo {canary}; done > /www/canary"))?;
    let read = manager.exec(&here, &format!("timeout 5 wget -qO- http://{address}/canary"))?;
    ensure!(read.matches(canary).count() == 200, "the canary did not come whole");
    manager.exec(&here, &format!("ping -c3 -i0.2 -p 5a {address}"))?;
    let wire = capture.stop()?;

    ensure!(wire.count("udp port 6783")? >= 6, "the traffic is not on weft's port");
    for text in [canary.as_bytes(), b"GET /canary", b"HTTP/1.", &[0x5a; 24]] {
        ensure!(!wire.contains(text), "{:?} is on the wire in the clear", String::from_utf8_lossy(text));
    }
    // Nothing of the overlay goes round weft.
    let others = wire.lines(&[], "not udp port 6783 and not arp and not icmp6")?;
    ensure!(others.is_empty(), "on the wire beside weft: {others:?}");
    network.remove()
}

pub(crate) fn mtu_at_every_hop(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    for (options, expected) in
        [(vec![], MTU_OVER_IPV4), (vec!["--opt=com.docker.network.driver.mtu=1300"], 1300)]
    {
        let network = cluster.network(&options)?;
        let here = network.run(manager, &[])?;
        let there = network.run(worker, &[])?;
        for (host, container) in [(manager, &here), (worker, &there)] {
            let mtu = host.exec(container, "cat /sys/class/net/eth0/mtu")?;
            ensure!(mtu == expected.to_string(), "{container}: MTU {mtu}, not {expected}");
        }
        let address = worker.exec(&there, "hostname -i")?;
        wait_until("an answer", SETTLE, || {
            manager.exec(&here, &format!("ping -c1 -W1 {address}")).map(|_| true)
        })?;
        let capture = cluster.lab.capture(worker, "udp port 6783")?;
        // The largest packet that fits, IPv4 and ICMP headers included.
        let payload_len = expected - 28;
        manager.exec(&here, &format!("ping -c3 -i0.2 -W1 -s {payload_len} {address}"))?;
        let wire = capture.stop()?;
        ensure!(wire.count("ip[6:2] & 0x3fff != 0")? == 0, "the underlay's datagrams are fragmented");
        ensure!(wire.count("greater 1515")? == 0, "a datagram is longer than the underlay's MTU");
        network.remove()?;
    }
    Ok(())
}

pub(crate) fn ipv6_underlay(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("ipv6", engine, 2);
    config.ipv6 = true;
    let cluster = Cluster::with(config, weft)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let here = network.run(manager, &[])?;
    let there = network.run(worker, &[])?;
    let capture = cluster.lab.capture(worker, "udp port 6783")?;
    wait_until("an answer", SETTLE, || {
        manager.exec(&here, &format!("timeout 3 wget -qO- http://{there}")).map(|_| true)
    })?;
    let wire = capture.stop()?;
    ensure!(wire.count("ip6")? > 0 && wire.count("ip")? == 0, "the datagrams are not IPv6");
    network.remove()
}

pub(crate) fn late_worker(engine: Engine, weft: &Weft) -> Result<()> {
    let mut cluster = Cluster::with(LabConfig::new("late", engine, 2), weft)?;
    cluster.lab.add_host(engine)?;
    let late = cluster.lab.host(2);
    cluster.lab.start_engine(late)?;
    cluster.lab.join_swarm(late)?;
    weft.give_secret(late, "cluster")?;
    // By `docker plugin create`, the other way to install it.
    weft.install_program(late)?;
    late.create_plugin(PLUGIN, &weft.plugin_dir, &[&format!("secret.source={}", weft_lab::SECRET)])?;
    cluster.wait_connected()?;
    cluster.lab.wait_for_plugin_on_nodes()?;

    let network = cluster.network(&[])?;
    let containers: Vec<String> =
        cluster.lab.hosts().iter().map(|host| network.run(host, &[])).collect::<Result<_>>()?;
    for (host, from) in cluster.lab.hosts().iter().zip(&containers) {
        for to in containers.iter().filter(|to| *to != from) {
            wait_until(&format!("an answer of {to} to {from}"), SETTLE, || {
                host.exec(from, &format!("timeout 3 wget -qO- http://{to}")).map(|_| true)
            })?;
        }
    }
    let status = status(cluster.manager())?;
    ensure!(status["peers"].as_array().is_some_and(|peers| peers.len() == 2), "{}", status["peers"]);
    network.remove()
}
