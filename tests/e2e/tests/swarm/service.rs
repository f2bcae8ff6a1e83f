//! Services of a scenario.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{BUSYBOX, Host, wait_for, wait_until};

/// How long tasks may take to run and to be known everywhere, on a machine that is busy.
pub(crate) const START: Duration = Duration::from_secs(60);

/// A service; it is removed, and its containers' end awaited, when the guard is dropped.
pub(crate) struct Service<'a> {
    cluster: &'a Cluster,
    pub(crate) name: String,
}

impl<'a> Service<'a> {
    /// Creates a service on the network whose tasks serve their host names at TCP port 80.
    pub(crate) fn create(cluster: &'a Cluster, network: &str, options: &[&str]) -> Result<Self> {
        let name = cluster.unique("svc");
        let (on, named) = (format!("--network={network}"), format!("--name={name}"));
        let create = ["service", "create", "--quiet", "--no-resolve-image", &on, &named];
        let created = Self { cluster, name: name.clone() };
        cluster.manager().docker(create.iter().chain(options).chain(&[BUSYBOX]))?;
        Ok(created)
    }

    /// `docker service scale`, until the tasks run.
    pub(crate) fn scale(&self, n: usize) -> Result<()> {
        self.cluster.manager().docker(["service", "scale", &format!("{}={n}", self.name)]).map(drop)
    }

    /// The service's address, as swarm has it.
    pub(crate) fn vip(&self) -> Result<String> {
        let format = "{{range .Endpoint.VirtualIPs}}{{println .Addr}}{{end}}";
        let vips = self.cluster.manager().docker(["service", "inspect", "--format", format, &self.name])?;
        let vip = vips.lines().next().and_then(|vip| vip.split('/').next()).context("a service has a VIP")?;
        Ok(vip.to_owned())
    }

    /// Docker's id of its network.
    pub(crate) fn network_id(&self) -> Result<String> {
        let format = "{{(index .Spec.TaskTemplate.Networks 0).Target}}";
        self.cluster.manager().docker(["service", "inspect", "--format", format, &self.name])
    }

    /// Its running containers on the host: their short ids, which are their host names as well.
    pub(crate) fn containers(&self, host: &Host) -> Result<Vec<String>> {
        containers(host, &format!("label=com.docker.swarm.service.name={}", self.name))
    }

    /// Its running containers on all hosts.
    pub(crate) fn all_containers(&self) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for host in self.cluster.lab.hosts() {
            all.extend(self.containers(host)?);
        }
        Ok(all)
    }

    /// Removes it and waits until its containers are gone.
    pub(crate) fn remove(self) -> Result<()> {
        let result = self.clean();
        std::mem::forget(self);
        result
    }

    fn clean(&self) -> Result<()> {
        let _ = self.cluster.manager().docker_output(["service", "rm", &self.name])?;
        wait_until("end of the service's containers", START, || Ok(self.all_containers()?.is_empty()))
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.clean() {
            eprintln!("{error:#}");
        }
    }
}

/// Running containers with the label.
pub(crate) fn containers(host: &Host, filter: &str) -> Result<Vec<String>> {
    let list =
        host.docker(["ps", "--filter", filter, "--filter", "status=running", "--format", "{{.ID}}"])?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Asks `to` for its host name, many times, from a container; who answered how often.
pub(crate) fn ask_often(host: &Host, from: &str, to: &str, n: usize) -> Result<BTreeMap<String, usize>> {
    let line = format!("for i in $(seq {n}); do timeout 3 wget -qO- http://{to}/ || echo failed; done");
    let mut answers = BTreeMap::new();
    for answer in host.exec(from, &line)?.lines() {
        *answers.entry(answer.to_owned()).or_insert(0) += 1;
    }
    Ok(answers)
}

/// Waits until all of `expected` and nothing else answer at `to`.
pub(crate) fn wait_for_answers(
    host: &Host,
    from: &str,
    to: &str,
    expected: &BTreeSet<String>,
) -> Result<BTreeMap<String, usize>> {
    wait_for(&format!("answers of {expected:?} at {to} to {from} on {}", host.name()), START, || {
        let answers = ask_often(host, from, to, 8 * expected.len().max(1))?;
        ensure!(answers.keys().eq(expected.iter()), "{to}: {answers:?}, not {expected:?}");
        Ok(Some(answers))
    })
}

/// What the host's daemon says of the service.
pub(crate) fn service_status(host: &Host, name: &str) -> Result<Option<Value>> {
    let status = status(host)?;
    let services = status["services"].as_array().context("services are listed")?;
    Ok(services.iter().find(|service| service["name"] == name).cloned())
}

/// Waits until the daemon says of services what begins so.
pub(crate) fn wait_for_state(host: &Host, begin: &str) -> Result<()> {
    wait_until(&format!("{} to say `{begin}`", host.name()), SETTLE, || {
        let status = status(host)?;
        let state = status["services_state"].as_str().context("the state of services is said")?;
        ensure!(state.starts_with(begin), "{state}");
        Ok(true)
    })
}

/// Nothing is wrong with services on any host.
pub(crate) fn ensure_no_faults(cluster: &Cluster) -> Result<()> {
    for host in cluster.lab.hosts() {
        let faults = status(host)?["service_faults"].clone();
        ensure!(faults == serde_json::json!([]), "{}: {faults}", host.name());
    }
    Ok(())
}
