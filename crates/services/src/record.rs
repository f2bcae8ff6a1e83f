//! What a manager publishes, as records of the mesh in the scope of all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_wire::NetworkId;

use crate::Service;

/// All keys of this crate begin so.
pub const PREFIX: &[u8] = b"vip";
/// Key of the [`Publication`].
const PUBLICATION: &[u8] = b"vips";
/// Before network, address and part.
const SERVICE: &[u8] = b"vip/";

const MAX_NAME_LEN: usize = 63;
/// Bytes of addresses in a record.
const MAX_TASKS_LEN: usize = 512;

/// Says that a host publishes at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Swarm's id of the cluster.
    pub swarm: String,
    /// The host's dockerd answers, so what it publishes is how things are. Otherwise it is how they were.
    pub is_current: bool,
    /// Records of services that the host has published, so that it is known when one has all of them.
    pub n_records: u32,
}

/// A record: its key, and what is under it.
pub type Record = (Vec<u8>, Vec<u8>);

/// The value of a service's record.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    index: u64,
    n_parts: u8,
    name: String,
    /// Addresses, one after another.
    tasks: Vec<u8>,
}

impl Publication {
    /// Its record.
    #[must_use]
    pub fn record(&self) -> Record {
        // A string and two numbers can always be written.
        (PUBLICATION.to_vec(), postcard::to_allocvec(self).unwrap_or_default())
    }
}

impl Service {
    /// Its records: the tasks are cut into as many as they need.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let tasks: Vec<u8> =
            self.tasks.iter().filter(|t| t.is_ipv4() == self.vip.is_ipv4()).flat_map(octets).collect();
        let mut parts: Vec<&[u8]> = tasks.chunks(MAX_TASKS_LEN).take(usize::from(u8::MAX)).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let n_parts = parts.len() as u8;
        let name = cut(&self.name).to_owned();
        let record = |(n, tasks): (u8, &[u8])| {
            let network = self.network.get().to_be_bytes();
            let [_, _, network @ ..] = network;
            let key = [SERVICE, &network, &octets(&self.vip), &[n]].concat();
            let part = Part { index: self.index, n_parts, name: name.clone(), tasks: tasks.to_vec() };
            (key, postcard::to_allocvec(&part).unwrap_or_default())
        };
        (0..n_parts).zip(parts).map(record).collect()
    }
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

fn cut(name: &str) -> &str {
    let end = (0..=MAX_NAME_LEN.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Whether a record of that key belongs to a service.
#[must_use]
pub fn is_service_key(key: &[u8]) -> bool {
    key.starts_with(SERVICE)
}

/// Network, virtual address and part of a service's key.
fn parse_key(key: &[u8]) -> Option<(NetworkId, IpAddr, u8)> {
    let rest = key.strip_prefix(SERVICE)?;
    let (network, rest) = rest.split_first_chunk::<6>()?;
    let (part, vip) = rest.split_last()?;
    let [a, b, c, d, e, f] = *network;
    Some((NetworkId::from_u48(u64::from_be_bytes([0, 0, a, b, c, d, e, f])), address(vip)?, *part))
}

/// What one host publishes, as far as it is held here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// `None`: it publishes nothing.
    pub publication: Option<Publication>,
    /// Services all of whose parts are held.
    pub services: Vec<Service>,
    /// Nothing is missing.
    pub is_complete: bool,
}

/// Reads one host's records. Malformed ones are passed over: they are their owner's loss.
#[must_use]
pub fn read<'a>(records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Said {
    let mut said = Said::default();
    let mut parts: BTreeMap<(NetworkId, IpAddr), BTreeMap<u8, Part>> = BTreeMap::new();
    let mut n_records = 0_u32;
    for (key, value) in records {
        if key == PUBLICATION {
            said.publication = postcard::from_bytes(value).ok();
        } else if let Some((network, vip, n)) = parse_key(key)
            && let Ok(part) = postcard::from_bytes(value)
        {
            n_records = n_records.saturating_add(1);
            parts.entry((network, vip)).or_default().insert(n, part);
        }
    }
    let n_services = parts.len();
    said.services = parts.into_iter().filter_map(|(key, parts)| join(key, parts)).collect();
    let has_all = said.publication.as_ref().is_some_and(|p| p.n_records == n_records);
    said.is_complete = has_all && said.services.len() == n_services;
    said
}

/// The service, when all parts are there and of one moment.
fn join((network, vip): (NetworkId, IpAddr), parts: BTreeMap<u8, Part>) -> Option<Service> {
    let first = parts.get(&0)?;
    let (index, n_parts, name) = (first.index, first.n_parts, cut(&first.name).to_owned());
    let whole = parts.len() == usize::from(n_parts)
        && parts
            .iter()
            .zip(0..n_parts)
            .all(|((n, part), want)| *n == want && part.index == index && part.n_parts == n_parts);
    let len = octets(&vip).len();
    let tasks: BTreeSet<IpAddr> =
        parts.values().flat_map(|part| part.tasks.chunks_exact(len)).filter_map(address).collect();
    whole.then_some(Service { network, vip, name, index, tasks })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const NET: NetworkId = NetworkId::from_u48(0xa1b2_c3d4_e5f6);

    fn service(v4: bool, n_tasks: usize, name: &str) -> Service {
        let address = |n: usize| -> IpAddr {
            let [.., a, b] = (n as u32).to_be_bytes();
            if v4 { [10, 9, a, b].into() } else { [0xfd09, 0, 0, 0, 0, 0, u16::from(a), u16::from(b)].into() }
        };
        let tasks = (2..n_tasks + 2).map(address).collect();
        Service { network: NET, vip: address(1), name: name.to_owned(), index: 70_000, tasks }
    }

    fn as_slices(records: &[Record]) -> Vec<(&[u8], &[u8])> {
        records.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect()
    }

    proptest! {
        #[test]
        fn what_is_published_is_read(v4: bool, n_tasks in 0usize..600, name in "\\PC{0,40}", current: bool) {
            let service = service(v4, n_tasks, &name);
            let mut records = service.records();
            let n_records = records.len() as u32;
            let publication = Publication { swarm: "x".repeat(25), is_current: current, n_records };
            records.push(publication.record());
            for (key, value) in &records {
                prop_assert!(key.starts_with(PREFIX) && key.len() <= 64 && value.len() <= 640, "{}", value.len());
            }
            let said = read(as_slices(&records));
            prop_assert!(said.is_complete);
            prop_assert_eq!(said.publication, Some(publication));
            let expected = Service { name: cut(&name).to_owned(), ..service };
            prop_assert_eq!(said.services, vec![expected]);
        }

        #[test]
        fn any_bytes_are_read_or_passed_over(
            records in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..30), proptest::collection::vec(any::<u8>(), 0..60)), 0..8),
        ) {
            let keyed: Vec<Record> = records.into_iter().map(|(k, v)| ([SERVICE, &k].concat(), v)).collect();
            for service in read(as_slices(&keyed)).services {
                prop_assert!(service.tasks.iter().all(|task| task.is_ipv4() == service.vip.is_ipv4()));
            }
        }
    }

    #[test]
    fn a_missing_part_hides_its_service_only() {
        let (large, small) = (service(true, 300, "large"), service(false, 3, "small"));
        let mut records = [large.records(), small.records()].concat();
        assert_eq!(records.len(), 4);
        let publication = Publication { swarm: "s".into(), is_current: true, n_records: 4 };
        records.push(publication.record());
        assert_eq!(read(as_slices(&records)).services.len(), 2);
        records.remove(1);
        let said = read(as_slices(&records));
        assert_eq!(said.services, [small]);
        assert!(!said.is_complete);
    }

    #[test]
    fn parts_of_different_moments_are_not_joined() {
        let old = service(true, 200, "s");
        let mut records = old.records();
        records[0] = Service { index: old.index + 1, ..old.clone() }.records().remove(0);
        let n_records = records.len() as u32;
        records.push(Publication { swarm: "s".into(), is_current: true, n_records }.record());
        let said = read(as_slices(&records));
        assert!(said.services.is_empty() && !said.is_complete);
    }
}
