//! What bounds the work of a responder: load meter, rates per source, cookies.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::datagram::{Mac, Parsed};
use crate::mac::mac16;
use crate::{COOKIE_SECRET_LIFETIME, MAX_COOKIES_PER_SECOND, MAX_HANDSHAKES_PER_SOURCE, N_INITS_UNDER_LOAD};

const SECOND: Duration = Duration::from_secs(1);
/// Sources whose rates are remembered. Unproven sources get here at most at the rate of [`N_INITS_UNDER_LOAD`].
const MAX_SOURCES: usize = 16_384;

/// A rate of `per_second` with a burst of as many, as the time at which all earlier events are paid for.
#[derive(Debug, Clone, Copy)]
struct Rate(Instant);

impl Rate {
    fn allow(&mut self, per_second: u32, now: Instant) -> bool {
        let cost = SECOND / per_second;
        let paid = self.0.max(now);
        let allowed = paid.duration_since(now) + cost <= SECOND;
        if allowed {
            self.0 = paid + cost;
        }
        allowed
    }
}

/// Counts Inits by whole seconds.
#[derive(Debug)]
struct Load {
    since: Instant,
    n_inits: u32,
    n_inits_before: u32,
}

impl Load {
    /// Counts one more; whether there are too many, in this second or the one before.
    fn count(&mut self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.since);
        if age >= SECOND {
            self.n_inits_before = if age < 2 * SECOND { self.n_inits } else { 0 };
            self.n_inits = 0;
            self.since = now;
        }
        self.n_inits = self.n_inits.saturating_add(1);
        self.n_inits.max(self.n_inits_before) > N_INITS_UNDER_LOAD
    }
}

/// An IPv4 address or an IPv6 /64, which is what one attacker has at least.
fn source(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        ip => ip,
    }
}

/// What to do with an Init whose mac1 is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Work on it.
    Accept,
    /// Answer with this cookie, and nothing else.
    Demand(Mac),
    /// Nothing.
    Drop,
}

#[derive(Debug)]
pub(super) struct Limits {
    load: Load,
    /// By source, and whether it has proved with a cookie that it is there: so nobody uses up another's share by
    /// replaying Inits under its address.
    sources: HashMap<(IpAddr, bool), Rate>,
    cookie_rate: Rate,
    cookie_secret: Option<(Instant, Zeroizing<[u8; 32]>)>,
}

impl Limits {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            load: Load { since: now, n_inits: 0, n_inits_before: 0 },
            sources: HashMap::new(),
            cookie_rate: Rate(now),
            cookie_secret: None,
        }
    }

    pub(super) fn judge(
        &mut self,
        parsed: &Parsed<'_>,
        from: SocketAddr,
        now: Instant,
        rng: &mut dyn CryptoRng,
    ) -> Verdict {
        let is_loaded = self.load.count(now);
        let proved = parsed.has_mac2() && parsed.verify_mac2(&self.cookie(from, now, rng));
        if proved {
            return if self.allow_source(from, true, now) { Verdict::Accept } else { Verdict::Drop };
        }
        if !is_loaded && self.allow_source(from, false, now) {
            return Verdict::Accept;
        }
        if !self.cookie_rate.allow(MAX_COOKIES_PER_SECOND, now) {
            return Verdict::Drop;
        }
        Verdict::Demand(self.cookie(from, now, rng))
    }

    /// The cookie of `from`; it proves that its holder receives at that address and port.
    fn cookie(&mut self, from: SocketAddr, now: Instant, rng: &mut dyn CryptoRng) -> Mac {
        let fresh = |made: Instant| now.saturating_duration_since(made) < COOKIE_SECRET_LIFETIME;
        if !self.cookie_secret.as_ref().is_some_and(|&(made, _)| fresh(made)) {
            let mut secret = Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *secret);
            self.cookie_secret = Some((now, secret));
        }
        let ip = match from.ip().to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let secret = self.cookie_secret.as_ref().map_or(&[0; 32], |(_, secret)| &**secret);
        mac16(secret, &[&ip.octets(), &from.port().to_be_bytes()])
    }

    fn allow_source(&mut self, from: SocketAddr, proved: bool, now: Instant) -> bool {
        let key = (source(from), proved);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&key) {
            self.sources.retain(|_, rate| rate.0 > now);
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        self.sources.entry(key).or_insert(Rate(now)).allow(MAX_HANDSHAKES_PER_SOURCE, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_a_burst_and_then_an_interval() {
        let start = Instant::now();
        let mut rate = Rate(start);
        let n_allowed = |rate: &mut Rate, now| (0..100).filter(|_| rate.allow(20, now)).count();
        assert_eq!(n_allowed(&mut rate, start), 20);
        assert_eq!(n_allowed(&mut rate, start + Duration::from_millis(49)), 0);
        assert_eq!(n_allowed(&mut rate, start + Duration::from_millis(150)), 3);
        assert_eq!(n_allowed(&mut rate, start + Duration::from_secs(60)), 20);
    }

    #[test]
    fn load_is_felt_for_a_second_more() {
        let start = Instant::now();
        let mut load = Load { since: start, n_inits: 0, n_inits_before: 0 };
        let loaded: Vec<bool> = (0..60).map(|_| load.count(start)).collect();
        assert_eq!(loaded.iter().filter(|&&x| !x).count() as u32, N_INITS_UNDER_LOAD);
        assert!(load.count(start + SECOND));
        assert!(!load.count(start + 2 * SECOND));
    }

    #[test]
    fn memory_for_sources_is_bounded() {
        let start = Instant::now();
        let mut limits = Limits::new(start);
        let address = |i: u32| SocketAddr::from((i.to_be_bytes(), 1));
        for i in 0..MAX_SOURCES as u32 {
            assert!(limits.allow_source(address(i), true, start));
        }
        assert!(!limits.allow_source(address(u32::MAX), true, start), "no room");
        assert!(limits.allow_source(address(3), true, start), "who is known goes on");
        assert!(limits.allow_source(address(u32::MAX), true, start + SECOND), "who is idle is forgotten");
        assert!(limits.sources.len() <= 2);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:2"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:10.0.0.1]:1"), of("10.0.0.1:7"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
    }
}
