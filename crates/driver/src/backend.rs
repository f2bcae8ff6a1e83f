//! The seam between dockerd's calls and what carries them out.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use crate::{AllocateNetwork, CreateEndpoint, CreateNetwork, Join, Joined, NodeDiscovery, OptionFault};

/// Why a backend could not do something; owned, opaque, shown to the user.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Why a call failed. Whatever the variant: the call has left nothing behind, and may be repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No such network here: dockerd did not create it, or the state was lost.
    #[error("network {0} is not known to weft on this host")]
    UnknownNetwork(String),
    /// No such endpoint here: dockerd did not create it, or the state was lost.
    #[error("endpoint {endpoint_id} of network {network_id} is not known to weft on this host")]
    UnknownEndpoint {
        /// The network asked for.
        network_id: String,
        /// The endpoint asked for.
        endpoint_id: String,
    },
    /// The machine refused: a link could not be made, the store not written. Shown with all its causes.
    #[error("{}", with_causes(.0.as_ref()))]
    Failed(Failure),
}

/// An error and what caused it, in one line: it is all that the user of `docker` gets.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What carries out dockerd's calls.
///
/// Every method is idempotent: dockerd repeats calls, sends Leave twice, and never replays to a restarted plugin what
/// it sent before. Calls of different endpoints come at the same time. A call runs to its end even when dockerd hangs
/// up; past [`CALL_LIMIT`](crate::CALL_LIMIT) dockerd gets an error, and may repeat it while the first still runs.
///
/// In a swarm, **record first, wire second**: dockerd takes a network as created whatever goes wrong after (see
/// [`verdict`](crate::verdict)), and does not send it again. A network with faults in its options, or one made while
/// the daemon is not ready, is recorded all the same; no endpoint of it is asked for until that is over.
pub trait Backend: Send + Sync + 'static {
    /// Why no container can be put on any network now, as one line for the user (no cluster secret, port in use, …);
    /// `None` when all is well. Asked on every CreateNetwork, CreateEndpoint and Join.
    fn not_ready(&self) -> Option<String>;

    /// The faults in the options of a created network, as they were given to [`create_network`](Self::create_network).
    ///
    /// # Errors
    /// [`BackendError::UnknownNetwork`].
    fn network_faults(
        &self,
        network_id: &str,
    ) -> impl Future<Output = Result<Vec<OptionFault>, BackendError>> + Send;

    /// Answers the options that all hosts shall see in CreateNetwork: those given, and the backend's own. The same
    /// answer for the same network whenever asked. An error is logged; it leaves the network without a driver.
    fn allocate_network(
        &self,
        request: AllocateNetwork,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, BackendError>> + Send;

    /// Forgets what [`allocate_network`](Self::allocate_network) kept. May come before hosts delete the network.
    fn free_network(&self, network_id: &str) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Makes the network on this host; for a known id, makes sure that it is there as asked.
    fn create_network(&self, request: CreateNetwork)
    -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Removes the network from this host, with endpoints that were left over. Unknown: nothing to do.
    fn delete_network(&self, network_id: &str) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Makes the endpoint. Errors that can be told now must be told here rather than on Join.
    fn create_endpoint(
        &self,
        request: CreateEndpoint,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Facts about an endpoint, for people. Unknown: an empty map will do.
    fn endpoint_info(
        &self,
        network_id: &str,
        endpoint_id: &str,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, BackendError>> + Send;

    /// Removes the endpoint. Unknown: nothing to do.
    fn delete_endpoint(
        &self,
        network_id: &str,
        endpoint_id: &str,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Makes the interface that dockerd moves into the sandbox.
    fn join(&self, request: Join) -> impl Future<Output = Result<Joined, BackendError>> + Send;

    /// Takes the endpoint out of its sandbox. Unknown: nothing to do.
    fn leave(
        &self,
        network_id: &str,
        endpoint_id: &str,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Takes note of a host of the swarm.
    fn discover_new(&self, node: NodeDiscovery) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Takes note that dockerd lost sight of a host.
    fn discover_delete(&self, node: NodeDiscovery) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Takes note that a call was answered, for statistics; `path` is one of [`paths`](crate::paths).
    fn answered(&self, path: &'static str, elapsed: Duration, failed: bool) {
        let _ = (path, elapsed, failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BindError;

    #[test]
    fn a_failure_is_shown_with_its_causes() {
        let source = std::io::Error::other("no space left");
        let failure = BindError::Io { path: "/run/x".into(), source };
        assert_eq!(
            BackendError::Failed(failure.into()).to_string(),
            "cannot listen on /run/x: no space left"
        );
    }
}
