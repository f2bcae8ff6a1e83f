//! Records of services, as any member may publish them.

use weft_services::{Claim, Publication, Service, VipTable, read};
use weft_wire::PeerId;

/// One byte of key's length, key, one byte of value's length, value; again until the end.
fn records(mut bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut take = || {
        let (len, rest) = bytes.split_first()?;
        let (taken, rest) = rest.split_at_checked(usize::from(*len))?;
        bytes = rest;
        Some(taken.to_vec())
    };
    std::iter::from_fn(|| Some((take()?, take()?))).collect()
}

/// What one host publishes is read, taken in, and published again as the same.
pub fn services(bytes: &[u8]) {
    let records = records(bytes);
    let said = read(records.iter().map(|(key, value)| (key.as_slice(), value.as_slice())));
    for service in &said.services {
        assert!(service.tasks.iter().all(|task| task.is_ipv4() == service.vip.is_ipv4()));
        let again = service.records();
        assert!(again.iter().all(|(key, value)| key.len() <= 64 && value.len() <= 640));
        let read_again = read(again.iter().map(|(key, value)| (key.as_slice(), value.as_slice())));
        assert_eq!(read_again.services, std::slice::from_ref::<Service>(service));
    }
    if let Some(publication) = &said.publication {
        let (key, value) = publication.record();
        let again = read([(key.as_slice(), value.as_slice())]);
        assert_eq!(again.publication.as_ref(), Some::<&Publication>(publication));
    }
    let claims = [Claim { owner: PeerId([1; 16]), is_alive: true, said }];
    let mut table = VipTable::default();
    table.merge(&claims);
    assert!(!table.merge(&claims), "merging twice changes nothing");
}
