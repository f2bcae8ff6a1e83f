//! End-to-end scenarios: what they share.
//!
//! A suite is a test program without Rust's harness: it lists [`Scenario`]s and calls [`run`]. Its scenarios share
//! one [`Cluster`] an engine, made when the first is run and removed after the last, so that each must clean up
//! what it made on it; [`Cluster::unique`] gives names that cannot meet another's. A scenario that breaks hosts makes
//! a lab of its own.

mod cluster;
mod namespace;
mod sockets;
mod suite;

pub use self::{
    cluster::{Cluster, NetworkGuard, SETTLE, leftovers, n_connected, ping_losses, status},
    namespace::Namespace,
    sockets::{call_driver, daemon_status},
    suite::{Body, Scenario, run, shared},
};
