//! On which call a fault is shown to the user.

use std::fmt;

/// The scope under which the driver is registered, by its personality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A managed plugin: swarm networks, named alike on all hosts.
    Global,
    /// A legacy plugin socket: networks are made on each host by itself. Swarm refuses legacy plugins.
    Local,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "global",
            Self::Local => "local",
        })
    }
}

/// The generation of dockerd at the other end, as far as a driver can tell.
///
/// dockerd says neither its name nor its version to a plugin. The `Host` header differs, though: 20.10.24 sends it
/// empty, 29 sends `plugin.moby.localhost`. The release in which the failing call that leaks an attachment changed from
/// CreateEndpoint to Join is not known, so an engine between the two may be classed wrongly; the cost is a swarm
/// attachment that stays until dockerd restarts, never a refusal without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// An empty `Host`, as 20.10 sends: a failed CreateEndpoint leaks, a failed Join is clean.
    Older,
    /// Anything else: a failed CreateEndpoint is clean, a failed Join leaks.
    Newer,
}

impl Engine {
    /// Tells the engine by the `Host` header of a request; `None` when there is no such header.
    ///
    /// ```
    /// # use weft_driver::Engine;
    /// assert_eq!(Engine::from_host(Some("")), Engine::Older);
    /// assert_eq!(Engine::from_host(Some("plugin.moby.localhost")), Engine::Newer);
    /// ```
    #[must_use]
    pub fn from_host(host: Option<&str>) -> Self {
        if host.unwrap_or_default().trim().is_empty() { Self::Older } else { Self::Newer }
    }
}

/// The calls on which a fault could be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// On a swarm manager, as the network is made.
    AllocateNetwork,
    /// On a host, before its first endpoint; outside swarm, as the network is made.
    CreateNetwork,
    /// Before a container is put on the network.
    CreateEndpoint,
    /// As a container is put on the network.
    Join,
}

/// What to do about a fault on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer with the fault's text.
    Refuse,
    /// Answer as if all were well, and keep the fault for a later call.
    GoOn,
}

/// Whether a fault (a bad option, a daemon that is not ready, a failed backend) is refused on `call`.
///
/// | call | local | global, newer engine | global, older engine |
/// |---|---|---|---|
/// | AllocateNetwork | – | go on: its errors reach no user | go on |
/// | CreateNetwork | **refuse**: shown at once, clean | go on: costs `docker run` 20 s and loses the text | go on |
/// | CreateEndpoint | **refuse** | **refuse**: shown at once, clean | go on: leaks the attachment |
/// | Join | **refuse** | go on: leaks the attachment; CreateEndpoint has refused | **refuse**: shown at once, clean |
///
/// "Leaks" means that the swarm goes on to count the network as in use until dockerd restarts. An error that the
/// backend itself gives on Join cannot be put off any more, and is shown on every engine.
#[must_use]
pub fn verdict(scope: Scope, engine: Engine, call: Call) -> Verdict {
    match (scope, engine, call) {
        (_, _, Call::AllocateNetwork) => Verdict::GoOn,
        (Scope::Local, ..) => Verdict::Refuse,
        (Scope::Global, _, Call::CreateNetwork) => Verdict::GoOn,
        (Scope::Global, Engine::Newer, Call::CreateEndpoint) => Verdict::Refuse,
        (Scope::Global, Engine::Newer, Call::Join) => Verdict::GoOn,
        (Scope::Global, Engine::Older, Call::CreateEndpoint) => Verdict::GoOn,
        (Scope::Global, Engine::Older, Call::Join) => Verdict::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: [Call; 4] = [Call::AllocateNetwork, Call::CreateNetwork, Call::CreateEndpoint, Call::Join];

    fn refusals(scope: Scope, engine: Engine) -> Vec<Call> {
        CALLS.into_iter().filter(|call| verdict(scope, engine, *call) == Verdict::Refuse).collect()
    }

    #[test]
    fn swarm_refuses_on_the_one_call_that_is_clean_on_that_engine() {
        assert_eq!(refusals(Scope::Global, Engine::Newer), [Call::CreateEndpoint]);
        assert_eq!(refusals(Scope::Global, Engine::Older), [Call::Join]);
    }

    #[test]
    fn local_scope_refuses_at_the_first_call_it_sees() {
        for engine in [Engine::Older, Engine::Newer] {
            assert_eq!(
                refusals(Scope::Local, engine),
                [Call::CreateNetwork, Call::CreateEndpoint, Call::Join]
            );
        }
    }

    #[test]
    fn the_host_header_tells_the_engine() {
        assert_eq!(Engine::from_host(None), Engine::Older);
        assert_eq!(Engine::from_host(Some(" ")), Engine::Older);
        assert_eq!(Engine::from_host(Some("localhost")), Engine::Newer);
    }
}
