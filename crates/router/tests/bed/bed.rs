//! Two hosts and a container on each, as network namespaces of this machine, joined by routers of this process.
//!
//! ```text
//! c0 eth0 -- veth -- bridge -- TAP -- router 0 == veth, MTU 1500 == router 1 -- TAP -- bridge -- veth -- eth0 c1
//!                     (namespace h0)                                 (namespace h1)
//! ```
//!
//! With [`Plan::black_hole`] a namespace `m` that routes stands between h0 and h1.

#![allow(dead_code, reason = "every user takes a part of it")]

use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use arc_swap::ArcSwap;
use weft_dataplane::{
    Neighbor, NetworkView, Owner, PathView, PeerCounters, PeerView, SessionActivity, SessionView, Snapshot,
};
use weft_noise::{RecvSession, SendSession, Suite};
use weft_router::{NodeInput, Router, RouterConfig};
use weft_wire::{Mac, NetworkId, PeerId};

pub(crate) const PORT: u16 = 6783;
pub(crate) const NETWORK: NetworkId = NetworkId::from_u48(0x77_6566_7400);
pub(crate) const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 9, 0]), Mac([2, 0, 0, 0, 9, 1])];

/// What a bed is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub suite: Suite,
    pub ipv6_underlay: bool,
    pub n_workers: usize,
    pub overlay_mtu: u16,
    pub underlay_mtu: u16,
    /// What a router in the middle lets through towards host 0 and host 1; of the rest it says nothing. IPv4 only.
    pub black_hole: Option<[u16; 2]>,
    /// What the snapshot says of the path from host 0 and from host 1.
    pub paths: [PathView; 2],
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            suite: Suite::auto(),
            ipv6_underlay: false,
            n_workers: 2,
            overlay_mtu: 1418,
            underlay_mtu: 1500,
            black_hole: None,
            paths: [PathView::UNLIMITED; 2],
        }
    }
}

/// The namespaces; removed when dropped.
pub(crate) struct Bed {
    tag: String,
    plan: Plan,
    pub routers: [Option<Router>; 2],
    pub snapshots: [Arc<ArcSwap<Snapshot>>; 2],
    pub inputs: [Arc<Mutex<Vec<NodeInput>>>; 2],
    pub sessions: [Arc<SendSession>; 2],
}

/// How long something may take that is waited for.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !condition()? {
        ensure!(Instant::now() < deadline, "{what} did not come true");
        std::thread::yield_now();
    }
    Ok(())
}

/// Runs a command line (split at spaces) and returns what it prints.
pub(crate) fn run(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("no program")?;
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().context(line.to_owned())?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{line}: {}{err}{out}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn session_key(from: usize) -> [u8; 32] {
    [0x40 + from as u8; 32]
}

impl Bed {
    /// Makes namespaces, links and routers, and lets traffic pass.
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        let mut id = [0; 4];
        getrandom::fill(&mut id).map_err(|e| anyhow::anyhow!("{e}"))?;
        let tag = format!("wr{:08x}", u32::from_ne_bytes(id));
        let sessions = [0, 1]
            .map(|i: usize| Arc::new(SendSession::new(plan.suite, &session_key(i), 100 + (1 - i) as u32)));
        let mut bed = Self {
            tag,
            plan,
            routers: [None, None],
            snapshots: [0, 1].map(|_| Arc::default()),
            inputs: [0, 1].map(|_| Arc::default()),
            sessions,
        };
        for name in ["h0", "h1", "c0", "c1"] {
            let ns = bed.ns(name);
            run(&format!("ip netns add {ns}"))?;
            run(&format!("ip -n {ns} link set lo up"))?;
        }
        bed.join_hosts()?;
        for (i, mac) in MACS.into_iter().enumerate() {
            bed.start_router(i)?;
            bed.overlay(i, "w", "tap", plan.overlay_mtu, mac)?;
            bed.publish(i, |_| {});
        }
        Ok(bed)
    }

    fn join_hosts(&self) -> Result<()> {
        let mtu = self.plan.underlay_mtu;
        let (h0, h1) = (self.ns("h0"), self.ns("h1"));
        let Some(carries) = self.plan.black_hole else {
            run(&format!("ip -n {h0} link add eth0 type veth peer name eth0 netns {h1}"))?;
            for (i, h) in [h0, h1].into_iter().enumerate() {
                run(&format!("ip -n {h} link set eth0 mtu {mtu} up"))?;
                run(&format!("ip -n {h} addr add {}/24 dev eth0", self.underlay_v4(i)))?;
                run(&format!("ip -n {h} addr add {}/64 dev eth0 nodad", self.underlay_v6(i)))?;
            }
            return Ok(());
        };
        let m = self.ns("m");
        run(&format!("ip netns add {m}"))?;
        run(&format!("ip netns exec {m} sysctl -qw net.ipv4.ip_forward=1"))?;
        run(&format!("ip netns exec {m} nft add table ip silent"))?;
        let chain = "{ type filter hook output priority 0; }";
        run(&format!("ip netns exec {m} nft add chain ip silent out {chain}"))?;
        run(&format!("ip netns exec {m} nft add rule ip silent out ip protocol icmp drop"))?;
        for (i, h) in [h0, h1].into_iter().enumerate() {
            run(&format!("ip -n {m} link add to{i} mtu {mtu} type veth peer name eth0 netns {h} mtu {mtu}"))?;
            run(&format!("ip netns exec {m} sysctl -qw net.ipv4.conf.to{i}.proxy_arp=1"))?;
            run(&format!("ip -n {m} link set to{i} up"))?;
            run(&format!("ip -n {h} link set eth0 up"))?;
            run(&format!("ip -n {h} addr add {}/32 dev eth0", self.underlay_v4(i)))?;
            run(&format!("ip -n {h} route add {} dev eth0", self.underlay_v4(1 - i)))?;
            run(&format!("ip -n {m} route add {} dev to{i} mtu lock {}", self.underlay_v4(i), carries[i]))?;
        }
        Ok(())
    }

    fn start_router(&mut self, i: usize) -> Result<()> {
        let config =
            RouterConfig { n_workers: Some(self.plan.n_workers), port: PORT, ..RouterConfig::default() };
        let (snapshots, inputs) = (Arc::clone(&self.snapshots[i]), Arc::clone(&self.inputs[i]));
        let router = self.in_host(i, move || -> Result<Router> {
            let router = Router::start(config, snapshots, move |input| {
                let mut inputs = inputs.lock().unwrap();
                inputs.push(input);
                inputs.len() < 10_000
            })?;
            router.attach(NETWORK, "tap")?;
            Ok(router)
        })??;
        self.routers[i] = Some(router);
        Ok(())
    }

    /// Runs `f` on a thread in the namespace of host `i`.
    pub(crate) fn in_host<T: Send>(&self, i: usize, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.in_ns(&format!("h{i}"), f)
    }

    pub(crate) fn in_ns<T: Send>(&self, name: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.ns(name));
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || weft_sys::netns::enter(path).map(|()| f()));
            Ok(thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??)
        })
    }

    /// A bridge `br-X` in host `i` over `port`, and a container's interface `eth-X` on it.
    pub(crate) fn overlay(&self, i: usize, x: &str, port: &str, mtu: u16, mac: Mac) -> Result<()> {
        let (h, c) = (self.ns(&format!("h{i}")), self.ns(&format!("c{i}")));
        run(&format!("ip -n {h} link add br-{x} mtu {mtu} type bridge mcast_snooping 0"))?;
        run(&format!("ip netns exec {h} sysctl -qw net.ipv6.conf.br-{x}.disable_ipv6=1"))?;
        run(&format!(
            "ip -n {h} link add veth-{x} mtu {mtu} type veth peer name eth-{x} netns {c} address {mac} mtu {mtu}"
        ))?;
        for link in [&format!("veth-{x}"), port] {
            run(&format!("ip netns exec {h} sysctl -qw net.ipv6.conf.{link}.disable_ipv6=1"))?;
            run(&format!("ip -n {h} link set {link} master br-{x} mtu {mtu} up"))?;
        }
        run(&format!("ip -n {h} link set br-{x} up"))?;
        run(&format!("ip -n {c} link set eth-{x} up"))?;
        run(&format!("ip -n {c} addr add {}/24 dev eth-{x}", inner_v4(i, x)))?;
        run(&format!("ip -n {c} addr add {}/64 dev eth-{x} nodad", inner_v6(i, x)))?;
        Ok(())
    }

    /// A kernel VXLAN overlay `v` beside the routers', laid out as Docker does.
    pub(crate) fn add_vxlan(&self) -> Result<()> {
        for i in 0..2 {
            let h = self.ns(&format!("h{i}"));
            run(&format!(
                "ip -n {h} link add vxlan0 type vxlan id 42 dstport 4789 dev eth0 local {} remote {}",
                self.underlay_v4(i),
                self.underlay_v4(1 - i)
            ))?;
            self.overlay(i, "v", "vxlan0", 1450, Mac([2, 0, 0, 0, 8, i as u8]))?;
        }
        Ok(())
    }

    /// Publishes the snapshot of host `i`, after `change`.
    pub(crate) fn publish(&self, i: usize, change: impl FnOnce(&mut Snapshot)) {
        let other = 1 - i;
        let view = NetworkView {
            overlay_mtu: self.plan.overlay_mtu,
            fdb: [(MACS[other], 0)].into_iter().collect(),
            members: vec![0],
            local: [MACS[i]].into_iter().collect(),
            hosts: [(i, Owner::Local), (other, Owner::Peer(0))]
                .into_iter()
                .flat_map(|(n, owner)| {
                    [inner_v4(n, "w"), inner_v6(n, "w")]
                        .map(|ip| (ip.parse().expect("an address"), Neighbor { mac: MACS[n], owner }))
                })
                .collect(),
            ..NetworkView::default()
        };
        let peer = PeerView {
            id: PeerId([other as u8; 16]),
            remote: self.underlay(other),
            send: Some(Arc::clone(&self.sessions[i])),
            counters: Arc::new(PeerCounters::default()),
            path: self.plan.paths[i],
            relay: None,
        };
        let recv = self.snapshots[i].load().sessions.get(&(100 + i as u32)).map_or_else(
            || Arc::new(RecvSession::new(self.plan.suite, &session_key(other))),
            |view| Arc::clone(&view.recv),
        );
        let session = SessionView { peer: 0, recv, activity: Arc::new(SessionActivity::default()) };
        let mut snapshot = Snapshot {
            networks: [(NETWORK, view)].into_iter().collect(),
            peers: vec![peer],
            sessions: [(100 + i as u32, session)].into_iter().collect(),
            ..Snapshot::default()
        };
        change(&mut snapshot);
        self.snapshots[i].store(Arc::new(snapshot));
    }

    pub(crate) fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    pub(crate) fn router(&self, i: usize) -> &Router {
        self.routers[i].as_ref().expect("routers run as long as the bed")
    }

    fn underlay_v4(&self, i: usize) -> String {
        format!("192.0.2.{}", i + 1)
    }

    fn underlay_v6(&self, i: usize) -> String {
        format!("2001:db8::{}", i + 1)
    }

    /// Where host `i` receives.
    pub(crate) fn underlay(&self, i: usize) -> SocketAddr {
        let text = if self.plan.ipv6_underlay { self.underlay_v6(i) } else { self.underlay_v4(i) };
        let ip: IpAddr = text.parse().expect("an address");
        (ip, PORT).into()
    }

    /// Runs a command line in a namespace.
    pub(crate) fn exec(&self, name: &str, line: &str) -> Result<String> {
        run(&format!("ip netns exec {} {line}", self.ns(name)))
    }

    /// Starts a command line in a namespace.
    pub(crate) fn spawn(&self, name: &str, line: &str) -> Result<Child> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns(name)]).args(line.split_whitespace());
        Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for router in self.routers.iter_mut().filter_map(Option::take) {
            router.shutdown();
        }
        for name in ["c0", "c1", "h0", "h1", "m"] {
            // Those that were never made are no loss.
            let _ = run(&format!("ip netns del {}", self.ns(name)));
        }
    }
}

/// Address of container `i` on overlay `x`.
pub(crate) fn inner_v4(i: usize, x: &str) -> String {
    format!("10.{}.0.{}", x.as_bytes()[0], i + 1)
}

pub(crate) fn inner_v6(i: usize, x: &str) -> String {
    format!("fd00:{:x}::{}", x.as_bytes()[0], i + 1)
}
