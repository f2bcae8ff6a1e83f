//! Multicast between containers of three hosts: who asked for it gets it, and no one else.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Namespace, SETTLE, daemon_status};
use weft_lab::{BUSYBOX, Engine, Host, Lab, LabConfig, Weft, wait_until};

use crate::{
    daemons::{create_dual_stack, ensure_connected, start_all},
    mdns,
};

const PORT: u16 = 5004;
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 77, 1, 2));
/// Site-local, so that it is not the link's alone.
const GROUP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x77));
const MDNS: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251));
/// Datagrams of a burst.
const N_BURST: u64 = 20;
/// How long a datagram may take that is to come.
const ARRIVES: Duration = Duration::from_secs(2);

/// A container on the network, and what reaches its interface.
struct Member {
    name: String,
    network: Namespace,
}

impl Member {
    /// Starts a container with these addresses, which counts what its interface gets for each of the groups.
    fn start(host: &Host, network: &str, last: u8) -> Result<Self> {
        let name = format!("box{last}");
        let (network, named) = (format!("--network={network}"), format!("--name={name}"));
        let (ip, ip6) = (format!("--ip=10.204.0.{last}"), format!("--ip6=fd99:204::{last}"));
        host.docker(["run", "--detach", &network, &named, &ip, &ip6, BUSYBOX])?;
        let member = Self { network: Namespace::of(host, &name)?, name };
        member.network.sh(&format!(
            "nft add table netdev seen && \
             nft 'add chain netdev seen in {{ type filter hook ingress device eth0 priority 0; }}' && \
             nft add rule netdev seen in ip daddr {GROUP} counter comment {} && \
             nft add rule netdev seen in ip6 daddr {GROUP_V6} counter comment {} && \
             nft add rule netdev seen in ip daddr {MDNS} counter comment {}",
            quoted(GROUP),
            quoted(GROUP_V6),
            quoted(MDNS),
        ))?;
        Ok(member)
    }

    /// Packets to the group that came to its interface.
    fn n_seen(&self, group: IpAddr) -> Result<u64> {
        let rules = self.network.sh("nft list chain netdev seen in")?;
        let comment = format!("\"{group}\"");
        let rule = rules.lines().find(|line| line.contains(&comment));
        let rule = rule.with_context(|| format!("no rule counts {group}: {rules}"))?;
        let count = rule.split_whitespace().skip_while(|word| *word != "packets").nth(1);
        count.context("a counter has a value")?.parse().context("a count")
    }

    /// A socket for what is sent to a group, subscribed on the interface that the container's routes choose.
    fn subscribe(&self, group: IpAddr, port: u16) -> Result<UdpSocket> {
        let any =
            if group.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = self.network.enter(|| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((any, port))?;
            match group {
                IpAddr::V4(group) => socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?,
                IpAddr::V6(group) => socket.join_multicast_v6(&group, 0)?,
            }
            Ok(socket)
        })??;
        socket.set_read_timeout(Some(ARRIVES))?;
        Ok(socket)
    }

    fn sender(&self, group: IpAddr) -> Result<UdpSocket> {
        let any =
            if group.is_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        Ok(self.network.enter(|| UdpSocket::bind((any, 0)))??)
    }
}

fn quoted(group: IpAddr) -> String {
    format!("'\"{group}\"'")
}

/// A sender, and who is to hear it and who not.
struct Cast<'a> {
    group: IpAddr,
    sender: UdpSocket,
    hearers: Vec<(&'a Member, UdpSocket)>,
    others: Vec<&'a Member>,
}

impl Cast<'_> {
    fn send(&self, n: u64) -> Result<()> {
        (0..n).try_for_each(|i| {
            self.sender.send_to(&i.to_be_bytes(), SocketAddr::new(self.group, PORT)).map(drop)
        })?;
        Ok(())
    }

    /// Waits until subscriptions are known everywhere; then a burst reaches each hearer whole, and no other interface.
    fn reaches_its_hearers_alone(&self) -> Result<()> {
        for (member, socket) in &self.hearers {
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            wait_until(&format!("{} at {}", self.group, member.name), SETTLE, || {
                self.send(1)?;
                Ok(socket.recv(&mut [0; 8]).is_ok())
            })?;
        }
        // A bridge floods until it has asked who wants what.
        let seen = || self.others.iter().map(|other| other.n_seen(self.group)).collect::<Result<Vec<_>>>();
        wait_until("peace for those who did not subscribe", SETTLE, || {
            let before = seen()?;
            self.burst()?;
            let after = seen()?;
            ensure!(before == after, "{} reaches who did not ask for it: {before:?}, {after:?}", self.group);
            Ok(true)
        })
    }

    /// Sends a burst, which every hearer must get whole and once.
    fn burst(&self) -> Result<()> {
        for (_, socket) in &self.hearers {
            socket.set_nonblocking(true)?;
            while socket.recv(&mut [0; 8]).is_ok() {}
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(ARRIVES))?;
        }
        self.send(N_BURST)?;
        for (member, socket) in &self.hearers {
            let mut got = Vec::new();
            let mut datagram = [0; 8];
            while got.len() < N_BURST as usize && socket.recv(&mut datagram).is_ok() {
                got.push(u64::from_be_bytes(datagram));
            }
            let sent: Vec<u64> = (0..N_BURST).collect();
            ensure!(got == sent, "{}: {} got {got:?}", self.group, member.name);
        }
        Ok(())
    }
}

fn drops(host: &Host, reason: &str) -> Result<u64> {
    Ok(daemon_status(host)?["drops"][reason].as_u64().unwrap_or(0))
}

pub(crate) fn multicast(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("cast", engine, 3))?;
    let daemons = start_all(&lab, weft, 3)?;
    for host in lab.hosts() {
        wait_until("all peers", SETTLE, || ensure_connected(host, 2).map(|()| true))?;
        create_dual_stack(host, "cast", 204, &[])?;
        create_dual_stack(host, "mute", 205, &["--opt=weft.multicast=off"])?;
    }
    let [first, second, third] = lab.hosts() else { unreachable!("the lab has three hosts") };
    let speaker = Member::start(first, "cast", 11)?;
    let beside_speaker = Member::start(first, "cast", 12)?;
    let listener = Member::start(second, "cast", 21)?;
    let beside_listener = Member::start(second, "cast", 22)?;
    let old_listener = Member::start(third, "cast", 31)?;
    let all = [&speaker, &beside_speaker, &listener, &beside_listener, &old_listener];
    old_listener.network.sh("sysctl -qw net.ipv4.conf.eth0.force_igmp_version=2")?;
    let route = speaker.network.sh("ip route get 239.77.1.2")?;
    ensure!(
        route.contains("dev eth0"),
        "multicast of a program that names no interface goes elsewhere: {route}"
    );

    for group in [GROUP, GROUP_V6] {
        let mut cast = Cast {
            group,
            sender: speaker.sender(group)?,
            hearers: Vec::new(),
            others: vec![&beside_speaker, &beside_listener, &listener, &old_listener],
        };
        // While nobody wants it, it does not leave the host.
        let before = drops(first, "no_subscriber")?;
        wait_until("drops for want of a subscriber", SETTLE, || {
            cast.send(1)?;
            Ok(drops(first, "no_subscriber")? > before)
        })?;
        ensure!(listener.n_seen(group)? == 0 && old_listener.n_seen(group)? == 0, "{group} came unasked");

        cast.others = vec![&beside_speaker, &beside_listener];
        cast.hearers.push((&listener, listener.subscribe(group, PORT)?));
        cast.hearers.push((&old_listener, old_listener.subscribe(group, PORT)?));
        cast.reaches_its_hearers_alone().with_context(|| format!("{group}, two hearers"))?;

        // Who leaves gets no more, and the other goes on.
        let (leaver, socket) = cast.hearers.remove(0);
        drop(socket);
        cast.others.push(leaver);
        cast.reaches_its_hearers_alone().with_context(|| format!("{group}, one left"))?;
        // Also one that leaves by IGMPv2, after which others are asked first.
        let (leaver, socket) = cast.hearers.remove(0);
        drop(socket);
        cast.others.push(leaver);
        cast.reaches_its_hearers_alone().with_context(|| format!("{group}, none left"))?;
        wait_until("the last one's leave", SETTLE, || {
            let before = old_listener.n_seen(group)?;
            cast.burst()?;
            ensure!(old_listener.n_seen(group)? == before, "{group} still comes to who left");
            Ok(true)
        })?;
    }

    // The link's own groups reach every member, subscribed or not; a name is asked for and answered by multicast.
    let before: Vec<u64> = all.iter().map(|member| member.n_seen(MDNS)).collect::<Result<_>>()?;
    let responder = old_listener.subscribe(MDNS, mdns::PORT)?;
    let querier = speaker.subscribe(MDNS, mdns::PORT)?;
    let address = Ipv4Addr::new(10, 204, 0, 31);
    let answer = mdns::ask_and_answer(&querier, &responder, "box31.local", address)?;
    ensure!(answer == address, "box31.local is said to be {answer}");
    for (member, before) in all.iter().zip(before) {
        // The question from the one side, the answer from the other: nobody hears itself.
        ensure!(member.n_seen(MDNS)? > before, "{} did not see mDNS", member.name);
    }

    // Where multicast is off, none crosses.
    let on_mute = |host: &Host, last: u8| -> Result<Namespace> {
        let (name, ip) = (format!("mute{last}"), format!("--ip=10.205.0.{last}"));
        host.docker(["run", "--detach", "--network=mute", &format!("--name={name}"), &ip, BUSYBOX])?;
        Namespace::of(host, &name)
    };
    let (from, to) = (on_mute(first, 11)?, on_mute(second, 21)?);
    let routes = from.sh("ip route")?;
    ensure!(!routes.contains("224.0.0.0/4"), "a route for multicast where there is none: {routes}");
    let bind = |network: &Namespace, last: u8, port: u16| -> Result<UdpSocket> {
        let own = Ipv4Addr::new(10, 205, 0, last);
        let IpAddr::V4(group) = GROUP else { unreachable!("the group is IPv4's") };
        Ok(network.enter(|| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.join_multicast_v4(&group, &own)?;
            Ok(socket)
        })??)
    };
    from.sh("ip route add 224.0.0.0/4 dev eth0")?;
    let (sender, hearer) = (bind(&from, 11, 0)?, bind(&to, 21, PORT)?);
    let before = drops(first, "multicast_off")?;
    wait_until("drops where multicast is off", SETTLE, || {
        sender.send_to(b"mute", SocketAddr::new(GROUP, PORT))?;
        Ok(drops(first, "multicast_off")? >= before + N_BURST)
    })?;
    hearer.set_nonblocking(true)?;
    ensure!(hearer.recv(&mut [0; 8]).is_err(), "multicast crosses where it is off");

    // A container on two networks has its multicast on the first.
    first.docker(["network", "connect", "mute", &speaker.name])?;
    let third_network = "more";
    create_dual_stack(first, third_network, 206, &[])?;
    first.docker(["network", "connect", third_network, &speaker.name])?;
    let routes = speaker.network.sh("ip route show 224.0.0.0/4")?;
    ensure!(routes.lines().count() == 1 && routes.contains("dev eth0"), "routes for multicast: {routes:?}");

    for daemon in daemons {
        let log = daemon.signal("TERM")?;
        ensure!(!log.contains("panicked"), "{log}");
    }
    Ok(())
}
