//! What a backend has to store to know its networks and endpoints again after a restart.

use serde::{Deserialize, Serialize};

use crate::{CreateEndpoint, CreateNetwork};

/// A network that dockerd created and has not deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// As it was created.
    pub network: CreateNetwork,
}

/// An endpoint that dockerd created and has not deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// As it was created.
    pub endpoint: CreateEndpoint,
    /// The sandbox it is in: set by Join, cleared by Leave.
    pub sandbox_key: Option<String>,
    /// Whether the sandbox's multicast takes its interface: set by Join, cleared by Leave.
    #[serde(default)]
    pub multicast_route: bool,
}
