//! Daemons on hosts without a swarm, asked over their own sockets: that costs less than a program for each question.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use weft_lab::{Background, Host, Lab, Weft};

/// How long a daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(30);
const CONTROL: &str = "weft/control.sock";
const DRIVER: &str = "docker/plugins/weft.sock";

/// Starts a daemon on each of the hosts, with the first `n_seeds` as PEERS. They have one secret.
pub(crate) fn start_all(lab: &Lab, weft: &Weft, n_seeds: usize) -> Result<Vec<Background>> {
    weft.make_secret(lab, "cluster")?;
    for host in lab.hosts() {
        weft.install_program(host)?;
    }
    lab.hosts().iter().map(|host| start(lab, host, n_seeds, &[])).collect()
}

/// Starts a daemon on a host that has program and secret, with more settings.
pub(crate) fn start(lab: &Lab, host: &Host, n_seeds: usize, settings: &[&str]) -> Result<Background> {
    let peers: Vec<String> = lab.hosts().iter().take(n_seeds).map(|host| host.ipv4().to_string()).collect();
    let peers = format!("PEERS={}", peers.join(","));
    host.spawn("weft", ["env", &peers].iter().chain(settings).chain(&["weft", "run"]))
}

fn call(host: &Host, socket: &str, request: &str, body: &str) -> Result<Value> {
    let path = format!("/proc/{}/root/run/{socket}", host.pid());
    let mut stream = UnixStream::connect(&path).with_context(|| format!("{}: {path}", host.name()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let head = "HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json";
    write!(stream, "{request} {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a body")?;
    let value: Value = serde_json::from_str(body).with_context(|| format!("{request} answered {body}"))?;
    match value.get("Err").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        Some(text) => bail!("{}: {request}: {text}", host.name()),
        None => Ok(value),
    }
}

/// The daemon's status.
pub(crate) fn status(host: &Host) -> Result<Value> {
    call(host, CONTROL, "GET /v1/status", "")
}

/// Names of the peers that the status shows in the state.
pub(crate) fn peers_in<'a>(status: &'a Value, state: &str) -> Vec<&'a str> {
    let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    peers.iter().filter(|peer| peer["state"] == state).filter_map(|peer| peer["name"].as_str()).collect()
}

/// Fails unless the daemon is connected to so many peers.
pub(crate) fn ensure_connected(host: &Host, n_peers: usize) -> Result<()> {
    let status = status(host)?;
    let n = peers_in(&status, "connected").len();
    ensure!(n == n_peers, "{} is connected to {n} peers of {n_peers}", host.name());
    Ok(())
}

/// Calls the driver as dockerd does.
pub(crate) fn driver(host: &Host, method: &str, body: &Value) -> Result<Value> {
    call(host, DRIVER, &format!("POST /NetworkDriver.{method}"), &body.to_string())
}

/// Puts the host on network `number`, with an endpoint that has the last byte of its address in common with the host.
pub(crate) fn put_on_network(host: &Host, number: usize) -> Result<()> {
    let network = format!("{number:064x}");
    let pool = json!([{"Pool": format!("10.{number}.0.0/24"), "Gateway": format!("10.{number}.0.1/24")}]);
    driver(
        host,
        "CreateNetwork",
        &json!({"NetworkID": network, "Options": {}, "IPv4Data": pool, "IPv6Data": []}),
    )?;
    let last = host.ipv4().octets()[3];
    let endpoint = format!("{last:06x}{number:06x}{:052x}", 0);
    let interface = json!({"Address": format!("10.{number}.0.{last}/24"), "MacAddress": ""});
    driver(
        host,
        "CreateEndpoint",
        &json!({"NetworkID": network, "EndpointID": endpoint, "Interface": interface, "Options": {}}),
    )?;
    Ok(())
}
