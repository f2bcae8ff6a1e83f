//! Containers whose network the test enters with sockets of its own.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, Namespace, NetworkGuard, SETTLE, status};
use weft_lab::{Host, wait_until};

/// What a sound data path never counts.
const NEVER: [&str; 7] =
    ["bad_seal", "replayed", "malformed", "unsupported", "tap_refused", "bad_inner", "send_failed"];

/// A container, with an IPv4 address of Docker's and an IPv6 address that was added to its `eth0` by hand.
pub(crate) struct Sandbox<'a> {
    pub(crate) host: &'a Host,
    pub(crate) container: String,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
    namespace: Namespace,
}

impl<'a> Sandbox<'a> {
    /// Starts a container on the network. `number` tells its IPv6 address from others'.
    pub(crate) fn start(network: &NetworkGuard<'_>, host: &'a Host, number: u16) -> Result<Self> {
        let container = network.run(host, &[])?;
        let addresses = host.exec(&container, "hostname -i")?;
        let ipv4 = addresses.split_whitespace().next().context("the container has an address")?;
        let sandbox = Self {
            host,
            ipv4: ipv4.parse()?,
            ipv6: Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, number),
            namespace: Namespace::of(host, &container)?,
            container,
        };
        // Docker turns IPv6 off where it gave no address.
        sandbox.enter(|| fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0"))??;
        sandbox.sh(&format!("ip -6 address add {}/64 dev eth0 nodad", sandbox.ipv6))?;
        Ok(sandbox)
    }

    /// Its address of the family.
    pub(crate) fn address(&self, ipv6: bool) -> IpAddr {
        if ipv6 { self.ipv6.into() } else { self.ipv4.into() }
    }

    /// See [`Namespace::enter`].
    pub(crate) fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.enter(f)
    }

    /// See [`Namespace::sh`].
    pub(crate) fn sh(&self, line: &str) -> Result<String> {
        self.namespace.sh(line)
    }
}

/// A container on each host, which have heard of each other.
pub(crate) fn pair<'a>(cluster: &'a Cluster, network: &NetworkGuard<'_>) -> Result<[Sandbox<'a>; 2]> {
    let here = Sandbox::start(network, cluster.manager(), 1)?;
    let there = Sandbox::start(network, cluster.worker(), 2)?;
    for ping in [format!("ping -c1 -W1 {}", there.ipv4), format!("ping -c1 -W1 {}", there.ipv6)] {
        wait_until("an echo", SETTLE, || here.host.exec(&here.container, &ping).map(|_| true))?;
    }
    Ok([here, there])
}

/// What a host's daemon has counted so far.
#[derive(Debug)]
pub(crate) struct Counts {
    host: String,
    counters: BTreeMap<String, u64>,
    drops: BTreeMap<String, u64>,
}

impl Counts {
    /// Both hosts' counts.
    pub(crate) fn of(cluster: &Cluster) -> Result<[Self; 2]> {
        Ok([Self::of_host(cluster.manager())?, Self::of_host(cluster.worker())?])
    }

    pub(crate) fn of_host(host: &Host) -> Result<Self> {
        let status = status(host)?;
        let numbers = |field: &str| -> Result<BTreeMap<String, u64>> {
            let all = status[field].as_object().with_context(|| format!("the status has {field}"))?;
            Ok(all.iter().filter_map(|(name, n)| Some((name.clone(), n.as_u64()?))).collect())
        };
        Ok(Self { host: host.name().to_owned(), counters: numbers("counters")?, drops: numbers("drops")? })
    }

    /// A counter's value.
    pub(crate) fn get(&self, name: &str) -> Result<u64> {
        self.counters.get(name).copied().with_context(|| format!("{}: no counter {name}", self.host))
    }

    /// How far a counter has come since `earlier`.
    pub(crate) fn since(&self, earlier: &Self, name: &str) -> Result<u64> {
        Ok(self.get(name)? - earlier.get(name)?)
    }
}

/// Fails when a host has since `before` dropped something that nobody but a fault or a foe makes it drop.
pub(crate) fn ensure_nothing_was_refused(cluster: &Cluster, before: &[Counts; 2]) -> Result<()> {
    for (before, after) in before.iter().zip(Counts::of(cluster)?) {
        for reason in NEVER {
            let [earlier, now] = [before, &after].map(|counts| counts.drops.get(reason).copied());
            ensure!(now == earlier, "{}: {reason} went from {earlier:?} to {now:?}", after.host);
        }
    }
    Ok(())
}
