//! Things are broken, and `weft doctor` must say which, and what mends them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{Engine, Host, Lab, LabConfig, PLUGIN, SECRET, Weft, wait_for, wait_until};

use crate::commands::Closed;

/// How long a fault may take to be noticed: a peer that is away is tried several times first.
const NOTICE: Duration = Duration::from_secs(30);

fn findings(host: &Host) -> Result<Vec<Value>> {
    let done = host.output(["weft", "doctor", "--json"])?;
    let findings: Vec<Value> = serde_json::from_str(&done.stdout).with_context(|| done.to_string())?;
    let faulty = findings.iter().any(|finding| finding["level"] == "fault");
    ensure!(done.code == Some(i32::from(faulty)), "the exit code does not say it: {done}");
    Ok(findings)
}

/// Waits for a finding, and returns what it says would mend it.
fn finds(host: &Host, level: &str, check: &str, word: &str) -> Result<String> {
    wait_for(&format!("{level} of {check} with {word}"), NOTICE, || {
        let findings = findings(host)?;
        let is = |f: &&Value| {
            f["level"] == level
                && f["check"] == check
                && f["text"].as_str().is_some_and(|text| text.contains(word))
        };
        let fix = findings.iter().find(is).and_then(|finding| finding["fix"].as_str());
        fix.map(|fix| Some(fix.to_owned())).with_context(|| format!("{findings:?}"))
    })
}

fn is_well(host: &Host) -> Result<()> {
    wait_until("no fault", NOTICE, || {
        let done = host.output(["weft", "doctor"])?;
        ensure!(done.success() && done.stdout.contains("0 fault(s)"), "{done}");
        Ok(true)
    })
}

pub(crate) fn finds_on_a_running_host(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let network = cluster.network(&[])?;
    // On both: peers on a common network are pinged every second, others every 20 s.
    for host in cluster.lab.hosts() {
        network.run(host, &[])?;
    }
    cluster.lab.hosts().iter().try_for_each(is_well)?;
    for host in cluster.lab.hosts() {
        wait_until("services to be on", NOTICE, || {
            let findings = findings(host)?;
            Ok(findings.iter().any(|finding| finding["check"] == "services" && finding["level"] == "ok"))
        })?;
    }

    let closed = Closed::between(cluster)?;
    let fix = finds(host, "fault", "peers", "host2")?;
    ensure!(fix.contains("--dport 6783"), "{fix}");
    closed.open()?;
    is_well(host)?;

    let bridge = host.sh("ls /sys/class/net | grep ^wfb")?;
    host.run(["ip", "-6", "addr", "add", "fd99::1/64", "dev", &bridge])?;
    let fix = finds(host, "fault", "ipv6", &bridge)?;
    host.sh(&fix)?;
    is_well(host)?;

    // The underlay's interface becomes smaller than the networks were made for.
    host.sh("ip link set eth0 mtu 1400")?;
    let found = finds(host, "fault", "mtu", "1418");
    host.sh("ip link set eth0 mtu 1500")?;
    found?;
    is_well(host)?;

    host.docker(["plugin", "disable", "--force", PLUGIN])?;
    let fix = finds(host, "fault", "plugin", "not enabled")?;
    host.sh(&fix)?;
    cluster.wait_connected()?;
    is_well(host)?;
    network.remove()
}

pub(crate) fn finds_wrong_settings(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("doctor", engine, 2))?;
    let (host, other) = (lab.host(0), lab.host(1));
    for host in lab.hosts() {
        weft.install_program(host)?;
        finds(host, "fault", "daemon", "no weft daemon")?;
    }
    // No secret, no docker.sock, and the port for HTTP is someone else's.
    let holder =
        host.spawn_in_network("holder", ["python3", "-m", "http.server", "--bind", "127.0.0.1", "6784"])?;
    host.create_plugin(PLUGIN, &weft.plugin_dir, &["docker.sock.source=/dev/null"])?;
    let fix = finds(host, "fault", "ready", "no cluster secret")?;
    ensure!(fix.contains("weft init"), "{fix}");
    let fix = finds(host, "warn", "docker-socket", "not granted")?;
    ensure!(fix.contains("docker.sock.source=/run/docker.sock"), "{fix}");
    finds(host, "warn", "http", "127.0.0.1:6784")?;
    holder.signal("TERM")?;
    finds_served(host)?;
    host.run(["weft", "init"])?;
    is_well(host)?;

    // Another cluster's secret: strangers get no answer.
    other.sh(&format!("weft init --out {SECRET}"))?;
    let settings = [format!("secret.source={SECRET}"), format!("PEERS={}", host.ipv4())];
    other.create_plugin(PLUGIN, &weft.plugin_dir, &settings.each_ref().map(String::as_str))?;
    let fix = finds(other, "fault", "peers", "same cluster secret")?;
    ensure!(fix.contains("same `secret`"), "{fix}");
    Ok(())
}

fn finds_served(host: &Host) -> Result<()> {
    wait_until("the HTTP server to have its port", SETTLE, || {
        let findings = findings(host)?;
        Ok(findings.iter().any(|finding| finding["check"] == "http" && finding["level"] == "ok"))
    })
}
