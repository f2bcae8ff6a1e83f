//! What the paths between hosts carry, and what hosts do that have none.

#[path = "sim/sim.rs"]
mod sim;

use std::time::Duration;

use sim::*;
use weft_dataplane::PathView;
use weft_node::{Event, Judgement, PathState};

/// What host `a` knows of its path to host `b`.
fn path(cluster: &mut Cluster, a: u8, b: u8) -> PathView {
    let id = cluster.host(b).node.id();
    cluster.host(a).snapshot.peers.iter().find(|peer| peer.id == id).expect("a peer").path
}

const WHOLE: PathView = PathView { overlay_mtu: 1418, limited: false };

#[test]
fn what_each_direction_carries_is_known_within_a_second_and_shown() {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=3).for_each(|n| cluster.seed(n, 1));
    let limits = [(1, 2, 1280), (2, 1, 1400), (2, 3, 1399)];
    for (a, b, carries) in limits {
        cluster.carries.insert((address(a), address(b)), carries);
    }
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    let known = |c: &mut Cluster| {
        let limited = |c: &mut Cluster, a, b, mtu| {
            path(c, a, b).limited && (mtu - 8..=mtu).contains(&path(c, a, b).overlay_mtu)
        };
        limited(c, 1, 2, 1198) && limited(c, 2, 1, 1318) && limited(c, 2, 3, 1317) && path(c, 1, 3) == WHOLE
    };
    cluster.run_until(Duration::from_secs(2), "paths", known);
    assert_eq!(path(&mut cluster, 3, 2), WHOLE);
    let (now, id) = (cluster.now, cluster.host(2).node.id());
    let reports = cluster.host(1).node.peer_reports(now);
    let report = reports.iter().find(|report| report.id == Some(id)).unwrap();
    assert_eq!(report.path_mtu, Some(1198));
    // Rekeys forget nothing.
    for _ in 0..40_000 {
        cluster.step();
        assert_eq!(path(&mut cluster, 3, 2), WHOLE);
        assert!(path(&mut cluster, 1, 2).limited);
    }
}

#[test]
fn a_path_that_shrinks_or_grows_is_noticed() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    cluster.run_until(Duration::from_secs(1), "the whole path", |c| path(c, 1, 2) == WHOLE);
    cluster.carries.insert((address(1), address(2)), 1400);
    let count = |c: &mut Cluster| {
        let snapshot = &c.host(1).snapshot;
        snapshot.peers.iter().for_each(|peer| peer.counters.add_sent(1, 1000));
    };
    count(&mut cluster);
    let least = PathView { overlay_mtu: 1318, limited: true };
    cluster.run_until(Duration::from_secs(9), "less", |c| path(c, 1, 2) == least);
    cluster.carries.clear();
    cluster.run_until(Duration::from_secs(62), "more", |c| path(c, 1, 2) == WHOLE);
    // The interface's own word counts at once.
    let (now, id) = (cluster.now, cluster.host(2).node.id());
    cluster.carries.insert((address(1), address(2)), 1450);
    cluster.host(1).node.handle_too_long(id, 1432, now);
    cluster.step();
    assert_eq!(path(&mut cluster, 1, 2).overlay_mtu, 1198);
    cluster
        .run_until(Duration::from_secs(2), "what the interface takes", |c| path(c, 1, 2).overlay_mtu == 1368);
}

#[test]
fn a_silent_peer_is_not_taken_for_a_short_path() {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(2, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    cluster.run_until(Duration::from_secs(2), "paths", |c| path(c, 1, 2) == WHOLE);
    cluster.cut(1, 2);
    for _ in 0..3000 {
        cluster.step();
        assert!(!path(&mut cluster, 1, 2).limited, "containers were told of a cut as of a short path");
    }
    cluster.heal(1, 2);
    cluster.run_until(Duration::from_secs(20), "healed", |c| path(c, 1, 2) == WHOLE && full_mesh(c, &[1, 2]));
}

/// Four hosts, each of which reaches the others.
fn quartet() -> Cluster {
    let mut cluster = Cluster::new();
    (1..=4).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=4).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3, 4]));
    cluster.run_for(Duration::from_secs(3));
    cluster
}

/// Name of the relay between two hosts, as the first one shows it.
fn via(cluster: &mut Cluster, a: u8, b: u8) -> Option<String> {
    let (now, id) = (cluster.now, cluster.host(b).node.id());
    let reports = cluster.host(a).node.peer_reports(now);
    let report = reports.into_iter().find(|report| report.id == Some(id))?;
    assert_eq!(report.via.is_some(), report.state == PathState::Relayed, "{report:?}");
    report.via
}

#[test]
fn two_that_are_cut_off_talk_over_a_third_and_directly_again_when_they_can() {
    let mut cluster = quartet();
    cluster.cut(1, 2);
    let both = |c: &mut Cluster| c.reaches(1, 2) && c.reaches(2, 1);
    let took = cluster.run_until(Duration::from_secs(10), "a relay", both);
    assert!(took >= Duration::from_secs(1), "{took:?}: it was not cut");
    assert!(via(&mut cluster, 1, 2).is_some() && via(&mut cluster, 2, 1).is_some());
    // Neither rekeys nor attempts to reach each other directly leave a gap, and nobody is taken for dead.
    let end = cluster.now + Duration::from_secs(400);
    while cluster.now < end {
        cluster.step();
        assert!(both(&mut cluster), "after {:?}", cluster.now - cluster.start);
    }
    let downs = |c: &mut Cluster| {
        (1..=4).map(|n| c.host(n).n_events(|e| matches!(e, Event::PeerDown { .. }))).sum::<usize>()
    };
    assert_eq!(downs(&mut cluster), 0);
    // The way over the relay has its own MTU: 56 bytes less.
    assert_eq!(path(&mut cluster, 1, 2), PathView { overlay_mtu: 1362, limited: true });
    cluster.heal(1, 2);
    let direct = |c: &mut Cluster| {
        via(c, 1, 2).is_none() && via(c, 2, 1).is_none() && c.reaches(1, 2) && c.reaches(2, 1)
    };
    cluster.run_until(Duration::from_secs(12), "direct again", direct);
    cluster.run_until(Duration::from_secs(2), "the whole path", |c| path(c, 1, 2) == WHOLE);
    let n_handed_on = cluster.n_handed_on;
    cluster.run_for(Duration::from_secs(30));
    assert_eq!(cluster.n_handed_on, n_handed_on, "something still goes over the relay");
}

#[test]
fn another_relay_takes_over_and_the_session_stays() {
    let mut cluster = quartet();
    cluster.cut(1, 2);
    let both = |c: &mut Cluster| c.reaches(1, 2) && c.reaches(2, 1);
    cluster.run_until(Duration::from_secs(10), "a relay", both);
    cluster.run_for(Duration::from_secs(5));
    let first = via(&mut cluster, 1, 2).unwrap();
    assert_eq!(via(&mut cluster, 2, 1).as_ref(), Some(&first), "both ends choose alike");
    let dead: u8 = first.strip_prefix("host").unwrap().parse().unwrap();
    let other = format!("host{}", 7 - dead);
    cluster.hosts.remove(&address(dead));
    let taken_over = |c: &mut Cluster| {
        via(c, 1, 2).as_ref() == Some(&other) && via(c, 2, 1).as_ref() == Some(&other) && both(c)
    };
    cluster.run_until(Duration::from_secs(10), "the other relay", taken_over);
}

#[test]
fn the_relay_that_is_near_is_preferred() {
    let mut cluster = Cluster::new();
    for far in [3, 4] {
        for n in [1, 2] {
            cluster
                .delays
                .insert((address(n), address(far)), Duration::from_millis(if far == 3 { 60 } else { 10 }));
        }
    }
    (1..=4).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=4).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3, 4]));
    cluster.run_for(Duration::from_secs(20));
    cluster.cut(1, 2);
    cluster.run_until(Duration::from_secs(10), "a relay", |c| c.reaches(1, 2) && c.reaches(2, 1));
    assert_eq!(via(&mut cluster, 1, 2).as_deref(), Some("host4"));
    assert_eq!(via(&mut cluster, 2, 1).as_deref(), Some("host4"));
}

#[test]
fn a_cut_in_one_direction_is_a_cut() {
    let mut cluster = quartet();
    // Host 2 hears host 1, and is not heard.
    cluster.carries.insert((address(2), address(1)), 0);
    let both = |c: &mut Cluster| c.reaches(1, 2) && c.reaches(2, 1);
    cluster.run_until(Duration::from_secs(15), "a relay", both);
    for _ in 0..6000 {
        cluster.step();
        assert!(both(&mut cluster));
    }
    cluster.heal(1, 2);
    cluster.run_until(Duration::from_secs(12), "direct again", |c| {
        via(c, 1, 2).is_none() && via(c, 2, 1).is_none()
    });
}

#[test]
fn a_host_that_knows_nobody_else_is_found_over_a_relay() {
    let mut cluster = Cluster::new();
    cluster.cut(1, 3);
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.seed(1, 2);
    cluster.seed(3, 2);
    let took = cluster.run_until(Duration::from_secs(20), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[test]
fn without_anyone_who_reaches_both_nothing_is_sent_in_circles() {
    let mut cluster = quartet();
    // Two halves, and nobody between them.
    for (a, b) in [(1, 2), (1, 4), (3, 2), (3, 4)] {
        cluster.cut(a, b);
    }
    cluster.run_for(Duration::from_secs(30));
    let n_handed_on = cluster.n_handed_on;
    cluster.run_for(Duration::from_secs(60));
    assert_eq!(cluster.n_handed_on, n_handed_on, "datagrams go in circles");
    for (a, b) in [(1, 2), (1, 4), (3, 2), (3, 4)] {
        cluster.heal(a, b);
    }
    cluster.run_until(Duration::from_secs(30), "healed", |c| full_mesh(c, &[1, 2, 3, 4]));
}

#[test]
fn a_revoked_host_gets_nothing_handed_on() {
    let mut cluster = quartet();
    cluster.cut(1, 2);
    cluster.run_until(Duration::from_secs(10), "a relay", |c| c.reaches(1, 2) && c.reaches(2, 1));
    let (now, id) = (cluster.now, cluster.host(1).node.id());
    cluster.host(3).node.judge(id, Judgement::Revoked, 1, now);
    let out = |c: &mut Cluster| (2..=4).all(|n| sessions_with(c, n, id) == 0);
    cluster.run_until(Duration::from_secs(2), "out", out);
    let n_handed_on = cluster.n_handed_on;
    cluster.run_for(Duration::from_secs(60));
    assert_eq!(cluster.n_handed_on, n_handed_on);
}
