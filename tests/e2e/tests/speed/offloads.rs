//! Every combination of offloads in the container and on the underlay.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::Cluster;
use weft_lab::Host;

use crate::{
    probe,
    sandbox::{Counts, Sandbox, ensure_nothing_was_refused, pair},
};

/// What is switched: `ethtool -K`'s name, and `ethtool -k`'s.
const FEATURES: [(&str, &str); 4] = [
    ("tso", "tx-tcp-segmentation"),
    ("gso", "generic-segmentation-offload"),
    ("gro", "generic-receive-offload"),
    ("tx", "tx-checksumming"),
];

/// The offloads of an interface that are on: a bit for each of [`FEATURES`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct Offloads(u8);

impl Offloads {
    fn all() -> impl Iterator<Item = Self> {
        (0..1 << FEATURES.len()).map(Self)
    }

    fn has(self, index: usize) -> bool {
        self.0 >> index & 1 != 0
    }

    /// What the kernel makes of them: there is no TSO without checksums.
    fn effective(self) -> Self {
        if self.has(3) { self } else { Self(self.0 & !1) }
    }

    /// The line that sets them on `eth0` and prints what is set.
    fn line(self) -> String {
        let words: Vec<String> = FEATURES
            .iter()
            .enumerate()
            .map(|(i, (name, _))| format!("{name} {}", if self.has(i) { "on" } else { "off" }))
            .collect();
        // It fails as well when nothing was to be changed: what counts is what is set then.
        format!("ethtool -K eth0 {} >/dev/null 2>&1; ethtool -k eth0", words.join(" "))
    }

    /// Those that `ethtool -k` printed.
    fn parse(text: &str) -> Result<Self> {
        let mut offloads = 0;
        for (i, (_, name)) in FEATURES.iter().enumerate() {
            let value = text
                .lines()
                .find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))
                .with_context(|| format!("no {name} in {text:?}"))?;
            offloads |= u8::from(value.trim().starts_with("on")) << i;
        }
        Ok(Self(offloads))
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<&str> =
            FEATURES.iter().enumerate().filter(|(i, _)| self.has(*i)).map(|(_, (name, _))| *name).collect();
        write!(f, "[{}]", on.join(" "))
    }
}

/// The underlay of the hosts with its offloads changed; set back when dropped.
struct Underlay<'a> {
    hosts: [&'a Host; 2],
    original: [Offloads; 2],
}

impl<'a> Underlay<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let hosts = [cluster.manager(), cluster.worker()];
        let look = |host: &Host| Offloads::parse(&host.run_in_network(["ethtool", "-k", "eth0"])?);
        Ok(Self { hosts, original: [look(hosts[0])?, look(hosts[1])?] })
    }

    fn set(&self, offloads: Offloads) -> Result<()> {
        self.hosts.iter().try_for_each(|host| set_on_host(host, offloads))
    }
}

impl Drop for Underlay<'_> {
    fn drop(&mut self) {
        for (host, original) in self.hosts.iter().zip(self.original) {
            if let Err(error) = set_on_host(host, original) {
                eprintln!("{error:#}");
            }
        }
    }
}

fn set_on_host(host: &Host, offloads: Offloads) -> Result<()> {
    let text = host.run_in_network(["sh", "-c", &offloads.line()])?;
    ensure_set(host.name(), offloads, &text)
}

fn set_in_container(sandbox: &Sandbox<'_>, offloads: Offloads) -> Result<()> {
    ensure_set(&sandbox.container, offloads, &sandbox.sh(&offloads.line())?)
}

fn ensure_set(place: &str, wanted: Offloads, text: &str) -> Result<()> {
    let set = Offloads::parse(text)?;
    ensure!(set == wanted.effective(), "{place}: {set} is set and not {}", wanted.effective());
    Ok(())
}

pub(crate) fn every_offload_combination(cluster: &Cluster) -> Result<()> {
    weft_lab::install_missing(&[("ethtool", "ethtool")])?;
    let network = cluster.network(&["--opt=weft.spoof-check=off"])?;
    let sandboxes = pair(cluster, &network)?;
    let before = Counts::of(cluster)?;
    let underlay = Underlay::new(cluster)?;
    for outer in Offloads::all() {
        underlay.set(outer)?;
        for inner in Offloads::all() {
            sandboxes.iter().try_for_each(|sandbox| set_in_container(sandbox, inner))?;
            exchange(&sandboxes)
                .with_context(|| format!("with {inner} on in the containers and {outer} on the underlay"))?;
        }
        ensure_nothing_was_refused(cluster, &before)
            .with_context(|| format!("with {outer} on on the underlay"))?;
    }
    drop(underlay);
    network.remove()
}

/// TCP, UDP and trains of UDP over both families, both ways, in sizes that fit, do not fit, and end oddly.
fn exchange([here, there]: &[Sandbox<'_>; 2]) -> Result<()> {
    for ipv6 in [false, true] {
        for len in [1, 300_007] {
            probe::tcp(here, there, ipv6, len)?;
        }
        // The longest that is not fragmented, and one byte more; then IP fragments.
        let whole = if ipv6 { 1370 } else { 1390 };
        probe::udp(here, there, ipv6, &[0, 1, 2, 511, whole - 1, whole, whole + 1, 4001, 20_011])?;
        probe::udp_train(here, there, ipv6, 30 * 1201 + 7, 1201)?;
    }
    probe::tcp(there, here, false, 300_007)
}
