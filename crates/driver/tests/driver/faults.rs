//! Which call shows what is wrong, on which engine.

use serde_json::{Value, json};
use weft_driver::Scope;

use crate::fake::{Engine, NEWER, OLDER};

fn network(options: Value) -> Value {
    json!({ "NetworkID": "n1", "Options": { "com.docker.network.generic": options }, "IPv4Data": [], "IPv6Data": [] })
}

fn endpoint() -> Value {
    json!({ "NetworkID": "n1", "EndpointID": "e1", "Interface": { "Address": "10.0.0.2/24" }, "Options": {} })
}

fn ids() -> Value {
    json!({ "NetworkID": "n1", "EndpointID": "e1" })
}

fn mac() -> Value {
    json!({ "Interface": { "MacAddress": "02:42:0a:00:00:02" } })
}

/// Creates the network, then asserts that the fault is shown where this engine takes it, and leaves nothing behind.
async fn refused_in_swarm(engine: &Engine, host: &str, options: Value, create_endpoint: Value, text: &str) {
    assert_eq!(engine.call("CreateNetwork", network(options)).await, json!({}));
    let refusal = if host == NEWER {
        engine.refusal("CreateEndpoint", create_endpoint).await
    } else {
        assert_eq!(engine.call("CreateEndpoint", create_endpoint).await, mac());
        engine.refusal("Join", ids()).await
    };
    assert!(refusal.contains(text), "{refusal}");
    for call in ["Leave", "DeleteEndpoint"] {
        assert_eq!(engine.call(call, ids()).await, json!({}));
    }
    assert!(engine.fake.with(|s| s.endpoints.is_empty()));
    let after = engine.refusal("Join", ids()).await;
    assert!(after.contains("e1") || after.contains(text), "{after}");
}

#[tokio::test]
async fn a_bad_option_in_swarm() {
    for host in [OLDER, NEWER] {
        let engine = Engine::new(Scope::Global, host);
        let given = json!({ "com.docker.network.driver.mtu": "9", "weft.id": "a" });
        let answer = engine.call("AllocateNetwork", json!({ "NetworkID": "n1", "Options": given })).await;
        assert_eq!(answer, json!({ "Options": given }));
        refused_in_swarm(&engine, host, given, endpoint(), "com.docker.network.driver.mtu").await;
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_ready_in_swarm() {
    for host in [OLDER, NEWER] {
        let engine = Engine::new(Scope::Global, host);
        engine.fake.with(|s| s.not_ready = Some("no cluster secret: run weft init".to_owned()));
        refused_in_swarm(&engine, host, json!({}), endpoint(), "run weft init").await;
        engine.fake.with(|s| s.not_ready = None);
        assert_eq!(engine.call("CreateEndpoint", endpoint()).await, mac());
        assert!(engine.call("Join", ids()).await.get("InterfaceName").is_some());
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_ready_still_tidies_up() {
    for scope in [Scope::Global, Scope::Local] {
        let engine = Engine::new(scope, NEWER);
        engine.call("CreateNetwork", network(json!({}))).await;
        engine.call("CreateEndpoint", endpoint()).await;
        engine.call("Join", ids()).await;
        engine.fake.with(|s| s.not_ready = Some("port in use".to_owned()));
        let node = json!({ "DiscoveryType": 1, "DiscoveryData": { "Address": "10.98.0.2" } });
        engine.call("GetCapabilities", Value::Null).await;
        for call in ["Leave", "DeleteEndpoint", "DeleteNetwork", "FreeNetwork"] {
            assert_eq!(engine.call(call, ids()).await, json!({}), "{call}");
        }
        assert_eq!(engine.call("DiscoverNew", node.clone()).await, json!({}));
        assert!(engine.fake.with(|s| s.endpoints.is_empty() && s.networks.is_empty() && s.nodes.len() == 1));
        assert_eq!(engine.call("DiscoverDelete", node).await, json!({}));
        assert!(engine.fake.with(|s| s.nodes.is_empty()));
    }
}

#[tokio::test]
async fn an_unknown_driver_opt_in_swarm() {
    for host in [OLDER, NEWER] {
        let engine = Engine::new(Scope::Global, host);
        let mut bad = endpoint();
        bad["Options"] = json!({ "dopt": "x" });
        refused_in_swarm(&engine, host, json!({}), bad, "option dopt is not known").await;
    }
}

#[tokio::test]
async fn a_failed_endpoint_in_swarm() {
    for host in [OLDER, NEWER] {
        let engine = Engine::new(Scope::Global, host);
        engine.fake.with(|s| s.fail_create_endpoint = Some("no memory for a veth".to_owned()));
        refused_in_swarm(&engine, host, json!({}), endpoint(), "no memory for a veth").await;
    }
}

#[tokio::test]
async fn a_failed_network_in_swarm_is_tried_again_with_its_first_endpoint() {
    for host in [OLDER, NEWER] {
        let engine = Engine::new(Scope::Global, host);
        engine.fake.with(|s| s.fail_create_network = Some("no memory for a bridge".to_owned()));
        refused_in_swarm(&engine, host, json!({}), endpoint(), "no memory for a bridge").await;
        engine.fake.with(|s| s.fail_create_network = None);
        assert_eq!(engine.call("CreateEndpoint", endpoint()).await, mac());
        assert!(engine.fake.with(|s| s.networks.contains_key("n1") && s.endpoints.contains_key("e1")));
        assert!(engine.call("Join", ids()).await.get("InterfaceName").is_some());
    }
}

#[tokio::test]
async fn local_scope_refuses_on_create_network() {
    for host in [OLDER, NEWER] {
        let engine = Engine::new(Scope::Local, host);
        let text = engine.refusal("CreateNetwork", network(json!({ "foo": "bar" }))).await;
        assert!(text.contains("option foo is not known") && text.contains("weft.id"), "{text}");
        engine.fake.with(|s| s.not_ready = Some("port in use".to_owned()));
        assert_eq!(engine.refusal("CreateNetwork", network(json!({}))).await, "port in use");
        engine.fake.with(|s| (s.not_ready, s.fail_create_network) = (None, Some("no bridge".to_owned())));
        assert_eq!(engine.refusal("CreateNetwork", network(json!({}))).await, "no bridge");
        assert!(engine.fake.with(|s| s.networks.is_empty()));
    }
}

#[tokio::test]
async fn what_is_unknown_is_named_where_it_matters_and_passed_over_where_not() {
    for (scope, host) in
        [(Scope::Global, OLDER), (Scope::Global, NEWER), (Scope::Local, OLDER), (Scope::Local, NEWER)]
    {
        let engine = Engine::new(scope, host);
        for call in ["Leave", "Leave", "DeleteEndpoint", "DeleteNetwork", "FreeNetwork"] {
            assert_eq!(engine.call(call, ids()).await, json!({}), "{call}");
        }
        assert_eq!(engine.call("EndpointOperInfo", ids()).await, json!({ "Value": {} }));
        assert!(engine.refusal("CreateEndpoint", endpoint()).await.contains("network n1"));
        engine.call("CreateNetwork", network(json!({}))).await;
        assert!(engine.refusal("Join", ids()).await.contains("endpoint e1"));
    }
}
