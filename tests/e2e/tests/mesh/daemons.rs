//! Daemons on hosts without a swarm.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_e2e::{call_driver, daemon_status};
use weft_lab::{Background, Host, Lab, Weft};

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
    start_with(host, &peers, settings)
}

/// Starts a daemon with these addresses as PEERS.
pub(crate) fn start_with(host: &Host, peers: &[String], settings: &[&str]) -> Result<Background> {
    let peers = format!("PEERS={}", peers.join(","));
    host.spawn("weft", ["env", &peers].iter().chain(settings).chain(&["weft", "run"]))
}

/// Creates the host's part of a network with both families, `10.number.0.0/24` and `fd99:number::/64`.
pub(crate) fn create_dual_stack(host: &Host, name: &str, number: u8, options: &[&str]) -> Result<()> {
    let id = format!("--opt=weft.id={name}");
    let (v4, v6) = (format!("--subnet=10.{number}.0.0/24"), format!("--subnet=fd99:{number}::/64"));
    let create = ["network", "create", "--driver=weft", &id, "--ipv6", &v4, &v6];
    host.docker(create.iter().chain(options).chain(&[name])).map(drop)
}

/// Names of the peers that the status shows in the state.
pub(crate) fn peers_in<'a>(status: &'a Value, state: &str) -> Vec<&'a str> {
    let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    peers.iter().filter(|peer| peer["state"] == state).filter_map(|peer| peer["name"].as_str()).collect()
}

/// Fails unless the daemon is connected to so many peers.
pub(crate) fn ensure_connected(host: &Host, n_peers: usize) -> Result<()> {
    let status = daemon_status(host)?;
    let n = peers_in(&status, "connected").len();
    ensure!(n == n_peers, "{} is connected to {n} peers of {n_peers}", host.name());
    Ok(())
}

/// Puts the host on network `number`, with an endpoint that has the last byte of its address in common with the host.
pub(crate) fn put_on_network(host: &Host, number: usize) -> Result<()> {
    let network = format!("{number:064x}");
    let pool = json!([{"Pool": format!("10.{number}.0.0/24"), "Gateway": format!("10.{number}.0.1/24")}]);
    call_driver(
        host,
        "CreateNetwork",
        &json!({"NetworkID": network, "Options": {}, "IPv4Data": pool, "IPv6Data": []}),
    )?;
    let last = host.ipv4().octets()[3];
    let endpoint = format!("{last:06x}{number:06x}{:052x}", 0);
    let interface = json!({"Address": format!("10.{number}.0.{last}/24"), "MacAddress": ""});
    call_driver(
        host,
        "CreateEndpoint",
        &json!({"NetworkID": network, "EndpointID": endpoint, "Interface": interface, "Options": {}}),
    )?;
    Ok(())
}
