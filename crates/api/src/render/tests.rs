use super::*;
use crate::{
    CHECK_HTTP, CheckStatus, DuplicateStatus, JudgedStatus, Judgement, PathKind, PeerState, RefusedStatus,
    ServiceStatus,
};

fn full() -> Status {
    let peer = PeerStatus {
        id: Some("0123456789abcdef0123456789abcdef".to_owned()),
        name: Some("host-b".to_owned()),
        state: PeerState::Connected,
        address: Some("10.98.0.2:6783".parse().unwrap()),
        path: Some(PathKind::Direct),
        rtt_us: Some(412),
        same_secret: Some(true),
        path_mtu: Some(1418),
        session_age: Some(Duration::from_secs(83)),
        rx_bytes: 1_572_864,
        tx_bytes: 900,
        rx_datagrams: 1200,
        tx_datagrams: 9,
        last_seen: Some(Duration::from_secs(1)),
        ..PeerStatus::default()
    };
    let silent = PeerStatus {
        state: PeerState::Connecting,
        address: Some("[fd00::3]:6783".parse().unwrap()),
        tx_bytes: 1480,
        tx_datagrams: 10,
        problem: Some(
            "does not answer: check that UDP 6783 is open both ways and that both hosts have the same cluster secret"
                .to_owned(),
        ),
        ..PeerStatus::default()
    };
    let network = NetworkStatus {
        id: "u48gny859s078wz2qe8dulj4a".to_owned(),
        wire_id: "00a1b2c3d4e5".to_owned(),
        mtu: Some(1418),
        bridge: Some("weft-a1b2c3d4e5".to_owned()),
        peers: vec!["host-b".to_owned()],
        n_local_endpoints: 1,
        n_remote_endpoints: 1,
        ..NetworkStatus::default()
    };
    let faulty = NetworkStatus {
        id: "m5e7bz12rqgr3rdk5stm4xznl".to_owned(),
        wire_id: "0f0e0d0c0b0a".to_owned(),
        faults: vec!["option foo is not known to weft".to_owned()],
        ..NetworkStatus::default()
    };
    let endpoint = |id: &str, mac: &str, address: &str, host: &str, local| EndpointStatus {
        id: id.repeat(4),
        network: network.id.clone(),
        mac: mac.to_owned(),
        addresses: vec![address.parse().unwrap()],
        host: host.to_owned(),
        local,
    };
    Status {
        version: "0.1.0".to_owned(),
        name: "host-a".to_owned(),
        peer_id: "fedcba9876543210fedcba9876543210".to_owned(),
        listen: vec!["0.0.0.0:6783".parse().unwrap(), "[::]:6783".parse().unwrap()],
        suite: "AESGCM".to_owned(),
        secret_fingerprint: Some("7c1f-09ab".to_owned()),
        ready: true,
        faults: vec!["docker.sock is not granted: service addresses are off".to_owned()],
        peers: vec![peer, silent],
        refused: vec![RefusedStatus {
            id: "11".repeat(16),
            name: "host-c".to_owned(),
            address: "10.98.0.9:6783".parse().unwrap(),
            reason: "not on the allowlist".to_owned(),
        }],
        judged: vec![JudgedStatus {
            id: "22".repeat(16),
            name: "host-d".to_owned(),
            judgement: Judgement::Revoked,
            by: "host-b".to_owned(),
            at_ms: 1_790_000_000_000,
        }],
        endpoints: vec![
            endpoint("62d6a351b7641111", "02:42:0a:00:01:02", "10.0.1.2", "host-a", true),
            endpoint("a39f0dedd15b2222", "02:42:0a:00:01:03", "10.0.1.3", "host-b", false),
        ],
        duplicates: vec![DuplicateStatus {
            network: network.id.clone(),
            address: "10.0.1.3".to_owned(),
            keeper: "host-b".to_owned(),
            loser: "host-e".to_owned(),
        }],
        services: vec![ServiceStatus {
            network: network.id.clone(),
            vip: "10.0.1.9".parse().unwrap(),
            name: "web".to_owned(),
            tasks: vec!["10.0.1.2".parse().unwrap(), "10.0.1.3".parse().unwrap()],
            n_unreachable: 1,
            from: "host-b".to_owned(),
        }],
        services_state: "on: told by host-b".to_owned(),
        service_faults: vec!["/run/docker/netns/1a2b3c: the namespace cannot be entered".to_owned()],
        networks: vec![network, faulty],
        http: Some("127.0.0.1:6784".parse().unwrap()),
        max_overlay_mtu: Some(1418),
        checks: vec![CheckStatus { name: CHECK_HTTP.to_owned(), fault: None }],
        counters: [("rekeys".to_owned(), 3), ("handshakes".to_owned(), 4), ("quiet".to_owned(), 0)].into(),
        drops: [("replayed".to_owned(), 12)].into(),
    }
}

#[test]
fn a_full_status_reads_as_the_snapshot() {
    assert_eq!(render_status(&full()), include_str!("../../testdata/status.txt"));
}

#[test]
fn an_empty_status_says_that_there_is_none() {
    let Status { version, name, peer_id, suite, .. } = full();
    let status = Status { version, name, peer_id, suite, ..Status::default() };
    assert_eq!(render_status(&status), include_str!("../../testdata/status-empty.txt"));
}

#[test]
fn a_table_alone_is_the_section_without_the_line_before_it() {
    let whole = render_status(&full());
    for table in [render_peers(&full()), render_networks(&full()), render_endpoints(&full())] {
        assert!(whole.contains(&format!("\n\n{table}")), "{table}");
    }
}

#[test]
fn json_has_the_documented_names_and_round_trips() {
    let json = serde_json::to_value(full()).unwrap();
    assert_eq!(json["peers"][0]["session_age_s"], 83);
    assert_eq!(json["peers"][1]["last_seen_s"], serde_json::Value::Null);
    assert_eq!(json["peers"][0]["state"], "connected");
    assert_eq!(serde_json::from_value::<Status>(json).unwrap(), full());
}

#[test]
fn a_status_from_before_services_is_read() {
    let mut json = serde_json::to_value(full()).unwrap();
    for name in ["services", "services_state", "service_faults"] {
        json.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(serde_json::from_value::<Status>(json).unwrap().services, []);
}

#[test]
fn spans_and_sizes_have_their_units() {
    let spans = [(0, "0s"), (59, "59s"), (60, "1m00s"), (7500, "2h05m"), (360_000, "4d04h")];
    for (s, text) in spans {
        assert_eq!(span(Duration::from_secs(s)), text);
    }
    let sizes =
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (u64::MAX, "15.9 EiB")];
    for (n, text) in sizes {
        assert_eq!(bytes(n), text);
    }
}

#[test]
fn a_relay_is_named() {
    let mut status = full();
    status.peers[0].path = Some(PathKind::Relay);
    status.peers[0].via = Some("host-c".to_owned());
    let text = render_status(&status);
    let row = text.lines().find(|line| line.contains("host-b  0123456789ab")).unwrap();
    assert!(row.contains("10.98.0.2:6783  via host-c  0.412 ms"), "{row}");
}

#[test]
fn routes_say_whereto_and_which_way() {
    let route = |mac: &str, host: &str, local, path, via: Option<&str>, to: Option<&str>| RouteStatus {
        network: "u48gny859s078wz2qe8dulj4a".to_owned(),
        mac: mac.to_owned(),
        addresses: vec!["10.0.1.2".parse().unwrap()],
        host: host.to_owned(),
        local,
        path,
        via: via.map(str::to_owned),
        address: to.map(|to| to.parse().unwrap()),
        path_mtu: to.map(|_| 1418),
    };
    let routes = [
        route("02:42:0a:00:01:02", "host-a", true, None, None, None),
        route("02:42:0a:00:01:03", "host-b", false, Some(PathKind::Direct), None, Some("10.98.0.2:6783")),
        route(
            "02:42:0a:00:01:04",
            "host-c",
            false,
            Some(PathKind::Relay),
            Some("host-b"),
            Some("10.98.0.2:6783"),
        ),
        route("02:42:0a:00:01:05", "host-d", false, None, None, None),
    ];
    let text = render_routes(&routes);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ROUTES"]);
    assert_eq!(lines[2][3..6], ["host-a", "(here)", "local"]);
    assert_eq!(lines[3][3..], ["host-b", "direct", "10.98.0.2:6783", "1418"]);
    assert_eq!(lines[4][3..], ["host-c", "via", "host-b", "10.98.0.2:6783", "1418"]);
    assert_eq!(lines[5][3..], ["host-d", "NONE", "-", "-"]);
}
