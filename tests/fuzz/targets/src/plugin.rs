//! dockerd's calls: whatever comes in, what reaches the backend is checked, and something readable goes out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode};
use weft_driver::{
    AllocateNetwork, Backend, BackendError, CreateEndpoint, CreateNetwork, EndpointRecord, Join, Joined,
    MAX_MTU, MIN_MTU, NetworkRecord, NodeDiscovery, OptionFault, Scope, paths, router,
};

use crate::state::survives;
use crate::web::{ask, block_on};

const MAX_CALLS: usize = 16;

#[derive(Default)]
struct State {
    networks: BTreeMap<String, NetworkRecord>,
    endpoints: BTreeMap<String, EndpointRecord>,
}

/// Keeps what it is told, after looking at it.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<State>>);

impl Keeper {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Ids become keys of the state and parts of names.
fn check_id(id: &str) {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    assert!((1..=128).contains(&id.len()) && id.bytes().all(known), "{id:?} reached the backend");
}

fn unknown_endpoint(network_id: &str, endpoint_id: &str) -> BackendError {
    BackendError::UnknownEndpoint { network_id: network_id.to_owned(), endpoint_id: endpoint_id.to_owned() }
}

impl Backend for Keeper {
    fn not_ready(&self) -> Option<String> {
        None
    }

    async fn network_faults(&self, id: &str) -> Result<Vec<OptionFault>, BackendError> {
        check_id(id);
        let faults = self.with(|s| s.networks.get(id).map(|record| record.network.options.faults.clone()));
        faults.ok_or_else(|| BackendError::UnknownNetwork(id.to_owned()))
    }

    async fn allocate_network(
        &self,
        request: AllocateNetwork,
    ) -> Result<BTreeMap<String, String>, BackendError> {
        check_id(&request.network_id);
        Ok(request.given)
    }

    async fn free_network(&self, id: &str) -> Result<(), BackendError> {
        check_id(id);
        Ok(())
    }

    async fn create_network(&self, network: CreateNetwork) -> Result<(), BackendError> {
        check_id(&network.network_id);
        assert!(network.options.mtu.is_none_or(|mtu| (MIN_MTU..=MAX_MTU).contains(&mtu)));
        assert!(network.ipv4.iter().all(|pool| pool.subnet.addr().is_ipv4()));
        assert!(network.ipv6.iter().all(|pool| pool.subnet.addr().is_ipv6()));
        let record = NetworkRecord { network };
        survives(&record);
        self.with(|s| s.networks.insert(record.network.network_id.clone(), record));
        Ok(())
    }

    async fn delete_network(&self, id: &str) -> Result<(), BackendError> {
        check_id(id);
        let removed = self.with(|s| s.networks.remove(id));
        removed.map(drop).ok_or_else(|| BackendError::UnknownNetwork(id.to_owned()))
    }

    async fn create_endpoint(&self, endpoint: CreateEndpoint) -> Result<(), BackendError> {
        check_id(&endpoint.network_id);
        check_id(&endpoint.endpoint_id);
        assert!(!endpoint.mac.is_group(), "{endpoint:?}");
        let record = EndpointRecord { endpoint, sandbox_key: None, multicast_route: false };
        survives(&record);
        self.with(|s| s.endpoints.insert(record.endpoint.endpoint_id.clone(), record));
        Ok(())
    }

    async fn endpoint_info(&self, network: &str, id: &str) -> Result<BTreeMap<String, String>, BackendError> {
        let mac = self.with(|s| s.endpoints.get(id).map(|record| record.endpoint.mac.to_string()));
        Ok([("mac".to_owned(), mac.ok_or_else(|| unknown_endpoint(network, id))?)].into())
    }

    async fn delete_endpoint(&self, network: &str, id: &str) -> Result<(), BackendError> {
        self.with(|s| s.endpoints.remove(id)).map(drop).ok_or_else(|| unknown_endpoint(network, id))
    }

    async fn join(&self, join: Join) -> Result<Joined, BackendError> {
        check_id(&join.endpoint_id);
        let known = self.with(|s| {
            s.endpoints.get_mut(&join.endpoint_id).map(|record| record.sandbox_key = Some(join.sandbox_key))
        });
        known.ok_or_else(|| unknown_endpoint(&join.network_id, &join.endpoint_id))?;
        Ok(Joined { src_name: "wv0".to_owned(), dst_prefix: "eth".to_owned(), multicast_route: false })
    }

    async fn leave(&self, network: &str, id: &str) -> Result<(), BackendError> {
        let left = self.with(|s| s.endpoints.get_mut(id).and_then(|record| record.sandbox_key.take()));
        left.map(drop).ok_or_else(|| unknown_endpoint(network, id))
    }

    async fn discover_new(&self, _node: NodeDiscovery) -> Result<(), BackendError> {
        Ok(())
    }

    async fn discover_delete(&self, _node: NodeDiscovery) -> Result<(), BackendError> {
        Ok(())
    }
}

/// Calls of dockerd. Input: calls, each a byte that says which (`A` to `P`, or `a` to `p` as an older engine) and a
/// body, with NUL between them.
pub fn plugin(bytes: &[u8]) {
    for scope in [Scope::Global, Scope::Local] {
        let router = router(Keeper::default(), scope);
        block_on(async {
            for call in bytes.split(|b| *b == 0).take(MAX_CALLS) {
                let Some((which, body)) = call.split_first() else { continue };
                let paths = paths();
                let path = paths[usize::from(which & 0x1f).wrapping_sub(1) % paths.len()];
                let host = if which & 0x20 == 0 { "plugin.moby.localhost" } else { "" };
                let request = Request::post(path)
                    .header("host", HeaderValue::from_static(host))
                    .body(Body::from(body.to_vec()))
                    .expect("the request is well formed");
                let (status, answer) = ask(&router, request).await;
                assert!(answer.is_object(), "{path}: {answer}");
                match status {
                    StatusCode::OK => {}
                    StatusCode::BAD_REQUEST => {
                        assert!(
                            answer["Err"].as_str().is_some_and(|text| text.len() > 10),
                            "{path}: {answer}"
                        );
                    }
                    _ => panic!("{path}: {status} {answer}"),
                }
            }
        });
    }
}
