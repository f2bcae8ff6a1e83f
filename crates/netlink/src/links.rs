//! The seam between the daemon and the kernel's links.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use weft_wire::{EndpointId, Mac, NetworkId};

use crate::guard::{GuardDrops, GuardError, GuardReport, GuardState, Guarded};
use crate::{Inventory, LinkTraffic};

/// A boxed future, so that `dyn` [`Links`] is possible.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A network whose links are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Names the links.
    pub id: NetworkId,
    /// Docker's id, written into the aliases: 1 to 100 printable ASCII characters without blanks.
    pub docker_id: String,
    /// MTU of bridge and TAP, bytes.
    pub overlay_mtu: u16,
}

/// An endpoint whose veth pair is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Docker's id; its first 12 hexadecimal digits name the links.
    pub id: EndpointId,
    /// The network whose bridge gets the host side as a port. The bridge must be there.
    pub network: NetworkId,
    /// Docker's id of that network.
    pub docker_network_id: String,
    /// Ethernet address of the container side.
    pub mac: Mac,
    /// The IP addresses that Docker gave it.
    pub addresses: Vec<IpAddr>,
    /// Whether its frames are dropped unless they come from `mac` and `addresses`.
    pub spoof_check: bool,
    /// MTU of both sides, bytes.
    pub overlay_mtu: u16,
}

/// Whether a link was made or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It was there, and now has the settings asked for.
    Adopted,
}

/// How a host-side link is kept from speaking IPv6 into the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6State {
    /// IPv6 is off on the link, or the kernel has none.
    Disabled,
    /// `/proc/sys` is read-only (as in a managed plugin): the link has no IPv6 address and so solicits nothing, but
    /// the host still takes IPv6 packets that a container sends to the bridge's Ethernet address.
    NoAddress,
}

/// A link that is up and has the settings asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its name.
    pub name: String,
    /// Its index in this namespace.
    pub index: u32,
    /// Made or found.
    pub outcome: Outcome,
    /// IPv6 on it.
    pub ipv6: Ipv6State,
}

/// An endpoint's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointLinks {
    /// The names; `container` is the `SrcName` for dockerd.
    pub names: crate::VethNames,
    /// Made or found.
    pub outcome: Outcome,
    /// The container side has been moved into a sandbox. Its address and MTU were left as they are.
    pub claimed: bool,
    /// IPv6 on the host side.
    pub ipv6: Ipv6State,
    /// Whether what the container sends is checked.
    pub guarded: Guarded,
}

/// What was being done to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Looking it up.
    Find,
    /// Making it.
    Create,
    /// Setting its alias, MTU, address or bridge.
    Configure,
    /// Bringing it up.
    Up,
    /// Deleting it.
    Delete,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Find => "look up",
            Self::Create => "make",
            Self::Configure => "configure",
            Self::Up => "bring up",
            Self::Delete => "delete",
        })
    }
}

/// The kernel refused something about one link.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} link {name}: {source}")]
pub struct LinkFailure {
    /// What was being done.
    pub step: Step,
    /// To which link.
    pub name: String,
    /// The kernel's answer. `PermissionDenied` means that CAP_NET_ADMIN is missing.
    pub source: io::Error,
}

/// Links could not be made as asked. Links that the failed call made are deleted again; found ones stay, perhaps with
/// some settings already changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnsureError {
    /// A link of that name is there and not weft's (or another endpoint's with the same first 12 digits). It was not
    /// touched. The operator made it, or another program.
    #[error("link {name} exists and is not weft's: rename or remove it")]
    Foreign {
        /// The link.
        name: String,
    },
    /// The bridge or TAP that must be there first is not. A bug, or someone deleted it.
    #[error("link {name} does not exist")]
    Missing {
        /// The link.
        name: String,
    },
    /// Docker's id of the network or endpoint cannot name a link. Nothing was changed.
    #[error("{id:?} is not an id that links can be named by")]
    BadId {
        /// The id.
        id: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] LinkFailure),
    /// The rules for what the container may send were not set. A kernel that has no such rules is no error.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// Some links could not be removed; all others are gone. Calling again tries those that remain.
#[derive(Debug, thiserror::Error)]
#[error("{}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct RemoveError {
    /// At least one.
    pub failures: Vec<LinkFailure>,
}

/// The kernel did not list its links, addresses or routes. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list links, addresses or routes: {source}")]
pub struct QueryError {
    /// The kernel's answer.
    #[from]
    pub source: io::Error,
}

/// Makes, finds and removes links. [`crate::Wiring`] does it to the kernel, [`crate::FakeWiring`] in memory.
///
/// Every call is idempotent. A call whose future is dropped half-way leaves a state that the same call completes and
/// the remove calls remove.
pub trait Links: Send + Sync {
    /// Makes the network's bridge or adopts it: alias, MTU, options, up.
    fn ensure_bridge<'a>(&'a self, spec: &'a NetworkSpec) -> BoxFuture<'a, Result<LinkState, EnsureError>>;

    /// Makes the network's TAP, which the router has opened under the name [`crate::names::tap_name`], a port of its
    /// bridge: alias, MTU, up. `outcome` is `Created` when it was not a port of the bridge before.
    fn attach_tap<'a>(&'a self, spec: &'a NetworkSpec) -> BoxFuture<'a, Result<LinkState, EnsureError>>;

    /// Makes the endpoint's veth pair or adopts it. The container side has its address and MTU and is left down for
    /// dockerd; one that dockerd has moved already is left alone. What the container may send is set before the host
    /// side is up.
    fn ensure_endpoint<'a>(
        &'a self,
        spec: &'a EndpointSpec,
    ) -> BoxFuture<'a, Result<EndpointLinks, EnsureError>>;

    /// Deletes the endpoint's veth pair, wherever its other end is. Success when it is gone.
    fn remove_endpoint<'a>(&'a self, endpoint: &'a EndpointId) -> BoxFuture<'a, Result<(), RemoveError>>;

    /// Deletes the network's TAP, its bridge and the veth pairs on the bridge. Success when they are gone.
    fn remove_network(&self, network: NetworkId) -> BoxFuture<'_, Result<(), RemoveError>>;

    /// Deletes one link that [`Inventory::strays`] named; a link that is not weft's is left. Success when weft has no
    /// link of that name. Mind that a TAP is a stray too between its making and [`Links::attach_tap`].
    fn remove_stray<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), RemoveError>>;

    /// Sets right what each of these endpoints may send, if its links are there, and removes such rules where nothing
    /// needs them. Idempotent and cheap enough for every few seconds: three listings.
    fn ensure_guards<'a>(
        &'a self,
        endpoints: &'a [EndpointSpec],
    ) -> BoxFuture<'a, Result<GuardReport, GuardError>>;

    /// What each endpoint's guard has dropped since it was set; endpoints without one are left out.
    fn guard_drops(&self) -> BoxFuture<'_, Result<Vec<(EndpointId, GuardDrops)>, GuardError>>;

    /// Whether this host can check what containers send, as the last call found.
    fn guard_state(&self) -> GuardState;

    /// Lists what is there, when no call is under way that changes it.
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, QueryError>>;

    /// What passed the TAP of each network that has one.
    fn traffic(&self) -> BoxFuture<'_, Result<Vec<(NetworkId, LinkTraffic)>, QueryError>>;

    /// MTU in bytes of the interface that has the address `local`, or, without one, of those that default routes
    /// use (also of the routes, where they set one): the least of them. `None` when there is no such interface.
    fn underlay_mtu(&self, local: Option<IpAddr>) -> BoxFuture<'_, Result<Option<u16>, QueryError>>;

    /// Addresses by which other hosts might reach this one, with the interface that has each: none of loopback, of
    /// link scope, of weft's links, tentative or deprecated.
    fn local_addresses(&self) -> BoxFuture<'_, Result<Vec<(IpAddr, String)>, QueryError>>;
}
