//! A backend in memory, and a client that speaks to a router as dockerd does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use weft_driver::{
    AllocateNetwork, Backend, BackendError, CreateEndpoint, CreateNetwork, EndpointRecord, Join, Joined,
    NetworkRecord, NodeDiscovery, OptionFault, Scope, router,
};

pub(crate) const OLDER: &str = "";
pub(crate) const NEWER: &str = "plugin.moby.localhost";

#[derive(Default)]
pub(crate) struct State {
    pub(crate) not_ready: Option<String>,
    pub(crate) fail_create_network: Option<String>,
    pub(crate) fail_create_endpoint: Option<String>,
    pub(crate) panic_in_leave: bool,
    pub(crate) networks: BTreeMap<String, NetworkRecord>,
    pub(crate) endpoints: BTreeMap<String, EndpointRecord>,
    pub(crate) nodes: BTreeSet<String>,
}

/// Shares its state with the test.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    /// `delete_network` takes the one permit before it does anything, so that a test can hold it up.
    pub(crate) gate: Arc<Semaphore>,
    /// How many calls have come as far as the gate.
    pub(crate) n_at_gate: Arc<AtomicUsize>,
}

impl Default for Fake {
    fn default() -> Self {
        Self { state: Arc::default(), gate: Arc::new(Semaphore::new(1)), n_at_gate: Arc::default() }
    }
}

impl Fake {
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

fn unknown_endpoint(network_id: &str, endpoint_id: &str) -> BackendError {
    BackendError::UnknownEndpoint { network_id: network_id.to_owned(), endpoint_id: endpoint_id.to_owned() }
}

/// Stricter than it has to be: what is unknown is an error everywhere, so that the router's leniency is seen.
impl Backend for Fake {
    fn not_ready(&self) -> Option<String> {
        self.with(|s| s.not_ready.clone())
    }

    async fn network_faults(&self, id: &str) -> Result<Vec<OptionFault>, BackendError> {
        self.with(|s| match s.networks.get(id) {
            Some(record) => Ok(record.network.options.faults.clone()),
            None => Err(BackendError::UnknownNetwork(id.to_owned())),
        })
    }

    async fn allocate_network(
        &self,
        request: AllocateNetwork,
    ) -> Result<BTreeMap<String, String>, BackendError> {
        Ok(request.given)
    }

    async fn free_network(&self, _id: &str) -> Result<(), BackendError> {
        Ok(())
    }

    async fn create_network(&self, request: CreateNetwork) -> Result<(), BackendError> {
        self.with(|s| {
            if let Some(text) = &s.fail_create_network {
                return Err(BackendError::Failed(text.clone().into()));
            }
            s.networks.insert(request.network_id.clone(), NetworkRecord { network: request });
            Ok(())
        })
    }

    async fn delete_network(&self, id: &str) -> Result<(), BackendError> {
        self.n_at_gate.fetch_add(1, Ordering::SeqCst);
        let _permit = self.gate.acquire().await;
        let removed = self.with(|s| s.networks.remove(id));
        removed.map(drop).ok_or_else(|| BackendError::UnknownNetwork(id.to_owned()))
    }

    async fn create_endpoint(&self, endpoint: CreateEndpoint) -> Result<(), BackendError> {
        self.with(|s| {
            if let Some(text) = &s.fail_create_endpoint {
                return Err(BackendError::Failed(text.clone().into()));
            }
            s.endpoints.insert(
                endpoint.endpoint_id.clone(),
                EndpointRecord { endpoint, sandbox_key: None, multicast_route: false },
            );
            Ok(())
        })
    }

    async fn endpoint_info(&self, network: &str, id: &str) -> Result<BTreeMap<String, String>, BackendError> {
        self.with(|s| match s.endpoints.get(id) {
            Some(record) => Ok([("mac".to_owned(), record.endpoint.mac.to_string())].into()),
            None => Err(unknown_endpoint(network, id)),
        })
    }

    async fn delete_endpoint(&self, network: &str, id: &str) -> Result<(), BackendError> {
        self.with(|s| s.endpoints.remove(id)).map(drop).ok_or_else(|| unknown_endpoint(network, id))
    }

    async fn join(&self, request: Join) -> Result<Joined, BackendError> {
        self.with(|s| match s.endpoints.get_mut(&request.endpoint_id) {
            Some(record) => {
                record.sandbox_key = Some(request.sandbox_key);
                let src_name = format!("wv{}", request.endpoint_id.chars().take(10).collect::<String>());
                Ok(Joined { src_name, dst_prefix: "eth".to_owned(), multicast_route: true })
            }
            None => Err(unknown_endpoint(&request.network_id, &request.endpoint_id)),
        })
    }

    async fn leave(&self, network: &str, id: &str) -> Result<(), BackendError> {
        self.with(|s| {
            assert!(!s.panic_in_leave, "asked to panic");
            let joined = s.endpoints.get_mut(id).and_then(|record| record.sandbox_key.take());
            joined.map(drop).ok_or_else(|| unknown_endpoint(network, id))
        })
    }

    async fn discover_new(&self, node: NodeDiscovery) -> Result<(), BackendError> {
        self.with(|s| s.nodes.insert(node.address.to_string()));
        Ok(())
    }

    async fn discover_delete(&self, node: NodeDiscovery) -> Result<(), BackendError> {
        self.with(|s| s.nodes.remove(&node.address.to_string()));
        Ok(())
    }
}

/// A dockerd without the docker.
pub(crate) struct Engine {
    pub(crate) fake: Fake,
    pub(crate) router: Router,
    host: &'static str,
}

impl Engine {
    pub(crate) fn new(scope: Scope, host: &'static str) -> Self {
        let fake = Fake::default();
        Self { router: router(fake.clone(), scope), fake, host }
    }

    pub(crate) async fn send(&self, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let request = Request::post(path)
            .header("host", HeaderValue::from_static(self.host))
            .header("accept", "application/vnd.docker.plugins.v1.2+json")
            .body(body.into())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        assert_eq!(response.headers()["content-type"], "application/vnd.docker.plugins.v1.2+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// The answer to `NetworkDriver.<call>`, which must have status 200.
    pub(crate) async fn call(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.send(&format!("/NetworkDriver.{call}"), body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{call}: {answer}");
        answer
    }

    /// The text of an error that `NetworkDriver.<call>` must give.
    pub(crate) async fn refusal(&self, call: &str, body: Value) -> String {
        let answer = self.call(call, body).await;
        answer["Err"].as_str().unwrap_or_else(|| panic!("{call} was not refused: {answer}")).to_owned()
    }
}
