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
//! | `GET /v1/routes` | | [`RouteStatus`], many |
//! | `POST /v1/mtu` | [`MtuRequest`] | [`MtuAnswer`] |
//! | `POST /v1/capture` | [`CaptureRequest`] | a [pcapng] file, as it grows |
//! | `POST /v1/capture/end` | [`EndCapture`] | `null` |
//! | `POST /v1/bench` | [`BenchRequest`] | [`BenchLine`], one a line, as it goes on |
//!
//! An error is a status of 400 or above with an [`ErrorAnswer`].

mod bench;
mod capture;
mod client;
mod mtu;
mod order;
pub mod pcapng;
mod ping;
mod render;
mod route;
mod secret;
mod server;
mod status;
mod stream;

pub use bench::{BenchDirection, BenchLine, BenchRequest, BenchResult, MAX_BENCH_RATE, MAX_BENCH_TIME};
pub use capture::{CaptureRequest, EndCapture, MAX_CAPTURE_LEN, MAX_CAPTURE_TIME, MAX_SNAP_LEN};
pub use client::{
    Answering, Client, ClientError, DEFAULT_SOCKET, DiscoverError, PLUGIN_SOCKET_NAME, SOCKET_ENV,
    SearchPlaces,
};
pub use mtu::{CommonNetwork, MAX_MTU_WAIT, MtuAnswer, MtuRequest, ProbeCounts, SearchState};
pub use order::{Judgement, Order, OrderAnswer};
pub use ping::{MAX_PING_WAIT, PingAnswer, PingRequest};
pub use render::{
    render_endpoints, render_networks, render_path, render_peers, render_routes, render_rtt, render_services,
    render_status, render_table,
};
pub use route::RouteStatus;
pub use secret::{Secret, SecretAnswer, SecretRequest};
pub use server::{Control, ControlError, ErrorAnswer, router, with_causes};
pub use status::{
    CHECK_DOCKER, CHECK_FIREWALL, CHECK_GUARD, CHECK_HTTP, CHECK_STATE, CheckStatus, DuplicateStatus,
    EndpointStatus, JudgedStatus, NetworkStatus, PathKind, PeerState, PeerStatus, RefusedStatus,
    ServiceStatus, Status, TrafficStatus,
};
pub use stream::Pieces;
