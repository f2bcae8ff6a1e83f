//! The namespaces: two hosts joined by a link through a third namespace, and a container beside each.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;

use super::shell;

/// The link between the hosts.
#[derive(Debug, Clone)]
pub(super) struct Underlay {
    pub(super) mtu: u16,
    /// Datagrams of 1000 that are dropped, each way.
    pub(super) loss_permille: u16,
    /// Datagrams of 1000 that come later than those sent after them, each way.
    pub(super) reorder_permille: u16,
    /// Senders' kernels segment, receivers' kernels join again (GRO).
    pub(super) segmented: bool,
    /// Offloads of links and containers are on.
    pub(super) offloads: bool,
    /// Of the TCP that is measured.
    pub(super) congestion_control: String,
}

/// The namespaces of one measurement; dropped, they are gone with all that is in them.
pub(super) struct Ground {
    tag: String,
    pub(super) underlay: Underlay,
}

/// Address of host `n`, 0 or 1, on the underlay.
pub(super) fn host_address(n: usize) -> String {
    format!("10.99.0.{}", n + 1)
}

/// Address of container `n` on the overlay.
pub(super) fn container_address(n: usize) -> String {
    format!("10.98.0.{}", n + 1)
}

impl Ground {
    pub(super) fn new(underlay: &Underlay) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("wb{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let ground = Self { tag, underlay: underlay.clone() };
        ground.lay()?;
        Ok(ground)
    }

    /// Namespace of host `n`.
    pub(super) fn host(&self, n: usize) -> String {
        format!("{}h{n}", self.tag)
    }

    /// Namespace of the container on host `n`.
    pub(super) fn container(&self, n: usize) -> String {
        format!("{}c{n}", self.tag)
    }

    fn middle(&self) -> String {
        format!("{}m", self.tag)
    }

    fn all(&self) -> [String; 5] {
        [self.host(0), self.host(1), self.container(0), self.container(1), self.middle()]
    }

    fn lay(&self) -> Result<()> {
        for namespace in self.all() {
            shell::run(&format!("ip netns add {namespace}"))?;
            shell::run(&format!("ip -n {namespace} link set lo up"))?;
        }
        let mtu = self.underlay.mtu;
        let (a, b) = (self.host(0), self.host(1));
        if self.underlay.segmented {
            self.lay_through_middle()?;
        } else {
            shell::run(&format!(
                "ip -n {a} link add eth0 mtu {mtu} type veth peer name eth0 netns {b} mtu {mtu}"
            ))?;
        }
        for n in 0..2 {
            let host = self.host(n);
            shell::run(&format!("ip -n {host} addr add {}/24 dev eth0", host_address(n)))?;
            if !self.underlay.offloads {
                self.turn_offloads_off(&host, "eth0")?;
            }
            shell::run(&format!("ip -n {host} link set eth0 up"))?;
        }
        Ok(())
    }

    /// A bridge between the hosts sees datagrams one by one, and may drop some.
    fn lay_through_middle(&self) -> Result<()> {
        let (middle, mtu) = (self.middle(), self.underlay.mtu);
        shell::run(&format!("ip -n {middle} link add br0 mtu {mtu} type bridge"))?;
        for n in 0..2 {
            let host = self.host(n);
            shell::run(&format!(
                "ip -n {host} link add eth0 mtu {mtu} type veth peer name p{n} netns {middle} mtu {mtu}"
            ))?;
            shell::run(&format!("ip -n {middle} link set p{n} master br0 up"))?;
            shell::run_in(&host, "ethtool -K eth0 tso off gso off tx-udp-segmentation off gro on")?;
        }
        shell::run(&format!("ip -n {middle} link set br0 up"))?;
        self.disturb(&middle)
    }

    /// Drops some datagrams, and sends some over one link more: they then stand behind in the kernel's queue.
    fn disturb(&self, middle: &str) -> Result<()> {
        let Underlay { loss_permille: loss, reorder_permille: late, mtu, .. } = self.underlay;
        let mut rules = String::new();
        for n in 0..2 {
            let mut verdicts = Vec::new();
            if loss > 0 {
                verdicts.push(format!("ip protocol {{ tcp, udp }} numgen random mod 1000 < {loss} drop"));
            }
            if late > 0 {
                shell::run(&format!(
                    "ip -n {middle} link add detour{n} mtu {mtu} up type veth peer name z{n} mtu {mtu}"
                ))?;
                shell::run(&format!("ip -n {middle} link set z{n} master br0 up"))?;
                shell::run(&format!(
                    "ip -n {middle} link set z{n} type bridge_slave learning off flood off mcast_flood off bcast_flood off"
                ))?;
                verdicts.push(format!(
                    "ip protocol {{ tcp, udp }} numgen random mod 1000 < {late} fwd to \"detour{n}\""
                ));
            }
            if !verdicts.is_empty() {
                let verdicts = verdicts.join("; ");
                rules += &format!(
                    "table netdev disturb{n} {{ chain c {{ type filter hook ingress device p{n} priority 0; {verdicts}; }}; }}\n"
                );
            }
        }
        if !rules.is_empty() {
            shell::feed(&format!("ip netns exec {middle} nft -f -"), &rules)?;
        }
        Ok(())
    }

    fn turn_offloads_off(&self, namespace: &str, link: &str) -> Result<()> {
        shell::run_in(namespace, &format!("ethtool -K {link} tso off gso off gro off tx off rx off"))
            .map(drop)
    }

    /// Joins container `n` to its host: `host_link` stays in the host, `eth0` goes into the container with its address.
    pub(super) fn add_container(&self, n: usize, host_link: &str, mtu: u16) -> Result<()> {
        let (host, container) = (self.host(n), self.container(n));
        shell::run(&format!(
            "ip -n {host} link add {host_link} mtu {mtu} type veth peer name eth0 netns {container} mtu {mtu}"
        ))?;
        shell::run(&format!("ip -n {host} link set {host_link} up"))?;
        self.dress_container(n)
    }

    /// Gives `eth0` in container `n` its address, and turns it on.
    pub(super) fn dress_container(&self, n: usize) -> Result<()> {
        let container = self.container(n);
        if !self.underlay.offloads {
            self.turn_offloads_off(&container, "eth0")?;
        }
        shell::run(&format!("ip -n {container} addr add {}/24 dev eth0", container_address(n)))?;
        shell::run(&format!("ip -n {container} link set eth0 up")).map(drop)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for namespace in self.all() {
            // One that was never made is as good as removed.
            let _ = shell::run(&format!("ip netns del {namespace}"));
        }
    }
}
