//! `weft top`: rates of two statuses, again and again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_api::{Client, PeerStatus, Status, render_path, render_rtt, render_table};

use crate::args::{SortKey, TopArgs};

/// To the first column of the first line, and what ends a line or the screen.
const HOME: &str = "\x1b[H";
const END_LINE: &str = "\x1b[K\n";
const END_SCREEN: &str = "\x1b[J";
/// Another screen without a cursor, and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// A status and when it was taken.
struct Sample {
    at: Instant,
    status: Status,
}

/// Shows rates until Ctrl-C, or once.
pub(crate) async fn top(socket: Option<PathBuf>, args: TopArgs) -> anyhow::Result<ExitCode> {
    let once = args.once || !std::io::stdout().is_terminal();
    let mut last = sample(socket.clone()).await?;
    if once {
        tokio::time::sleep(args.interval).await;
        let next = sample(socket).await?;
        std::io::stdout().write_all(render(&last, &next, &args).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    std::io::stdout().write_all(ENTER)?;
    let shown = tokio::select! {
        result = show(socket, &mut last, &args) => result,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
    };
    std::io::stdout().write_all(LEAVE)?;
    shown
}

async fn show(socket: Option<PathBuf>, last: &mut Sample, args: &TopArgs) -> anyhow::Result<ExitCode> {
    let mut interval = tokio::time::interval(args.interval);
    interval.tick().await;
    draw("weft top: the first rates in a moment\n")?;
    loop {
        interval.tick().await;
        // A daemon that restarts is looked for again.
        match sample(socket.clone()).await {
            Ok(next) => {
                draw(&render(last, &next, args))?;
                *last = next;
            }
            Err(error) => draw(&format!("weft: {error:#}\n"))?,
        }
    }
}

/// Over what was there, line by line, so that nothing flickers.
fn draw(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{HOME}{}{END_SCREEN}", text.replace('\n', END_LINE)).as_bytes())?;
    out.flush()
}

async fn sample(socket: Option<PathBuf>) -> anyhow::Result<Sample> {
    let status = Client::discover(socket).await?.status().await?;
    Ok(Sample { at: Instant::now(), status })
}

/// One line of a table, and what it can be sorted by.
#[derive(Debug, Clone, Default, PartialEq)]
struct Entry {
    cells: Vec<String>,
    name: String,
    /// Per second.
    rx_bits: f64,
    tx_bits: f64,
    n_packets: f64,
    n_dropped: f64,
    rtt_us: u64,
}

fn render(last: &Sample, next: &Sample, args: &TopArgs) -> String {
    let seconds = next.at.saturating_duration_since(last.at).max(Duration::from_millis(1)).as_secs_f64();
    // Counters begin anew with the daemon.
    let rate = move |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    let status = &next.status;
    let mut out = String::new();
    let drops = drops(&last.status.drops, &status.drops, rate);
    let ready = if status.ready { "ready" } else { "NOT READY" };
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "weft {}  {}  {ready}  over {seconds:.1} s  drops {drops}",
        status.version, status.name
    );
    for fault in &status.faults {
        let _ = writeln!(out, "  fault: {fault}");
    }
    let peers = status.peers.iter().map(|peer| {
        // Another peer, or one that was not there: since when its counters count is not known.
        let before = last.status.peers.iter().find(|p| p.id == peer.id && p.address == peer.address);
        peer_entry(before.unwrap_or(peer), peer, rate)
    });
    table(
        &mut out,
        "PEERS",
        &["NAME", "STATE", "PATH", "RTT", "RECEIVED", "SENT", "RECEIVED PKT/S", "SENT PKT/S"],
        peers.collect(),
        args,
    );
    let networks = status.networks.iter().filter_map(|network| {
        let after = network.traffic?;
        let before = last.status.networks.iter().find(|n| n.id == network.id);
        let before = before.and_then(|n| n.traffic).unwrap_or(after);
        let (rx, tx) = (rate(before.rx_bytes, after.rx_bytes), rate(before.tx_bytes, after.tx_bytes));
        let (n_rx, n_tx) = (rate(before.rx_frames, after.rx_frames), rate(before.tx_frames, after.tx_frames));
        let n_dropped = rate(before.tx_dropped, after.tx_dropped);
        let id: String = network.id.chars().take(12).collect();
        let mtu = network.mtu.map_or_else(dash, |mtu| mtu.to_string());
        let n_endpoints = format!("{}+{}", network.n_local_endpoints, network.n_remote_endpoints);
        Some(Entry {
            cells: vec![
                id.clone(),
                mtu,
                n_endpoints,
                bits(rx * 8.0),
                bits(tx * 8.0),
                count(n_rx),
                count(n_tx),
                count(n_dropped),
            ],
            name: id,
            rx_bits: rx * 8.0,
            tx_bits: tx * 8.0,
            n_packets: n_rx + n_tx,
            n_dropped,
            rtt_us: 0,
        })
    });
    let heading =
        ["ID", "MTU", "HERE+AWAY", "RECEIVED", "SENT", "RECEIVED FRAMES/S", "SENT FRAMES/S", "DROPPED/S"];
    table(&mut out, "NETWORKS", &heading, networks.collect(), args);
    out
}

fn peer_entry(before: &PeerStatus, peer: &PeerStatus, rate: impl Fn(u64, u64) -> f64) -> Entry {
    let (rx, tx) = (rate(before.rx_bytes, peer.rx_bytes), rate(before.tx_bytes, peer.tx_bytes));
    let n_rx = rate(before.rx_datagrams, peer.rx_datagrams);
    let n_tx = rate(before.tx_datagrams, peer.tx_datagrams);
    let address = || peer.address.map(|address| address.to_string());
    let name = peer.name.clone().or_else(address).unwrap_or_else(dash);
    Entry {
        cells: vec![
            name.clone(),
            peer.state.to_string(),
            render_path(peer.path, peer.via.as_deref()),
            render_rtt(peer.rtt_us.map(Duration::from_micros)),
            bits(rx * 8.0),
            bits(tx * 8.0),
            count(n_rx),
            count(n_tx),
        ],
        name,
        rx_bits: rx * 8.0,
        tx_bits: tx * 8.0,
        n_packets: n_rx + n_tx,
        n_dropped: 0.0,
        rtt_us: peer.rtt_us.unwrap_or(0),
    }
}

/// How many a second, and the most frequent reasons.
fn drops(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    rate: impl Fn(u64, u64) -> f64,
) -> String {
    let of =
        |(reason, n): (&String, &u64)| (rate(before.get(reason).copied().unwrap_or(0), *n), reason.clone());
    let mut list: Vec<(f64, String)> = after.iter().map(of).filter(|(n, _)| *n > 0.0).collect();
    list.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total: f64 = list.iter().map(|(n, _)| n).sum();
    let top: Vec<String> = list.iter().take(3).map(|(n, reason)| format!("{reason} {}", count(*n))).collect();
    match top.is_empty() {
        true => "0/s".to_owned(),
        false => format!("{}/s ({})", count(total), top.join(", ")),
    }
}

fn table(out: &mut String, title: &str, heading: &[&str], mut entries: Vec<Entry>, args: &TopArgs) {
    sort(&mut entries, args.sort);
    let n_all = entries.len();
    entries.truncate(args.rows.into());
    let _ = writeln!(out, "\n{title}");
    if entries.is_empty() {
        let _ = writeln!(out, "  none");
        return;
    }
    let heading = heading.iter().map(|name| (*name).to_owned()).collect();
    let n_shown = entries.len();
    let rows: Vec<_> = std::iter::once(heading).chain(entries.into_iter().map(|entry| entry.cells)).collect();
    *out += &render_table(&rows);
    if n_all > n_shown {
        let _ = writeln!(out, "  and {} more (--rows)", n_all - n_shown);
    }
}

fn sort(entries: &mut [Entry], key: SortKey) {
    // Stable: of equals the daemon's order stays.
    match key {
        SortKey::Name => entries.sort_by(|a, b| a.name.cmp(&b.name)),
        SortKey::Traffic => {
            entries.sort_by(|a, b| (b.rx_bits + b.tx_bits).total_cmp(&(a.rx_bits + a.tx_bits)));
        }
        SortKey::Received => entries.sort_by(|a, b| b.rx_bits.total_cmp(&a.rx_bits)),
        SortKey::Sent => entries.sort_by(|a, b| b.tx_bits.total_cmp(&a.tx_bits)),
        SortKey::Packets => entries.sort_by(|a, b| b.n_packets.total_cmp(&a.n_packets)),
        SortKey::Drops => entries.sort_by(|a, b| b.n_dropped.total_cmp(&a.n_dropped)),
        SortKey::Rtt => entries.sort_by_key(|entry| Reverse(entry.rtt_us)),
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// Powers of 1000, as links are sold.
pub(crate) fn bits(per_second: f64) -> String {
    let (mut n, mut unit) = (per_second, "b/s");
    for next in ["kb/s", "Mb/s", "Gb/s"] {
        if n < 999.5 {
            break;
        }
        (n, unit) = (n / 1000.0, next);
    }
    let digits = if unit == "b/s" || n >= 99.95 { 0 } else { 1 };
    format!("{n:.digits$} {unit}")
}

fn count(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 10.0 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_api::{NetworkStatus, PathKind, PeerState, TrafficStatus};

    fn peer(name: &str, rx_bytes: u64, tx_datagrams: u64, rtt_us: u64) -> PeerStatus {
        PeerStatus {
            id: Some(name.repeat(16)),
            name: Some(name.to_owned()),
            state: PeerState::Connected,
            address: Some("10.0.0.2:6783".parse().unwrap()),
            path: Some(PathKind::Direct),
            rtt_us: Some(rtt_us),
            rx_bytes,
            tx_datagrams,
            ..PeerStatus::default()
        }
    }

    fn sample(at: Instant, peers: Vec<PeerStatus>, traffic: TrafficStatus, n_replayed: u64) -> Sample {
        let network = NetworkStatus {
            id: "u48gny859s078wz2qe8dulj4a".to_owned(),
            wire_id: "00a1b2c3d4e5".to_owned(),
            mtu: Some(1418),
            n_local_endpoints: 1,
            n_remote_endpoints: 2,
            traffic: Some(traffic),
            ..NetworkStatus::default()
        };
        let status = Status {
            version: "0.1.0".to_owned(),
            name: "host-a".to_owned(),
            peer_id: "00".repeat(16),
            suite: "AESGCM".to_owned(),
            ready: true,
            peers,
            networks: vec![network],
            drops: [("replayed".to_owned(), n_replayed)].into(),
            ..Status::default()
        };
        Sample { at, status }
    }

    fn args(sort: SortKey) -> TopArgs {
        TopArgs { interval: Duration::from_secs(2), once: true, sort, rows: 20 }
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let start = Instant::now();
        let before = sample(start, vec![peer("a", 0, 100, 400)], TrafficStatus::default(), 7);
        let traffic = TrafficStatus { rx_bytes: 500_000_000, tx_dropped: 9, ..TrafficStatus::default() };
        let after = sample(start + Duration::from_secs(2), vec![peer("a", 250_000, 300, 412)], traffic, 27);
        let text = render(&before, &after, &args(SortKey::Traffic));
        let cells = |word: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(word)).unwrap();
            line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect::<Vec<_>>()
        };
        assert_eq!(cells("a "), ["a", "connected", "direct", "0.412 ms", "1.0 Mb/s", "0 b/s", "0", "100"]);
        assert_eq!(cells("u48"), ["u48gny859s07", "1418", "1+2", "2.0 Gb/s", "0 b/s", "0", "0", "4.5"]);
        assert!(text.contains("drops 10/s (replayed 10)"), "{text}");
    }

    #[test]
    fn a_daemon_that_began_anew_and_a_new_peer_have_no_rate() {
        let start = Instant::now();
        let before = sample(start, vec![peer("a", 9_000, 9_000, 1)], TrafficStatus::default(), 9);
        let peers = vec![peer("a", 10, 10, 1), peer("b", 1 << 40, 1 << 30, 1)];
        let after = sample(start + Duration::from_secs(1), peers, TrafficStatus::default(), 0);
        let text = render(&before, &after, &args(SortKey::Name));
        assert!(text.contains("drops 0/s") && !text.contains("Gb/s"), "{text}");
    }

    #[test]
    fn rows_are_sorted_and_cut() {
        let start = Instant::now();
        let none = |peers| sample(start, peers, TrafficStatus::default(), 0);
        let before = none(vec![peer("a", 0, 0, 1), peer("b", 0, 0, 3), peer("c", 0, 0, 2)]);
        let mut after = none(vec![peer("a", 5, 0, 1), peer("b", 1, 0, 3), peer("c", 9, 7, 2)]);
        after.at += Duration::from_secs(1);
        let order = |key, rows| {
            let text = render(&before, &after, &TopArgs { rows, ..args(key) });
            let lines = text.lines().filter_map(|line| line.split_whitespace().next());
            lines.filter(|word| ["a", "b", "c", "and"].contains(word)).collect::<Vec<_>>().concat()
        };
        assert_eq!(order(SortKey::Received, 20), "cab");
        assert_eq!(order(SortKey::Name, 20), "abc");
        assert_eq!(order(SortKey::Rtt, 20), "bca");
        assert_eq!(order(SortKey::Packets, 1), "cand");
    }

    #[test]
    fn bits_have_three_digits_at_most() {
        let shown = [0.0, 999.0, 1000.0, 12_340.0, 999_400.0, 999_600.0, 123_400_000.0, 9.87e9].map(bits);
        let want =
            ["0 b/s", "999 b/s", "1.0 kb/s", "12.3 kb/s", "999 kb/s", "1.0 Mb/s", "123 Mb/s", "9.9 Gb/s"];
        assert_eq!(shown, want);
    }
}
