//! How hosts find, keep, admit and lose each other.

#[path = "cluster/services.rs"]
mod services;
#[path = "sim/sim.rs"]
mod sim;

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sim::*;
use weft_mesh::Address;
use weft_node::{
    Admission, BenchMessage, EndpointRecord, Event, Judgement, KnownPeer, NodeConfig, PathState, Refusal,
};
use weft_noise::ClusterSecret;
use weft_wire::{EndpointId, PeerId};

#[test]
fn hosts_find_each_other_through_one_seed() {
    let mut cluster = Cluster::new();
    (1..=5).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=5).for_each(|n| cluster.seed(n, 1));
    let took = cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3, 4, 5]));
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_lossy_underlay_only_delays() {
    let mut cluster = Cluster::new();
    cluster.loss = 0.2;
    (1..=4).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=4).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(30), "mesh at 20 % loss", |c| full_mesh(c, &[1, 2, 3, 4]));
}

#[test]
fn a_restarted_host_is_reached_at_once() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let peer = KnownPeer { id: cluster.host(2).node.id(), name: "host2".into(), address: address(2) };
    cluster.add(1, 1, 2, vec![peer]);
    let took = cluster.run_until(Duration::from_secs(5), "again", |c| full_mesh(c, &[1, 2]));
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[test]
fn rekeys_leave_no_gap() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let first: Vec<u32> = cluster.host(1).snapshot.sessions.keys().copied().collect();
    let end = cluster.start + Duration::from_secs(600);
    while cluster.now < end {
        cluster.step();
        assert!(full_mesh(&mut cluster, &[1, 2]), "after {:?}", cluster.now - cluster.start);
    }
    let sessions = &cluster.host(1).snapshot.sessions;
    assert!(first.iter().all(|n| !sessions.contains_key(n)), "sessions outlived 180 s");
    assert!(sessions.len() <= 2, "{} sessions are kept", sessions.len());
    let paths =
        |e: &Event| matches!(e, Event::PeerUp { .. } | Event::PeerDown { .. } | Event::PathChanged { .. });
    assert_eq!(cluster.host(1).n_events(paths), 1, "one PeerUp, and never down");
}

#[test]
fn a_wrong_secret_gets_no_answer_and_is_said_so() {
    let mut cluster = Cluster::new();
    cluster.add(1, 1, 1, vec![]);
    cluster.add(2, 2, 1, vec![]);
    cluster.seed(2, 1);
    cluster.run_for(Duration::from_secs(12));
    assert!(cluster.host(1).snapshot.sessions.is_empty() && cluster.host(2).snapshot.sessions.is_empty());
    let now = cluster.now;
    let reports = cluster.host(2).node.peer_reports(now);
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((report.id, report.address, report.state), (None, Some(address(1)), PathState::NoAnswer));
}

#[test]
fn a_dead_host_is_noticed_held_and_found_again() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let dead = cluster.hosts.remove(&address(1)).unwrap();
    let down = |c: &mut Cluster| c.host(2).events.iter().any(|e| matches!(e, Event::PeerDown { .. }));
    let took = cluster.run_until(Duration::from_secs(6), "down", down);
    assert!(took >= Duration::from_secs(3), "{took:?}");
    let known = |c: &mut Cluster| c.host(2).snapshot.networks[&NET].fdb.contains_key(&mac(1));
    assert!(known(&mut cluster), "forwarding entries are held at first");
    cluster.run_until(Duration::from_secs(62), "entries lapse", |c| !known(c));
    cluster.hosts.insert(address(1), dead);
    cluster.run_until(Duration::from_secs(16), "found again", |c| full_mesh(c, &[1, 2]));
}

#[test]
fn a_changed_address_is_followed() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let number = *cluster.host(1).snapshot.sessions.keys().next().unwrap();
    cluster.host(1).node.handle_roamed(number, address(9));
    cluster.step();
    assert_eq!(cluster.host(1).snapshot.peers[0].remote, address(9));
    assert!(matches!(cluster.host(1).events.last(), Some(Event::PeerMoved(p)) if p.address == address(9)));
}

#[test]
fn of_two_owners_of_an_address_the_lower_id_keeps_it() {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    for n in [2, 3] {
        let id = EndpointId(format!("{:064x}", 100 + n));
        let record = EndpointRecord { id, network: NET, mac: mac(77), addresses: vec![] };
        let now = cluster.now;
        cluster.host(n).node.set_endpoint(record, now);
        cluster.seed(n, 1);
    }
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    let said = |c: &mut Cluster| c.host(1).events.iter().any(|e| matches!(e, Event::DuplicateAddress { .. }));
    cluster.run_until(Duration::from_secs(5), "said", said);
    let lower = cluster.host(2).node.id().min(cluster.host(3).node.id());
    let host = cluster.host(1);
    let owner = host.snapshot.networks[&NET].fdb[&mac(77)];
    assert_eq!(host.snapshot.peers[owner].id, lower);
    let said = host.n_events(
        |e| matches!(e, Event::DuplicateAddress { keeper, address: Address::Mac(m), .. } if *keeper == lower && *m == mac(77)),
    );
    assert_eq!(said, 1);
}

#[test]
fn removed_endpoints_and_networks_leave_the_snapshot() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let now = cluster.now;
    cluster.host(1).node.remove_endpoint(&EndpointId(format!("{:064x}", 1)), now);
    cluster.run_until(STEP * 10, "endpoint gone", |c| c.host(2).snapshot.networks[&NET].fdb.is_empty());
    let now = cluster.now;
    cluster.host(1).node.leave_network(NET, now);
    cluster.run_until(STEP * 10, "member gone", |c| c.host(2).snapshot.networks[&NET].members.is_empty());
}

/// Three hosts that all reach each other.
fn trio() -> Cluster {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=3).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    cluster
}

#[test]
fn a_revoked_host_is_out_everywhere_at_once_and_not_a_byte_answers_it() {
    let mut cluster = trio();
    let (now, out) = (cluster.now, cluster.host(3).node.id());
    cluster.host(1).node.judge(out, Judgement::Revoked, 1000, now);
    let gone = |c: &mut Cluster| (1..=2).all(|n| sessions_with(c, n, out) == 0);
    let took = cluster.run_until(Duration::from_secs(2), "revoked", gone);
    assert!(took <= Duration::from_millis(500), "{took:?}");
    cluster.run_for(Duration::from_secs(30));
    assert!(full_mesh(&mut cluster, &[1, 2]));
    assert!(!cluster.reaches(1, 3) && !cluster.reaches(3, 1));
    let now = cluster.now;
    cluster.host(3).node.add_seed(address(1), now);
    for _ in 0..1000 {
        cluster.step();
        assert!(cluster.wire.iter().all(|(_, to, _)| *to != address(3)), "an answer to a revoked host");
    }
    let kept = |n: u8, c: &mut Cluster| c.host(n).node.verdicts().cloned().collect::<Vec<_>>();
    assert_eq!(kept(1, &mut cluster), kept(2, &mut cluster));
    let mut restarted = config(2, 1);
    restarted.incarnation = 2;
    restarted.verdicts = kept(2, &mut cluster);
    cluster.start(2, restarted);
    cluster.populate(2);
    cluster.seed(2, 1);
    cluster.seed(2, 3);
    cluster.run_for(Duration::from_secs(20));
    assert!(full_mesh(&mut cluster, &[1, 2]) && !cluster.reaches(2, 3));
}

#[test]
fn a_revocation_can_be_taken_back() {
    let mut cluster = trio();
    let (now, out) = (cluster.now, cluster.host(3).node.id());
    cluster.host(1).node.judge(out, Judgement::Revoked, 1000, now);
    cluster.run_for(Duration::from_secs(10));
    let now = cluster.now;
    cluster.host(2).node.judge(out, Judgement::Allowed, 5, now);
    cluster.run_until(Duration::from_secs(30), "back", |c| full_mesh(c, &[1, 2, 3]));
}

#[test]
fn a_late_host_hears_of_a_revocation_whose_author_is_gone() {
    let mut cluster = trio();
    let (now, out) = (cluster.now, cluster.host(3).node.id());
    cluster.host(1).node.judge(out, Judgement::Revoked, 1000, now);
    cluster.run_for(Duration::from_secs(5));
    cluster.hosts.remove(&address(1));
    cluster.add(4, 1, 1, vec![]);
    cluster.seed(4, 2);
    cluster.run_until(Duration::from_secs(10), "mesh", |c| full_mesh(c, &[2, 4]));
    cluster.seed(4, 3);
    cluster.run_for(Duration::from_secs(10));
    assert!(!cluster.reaches(4, 3) && cluster.host(4).node.verdicts().any(|v| v.peer == out));
}

#[test]
fn only_listed_hosts_are_admitted_and_the_list_counts_at_once() {
    let mut cluster = trio();
    let ids = [1, 2, 3].map(|n| cluster.host(n).node.id());
    let now = cluster.now;
    for n in 1..=2 {
        cluster.host(n).node.set_admission(Admission::Allowlist([ids[0], ids[1]].into()), now);
    }
    cluster.run_for(Duration::from_secs(10));
    assert!(full_mesh(&mut cluster, &[1, 2]) && !cluster.reaches(1, 3) && !cluster.reaches(3, 1));
    let now = cluster.now;
    for n in 1..=2 {
        cluster.host(n).node.set_admission(Admission::Allowlist(ids.into()), now);
    }
    cluster.run_until(Duration::from_secs(30), "listed again", |c| full_mesh(c, &[1, 2, 3]));
    assert_eq!(cluster.host(1).node.refused().count(), 0, "who is admitted is no longer refused");
}

#[test]
fn a_name_belongs_to_its_first_key_until_it_is_forgotten() {
    let mut cluster = trio();
    let first = cluster.host(3).node.id();
    cluster.hosts.remove(&address(3));
    let mut other = config(9, 1);
    other.name = "host3".into();
    cluster.start(9, other);
    cluster.populate(9);
    cluster.seed(9, 1);
    cluster.run_for(Duration::from_secs(15));
    assert!(!cluster.reaches(1, 9) && !cluster.reaches(9, 1));
    let refused: Vec<_> = cluster.host(1).node.refused().cloned().collect();
    assert_eq!(refused[0].reason, Refusal::NameTaken { keeper: first });
    assert_eq!(cluster.host(1).n_events(|e| matches!(e, Event::Refused(_))), 1, "said once");
    assert_eq!(cluster.host(1).node.find_peer("host3"), Ok(first), "the name is its owner's");
    let now = cluster.now;
    cluster.host(1).node.judge(first, Judgement::Forgotten, 1000, now);
    cluster.run_until(Duration::from_secs(30), "forgotten", |c| full_mesh(c, &[1, 2, 9]));
}

#[test]
fn a_token_brings_a_host_in_as_often_as_it_may() {
    let mut cluster = trio();
    let now = cluster.now;
    assert!(cluster.host(1).node.add_token(ClusterSecret::new([99; 32]), 1, Duration::from_secs(60), now));
    for n in [4, 5] {
        let mut joining = config(n, 99);
        joining.joining = true;
        cluster.start(n, joining);
        cluster.seed(n, 1);
    }
    let welcome = |c: &mut Cluster, n: u8| c.host(n).n_events(|e| matches!(e, Event::Welcome(_)));
    cluster.run_for(Duration::from_secs(12));
    let joined: Vec<u8> = [4, 5].into_iter().filter(|n| welcome(&mut cluster, *n) == 1).collect();
    let [joined] = joined[..] else { panic!("{joined:?} joined by a token for one") };
    assert_eq!(cluster.host(1).n_events(|e| matches!(e, Event::TokenUsed(_))), 1);
    let secret = cluster.host(joined).events.iter().find_map(|e| match e {
        Event::Welcome(secret) => Some(secret.clone()),
        _ => None,
    });
    cluster.start(
        joined,
        NodeConfig { secrets: secret.into_iter().collect(), incarnation: 2, ..config(joined, 0) },
    );
    cluster.populate(joined);
    cluster.seed(joined, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3, joined]));
}

#[test]
fn a_secret_is_rotated_without_a_gap() {
    let mut cluster = trio();
    let [old, new] = [1, 2].map(|n| ClusterSecret::new([n; 32]));
    let steps = [vec![old.clone(), new.clone()], vec![new.clone(), old.clone()], vec![new.clone()]];
    for secrets in steps {
        for n in 1..=3 {
            if secrets.len() == 1 {
                assert_eq!(cluster.host(n).node.peers_not_preferring(new.id()), []);
            }
            let now = cluster.now;
            cluster.host(n).node.set_secrets(secrets.clone(), now);
            for _ in 0..300 {
                cluster.step();
                assert!(full_mesh(&mut cluster, &[1, 2, 3]));
            }
        }
    }
    assert_eq!(cluster.host(1).node.peers_not_preferring(old.id()).len(), 2);
    cluster.add(4, 2, 1, vec![]);
    cluster.seed(4, 3);
    cluster.run_until(Duration::from_secs(10), "a new host", |c| full_mesh(c, &[1, 2, 3, 4]));
}

#[test]
fn hosts_without_a_network_in_common_keep_no_sessions() {
    let mut cluster = Cluster::new();
    for n in 1..=8 {
        cluster.start(n, config(n, 1));
        cluster.seed(n, 1);
    }
    (1..=2).for_each(|n| cluster.populate(n));
    cluster.run_until(Duration::from_secs(10), "mesh", |c| full_mesh(c, &[1, 2]));
    cluster.run_for(Duration::from_secs(400));
    assert!(cluster.reaches(1, 2));
    let now = cluster.now;
    let up = |n: u8, c: &mut Cluster| {
        c.host(n).node.peer_reports(now).iter().filter(|p| p.state == PathState::Up).count()
    };
    (1..=8).for_each(|n| assert_eq!(up(n, &mut cluster), 7, "host {n}"));
    let downs =
        (1..=8).map(|n| cluster.host(n).n_events(|e| matches!(e, Event::PeerDown { .. }))).sum::<usize>();
    assert_eq!(downs, 0);
}

#[test]
fn an_address_in_use_cannot_be_taken_by_a_later_claim() {
    let mut cluster = trio();
    cluster.run_for(Duration::from_secs(3));
    // Whoever has the lowest id of the three claims the address of another's container.
    let mut order = [1u8, 2, 3];
    order.sort_by_key(|n| cluster.host(*n).node.id());
    let [thief, owner, witness] = order;
    let id = EndpointId(format!("{:064x}", 200));
    let now = cluster.now;
    let stolen =
        EndpointRecord { id, network: NET, mac: mac(owner), addresses: vec![[10, 1, 0, owner].into()] };
    cluster.host(thief).node.set_endpoint(stolen, now);
    for _ in 0..1000 {
        cluster.step();
        assert!(cluster.reaches(witness, owner));
    }
    let said = |e: &Event| matches!(e, Event::DuplicateAddress { .. });
    assert!(cluster.host(witness).n_events(said) > 0);
    let keeper = cluster.host(owner).node.id();
    let told = cluster.host(witness).node.duplicates().any(|duplicate| duplicate.keeper == keeper);
    assert!(told, "the duplicate is not listed while it lasts");
    let now = cluster.now;
    cluster.host(thief).node.remove_endpoint(&EndpointId(format!("{:064x}", 200)), now);
    let gone = |c: &mut Cluster| c.host(witness).node.duplicates().next().is_none();
    cluster.run_until(Duration::from_secs(10), "the duplicate to go from the list", gone);
}

#[test]
fn an_echo_comes_back_with_and_without_a_session_and_not_from_the_dead() {
    let mut cluster = Cluster::new();
    for n in 1..=3 {
        cluster.start(n, config(n, 1));
        cluster.seed(n, 1);
    }
    cluster.run_for(Duration::from_secs(5));
    let echo = |cluster: &mut Cluster, id: PeerId| {
        let (now, mut rng) = (cluster.now, StdRng::seed_from_u64(9));
        cluster.host(2).node.send_echo(id, now, &mut rng)
    };
    let peer = cluster.host(3).node.id();
    let is_back = move |nonce: u32| {
        move |c: &mut Cluster| {
            let echoed =
                |e: &Event| matches!(e, Event::Echoed { id, nonce: n, .. } if (*id, *n) == (peer, nonce));
            c.host(2).n_events(echoed) == 1
        }
    };
    let nonce = echo(&mut cluster, peer).unwrap();
    cluster.run_until(Duration::from_secs(1), "an echo", is_back(nonce));
    // Without a network in common the session is given up; the next echo makes one.
    cluster.run_for(Duration::from_secs(400));
    cluster.host(2).events.clear();
    let nonce = echo(&mut cluster, peer).unwrap();
    cluster.run_until(Duration::from_secs(1), "an echo after a silence", is_back(nonce));

    cluster.hosts.remove(&address(3));
    cluster.host(2).events.clear();
    assert!(echo(&mut cluster, peer).is_some());
    cluster.run_for(Duration::from_secs(10));
    assert_eq!(cluster.host(2).n_events(|e| matches!(e, Event::Echoed { .. })), 0);
    assert_eq!(echo(&mut cluster, PeerId([9; 16])), None, "a peer that nobody knows");
    let counts = cluster.host(2).node.counts();
    assert!(counts.handshakes_made > 0 && counts.handshakes_failed > 0, "{counts:?}");
}

/// How long datagrams are under way where [`n_in_a_minute`] counts them.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// Datagrams of these lengths. Nothing but pongs is shorter than 47 bytes; those that answer no ping have 42.
fn n_in_a_minute(cluster: &mut Cluster, lens: std::ops::RangeInclusive<usize>) -> usize {
    let n_looks = Duration::from_secs(60).as_millis() / UNDER_WAY.as_millis();
    // Each is seen once.
    let looks = (0..n_looks).map(|_| {
        cluster.run_for(UNDER_WAY);
        cluster.late.iter().filter(|(_, (_, _, datagram))| lens.contains(&datagram.len())).count()
    });
    looks.sum()
}

#[test]
fn what_answers_is_not_answered() {
    let mut cluster = Cluster::new();
    for n in 1..=4 {
        cluster.start(n, config(n, 1));
        cluster.seed(n, 1);
        cluster.delays.extend((1..n).map(|m| ((address(m), address(n)), UNDER_WAY)));
    }
    cluster.run_for(Duration::from_secs(10));
    let n_pongs = n_in_a_minute(&mut cluster, 0..=42);
    // The mesh's probes, 120 of each host, have answers of its own; other messages of it have none.
    assert!(n_pongs < 100, "{n_pongs} in 60 s");
}

#[test]
fn of_two_neighbors_one_pings_for_both_and_each_knows_the_round_trip() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.delays.insert((address(1), address(2)), UNDER_WAY);
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    let n_pongs = n_in_a_minute(&mut cluster, 43..=46);
    // If both pinged every second, there were 120.
    assert!((45..=85).contains(&n_pongs), "{n_pongs} pings in 60 s");
    let now = cluster.now;
    for n in 1..=2 {
        let rtt = cluster.host(n).node.peer_reports(now)[0].rtt.expect("a round trip");
        assert!((40..60).contains(&rtt.as_millis()), "host {n}: {rtt:?}");
    }
}

#[test]
fn a_peer_that_had_nothing_to_say_is_not_taken_for_cut_off_when_it_becomes_a_neighbor() {
    let mut cluster = Cluster::new();
    for n in 1..=24 {
        cluster.start(n, config(n, 1));
        cluster.seed(n, 1);
    }
    // Long enough that there are sessions, and that the last word on each is old; each pair has words of its own.
    for quiet in [30, 7] {
        cluster.run_for(Duration::from_secs(quiet));
        (1..=24).for_each(|n| cluster.populate(n));
        cluster.run_for(Duration::from_secs(30));
        for n in 1..=24 {
            let now = cluster.now;
            cluster.host(n).node.leave_network(NET, now);
        }
    }
    for n in 1..=24 {
        let cut = |e: &Event| matches!(e, Event::PathChanged { direct: false, .. });
        assert_eq!(cluster.host(n).n_events(cut), 0, "host {n}");
    }
}

#[test]
fn what_is_said_of_a_bench_comes_to_the_peer_it_is_for_and_to_no_other() {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=3).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    let (now, from, to) = (cluster.now, cluster.host(1).node.id(), cluster.host(2).node.id());
    let said = BenchMessage::Begin { run: 7, time_ms: 100 };
    assert!(cluster.host(1).node.say_bench(to, &said, now));
    let hears = move |c: &mut Cluster, n: u8| {
        let is = |e: &Event| matches!(e, Event::Bench { id, message } if (*id, *message) == (from, said));
        c.host(n).n_events(is)
    };
    cluster.run_until(Duration::from_secs(1), "the message", |c| hears(c, 2) == 1);
    assert_eq!(hears(&mut cluster, 3), 0);
    assert!(!cluster.host(1).node.say_bench(PeerId([9; 16]), &said, now), "a peer that nobody knows");
}

#[test]
fn a_path_that_is_closed_one_way_is_told_on_both_sides() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    cluster.run_for(Duration::from_secs(10));
    cluster.carries.insert((address(1), address(2)), 0);
    let state = |n: u8| {
        move |c: &mut Cluster| {
            let now = c.now;
            matches!(c.host(n).node.peer_reports(now)[0].state, PathState::NoAnswer | PathState::Cut)
        }
    };
    cluster.run_until(Duration::from_secs(20), "the deaf side to say so", state(2));
    cluster.run_until(Duration::from_secs(20), "the side that still hears to say so", state(1));
    let now = cluster.now;
    let report = &cluster.host(1).node.peer_reports(now)[0];
    assert!(report.silent_for.is_some_and(|silent| silent < Duration::from_secs(5)), "{report:?}");

    cluster.carries.clear();
    cluster.run_until(Duration::from_secs(20), "mesh again", |c| full_mesh(c, &[1, 2]));
    let up = |c: &mut Cluster| {
        let now = c.now;
        (1..=2).all(|n| c.host(n).node.peer_reports(now)[0].state == PathState::Up)
    };
    cluster.run_until(Duration::from_secs(20), "both up again", up);
}
