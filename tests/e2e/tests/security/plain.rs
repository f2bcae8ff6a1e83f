//! Hosts that run `weft run` without Docker: the test calls the driver as dockerd does, and makes the sandboxes itself.
//!
//! For what needs many hosts, restarts and settings, but nothing of an engine.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use weft_e2e::{SETTLE, call_driver, n_connected, status};
use weft_lab::{Background, Engine, Host, Lab, LabConfig, Weft, wait_until};

use crate::place::Place;

/// Hosts with a daemon each.
pub(crate) struct Plain {
    daemons: Mutex<Vec<Option<Background>>>,
    settings: Vec<String>,
    n_endpoints: AtomicU32,
    pub(crate) lab: Lab,
}

impl Plain {
    /// `n` hosts that have one secret, in a file, and know each other's addresses. Waits until all are connected.
    pub(crate) fn start(
        kind: &str,
        engine: Engine,
        weft: &Weft,
        n: usize,
        settings: &[&str],
    ) -> Result<Self> {
        let plain = Self::prepare(kind, engine, weft, n, settings)?;
        weft.make_secret(&plain.lab, "cluster")?;
        plain.start_all()?;
        plain.wait_connected()?;
        Ok(plain)
    }

    /// The hosts, without secret and daemons.
    pub(crate) fn prepare(
        kind: &str,
        engine: Engine,
        weft: &Weft,
        n: usize,
        settings: &[&str],
    ) -> Result<Self> {
        let mut config = LabConfig::new(kind, engine, n);
        config.docker = false;
        let lab = Lab::start(config)?;
        for host in lab.hosts() {
            weft.install_program(host)?;
        }
        let addresses: Vec<String> = lab.hosts().iter().map(|host| host.ipv4().to_string()).collect();
        let mut all = vec![format!("PEERS={}", addresses.join(","))];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let daemons = Mutex::new((0..n).map(|_| None).collect());
        Ok(Self { daemons, settings: all, n_endpoints: AtomicU32::new(0), lab })
    }

    pub(crate) fn host(&self, index: usize) -> &Host {
        self.lab.host(index)
    }

    fn daemons(&self) -> MutexGuard<'_, Vec<Option<Background>>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start_all(&self) -> Result<()> {
        (0..self.lab.hosts().len()).try_for_each(|index| self.start_daemon(index, &[]))
    }

    /// Starts a host's daemon; `more` settings come after the common ones.
    pub(crate) fn start_daemon(&self, index: usize, more: &[&str]) -> Result<()> {
        let settings: Vec<&str> =
            self.settings.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let line = [&["env"], &settings[..], &["weft", "run"]].concat();
        let host = self.lab.host(index);
        let number = self.n_endpoints.fetch_add(1, Ordering::Relaxed);
        let mut daemon = host.spawn(&format!("weft{number}"), line)?;
        wait_until("the daemon", SETTLE, || {
            ensure!(daemon.is_running()?, "{}: {}", host.name(), daemon.text()?);
            Ok(host.weft_status().is_ok())
        })?;
        self.daemons()[index] = Some(daemon);
        Ok(())
    }

    /// Ends a host's daemon; its log.
    pub(crate) fn stop_daemon(&self, index: usize) -> Result<String> {
        let daemon = self.daemons()[index].take();
        daemon.context("the daemon runs")?.signal("TERM")
    }

    /// What a host's daemon has logged since it started.
    pub(crate) fn log(&self, index: usize) -> Result<String> {
        self.daemons()[index].as_ref().context("the daemon runs")?.text()
    }

    /// Whether no daemon has ended by itself or panicked.
    pub(crate) fn ensure_sound(&self) -> Result<()> {
        for daemon in self.daemons().iter_mut().flatten() {
            let log = daemon.text()?;
            ensure!(daemon.is_running()? && !log.contains("panicked"), "{log}");
        }
        Ok(())
    }

    /// Waits until every running daemon is connected to all other running ones.
    pub(crate) fn wait_connected(&self) -> Result<()> {
        let daemons = self.daemons();
        let running: Vec<usize> = (0..daemons.len()).filter(|index| daemons[*index].is_some()).collect();
        drop(daemons);
        for index in &running {
            wait_until("sessions with all peers", SETTLE, || {
                let (n, status) = (n_connected(self.host(*index))?, status(self.host(*index))?);
                ensure!(
                    n + 1 >= running.len(),
                    "{} has {n} peers: {}",
                    self.host(*index).name(),
                    status["peers"]
                );
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Gives a host an endpoint on a network, as `docker run` does.
    pub(crate) fn attach(&self, index: usize, network: &str, ip: &str) -> Result<Place<'_>> {
        self.attach_with(index, network, ip, &json!({ "weft.id": network }))
    }

    /// The same with other options of the network.
    pub(crate) fn attach_with(
        &self,
        index: usize,
        network: &str,
        ip: &str,
        options: &Value,
    ) -> Result<Place<'_>> {
        let host = self.host(index);
        let number = self.n_endpoints.fetch_add(1, Ordering::Relaxed);
        let digits: String = network.bytes().map(|byte| format!("{byte:02x}")).collect();
        let network_id = format!("{digits:0>64}");
        let endpoint_id = format!("{number:012x}{index:052x}");
        let octets: Vec<u8> = ip.split('.').map(str::parse).collect::<Result<_, _>>()?;
        let mac =
            format!("02:42:{}", octets.iter().map(|o| format!("{o:02x}")).collect::<Vec<_>>().join(":"));
        let subnet = format!("{}.{}.{}.0/24", octets[0], octets[1], octets[2]);
        let both = json!({ "NetworkID": network_id, "EndpointID": endpoint_id });
        call_driver(
            host,
            "CreateNetwork",
            &json!({
                "NetworkID": network_id,
                "Options": { "com.docker.network.generic": options },
                "IPv4Data": [{ "AddressSpace": "x", "Pool": subnet }],
                "IPv6Data": [],
            }),
        )?;
        let mut create = both.clone();
        create["Interface"] = json!({ "Address": format!("{ip}/24"), "MacAddress": mac });
        call_driver(host, "CreateEndpoint", &create)?;
        let name = format!("box{number}");
        let mut join = both;
        join["SandboxKey"] = json!(format!("/run/netns/{name}"));
        let joined = call_driver(host, "Join", &join)?;
        let link = joined["InterfaceName"]["SrcName"].as_str().with_context(|| joined.to_string())?;
        host.sh(&format!(
            "ip netns add {name} && ip link set {link} netns {name} && ip -n {name} link set {link} name eth0 && \
             ip -n {name} link set lo up && ip -n {name} link set eth0 up && \
             {{ ip -n {name} address add {ip}/24 dev eth0 2>/dev/null || true; }}"
        ))?;
        let namespace = format!("/proc/{}/root/run/netns/{name}", host.pid());
        let mac = host.sh(&format!("ip netns exec {name} cat /sys/class/net/eth0/address"))?;
        Ok(Place { host, namespace, name, mac, ip: ip.to_owned() })
    }
}

/// The host's peers.
pub(crate) fn peers(host: &Host) -> Result<Vec<Value>> {
    Ok(status(host)?["peers"].as_array().context("the status lists peers")?.clone())
}

/// What the host knows of the peer called `name`.
pub(crate) fn peer(host: &Host, name: &str) -> Result<Value> {
    peers(host)?.into_iter().find(|peer| peer["name"] == name).with_context(|| format!("no peer {name}"))
}

/// The host's own id.
pub(crate) fn peer_id(host: &Host) -> Result<String> {
    Ok(status(host)?["peer_id"].as_str().context("a host has an id")?.to_owned())
}

/// The number inside the seal of the network on the host of which `weft.id` is `name`, or of its only one.
pub(crate) fn wire_id(host: &Host, network: &str) -> Result<String> {
    let digits: String = network.bytes().map(|byte| format!("{byte:02x}")).collect();
    let id = format!("{digits:0>64}");
    let status = status(host)?;
    let networks = status["networks"].as_array().context("networks are listed")?;
    let found =
        networks.iter().find(|network| network["id"] == id.as_str()).context("the network is listed")?;
    Ok(found["wire_id"].as_str().context("it has a number")?.to_owned())
}

/// How often the host has dropped something for one of `reasons`.
pub(crate) fn dropped(host: &Host, reasons: &[&str]) -> Result<u64> {
    let status = status(host)?;
    Ok(reasons.iter().filter_map(|reason| status["drops"][*reason].as_u64()).sum())
}

/// Frames that the host has taken from all peers together.
pub(crate) fn frames_taken(host: &Host) -> Result<u64> {
    Ok(peers(host)?.iter().filter_map(|peer| peer["rx_datagrams"].as_u64()).sum())
}
