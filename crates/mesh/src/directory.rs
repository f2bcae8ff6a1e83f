//! Networks as the records in force make them: members, endpoints, and who has which address.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_wire::{Mac, NetworkId, PeerId};

use crate::event::{Address, Event};
use crate::record::{Endpoint, EndpointTag, Membership};

type Claim = (PeerId, EndpointTag);

/// How long an address must have been someone's before a later claim of another no longer counts.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// One network.
#[derive(Debug, Default)]
struct Network {
    members: BTreeMap<PeerId, Membership>,
    endpoints: BTreeMap<Claim, Arc<Endpoint>>,
    claims: HashMap<Address, BTreeSet<Claim>>,
    /// Who has each address that is claimed, and when that is reported to others.
    holders: HashMap<Address, (Claim, Instant)>,
}

/// Two claims of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Dispute {
    network: NetworkId,
    address: Address,
    keeper: PeerId,
    loser: PeerId,
}

/// Every network known of. Endpoints only of those that this peer is in.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    networks: BTreeMap<NetworkId, Network>,
    /// Peers whose claims come after those of the living.
    down: HashSet<PeerId>,
    /// When a dispute is to be reported; `None` once it was.
    disputes: BTreeMap<Dispute, Option<Instant>>,
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = Address> + '_ {
    std::iter::once(Address::Mac(endpoint.mac)).chain(endpoint.addresses.iter().copied().map(Address::Ip))
}

impl Network {
    /// Who has an address.
    fn holder(&self, address: Address) -> Option<Claim> {
        self.holders.get(&address).map(|(claim, _)| *claim)
    }

    /// Decides who has an address. Whoever has had it for a while keeps it as long as it lives, so that nobody can
    /// take what another has; of those that claim it at about the same time the living with the lowest id gets it, so
    /// that all hosts decide alike.
    fn settle(&mut self, address: Address, down: &HashSet<PeerId>, reported_at: Instant) {
        let Some(claims) = self.claims.get(&address) else {
            self.holders.remove(&address);
            return;
        };
        let last = self.holders.get(&address).copied();
        let keeps = last.filter(|(claim, at)| {
            claims.contains(claim) && !down.contains(&claim.0) && reported_at >= *at + SETTLED_AFTER
        });
        let first =
            || claims.iter().find(|(peer, _)| !down.contains(peer)).or_else(|| claims.first()).copied();
        let Some(holder) = keeps.map(|(claim, _)| claim).or_else(first) else { return };
        if last.is_none_or(|(claim, _)| claim.0 != holder.0) {
            self.holders.insert(address, (holder, reported_at));
        } else if let Some((claim, _)) = self.holders.get_mut(&address) {
            *claim = holder;
        }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.endpoints.is_empty()
    }
}

impl Directory {
    /// Sets the networks that `peer` is in.
    pub(crate) fn set_memberships(
        &mut self,
        peer: PeerId,
        memberships: &BTreeMap<NetworkId, Membership>,
        events: &mut impl Extend<Event>,
    ) {
        for network in memberships.keys() {
            self.networks.entry(*network).or_default();
        }
        for (id, network) in &mut self.networks {
            let old = match memberships.get(id) {
                Some(new) => network.members.insert(peer, *new),
                None => network.members.remove(&peer),
            };
            if old.as_ref() != memberships.get(id) {
                events.extend([Event::MembershipChanged { network: *id, peer }]);
            }
        }
        self.networks.retain(|_, network| !network.is_empty());
    }

    /// Sets the endpoints of `peer` in `network`.
    pub(crate) fn set_endpoints(
        &mut self,
        network: NetworkId,
        peer: PeerId,
        endpoints: &BTreeMap<EndpointTag, &Endpoint>,
        now_reported: Instant,
        events: &mut impl Extend<Event>,
    ) {
        if endpoints.is_empty() && !self.networks.contains_key(&network) {
            return;
        }
        let held = self.networks.entry(network).or_default();
        let old: Vec<Arc<Endpoint>> = held
            .endpoints
            .range((peer, EndpointTag([0; 16]))..=(peer, EndpointTag([0xff; 16])))
            .map(|(_, endpoint)| Arc::clone(endpoint))
            .collect();
        let gone: Vec<_> = old
            .iter()
            .filter(|old| endpoints.get(&old.tag).is_none_or(|new| **new != ***old))
            .cloned()
            .collect();
        let come: Vec<_> = endpoints
            .values()
            .filter(|new| held.endpoints.get(&(peer, new.tag)).is_none_or(|old| **old != ***new))
            .map(|new| Arc::new((*new).clone()))
            .collect();
        let touched: BTreeSet<Address> =
            gone.iter().chain(&come).flat_map(|endpoint| addresses(endpoint)).collect();
        let before: Vec<_> = touched.iter().map(|address| held.holder(*address)).collect();
        for endpoint in &gone {
            held.endpoints.remove(&(peer, endpoint.tag));
            for address in addresses(endpoint) {
                if let Some(claims) = held.claims.get_mut(&address) {
                    claims.remove(&(peer, endpoint.tag));
                    if claims.is_empty() {
                        held.claims.remove(&address);
                    }
                }
            }
        }
        for endpoint in &come {
            held.endpoints.insert((peer, endpoint.tag), Arc::clone(endpoint));
            for address in addresses(endpoint) {
                held.claims.entry(address).or_default().insert((peer, endpoint.tag));
            }
        }
        let removed = gone.iter().filter(|endpoint| !endpoints.contains_key(&endpoint.tag));
        events.extend(removed.map(|endpoint| Event::EndpointRemoved {
            network,
            peer,
            endpoint: Arc::clone(endpoint),
        }));
        events.extend(come.iter().map(|endpoint| Event::EndpointAdded {
            network,
            peer,
            endpoint: Arc::clone(endpoint),
        }));
        for (address, before) in touched.into_iter().zip(before) {
            self.moved(network, address, before, now_reported, events);
        }
        self.networks.retain(|_, network| !network.is_empty());
    }

    /// Says whether `peer` lives; the claims of the living come first.
    pub(crate) fn set_down(
        &mut self,
        peer: PeerId,
        down: bool,
        now_reported: Instant,
        events: &mut impl Extend<Event>,
    ) {
        if down == self.down.contains(&peer) {
            return;
        }
        let mut touched = Vec::new();
        for (id, network) in &self.networks {
            let own = network.endpoints.range((peer, EndpointTag([0; 16]))..=(peer, EndpointTag([0xff; 16])));
            for address in own.flat_map(|(_, endpoint)| addresses(endpoint)) {
                touched.push((*id, address, network.holder(address)));
            }
        }
        if down {
            self.down.insert(peer);
        } else {
            self.down.remove(&peer);
        }
        for (network, address, before) in touched {
            self.moved(network, address, before, now_reported, events);
        }
    }

    /// Looks at an address whose claims changed.
    fn moved(
        &mut self,
        network: NetworkId,
        address: Address,
        before: Option<Claim>,
        reported_at: Instant,
        events: &mut impl Extend<Event>,
    ) {
        let Some(held) = self.networks.get_mut(&network) else { return };
        held.settle(address, &self.down, reported_at);
        let after = held.holder(address);
        if let (Some((from, _)), Some((to, _))) = (before, after)
            && from != to
        {
            events.extend([Event::EndpointMoved { network, address, from, to }]);
        }
        let living: BTreeSet<PeerId> = held
            .claims
            .get(&address)
            .into_iter()
            .flatten()
            .map(|(peer, _)| *peer)
            .filter(|peer| !self.down.contains(peer))
            .collect();
        let keeper = after.map(|(peer, _)| peer).filter(|peer| living.contains(peer));
        self.disputes.retain(|dispute, _| {
            (dispute.network, dispute.address) != (network, address)
                || (Some(dispute.keeper) == keeper && living.contains(&dispute.loser))
        });
        for loser in living.iter().filter(|peer| Some(**peer) != keeper) {
            let Some(keeper) = keeper else { break };
            let dispute = Dispute { network, address, keeper, loser: *loser };
            self.disputes.entry(dispute).or_insert(Some(reported_at));
        }
    }

    /// When the next dispute is to be reported.
    pub(crate) fn next_report(&self) -> Option<Instant> {
        self.disputes.values().flatten().min().copied()
    }

    /// Reports the disputes that lasted.
    pub(crate) fn report(&mut self, now: Instant, events: &mut impl Extend<Event>) {
        for (dispute, at) in &mut self.disputes {
            if at.is_some_and(|at| at <= now) {
                *at = None;
                let Dispute { network, address, keeper, loser } = *dispute;
                events.extend([Event::DuplicateAddress { network, address, keeper, loser }]);
            }
        }
    }

    /// The disputes that were reported and last.
    pub(crate) fn disputes(&self) -> impl Iterator<Item = (NetworkId, Address, PeerId, PeerId)> {
        let lasting = self.disputes.iter().filter(|(_, at)| at.is_none());
        lasting.map(|(dispute, _)| (dispute.network, dispute.address, dispute.keeper, dispute.loser))
    }

    pub(crate) fn networks_of(&self, peer: PeerId) -> impl Iterator<Item = NetworkId> + '_ {
        self.networks.iter().filter(move |(_, held)| held.members.contains_key(&peer)).map(|(id, _)| *id)
    }

    pub(crate) fn is_member(&self, network: NetworkId, peer: PeerId) -> bool {
        self.networks.get(&network).is_some_and(|held| held.members.contains_key(&peer))
    }

    pub(crate) fn members(&self, network: NetworkId) -> impl Iterator<Item = (PeerId, &Membership)> {
        let held = self.networks.get(&network);
        held.into_iter().flat_map(|held| held.members.iter().map(|(peer, membership)| (*peer, membership)))
    }

    pub(crate) fn endpoints(&self, network: NetworkId) -> impl Iterator<Item = (PeerId, &Arc<Endpoint>)> {
        let held = self.networks.get(&network);
        held.into_iter().flat_map(|held| held.endpoints.iter().map(|((peer, _), endpoint)| (*peer, endpoint)))
    }

    pub(crate) fn by_address(
        &self,
        network: NetworkId,
        address: Address,
    ) -> Option<(PeerId, &Arc<Endpoint>)> {
        let held = self.networks.get(&network)?;
        let claim = held.holder(address)?;
        held.endpoints.get(&claim).map(|endpoint| (claim.0, endpoint))
    }

    pub(crate) fn by_mac(&self, network: NetworkId, mac: Mac) -> Option<(PeerId, &Arc<Endpoint>)> {
        self.by_address(network, Address::Mac(mac))
    }

    pub(crate) fn by_ip(&self, network: NetworkId, ip: IpAddr) -> Option<(PeerId, &Arc<Endpoint>)> {
        self.by_address(network, Address::Ip(ip))
    }
}
