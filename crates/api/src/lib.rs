//! The daemon's control API: its types, its server side, its client, and its status as text for people.
//!
//! HTTP/1.1 over a unix socket that only root may open.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/secret` | | [`SecretAnswer`] |
//! | `POST /v1/secret` | [`SecretRequest`] | [`SecretAnswer`] |
//! | `POST /v1/orders` | [`Order`] | [`OrderAnswer`] |
//! | `POST /v1/ping` | [`PingRequest`] | [`PingAnswer`] |
//!
//! An error is a status of 400 or above with an [`ErrorAnswer`].

mod client;
mod order;
mod ping;
mod render;
mod secret;
mod server;
mod status;

pub use client::{
    Client, ClientError, DEFAULT_SOCKET, DiscoverError, PLUGIN_SOCKET_NAME, SOCKET_ENV, SearchPlaces,
};
pub use order::{Judgement, Order, OrderAnswer};
pub use ping::{MAX_PING_WAIT, PingAnswer, PingRequest};
pub use render::{render_endpoints, render_networks, render_peers, render_services, render_status};
pub use secret::{Secret, SecretAnswer, SecretRequest};
pub use server::{Control, ControlError, ErrorAnswer, router};
pub use status::{
    CHECK_DOCKER, CHECK_FIREWALL, CHECK_GUARD, CHECK_HTTP, CheckStatus, DuplicateStatus, EndpointStatus,
    JudgedStatus, NetworkStatus, PathKind, PeerState, PeerStatus, RefusedStatus, ServiceStatus, Status,
};
