//! What facts mean.

use serde::Serialize;
use weft_api::{
    CHECK_DOCKER, CHECK_FIREWALL, CHECK_GUARD, CHECK_HTTP, CHECK_STATE, CheckStatus, PeerState, PeerStatus,
    Status,
};

use super::facts::{Facts, Plugin, Swarm};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Warn,
    /// Something does not work.
    Fault,
    /// It could not be looked at, and why.
    Skipped,
}

impl Level {
    /// As it is printed.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fault => "FAULT",
            Self::Skipped => "-",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) level: Level,
    /// What was looked at.
    pub(crate) check: &'static str,
    /// What was found; one line.
    pub(crate) text: String,
    /// The command that mends it, or what to do.
    pub(crate) fix: Option<String>,
}

fn ok(check: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, check, text: text.into(), fix: None }
}

fn skipped(check: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Skipped, check, text: text.into(), fix: None }
}

fn warn(check: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { level: Level::Warn, check, text: text.into(), fix: Some(fix.into()) }
}

fn fault(check: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { level: Level::Fault, check, text: text.into(), fix: Some(fix.into()) }
}

/// All findings, in the order in which one thing needs another.
pub(crate) fn of(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    kernel(facts, &mut found);
    plugin(facts, &mut found);
    let daemon = match &facts.daemon {
        Ok(daemon) => daemon,
        Err(problem) => {
            found.push(fault("daemon", problem.clone(), daemon_fix(facts.plugins.as_deref())));
            return found;
        }
    };
    let status = &daemon.status;
    found.push(ok("daemon", format!("weft {} answers at {}", status.version, daemon.socket.display())));
    readiness(status, &mut found);
    checks(status, facts, &mut found);
    peers(status, &mut found);
    secrets(status, &mut found);
    addresses(status, &mut found);
    services(status, facts.swarm, &mut found);
    mtu(status, &mut found);
    offloads(status, &mut found);
    ipv6(facts, status, &mut found);
    found.push(skipped(
        "clock",
        "peers do not tell their time; only the order of `weft revoke` and `weft allow` needs it",
    ));
    found
}

fn kernel(facts: &Facts, found: &mut Vec<Finding>) {
    if facts.tun {
        found.push(ok("tun", "/dev/net/tun is there"));
    } else {
        found.push(fault("tun", "there is no /dev/net/tun, so no network can be made", "modprobe tun"));
    }
    let missing = facts.modules.iter().filter(|(_, there)| *there == Some(false));
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    let unknown: Vec<&str> =
        facts.modules.iter().filter(|(_, there)| there.is_none()).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        let names = missing.join(" ");
        found.push(fault("kernel", format!("the kernel has no {names}"), format!("modprobe --all {names}")));
    } else if !unknown.is_empty() {
        found.push(skipped("kernel", format!("cannot tell whether the kernel has {}", unknown.join(", "))));
    } else {
        let names: Vec<&str> = facts.modules.iter().map(|(name, _)| *name).collect();
        found.push(ok("kernel", format!("it has {}", names.join(", "))));
    }
}

fn plugin(facts: &Facts, found: &mut Vec<Finding>) {
    let Some(plugins) = &facts.plugins else {
        found.push(skipped(
            "plugin",
            "dockerd cannot be asked: run this as root, on a host where dockerd runs",
        ));
        return;
    };
    match (plugins.iter().find(|plugin| !plugin.enabled), plugins.first()) {
        (Some(off), _) => found.push(fault(
            "plugin",
            format!("{} is installed and not enabled", off.name),
            format!("docker plugin enable {}", off.name),
        )),
        (None, Some(on)) => found.push(ok("plugin", format!("{} is enabled", on.name))),
        (None, None) if facts.daemon.is_ok() => {
            found.push(ok("plugin", "none is installed: weft runs as a daemon of the host"));
        }
        (None, None) => found.push(warn("plugin", "none is installed", "deploy/install.sh")),
    }
}

fn daemon_fix(plugins: Option<&[Plugin]>) -> String {
    match plugins.and_then(<[Plugin]>::first) {
        Some(plugin) if plugin.enabled => {
            format!(
                "docker plugin disable --force {0} && docker plugin enable {0}; what it says is in dockerd's log",
                plugin.name
            )
        }
        Some(plugin) => format!("docker plugin enable {}", plugin.name),
        None => "systemctl start weft, or deploy/install.sh where a swarm uses it; as root".to_owned(),
    }
}

fn readiness(status: &Status, found: &mut Vec<Finding>) {
    if status.ready {
        found.push(ok("ready", "traffic is carried"));
    } else if status.secret_fingerprint.is_none() && status.faults.iter().any(|text| text.contains("secret"))
    {
        let fix = "weft init on the first host of a cluster; on others: weft join FIRST-HOST TOKEN (`weft token` there)";
        found.push(fault("ready", "there is no cluster secret, so no traffic is carried", fix));
    } else {
        let fix = "mend what it says: weft tries again within seconds";
        found.push(fault("ready", status.faults.join("; "), fix));
        return;
    }
    // What the checks below say again is left to them.
    let told: Vec<&String> = status.checks.iter().filter_map(|check| check.fault.as_ref()).collect();
    for text in status.faults.iter().filter(|text| status.ready && !told.contains(text)) {
        let fix =
            if text.contains("revoked") { "weft allow NAME on another host" } else { "mend what it says" };
        found.push(fault("host", text.clone(), fix));
    }
}

/// The daemon's checks that have findings of their own.
const CHECKS: [&str; 5] = [CHECK_FIREWALL, CHECK_GUARD, CHECK_DOCKER, CHECK_HTTP, CHECK_STATE];

fn checks(status: &Status, facts: &Facts, found: &mut Vec<Finding>) {
    for CheckStatus { name, fault: problem } in &status.checks {
        let check = CHECKS.into_iter().find(|check| check == name).unwrap_or("daemon");
        let Some(problem) = problem else {
            let text = match check {
                CHECK_FIREWALL if facts.bridge_nf == Some(false) => {
                    "frames within bridges do not pass iptables"
                }
                CHECK_FIREWALL => "the rule that lets frames pass within weft's bridges is in place",
                CHECK_GUARD => "containers are held to their addresses",
                CHECK_DOCKER => "Docker is asked for the swarm's hosts",
                CHECK_HTTP => "health, metrics and the live map are served",
                CHECK_STATE => "what Docker asks for is kept for the next start",
                _ => name,
            };
            found.push(ok(check, text));
            continue;
        };
        found.push(match check {
            CHECK_FIREWALL => {
                let fix = "apt-get install iptables; iptables -S DOCKER-USER shows the rules, which weft sets again every 5 s";
                fault(check, problem.clone(), fix)
            }
            CHECK_GUARD => {
                fault(check, problem.clone(), "modprobe nf_tables: the kernel needs CONFIG_NF_TABLES_NETDEV")
            }
            CHECK_DOCKER => warn(
                check,
                problem.clone(),
                "docker plugin set weft:latest docker.sock.source=/run/docker.sock while it is disabled; or set PEERS",
            ),
            CHECK_HTTP => warn(check, problem.clone(), "docker plugin set weft:latest HTTP=127.0.0.1:OTHER-PORT, or HTTP=off"),
            CHECK_STATE => fault(check, problem.clone(), "df shows what is full; then ask Docker again for what failed"),
            _ => fault(check, problem.clone(), "mend what it says"),
        });
    }
}

fn peer_name(peer: &PeerStatus) -> String {
    let address = || peer.address.map(|address| address.to_string());
    peer.name.clone().or_else(address).or_else(|| peer.id.clone()).unwrap_or_else(|| "a peer".to_owned())
}

fn peers(status: &Status, found: &mut Vec<Finding>) {
    let port = status.listen.first().map_or(6783, std::net::SocketAddr::port);
    if status.peers.is_empty() && status.ready {
        let fix = "weft connect OTHER-HOST; in a swarm, grant docker.sock or set PEERS";
        found.push(warn("peers", "no other host is known", fix));
    }
    let n_up = status.peers.iter().filter(|peer| peer.state == PeerState::Connected).count();
    if n_up > 0 {
        found.push(ok("peers", format!("{n_up} of {} answer", status.peers.len())));
    }
    for peer in status.peers.iter().filter(|peer| peer.state != PeerState::Connected) {
        let name = peer_name(peer);
        let problem = peer.problem.as_deref();
        if peer.state == PeerState::Connecting && problem.is_none() {
            let fix = "weft doctor again in a few seconds";
            found.push(warn("peers", format!("{name} has not answered yet"), fix));
            continue;
        }
        let fix = match problem {
            Some(text) if text.contains("refuses this host") => "do what it says, on that host".to_owned(),
            _ => format!(
                "on both hosts: iptables -I INPUT -p udp --dport {port} -j ACCEPT (and whatever firewall lies between); \
                 there: weft doctor; `weft status` must show the same `secret` and `suite` on both"
            ),
        };
        found.push(fault("peers", format!("{name}: {}", problem.unwrap_or("is down")), fix));
    }
    for refused in &status.refused {
        let text = format!("{} at {} is not admitted: {}", refused.name, refused.address, refused.reason);
        found.push(warn(
            "admission",
            text,
            format!("weft forget {} if that host was set up anew", refused.id),
        ));
    }
}

fn secrets(status: &Status, found: &mut Vec<Finding>) {
    let Some(fingerprint) = &status.secret_fingerprint else { return };
    let others = status.peers.iter().filter(|peer| peer.same_secret == Some(false));
    let others: Vec<String> = others.map(peer_name).collect();
    if others.is_empty() {
        found.push(ok("secret", format!("no peer prefers another than {fingerprint}")));
    } else {
        let text = format!(
            "a rotation is under way: {} prefer another secret than {fingerprint}",
            others.join(", ")
        );
        let fix = "weft secret rotate prefer on every host that has not, then weft secret rotate drop on all";
        found.push(warn("secret", text, fix));
    }
}

fn addresses(status: &Status, found: &mut Vec<Finding>) {
    for one in &status.duplicates {
        let network = one.network.get(..12).unwrap_or(&one.network);
        let text = format!(
            "{} and {} both announce {} in network {network}; {} has it",
            one.keeper, one.loser, one.address, one.keeper
        );
        let fix = format!(
            "remove the container with it on {}; outside a swarm give each host an --ip-range of its own",
            one.loser
        );
        found.push(fault("addresses", text, fix));
    }
    if status.duplicates.is_empty() && status.ready {
        found.push(ok("addresses", "none is announced twice"));
    }
}

fn services(status: &Status, swarm: Option<Swarm>, found: &mut Vec<Finding>) {
    if !status.ready {
        return;
    }
    let state = status.services_state.as_str();
    let grant = "docker plugin disable --force weft:latest; docker plugin set weft:latest \
                 docker.sock.source=/run/docker.sock; docker plugin enable weft:latest";
    let is_granted = !status.checks.iter().any(|check| check.name == CHECK_DOCKER && check.fault.is_some());
    let fix = match swarm {
        Some(Swarm::Manager) if !is_granted => grant.to_owned(),
        _ => {
            format!("weft doctor on the swarm's managers; on one whose docker-socket is not granted: {grant}")
        }
    };
    match (state.split(':').next().unwrap_or_default(), swarm) {
        ("on", _) => found.push(ok("services", state)),
        ("off", Some(Swarm::None)) => {
            found.push(ok("services", "this host is in no swarm, so there are none"))
        }
        ("off" | "as last known", Some(Swarm::Worker | Swarm::Manager)) => {
            let text = format!("{state}; names of services lead nowhere, `tasks.NAME` works");
            found.push(warn("services", text, fix));
        }
        _ => found.push(skipped("services", "dockerd cannot be asked whether this host is in a swarm")),
    }
    for text in &status.service_faults {
        let fix =
            "weft status shows it again when it is mended; deploy/install.sh grants what the plugin needs";
        found.push(warn("services", text.clone(), fix));
    }
}

fn mtu(status: &Status, found: &mut Vec<Finding>) {
    let Some(most) = status.max_overlay_mtu else {
        found.push(skipped("mtu", "the underlay's MTU is not known"));
        return;
    };
    let too_large = status.networks.iter().filter_map(|network| Some((network, network.mtu?)));
    let too_large: Vec<_> = too_large.filter(|(_, mtu)| *mtu > most).collect();
    if too_large.is_empty() {
        found.push(ok(
            "mtu",
            format!("the underlay carries containers' packets of {most} bytes, and none are larger"),
        ));
    }
    for (network, mtu) in too_large {
        let id = network.id.get(..12).unwrap_or(&network.id);
        let text =
            format!("containers of network {id} have an MTU of {mtu} bytes, and the underlay carries {most}");
        let fix = "raise the MTU of the host's interface again, or recreate the network's containers";
        found.push(fault("mtu", text, fix));
    }
    for network in &status.networks {
        for text in &network.faults {
            let id = network.id.get(..12).unwrap_or(&network.id);
            found.push(fault(
                "network",
                format!("{id}: {text}"),
                "docker network rm it, and create it with options that are known",
            ));
        }
    }
}

fn offloads(status: &Status, found: &mut Vec<Finding>) {
    if !status.ready {
        return;
    }
    let has = |name: &str| status.counters.get(name).is_none_or(|n| *n > 0);
    let missing = [("udp_segmentation_offload", "UDP GSO"), ("udp_receive_offload", "UDP GRO")];
    let missing: Vec<&str> =
        missing.into_iter().filter(|(name, _)| !has(name)).map(|(_, what)| what).collect();
    if missing.is_empty() {
        found.push(ok("offloads", "the kernel sends and receives trains of datagrams in one call"));
    } else {
        let text = format!("the kernel has no {}, so transfers are slower", missing.join(" and no "));
        found.push(warn("offloads", text, "a kernel of 5.0 or later"));
    }
}

fn ipv6(facts: &Facts, status: &Status, found: &mut Vec<Finding>) {
    for bridge in &facts.ipv6_bridges {
        let text = format!(
            "this host has an IPv6 address on {bridge}, so containers can reach it past Docker's rules"
        );
        found.push(fault("ipv6", text, format!("sysctl -w net.ipv6.conf.{bridge}.disable_ipv6=1")));
    }
    if facts.ipv6_bridges.is_empty() && status.networks.iter().any(|network| network.bridge.is_some()) {
        found.push(ok("ipv6", "this host itself has no IPv6 address on weft's bridges"));
    }
}

#[cfg(test)]
mod tests;
