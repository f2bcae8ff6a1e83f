//! dockerd's calls, one by one: which values reach the backend, and what is answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::answer::{Answer, CONNECTED, Interface, InterfaceName, StaticRoute};
use crate::request::{
    AllocateNetworkRequest, CreateEndpointRequest, CreateNetworkRequest, DiscoveryRequest, EndpointRequest,
    EndpointWanted, GwAllocCheckRequest, JoinRequest, NetworkRequest, RequestError, parse,
};
use crate::{
    AllocateNetwork, Backend, BackendError, Call, CreateNetwork, Engine, Join, OptionFault, Scope, Verdict,
    verdict,
};

/// The calls of the protocol, by their path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Activate,
    GetCapabilities,
    AllocateNetwork,
    FreeNetwork,
    GwAllocCheck,
    CreateNetwork,
    DeleteNetwork,
    CreateEndpoint,
    EndpointOperInfo,
    DeleteEndpoint,
    Join,
    Leave,
    DiscoverNew,
    DiscoverDelete,
    ProgramExternalConnectivity,
    RevokeExternalConnectivity,
}

impl Method {
    const BY_PATH: [(&str, Self); 16] = [
        ("/Plugin.Activate", Self::Activate),
        ("/NetworkDriver.GetCapabilities", Self::GetCapabilities),
        ("/NetworkDriver.AllocateNetwork", Self::AllocateNetwork),
        ("/NetworkDriver.FreeNetwork", Self::FreeNetwork),
        ("/NetworkDriver.GwAllocCheck", Self::GwAllocCheck),
        ("/NetworkDriver.CreateNetwork", Self::CreateNetwork),
        ("/NetworkDriver.DeleteNetwork", Self::DeleteNetwork),
        ("/NetworkDriver.CreateEndpoint", Self::CreateEndpoint),
        ("/NetworkDriver.EndpointOperInfo", Self::EndpointOperInfo),
        ("/NetworkDriver.DeleteEndpoint", Self::DeleteEndpoint),
        ("/NetworkDriver.Join", Self::Join),
        ("/NetworkDriver.Leave", Self::Leave),
        ("/NetworkDriver.DiscoverNew", Self::DiscoverNew),
        ("/NetworkDriver.DiscoverDelete", Self::DiscoverDelete),
        ("/NetworkDriver.ProgramExternalConnectivity", Self::ProgramExternalConnectivity),
        ("/NetworkDriver.RevokeExternalConnectivity", Self::RevokeExternalConnectivity),
    ];

    pub(crate) fn from_path(path: &str) -> Option<Self> {
        Self::BY_PATH.iter().find(|(known, _)| *known == path).map(|(_, method)| *method)
    }
}

/// The path of every call that is served.
#[must_use]
pub fn paths() -> [&'static str; 16] {
    Method::BY_PATH.map(|(path, _)| path)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A fault that this call is to show.
    #[error("{0}")]
    Refused(String),
}

/// Where IPv4 multicast goes.
const MULTICAST_RANGE: &str = "224.0.0.0/4";

/// How many faults are kept for later calls. dockerd never says what died with it, so there must be a bound.
const N_POSTPONED: usize = 4096;

/// Faults of calls that were answered as if all were well, because this engine shows them on a later one.
#[derive(Default)]
struct Postponed {
    /// Networks that the backend failed to make; dockerd will not ask again, so they are tried again from here.
    networks: BTreeMap<String, CreateNetwork>,
    /// By endpoint: the text for Join.
    endpoints: BTreeMap<String, String>,
}

fn keep<V>(map: &mut BTreeMap<String, V>, id: String, value: V) {
    if map.len() >= N_POSTPONED && !map.contains_key(&id) {
        map.pop_first();
    }
    map.insert(id, value);
}

pub(crate) struct Driver<B> {
    backend: B,
    scope: Scope,
    postponed: Mutex<Postponed>,
}

impl<B: Backend> Driver<B> {
    pub(crate) fn new(backend: B, scope: Scope) -> Self {
        Self { backend, scope, postponed: Mutex::default() }
    }

    /// Tells the backend that a call was answered; what is no call is not told.
    pub(crate) fn answered(&self, path: &str, elapsed: Duration, failed: bool) {
        if let Some((path, _)) = Method::BY_PATH.iter().find(|(known, _)| *known == path) {
            self.backend.answered(path, elapsed, failed);
        }
    }

    /// Never held across an await. Each change of the maps is one step, so a panic elsewhere leaves them whole.
    fn postponed(&self) -> MutexGuard<'_, Postponed> {
        self.postponed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        engine: Engine,
        body: &[u8],
    ) -> Result<Answer, CallError> {
        match method {
            Method::Activate => Ok(Answer::Activated { implements: ["NetworkDriver"] }),
            Method::GetCapabilities => Ok(Answer::Capabilities {
                scope: self.scope.to_string(),
                connectivity_scope: self.scope.to_string(),
            }),
            Method::GwAllocCheck => {
                parse::<GwAllocCheckRequest>(body)?;
                Ok(Answer::GatewayAllocation { skip_ipv4: false, skip_ipv6: false })
            }
            Method::AllocateNetwork => {
                self.allocate_network(parse::<AllocateNetworkRequest>(body)?.into()).await
            }
            Method::FreeNetwork => {
                done(self.backend.free_network(parse::<NetworkRequest>(body)?.network_id()).await)
            }
            Method::CreateNetwork => {
                self.create_network(engine, parse::<CreateNetworkRequest>(body)?.into()).await
            }
            Method::DeleteNetwork => {
                let request: NetworkRequest = parse(body)?;
                self.postponed().networks.remove(request.network_id());
                done(self.backend.delete_network(request.network_id()).await)
            }
            Method::CreateEndpoint => {
                self.create_endpoint(engine, parse::<CreateEndpointRequest>(body)?.try_into()?).await
            }
            Method::EndpointOperInfo => {
                let request: EndpointRequest = parse(body)?;
                let info = self.backend.endpoint_info(request.network_id(), request.endpoint_id()).await;
                Ok(Answer::Info { value: known(info)?.unwrap_or_default() })
            }
            Method::DeleteEndpoint => {
                let request: EndpointRequest = parse(body)?;
                self.postponed().endpoints.remove(request.endpoint_id());
                done(self.backend.delete_endpoint(request.network_id(), request.endpoint_id()).await)
            }
            Method::Join => self.join(engine, parse::<JoinRequest>(body)?.into()).await,
            Method::Leave => {
                let request: EndpointRequest = parse(body)?;
                done(self.backend.leave(request.network_id(), request.endpoint_id()).await)
            }
            Method::DiscoverNew => match parse::<DiscoveryRequest>(body)?.node()? {
                Some(node) => done(self.backend.discover_new(node).await),
                None => Ok(Answer::Done {}),
            },
            Method::DiscoverDelete => match parse::<DiscoveryRequest>(body)?.node()? {
                Some(node) => done(self.backend.discover_delete(node).await),
                None => Ok(Answer::Done {}),
            },
            // For the endpoint that is its sandbox's gateway, which weft's never are.
            Method::ProgramExternalConnectivity | Method::RevokeExternalConnectivity => {
                parse::<EndpointRequest>(body)?;
                Ok(Answer::Done {})
            }
        }
    }

    async fn allocate_network(&self, request: AllocateNetwork) -> Result<Answer, CallError> {
        if let Some(fault) = text_of(&request.options.faults) {
            tracing::warn!(network = request.network_id, fault, "the network's containers will be refused");
        }
        Ok(Answer::Allocated { options: self.backend.allocate_network(request).await? })
    }

    async fn create_network(&self, engine: Engine, request: CreateNetwork) -> Result<Answer, CallError> {
        let fault = self.backend.not_ready().or_else(|| text_of(&request.options.faults));
        let verdict = verdict(self.scope, engine, Call::CreateNetwork);
        if let Some(fault) = fault {
            match verdict {
                Verdict::Refuse => return Err(CallError::Refused(fault)),
                Verdict::GoOn => {
                    tracing::warn!(
                        network = request.network_id,
                        fault,
                        "the network's containers will be refused"
                    );
                }
            }
        }
        let id = request.network_id.clone();
        match (self.backend.create_network(request.clone()).await, verdict) {
            (Ok(()), _) => {
                self.postponed().networks.remove(&id);
            }
            (Err(error), Verdict::Refuse) => return Err(error.into()),
            (Err(error), Verdict::GoOn) => {
                tracing::warn!(network = id, %error, "network not made; tried again with its first container");
                keep(&mut self.postponed().networks, id, request);
            }
        }
        Ok(Answer::Done {})
    }

    /// What stands against any endpoint on the network: a text for the user, or `None`.
    async fn network_fault(&self, network_id: &str) -> Result<Option<String>, BackendError> {
        if let Some(fault) = self.backend.not_ready() {
            return Ok(Some(fault));
        }
        let failed = self.postponed().networks.get(network_id).cloned();
        if let Some(network) = failed {
            if let Err(error) = self.backend.create_network(network).await {
                return Ok(Some(error.to_string()));
            }
            self.postponed().networks.remove(network_id);
        }
        Ok(text_of(&self.backend.network_faults(network_id).await?))
    }

    async fn create_endpoint(&self, engine: Engine, wanted: EndpointWanted) -> Result<Answer, CallError> {
        let EndpointWanted { endpoint, assigned_mac, faults } = wanted;
        let id = endpoint.endpoint_id.clone();
        let fault = match self.network_fault(&endpoint.network_id).await?.or_else(|| text_of(&faults)) {
            Some(fault) => Some(fault),
            None => match self.backend.create_endpoint(endpoint).await {
                Ok(()) => None,
                Err(error @ BackendError::Failed(_)) => Some(error.to_string()),
                Err(error) => return Err(error.into()),
            },
        };
        match fault {
            None => {
                self.postponed().endpoints.remove(&id);
            }
            Some(fault) => match verdict(self.scope, engine, Call::CreateEndpoint) {
                Verdict::Refuse => return Err(CallError::Refused(fault)),
                Verdict::GoOn => {
                    tracing::warn!(endpoint = id, fault, "the endpoint will be refused on Join");
                    keep(&mut self.postponed().endpoints, id, fault);
                }
            },
        }
        Ok(assigned_mac.map_or(Answer::Done {}, |mac| Answer::Endpoint {
            interface: Interface { mac_address: mac.to_string() },
        }))
    }

    async fn join(&self, engine: Engine, request: Join) -> Result<Answer, CallError> {
        if let Some(fault) = self.postponed().endpoints.get(&request.endpoint_id) {
            return Err(CallError::Refused(fault.clone()));
        }
        if verdict(self.scope, engine, Call::Join) == Verdict::Refuse
            && let Some(fault) = self.network_fault(&request.network_id).await?
        {
            return Err(CallError::Refused(fault));
        }
        let joined = self.backend.join(request).await?;
        let route = StaticRoute { destination: MULTICAST_RANGE, route_type: CONNECTED };
        Ok(Answer::Joined {
            interface_name: InterfaceName { src_name: joined.src_name, dst_prefix: joined.dst_prefix },
            static_routes: joined.multicast_route.then_some(route).into_iter().collect(),
        })
    }
}

fn text_of(faults: &[OptionFault]) -> Option<String> {
    let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// `None` for what is unknown: taking away what is not there has succeeded.
fn known<T>(result: Result<T, BackendError>) -> Result<Option<T>, CallError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(BackendError::UnknownNetwork(_) | BackendError::UnknownEndpoint { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn done(result: Result<(), BackendError>) -> Result<Answer, CallError> {
    known(result).map(|_| Answer::Done {})
}
