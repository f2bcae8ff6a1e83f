//! The daemon: wires driver, node, router, netlink and store together.
//!
//! ```text
//!   dockerd --> driver socket --> Engine --> Core: records (store), links (netlink), router, node
//!   weft    --> control socket --> Controls --^
//!   worker threads (router) --> NodeInput --> node task --> snapshot, datagrams --> router
//! ```

mod control;
mod core;
mod docker;
mod engine;
mod machine;
mod node_task;
mod orders;
mod run;
mod settings;
mod store;

pub use run::run;
pub use settings::{PeerAddress, SettingError, Settings, parse_admission, parse_peers, parse_suite};
