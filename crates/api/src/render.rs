//! A status as text for people.

use std::fmt::Write;
use std::time::Duration;

use crate::{EndpointStatus, NetworkStatus, PathKind, PeerStatus, RouteStatus, ServiceStatus, Status};

/// The status as text: a head, what is wrong, then tables of peers, networks, endpoints, counters and drops.
///
/// Columns are aligned with spaces; there are no colours. Ends in a line feed.
#[must_use]
pub fn render_status(status: &Status) -> String {
    let mut out = String::new();
    head(&mut out, status);
    for fault in &status.faults {
        line(&mut out, format_args!("  fault: {fault}"));
    }
    peers_section(&mut out, status);
    networks_section(&mut out, status);
    section(&mut out, "ENDPOINTS", &endpoints(&status.endpoints));
    duplicates(&mut out, status);
    services_section(&mut out, status);
    section(&mut out, "COUNTERS", &numbers(&status.counters));
    section(&mut out, "DROPS", &numbers(&status.drops));
    out
}

/// The table of peers, with what is wrong with them, and those that were refused or revoked.
#[must_use]
pub fn render_peers(status: &Status) -> String {
    alone(status, peers_section)
}

/// The table of networks, with what is wrong with them.
#[must_use]
pub fn render_networks(status: &Status) -> String {
    alone(status, networks_section)
}

/// The table of endpoints, and addresses that two peers announce.
#[must_use]
pub fn render_endpoints(status: &Status) -> String {
    alone(status, |out, status| {
        section(out, "ENDPOINTS", &endpoints(&status.endpoints));
        duplicates(out, status);
    })
}

/// The table of services, and whether they are reached.
#[must_use]
pub fn render_services(status: &Status) -> String {
    alone(status, services_section)
}

/// The table of where forwarding sends what.
#[must_use]
pub fn render_routes(list: &[RouteStatus]) -> String {
    let mut out = String::new();
    section(&mut out, "ROUTES", &routes(list));
    out.trim_start_matches('\n').to_owned()
}

/// A section without the empty line before it.
fn alone(status: &Status, write: fn(&mut String, &Status)) -> String {
    let mut out = String::new();
    write(&mut out, status);
    out.trim_start_matches('\n').to_owned()
}

fn peers_section(out: &mut String, status: &Status) {
    section(out, "PEERS", &peers(&status.peers));
    for peer in &status.peers {
        if let Some(problem) = &peer.problem {
            line(out, format_args!("  {}: {problem}", peer_name(peer)));
        }
    }
    for refused in &status.refused {
        let (name, address) = (&refused.name, refused.address);
        line(
            out,
            format_args!("  refused: {name} ({}) at {address}: {}", short(&refused.id), refused.reason),
        );
    }
    for judged in status.judged.iter().filter(|j| j.judgement == crate::Judgement::Revoked) {
        line(out, format_args!("  revoked: {} ({}), on {}", judged.name, short(&judged.id), judged.by));
    }
}

fn networks_section(out: &mut String, status: &Status) {
    section(out, "NETWORKS", &networks(&status.networks));
    for network in &status.networks {
        for fault in &network.faults {
            line(out, format_args!("  {}: {fault}", short(&network.id)));
        }
    }
}

fn duplicates(out: &mut String, status: &Status) {
    for duplicate in &status.duplicates {
        let crate::DuplicateStatus { network, address, keeper, loser } = duplicate;
        let network = short(network);
        line(out, format_args!("  {network}: {keeper} and {loser} both announce {address}; {keeper} has it"));
    }
}

fn services_section(out: &mut String, status: &Status) {
    section(out, "SERVICES", &services(&status.services));
    if !status.services_state.is_empty() {
        line(out, format_args!("  services: {}", status.services_state));
    }
    for fault in &status.service_faults {
        line(out, format_args!("  {fault}"));
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}

fn head(out: &mut String, status: &Status) {
    let listen = status.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let secret = status.secret_fingerprint.as_deref().unwrap_or("none");
    line(out, format_args!("weft {}  {}", status.version, if status.ready { "ready" } else { "NOT READY" }));
    line(out, format_args!("  host    {} ({})", status.name, short(&status.peer_id)));
    line(out, format_args!("  listen  {}", if listen.is_empty() { "-" } else { &listen }));
    line(out, format_args!("  suite   {}", status.suite));
    line(out, format_args!("  secret  {secret}"));
    if let Some(http) = status.http {
        line(out, format_args!("  http    http://{http}/"));
    }
}

type Row = Vec<String>;

/// A section with a table, its first row the heading; a heading without columns is not printed.
fn section(out: &mut String, title: &str, rows: &[Row]) {
    line(out, format_args!("\n{title}"));
    if rows.len() < 2 {
        return line(out, format_args!("  none"));
    }
    *out += &render_table(rows);
}

/// Rows in aligned columns, a line each, two spaces before each column; empty rows are left out.
#[must_use]
pub fn render_table(rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..n_columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows.iter().filter(|row| !row.is_empty()) {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "  {cell:<width$}");
        }
        line(&mut out, format_args!("{}", text.trim_end()));
    }
    out
}

fn heading(names: &[&str]) -> Row {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn peers(peers: &[PeerStatus]) -> Vec<Row> {
    let names = [
        "NAME",
        "ID",
        "STATE",
        "ADDRESS",
        "PATH",
        "RTT",
        "PATH MTU",
        "SESSION",
        "SEEN",
        "RECEIVED (DATAGRAMS)",
        "SENT (DATAGRAMS)",
    ];
    let row = |peer: &PeerStatus| {
        vec![
            peer.name.clone().unwrap_or_else(dash),
            peer.id.as_deref().map_or_else(dash, short),
            peer.state.to_string(),
            peer.address.map_or_else(dash, |address| address.to_string()),
            render_path(peer.path, peer.via.as_deref()),
            render_rtt(peer.rtt_us.map(Duration::from_micros)),
            peer.path_mtu.map_or_else(dash, |mtu| mtu.to_string()),
            peer.session_age.map_or_else(dash, span),
            peer.last_seen.map_or_else(dash, |seen| format!("{} ago", span(seen))),
            traffic(peer.rx_bytes, peer.rx_datagrams),
            traffic(peer.tx_bytes, peer.tx_datagrams),
        ]
    };
    std::iter::once(heading(&names)).chain(peers.iter().map(row)).collect()
}

/// The way to a peer in a word or two: `direct`, `via host-c`; `-` when there is none.
#[must_use]
pub fn render_path(path: Option<PathKind>, via: Option<&str>) -> String {
    match (via, path) {
        (Some(via), _) => format!("via {via}"),
        (None, Some(path)) => path.to_string(),
        (None, None) => dash(),
    }
}

/// A round trip, to the microsecond: `0.412 ms`; `-` when it is not known.
#[must_use]
pub fn render_rtt(rtt: Option<Duration>) -> String {
    rtt.map_or_else(dash, |rtt| format!("{}.{:03} ms", rtt.as_millis(), rtt.subsec_micros() % 1000))
}

fn networks(networks: &[NetworkStatus]) -> Vec<Row> {
    let names = ["ID", "WIRE ID", "MTU", "BRIDGE", "LOCAL", "REMOTE", "PEERS"];
    let row = |network: &NetworkStatus| {
        vec![
            short(&network.id),
            network.wire_id.clone(),
            network.mtu.map_or_else(dash, |mtu| mtu.to_string()),
            network.bridge.clone().unwrap_or_else(dash),
            network.n_local_endpoints.to_string(),
            network.n_remote_endpoints.to_string(),
            if network.peers.is_empty() { dash() } else { network.peers.join(" ") },
        ]
    };
    std::iter::once(heading(&names)).chain(networks.iter().map(row)).collect()
}

fn endpoints(endpoints: &[EndpointStatus]) -> Vec<Row> {
    let row = |endpoint: &EndpointStatus| {
        let addresses = endpoint.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        vec![
            short(&endpoint.id),
            short(&endpoint.network),
            endpoint.mac.clone(),
            if addresses.is_empty() { dash() } else { addresses.join(" ") },
            if endpoint.local { format!("{} (here)", endpoint.host) } else { endpoint.host.clone() },
        ]
    };
    let names = heading(&["ID", "NETWORK", "MAC", "ADDRESSES", "HOST"]);
    std::iter::once(names).chain(endpoints.iter().map(row)).collect()
}

fn routes(routes: &[RouteStatus]) -> Vec<Row> {
    let row = |route: &RouteStatus| {
        let addresses = route.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        vec![
            short(&route.network),
            route.mac.clone(),
            if addresses.is_empty() { dash() } else { addresses.join(" ") },
            if route.local { format!("{} (here)", route.host) } else { route.host.clone() },
            match (route.local, route.path) {
                (true, _) => "local".to_owned(),
                (false, None) => "NONE".to_owned(),
                (false, path) => render_path(path, route.via.as_deref()),
            },
            route.address.map_or_else(dash, |address| address.to_string()),
            route.path_mtu.map_or_else(dash, |mtu| mtu.to_string()),
        ]
    };
    let names = heading(&["NETWORK", "MAC", "ADDRESSES", "HOST", "PATH", "TO", "PATH MTU"]);
    std::iter::once(names).chain(routes.iter().map(row)).collect()
}

fn services(services: &[ServiceStatus]) -> Vec<Row> {
    let row = |service: &ServiceStatus| {
        let n_tasks = service.tasks.len();
        vec![
            service.name.clone(),
            short(&service.network),
            service.vip.to_string(),
            match service.n_unreachable {
                0 => n_tasks.to_string(),
                n => format!("{n_tasks} ({n} unreachable)"),
            },
            service.from.clone(),
        ]
    };
    let names = heading(&["NAME", "NETWORK", "ADDRESS", "TASKS", "FROM"]);
    std::iter::once(names).chain(services.iter().map(row)).collect()
}

/// Under an empty heading, which is not printed. Zeros say nothing, and are left out.
fn numbers(map: &std::collections::BTreeMap<String, u64>) -> Vec<Row> {
    let counted = map.iter().filter(|(_, n)| **n > 0);
    std::iter::once(Row::new()).chain(counted.map(|(name, n)| vec![name.clone(), n.to_string()])).collect()
}

fn dash() -> String {
    "-".to_owned()
}

fn peer_name(peer: &PeerStatus) -> String {
    let address = || peer.address.map(|address| address.to_string());
    peer.name.clone().or_else(address).or_else(|| peer.id.as_deref().map(short)).unwrap_or_else(dash)
}

/// Enough of an id to tell it, as Docker shortens its own.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// The two greatest units: `5s`, `3m12s`, `2h05m`, `4d03h`.
fn span(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

fn traffic(n_bytes: u64, n_datagrams: u64) -> String {
    format!("{} ({n_datagrams})", bytes(n_bytes))
}

/// Powers of 1024 with one decimal, rounded down.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut tenths = u128::from(n) * 10;
    let mut unit = "B";
    for next in UNITS {
        if tenths < 10_240 {
            break;
        }
        (tenths, unit) = (tenths / 1024, next);
    }
    if unit == "B" { format!("{n} B") } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests;
