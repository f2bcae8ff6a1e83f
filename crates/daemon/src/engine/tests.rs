//! Without links: what is kept of dockerd's calls.

use std::sync::Weak;

use weft_driver::NetworkOptions;
use weft_netlink::{FakeFirewall, FakeWiring};

use super::*;
use crate::run::collect_garbage;
use crate::settings::Settings;
use crate::store::Store;

const NETWORK: &str = "u48gny859s078wz2qe8dulj4a";

fn engine() -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (links, firewall) = (Box::new(FakeWiring::new()), Box::new(FakeFirewall::new()));
    (Engine(Arc::new(Core::new(Settings::new(true), store, links, firewall).unwrap())), dir)
}

fn creation(mtu: u16) -> CreateNetwork {
    let options = NetworkOptions { mtu: Some(mtu), ..NetworkOptions::default() };
    CreateNetwork {
        network_id: NETWORK.to_owned(),
        options,
        ipv4: Vec::new(),
        ipv6: Vec::new(),
        internal: false,
    }
}

/// Puts a container on the network, as a daemon finds it in its state after a restart.
async fn populate(engine: &Engine, making: Weak<()>) {
    put_endpoint(engine, "1", making).await;
}

async fn put_endpoint(engine: &Engine, digit: &str, making: Weak<()>) {
    let endpoint = CreateEndpoint {
        network_id: NETWORK.to_owned(),
        endpoint_id: digit.repeat(64),
        address: Some("10.0.1.2/24".parse().unwrap()),
        address_v6: None,
        mac: "02:42:0a:00:01:02".parse().unwrap(),
    };
    let record = EndpointRecord { endpoint, sandbox_key: None, multicast_route: false };
    let id = record.endpoint.endpoint_id.clone();
    engine.0.topology.write().await.endpoints.insert(id, Endpoint { making, ..Endpoint::new(record) });
}

/// The MTU asked for, as memory and disk have it.
async fn mtus(engine: &Engine) -> (Option<u16>, Option<u16>) {
    let known = engine.0.topology.read().await.networks[NETWORK].record.clone();
    let kept = engine.0.store.networks().unwrap().pop().unwrap();
    (known.network.options.mtu, kept.network.options.mtu)
}

#[tokio::test]
async fn a_network_in_use_is_not_taken_for_empty_when_it_is_created_again() {
    let (engine, _dir) = engine();
    engine.create_network(creation(1400)).await.unwrap();
    let empty_since = async || engine.0.topology.read().await.networks[NETWORK].empty_since;
    assert!(empty_since().await.is_some());
    populate(&engine, Weak::new()).await;
    engine.create_network(creation(1400)).await.unwrap();
    assert_eq!(empty_since().await, None);
}

#[tokio::test]
async fn other_options_count_on_disk_and_in_memory_alike_and_never_under_containers() {
    let (engine, _dir) = engine();
    engine.create_network(creation(1400)).await.unwrap();
    engine.create_network(creation(1300)).await.unwrap();
    assert_eq!(mtus(&engine).await, (Some(1300), Some(1300)));
    populate(&engine, Weak::new()).await;
    engine.create_network(creation(1350)).await.unwrap();
    assert_eq!(mtus(&engine).await, (Some(1300), Some(1300)));
}

#[tokio::test]
async fn an_endpoint_whose_links_are_being_made_is_not_taken_for_one_whose_container_is_gone() {
    let (engine, _dir) = engine();
    engine.create_network(creation(1400)).await.unwrap();
    let making = Arc::new(());
    populate(&engine, Arc::downgrade(&making)).await;
    let n_endpoints = async || engine.0.topology.read().await.endpoints.len();
    collect_garbage(&engine.0).await;
    assert_eq!(n_endpoints().await, 1);
    drop(making);
    collect_garbage(&engine.0).await;
    assert_eq!(n_endpoints().await, 0);
}

#[tokio::test]
async fn one_endpoint_of_a_sandbox_has_the_multicast() {
    let (engine, _dir) = engine();
    engine.create_network(creation(1400)).await.unwrap();
    put_endpoint(&engine, "1", Weak::new()).await;
    put_endpoint(&engine, "2", Weak::new()).await;
    let (first, second) = ("1".repeat(64), "2".repeat(64));
    let mut topology = engine.0.topology.write().await;
    assert!(topology.wants_multicast_route(&first, "/netns/a"));
    let endpoint = topology.endpoints.get_mut(&first).unwrap();
    (endpoint.record.sandbox_key, endpoint.record.multicast_route) = (Some("/netns/a".to_owned()), true);
    assert!(topology.wants_multicast_route(&first, "/netns/a"), "the same answer when it is asked again");
    assert!(!topology.wants_multicast_route(&second, "/netns/a"));
    assert!(topology.wants_multicast_route(&second, "/netns/b"));
    topology.endpoints.get_mut(&second).unwrap().record.endpoint.address = None;
    assert!(!topology.wants_multicast_route(&second, "/netns/b"), "there is no IPv4");
    let network = topology.networks.get_mut(NETWORK).unwrap();
    network.record.network.options.multicast = weft_driver::OnByDefault(false);
    assert!(!topology.wants_multicast_route(&first, "/netns/a"));
}
