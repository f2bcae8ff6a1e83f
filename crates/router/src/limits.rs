//! How much work a container can make for others. Limits are a worker's own, and the clock is read by those frames alone
//! that are limited.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_wire::{Mac, NetworkId};

/// The node is told of an address this often at most.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Addresses that are told in that time, all in all: whoever scans a network asks for more.
const N_ADDRESSES: usize = 16;

/// Group reports of one container a second; a container in many groups sends a report for each.
const MAX_REPORTS: u32 = 64;
/// Times that one container is told a second that its packets are too long.
const MAX_TOO_BIG: u32 = 64;
/// Containers share these by their address, so that one that reports without end silences few others.
const N_BUCKETS: usize = 16;

/// All limits of a worker.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) asked: Asked,
    reports: [Rate; N_BUCKETS],
    too_big: [Rate; N_BUCKETS],
}

impl Limits {
    /// Whether the node is to be handed one more report of `mac`.
    pub(crate) fn report(&mut self, mac: Mac, now: Instant) -> bool {
        self.reports.get_mut(bucket(mac)).is_some_and(|rate| rate.take(MAX_REPORTS, now))
    }

    /// Whether `mac` is to be told once more that its packets are too long.
    pub(crate) fn too_big(&mut self, mac: Mac, now: Instant) -> bool {
        self.too_big.get_mut(bucket(mac)).is_some_and(|rate| rate.take(MAX_TOO_BIG, now))
    }
}

fn bucket(mac: Mac) -> usize {
    usize::from(mac.0[5]) % N_BUCKETS
}

/// So many in a second.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    second: Option<Instant>,
    n_taken: u32,
}

impl Rate {
    fn take(&mut self, limit: u32, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1)) {
            *self = Self { second: Some(now), n_taken: 0 };
        }
        self.n_taken = self.n_taken.saturating_add(1);
        self.n_taken <= limit
    }
}

/// The addresses told last.
#[derive(Debug, Default)]
pub(crate) struct Asked([Option<(NetworkId, IpAddr, Instant)>; N_ADDRESSES]);

impl Asked {
    /// Whether the node is to be told, which is remembered.
    pub(crate) fn tell(&mut self, network: NetworkId, ip: IpAddr, now: Instant) -> bool {
        let is_recent = |told: &Instant| now.saturating_duration_since(*told) < TELL_EVERY;
        let mut free = None;
        for slot in &mut self.0 {
            match slot {
                Some((n, i, told)) if is_recent(told) => {
                    if (*n, *i) == (network, ip) {
                        return false;
                    }
                }
                _ => free = Some(slot),
            }
        }
        let Some(free) = free else { return false };
        *free = Some((network, ip, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_once_a_second_and_few_are() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let network = NetworkId::from_u48(1);
        let ip = |i: u8| IpAddr::from([10, 0, 0, i]);
        assert!(asked.tell(network, ip(1), now));
        assert!(!asked.tell(network, ip(1), now + Duration::from_millis(999)));
        assert!(asked.tell(NetworkId::from_u48(2), ip(1), now), "another network's");
        assert!(asked.tell(network, ip(1), now + TELL_EVERY));
        let later = now + 5 * TELL_EVERY;
        assert_eq!((0..100).filter(|i| asked.tell(network, ip(*i), later)).count(), N_ADDRESSES);
    }

    #[test]
    fn one_containers_reports_do_not_silence_anothers() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let mac = |i| Mac([2, 0, 0, 0, 0, i]);
        assert_eq!((0..1000).filter(|_| limits.report(mac(1), now)).count(), MAX_REPORTS as usize);
        assert!(limits.report(mac(2), now));
        assert!(!limits.report(mac(1), now + Duration::from_millis(999)));
        assert!(limits.report(mac(1), now + Duration::from_secs(1)));
    }
}
