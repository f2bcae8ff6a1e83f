//! One table out of what several managers publish.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_wire::{NetworkId, PeerId};

use crate::{Said, Service};

/// What one host publishes, and how it stands with that host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The host.
    pub owner: PeerId,
    /// It is alive, so its records are what it says now.
    pub is_alive: bool,
    /// What it says.
    pub said: Said,
}

impl Claim {
    fn is_current(&self) -> bool {
        self.is_alive && self.said.publication.as_ref().is_some_and(|publication| publication.is_current)
    }
}

/// A service, and who told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What was told.
    pub service: Service,
    /// By whom.
    pub from: PeerId,
    /// In which swarm.
    pub swarm: String,
}

/// Every service that is known of. The same on every host that holds the same records.
///
/// A manager that is alive and whose dockerd answers is *current*. All current managers of a swarm read the same state,
/// some a moment later than others. So:
///
/// - While a swarm has current managers, its services are theirs: of each service the version with the highest index,
///   among equals that of the lowest peer id. A service that none of them has is gone, once all records of one of them
///   are here.
/// - While it has none, what was known stays, and only newer versions are taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Known>", into = "Vec<Known>")]
pub struct VipTable {
    known: BTreeMap<(NetworkId, IpAddr), Known>,
}

impl From<Vec<Known>> for VipTable {
    fn from(known: Vec<Known>) -> Self {
        Self { known: known.into_iter().map(|k| ((k.service.network, k.service.vip), k)).collect() }
    }
}

impl From<VipTable> for Vec<Known> {
    fn from(table: VipTable) -> Self {
        table.known.into_values().collect()
    }
}

impl VipTable {
    /// Takes in what all hosts publish. Whether the table changed.
    pub fn merge(&mut self, claims: &[Claim]) -> bool {
        let before = self.clone();
        let swarm_of = |claim: &Claim| claim.said.publication.as_ref().map(|p| p.swarm.clone());
        let swarms: BTreeSet<String> = claims.iter().filter_map(swarm_of).collect();
        for swarm in swarms {
            let claims: Vec<&Claim> =
                claims.iter().filter(|claim| swarm_of(claim).as_ref() == Some(&swarm)).collect();
            let current: Vec<&Claim> = claims.iter().copied().filter(|claim| claim.is_current()).collect();
            if current.is_empty() {
                for (key, known) in best(&claims, &swarm) {
                    let held = self.known.get(&key).map(|held| held.service.index);
                    if held.is_none_or(|index| index < known.service.index) {
                        self.known.insert(key, known);
                    }
                }
                continue;
            }
            let best = best(&current, &swarm);
            if current.iter().any(|claim| claim.said.is_complete) {
                self.known.retain(|key, known| known.swarm != swarm || best.contains_key(key));
            }
            self.known.extend(best);
        }
        *self != before
    }

    /// Drops what hosts told that are no longer trusted. Whether there was any.
    pub fn drop_untrusted(&mut self, is_trusted: impl Fn(PeerId) -> bool) -> bool {
        let before = self.known.len();
        self.known.retain(|_, known| is_trusted(known.from));
        self.known.len() != before
    }

    /// The services of a network.
    pub fn services(&self, network: NetworkId) -> impl Iterator<Item = &Known> {
        let of_network = self.known.values().skip_while(move |k| k.service.network < network);
        of_network.take_while(move |k| k.service.network == network)
    }

    /// Whether no service is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

fn best(claims: &[&Claim], swarm: &str) -> BTreeMap<(NetworkId, IpAddr), Known> {
    let mut best: BTreeMap<(NetworkId, IpAddr), Known> = BTreeMap::new();
    for claim in claims {
        for service in &claim.said.services {
            let key = (service.network, service.vip);
            let rank = |service: &Service, owner: PeerId| (service.index, std::cmp::Reverse(owner));
            let better =
                best.get(&key).is_none_or(|held| rank(&held.service, held.from) < rank(service, claim.owner));
            if better {
                let (service, swarm) = (service.clone(), swarm.to_owned());
                best.insert(key, Known { service, from: claim.owner, swarm });
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Publication;

    const NET: NetworkId = NetworkId::from_u48(7);

    fn service(vip: u8, index: u64, tasks: &[u8]) -> Service {
        let address = |n: &u8| IpAddr::from([10, 0, 0, *n]);
        Service {
            network: NET,
            vip: address(&vip),
            name: format!("s{vip}"),
            index,
            tasks: tasks.iter().map(address).collect(),
        }
    }

    fn claim(owner: u8, is_alive: bool, is_current: bool, services: &[Service]) -> Claim {
        let n_records = services.len() as u32;
        let publication = Some(Publication { swarm: "swarm".into(), is_current, n_records });
        let said = Said { publication, services: services.to_vec(), is_complete: true };
        Claim { owner: PeerId([owner; 16]), is_alive, said }
    }

    fn vips(table: &VipTable) -> Vec<(IpAddr, u64, PeerId)> {
        table.services(NET).map(|k| (k.service.vip, k.service.index, k.from)).collect()
    }

    fn entry(vip: u8, index: u64, from: u8) -> (IpAddr, u64, PeerId) {
        ([10, 0, 0, vip].into(), index, PeerId([from; 16]))
    }

    #[test]
    fn of_two_managers_the_one_that_saw_more_counts() {
        let mut table = VipTable::default();
        let (old, new) = (service(1, 5, &[9]), service(1, 6, &[8, 9]));
        assert!(
            table.merge(&[claim(2, true, true, &[new]), claim(1, true, true, std::slice::from_ref(&old))])
        );
        assert_eq!(vips(&table), [entry(1, 6, 2)]);
        // Among equals the lowest id.
        assert!(table.merge(&[
            claim(2, true, true, std::slice::from_ref(&old)),
            claim(1, true, true, std::slice::from_ref(&old))
        ]));
        assert_eq!(vips(&table), [entry(1, 5, 1)]);
        assert!(!table.merge(&[claim(1, true, true, &[old])]));
    }

    #[test]
    fn what_was_known_stays_while_no_manager_is_current() {
        let mut table = VipTable::default();
        let all = [service(1, 5, &[9]), service(2, 5, &[7])];
        table.merge(&[claim(1, true, true, &all)]);
        for claims in [vec![], vec![claim(1, false, true, &all[..1])], vec![claim(1, true, false, &[])]] {
            assert!(!table.merge(&claims), "{claims:?}");
            assert_eq!(vips(&table), [entry(1, 5, 1), entry(2, 5, 1)]);
        }
        // A manager that is gone had told more than had come here.
        assert!(table.merge(&[claim(1, false, true, &[service(2, 6, &[7, 8])])]));
        assert_eq!(vips(&table), [entry(1, 5, 1), entry(2, 6, 1)]);
        // An older version is not taken from one that is not current, but it is from one that is.
        assert!(!table.merge(&[claim(3, false, true, &[service(2, 4, &[])])]));
        assert!(table.merge(&[claim(3, true, true, &[service(2, 4, &[])])]));
        assert_eq!(vips(&table), [entry(2, 4, 3)]);
    }

    #[test]
    fn nothing_goes_before_all_records_are_here() {
        let mut table = VipTable::default();
        table.merge(&[claim(1, true, true, &[service(1, 5, &[9]), service(2, 5, &[7])])]);
        let mut partial = claim(2, true, true, &[service(2, 6, &[7])]);
        partial.said.is_complete = false;
        assert!(table.merge(std::slice::from_ref(&partial)));
        assert_eq!(vips(&table), [entry(1, 5, 1), entry(2, 6, 2)]);
        partial.said.is_complete = true;
        assert!(table.merge(&[partial]));
        assert_eq!(vips(&table), [entry(2, 6, 2)]);
    }

    #[test]
    fn what_an_expelled_host_told_is_dropped() {
        let mut table = VipTable::default();
        table.merge(&[claim(1, true, true, &[service(1, 5, &[9])])]);
        assert!(!table.drop_untrusted(|owner| owner != PeerId([2; 16])));
        assert!(table.drop_untrusted(|owner| owner != PeerId([1; 16])));
        assert!(table.is_empty());
    }

    proptest! {
        #[test]
        fn hosts_that_hold_the_same_agree(
            claims in proptest::collection::vec(
                (0u8..4, any::<bool>(), any::<bool>(), proptest::collection::btree_map(1u8..6, (0u64..4, 0u8..4), 0..5)),
                0..6),
            start in proptest::collection::vec((1u8..6, 0u64..4), 0..4),
        ) {
            let claims: Vec<Claim> = claims
                .into_iter()
                .map(|(owner, alive, current, services)| {
                    let services: Vec<_> = services
                        .into_iter()
                        .map(|(vip, (index, task))| service(vip, index, &[100 + task]))
                        .collect();
                    claim(owner, alive, current, &services)
                })
                .collect();
            // One record a key and owner, as the mesh has it.
            let mut seen = BTreeSet::new();
            let claims: Vec<Claim> = claims.into_iter().filter(|claim| seen.insert(claim.owner)).collect();
            let start: Vec<Service> = start.iter().map(|(vip, index)| service(*vip, *index, &[50])).collect();
            let mut table = VipTable::default();
            table.merge(&[claim(9, true, true, &start)]);
            let (mut there, mut backwards) = (table.clone(), claims.clone());
            backwards.reverse();
            table.merge(&claims);
            there.merge(&backwards);
            prop_assert_eq!(&table, &there);
            prop_assert!(!table.merge(&claims), "merging twice changes nothing");
        }
    }
}
