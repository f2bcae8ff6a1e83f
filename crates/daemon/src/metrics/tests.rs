use std::collections::{BTreeMap, BTreeSet};

use weft_api::CheckStatus;

use super::*;

fn peer(n: usize) -> PeerStatus {
    PeerStatus {
        id: Some(format!("{n:032x}")),
        name: Some(format!("host{n}")),
        state: PeerState::Connected,
        address: Some("10.0.0.1:6783".parse().unwrap()),
        rtt_us: Some(412),
        path_mtu: Some(1418),
        rx_bytes: 3,
        tx_bytes: u64::MAX,
        rx_datagrams: 1,
        tx_datagrams: 2,
        last_seen: Some(Duration::from_secs(1)),
        ..PeerStatus::default()
    }
}

fn status(n_peers: usize) -> Status {
    Status {
        version: "0.1.0".to_owned(),
        name: "host-a".to_owned(),
        suite: "AESGCM".to_owned(),
        secret_fingerprint: Some("7c1f09ab".to_owned()),
        ready: true,
        peers: (1..=n_peers).map(peer).collect(),
        checks: vec![CheckStatus { name: "firewall".to_owned(), fault: Some("no iptables".to_owned()) }],
        counters: [("handshakes".to_owned(), 7)].into(),
        drops: [("replayed".to_owned(), 12)].into(),
        ..Status::default()
    }
}

fn page(n_peers: usize) -> String {
    let calls = DriverCalls::default();
    calls.count("/NetworkDriver.Join", Duration::from_millis(3), false);
    calls.count("/NetworkDriver.Join", Duration::from_secs(60), true);
    calls.count_set_up(Duration::from_millis(7));
    render(&status(n_peers), &calls, &Process::now())
}

/// Samples by their name with labels.
fn samples(page: &str) -> BTreeMap<&str, &str> {
    let samples: Vec<_> =
        page.lines().filter(|l| !l.starts_with('#')).map(|l| l.rsplit_once(' ').unwrap()).collect();
    let map: BTreeMap<_, _> = samples.iter().copied().collect();
    assert_eq!(map.len(), samples.len(), "a series is there twice");
    map
}

#[test]
fn values_are_the_statuss() {
    let page = page(1);
    let samples = samples(&page);
    for (series, value) in [
        ("weft_ready", "1"),
        (r#"weft_drops_total{reason="replayed"}"#, "12"),
        (r#"weft_drops_total{reason="bad_seal"}"#, "0"),
        (r#"weft_handshakes_total{result="session"}"#, "7"),
        (r#"weft_check_failed{check="firewall"}"#, "1"),
        (r#"weft_peers{state="connected"}"#, "1"),
        (r#"weft_peer_rtt_seconds{peer="host1",id="000000000000"}"#, "0.000412"),
        (r#"weft_peer_transmit_bytes_total{peer="host1",id="000000000000"}"#, "18446744073709551615"),
        (r#"weft_driver_call_duration_seconds_bucket{call="Join",le="0.001"}"#, "0"),
        (r#"weft_driver_call_duration_seconds_bucket{call="Join",le="0.005"}"#, "1"),
        (r#"weft_driver_call_duration_seconds_bucket{call="Join",le="25"}"#, "1"),
        (r#"weft_driver_call_duration_seconds_bucket{call="Join",le="+Inf"}"#, "2"),
        (r#"weft_driver_call_duration_seconds_sum{call="Join"}"#, "60.003"),
        (r#"weft_driver_call_duration_seconds_count{call="Join"}"#, "2"),
        (r#"weft_driver_calls_failed_total{call="Join"}"#, "1"),
        (r#"weft_endpoint_setup_duration_seconds_bucket{le="0.005"}"#, "0"),
        (r#"weft_endpoint_setup_duration_seconds_bucket{le="0.01"}"#, "1"),
        ("weft_endpoint_setup_duration_seconds_sum", "0.007"),
        ("weft_endpoint_setup_duration_seconds_count", "1"),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert!(!page.contains("7c1f09ab"), "a fingerprint is nobody's metric");
}

#[test]
fn a_peer_adds_at_most_five_series() {
    let (few, many) = (page(10), page(110));
    assert_eq!(samples(&many).len() - samples(&few).len(), 5 * 100);
}

#[test]
fn a_large_cluster_has_each_series_once() {
    // The same made-up status that the live map's picture in docs/ was taken of.
    let status: Status = serde_json::from_str(include_str!("../../testdata/status-200-peers.json")).unwrap();
    let page = render(&status, &DriverCalls::default(), &Process::default());
    let samples = samples(&page);
    assert_eq!(samples[r#"weft_peers{state="connected"}"#], "196");
    let of_peers = samples.keys().filter(|series| series.starts_with("weft_peer_")).count();
    // Of 199 that are known by an id, three are down and have no round trip.
    assert_eq!(of_peers, 199 * 5 - 3);
}

#[test]
fn every_family_is_documented_and_every_documented_one_is_there() {
    let document = include_str!("../../../../docs/metrics.md");
    let (ours, _) = document.split_once("## Weave Net").unwrap();
    let documented: BTreeSet<&str> =
        ours.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next()).collect();
    let page = page(1);
    let there: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(documented, there);
}

#[test]
fn rules_and_dashboard_ask_for_families_that_are_there() {
    let page = page(1);
    let rules = include_str!("../../../../deploy/prometheus/weft.rules.yml");
    let dashboard = include_str!("../../../../deploy/grafana/weft.json");
    let mut n_names = 0;
    for text in [rules, dashboard] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("weft_") || word.starts_with("process_")) {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(page.contains(&format!("# TYPE {family} ")), "{name}");
            n_names += 1;
        }
    }
    assert!(n_names > 20, "{n_names} names");
}

/// What Grafana wants of a dashboard's shape, as far as this one uses it.
#[test]
fn the_dashboard_is_whole() {
    let text = include_str!("../../../../deploy/grafana/weft.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let listed = dashboard["templating"]["list"].as_array().unwrap();
    let mut variables: BTreeSet<&str> = listed.iter().map(|one| one["name"].as_str().unwrap()).collect();
    variables.extend(["__rate_interval", "__all"]);
    for used in text.split('$').skip(1) {
        let name = used.trim_start_matches('{');
        let name = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
        assert!(variables.contains(name), "${name} is no variable of the dashboard");
    }
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        assert!(["stat", "timeseries", "table"].contains(&panel["type"].as_str().unwrap()), "{title}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24, "{title}: wider than the page");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} lies over another");
        }
        let mut refs = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert!(refs.insert(target["refId"].as_str().unwrap()), "{title}: a refId twice");
            assert_eq!(target["datasource"]["uid"], "${source}", "{title}");
        }
        assert!(!refs.is_empty() && panel["datasource"]["uid"] == "${source}", "{title}");
    }
}

#[test]
fn the_kernels_words_are_read() {
    assert_eq!(resident_len("Name:\tweft\nVmRSS:\t   12 kB\n"), Some(12_288));
    let stat = "7 (we ) ft) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 8 0 100";
    assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
    let Process { resident_len, heap_len, cpu, n_fds } = Process::now();
    assert!(resident_len > Some(0) && heap_len != Some(0) && cpu.is_some() && n_fds > Some(0));
}
