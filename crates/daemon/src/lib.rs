//! The daemon: wires driver, node, router, netlink and store together.
//!
//! ```text
//!   dockerd --> driver socket --> Engine --> Core: records (store), links (netlink), router, node
//!   weft    --> control socket --> Controls --^
//!   browsers, Prometheus --> HTTP (read-only) --> Controls' status
//!   worker threads (router) --> NodeInput --> node task --> snapshot, datagrams --> router
//! ```

mod bench;
mod capture;
mod control;
mod core;
mod docker;
mod engine;
mod http;
mod machine;
mod metrics;
mod node_thread;
mod orders;
mod paths;
mod ping;
mod publish;
mod run;
mod settings;
mod store;
mod swarm;
mod vips;

pub use run::run;
pub use settings::{
    PeerAddress, SettingError, Settings, parse_admission, parse_http, parse_peers, parse_suite,
};
