use super::*;
use crate::doctor::facts::Daemon;
use weft_api::{DuplicateStatus, NetworkStatus, PathKind, RefusedStatus};

fn peer(name: &str, state: PeerState, problem: Option<&str>) -> PeerStatus {
    PeerStatus {
        id: Some("11".repeat(16)),
        name: Some(name.to_owned()),
        state,
        address: Some("10.0.0.2:6783".parse().unwrap()),
        path: Some(PathKind::Direct),
        rtt_us: Some(400),
        same_secret: Some(true),
        path_mtu: Some(1418),
        problem: problem.map(str::to_owned),
        ..PeerStatus::default()
    }
}

/// A host on which all is well.
fn healthy() -> Facts {
    let checks = [CHECK_FIREWALL, CHECK_GUARD, CHECK_DOCKER, CHECK_HTTP, CHECK_STATE];
    let checks = checks.map(|name| CheckStatus { name: name.to_owned(), fault: None }).to_vec();
    let network = NetworkStatus {
        id: "u48gny859s078wz2qe8dulj4a".to_owned(),
        wire_id: "00a1b2c3d4e5".to_owned(),
        mtu: Some(1418),
        bridge: Some("wfb00a1b2c3d4e5".to_owned()),
        peers: vec!["host-b".to_owned()],
        n_local_endpoints: 1,
        n_remote_endpoints: 1,
        ..NetworkStatus::default()
    };
    let status = Status {
        version: "0.1.0".to_owned(),
        name: "host-a".to_owned(),
        peer_id: "00".repeat(16),
        listen: vec!["0.0.0.0:7000".parse().unwrap()],
        suite: "AESGCM".to_owned(),
        secret_fingerprint: Some("7c1f09ab".to_owned()),
        ready: true,
        peers: vec![peer("host-b", PeerState::Connected, None)],
        networks: vec![network],
        services_state: "on: told by host-b".to_owned(),
        max_overlay_mtu: Some(1418),
        checks,
        counters: [("udp_segmentation_offload".to_owned(), 1), ("udp_receive_offload".to_owned(), 1)].into(),
        ..Status::default()
    };
    Facts {
        daemon: Ok(Daemon { socket: "/run/weft/control.sock".into(), status }),
        plugins: Some(vec![Plugin { name: "weft:latest".to_owned(), enabled: true }]),
        swarm: Some(Swarm::Worker),
        tun: true,
        modules: vec![("veth", Some(true)), ("bridge", Some(true))],
        ipv6_bridges: Vec::new(),
        bridge_nf: Some(true),
    }
}

/// What is found, beside what is well, on a host that was healthy until `spoil`.
fn found(spoil: impl FnOnce(&mut Facts)) -> Vec<(Level, &'static str, String)> {
    let mut facts = healthy();
    spoil(&mut facts);
    let findings = of(&facts).into_iter().filter(|f| !matches!(f.level, Level::Ok | Level::Skipped));
    findings.map(|f| (f.level, f.check, format!("{} -> {}", f.text, f.fix.unwrap()))).collect()
}

fn status(facts: &mut Facts) -> &mut Status {
    &mut facts.daemon.as_mut().unwrap().status
}

/// Exactly one finding, with these words in it.
fn expect(spoil: impl FnOnce(&mut Facts), level: Level, check: &str, words: &[&str]) {
    let found = found(spoil);
    let [(found_level, found_check, text)] = &found[..] else { panic!("{check}: {found:?}") };
    assert_eq!((*found_level, *found_check), (level, check), "{text}");
    words.iter().for_each(|word| assert!(text.contains(word), "{word}: {text}"));
}

fn fail_check(facts: &mut Facts, name: &str, text: &str) {
    let check = status(facts).checks.iter_mut().find(|check| check.name == name).unwrap();
    check.fault = Some(text.to_owned());
    if name != CHECK_DOCKER {
        status(facts).faults.push(text.to_owned());
    }
}

#[test]
fn a_healthy_host_has_no_findings_but_good_ones() {
    assert_eq!(found(|_| {}), []);
    let findings = of(&healthy());
    for check in [
        "tun",
        "kernel",
        "plugin",
        "daemon",
        "ready",
        "peers",
        "secret",
        "addresses",
        "mtu",
        "offloads",
        "ipv6",
    ] {
        assert!(findings.iter().any(|f| f.check == check && f.level == Level::Ok), "{check}");
    }
    assert!(findings.iter().any(|f| f.check == "clock" && f.level == Level::Skipped));
}

#[test]
fn a_daemon_that_is_away_is_named_with_what_starts_it() {
    let away = |facts: &mut Facts| facts.daemon = Err("no weft daemon answers on this host".to_owned());
    expect(away, Level::Fault, "daemon", &["no weft daemon answers", "docker plugin enable weft:latest"]);
    let found = found(|facts| {
        away(facts);
        facts.plugins = Some(Vec::new());
    });
    assert!(found.iter().any(|(_, check, text)| *check == "daemon" && text.contains("systemctl start weft")));
    assert!(
        found.iter().any(|(_, check, text)| *check == "plugin" && text.contains("install.sh")),
        "{found:?}"
    );
}

#[test]
fn a_disabled_plugin_is_enabled() {
    let off = |facts: &mut Facts| facts.plugins.as_mut().unwrap()[0].enabled = false;
    expect(off, Level::Fault, "plugin", &["docker plugin enable weft:latest"]);
}

#[test]
fn without_a_secret_nothing_is_carried() {
    let none = |facts: &mut Facts| {
        let status = status(facts);
        status.ready = false;
        status.secret_fingerprint = None;
        status.peers.clear();
        status.faults = vec!["weft has no cluster secret, so it carries no traffic".to_owned()];
    };
    expect(none, Level::Fault, "ready", &["no cluster secret", "weft init", "weft join"]);
}

#[test]
fn whatever_keeps_it_from_being_ready_is_said() {
    let port = |facts: &mut Facts| {
        let status = status(facts);
        status.ready = false;
        status.peers.clear();
        status.faults = vec!["UDP port 6783 is in use".to_owned()];
    };
    expect(port, Level::Fault, "ready", &["UDP port 6783 is in use"]);
    let revoked = |facts: &mut Facts| status(facts).faults.push("this host was revoked on host-b".to_owned());
    expect(revoked, Level::Fault, "host", &["revoked", "weft allow"]);
}

#[test]
fn the_kernel_is_looked_at_without_a_daemon() {
    expect(|facts| facts.tun = false, Level::Fault, "tun", &["modprobe tun"]);
    expect(|facts| facts.modules[0].1 = Some(false), Level::Fault, "kernel", &["modprobe --all veth"]);
    assert_eq!(found(|facts| facts.modules[0].1 = None), [], "what is not known is no fault");
}

#[test]
fn checks_of_the_daemon_have_their_commands() {
    let firewall = |facts: &mut Facts| fail_check(facts, CHECK_FIREWALL, "no iptables");
    expect(firewall, Level::Fault, "firewall", &["apt-get install iptables"]);
    let guard = |facts: &mut Facts| fail_check(facts, CHECK_GUARD, "no nf_tables");
    expect(guard, Level::Fault, "spoof-guard", &["modprobe nf_tables"]);
    let http = |facts: &mut Facts| fail_check(facts, CHECK_HTTP, "127.0.0.1:6784 is in use");
    expect(http, Level::Warn, "http", &["in use", "HTTP=off"]);
    let docker = |facts: &mut Facts| fail_check(facts, CHECK_DOCKER, "Docker's socket is not granted");
    expect(docker, Level::Warn, "docker-socket", &["docker.sock.source=/run/docker.sock"]);
    let state =
        |facts: &mut Facts| fail_check(facts, CHECK_STATE, "state.redb cannot be written: No space left");
    expect(state, Level::Fault, "state-file", &["No space left", "df shows what is full"]);
}

#[test]
fn a_peer_that_does_not_answer_has_its_port_named() {
    let down = |facts: &mut Facts| {
        status(facts).peers.push(peer("host-c", PeerState::Down, Some("does not answer: check that …")));
    };
    expect(down, Level::Fault, "peers", &["host-c", "--dport 7000", "same `secret`"]);
    let refusing = |facts: &mut Facts| {
        let text = "refuses this host: its allowlist lacks this host's id";
        status(facts).peers.push(peer("host-c", PeerState::Connecting, Some(text)));
    };
    expect(refusing, Level::Fault, "peers", &["allowlist", "on that host"]);
    let new = |facts: &mut Facts| status(facts).peers.push(peer("host-c", PeerState::Connecting, None));
    expect(new, Level::Warn, "peers", &["not answered yet"]);
    expect(|facts| status(facts).peers.clear(), Level::Warn, "peers", &["weft connect"]);
}

#[test]
fn a_refused_peer_is_named() {
    let refused = |facts: &mut Facts| {
        let address = "10.0.0.9:6783".parse().unwrap();
        let (id, name, reason) =
            ("22".repeat(16), "host-d".to_owned(), "the name belongs to host-b".to_owned());
        status(facts).refused.push(RefusedStatus { id, name, address, reason });
    };
    expect(refused, Level::Warn, "admission", &["host-d", "the name belongs", "weft forget 2222"]);
}

#[test]
fn a_rotation_that_is_under_way_is_said() {
    let other = |facts: &mut Facts| status(facts).peers[0].same_secret = Some(false);
    expect(other, Level::Warn, "secret", &["host-b", "weft secret rotate prefer"]);
}

#[test]
fn an_address_that_two_announce_is_a_fault() {
    let twice = |facts: &mut Facts| {
        status(facts).duplicates.push(DuplicateStatus {
            network: "u48gny859s078wz2qe8dulj4a".to_owned(),
            address: "10.0.1.3".to_owned(),
            keeper: "host-a".to_owned(),
            loser: "host-b".to_owned(),
        });
    };
    expect(twice, Level::Fault, "addresses", &["10.0.1.3", "host-a has it", "on host-b", "--ip-range"]);
}

#[test]
fn an_mtu_above_the_underlays_is_a_fault() {
    expect(|facts| status(facts).max_overlay_mtu = Some(1318), Level::Fault, "mtu", &["1418", "1318"]);
    assert_eq!(found(|facts| status(facts).max_overlay_mtu = None), []);
    let option =
        |facts: &mut Facts| status(facts).networks[0].faults.push("option foo is not known".to_owned());
    expect(option, Level::Fault, "network", &["option foo", "docker network rm"]);
}

#[test]
fn services_that_are_off_are_said_with_what_turns_them_on() {
    let off = "off: no manager of a swarm is reached whose weft plugin is granted dockerd's socket";
    let set = |facts: &mut Facts, swarm| {
        status(facts).services_state = off.to_owned();
        facts.swarm = swarm;
    };
    let on_a_worker = |facts: &mut Facts| set(facts, Some(Swarm::Worker));
    expect(on_a_worker, Level::Warn, "services", &["off:", "on the swarm's managers", "docker.sock.source="]);
    let on_a_manager = found(|facts| {
        set(facts, Some(Swarm::Manager));
        fail_check(facts, CHECK_DOCKER, "Docker's socket is not granted");
    });
    let services = on_a_manager.iter().find(|(_, check, _)| *check == "services");
    assert!(
        services.is_some_and(|(_, _, text)| text.contains("-> docker plugin disable")),
        "{on_a_manager:?}"
    );
    assert_eq!(found(|facts| set(facts, Some(Swarm::None))), [], "there are none outside a swarm");
    assert_eq!(found(|facts| set(facts, None)), []);
    let stale = |facts: &mut Facts| status(facts).services_state = "as last known: no manager".to_owned();
    expect(stale, Level::Warn, "services", &["as last known"]);
    let faulty = |facts: &mut Facts| status(facts).service_faults.push("/run/docker/netns/1: no".to_owned());
    expect(faulty, Level::Warn, "services", &["/run/docker/netns/1"]);
}

#[test]
fn missing_offloads_are_a_warning() {
    let slow = |facts: &mut Facts| {
        status(facts).counters.insert("udp_receive_offload".to_owned(), 0);
    };
    expect(slow, Level::Warn, "offloads", &["UDP GRO"]);
}

#[test]
fn ipv6_of_the_host_on_a_bridge_is_a_fault() {
    let on = |facts: &mut Facts| facts.ipv6_bridges.push("wfb00a1b2c3d4e5".to_owned());
    expect(on, Level::Fault, "ipv6", &["sysctl -w net.ipv6.conf.wfb00a1b2c3d4e5.disable_ipv6=1"]);
}

#[test]
fn the_text_has_a_line_for_each_and_the_fix_below_it() {
    let mut facts = healthy();
    facts.tun = false;
    let text = crate::doctor::render(&of(&facts));
    assert!(text.starts_with("FAULT  tun"), "{text}");
    assert!(text.lines().nth(1).unwrap().trim_start().starts_with("-> modprobe tun"), "{text}");
    assert!(text.ends_with("1 fault(s), 0 warning(s)\n"), "{text}");
}
