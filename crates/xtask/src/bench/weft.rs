//! weft's daemon as a managed plugin runs it, driven as dockerd drives it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::ground::{Ground, container_address, host_address};
use super::shell::{self, Background};

const NETWORK: &str = "bench0network0of0two0host";
const START_LIMIT: Duration = Duration::from_secs(10);
/// The cluster secret of a bench: keeps no one out.
const SECRET: &str = "5f7c0d3e8a9b1c2d4e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5";

/// Starts a daemon on host `n`.
fn start(ground: &Ground, n: usize, program: &Path, suite: &str) -> Result<Background> {
    let script = format!(
        "mkdir -p /run/docker/plugins /run/state && echo {SECRET} > /run/secret && exec {} run --plugin --suite {suite} \
         --name host{n} --peers {} --advertise {} --state-dir /run/state --secret-file /run/secret --log-level warn",
        program.display(),
        host_address(1 - n),
        host_address(n),
    );
    Background::start(&ground.host(n), &script)
}

/// Calls the daemon as dockerd does, or its control socket.
fn call(pid: u32, socket: &str, request: &str, body: &Value) -> Result<Value> {
    let path = format!("/proc/{pid}/root/run/docker/plugins/{socket}");
    let mut stream = UnixStream::connect(&path).with_context(|| format!("cannot connect to {path}"))?;
    stream.set_read_timeout(Some(START_LIMIT))?;
    let body = body.to_string();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let value: Value = serde_json::from_str(body).with_context(|| format!("{request} answered {body}"))?;
    match value.get("Err").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        Some(text) => bail!("{request}: {text}"),
        None => Ok(value),
    }
}

/// Puts container `c`, 0 or 1, onto the network by the daemon of `pid` on host `n`; returns the MTU that it got.
fn connect(ground: &Ground, n: usize, c: usize, pid: u32) -> Result<u16> {
    let driver =
        |method: &str, body: Value| call(pid, "weft.sock", &format!("POST /NetworkDriver.{method}"), &body);
    let endpoint = format!("{:012x}{:052x}", 0xbe_0000 + c, 0);
    driver(
        "CreateNetwork",
        json!({"NetworkID": NETWORK, "Options": {}, "IPv4Data": [{"Pool": "10.98.0.0/24"}], "IPv6Data": []}),
    )?;
    let interface = json!({"Address": format!("{}/24", container_address(c)), "MacAddress": ""});
    let made = driver(
        "CreateEndpoint",
        json!({"NetworkID": NETWORK, "EndpointID": endpoint, "Interface": interface}),
    )?;
    let joined = driver(
        "Join",
        json!({"NetworkID": NETWORK, "EndpointID": endpoint, "SandboxKey": "/run/docker/netns/bench", "Options": {}}),
    )?;
    let source = joined["InterfaceName"]["SrcName"].as_str().context("Join names an interface")?;
    made["Interface"]["MacAddress"].as_str().context("CreateEndpoint gives an address")?;
    let (host, container) = (ground.host(n), ground.container(c));
    let mtu = shell::run(&format!("ip -n {host} -o link show {source}"))?;
    let mtu = mtu
        .split_whitespace()
        .skip_while(|word| *word != "mtu")
        .nth(1)
        .context("a link has an MTU")?
        .parse()?;
    shell::run(&format!("ip -n {host} link set {source} netns {container} name eth0"))?;
    ground.dress_container(c)?;
    Ok(mtu)
}

/// Both hosts with weft, a container on each.
pub(super) fn across(ground: &Ground, program: &Path, suite: &str) -> Result<(Vec<Background>, u16)> {
    let mut daemons = vec![start(ground, 0, program, suite)?, start(ground, 1, program, suite)?];
    for daemon in &mut daemons {
        await_ready(daemon, 1)?;
    }
    let mut mtu = 0;
    for (n, daemon) in daemons.iter().enumerate() {
        mtu = connect(ground, n, n, daemon.pid())?;
    }
    Ok((daemons, mtu))
}

/// One host with weft, both containers on it.
pub(super) fn local(ground: &Ground, program: &Path) -> Result<(Vec<Background>, u16)> {
    let mut daemon = start(ground, 0, program, "auto")?;
    await_ready(&mut daemon, 0)?;
    connect(ground, 0, 0, daemon.pid())?;
    let mtu = connect(ground, 0, 1, daemon.pid())?;
    Ok((vec![daemon], mtu))
}

/// Waits until the daemon carries traffic and has `n_peers`.
fn await_ready(daemon: &mut Background, n_peers: usize) -> Result<()> {
    let pid = daemon.pid();
    shell::await_ok("weft is ready", START_LIMIT, || {
        daemon.check()?;
        let status = call(pid, "weft-control.sock", "GET /v1/status", &Value::Null)?;
        let peers = status["peers"]
            .as_array()
            .map_or(0, |peers| peers.iter().filter(|peer| peer["state"] == "connected").count());
        match status["ready"].as_bool() {
            Some(true) if peers >= n_peers => Ok(()),
            _ => bail!("not ready: {status}"),
        }
    })
}
