//! What comes and goes leaves nothing in memory. It has a process of its own, as every allocation in it is counted.

#[path = "sim/sim.rs"]
mod sim;

use std::time::Duration;

use sim::*;
use weft_node::{EndpointRecord, LocalNetwork};
use weft_wire::{EndpointId, Mac, NetworkId};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// One round of churn: a network comes to all hosts with endpoints never seen before, and goes with them.
fn round(cluster: &mut Cluster, number: u32) {
    const NETWORK: NetworkId = NetworkId::from_u48(0xdef);
    let ids = |host: u8| {
        (0..17u32)
            .map(move |n| (number * 100 + u32::from(host)) * 100 + n)
            .map(|n| (n, EndpointId(format!("{n:064x}"))))
    };
    for host in 1..=3 {
        let now = cluster.now;
        let node = &mut cluster.host(host).node;
        node.join_network(
            LocalNetwork { id: NETWORK, overlay_mtu: 1418, spoof_check: true, multicast: true },
            now,
        );
        for (n, id) in ids(host) {
            let [a, b, c, d] = n.to_be_bytes();
            let record = EndpointRecord {
                id,
                network: NETWORK,
                mac: Mac([2, 0x42, a, b, c, d]),
                addresses: vec![[10, b, c, d].into()],
            };
            node.set_endpoint(record, now);
        }
    }
    let all = |c: &mut Cluster| {
        (1..=3).all(|n| c.host(n).snapshot.networks.get(&NETWORK).is_some_and(|net| net.fdb.len() == 34))
    };
    cluster.run_until(Duration::from_secs(10), "all to know all", all);
    for host in 1..=3 {
        let now = cluster.now;
        let node = &mut cluster.host(host).node;
        for (_, id) in ids(host) {
            node.remove_endpoint(&id, now);
        }
        node.leave_network(NETWORK, now);
    }
    cluster.run_for(Duration::from_secs(20));
    for host in cluster.hosts.values_mut() {
        host.events = Vec::new();
    }
}

#[test]
fn endpoints_that_come_and_go_leave_nothing() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| cluster.add(n, 1, 1, vec![]));
    (2..=3).for_each(|n| cluster.seed(n, 1));
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2, 3]));
    // The least of several rounds, as between two of them sessions are replaced.
    let mut rounds = (0..24).map(|number| {
        round(&mut cluster, number);
        dhat::HeapStats::get().curr_bytes
    });
    let first = rounds.by_ref().take(12).min().unwrap();
    let last = rounds.min().unwrap();
    // Tables grow by powers of two as they need, which is not the endpoints'.
    assert!(last <= first + first / 50, "{first} bytes after some rounds, {last} after as many more");
}
