//! What a mesh is started with.

use std::net::SocketAddr;
use std::time::Duration;

use weft_wire::PeerId;

use crate::checks::SignatureCache;
use crate::keys::IdentityKey;

/// Periods and limits. The defaults are those that the simulation's figures were taken with.
#[derive(Debug, Clone)]
pub struct Timers {
    /// How often a member is probed.
    pub probe_period: Duration,
    /// How long a probed member has before others are asked to probe it too. Below `probe_period`.
    pub probe_rtt: Duration,
    /// How long a suspected member has to answer before it is called down.
    pub suspect: Duration,
    /// How often news of membership is passed on, while there is any.
    pub gossip: Duration,
    /// How often state is compared with another member when nothing is amiss.
    pub sync: Duration,
    /// The same after a difference was found.
    pub sync_unsettled: Duration,
    /// How often one of the members that are down is tried.
    pub contact_down: Duration,
    /// First pause between attempts at a seed.
    pub seed_first: Duration,
    /// Longest pause while no member has answered yet.
    pub seed_alone: Duration,
    /// Longest pause once there are members.
    pub seed_longest: Duration,
    /// How long a member that another side calls down has to object.
    pub dispute: Duration,
    /// Pause before a pushed update is sent again; doubled each time.
    pub push_retry: Duration,
    /// How long two peers may both claim an address before it is reported: an endpoint's move may look so.
    pub duplicate_grace: Duration,
    /// How long the records of a peer that is down still count.
    pub keep_records: Duration,
    /// How long a peer that is down is still tried.
    pub forget_peer: Duration,
    /// Bytes a second of state sent to those who lack it.
    pub bulk_rate: u32,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(500),
            probe_rtt: Duration::from_millis(150),
            suspect: Duration::from_secs(3),
            gossip: Duration::from_millis(200),
            sync: Duration::from_secs(2),
            sync_unsettled: Duration::from_millis(500),
            contact_down: Duration::from_secs(5),
            seed_first: Duration::from_millis(500),
            seed_alone: Duration::from_secs(2),
            seed_longest: Duration::from_secs(30),
            dispute: Duration::from_secs(2),
            push_retry: Duration::from_millis(60),
            duplicate_grace: Duration::from_secs(2),
            keep_records: Duration::from_secs(60),
            forget_peer: Duration::from_secs(7 * 24 * 3600),
            bulk_rate: 2_000_000,
        }
    }
}

/// A peer known from an earlier run, or from elsewhere: contacted at start, and for ever while it is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPeer {
    /// Its id.
    pub peer: PeerId,
    /// Where it was last seen, best first.
    pub addresses: Vec<SocketAddr>,
}

/// What a [`Mesh`](crate::Mesh) is started with.
#[derive(Debug)]
pub struct MeshConfig {
    /// This peer's key.
    pub key: IdentityKey,
    /// Number of this run: above that of every earlier run with the same key. Milliseconds since 1970 do; better is
    /// the greater of that and the last one used plus 1. Its records replace those of runs with a lower number.
    pub incarnation: u64,
    /// What people call this host, at most [`MAX_NAME_LEN`](crate::MAX_NAME_LEN) bytes; cut when longer.
    pub name: String,
    /// Where other peers reach this one, best first, at most [`MAX_ADDRESSES`](crate::MAX_ADDRESSES).
    pub addresses: Vec<SocketAddr>,
    /// Addresses at which some member may answer. May include this peer's own.
    pub seeds: Vec<SocketAddr>,
    /// Peers of an earlier run.
    pub known_peers: Vec<KnownPeer>,
    /// Periods.
    pub timers: Timers,
    /// Results of signature checks shared by many meshes of one process; `None` in a daemon.
    pub signature_cache: Option<SignatureCache>,
}

impl MeshConfig {
    /// A configuration with default timers and nothing known.
    #[must_use]
    pub fn new(key: IdentityKey, incarnation: u64, name: &str) -> Self {
        Self {
            key,
            incarnation,
            name: name.to_owned(),
            addresses: Vec::new(),
            seeds: Vec::new(),
            known_peers: Vec::new(),
            timers: Timers::default(),
            signature_cache: None,
        }
    }
}
