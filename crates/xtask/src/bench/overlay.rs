//! What is measured, and how each is set up.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::ground::{Ground, container_address, host_address};
use super::shell::{self, Background};
use super::{Programs, weft};
use crate::plugin;

/// MTU that Docker's overlay leaves of 1500: 50 bytes less.
const VXLAN_OVERHEAD: u16 = 50;
/// What wireguard leaves of 1500 is 1420: it reckons with IPv6.
const WIREGUARD_OVERHEAD: u16 = 80;
/// vpncloud's own figure.
const VPNCLOUD_OVERHEAD: u16 = 87;
/// As `weft_wire::overlay_mtu` over IPv4.
const WEFT_OVERHEAD: u16 = 82;
const VPNCLOUD_VERSION: &str = "2.3.0";
const START_LIMIT: Duration = Duration::from_secs(10);

/// A configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Overlay {
    /// The hosts themselves, without an overlay.
    Raw,
    /// Kernel VXLAN in clear text behind a bridge, as Docker's overlay driver sets it up.
    Vxlan,
    /// wireguard-go, its TUN in the container.
    WireguardGo,
    /// vpncloud, its TAP behind a bridge.
    Vpncloud,
    /// A program that only forwards between TAP and UDP: the most that one stream of an overlay in userspace can have.
    Forwarder,
    /// Another build of weft with AES-256-GCM.
    WeftBefore,
    /// weft with AES-256-GCM.
    WeftAes,
    /// weft with ChaCha20-Poly1305.
    WeftChacha,
    /// Two containers of one host on a plain bridge.
    Bridge,
    /// The same with the MTU of weft's networks.
    BridgeOfWeftMtu,
    /// Two containers of one host on a weft network.
    WeftLocal,
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw",
            Self::Vxlan => "vxlan",
            Self::WireguardGo => "wireguard-go",
            Self::Vpncloud => "vpncloud",
            Self::Forwarder => "forwarder",
            Self::WeftBefore => "weft-before",
            Self::WeftAes => "weft-aes",
            Self::WeftChacha => "weft-chacha",
            Self::Bridge => "bridge",
            Self::BridgeOfWeftMtu => "bridge-of-weft-mtu",
            Self::WeftLocal => "weft-local",
        })
    }
}

/// A configuration that is set up: traffic from `client` to `server` passes it.
pub(super) struct Up {
    /// Namespace of the client.
    pub(super) client: String,
    /// Namespace of the server.
    pub(super) server: String,
    /// The server's address.
    pub(super) address: String,
    /// MTU inside.
    pub(super) overlay_mtu: u16,
    /// The overlay's own processes.
    pub(super) processes: Vec<Background>,
}

impl Overlay {
    /// All that need no program named on the command line.
    pub(super) const ALL: [Self; 10] = [
        Self::Raw,
        Self::Vxlan,
        Self::WireguardGo,
        Self::Vpncloud,
        Self::Forwarder,
        Self::WeftAes,
        Self::WeftChacha,
        Self::Bridge,
        Self::BridgeOfWeftMtu,
        Self::WeftLocal,
    ];

    /// Others' programs may not be had everywhere, and the forwarder does not do on every link.
    pub(super) const fn is_optional(self) -> bool {
        matches!(self, Self::WireguardGo | Self::Vpncloud | Self::Forwarder)
    }

    /// Sets it up, and waits until a packet passes.
    pub(super) fn start(self, ground: &Ground, programs: &Programs) -> Result<Up> {
        let mtu = ground.underlay.mtu;
        let (processes, overlay_mtu) = match self {
            Self::Raw => (Vec::new(), mtu),
            Self::Vxlan => vxlan(ground, mtu - VXLAN_OVERHEAD)?,
            Self::WireguardGo => wireguard_go(ground, mtu - WIREGUARD_OVERHEAD)?,
            Self::Vpncloud => vpncloud(ground, mtu - VPNCLOUD_OVERHEAD)?,
            Self::Forwarder => forwarder(ground, mtu - WEFT_OVERHEAD)?,
            Self::WeftBefore => {
                let before = programs.before.as_ref().context("no other build is named")?;
                weft::across(ground, before, "aes-256-gcm")?
            }
            Self::WeftAes => weft::across(ground, &programs.weft, "aes-256-gcm")?,
            Self::WeftChacha => weft::across(ground, &programs.weft, "chacha20-poly1305")?,
            Self::Bridge => bridge(ground, mtu)?,
            Self::BridgeOfWeftMtu => bridge(ground, mtu - WEFT_OVERHEAD)?,
            Self::WeftLocal => weft::local(ground, &programs.weft)?,
        };
        let up = match self {
            Self::Raw => Up {
                client: ground.host(0),
                server: ground.host(1),
                address: host_address(1),
                overlay_mtu,
                processes,
            },
            _ => Up {
                client: ground.container(0),
                server: ground.container(1),
                address: container_address(1),
                overlay_mtu,
                processes,
            },
        };
        shell::await_ok("an answer through the overlay", START_LIMIT, || {
            shell::run_in(&up.client, &format!("ping -c 1 -W 1 {}", up.address))
        })?;
        Ok(up)
    }
}

fn add_bridge(host: &str, mtu: u16) -> Result<()> {
    shell::run(&format!("ip -n {host} link add br0 mtu {mtu} type bridge"))?;
    shell::run(&format!("ip -n {host} link set br0 up")).map(drop)
}

fn vxlan(ground: &Ground, mtu: u16) -> Result<(Vec<Background>, u16)> {
    for n in 0..2 {
        let host = ground.host(n);
        add_bridge(&host, mtu)?;
        shell::run(&format!(
            "ip -n {host} link add vxlan0 mtu {mtu} type vxlan id 4097 dstport 4789 remote {} dev eth0",
            host_address(1 - n)
        ))?;
        shell::run(&format!("ip -n {host} link set vxlan0 master br0 up"))?;
        ground.add_container(n, "c0", mtu)?;
        shell::run(&format!("ip -n {host} link set c0 master br0"))?;
    }
    Ok((Vec::new(), mtu))
}

fn bridge(ground: &Ground, mtu: u16) -> Result<(Vec<Background>, u16)> {
    let host = ground.host(0);
    add_bridge(&host, mtu)?;
    for c in 0..2 {
        let (container, link) = (ground.container(c), format!("c{c}"));
        shell::run(&format!(
            "ip -n {host} link add {link} mtu {mtu} type veth peer name eth0 netns {container} mtu {mtu}"
        ))?;
        shell::run(&format!("ip -n {host} link set {link} master br0 up"))?;
        ground.dress_container(c)?;
    }
    Ok((Vec::new(), mtu))
}

/// Moves a host's link into its container as `eth0`; its socket stays in the host.
fn give_link(ground: &Ground, n: usize, link: &str, mtu: u16) -> Result<()> {
    let host = ground.host(n);
    shell::await_ok("the overlay's link", START_LIMIT, || {
        shell::run(&format!("ip -n {host} link show {link}"))
    })?;
    shell::run(&format!("ip -n {host} link set {link} mtu {mtu}"))?;
    shell::run(&format!("ip -n {host} link set {link} netns {} name eth0", ground.container(n)))?;
    ground.dress_container(n)
}

fn wireguard_go(ground: &Ground, mtu: u16) -> Result<(Vec<Background>, u16)> {
    let program = newest_wireguard_go()?;
    let mut processes = Vec::new();
    let keys: Vec<(String, String)> = (0..2)
        .map(|_| {
            let private = shell::run("wg genkey")?.trim().to_owned();
            let public = public_key(&private)?;
            Ok((private, public))
        })
        .collect::<Result<_>>()?;
    for n in 0..2 {
        let script = format!("exec {} -f wg0", program.display());
        let process = Background::start(&ground.host(n), &script)?;
        let (host, pid) = (ground.host(n), process.pid());
        shell::await_ok("wireguard-go's link", START_LIMIT, || {
            shell::run(&format!("ip -n {host} link show wg0"))
        })?;
        let config = format!(
            "[Interface]\nPrivateKey={}\nListenPort=51820\n[Peer]\nPublicKey={}\nAllowedIPs=10.98.0.0/24\nEndpoint={}:51820\n",
            keys[n].0,
            keys[1 - n].1,
            host_address(1 - n),
        );
        // Its control socket is in the /run of its own mount namespace.
        shell::await_ok("wireguard-go takes its settings", START_LIMIT, || {
            shell::feed(&format!("nsenter --target {pid} --net --mount wg setconf wg0 /dev/stdin"), &config)
        })?;
        shell::run(&format!("ip -n {host} link set wg0 mtu {mtu}"))?;
        processes.push(process);
    }
    for n in 0..2 {
        give_link(ground, n, "wg0", mtu)?;
    }
    Ok((processes, mtu))
}

fn public_key(private: &str) -> Result<String> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new("wg").arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(private.as_bytes())?;
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "wg pubkey: {}", done.status);
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

/// wireguard-go from Debian's newest release, whose program is static, taken out of its package once.
fn newest_wireguard_go() -> Result<PathBuf> {
    let cache = weft_lab::cache_dir().join("bench");
    let program = cache.join("wireguard-go");
    if !program.exists() {
        std::fs::create_dir_all(&cache)?;
        let root = "sid".parse::<weft_lab::Engine>()?.ensure()?;
        let (root, cache) = (root.display(), cache.display());
        // The root filesystem tells the mirror and is not written to.
        let script = format!(
            "set -e; mkdir -p {cache}/apt/state/lists/partial {cache}/apt/cache/archives/partial; cd {cache}; \
             apt() {{ apt-get -o Dir::Etc::SourceList={root}/etc/apt/sources.list -o Dir::Etc::SourceParts=/dev/null \
             -o Dir::State={cache}/apt/state -o Dir::Cache={cache}/apt/cache \"$@\"; }}; \
             apt update; apt download wireguard-go; dpkg -x wireguard-go_*.deb wgo; \
             mv wgo/usr/bin/wireguard-go wireguard-go; rm -r wgo wireguard-go_*.deb apt"
        );
        let done = std::process::Command::new("sh").args(["-c", &script]).output()?;
        ensure!(
            done.status.success(),
            "cannot fetch wireguard-go: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(program)
}

/// Its TAP behind a bridge, as weft's. A super-frame of the containers is one train of it.
fn forwarder(ground: &Ground, mtu: u16) -> Result<(Vec<Background>, u16)> {
    let underlay = &ground.underlay;
    ensure!(
        underlay.mtu == 1500 && underlay.offloads && !underlay.segmented,
        "the forwarder takes a train for a frame, which it is on a link of 1500 bytes that leaves trains whole"
    );
    let program = plugin::build_forwarder()?;
    let mut processes = Vec::new();
    for n in 0..2 {
        let host = ground.host(n);
        add_bridge(&host, mtu)?;
        let script = format!("exec {} tap0 7000 {}:7000", program.display(), host_address(1 - n));
        processes.push(Background::start(&host, &script)?);
        shell::await_ok("the forwarder's link", START_LIMIT, || {
            shell::run(&format!("ip -n {host} link show tap0"))
        })?;
        shell::run(&format!("ip -n {host} link set tap0 mtu {mtu} master br0 up"))?;
        ground.add_container(n, "c0", mtu)?;
        shell::run(&format!("ip -n {} link set eth0 gso_max_size 60000", ground.container(n)))?;
        shell::run(&format!("ip -n {host} link set c0 gso_max_size 60000 master br0"))?;
    }
    Ok((processes, mtu))
}

fn vpncloud(ground: &Ground, mtu: u16) -> Result<(Vec<Background>, u16)> {
    let cache = weft_lab::cache_dir().join("bench");
    let program = cache.join("bin/vpncloud");
    if !program.exists() {
        let done = std::process::Command::new("cargo")
            .args(["install", "--quiet", "vpncloud", "--version", VPNCLOUD_VERSION, "--root"])
            .arg(&cache)
            .output()?;
        ensure!(done.status.success(), "cannot build vpncloud: {}", String::from_utf8_lossy(&done.stderr));
    }
    let mut processes = Vec::new();
    for n in 0..2 {
        // It finds its own address by the route to some address of the Internet.
        shell::run(&format!("ip -n {} route add default via {}", ground.host(n), host_address(1 - n)))?;
        let script = format!(
            "exec {} --type tap --mode switch --device vpn0 --listen 3210 --peer {}:3210 --password bench-bench-bench \
             --no-port-forwarding",
            program.display(),
            host_address(1 - n)
        );
        processes.push(Background::start(&ground.host(n), &script)?);
    }
    for n in 0..2 {
        let host = ground.host(n);
        shell::await_ok("vpncloud's link", START_LIMIT, || {
            shell::run(&format!("ip -n {host} link show vpn0"))
        })?;
        add_bridge(&host, mtu)?;
        shell::run(&format!("ip -n {host} link set vpn0 mtu {mtu} master br0 up"))?;
        ground.add_container(n, "c0", mtu)?;
        shell::run(&format!("ip -n {host} link set c0 master br0"))?;
    }
    Ok((processes, mtu))
}
