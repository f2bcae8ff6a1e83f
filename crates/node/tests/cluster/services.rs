//! Services: what managers publish, and what hosts make of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_node::{LiveService, ServiceSource};
use weft_services::Service;

use super::*;

const SWARM: &str = "u48gny859s078wz2qe8dulj4a";
/// How long a change may take to all hosts.
const SOON: Duration = Duration::from_millis(500);

fn container(n: u8) -> IpAddr {
    [10, 1, 0, n].into()
}

fn service(vip: u8, index: u64, tasks: &[u8]) -> Service {
    let tasks = tasks.iter().map(|n| container(*n)).collect();
    Service { network: NET, vip: container(vip), name: format!("s{vip}"), index, tasks }
}

impl Cluster {
    fn publish(&mut self, n: u8, services: &[Service]) {
        let now = self.now;
        self.host(n).node.publish_services(SWARM, services, now).unwrap();
    }

    fn services(&mut self, n: u8) -> Vec<LiveService> {
        self.host(n).node.services().networks.get(&NET).cloned().unwrap_or_default()
    }

    /// The tasks behind an address, as host `n` sees it.
    fn tasks(&mut self, n: u8, vip: u8) -> Option<BTreeSet<IpAddr>> {
        let found = self.services(n).into_iter().find(|live| live.service.vip == container(vip));
        found.map(|live| live.service.tasks)
    }

    fn source(&mut self, n: u8) -> ServiceSource {
        self.host(n).node.services().source.clone()
    }
}

fn tasks(of: &[u8]) -> Option<BTreeSet<IpAddr>> {
    Some(of.iter().map(|n| container(*n)).collect())
}

/// Hosts 1 and 2 have a container on the network, the manager 3 has none.
fn with_a_manager() -> Cluster {
    let mut cluster = Cluster::new();
    (1..=2).for_each(|n| cluster.add(n, 1, 1, vec![]));
    cluster.start(3, config(3, 1));
    cluster.seed(2, 1);
    cluster.seed(3, 1);
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    // Until a task that nobody has announced is taken for gone.
    cluster.run_for(Duration::from_secs(6));
    cluster
}

#[test]
fn a_manager_outside_the_network_tells_its_members() {
    let mut cluster = with_a_manager();
    assert_eq!(cluster.source(1), ServiceSource::None);
    cluster.publish(3, &[service(100, 1, &[1, 2])]);
    for n in 1..=2 {
        cluster.run_until(SOON, "told", |c| c.tasks(n, 100) == tasks(&[1, 2]));
    }
    let manager = cluster.host(3).node.id();
    assert_eq!(cluster.source(1), ServiceSource::Managers(vec![manager]));
    assert_eq!(cluster.services(1)[0].from, manager);
    assert!(cluster.host(1).node.take_services().is_some());
    assert!(cluster.host(1).node.take_services().is_none(), "it did not change since");
    cluster.publish(3, &[service(100, 2, &[2])]);
    cluster.run_until(SOON, "a task less", |c| c.tasks(1, 100) == tasks(&[2]));
    cluster.publish(3, &[]);
    cluster.run_until(SOON, "no service", |c| c.services(1).is_empty());
}

#[test]
fn a_task_that_no_living_host_has_announced_gets_no_connection() {
    let mut cluster = with_a_manager();
    cluster.publish(3, &[service(100, 1, &[1, 2, 50])]);
    cluster.run_until(SOON, "told", |c| c.tasks(1, 100) == tasks(&[1, 2]));
    assert_eq!(cluster.services(1)[0].n_published, 3);
    // Its container ends.
    let (now, id) = (cluster.now, EndpointId(format!("{:064x}", 2)));
    cluster.host(2).node.remove_endpoint(&id, now);
    cluster.run_until(SOON, "ended", |c| c.tasks(1, 100) == tasks(&[1]));
    cluster.populate(2);
    cluster.run_until(SOON, "back", |c| c.tasks(1, 100) == tasks(&[1, 2]));
    // Its host dies.
    cluster.hosts.remove(&address(2));
    cluster.run_until(Duration::from_secs(6), "host dead", |c| c.tasks(1, 100) == tasks(&[1]));
}

#[test]
fn what_is_known_outlives_the_manager_and_the_host() {
    let mut cluster = with_a_manager();
    cluster.publish(3, &[service(100, 1, &[1, 2])]);
    cluster.run_until(SOON, "told", |c| c.tasks(1, 100) == tasks(&[1, 2]));
    let now = cluster.now;
    cluster.host(3).node.doubt_services(now);
    cluster.run_until(SOON, "doubt", |c| c.source(1) == ServiceSource::LastKnown);
    assert_eq!(cluster.tasks(1, 100), tasks(&[1, 2]));
    cluster.hosts.remove(&address(3));
    // Longer than records of a dead host are held.
    cluster.run_for(Duration::from_secs(100));
    assert_eq!(cluster.tasks(1, 100), tasks(&[1, 2]));
    assert_eq!(cluster.source(1), ServiceSource::LastKnown);
    let known = cluster.host(1).node.known_services().clone();
    cluster.add(1, 1, 2, vec![]);
    cluster.seed(1, 2);
    let now = cluster.now;
    cluster.host(1).node.remember_services(known, now);
    assert_eq!(cluster.tasks(1, 100), tasks(&[1, 2]), "the others' word has yet to come");
    cluster.run_until(Duration::from_secs(5), "mesh", |c| full_mesh(c, &[1, 2]));
    assert_eq!(cluster.tasks(1, 100), tasks(&[1, 2]));
}

#[test]
fn of_two_managers_one_may_die() {
    let mut cluster = with_a_manager();
    cluster.publish(2, &[service(100, 5, &[1])]);
    cluster.publish(3, &[service(100, 6, &[1, 2])]);
    cluster.run_until(SOON, "the newer", |c| c.tasks(1, 100) == tasks(&[1, 2]));
    cluster.publish(2, &[service(100, 6, &[1, 2]), service(101, 6, &[2])]);
    cluster.run_until(SOON, "both", |c| c.services(1).len() == 2);
    cluster.hosts.remove(&address(3));
    cluster.run_for(Duration::from_secs(100));
    cluster.publish(2, &[service(101, 7, &[1])]);
    cluster.run_until(SOON, "the other's", |c| c.services(1).len() == 1 && c.tasks(1, 101) == tasks(&[1]));
}

#[test]
fn many_tasks_take_several_records() {
    let mut cluster = with_a_manager();
    let all: Vec<u8> = (1..=250).collect();
    cluster.publish(3, &[service(251, 1, &all)]);
    cluster.run_until(SOON, "told", |c| c.services(1).first().is_some_and(|live| live.n_published == 250));
    cluster.publish(3, &[service(251, 2, &[1, 2])]);
    cluster.run_until(SOON, "fewer", |c| c.services(1).first().is_some_and(|live| live.n_published == 2));
    let too_many: Vec<Service> = (0..1100)
        .map(|n: u16| Service {
            vip: [10, 2, n.to_be_bytes()[0], n.to_be_bytes()[1]].into(),
            ..service(1, 1, &[])
        })
        .collect();
    let now = cluster.now;
    assert!(cluster.host(3).node.publish_services(SWARM, &too_many, now).is_err());
    cluster.run_for(SOON);
    assert_eq!(cluster.services(1).len(), 1, "what was published stays");
}

#[test]
fn a_container_s_address_is_no_service_s_and_an_expelled_host_is_not_believed() {
    let mut cluster = with_a_manager();
    // Host 3 says that the address of a container is a service of its own.
    cluster.publish(3, &[service(2, u64::MAX, &[1]), service(100, 1, &[1])]);
    cluster.run_until(SOON, "told", |c| c.tasks(1, 100) == tasks(&[1]));
    assert_eq!(cluster.tasks(1, 2), None);
    let (now, liar) = (cluster.now, cluster.host(3).node.id());
    cluster.host(2).node.judge(liar, Judgement::Revoked, 1, now);
    cluster.run_until(SOON, "expelled", |c| c.services(1).is_empty());
    assert_eq!(cluster.source(1), ServiceSource::None);
}

#[test]
fn a_host_that_is_no_manager_any_more_withdraws() {
    let mut cluster = with_a_manager();
    cluster.publish(3, &[service(100, 1, &[1])]);
    cluster.run_until(SOON, "told", |c| c.tasks(1, 100) == tasks(&[1]));
    let now = cluster.now;
    cluster.host(3).node.withdraw_services(now);
    cluster.run_until(SOON, "withdrawn", |c| c.source(1) == ServiceSource::LastKnown);
    assert_eq!(cluster.tasks(1, 100), tasks(&[1]), "the last word stays");
}
