//! Has every container of this host reach services at their addresses: keeps the rules in its namespace as they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, warn};
use weft_netlink::{Kept, VipError, ensure_vips, forget_connections};
use weft_node::ServiceView;
use weft_services::{Service, VipRules, rules};
use weft_wire::NetworkId;

use crate::core::{Core, Running, Topology};
use crate::store::Changes;

/// Where the plugin has the namespaces of containers.
const NAMESPACES: &str = "/run/docker/netns";
/// Rules that could not be set are tried again after this long.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Older engines mount a container's namespace only after Join has returned, some 100 ms before its process starts. To
/// look for a file is cheap, and a rule that is late costs a connection a second.
const SOON: Duration = Duration::from_millis(10);
/// For how long a namespace is looked for so often.
const SOON_LIMIT: Duration = Duration::from_secs(3);
/// Between looks whether a task that swarm has taken out of service has ended.
const LEAVING_INTERVAL: Duration = Duration::from_millis(250);
/// How long the namespace of a container may be missing before that is told.
const MISSING_LIMIT: Duration = Duration::from_secs(30);
/// Least time between two writes of what is known to the disk.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a container's namespace.
struct Sandbox {
    /// The networks that the container is on.
    networks: BTreeSet<NetworkId>,
    /// The rules that it has; `None`: not known, from an earlier run.
    has: Option<VipRules>,
    /// Tasks out of service to which connections may exist, with their addresses of services.
    leaving: BTreeSet<(IpAddr, IpAddr)>,
    failure: Option<Failure>,
}

/// Why the rules are not as they should be.
struct Failure {
    since: Instant,
    next_try: Instant,
    /// For the operator, when it is no mere matter of waiting.
    fault: Option<String>,
}

/// Keeps all namespaces up to date, for ever.
pub(crate) async fn follow(core: &Arc<Core>) {
    let Some(running) = core.running.load_full() else { return std::future::pending().await };
    let mut services = running.node.services();
    let mut sandboxes: BTreeMap<PathBuf, Sandbox> = BTreeMap::new();
    // A namespace from before this run may have rules of services that are no more.
    let mut is_first = true;
    loop {
        let view = Arc::clone(&services.borrow_and_update());
        let wanted = wanted(&*core.topology.read().await, &view, core.settings.plugin);
        let gone: Vec<PathBuf> =
            sandboxes.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
        for path in gone {
            if let Some(Sandbox { has: Some(has), .. }) = sandboxes.remove(&path)
                && !has.is_empty()
            {
                // It goes with its container; one that goes on without the network gets rid of the rules.
                let cleared = ensure_vips(&path, &VipRules::new()).await;
                debug!(sandbox = %path.display(), ?cleared, "container left the network");
            }
        }
        let mut faults = Vec::new();
        let mut next = Instant::now() + RETRY_INTERVAL;
        for (path, (networks, rules)) in wanted {
            let now = Instant::now();
            let sandbox = sandboxes.entry(path.clone()).or_insert_with(|| Sandbox {
                networks: BTreeSet::new(),
                has: (!is_first).then(VipRules::new),
                leaving: BTreeSet::new(),
                failure: None,
            });
            sandbox.networks = networks;
            sandbox.update(&running, &path, rules, now).await;
            if let Some(failure) = &sandbox.failure {
                faults.extend(failure.fault.clone());
                next = next.min(failure.next_try);
            } else if !sandbox.leaving.is_empty() {
                next = next.min(now + LEAVING_INTERVAL);
            }
        }
        is_first = false;
        *core.sandbox_faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
        tokio::select! {
            changed = services.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            () = core.sandboxes_changed.notified() => {}
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

/// Where a namespace that dockerd calls `key` is. The plugin has dockerd's directory of namespaces at a place of its own.
fn sandbox_path(key: &str, is_plugin: bool) -> Option<PathBuf> {
    let key = Path::new(key);
    if is_plugin { Some(Path::new(NAMESPACES).join(key.file_name()?)) } else { Some(key.to_owned()) }
}

/// The rules of each container, by its namespace.
fn wanted(
    topology: &Topology,
    view: &ServiceView,
    is_plugin: bool,
) -> BTreeMap<PathBuf, (BTreeSet<NetworkId>, VipRules)> {
    let mut sandboxes: BTreeMap<PathBuf, BTreeSet<&str>> = BTreeMap::new();
    for endpoint in topology.endpoints.values() {
        let key = endpoint.record.sandbox_key.as_deref();
        if let Some(path) = key.and_then(|key| sandbox_path(key, is_plugin)) {
            sandboxes.entry(path).or_default().insert(&endpoint.record.endpoint.network_id);
        }
    }
    let with_rules = |ids: BTreeSet<&str>| {
        let networks: Vec<_> = ids.into_iter().filter_map(|id| topology.networks.get(id)).collect();
        let services: Vec<Vec<Service>> = networks
            .iter()
            .map(|network| {
                let live = view.networks.get(&network.id).into_iter().flatten();
                live.map(|live| live.service.clone()).collect()
            })
            .collect();
        let within = |network: &&crate::core::Network| {
            let network = &network.record.network;
            let pools: Vec<_> = network.ipv4.iter().chain(&network.ipv6).map(|pool| pool.subnet).collect();
            move |address: IpAddr| pools.iter().any(|pool| pool.contains(&address))
        };
        let clients = networks.iter().map(within).zip(services.iter().map(Vec::as_slice));
        (networks.iter().map(|network| network.id).collect(), rules(clients))
    };
    sandboxes.into_iter().map(|(path, ids)| (path, with_rules(ids))).collect()
}

impl Sandbox {
    /// Sets the rules if they are not those, and ends connections to tasks that are gone.
    async fn update(&mut self, running: &Running, path: &Path, rules: VipRules, now: Instant) {
        if self.has.as_ref() == Some(&rules) && self.leaving.is_empty() {
            self.failure = None;
            return;
        }
        if self.failure.as_ref().is_some_and(|failure| now < failure.next_try) {
            return;
        }
        let Err(error) = self.set(running, path, rules).await else {
            self.failure = None;
            return;
        };
        let since = self.failure.as_ref().map_or(now, |failure| failure.since);
        let is_missing = matches!(error, VipError::Namespace(_));
        let pause = if is_missing && now < since + SOON_LIMIT { SOON } else { RETRY_INTERVAL };
        let is_fault = !is_missing || now >= since + MISSING_LIMIT;
        let fault = is_fault.then(|| format!("{}: {error}", path.display()));
        if fault.is_some() && self.failure.as_ref().is_none_or(|failure| failure.fault != fault) {
            warn!(sandbox = %path.display(), %error, "services are not reached from a container");
        }
        self.failure = Some(Failure { since, next_try: Instant::now() + pause, fault });
    }

    async fn set(&mut self, running: &Running, path: &Path, rules: VipRules) -> Result<(), VipError> {
        let had = self.has.clone();
        if had.as_ref() != Some(&rules) {
            let changed = ensure_vips(path, &rules).await?;
            debug!(sandbox = %path.display(), n_services = rules.len(), changed, "rules for services set");
        }
        for (vip, tasks) in had.iter().flatten() {
            let stay = rules.get(vip);
            let left = tasks.iter().filter(|task| stay.is_none_or(|stay| !stay.contains(*task)));
            self.leaving.extend(left.map(|task| (*vip, *task)));
        }
        self.leaving.retain(|(vip, task)| rules.get(vip).is_none_or(|tasks| !tasks.contains(task)));
        self.has = Some(rules);
        if had.is_none() || !self.leaving.is_empty() {
            self.forget(running, path, had.is_none()).await?;
        }
        Ok(())
    }

    /// Ends connections to tasks out of service.
    async fn forget(&mut self, running: &Running, path: &Path, all: bool) -> Result<(), VipError> {
        let (networks, tasks) = (self.networks.clone(), self.leaving.clone());
        let ended = running.node.call(move |node, now| {
            let is_there = |task: IpAddr| networks.iter().any(|n| node.is_reachable(*n, task, now));
            tasks.into_iter().filter(|(_, task)| !is_there(*task)).collect::<BTreeSet<_>>()
        });
        let ended = ended.await.unwrap_or_default();
        let Some(has) = &self.has else { return Ok(()) };
        let leaving: BTreeSet<_> = self.leaving.difference(&ended).copied().collect();
        let vips =
            self.leaving.iter().map(|(vip, _)| *vip).chain(has.keys().copied().filter(|_| all)).collect();
        let kept = |vip: IpAddr, task: IpAddr| match has.get(&vip) {
            Some(tasks) if tasks.contains(&task) => Kept::All,
            _ if leaving.contains(&(vip, task)) => Kept::Tcp,
            _ => Kept::None,
        };
        let n_forgotten = forget_connections(path, &vips, kept).await?;
        if n_forgotten > 0 {
            debug!(sandbox = %path.display(), n_forgotten, "connections to tasks out of service ended");
        }
        self.leaving = leaving;
        Ok(())
    }
}

/// Writes what is known of services to the disk whenever it changes, for ever.
pub(crate) async fn keep(core: &Arc<Core>) {
    let Some(running) = core.running.load_full() else { return std::future::pending().await };
    let mut services = running.node.services();
    let mut kept = None;
    while services.changed().await.is_ok() {
        let Some(table) = running.node.call(|node, _| node.known_services().clone()).await else { break };
        if kept.as_ref() != Some(&table) {
            match core.write(Changes::default().set_services(&table)).await {
                Ok(()) => kept = Some(table),
                Err(error) => warn!(%error, "services not kept on disk"),
            }
        }
        tokio::time::sleep(KEEP_INTERVAL).await;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_has_namespaces_at_its_own_place() {
        let key = "/var/lib/other/netns/1a2b3c";
        assert_eq!(sandbox_path(key, true), Some("/run/docker/netns/1a2b3c".into()));
        assert_eq!(sandbox_path(key, false), Some(key.into()));
        assert_eq!(sandbox_path("", true), None);
    }
}
