//! Starts the daemon, keeps it going, and ends it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{debug, info, warn};
use weft_dataplane::Snapshot;
use weft_driver::Scope;
use weft_netlink::{Firewall, Wiring};
use weft_node::{Admission, Event, Node, NodeConfig};
use weft_noise::{ClusterSecret, SecretId};
use weft_router::{Router, RouterConfig};
use weft_wire::PeerId;
use zeroize::Zeroizing;

use crate::control::Controls;
use crate::core::{Core, EMPTY_NETWORK_HOLD, Fault, JoinWish, Network, Running};
use crate::docker;
use crate::engine::Engine;
use crate::node_thread;
use crate::settings::{PeerAddress, Settings};
use crate::store::{Changes, Store};

/// How often what cannot start is tried again in a plugin, which cannot just end.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How often files of the operator are looked at for changes.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a host that gave a token has to answer.
const JOIN_LIMIT: Duration = Duration::from_secs(15);
/// How often links and firewall rules are compared with what they should be.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(5);
/// How often Docker is asked for the swarm's hosts.
const DOCKER_INTERVAL: Duration = Duration::from_secs(15);
/// How often names in PEERS are looked up again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(60);
/// An interface that dockerd has not taken, or has given back, for this long was forgotten by it.
const UNCLAIMED_HOLD: Duration = Duration::from_secs(120);

/// Shown wherever the lack of a secret is.
pub(crate) const NO_SECRET: &str = "weft has no cluster secret, so it carries no traffic: run `weft init` on one host of the cluster and give \
     the same secret to every other (`weft secret show` there, `weft secret set` here), or put it into a file and mount \
     it (`docker plugin set weft:latest secret.source=/etc/weft/secret` while the plugin is disabled)";

/// Why traffic cannot be carried.
enum Obstacle {
    /// The operator has yet to hand over a secret.
    Waiting(String),
    /// Something is wrong with the machine or the settings.
    Fault(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Obstacle {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// As a plugin, whatever keeps it from carrying traffic becomes the text that dockerd's calls get, and is tried again;
/// outside, it ends the daemon.
///
/// # Errors
/// What kept the daemon from starting, in one line.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // dockerd waits some 10 s for the socket, so it comes before everything that can take time.
    let listener = weft_driver::bind_socket(&settings.driver_socket).context("driver socket")?;
    let control_listener = weft_driver::bind_socket(&settings.control_socket).context("control socket")?;
    let store = Store::open(&settings.state_dir)?;
    let (links, firewall) = (Wiring::new()?, Firewall::new());
    let core = Arc::new(Core::new(settings, store, Box::new(links), Box::new(firewall))?);

    let scope = if core.settings.plugin { Scope::Global } else { Scope::Local };
    let driver = weft_driver::serve(listener, weft_driver::router(Engine(Arc::clone(&core)), scope));
    let control =
        weft_driver::serve(control_listener, weft_api::router(Arc::new(Controls(Arc::clone(&core)))));
    let result = tokio::select! {
        result = driver => result.context("driver socket"),
        result = control => result.context("control socket"),
        never = crate::http::run(&core) => match never {},
        result = supervise(&core) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    // Bridges, veths and TAPs stay: containers of this host go on talking, and the next daemon adopts them.
    if let Some(running) = core.running.swap(None) {
        running.router.shutdown();
    }
    for socket in [&core.settings.driver_socket, &core.settings.control_socket] {
        if let Err(error) = std::fs::remove_file(socket) {
            debug!(socket = %socket.display(), %error, "socket not removed");
        }
    }
    result
}

/// Gets the daemon to carry traffic, and keeps it up to date.
async fn supervise(core: &Arc<Core>) -> anyhow::Result<()> {
    if !docker::is_granted(&core.settings.docker_socket) {
        core.docker_fault.set(Some(
            "Docker's socket is not granted: hosts are found by PEERS, by `weft connect` and by dockerd's hints only"
                .to_owned(),
        ));
    }
    if let Some(fault) = &core.settings.fault {
        warn!("{fault}");
        core.set_faults(vec![fault.clone()]);
        return std::future::pending().await;
    }
    loop {
        match start(core).await {
            Ok(()) => break,
            Err(Obstacle::Waiting(text)) => {
                warn!("{text}");
                core.set_faults(vec![text]);
                core.retry.notified().await;
            }
            Err(Obstacle::Fault(error)) if core.settings.plugin => {
                let text = format!("{error:#}");
                warn!("{text}");
                core.set_faults(vec![text]);
                tokio::select! {
                    () = core.retry.notified() => {}
                    () = tokio::time::sleep(RETRY_INTERVAL) => {}
                }
            }
            Err(Obstacle::Fault(error)) => return Err(error),
        }
    }
    tokio::join!(
        reconcile(core),
        ask_docker(core),
        resolve(core),
        follow_secrets(core),
        follow_allowlist(core),
        crate::publish::publish(core),
        crate::vips::follow(core),
        crate::vips::keep(core),
        answer_benches(core)
    );
    bail!("the daemon's tasks ended")
}

/// What is in the secret's file; nothing when there is none.
async fn secret_text(core: &Core) -> anyhow::Result<Zeroizing<String>> {
    let path = &core.settings.secret_file;
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Zeroizing::default()),
        Err(error) => Err(error).with_context(|| format!("secret file {}", path.display())),
    }
}

fn secret_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Whether the file holds the secrets, so that none can be handed over.
pub(crate) async fn has_secret_file(core: &Core) -> bool {
    secret_text(core).await.is_ok_and(|text| secret_lines(&text).next().is_some())
}

/// The secrets, the preferred one first: the file's, one a line, else those that were handed over.
pub(crate) async fn secrets(core: &Core) -> anyhow::Result<Vec<ClusterSecret>> {
    let text = secret_text(core).await?;
    let secrets: Result<Vec<_>, _> = secret_lines(&text).map(ClusterSecret::parse).collect();
    let secrets = secrets.with_context(|| format!("secret file {}", core.settings.secret_file.display()))?;
    if secrets.is_empty() { Ok(core.store.secrets()?) } else { Ok(secrets) }
}

/// Whom to admit.
async fn admission(core: &Core) -> anyhow::Result<Admission> {
    let Some(path) = &core.settings.allowlist_file else { return Ok(Admission::Secret) };
    let text = tokio::fs::read_to_string(path).await;
    let text = text.with_context(|| format!("ADMISSION=allowlist: ALLOWLIST_FILE {}", path.display()))?;
    let mut list = BTreeSet::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(id) = line.split_whitespace().next() else { continue };
        let parsed = id.parse::<PeerId>();
        list.insert(parsed.map_err(|_| {
            anyhow::anyhow!(
                "{}: `{id}` is not a peer's id (`weft status` on that host shows it)",
                path.display()
            )
        })?);
    }
    Ok(Admission::Allowlist(list))
}

/// Router and node of a cluster; nothing else runs on them yet.
struct Traffic {
    node: node_thread::NodeHandle,
    ended: oneshot::Receiver<()>,
    router: Arc<Router>,
}

async fn carry(core: &Arc<Core>, secrets: Vec<ClusterSecret>, joining: bool) -> Result<Traffic, Obstacle> {
    let settings = &core.settings;
    let snapshots = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let queue = node_thread::Queue::new();
    let inlet = queue.inlet();
    let config =
        RouterConfig { n_workers: settings.n_workers, port: settings.port, ..RouterConfig::default() };
    let router = Router::start(config, Arc::clone(&snapshots), move |input| inlet.offer(input))?;
    let router = Arc::new(router);
    let config = NodeConfig {
        name: core.name(),
        secrets,
        joining,
        suite: settings.suite,
        incarnation: core.store.next_incarnation()?,
        addresses: core.addresses(),
        known: core.store.peers()?,
        admission: admission(core).await?,
        verdicts: core.store.verdicts()?,
        rekey_after: settings.rekey_after,
        key: core.store.identity()?,
    };
    let name = config.name.clone();
    let node = Node::new(config, Instant::now(), &mut rand::rng())?;
    let (id, port, suite) = (node.id(), settings.port, settings.suite);
    info!(%name, %id, port, %suite, joining, "node started");
    let (node, ended) =
        node_thread::spawn(node, queue, Arc::clone(&router), snapshots, Arc::clone(&core.store))?;
    Ok(Traffic { node, ended, router })
}

async fn start(core: &Arc<Core>) -> Result<(), Obstacle> {
    crate::machine::check()?;
    core.max_overlay_mtu().await.map_err(anyhow::Error::msg)?;
    let mut secrets = secrets(core).await?;
    if secrets.is_empty() {
        let wish = core.join.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(wish) = wish else { return Err(Obstacle::Waiting(NO_SECRET.to_owned())) };
        let result = join(core, &wish).await;
        let told = result.as_ref().map(ClusterSecret::fingerprint).map_err(|error| format!("{error:#}"));
        // Whoever asked may have gone.
        let _ = wish.done.send(told);
        match result {
            Ok(secret) => secrets.push(secret),
            Err(error) => return Err(Obstacle::Waiting(format!("not joined: {error:#}. {NO_SECRET}"))),
        }
    }
    let fingerprint = secrets.first().map(ClusterSecret::fingerprint).unwrap_or_default();
    let Traffic { node, router, .. } = carry(core, secrets, false).await?;
    let running = Arc::new(Running { node, router, fingerprint });
    let known = core.store.services()?;
    running.node.call(move |node, now| node.remember_services(known, now)).await;
    restore(core, &running).await;
    let seeds = core.discovered();
    running.node.call(move |node, now| seeds.into_iter().for_each(|seed| node.add_seed(seed, now))).await;
    core.running.store(Some(running));
    core.set_faults(Vec::new());
    core.guard_bridges().await;
    Ok(())
}

/// Asks the host of the wish for the cluster's secret, and keeps it.
async fn join(core: &Arc<Core>, wish: &JoinWish) -> anyhow::Result<ClusterSecret> {
    let host = &wish.host.host;
    let port = wish.host.port.unwrap_or(core.settings.port);
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let addresses: Vec<SocketAddr> = found.with_context(|| format!("host `{host}`"))?.collect();
    let traffic = match carry(core, vec![wish.token.clone()], true).await {
        Ok(traffic) => traffic,
        Err(Obstacle::Fault(error)) => return Err(error),
        Err(Obstacle::Waiting(text)) => bail!(text),
    };
    let mut events = traffic.node.events();
    traffic.node.call(move |node, now| addresses.into_iter().for_each(|a| node.add_seed(a, now))).await;
    let welcome = async {
        loop {
            match events.recv().await {
                Ok(Event::Welcome(secret)) => break Some(secret),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => break None,
                _ => {}
            }
        }
    };
    let secret = tokio::time::timeout(JOIN_LIMIT, welcome).await;
    // The port must be free for the router of the cluster.
    let Traffic { node, ended, router } = traffic;
    node.stop();
    if ended.await.is_err() {
        warn!("the node's thread ended badly");
    }
    drop(router);
    let secret = secret.ok().flatten().with_context(|| {
        format!(
            "{host} does not answer on UDP port {port}: check the address, that the port is open both ways, that SUITE \
             is the same, and that the token is neither used nor expired (`weft token` on {host} makes another)"
        )
    })?;
    let kept = Changes::default().set_secrets(std::slice::from_ref(&secret)).put_seed(&wish.host.to_string());
    core.write(kept).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(secret)
}

/// Brings up what Docker asked for before the daemon was away, adopting the links that are there.
async fn restore(core: &Core, running: &Running) {
    let found = match core.links.inventory().await {
        Ok(inventory) => inventory.endpoints,
        Err(error) => return warn!(%error, "links not adopted"),
    };
    let mut topology = core.topology.write().await;
    let topology = &mut *topology;
    for network in topology.networks.values_mut() {
        let docker_id = network.record.network.network_id.clone();
        let endpoints = topology.endpoints.values().filter(|e| e.record.endpoint.network_id == docker_id);
        // Without its links an endpoint's container is gone; it is left to the collection of garbage.
        let endpoints: Vec<_> =
            endpoints.filter(|e| found.iter().any(|f| f.id.0 == e.record.endpoint.endpoint_id)).collect();
        if endpoints.is_empty() || !network.record.network.options.faults.is_empty() {
            network.empty_since = Some(Instant::now());
            continue;
        }
        if let Err(error) = core.bring_up(running, network).await {
            warn!(network = %docker_id, %error, "network not brought up again");
            continue;
        }
        let Some(place) = network.place() else { continue };
        for endpoint in endpoints {
            if let Err(error) = core.connect(running, place, &endpoint.record).await {
                warn!(endpoint = %endpoint.record.endpoint.endpoint_id, %error, "endpoint not adopted");
            }
        }
    }
}

/// Compares links and rules with the records, for ever.
async fn reconcile(core: &Core) {
    let mut interval = tokio::time::interval(RECONCILE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        collect_garbage(core).await;
        core.guard_bridges().await;
        core.guard_endpoints().await;
        // What many containers took that came or went at once.
        weft_sys::heap::trim();
    }
}

/// Removes what dockerd left behind when it died: endpoints whose container is gone, and networks without endpoints.
pub(crate) async fn collect_garbage(core: &Core) {
    let now = Instant::now();
    // One whose links are made while they are listed is not in the list, and may be done when it is looked at.
    let made: Vec<String> = {
        let topology = core.topology.read().await;
        let made = topology.endpoints.iter().filter(|(_, endpoint)| endpoint.making.strong_count() == 0);
        made.map(|(id, _)| id.clone()).collect()
    };
    // It waits for calls that change links, for which dockerd's other calls need not wait.
    let inventory = match core.links.inventory().await {
        Ok(inventory) => inventory,
        Err(error) => return warn!(%error, "links not compared with records"),
    };
    let mut topology = core.topology.write().await;
    for id in made {
        let found = inventory.endpoints.iter().find(|f| f.id.0 == id);
        let Some(endpoint) = topology.endpoints.get_mut(&id) else { continue };
        let forgotten = match found {
            None => endpoint.making.strong_count() == 0,
            Some(found) if !found.unclaimed => {
                endpoint.unclaimed_since = None;
                false
            }
            Some(_) => now >= *endpoint.unclaimed_since.get_or_insert(now) + UNCLAIMED_HOLD,
        };
        if forgotten {
            info!(endpoint = %id, "endpoint collected: its container is gone");
            if let Err(error) = core.drop_endpoint(&mut topology, &id).await {
                warn!(endpoint = %id, %error, "endpoint not collected");
            }
        }
    }
    for found in &inventory.endpoints {
        if !topology.endpoints.contains_key(&found.id.0)
            && let Err(error) = core.links.remove_endpoint(&found.id).await
        {
            warn!(link = %found.host, %error, "unknown endpoint not removed");
        }
    }
    collect_networks(core, &mut topology, now).await;
    for found in &inventory.networks {
        if !topology.networks.values().any(|n| n.id == found.id)
            && let Err(error) = core.links.remove_network(found.id).await
        {
            warn!(link = %found.bridge, %error, "unknown network not removed");
        }
    }
    for stray in &inventory.strays {
        let in_use = topology.networks.values().any(|n| n.up.is_some() && Some(n.id) == stray.tap_of);
        if !in_use && let Err(error) = core.links.remove_stray(&stray.name).await {
            warn!(link = %stray.name, %error, "stray link not removed");
        }
    }
}

async fn collect_networks(core: &Core, topology: &mut crate::core::Topology, now: Instant) {
    let empty = |n: &&mut Network| n.empty_since.is_some_and(|since| now >= since + EMPTY_NETWORK_HOLD);
    let mut forgotten = Vec::new();
    for network in topology.networks.values_mut().filter(empty) {
        let docker_id = network.record.network.network_id.clone();
        if network.up.is_some() {
            info!(network = %docker_id, "links removed: the network has no container on this host");
            if let Err(error) = core.take_down(network).await {
                warn!(network = %docker_id, %error, "links not removed");
                continue;
            }
        }
        // In a swarm dockerd creates the network again before its next container; outside it does not.
        if core.settings.plugin {
            forgotten.push(docker_id);
        }
    }
    for docker_id in forgotten {
        match core.write(Changes::default().remove_network(&docker_id)).await {
            Ok(()) => drop(topology.networks.remove(&docker_id)),
            Err(error) => warn!(network = %docker_id, %error, "network not forgotten"),
        }
    }
}

/// Asks Docker for the swarm's hosts, where its socket was granted.
async fn ask_docker(core: &Core) {
    let socket = &core.settings.docker_socket;
    if !docker::is_granted(socket) {
        info!(socket = %socket.display(), "Docker's socket is not granted: hosts are found by PEERS and by dockerd's hints");
        return std::future::pending().await;
    }
    let mut interval = tokio::time::interval(DOCKER_INTERVAL);
    loop {
        interval.tick().await;
        match docker::swarm_view(socket).await {
            Ok(view) => {
                core.docker_fault.set(None);
                if let Some(own) = view.own {
                    core.set_advertised(own).await;
                }
                let port = core.settings.port;
                core.discover(view.others.into_iter().map(|a| SocketAddr::new(a, port)).collect()).await;
            }
            Err(error) => {
                core.docker_fault.set(Some(error.to_string()));
                debug!(%error, "Docker not asked");
            }
        }
    }
}

/// Looks up the names in PEERS and those of `weft join` and `weft connect`, again and again, since addresses behind a
/// name change.
async fn resolve(core: &Core) {
    let mut interval = tokio::time::interval(RESOLVE_INTERVAL);
    let mut seeds = BTreeSet::new();
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = core.seeds_changed.notified() => {}
        }
        let mut found = BTreeSet::new();
        let kept = core.store.seeds().unwrap_or_else(|error| {
            warn!(%error, "hosts of `weft join` and `weft connect` not known");
            Vec::new()
        });
        let kept = kept.iter().filter_map(|host| host.parse::<PeerAddress>().ok());
        let peers: Vec<PeerAddress> = core.settings.peers.iter().cloned().chain(kept).collect();
        for PeerAddress { host, port } in &peers {
            match tokio::net::lookup_host((host.as_str(), port.unwrap_or(core.settings.port))).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => warn!(%host, %error, "PEERS: name not found; it will be looked up again"),
            }
        }
        let gone: Vec<SocketAddr> = seeds.difference(&found).copied().collect();
        let new: Vec<SocketAddr> = found.difference(&seeds).copied().collect();
        seeds = found;
        let Some(running) = core.running.load_full() else { continue };
        let change = move |node: &mut Node, now| {
            gone.into_iter().for_each(|seed| node.remove_seed(seed));
            new.into_iter().for_each(|seed| node.add_seed(seed, now));
        };
        running.node.call(change).await;
    }
}

/// Takes in other secrets when they are handed over, or their file changes, while traffic is carried.
async fn follow_secrets(core: &Core) {
    let mut interval = tokio::time::interval(FILE_INTERVAL);
    let mut last: Vec<SecretId> = Vec::new();
    let problem = Fault::default();
    loop {
        tokio::select! {
            () = core.retry.notified() => {}
            _ = interval.tick() => {}
        }
        let Some(running) = core.running.load_full() else { continue };
        let read = secrets(core).await;
        note_read(&problem, "secrets", &read);
        let Ok(secrets) = read else { continue };
        let ids: Vec<SecretId> = secrets.iter().map(ClusterSecret::id).collect();
        if ids.is_empty() || ids == last {
            continue;
        }
        last = ids;
        let fingerprint = secrets.first().map(ClusterSecret::fingerprint).unwrap_or_default();
        running.node.call(move |node, now| node.set_secrets(secrets, now)).await;
        core.running.store(Some(Arc::new(Running {
            node: running.node.clone(),
            router: Arc::clone(&running.router),
            fingerprint,
        })));
    }
}

/// Takes in changes of the allowlist; while it cannot be read, the last one counts.
async fn follow_allowlist(core: &Core) {
    if core.settings.allowlist_file.is_none() {
        return std::future::pending().await;
    }
    let mut interval = tokio::time::interval(FILE_INTERVAL);
    let problem = Fault::default();
    loop {
        interval.tick().await;
        let Some(running) = core.running.load_full() else { continue };
        let read = admission(core).await;
        note_read(&problem, "allowlist", &read);
        if let Ok(admission) = read {
            running.node.call(move |node, now| node.set_admission(admission, now)).await;
        }
    }
}

async fn answer_benches(core: &Core) {
    if let Some(running) = core.running.load_full() {
        match crate::bench::answer(core, &running).await {}
    }
}

/// Says once that a file of the operator cannot be read, so that what it said before still counts.
fn note_read<T>(problem: &Fault, what: &str, read: &anyhow::Result<T>) {
    let fault = read.as_ref().err().map(|error| format!("{error:#}"));
    if problem.set(fault.clone())
        && let Some(fault) = fault
    {
        warn!("{what} not changed: {fault}");
    }
}
