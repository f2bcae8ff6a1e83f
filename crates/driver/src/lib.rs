//! The libnetwork remote network driver: what dockerd sends over a plugin's unix socket, turned into checked values for
//! a [`Backend`], and the backend's answers turned into what dockerd accepts.
//!
//! # Layers
//! [`router`] reads a body, [`Backend`] is called with domain values only ([`CreateNetwork`], [`CreateEndpoint`], …), and
//! [`verdict`] alone decides on which call a fault is shown. Nothing here is persistent: what has to survive a restart
//! is the backend's, which can store [`NetworkRecord`] and [`EndpointRecord`].
//!
//! # Errors on the wire
//! | cause | HTTP | what the user of `docker` reads |
//! |---|---|---|
//! | refused by weft, unknown network or endpoint, failed backend | 200, `{"Err": text}` | `remote: text` |
//! | body missing, not JSON, or a field of the wrong form | 400, `{"Err": text}` | `NetworkDriver.Call: text` |
//! | body above [`MAX_BODY_LEN`] | 413, `{"Err": text}` | `NetworkDriver.Call: text` |
//! | path that is not one of the driver's | 404, `{"Err": text}` | |
//! | a panic or an overrun [`CALL_LIMIT`]: a bug, or a machine in trouble | 500, `{"Err": text}` | `NetworkDriver.Call: text` |
//!
//! dockerd shows the text in every row, and retries in none: only broken connections are retried. So 200 is used for
//! what a user can cause (the shorter line), and other statuses for what only a broken peer of the protocol can.
//!
//! # Where a fault is refused
//! See [`verdict`].

mod answer;
mod backend;
mod driver;
mod listen;
mod model;
mod options;
mod policy;
mod record;
mod request;
mod router;

pub use backend::{Backend, BackendError, Failure};
pub use driver::paths;
pub use listen::{BindError, SOCKET_MODE, bind_socket, serve};
pub use model::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, Join, Joined, NodeDiscovery, Pool, derive_mac,
};
pub use options::{
    MAX_MTU, MIN_MTU, NetworkOptions, OnByDefault, OptionFault, OptionSpec, WeftId, endpoint_option_faults,
    known_options,
};
pub use policy::{Call, Engine, Scope, Verdict, verdict};
pub use record::{EndpointRecord, NetworkRecord};
pub use router::{CALL_LIMIT, MAX_BODY_LEN, router};
