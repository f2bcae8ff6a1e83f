//! One function for every place where bytes from outside come in. Each takes any bytes, and panics when a promise is
//! broken: not only "it does not crash", but what may come of such bytes.
//!
//! The fuzzers (`tests/fuzz`, nightly) look for new inputs; the test `replay` runs the kept ones on every `cargo test`.

mod bytes;
mod control;
mod data;
mod docker;
mod fragments;
mod gossip;
mod groups;
mod handshake;
mod neighbors;
mod plugin;
mod services;
mod settings;
mod state;
mod web;

pub use control::control;
pub use data::data;
pub use docker::docker;
pub use fragments::fragments;
pub use gossip::gossip;
pub use groups::groups;
pub use handshake::handshake;
pub use neighbors::neighbors;
pub use plugin::plugin;
pub use services::services;
pub use settings::settings;
pub use state::{state_file, state_record};

/// One of the targets.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of its program, and of its directory in `tests/fuzz/corpus`.
    pub name: &'static str,
    /// What is run.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "handshake", run: handshake },
    Target { name: "data", run: data },
    Target { name: "neighbors", run: neighbors },
    Target { name: "groups", run: groups },
    Target { name: "gossip", run: gossip },
    Target { name: "plugin", run: plugin },
    Target { name: "control", run: control },
    Target { name: "docker", run: docker },
    Target { name: "settings", run: settings },
    Target { name: "state_record", run: state_record },
    Target { name: "state_file", run: state_file },
    Target { name: "services", run: services },
    Target { name: "fragments", run: fragments },
];
