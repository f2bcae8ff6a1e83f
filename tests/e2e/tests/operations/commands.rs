//! Commands that show, ask and write.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{Engine, Host, Lab, LabConfig, SECRET, Weft, wait_until};

pub(crate) fn status_and_peers(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let network = cluster.network(&[])?;
    network.run(host, &[])?;
    let table = host.run(["weft", "peers"])?;
    ensure!(table.starts_with("PEERS") && table.contains("host2") && !table.contains("NETWORKS"), "{table}");
    let peers: Value = serde_json::from_str(&host.run(["weft", "peers", "-o", "json"])?)?;
    ensure!(peers[0]["name"] == "host2" && peers[0]["same_secret"] == true, "{peers}");
    let networks: Value = serde_json::from_str(&host.run(["weft", "status", "networks", "--json"])?)?;
    ensure!(networks[0]["n_local_endpoints"] == 1, "{networks}");
    let endpoints = host.run(["weft", "status", "endpoints"])?;
    ensure!(endpoints.contains("host1 (here)"), "{endpoints}");

    let watch = host.spawn("watch", ["weft", "status", "peers", "--watch=1"])?;
    wait_until("three looks", SETTLE, || Ok(watch.text()?.matches("PEERS").count() >= 3))?;
    watch.signal("INT")?;
    let wrong = host.output(["weft", "status", "nonsense"])?;
    ensure!(wrong.code == Some(2) && wrong.stderr.contains("peers"), "{wrong}");
    let gone = host.output(["weft", "--socket=/run/none.sock", "peers"])?;
    ensure!(gone.code == Some(1) && gone.stderr.contains("/run/none.sock"), "{gone}");
    network.remove()
}

pub(crate) fn ping_peer(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let text = host.run(["weft", "ping", "-c", "3", "-i", "0.2", "host2"])?;
    ensure!(text.contains("3 sent, 3 answered, 0% lost") && text.contains("path=direct"), "{text}");
    let id = status(cluster.worker())?["peer_id"].as_str().context("a host has an id")?.to_owned();
    host.run(["weft", "ping", "-c", "1", &id[..8]])?;

    let unknown = host.output(["weft", "ping", "-c", "1", "nobody"])?;
    ensure!(unknown.code == Some(2) && unknown.stderr.contains("no peer is called `nobody`"), "{unknown}");
    let itself = host.output(["weft", "ping", "-c", "1", "host1"])?;
    ensure!(itself.code == Some(2) && itself.stderr.contains("this host itself"), "{itself}");
    let _closed = Closed::between(cluster)?;
    let lost = host.output(["weft", "ping", "-c", "2", "-i", "0.2", "-W", "0.5", "host2"])?;
    ensure!(lost.code == Some(1) && lost.stdout.contains("100% lost"), "{lost}");
    Ok(())
}

/// UDP between the two hosts is dropped, until this is dropped and they have found each other again.
pub(crate) struct Closed<'a>(&'a Cluster);

impl<'a> Closed<'a> {
    pub(crate) fn between(cluster: &'a Cluster) -> Result<Self> {
        cluster.worker().sh("iptables -I INPUT -p udp --dport 6783 -j DROP")?;
        Ok(Self(cluster))
    }

    pub(crate) fn open(self) -> Result<()> {
        let cluster = self.0;
        drop(self);
        cluster.wait_connected()
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.worker().sh("iptables -D INPUT -p udp --dport 6783 -j DROP") {
            eprintln!("{error:#}");
        }
    }
}

pub(crate) fn report_has_no_secret(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let secret = host.run(["cat", SECRET])?;
    let token = host.sh("weft token 2>/dev/null")?;
    // Where no secret belongs, and an operator may have put one all the same.
    host.run(["ip", "link", "add", "stray", "type", "veth", "peer", "name", "stray2"])?;
    let alias = format!("{secret} {token} http://user:pass@10.0.0.1/");
    let reported = host
        .run(["ip", "link", "set", "stray", "alias", &alias])
        .and_then(|_| host.run(["weft", "report", "--out", "/tmp/report.tar"]));
    host.run(["ip", "link", "del", "stray"])?;
    reported?;

    let files = host.run(["tar", "-tf", "/tmp/report.tar"])?;
    for file in ["status.json", "doctor.txt", "host/links.txt", "docker/plugins.txt"] {
        ensure!(files.contains(file), "the report lacks {file}: {files}");
    }
    let mode = host.run(["stat", "--format=%a", "/tmp/report.tar"])?;
    ensure!(mode == "600", "others can read the report: {mode}");
    let text = host.run(["tar", "-xOf", "/tmp/report.tar"])?;
    ensure!(
        text.contains("\"peer_id\"") && text.contains("weft-token-[redacted]"),
        "the report is not whole"
    );
    let plain = token.trim_start_matches("weft-token-");
    for word in [secret.as_str(), plain, "user:pass"] {
        ensure!(!text.contains(word), "the report holds what it must not");
    }
    let again = host.output(["weft", "report", "--out", "/tmp/report.tar"])?;
    ensure!(again.code == Some(1) && again.stderr.contains("/tmp/report.tar"), "it overwrites: {again}");
    Ok(())
}

pub(crate) fn connect_and_forget(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("connect", engine, 2);
    config.docker = false;
    let lab = Lab::start(config)?;
    weft.make_secret(&lab, "cluster")?;
    let start = |host: &Host| {
        weft.install_program(host)?;
        let daemon = host.spawn("weft", ["weft", "run"])?;
        wait_until("the daemon", SETTLE, || host.run(["weft", "status"]).map(|_| true))?;
        Ok::<_, anyhow::Error>(daemon)
    };
    let (first, second) = (lab.host(0), lab.host(1));
    let daemon = start(first)?;
    ensure!(status(first)?["peers"] == Value::Array(Vec::new()), "it knows a peer already");
    let bad = first.output(["weft", "connect", "a:b:c"])?;
    ensure!(bad.code == Some(1) && bad.stderr.contains("HOST:PORT"), "{bad}");
    let address = second.ipv4().to_string();
    first.run(["weft", "connect", &address])?;
    wait_until("the address among the peers", SETTLE, || {
        Ok(first.run(["weft", "peers"])?.contains(&address))
    })?;

    // It is kept: the host that was named comes up after a restart of this one.
    daemon.signal("TERM")?;
    let daemon = start(first)?;
    let other = start(second)?;
    let connected = || Ok(status(first)?["peers"][0]["state"] == "connected");
    wait_until("a session", SETTLE, connected)?;

    other.signal("TERM")?;
    first.run(["weft", "forget", &address])?;
    wait_until("the peer to be noticed as down", Duration::from_secs(30), || {
        Ok(status(first)?["peers"][0]["state"] != "connected")
    })?;
    first.run(["weft", "forget", "host2"])?;
    wait_until("no peer", SETTLE, || Ok(status(first)?["peers"] == Value::Array(Vec::new())))?;
    daemon.signal("TERM")?;
    Ok(())
}
