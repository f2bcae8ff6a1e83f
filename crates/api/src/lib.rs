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
//!
//! An error is a status of 400 or above with an [`ErrorAnswer`].

mod client;
mod order;
mod render;
mod secret;
mod server;
mod status;

pub use client::{
    Client, ClientError, DEFAULT_SOCKET, DiscoverError, PLUGIN_SOCKET_NAME, SOCKET_ENV, SearchPlaces,
};
pub use order::{Judgement, Order, OrderAnswer};
pub use render::render_status;
pub use secret::{Secret, SecretAnswer, SecretRequest};
pub use server::{Control, ControlError, ErrorAnswer, router};
pub use status::{
    EndpointStatus, JudgedStatus, NetworkStatus, PathKind, PeerState, PeerStatus, RefusedStatus, Status,
};
