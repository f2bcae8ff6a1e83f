//! A router between two hosts carries less than their interfaces say, and says nothing of it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{Engine, Host, LabConfig, Weft, wait_until};

/// What IPv4, UDP, the outer and inner header, Ethernet and the tag take.
const OVERHEAD: u64 = 82;

/// Makes the wire a router between the first host and the others, from which no ICMP message comes.
fn route(cluster: &Cluster) -> Result<()> {
    let first = cluster.manager().ipv4();
    cluster.lab.run_on_fabric(&["sh", "-ec", &format!(
        "ip link set host1 nomaster && ip address add 10.77.0.254/24 dev br0 && ip route add {first}/32 dev host1 && \
         echo 1 > /proc/sys/net/ipv4/ip_forward && \
         for port in host1 br0; do echo 1 > /proc/sys/net/ipv4/conf/$port/proxy_arp; done && \
         nft add table ip hole && nft 'add chain ip hole out {{ type filter hook output priority 0; }}' && \
         nft add rule ip hole out ip protocol icmp drop && \
         ip rule add ipproto udp dport 6783 lookup 100"
    )])?;
    for host in cluster.lab.hosts() {
        host.run_in_network(["ip", "neigh", "flush", "dev", "eth0"])?;
    }
    Ok(())
}

/// Lets weft's datagrams of so many bytes pass, IP and UDP headers included; the engines' own traffic is not touched.
fn carry(cluster: &Cluster, to_first: u64, to_others: u64) -> Result<()> {
    let first = cluster.manager().ipv4();
    cluster
        .lab
        .run_on_fabric(&[
            "sh",
            "-ec",
            &format!(
                "ip route replace {first}/32 dev host1 mtu lock {to_first} table 100 && \
             ip route replace 10.77.0.0/24 dev br0 mtu lock {to_others} table 100"
            ),
        ])
        .map(drop)
}

/// What a host says of its path to another.
pub(crate) fn peer(host: &Host, name: &str) -> Result<Value> {
    let status = status(host)?;
    let peers = status["peers"].as_array().context("the status lists peers")?;
    let peer = peers.iter().find(|peer| peer["name"] == name);
    peer.cloned().with_context(|| format!("{} does not know {name}: {status}", host.name()))
}

/// A host, a container on it, and the container's address.
pub(crate) type End<'a> = (&'a Host, String, String);

/// Frames of every kind pass from one container to the other.
pub(crate) fn passes((host, container, _): &End<'_>, (there, serving, address): &End<'_>) -> Result<()> {
    wait_until("an answer to a long ping", SETTLE, || {
        host.exec(container, &format!("ping -c1 -W1 -s 10000 {address}")).map(|_| true)
    })?;
    let sum = |host: &Host, container: &str, file: &str| -> Result<(String, String)> {
        let text = host.exec(container, &format!("md5sum < {file}; wc -c < {file}"))?;
        let mut words = text.split_whitespace().map(str::to_owned);
        let sum = words.next().context("md5sum says a sum")?;
        Ok((sum, words.find(|word| word != "-").context("wc says a count")?))
    };
    there.exec(serving, "dd if=/dev/urandom of=/www/big bs=1M count=8 2>/dev/null")?;
    let sent = sum(there, serving, "/www/big")?;
    host.exec(container, &format!("timeout 20 wget -qO /tmp/big http://{address}/big"))
        .context("8 MiB did not arrive within 20 s")?;
    let got = sum(host, container, "/tmp/big")?;
    ensure!(sent == got, "8 MiB arrived as others: {sent:?} as {got:?}");
    host.exec(container, &format!("ping -c3 -i0.2 -W1 -s 10000 {address}")).map(drop)
}

fn ends<'a>(cluster: &'a Cluster, network: &weft_e2e::NetworkGuard<'_>) -> Result<[End<'a>; 2]> {
    let end = |host: &'a Host| -> Result<End<'a>> {
        let container = network.run(host, &[])?;
        let address = host.exec(&container, "hostname -i")?;
        Ok((host, container, address))
    };
    Ok([end(cluster.manager())?, end(cluster.worker())?])
}

fn wait_for_paths(cluster: &Cluster, from_first: u64, from_second: u64) -> Result<()> {
    for (host, other, mtu) in
        [(cluster.manager(), "host2", from_first), (cluster.worker(), "host1", from_second)]
    {
        wait_until("the path's MTU", SETTLE * 3, || {
            let peer = peer(host, other)?;
            // It is found out to some bytes.
            let known = peer["path_mtu"].as_u64().unwrap_or(0);
            ensure!(
                known <= mtu && known + 8 > mtu,
                "{} shows {known} where it is {mtu}: {peer}",
                host.name()
            );
            Ok(true)
        })?;
    }
    Ok(())
}

pub(crate) fn path_mtu(engine: Engine, weft: &Weft) -> Result<()> {
    let cluster = Cluster::with(LabConfig::new("pathmtu", engine, 2), weft)?;
    let network = cluster.network(&[])?;
    let [here, there] = ends(&cluster, &network)?;
    passes(&here, &there)?;
    wait_for_paths(&cluster, 1500 - OVERHEAD, 1500 - OVERHEAD)?;
    route(&cluster)?;
    for (to_first, to_second) in [(1492, 1492), (1280, 1280), (1500, 1400)] {
        carry(&cluster, to_first, to_second)?;
        passes(&here, &there)?;
        passes(&there, &here)?;
        wait_for_paths(&cluster, to_second - OVERHEAD, to_first - OVERHEAD)?;
        passes(&here, &there)?;
        passes(&there, &here)?;
    }
    network.remove()
}

/// The hosts' own interfaces have what IPv6 demands at least (a VPN's, for instance), which weft's headers leave too
/// little of.
pub(crate) fn underlay_of_1280(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("smallest", engine, 2);
    config.underlay_mtu = 1280;
    let cluster = Cluster::with(config, weft)?;
    let network = cluster.network(&[])?;
    let [here, there] = ends(&cluster, &network)?;
    let mtu = here.0.exec(&here.1, "cat /sys/class/net/eth0/mtu")?;
    ensure!(mtu == "1280", "the container has an MTU of {mtu}");
    passes(&here, &there)?;
    passes(&there, &here)?;
    wait_for_paths(&cluster, 1280 - OVERHEAD, 1280 - OVERHEAD)?;
    passes(&here, &there)?;
    network.remove()
}

pub(crate) fn path_mtu_jumbo(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("jumbo", engine, 2);
    config.underlay_mtu = 9000;
    let cluster = Cluster::with(config, weft)?;
    let network = cluster.network(&[])?;
    let [here, there] = ends(&cluster, &network)?;
    let mtu = here.0.exec(&here.1, "cat /sys/class/net/eth0/mtu")?;
    ensure!(mtu == "8918", "the container has an MTU of {mtu}");
    passes(&here, &there)?;
    wait_for_paths(&cluster, 9000 - OVERHEAD, 9000 - OVERHEAD)?;
    route(&cluster)?;
    carry(&cluster, 1500, 1500)?;
    passes(&here, &there)?;
    wait_for_paths(&cluster, 1500 - OVERHEAD, 1500 - OVERHEAD)?;
    passes(&there, &here)?;
    network.remove()
}
