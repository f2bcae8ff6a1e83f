//! The mesh in virtual time: safety at every step, liveness once the network lets it.
//!
//! Small worlds run always; those marked `long` take minutes: `cargo test --profile quick -p weft-mesh --test sim -- --ignored`.

#[path = "sim/world.rs"]
mod world;

use std::time::Duration;

use rand::RngExt;
use world::{World, network};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// `n` hosts, three seeds, each in two of `n / 5` networks with an endpoint in each.
fn cluster(seed: u64, n: usize, loss: f64) -> World {
    let mut world = World::new(seed, n);
    world.loss = loss;
    world.seed_with_first(3);
    let n_networks = (n / 5).clamp(1, 20);
    for i in 0..n {
        for k in [i % n_networks, (i * 7 + 3) % n_networks] {
            world.join(i, network(k));
            world.put(i, network(k), 0);
        }
    }
    world
}

fn settled(world: &World) -> bool {
    world.all_see_all() && world.n_wrong_records() == 0
}

/// Hosts that die in a life, one after the other.
const N_DEATHS: usize = 5;

/// What is measured of one life.
struct Figures {
    seen: Duration,
    joined: Duration,
    rate: world::Rate,
    /// The median.
    death: Duration,
    healed: Duration,
}

impl Figures {
    /// The promises, for a settled cluster of up to a thousand with a loss of up to 1 %.
    fn hold(&self, join_limit: Duration) {
        assert!(self.joined <= join_limit && self.seen <= join_limit, "joined {:?}", self.joined);
        assert!(self.rate.wire <= 1000.0, "{:?}", self.rate);
        assert!(self.death <= secs(6), "death {:?}", self.death);
        assert!(self.healed <= secs(30), "healed {:?}", self.healed);
    }
}

/// Cold start, a quiet minute, some deaths, a split and its healing.
fn life(seed: u64, n: usize, loss: f64, quiet: Duration) -> Figures {
    let wall = std::time::Instant::now();
    let mut world = cluster(seed, n, loss);
    world.boot_all(secs(1));
    let seen = world.run_until(secs(60), "all see all", World::all_see_all) + secs(1);
    let joined = seen + world.run_until(secs(60), "all records", settled);
    let n_bytes: u64 = world.nodes.iter().map(|node| node.n_bytes).sum();
    println!(
        "{n} hosts, {loss} loss: seen {seen:?}, joined {joined:?}, {} kB sent a host [{:?}]",
        n_bytes / n as u64 / 1000,
        wall.elapsed()
    );
    world.judge_downs = true;
    world.run_for(secs(20));
    let rate = world.rate(quiet);
    println!(
        "settled for {quiet:?}: {:.0} B/s of messages, {:.0} B/s with headers (most {:.0}), {:.1} messages/s, \
         {} false downs [{:?}]",
        rate.payload,
        rate.wire,
        rate.most,
        rate.messages,
        world.n_false_downs,
        wall.elapsed()
    );

    // How soon a dead host happens to be probed differs much.
    let mut deaths = Vec::new();
    for victim in n - N_DEATHS..n {
        world.kill(victim);
        deaths.push(world.run_until(secs(30), "death seen", World::all_see_all));
        world.boot(victim);
        world.run_until(secs(30), "back", settled);
    }
    let n_false_downs = world.n_false_downs;
    world.judge_downs = false;
    deaths.sort_unstable();
    let death = deaths[deaths.len() / 2];
    println!("deaths seen by all after {deaths:?} [{:?}]", wall.elapsed());

    for (i, node) in world.nodes.iter_mut().enumerate() {
        node.side = (i % 2) as u32;
    }
    for part in 0..6 {
        println!("split, 10 s from {}: {:.0} B/s with headers", part * 10, world.rate(secs(10)).wire);
    }
    world.nodes.iter_mut().for_each(|node| node.side = 0);
    let together = world.run_until(secs(120), "split healed", World::all_see_all);
    let healed = together + world.run_until(secs(120), "records after split", settled);
    println!("split: all see all {together:?}, healed {healed:?} [{:?}]", wall.elapsed());
    assert_eq!(n_false_downs, 0, "seed {seed}");
    Figures { seen, joined, rate, death, healed }
}

#[test]
fn forty_hosts_live() {
    life(1, 40, 0.01, secs(30)).hold(secs(10));
}

#[test]
#[ignore = "long"]
fn one_hundred_hosts_live() {
    life(2, 100, 0.0, secs(600)).hold(secs(10));
    life(2, 100, 0.01, secs(600)).hold(secs(10));
    life(2, 100, 0.05, secs(600));
}

#[test]
#[ignore = "long"]
fn three_hundred_hosts_live() {
    life(3, 300, 0.0, secs(600)).hold(secs(10));
    life(3, 300, 0.01, secs(600)).hold(secs(10));
    life(3, 300, 0.05, secs(600));
}

#[test]
#[ignore = "long"]
fn one_thousand_hosts_live() {
    life(4, 1000, 0.01, secs(600)).hold(secs(10));
}

#[test]
#[ignore = "long"]
fn one_thousand_hosts_live_without_loss_and_with_much() {
    life(5, 1000, 0.0, secs(120)).hold(secs(10));
    life(6, 1000, 0.05, secs(120));
}

#[test]
fn an_endpoint_is_everywhere_in_200_ms() {
    let mut world = cluster(10, 40, 0.01);
    world.boot_all(secs(1));
    world.run_until(secs(30), "settled", settled);
    for round in 1..20 {
        let i = world.rng.random_range(0..40);
        let of = *world.nodes[i].networks.keys().next().unwrap();
        let tag = world.put(i, of, round);
        world.run_for(Duration::from_millis(200));
        assert_eq!(world.n_wrong_records(), 0, "round {round}");
        world.remove(i, of, tag);
        world.run_for(Duration::from_millis(200));
        assert_eq!(world.n_wrong_records(), 0, "round {round}");
    }
}

#[test]
fn a_newcomer_to_a_network_and_its_members_know_each_other_at_once() {
    let mut world = cluster(11, 40, 0.0);
    world.boot_all(secs(1));
    world.run_until(secs(30), "settled", settled);
    world.run_for(secs(5));
    world.join(7, network(20));
    world.put(7, network(20), 1);
    for i in [9, 11, 13] {
        world.join(i, network(20));
        world.put(i, network(20), 1);
        world.run_for(Duration::from_millis(200));
        assert_eq!(
            world.mesh(i).endpoints(network(20)).count(),
            world.mesh(7).endpoints(network(20)).count()
        );
    }
    world.run_until(secs(10), "all know the members", settled);
    world.leave(9, network(20));
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.mesh(9).endpoints(network(20)).count(), 0);
    assert_eq!(world.mesh(7).endpoints(network(20)).count(), 3);
    world.join(9, network(20));
    world.put(9, network(20), 1);
    world.run_until(secs(10), "back in", settled);
}

#[test]
fn moves_take_effect_in_either_order_and_duplicates_are_told() {
    let mut world = World::new(12, 5);
    world.seed_with_first(1);
    for i in 0..5 {
        world.join(i, network(0));
    }
    world.boot_all(secs(1));
    world.run_until(secs(10), "settled", settled);
    let tag = world.put(1, network(0), 1);
    let endpoint = world.nodes[1].networks[&network(0)][&tag].clone();
    let mac = endpoint.mac;
    let host = |world: &World, at: usize| world.mesh(at).endpoint_by_mac(network(0), mac).unwrap().0;
    world.run_for(secs(1));
    world.remove(1, network(0), tag);
    world.set(2, network(0), endpoint.clone());
    world.run_for(Duration::from_millis(200));
    assert!((0..5).all(|at| host(&world, at) == world.nodes[2].id));
    world.set(3, network(0), endpoint.clone());
    world.run_for(Duration::from_millis(500));
    world.remove(2, network(0), tag);
    world.run_for(Duration::from_millis(200));
    assert!((0..5).all(|at| host(&world, at) == world.nodes[3].id));
    world.run_for(secs(5));
    assert!(world.nodes.iter().all(|node| node.n_duplicates == 0));
    world.set(4, network(0), endpoint);
    world.run_for(secs(3));
    let keeper = world.nodes[3].id.min(world.nodes[4].id);
    assert!((0..5).all(|at| host(&world, at) == keeper));
    assert!(world.nodes.iter().all(|node| node.n_duplicates == 2), "one for the MAC, one for the IP");
    let (keeper, other) = if keeper == world.nodes[3].id { (3, 4) } else { (4, 3) };
    world.kill(keeper);
    world.run_for(secs(8));
    assert!((0..5).filter(|at| *at != keeper).all(|at| host(&world, at) == world.nodes[other].id));
}

#[test]
fn a_peer_that_is_down_keeps_its_endpoints_for_a_minute_and_one_that_left_not() {
    let mut world = cluster(13, 10, 0.0);
    world.boot_all(secs(1));
    world.run_until(secs(10), "settled", settled);
    let n = |world: &World, at: usize, of: usize| {
        let id = world.nodes[of].id;
        world.mesh(at).endpoints(network(0)).filter(|(peer, _)| *peer == id).count()
    };
    let before = n(&world, 0, 4);
    assert!(before > 0);
    world.kill(4);
    world.run_for(secs(10));
    assert!(!world.mesh(0).is_up(world.nodes[4].id));
    assert_eq!(n(&world, 0, 4), before);
    world.run_for(secs(60));
    assert_eq!(n(&world, 0, 4), 0);

    assert!(n(&world, 0, 6) > 0);
    world.with(6, |mesh, now| mesh.leave(now));
    world.run_for(secs(2));
    assert!(world.mesh(6).has_left());
    world.kill(6);
    assert!(settled(&world));
    assert_eq!(n(&world, 0, 6), 0);
    world.boot(4);
    world.boot(6);
    world.run_until(secs(10), "both back", settled);
}

#[test]
fn twins_are_found() {
    let mut world = cluster(14, 10, 0.0);
    world.boot_all(secs(1));
    world.run_until(secs(10), "settled", settled);
    let twin = world.add_twin(5);
    world.run_for(secs(5));
    world.boot(twin);
    world.run_for(secs(30));
    let id = world.nodes[5].id;
    let told = world.nodes.iter().filter(|node| node.twins.contains(&id)).count();
    assert!(told >= 8, "{told} hosts were told");
}

#[test]
fn a_restart_is_no_twin() {
    let mut world = cluster(15, 10, 0.0);
    world.boot_all(secs(1));
    world.run_until(secs(10), "settled", settled);
    for i in 0..5 {
        world.kill(i);
        world.run_for(secs(1));
        world.boot(i);
        world.run_for(secs(3));
    }
    world.run_until(secs(10), "settled again", settled);
    assert!(world.nodes.iter().all(|node| node.twins.is_empty()));
}

#[test]
fn islands_of_seeds_become_one() {
    let mut world = cluster(16, 30, 0.01);
    let addresses: Vec<_> = world.nodes.iter().map(|node| node.address).collect();
    for (i, node) in world.nodes.iter_mut().enumerate() {
        node.seeds = vec![addresses[i / 10 * 10]];
    }
    world.nodes[5].seeds.push(addresses[10]);
    world.nodes[15].seeds.push(addresses[20]);
    // Those that tie the islands together come last.
    for i in (0..30).filter(|i| *i != 5 && *i != 15) {
        world.boot(i);
    }
    world.run_for(secs(30));
    assert!(!world.all_see_all());
    world.boot(5);
    world.boot(15);
    world.run_until(secs(15), "one cluster", settled);
}

#[test]
fn restart_storms_settle() {
    for seed in 17..19 {
        let mut world = cluster(seed, 30, 0.01);
        world.boot_all(secs(1));
        world.run_until(secs(30), "settled", settled);
        for _ in 0..3 {
            for _ in 0..12 {
                let i = world.rng.random_range(0..30);
                world.kill(i);
                world.run_for(Duration::from_millis(30));
                world.boot(i);
            }
            world.run_for(secs(1));
        }
        world.run_until(secs(20), "settled after the storm", settled);
    }
}

fn storm(seed: u64, n: usize) {
    let mut world = cluster(seed, n, 0.01);
    world.boot_all(secs(1));
    world.run_until(secs(30), "settled", settled);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (0..n).rev() {
        let k = world.rng.random_range(0..=i);
        order.swap(i, k);
    }
    for restarted in order[..n / 3].chunks(n / 30) {
        restarted.iter().for_each(|i| world.kill(*i));
        world.run_for(Duration::from_millis(300));
        restarted.iter().for_each(|i| world.boot(*i));
    }
    let took = world.run_until(secs(30), "settled after the storm", settled);
    println!("{n} hosts, a third restarted within 3 s: settled {took:?} after");
}

#[test]
#[ignore = "long"]
fn large_restart_storms_settle() {
    storm(30, 300);
    storm(31, 1000);
}

#[test]
#[ignore = "long"]
fn large_islands_become_one() {
    let mut world = cluster(32, 300, 0.01);
    let addresses: Vec<_> = world.nodes.iter().map(|node| node.address).collect();
    for (i, node) in world.nodes.iter_mut().enumerate() {
        node.seeds = vec![addresses[i / 100 * 100]];
    }
    world.nodes[5].seeds.push(addresses[100]);
    world.nodes[105].seeds.push(addresses[200]);
    for i in (0..300).filter(|i| *i != 5 && *i != 105) {
        world.boot(i);
    }
    world.run_for(secs(60));
    world.boot(5);
    world.boot(105);
    let took = world.run_until(secs(30), "one cluster", settled);
    println!("three islands of 100 became one in {took:?}");
}

#[test]
fn a_split_heals() {
    let mut world = cluster(20, 30, 0.01);
    world.boot_all(secs(1));
    world.run_until(secs(30), "settled", settled);
    for sides in [2, 3] {
        for (i, node) in world.nodes.iter_mut().enumerate() {
            node.side = i as u32 % sides;
        }
        world.run_for(secs(90));
        world.nodes.iter_mut().for_each(|node| node.side = 0);
        world.run_until(secs(30), "healed", settled);
    }
}

/// Everything at once: changes, restarts, flaps and splits under loss, and a member that lies.
fn chaos(seed: u64, n: usize) {
    let mut world = cluster(seed, n, 0.05);
    world.traitor = Some(n - 1);
    world.boot_all(secs(2));
    for _ in 0..120 {
        let i = world.rng.random_range(0..n - 1);
        match world.rng.random_range(0..8) {
            0 => {
                world.kill(i);
                world.run_for(Duration::from_millis(300));
                world.boot(i);
            }
            1 => world.nodes[i].side = 1,
            2 | 3 => world.nodes.iter_mut().for_each(|node| node.side = 0),
            4 => {
                let of = network(world.rng.random_range(0..3));
                world.join(i, of);
            }
            5 => {
                if let Some(of) = world.nodes[i].networks.keys().next().copied() {
                    world.leave(i, of);
                }
            }
            6 => {
                let tags =
                    world.nodes[i].networks.iter().find_map(|(of, all)| Some((*of, *all.keys().next()?)));
                if let Some((of, tag)) = tags {
                    world.remove(i, of, tag);
                }
            }
            _ => {
                if let Some(of) = world.nodes[i].networks.keys().next().copied() {
                    let n = world.rng.random_range(0..4);
                    world.put(i, of, n);
                }
            }
        }
        let pause = world.rng.random_range(1..1500);
        world.run_for(Duration::from_millis(pause));
    }
    world.nodes.iter_mut().for_each(|node| node.side = 0);
    world.traitor = None;
    world.loss = 0.01;
    world.run_until(secs(60), "settled after chaos", settled);
}

#[test]
fn chaos_is_survived() {
    for seed in 100..102 {
        chaos(seed, 12);
    }
}

#[test]
#[ignore = "long"]
fn much_chaos_is_survived() {
    for seed in 1000..1200 {
        println!("seed {seed}");
        chaos(seed, 30);
    }
    for seed in 2000..2006 {
        chaos(seed, 150);
    }
}

#[test]
fn both_ends_choose_the_same_relay_and_never_a_dead_or_cut_one() {
    let mut world = cluster(21, 12, 0.0);
    world.boot_all(secs(1));
    world.run_until(secs(10), "settled", settled);
    let (a, b) = (world.nodes[2].id, world.nodes[3].id);
    world.with(2, |mesh, _| mesh.peer_unreachable(b));
    world.run_for(secs(3));
    assert!(world.mesh(3).is_cut(a, b));
    let relay = world.mesh(2).relay_for(b).unwrap();
    assert_eq!(world.mesh(3).relay_for(a), Some(relay));
    world.with(3, |mesh, _| mesh.peer_unreachable(relay));
    world.run_for(secs(3));
    let second = world.mesh(2).relay_for(b).unwrap();
    assert_ne!(second, relay);
    assert_eq!(world.mesh(3).relay_for(a), Some(second));
    let dies = world.nodes.iter().position(|node| node.id == second).unwrap();
    world.kill(dies);
    world.run_for(secs(8));
    let third = world.mesh(2).relay_for(b).unwrap();
    assert!(third != second && third != relay);
    world.with(2, |mesh, _| mesh.peer_reachable(b));
    world.run_for(secs(3));
    assert!(!world.mesh(3).is_cut(a, b));
}
