//! What is served over HTTP on a host's loopback.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{BUSYBOX, Host, PLUGIN, SECRET, wait_until};

const URL: &str = "http://127.0.0.1:6784";

/// The body of an answer, and before it the status.
fn get(host: &Host, path: &str, more: &[&str]) -> Result<(u16, String)> {
    let url = format!("{URL}{path}");
    let curl = ["curl", "--silent", "--max-time", "10", "--write-out", "\n%{http_code}"];
    let text = host.run_in_network(curl.iter().chain(more).chain(&[url.as_str()]))?;
    let (body, code) = text.rsplit_once('\n').context("curl writes the status last")?;
    Ok((code.parse()?, body.trim_end().to_owned()))
}

pub(crate) fn answers(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let network = cluster.network(&[])?;
    let (here, there) = (network.run(host, &[])?, network.run(cluster.worker(), &[])?);
    wait_until("an answer", SETTLE, || {
        host.exec(&here, &format!("timeout 3 wget -qO- http://{there}")).map(|_| true)
    })?;
    ensure!(get(host, "/healthz", &[])? == (200, "ok".to_owned()), "health");
    ensure!(get(host, "/readyz", &[])? == (200, "ready".to_owned()), "readiness");

    let (code, page) = get(host, "/metrics", &[])?;
    ensure!(code == 200, "{page}");
    for series in [
        "weft_ready 1",
        "weft_peers{state=\"connected\"} 1",
        "weft_peer_connected{peer=\"host2\"",
        "weft_networks 1",
        "weft_endpoints{place=\"remote\"} 1",
        "weft_driver_call_duration_seconds_count{call=\"Join\"}",
        "weft_drops_total{reason=\"bad_seal\"} 0",
    ] {
        ensure!(page.contains(series), "the metrics lack {series}:\n{page}");
    }
    let file = host.log_path("metrics")?;
    fs::write(&file, page.clone() + "\n")?;
    let checked =
        Command::new("promtool").args(["check", "metrics"]).stdin(fs::File::open(&file)?).output()?;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    ensure!(checked.status.success() && said.trim().is_empty(), "promtool: {said}");

    // The rules that are shipped for these metrics, and their own tests.
    for args in [["check", "rules", "weft.rules.yml"], ["test", "rules", "weft.tests.yml"]] {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/prometheus");
        let done = Command::new("promtool").args(args).current_dir(dir).output()?;
        ensure!(done.status.success(), "promtool {args:?}: {}", String::from_utf8_lossy(&done.stdout));
    }

    let (_, body) = get(host, "/v1/status", &[])?;
    let (served, own): (Value, Value) = (serde_json::from_str(&body)?, status(host)?);
    ensure!(served["peer_id"] == own["peer_id"] && served["ready"] == true, "{body}");
    let secret = host.run(["cat", SECRET])?;
    for path in ["/", "/metrics", "/v1/status"] {
        ensure!(!get(host, path, &[])?.1.contains(&secret), "{path} shows the secret");
    }

    host.docker(["plugin", "disable", "--force", PLUGIN])?;
    ensure!(get(host, "/healthz", &[]).is_err(), "a daemon that is away answers");
    host.docker(["plugin", "enable", PLUGIN])?;
    wait_until("readiness", SETTLE, || Ok(get(host, "/readyz", &[])?.0 == 200))?;
    cluster.wait_connected()?;
    network.remove()
}

pub(crate) fn refuses(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let refused = |what: &str, path: &str, more: &[&str], wanted: u16| -> Result<()> {
        let (code, body) = get(host, path, more)?;
        ensure!(code == wanted, "{what}: {code} instead of {wanted}: {body}");
        Ok(())
    };
    refused("a name that another made point here", "/v1/status", &["--header", "Host: evil.example"], 421)?;
    refused("a POST", "/v1/orders", &["--data", "{}"], 405)?;
    refused("a PUT", "/v1/status", &["--request", "PUT"], 405)?;
    refused("the secret", "/v1/secret", &[], 404)?;
    refused("a path out of it", "/../../etc/weft/secret", &["--path-as-is"], 404)?;
    let long = format!("X: {}", "y".repeat(20_000));
    refused("a head without end", "/", &["--header", &long], 431)?;

    // Others than this host do not reach it.
    let listening = host.sh("ss -Hltn 'sport = :6784'")?;
    ensure!(listening.contains("127.0.0.1:6784") && listening.lines().count() == 1, "{listening}");
    let url = format!("http://{}:6784/healthz", host.ipv4());
    let outside = cluster.worker().run_in_network(["curl", "--silent", "--max-time", "3", &url]);
    ensure!(outside.is_err(), "another host reaches it");
    let network = cluster.network(&[])?;
    let inside = network.run(host, &[])?;
    for address in ["127.0.0.1".to_owned(), host.ipv4().to_string()] {
        let line = format!("timeout 3 wget -qO- http://{address}:6784/healthz; true");
        let answer = host.exec(&inside, &line)?;
        ensure!(!answer.contains("ok"), "a container of {BUSYBOX} reaches it at {address}");
    }
    network.remove()
}
