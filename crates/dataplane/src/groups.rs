//! Which multicast groups this host's containers are in, learnt from their IGMP and MLD reports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_wire::{Mac, NetworkId};

use crate::content::{Content, Frame};

mod message;
mod query;

pub use message::ReportError;
pub use query::query_frame;

use message::Change;

/// Between two general queries (RFC 3376, section 8.2; RFC 3810, section 9.2).
const QUERY_INTERVAL: Duration = Duration::from_secs(125);
/// What hosts may take to answer one (sections 8.3 and 9.3).
const RESPONSE_INTERVAL: Duration = Duration::from_secs(10);
/// A membership that is not reported again ends after this (sections 8.4 and 9.4).
const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(260);
/// The first queries ask hosts to hurry: until they answered, containers that were there before hear no group.
const STARTUP_QUERIES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(10)];
const STARTUP_RESPONSE: Duration = Duration::from_secs(1);
/// After a leave of a protocol in which a container stays silent when it hears another report the group, the others are
/// asked, and have this long (RFC 2236, section 8.8; RFC 2710, section 7.8).
const LAST_MEMBER_RESPONSE: Duration = Duration::from_secs(1);
const LAST_MEMBER_INTERVAL: Duration = Duration::from_secs(2);
/// Groups that one container may be in: Linux allows 20 (IPv4) and 64 (IPv6) a socket.
const MAX_GROUPS_PER_MEMBER: usize = 256;

/// The groups of all networks. Pure: the clock is an argument.
///
/// Feed reports by [`handle_report`](Self::handle_report), look again at [`next_timeout`](Self::next_timeout), and after
/// either drain [`poll_query`](Self::poll_query). Link-local groups (`224.0.0.0/24`, `ff02::/16`) are not kept: they
/// reach every member. Sources are not told apart: who wants one of a group's gets all.
///
/// | | |
/// |---|---|
/// | general queries | at once, after 2 s and 10 s, then every 125 s |
/// | a membership not reported again | ends after 260 s |
/// | groups a container | 256 at most |
#[derive(Debug, Default)]
pub struct Groups {
    networks: BTreeMap<NetworkId, Network>,
}

#[derive(Debug)]
struct Network {
    /// By group, then container: until when.
    members: BTreeMap<IpAddr, BTreeMap<Mac, Instant>>,
    /// Groups after whose members is to be asked at once.
    asked: BTreeSet<IpAddr>,
    n_startup: usize,
    started: Instant,
    next_query: Instant,
    /// General queries that are due, MLD's after IGMP's.
    due: Vec<(IpAddr, Duration)>,
}

/// A frame for a network's TAP, to be written there and sent to no peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupQuery {
    /// The network whose containers are asked.
    pub network: NetworkId,
    /// The Ethernet frame.
    pub frame: Vec<u8>,
}

impl Groups {
    /// Begins to ask a network's containers. Nothing happens when it has begun.
    pub fn add_network(&mut self, network: NetworkId, now: Instant) {
        self.networks.entry(network).or_insert_with(|| Network {
            members: BTreeMap::new(),
            asked: BTreeSet::new(),
            n_startup: 0,
            started: now,
            next_query: now,
            due: Vec::new(),
        });
    }

    /// Forgets a network. Nothing happens when it is not known.
    pub fn remove_network(&mut self, network: NetworkId) {
        self.networks.remove(&network);
    }

    /// Takes a container out of all groups of its network; whether the [subscriptions](Self::subscriptions) changed.
    pub fn remove_member(&mut self, network: NetworkId, mac: Mac) -> bool {
        let Some(network) = self.networks.get_mut(&network) else { return false };
        let before = network.members.len();
        network.members.retain(|_, members| {
            members.remove(&mac);
            !members.is_empty()
        });
        network.members.len() != before
    }

    /// Takes in a report or leave of the container `mac`: all of its Ethernet frame. Whether the
    /// [subscriptions](Self::subscriptions) changed.
    ///
    /// # Errors
    /// See [`ReportError`]; nothing changed but what stood before the fault. A container causes any of them.
    pub fn handle_report(
        &mut self,
        network: NetworkId,
        mac: Mac,
        frame: &[u8],
        now: Instant,
    ) -> Result<bool, ReportError> {
        let network = self.networks.get_mut(&network).ok_or(ReportError::UnknownNetwork)?;
        let frame = Frame::parse(frame).ok_or(ReportError::Malformed)?;
        let Content::Ip(ip) = frame.content else { return Err(ReportError::Malformed) };
        let mut changed = false;
        let mut refused = false;
        message::read(&ip, &mut |group, change| {
            if is_subscribable(group) {
                match network.change(group, mac, change, now) {
                    Some(c) => changed |= c,
                    None => refused = true,
                }
            }
        })?;
        // What was taken in has to be announced, whatever was refused.
        if refused && !changed { Err(ReportError::TooManyGroups) } else { Ok(changed) }
    }

    /// Ends memberships that ran out, and makes queries due; whether the [subscriptions](Self::subscriptions) changed.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for network in self.networks.values_mut() {
            let before = network.members.len();
            network.members.retain(|_, members| {
                members.retain(|_, until| *until > now);
                !members.is_empty()
            });
            changed |= network.members.len() != before;
            if network.next_query <= now {
                network.ask_all(now);
            }
        }
        changed
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, and why.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(Instant, &'static str)> {
        let of = |network: &Network| {
            let expiries = network.members.values().flat_map(BTreeMap::values);
            let expiry = expiries.min().map(|until| (*until, "a group membership runs out"));
            expiry.into_iter().chain([(network.next_query, "a group query is due")])
        };
        self.networks.values().flat_map(of).min_by_key(|(at, _)| *at)
    }

    /// The next query to inject.
    pub fn poll_query(&mut self) -> Option<GroupQuery> {
        self.networks.iter_mut().find_map(|(id, network)| {
            let (group, response) = match network.asked.pop_first() {
                Some(group) => (group, LAST_MEMBER_RESPONSE),
                None => network.due.pop()?,
            };
            Some(GroupQuery { network: *id, frame: query_frame(group, response) })
        })
    }

    /// The groups that this host wants from the other members of a network, in order.
    pub fn subscriptions(&self, network: NetworkId) -> impl Iterator<Item = IpAddr> {
        self.networks.get(&network).into_iter().flat_map(|network| network.members.keys().copied())
    }
}

impl Network {
    fn ask_all(&mut self, now: Instant) {
        self.n_startup = self.n_startup.saturating_add(1);
        let response = match STARTUP_QUERIES.get(self.n_startup) {
            Some(after) => {
                self.next_query = self.started + *after;
                STARTUP_RESPONSE
            }
            None => {
                self.next_query = now + QUERY_INTERVAL;
                RESPONSE_INTERVAL
            }
        };
        let any = [IpAddr::from([0; 16]), IpAddr::from([0; 4])];
        self.due = any.map(|any| (any, response)).to_vec();
    }

    /// Whether there is another group or one less; `None` when the container may be in no more.
    fn change(&mut self, group: IpAddr, mac: Mac, change: Change, now: Instant) -> Option<bool> {
        match change {
            Change::Join => {
                let is_in = self.members.get(&group).is_some_and(|members| members.contains_key(&mac));
                let n_groups = || self.members.values().filter(|members| members.contains_key(&mac)).count();
                if !is_in && n_groups() >= MAX_GROUPS_PER_MEMBER {
                    return None;
                }
                let members = self.members.entry(group).or_default();
                let is_new = members.is_empty();
                members.insert(mac, now + MEMBERSHIP_INTERVAL);
                Some(is_new)
            }
            Change::Leave => {
                let Some(members) = self.members.get_mut(&group) else { return Some(false) };
                members.remove(&mac);
                let is_empty = members.is_empty();
                if is_empty {
                    self.members.remove(&group);
                }
                Some(is_empty)
            }
            Change::LeaveUnlessOthers => {
                if let Some(until) = self.members.get_mut(&group).and_then(|members| members.get_mut(&mac)) {
                    *until = (*until).min(now + LAST_MEMBER_INTERVAL);
                    self.asked.insert(group);
                }
                Some(false)
            }
        }
    }
}

/// Whether frames to `ip` go to every member of the network, whatever they subscribed to.
pub(crate) fn is_link_local_group(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets(), [224, 0, 0, _]),
        IpAddr::V6(ip) => matches!(ip.octets(), [0xff, 0x02, ..]),
    }
}

fn is_subscribable(ip: IpAddr) -> bool {
    // Interface-local groups (scope 1) never leave a host.
    let leaves_host = !matches!(ip, IpAddr::V6(ip) if ip.octets()[1] & 0xf <= 1);
    ip.is_multicast() && leaves_host && !is_link_local_group(ip)
}
