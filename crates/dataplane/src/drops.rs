//! Why a frame or datagram went no further, and how often.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a frame or datagram went no further. It is counted, never logged, and not an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name under which it is shown: lower case, with underscores.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// From a container: no peer owns the destination address. It is not flooded.
    UnknownUnicast = "unknown_unicast",
    /// From a container: the source address is not one of this host's endpoints.
    ForeignSource = "foreign_source",
    /// From a container: IP's source is not an address of the endpoint with the frame's source.
    ForeignIp = "foreign_ip",
    /// From a container: an ARP or neighbour discovery message that speaks for another endpoint.
    ForeignNeighbor = "foreign_neighbor",
    /// From a container: it asks for an address that no endpoint has. The question is not flooded.
    UnknownNeighbor = "unknown_neighbor",
    /// From a container: no other host has a container in the multicast group.
    NoSubscriber = "no_subscriber",
    /// From a container: the network does not carry multicast.
    MulticastOff = "multicast_off",
    /// From a container: more of what the node has to look at than one container may cause.
    RateLimited = "rate_limited",
    /// From a container: its peer has no session at the moment.
    NoSession = "no_session",
    /// From a container: the session's lane has sealed all it may, and its rekey is late.
    Exhausted = "exhausted",
    /// From a container: longer than the underlay's MTU allows.
    TooLong = "too_long",
    /// From a container: headers that contradict each other, or too many segments.
    Unsupported = "unsupported",
    /// The underlay has no route, or refused.
    SendFailed = "send_failed",
    /// From the underlay: not a datagram of weft.
    Malformed = "malformed",
    /// From the underlay: for a session that this host does not have (any more).
    UnknownSession = "unknown_session",
    /// From the underlay: was opened before, or is older than the replay window.
    Replayed = "replayed",
    /// From the underlay: the seal is not the peer's.
    BadSeal = "bad_seal",
    /// From a peer: what was sealed makes no sense.
    BadInner = "bad_inner",
    /// From a peer: this host has no such network.
    UnknownNetwork = "unknown_network",
    /// From a peer that is not on the network.
    NotMember = "not_member",
    /// From a peer that does not own the source address.
    SpoofedMac = "spoofed_mac",
    /// From a peer: IP's source is not an address of the endpoint with the frame's source.
    SpoofedIp = "spoofed_ip",
    /// From a peer: an ARP or neighbour discovery message that speaks for another endpoint.
    SpoofedNeighbor = "spoofed_neighbor",
    /// The TAP refused it: it is down, or the kernel has no memory.
    TapRefused = "tap_refused",
    /// The node did not keep up with what it is told.
    NodeBusy = "node_busy",
    /// From a container: longer than the path to the peer carries. The sender was told (ICMP), and sends less.
    PathMtu = "path_mtu",
    /// From a container: longer than the path to the peer carries, from a sender that was told often enough already.
    PathMtuAgain = "path_mtu_again",
    /// From a peer: parts of frames of which other parts did not come in time, and parts that found no room.
    FragmentLost = "fragment_lost",
    /// The peer is reached over a relay, and there is none.
    NoRelay = "no_relay",
    /// From a peer: to be handed on, to one that this host does not reach directly.
    RelayUnknown = "relay_unknown",
    /// From a peer: to be handed on, more than one peer may have.
    RelayLimited = "relay_limited",
    /// From a peer: of a bench that is not under way (any more).
    BenchUnasked = "bench_unasked",
}

/// One counter a reason. Written by one thread, read by any.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl DropCounters {
    /// Adds `n` to a reason's counter.
    pub fn add(&self, reason: DropReason, n: u64) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// What was counted so far for one reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).map_or(0, |c| c.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_counter() {
        let counters = DropCounters::default();
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            counters.add(*reason, i as u64 + 1);
        }
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(counters.get(*reason), i as u64 + 1);
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
