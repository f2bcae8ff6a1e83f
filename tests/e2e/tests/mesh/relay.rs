//! Two of three hosts do not reach each other.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{Engine, LabConfig, Weft, wait_until};

use crate::path_mtu::{End, passes, peer};

pub(crate) fn relay(engine: Engine, weft: &Weft) -> Result<()> {
    let cluster = Cluster::with(LabConfig::new("relay", engine, 3), weft)?;
    let pair = [cluster.manager(), cluster.worker()];
    let third = cluster.lab.host(2);
    // The third has no container on it, and hands on nevertheless.
    let network = cluster.network(&[])?;
    let mut ends: Vec<End<'_>> = Vec::new();
    for host in pair {
        let container = network.run(host, &[])?;
        let address = host.exec(&container, "hostname -i")?;
        ends.push((host, container, address));
    }
    passes(&ends[0], &ends[1])?;
    for (host, other) in [(pair[0], "host2"), (pair[1], "host1")] {
        let peer = peer(host, other)?;
        ensure!(peer["path"] == "direct" && peer["via"].is_null(), "before the cut: {peer}");
    }

    for (host, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        host.run_in_network(["sh", "-ec", &format!(
            "nft add table ip cut && nft 'add chain ip cut in {{ type filter hook input priority -10; }}' && \
             nft add rule ip cut in ip saddr {} udp dport 6783 drop",
            other.ipv4()
        )])?;
    }
    for (host, other) in [(pair[0], "host2"), (pair[1], "host1")] {
        wait_until("a relay", SETTLE, || {
            let peer = peer(host, other)?;
            ensure!(peer["path"] == "relay" && peer["via"] == "host3", "{peer}");
            Ok(peer["state"] == "connected")
        })?;
    }
    passes(&ends[0], &ends[1])?;
    passes(&ends[1], &ends[0])?;

    // What the third carries, in and out, cannot be read there.
    let canary = "canary-0123456789-canary";
    ends[1].0.exec(&ends[1].1, &format!("for i in $(seq 200); do echo {canary}; done > /www/canary"))?;
    let capture = cluster.lab.capture(third, "udp port 6783")?;
    let read = ends[0].0.exec(&ends[0].1, &format!("timeout 5 wget -qO- http://{}/canary", ends[1].2))?;
    ensure!(read.matches(canary).count() == 200, "the canary did not come whole");
    let wire = capture.stop()?;
    ensure!(wire.count("udp port 6783")? >= 6, "the traffic does not pass the third host");
    ensure!(!wire.contains(canary.as_bytes()), "the canary is readable at the third host's");

    let text = pair[0].run(["weft", "bench", "host2", "--time", "0.5", "--rate", "20M", "--json"])?;
    let bench: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(bench["path"] == "relay" && bench["via"] == "host3", "{bench}");
    for way in ["to", "from"] {
        ensure!(bench[way]["n_received"].as_u64() > Some(100), "{way}: {bench}");
    }

    for host in pair {
        host.run_in_network(["nft", "delete", "table", "ip", "cut"])?;
    }
    for (host, other) in [(pair[0], "host2"), (pair[1], "host1")] {
        wait_until("the direct way again", SETTLE, || {
            let peer = peer(host, other)?;
            ensure!(peer["path"] == "direct" && peer["via"].is_null(), "{peer}");
            Ok(peer["state"] == "connected")
        })?;
    }
    passes(&ends[0], &ends[1])?;
    network.remove()
}
