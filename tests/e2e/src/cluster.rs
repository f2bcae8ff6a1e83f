//! A two-host swarm with weft on it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_lab::{BUSYBOX, DRIVER, Engine, Host, Lab, LabConfig, Weft, wait_until};

/// How long sessions and Docker's gossip may take to settle.
pub const SETTLE: Duration = Duration::from_secs(30);

/// A swarm with weft on every node, installed from the registry on loopback.
#[derive(Debug)]
pub struct Cluster {
    /// The hosts.
    pub lab: Lab,
    /// What is tested.
    pub weft: Weft,
    n_names: AtomicUsize,
}

impl Cluster {
    /// Makes the suite's cluster: two hosts, IPv4, MTU 1500.
    ///
    /// # Errors
    /// When anything on the way fails.
    pub fn start(suite: &str, engine: Engine) -> Result<Self> {
        Self::with(LabConfig::new(suite, engine, 2), &Weft::from_env()?)
    }

    /// Makes a swarm of the hosts of `config`, with one secret and weft on each, and waits until every daemon is
    /// connected to all the others.
    ///
    /// # Errors
    /// When anything on the way fails.
    pub fn with(config: LabConfig, weft: &Weft) -> Result<Self> {
        let lab = Lab::start(config)?;
        let cluster = Self { lab, weft: weft.clone(), n_names: AtomicUsize::new(0) };
        weft.make_secret(&cluster.lab, "cluster")?;
        weft.install_everywhere(&cluster.lab, &[])?;
        cluster.lab.swarm()?;
        cluster.lab.wait_for_plugin_on_nodes()?;
        cluster.wait_connected()?;
        Ok(cluster)
    }

    /// The first host, the swarm's manager.
    #[must_use]
    pub fn manager(&self) -> &Host {
        self.lab.host(0)
    }

    /// The second host, a worker.
    #[must_use]
    pub fn worker(&self) -> &Host {
        self.lab.host(1)
    }

    /// A name beginning with `base` that nothing else on this cluster has.
    #[must_use]
    pub fn unique(&self, base: &str) -> String {
        format!("{base}{}", self.n_names.fetch_add(1, Ordering::Relaxed))
    }

    /// Creates an attachable network; it is removed, with the containers on it, when the guard is dropped.
    ///
    /// # Errors
    /// When dockerd refuses.
    pub fn network(&self, options: &[&str]) -> Result<NetworkGuard<'_>> {
        let name = self.unique("net");
        let driver = format!("--driver={DRIVER}");
        let create = ["network", "create", &driver, "--attachable"];
        self.manager().docker(create.iter().chain(options).chain(&[name.as_str()]))?;
        Ok(NetworkGuard { cluster: self, name })
    }

    /// Waits until every daemon has a session with all the others.
    ///
    /// # Errors
    /// When it has not in time: the error holds what the daemon says.
    pub fn wait_connected(&self) -> Result<()> {
        let n_others = self.lab.hosts().len() - 1;
        for host in self.lab.hosts() {
            wait_until("sessions with all peers", SETTLE, || {
                let status = status(host)?;
                let peers = status["peers"].as_array().context("the status lists peers")?;
                let n_connected = peers.iter().filter(|peer| peer["state"] == "connected").count();
                ensure!(
                    n_connected >= n_others,
                    "{} has {n_connected} of {n_others} peers: {status}",
                    host.name()
                );
                Ok(true)
            })?;
        }
        Ok(())
    }
}

/// A network of one scenario.
#[derive(Debug)]
pub struct NetworkGuard<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl NetworkGuard<'_> {
    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts a container on the network that serves its host name at port 80; returns its name.
    ///
    /// # Errors
    /// When dockerd refuses.
    pub fn run(&self, host: &Host, options: &[&str]) -> Result<String> {
        let name = self.cluster.unique("box");
        let (network, named) = (format!("--network={}", self.name), format!("--name={name}"));
        let run = ["run", "--detach", &network, &named];
        host.docker(run.iter().chain(options).chain(&[BUSYBOX]))?;
        Ok(name)
    }

    /// Removes the network and the containers on it, and says when something stays.
    ///
    /// # Errors
    /// When it cannot be removed within the time that Docker needs.
    pub fn remove(self) -> Result<()> {
        self.clean()?;
        std::mem::forget(self);
        Ok(())
    }

    fn clean(&self) -> Result<()> {
        for host in self.cluster.lab.hosts() {
            let on_it =
                host.docker(["ps", "--all", "--quiet", "--filter", &format!("network={}", self.name)])?;
            if !on_it.is_empty() {
                host.docker(["rm", "--force"].into_iter().chain(on_it.lines()))?;
            }
        }
        // The manager learns of a container's end a moment after it.
        wait_until("removal of the network", SETTLE, || {
            self.cluster.manager().docker(["network", "rm", &self.name]).map(|_| true)
        })
    }
}

impl Drop for NetworkGuard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.clean() {
            eprintln!("{error:#}");
        }
    }
}

/// `weft status --json` of the host.
///
/// # Errors
/// When the daemon does not answer.
pub fn status(host: &Host) -> Result<Value> {
    serde_json::from_str(&host.weft_status()?).context("weft status --json prints JSON")
}

/// How many peers the host's daemon has a session with.
///
/// # Errors
/// When it cannot be asked.
pub fn n_connected(host: &Host) -> Result<usize> {
    let status = status(host)?;
    let peers = status["peers"].as_array().context("the status lists peers")?;
    Ok(peers.iter().filter(|peer| peer["state"] == "connected").count())
}

/// Links and rules of weft's on the host, one a line: none when no network is in use.
///
/// # Errors
/// When the host cannot be asked.
pub fn leftovers(host: &Host) -> Result<String> {
    // weft's links are named wfb, wft, wfv and wfc with 12 digits; its rules name its bridges.
    host.sh(
        "ip -o link | grep -E ' wf[bvtc][0-9a-f]{12}[:@]'; \
         for list in iptables-nft-save iptables-legacy-save; do $list 2>/dev/null | grep 'wf[a-z][0-9a-f]'; done; true",
    )
}

/// Sequence numbers that are missing in the output of `ping`, between the first and the last that came back.
#[must_use]
pub fn ping_losses(output: &str) -> Vec<u64> {
    let seen: Vec<u64> = output
        .lines()
        .filter_map(|line| line.split_once("seq=")?.1.split_whitespace().next()?.parse().ok())
        .collect();
    let (Some(&first), Some(&last)) = (seen.iter().min(), seen.iter().max()) else { return Vec::new() };
    (first..=last).filter(|number| !seen.contains(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_the_gaps() {
        let output =
            "PING x\n64 bytes from x: seq=3 ttl=64 time=0.1 ms\n64 bytes from x: icmp_seq=6 ttl=64\n";
        assert_eq!(ping_losses(output), [4, 5]);
        assert_eq!(ping_losses("PING x"), [0_u64; 0]);
    }
}
