//! The status in Prometheus' text format (version 0.0.4).
//!
//! What is counted lives in the router, the node and the status already, so nothing is registered anywhere: a page is
//! written from one [`Status`] when it is asked for (docs/decisions/0012-metrics.md). Names, labels and meanings are in
//! docs/metrics.md, which a test compares with this.

mod page;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_api::{PeerState, PeerStatus, Status};
use weft_dataplane::DropReason;

use self::page::{Family, Kind, Page};

/// Upper bounds of the histogram of dockerd's calls, in milliseconds: close to each other where a call is that makes links,
/// wide for one that waits for something, and the 25 s after which dockerd is answered anyway.
const BOUNDS_MS: [u32; 9] = [1, 5, 10, 20, 50, 100, 500, 2500, 25_000];

/// Why a container's frame was dropped on its veth, by the rules against spoofing.
const GUARD_DROPS: [&str; 4] = ["container_mac", "container_arp", "container_ip", "container_other"];

/// How long dockerd's calls took, and how many failed.
#[derive(Default)]
pub(crate) struct DriverCalls {
    by_path: [Calls; N_CALLS],
    /// CreateEndpoint and Join of one endpoint together.
    set_up: Times,
}

const N_CALLS: usize = 16;

#[derive(Default)]
struct Calls {
    times: Times,
    n_failed: AtomicU64,
}

/// A histogram.
#[derive(Default)]
struct Times {
    /// Not summed up: one counter a bound, and one above all.
    n_within: [AtomicU64; BOUNDS_MS.len() + 1],
    micros: AtomicU64,
}

impl DriverCalls {
    /// Counts a call by its path.
    pub(crate) fn count(&self, path: &str, elapsed: Duration, failed: bool) {
        let place = weft_driver::paths().iter().position(|known| *known == path);
        let Some(calls) = place.and_then(|place| self.by_path.get(place)) else { return };
        calls.times.count(elapsed);
        calls.n_failed.fetch_add(failed.into(), Ordering::Relaxed);
    }

    /// Counts an endpoint that a container has got.
    pub(crate) fn count_set_up(&self, elapsed: Duration) {
        self.set_up.count(elapsed);
    }
}

impl Times {
    fn count(&self, elapsed: Duration) {
        let within = |bound: &u32| elapsed <= Duration::from_millis(u64::from(*bound));
        let bucket = BOUNDS_MS.iter().position(within).unwrap_or(BOUNDS_MS.len());
        self.n_within[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(elapsed.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn is_empty(&self) -> bool {
        self.n_within.iter().all(|n| n.load(Ordering::Relaxed) == 0)
    }

    /// Writes the samples into a family.
    fn write(&self, family: &mut Family<'_>, labels: &[(&str, &str)]) {
        let bounds = BOUNDS_MS.iter().map(|ms| (f64::from(*ms) / 1000.0).to_string());
        let mut count = 0;
        for (bound, n) in bounds.chain(["+Inf".to_owned()]).zip(&self.n_within) {
            count += n.load(Ordering::Relaxed);
            family.part("_bucket", &[labels, &[("le", &bound)]].concat(), count);
        }
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64();
        family.part("_sum", labels, sum);
        family.part("_count", labels, count);
    }
}

/// What the kernel says of this process; nothing where it does not.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// Bytes of memory in use.
    resident_len: Option<u64>,
    /// Bytes that are allocated, with what threads keep for themselves.
    heap_len: Option<u64>,
    /// Time on processors.
    cpu: Option<Duration>,
    /// Open files.
    n_fds: Option<u64>,
}

impl Process {
    /// As it is now.
    pub(crate) fn now() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
        let n_fds = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
        Self {
            resident_len: read("status").and_then(|text| resident_len(&text)),
            heap_len: weft_sys::heap::in_use_len(),
            cpu: read("stat").and_then(|text| cpu(&text)),
            n_fds,
        }
    }
}

fn resident_len(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted after the name, which may hold anything. In hundredths of a second, as
/// the kernel shows them to programs on every processor that weft is built for.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// The page.
pub(crate) fn render(status: &Status, calls: &DriverCalls, process: &Process) -> String {
    let mut page = Page::default();
    state(&mut page, status);
    peers(&mut page, status);
    traffic(&mut page, status);
    driver(&mut page, calls);
    let help = "Memory that is allocated, with what threads keep for themselves.";
    page.value("weft_heap_bytes", Kind::Gauge, help, process.heap_len);
    page.value("process_resident_memory_bytes", Kind::Gauge, "Memory in use.", process.resident_len);
    let cpu = process.cpu.map(|cpu| cpu.as_secs_f64());
    page.value("process_cpu_seconds_total", Kind::Counter, "Time on processors.", cpu);
    page.value("process_open_fds", Kind::Gauge, "Open files.", process.n_fds);
    page.into_text()
}

fn state(page: &mut Page, status: &Status) {
    let counter = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    page.family("weft_build_info", Kind::Gauge, "1, with the version and the AEAD suite of the cluster.")
        .sample(&[("version", &status.version), ("suite", &status.suite)], 1);
    page.value("weft_ready", Kind::Gauge, "1 while traffic is carried.", Some(u8::from(status.ready)));
    page.value("weft_faults", Kind::Gauge, "Faults in the status.", Some(status.faults.len()));
    let mut family = page.family("weft_check_failed", Kind::Gauge, "1 while a check of the daemon fails.");
    for check in &status.checks {
        family.sample(&[("check", &check.name)], u8::from(check.fault.is_some()));
    }
    page.value("weft_networks", Kind::Gauge, "Networks on this host.", Some(status.networks.len()));
    let mut family = page.family("weft_endpoints", Kind::Gauge, "Endpoints on the networks of this host.");
    for (place, local) in [("local", true), ("remote", false)] {
        let n = status.endpoints.iter().filter(|endpoint| endpoint.local == local).count();
        family.sample(&[("place", place)], n);
    }
    let n = status.duplicates.len();
    page.value("weft_duplicate_addresses", Kind::Gauge, "Addresses that two living peers announce.", Some(n));
    let n = counter("sessions");
    page.value("weft_sessions", Kind::Gauge, "Sessions held, old ones that run out included.", Some(n));
    let mut family = page.family("weft_handshakes_total", Kind::Counter, "Handshakes by how they ended.");
    family.sample(&[("result", "session")], counter("handshakes"));
    family.sample(&[("result", "failed")], counter("handshakes_failed"));
    let mut family = page.family("weft_events_total", Kind::Counter, "What happened in the mesh.");
    for (event, name) in [
        ("peer_up", "peers_up"),
        ("peer_down", "peers_down"),
        ("path_lost", "paths_lost"),
        ("path_regained", "paths_regained"),
        ("peer_moved", "peers_moved"),
        ("peer_refused", "peers_refused"),
        ("duplicate_address", "addresses_duplicate"),
        ("duplicate_key", "keys_duplicate"),
    ] {
        family.sample(&[("event", event)], counter(name));
    }
}

fn peers(page: &mut Page, status: &Status) {
    let mut family = page.family("weft_peers", Kind::Gauge, "Peers, and addresses that are tried, by state.");
    for (state, is) in [
        ("connected", PeerState::Connected),
        ("connecting", PeerState::Connecting),
        ("down", PeerState::Down),
    ] {
        family.sample(&[("state", state)], status.peers.iter().filter(|peer| peer.state == is).count());
    }
    let n = status.refused.len();
    page.value("weft_peers_refused", Kind::Gauge, "Peers with the secret that were not admitted.", Some(n));

    // Five series a peer, and none for an address at which nobody answered: a list of seeds must not fill a database.
    let known: Vec<(&PeerStatus, &str, &str)> = status
        .peers
        .iter()
        .filter_map(|peer| {
            let id = peer.id.as_deref()?;
            Some((peer, peer.name.as_deref().unwrap_or(""), id.get(..12).unwrap_or(id)))
        })
        .collect();
    let mut family =
        page.family("weft_peer_connected", Kind::Gauge, "1 while the peer is alive and answers.");
    for (peer, name, id) in &known {
        let connected = u8::from(peer.state == PeerState::Connected);
        family.sample(&[("peer", name), ("id", id)], connected);
    }
    let help = "Smoothed round trip of pings inside the session.";
    let mut family = page.family("weft_peer_rtt_seconds", Kind::Gauge, help);
    for (peer, name, id) in &known {
        if let Some(us) = peer.rtt_us {
            family.sample(&[("peer", name), ("id", id)], Duration::from_micros(us).as_secs_f64());
        }
    }
    let help = "Time since a datagram of the peer was opened.";
    let mut family = page.family("weft_peer_last_seen_seconds", Kind::Gauge, help);
    for (peer, name, id) in &known {
        if let Some(seen) = peer.last_seen {
            family.sample(&[("peer", name), ("id", id)], seen.as_secs());
        }
    }
    let help = "Bytes of datagrams from the peer.";
    let mut family = page.family("weft_peer_receive_bytes_total", Kind::Counter, help);
    for (peer, name, id) in &known {
        family.sample(&[("peer", name), ("id", id)], peer.rx_bytes);
    }
    let help = "Bytes of datagrams to the peer.";
    let mut family = page.family("weft_peer_transmit_bytes_total", Kind::Counter, help);
    for (peer, name, id) in &known {
        family.sample(&[("peer", name), ("id", id)], peer.tx_bytes);
    }
}

fn traffic(page: &mut Page, status: &Status) {
    let counter = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    for (name, what, pairs) in [
        (
            "weft_datagrams_total",
            "Datagrams of data.",
            [("received", "datagrams_received"), ("sent", "datagrams_sent")],
        ),
        (
            "weft_trains_total",
            "System calls that brought or took datagrams; datagrams a train say how well offloads work.",
            [("received", "trains_received"), ("sent", "trains_sent")],
        ),
        (
            "weft_tap_frames_total",
            "Frames and super-frames from and to containers.",
            [("read", "tap_reads"), ("written", "tap_writes")],
        ),
    ] {
        let mut family = page.family(name, Kind::Counter, what);
        for (direction, name) in pairs {
            family.sample(&[("direction", direction)], counter(name));
        }
    }
    let help = "1 where the kernel sends or receives a train in one call.";
    let mut family = page.family("weft_offload", Kind::Gauge, help);
    family.sample(&[("kind", "udp_segmentation")], counter("udp_segmentation_offload"));
    family.sample(&[("kind", "udp_receive")], counter("udp_receive_offload"));
    let help = "Frames and datagrams that went no further, by reason.";
    let mut family = page.family("weft_drops_total", Kind::Counter, help);
    // Also those that have not occurred: a series that begins with its first drop has no rate.
    let reasons = DropReason::ALL.iter().map(|reason| reason.name()).chain(GUARD_DROPS);
    for reason in reasons {
        family.sample(&[("reason", reason)], status.drops.get(reason).copied().unwrap_or(0));
    }
}

fn driver(page: &mut Page, calls: &DriverCalls) {
    let called: Vec<(&str, &Calls)> = weft_driver::paths()
        .into_iter()
        .zip(&calls.by_path)
        .filter(|(_, calls)| !calls.times.is_empty())
        .map(|(path, calls)| (path.rsplit('.').next().unwrap_or(path), calls))
        .collect();
    let help = "How long dockerd's calls took.";
    let mut family = page.family("weft_driver_call_duration_seconds", Kind::Histogram, help);
    for (call, calls) in &called {
        calls.times.write(&mut family, &[("call", call)]);
    }
    let help = "How long CreateEndpoint and Join of an endpoint took together.";
    let mut family = page.family("weft_endpoint_setup_duration_seconds", Kind::Histogram, help);
    calls.set_up.write(&mut family, &[]);
    let help = "Calls of dockerd that were answered with an error.";
    let mut family = page.family("weft_driver_calls_failed_total", Kind::Counter, help);
    for (call, calls) in &called {
        family.sample(&[("call", call)], calls.n_failed.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests;
