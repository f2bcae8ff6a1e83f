//! The underlay changes under traffic.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use weft_e2e::{SETTLE, n_connected};
use weft_lab::{Engine, Weft, wait_until};

use crate::plain::{Plain, peer};

/// How long traffic may rest when a host's address changes.
const ROAM: Duration = Duration::from_secs(3);

pub(crate) fn roaming(engine: Engine, weft: &Weft) -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(20);
    let plain = Plain::start("roaming", engine, weft, 3, &[])?;
    let (here, there) = (plain.attach(0, "red", "10.202.0.10")?, plain.attach(1, "red", "10.202.0.20")?);
    here.wait_for(&there)?;
    let pings = here.ping(&there, INTERVAL)?;
    for address in ["10.77.0.71", "10.77.0.72"] {
        thread::sleep(Duration::from_secs(1));
        plain.host(1).sh(&format!("ip address flush dev eth0 && ip address add {address}/24 dev eth0"))?;
        wait_until("the new address to be known", SETTLE, || {
            let known = peer(plain.host(0), "host2")?["address"].clone();
            Ok(known.as_str().is_some_and(|known| known.starts_with(address)) && here.reaches(&there.ip))
        })?;
    }
    thread::sleep(Duration::from_secs(1));
    let echoes = pings.stop()?;
    let gap = INTERVAL * u32::try_from(echoes.longest_gap)?;
    println!(
        "two changes of address under traffic: longest rest {gap:.2?}, {} of {} echoes lost",
        echoes.n_lost(),
        echoes.n_sent
    );
    ensure!(gap <= ROAM, "traffic rested {gap:?}");
    plain.ensure_sound()
}

pub(crate) fn nat(engine: Engine, weft: &Weft) -> Result<()> {
    behind_nat(engine, weft, 6, Duration::from_secs(13))
}

pub(crate) fn nat_after_forty_seconds(engine: Engine, weft: &Weft) -> Result<()> {
    behind_nat(engine, weft, 30, Duration::from_secs(40))
}

/// The wire becomes a router that hides the first host, and forgets mappings after `forgets_after` seconds.
fn behind_nat(engine: Engine, weft: &Weft, forgets_after: u32, silence: Duration) -> Result<()> {
    let plain = Plain::prepare("nat", engine, weft, 2, &[])?;
    weft.make_secret(&plain.lab, "cluster")?;
    let (inside, outside) = (plain.host(0), plain.host(1));
    inside.sh(
        "ip address flush dev eth0 && ip address add 10.99.0.10/24 dev eth0 && ip route add default via 10.99.0.1",
    )?;
    let outer = "10.77.0.200";
    plain.lab.run_on_fabric(&["sh", "-ec", &format!(
        "ip link set host1 nomaster && ip address add 10.99.0.1/24 dev host1 && ip address add {outer}/24 dev br0 && \
         echo 1 > /proc/sys/net/ipv4/ip_forward && nft add table ip nat && \
         nft 'add chain ip nat out {{ type nat hook postrouting priority 100; }}' && \
         nft add rule ip nat out oifname br0 ip saddr 10.99.0.0/24 masquerade fully-random && \
         for name in udp_timeout udp_timeout_stream; do echo {forgets_after} > /proc/sys/net/netfilter/nf_conntrack_$name; done"
    )])?;
    plain.start_daemon(0, &[&format!("PEERS={}", outside.ipv4())])?;
    plain.start_daemon(1, &["PEERS="])?;
    for host in [inside, outside] {
        wait_until("the two to be connected", SETTLE, || Ok(n_connected(host)? == 1))?;
    }
    let known = peer(outside, "host1")?["address"].clone();
    ensure!(known.as_str().is_some_and(|known| known.starts_with(outer)), "host1 is seen at {known}");
    let (here, there) = (plain.attach(0, "red", "10.202.0.10")?, plain.attach(1, "red", "10.202.0.20")?);
    here.wait_for(&there)?;
    // Nothing of the containers passes meanwhile.
    thread::sleep(silence);
    ensure!(there.reaches(&here.ip), "after {silence:?} of silence the inside cannot be reached");
    plain.ensure_sound()
}
