//! What the namespace of one container should translate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::Service;

/// Virtual addresses, and to which addresses connections to them go. Connections to one without any are refused.
pub type VipRules = BTreeMap<IpAddr, BTreeSet<IpAddr>>;

/// The rules of a container on networks with these services; the function tells whether an address lies within the
/// network's subnets.
///
/// What a manager publishes is bounded by what it is for: the virtual address lies within the network's subnets, and so
/// do the tasks. Neither a container's traffic to the world nor another network's can be led elsewhere by a record.
#[must_use]
pub fn rules<'a, F: Fn(IpAddr) -> bool>(networks: impl IntoIterator<Item = (F, &'a [Service])>) -> VipRules {
    let mut rules = VipRules::new();
    for (is_of_network, services) in networks {
        for service in services.iter().filter(|service| is_of_network(service.vip)) {
            let is_fit = |task: &&IpAddr| {
                task.is_ipv4() == service.vip.is_ipv4() && **task != service.vip && is_of_network(**task)
            };
            rules.entry(service.vip).or_default().extend(service.tasks.iter().filter(is_fit));
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use weft_wire::NetworkId;

    use super::*;

    fn service(vip: [u8; 4], tasks: &[[u8; 4]]) -> Service {
        Service {
            network: NetworkId::from_u48(1),
            vip: vip.into(),
            name: "s".into(),
            index: 1,
            tasks: tasks.iter().map(|task| IpAddr::from(*task)).collect(),
        }
    }

    #[test]
    fn only_addresses_of_the_network_are_translated() {
        let within = |address: IpAddr| matches!(address, IpAddr::V4(a) if a.octets()[..2] == [10, 1]);
        let services = [
            service([10, 1, 0, 2], &[[10, 1, 0, 3], [10, 2, 0, 3], [10, 1, 0, 2]]),
            service([10, 1, 0, 9], &[]),
            service([1, 1, 1, 1], &[[10, 1, 0, 3]]),
        ];
        let found = rules([(within, &services[..])]);
        let expected: VipRules = [
            (IpAddr::from([10, 1, 0, 2]), [IpAddr::from([10, 1, 0, 3])].into()),
            (IpAddr::from([10, 1, 0, 9]), BTreeSet::new()),
        ]
        .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn networks_of_one_container_add_up() {
        let begins = |with: &'static str| move |address: IpAddr| address.to_string().starts_with(with);
        let (of_a, of_b) = ([service([10, 1, 0, 2], &[])], [service([10, 2, 0, 2], &[[10, 2, 0, 3]])]);
        let found = rules([(begins("10.1."), &of_a[..]), (begins("10.2."), &of_b[..])]);
        assert_eq!(found.len(), 2);
    }
}
