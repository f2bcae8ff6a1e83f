//! Wall clocks that are wrong, or are set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{SETTLE, n_connected, ping_losses, status};
use weft_lab::{Background, Engine, Host, Weft, extracted_library, wait_until};

use super::{Member, all, ensure_unique_addresses, local, wait_healed, wait_peers};

/// What the daemon takes for the wall clock is the machine's and the seconds in this file.
const OFFSET: &str = "/etc/clock-offset";
const HOUR: i64 = 3600;

fn set_clock(host: &Host, seconds: i64) -> Result<()> {
    // Replaced whole, so that it is never read half.
    host.sh(&format!("echo '{seconds:+}' > {OFFSET}.new && mv {OFFSET}.new {OFFSET}")).map(drop)
}

/// Starts weft with a wall clock of its own. Spans of time are told by another clock, which nobody can set.
fn start(host: &Host, peers: &str, library: &str) -> Result<Background> {
    let offset = format!("FAKETIME_TIMESTAMP_FILE={OFFSET}");
    let preload = format!("LD_PRELOAD={library}");
    host.spawn(
        "weft",
        [
            "env",
            peers,
            &offset,
            &preload,
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "FAKETIME_DISABLE_SHM=1",
            "REKEY_AFTER=2s",
            "weft",
            "run",
        ],
    )
}

/// Clocks jump an hour to and fro under running daemons, and between their runs: no peer is locked out, no record or
/// decision is taken for an old one.
pub(crate) fn clock_jumps(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = local::lab("clock", engine, weft, &[])?;
    let (outside, inside) = lab.host(0).shared_dir("faketime")?;
    std::fs::copy(
        extracted_library("libfaketime", "faketime/libfaketime.so.1")?,
        outside.join("libfaketime.so.1"),
    )?;
    let library = inside.join("libfaketime.so.1").to_string_lossy().into_owned();
    let peers = local::peers(&lab);
    let hosts = all(&lab);
    for host in &hosts {
        set_clock(host, 0)?;
    }
    let mut daemons = hosts.iter().map(|host| start(host, &peers, &library)).collect::<Result<Vec<_>>>()?;
    wait_peers(&hosts, 1)?;
    local::create_networks(&lab)?;
    let members = [Member::run(hosts[0], "net", &[])?, Member::run(hosts[1], "net", &[])?];
    wait_healed("before", &members)?;

    // Under running daemons, both ways, while sessions are renewed.
    let ping = hosts[0]
        .spawn("ping", ["docker", "exec", &members[0].container, "ping", "-i", "0.1", &members[1].address])?;
    for offset in [HOUR, -HOUR, 0] {
        set_clock(hosts[1], offset)?;
        let before = sessions(hosts[1])?;
        wait_until("sessions to be renewed twice", SETTLE, || Ok(sessions(hosts[1])? >= before + 2))?;
    }
    let lost = ping_losses(&ping.signal("INT")?);
    ensure!(lost.is_empty(), "echoes were lost when the clock jumped: {lost:?}");

    // Between runs of the daemon.
    for offset in [HOUR, -HOUR] {
        set_clock(hosts[1], offset)?;
        let daemon = daemons.pop().context("two daemons run")?;
        daemon.signal("TERM")?;
        daemons.push(start(hosts[1], &peers, &library)?);
        let took = wait_peers(&hosts, 1)?;
        println!("daemon started anew, its clock off by {offset:+} s: session after {took:.2?}");
        wait_healed(&format!("clock off by {offset:+} s"), &members)?;
        local::exercise(hosts[1], &members[0])?;
        ensure_unique_addresses(&hosts)?;
    }

    // A later decision counts, though its clock says that it is an earlier one.
    set_clock(hosts[0], HOUR)?;
    hosts[0].run(["weft", "revoke", "host2"])?;
    let stamp = status(hosts[0])?["judged"][0]["at_ms"].as_u64().context("the decision is listed")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    ensure!(
        Duration::from_millis(stamp) > now + Duration::from_secs(3500),
        "weft does not see the clock that was set"
    );
    wait_until("the peer to be out", SETTLE, || Ok(n_connected(hosts[0])? == 0))?;
    set_clock(hosts[0], -HOUR)?;
    hosts[0].run(["weft", "allow", "host2"])?;
    wait_peers(&hosts, 1)?;
    wait_healed("revoked an hour ahead, allowed an hour behind", &members)?;
    local::remove_networks(&lab, &members)?;
    for daemon in daemons {
        let log = daemon.signal("TERM")?;
        ensure!(!log.contains("panicked"), "{log}");
    }
    Ok(())
}

/// How many handshakes of the host became sessions.
fn sessions(host: &Host) -> Result<u64> {
    status(host)?["counters"]["handshakes"].as_u64().context("handshakes are counted")
}
