//! Virtual addresses of swarm services.
//!
//! Swarm gives a service an address of its own on each of its networks, the VIP, and answers the service's name with it;
//! on a network that a plugin carries, nothing answers there. weft has every client's own namespace translate the VIP to
//! one of the service's tasks. This crate decides to which; it does no IO.
//!
//! 1. A swarm manager reads services and tasks from dockerd and publishes them: [`Service::records`], a [`Publication`].
//! 2. Every host merges what managers publish into one [`VipTable`], which outlives them: what was last known counts while
//!    no manager publishes.
//! 3. [`rules`] is what the namespace of one container should translate.
//!
//! | quantity | range |
//! |---|---|
//! | name of a service | 63 bytes, the rest is cut off |
//! | tasks in a record | 128 of IPv4, 32 of IPv6 |
//! | records of a service on a network | 255, so 32,640 tasks of IPv4 or 8,160 of IPv6; more are left out |
//!
//! Source: docs/protocol.md, "Services".

mod record;
mod rules;
mod table;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_wire::NetworkId;

pub use record::{PREFIX, Publication, Record, Said, is_service_key, read};
pub use rules::{VipRules, rules};
pub use table::{Claim, Known, VipTable};

/// A service on one network, as swarm has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The network.
    pub network: NetworkId,
    /// Its virtual address there.
    pub vip: IpAddr,
    /// Its name.
    pub name: String,
    /// Grows with every change that swarm makes to the service or its tasks; tells which of two managers saw more.
    pub index: u64,
    /// Addresses of its running tasks on the network, of the VIP's family.
    pub tasks: BTreeSet<IpAddr>,
}
