//! The host's side of a Docker network: links and firewall rules.
//!
//! Per network a bridge and a TAP, per endpoint a veth pair of which dockerd moves one side into the sandbox:
//!
//! ```text
//!   container        host
//!   eth0 ~~~ veth ~~~ wfv<endpoint> --+-- wfb<network> --+-- wft<network> ~~~ weft's router
//!   (was wfc<endpoint>)               |  (the bridge)    |   (the TAP)
//!   eth0 ~~~ veth ~~~ wfv<endpoint> --+                  ...
//! ```
//!
//! * [`Wiring`] makes and removes links over rtnetlink; [`Links`] is the seam, [`FakeWiring`] its fake.
//! * [`Firewall`] keeps bridged frames out of dockerd's `FORWARD` policy; [`ForwardRules`] is the seam,
//!   [`FakeFirewall`] its fake.
//! * Each endpoint's frames are held to its addresses by nftables rules on its host-side veth ([`EndpointSpec`]'s
//!   `spoof_check`), also within the host; [`Links::guard_drops`] counts what was dropped.
//! * [`ensure_vips`] has a container's namespace translate the virtual addresses of services.
//! * [`names`] and what decides (ownership, inventory, which rule where) is pure.
//!
//! **Who owns what.** Links outlive the daemon: same-host traffic goes on while it is away, and the next one adopts
//! what is there ([`Links::inventory`]). A link is weft's when its name *and* its alias (`weft network=…`,
//! `weft endpoint=…`) say so; no other link is ever changed or removed.
//!
//! | quantity | unit | range |
//! |---|---|---|
//! | `overlay_mtu` | bytes of IP packet | 68 to 65535; [`weft_wire::MIN_OVERLAY_MTU`] or more for IPv6 |
//! | link names | bytes | 15, the kernel's most |

mod fake;
pub mod firewall;
mod guard;
mod inventory;
mod link;
mod links;
pub mod names;
mod vips;
mod wiring;

pub use fake::{FakeFirewall, FakeWiring};
pub use firewall::{Finding, Firewall, FirewallError, FirewallReport, ForwardRules};
pub use guard::{GuardDrops, GuardError, GuardReport, GuardState, Guarded};
pub use inventory::{FoundEndpoint, FoundNetwork, Inventory, StrayLink};
pub use link::LinkTraffic;
pub use links::{
    BoxFuture, EndpointLinks, EndpointSpec, EnsureError, Ipv6State, LinkFailure, LinkState, Links,
    NetworkSpec, Outcome, QueryError, RemoveError, Step,
};
pub use names::VethNames;
pub use vips::{Kept, VipError, ensure_vips, forget_connections};
pub use wiring::Wiring;
