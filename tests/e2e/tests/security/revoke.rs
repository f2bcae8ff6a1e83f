//! A peer is shut out.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use weft_e2e::{SETTLE, n_connected};
use weft_lab::{Engine, Weft, wait_until};

use crate::plain::{Plain, peers};

/// How long after the order the last host may still speak to the peer.
const LIMIT: Duration = Duration::from_secs(2);
/// Long enough for several attempts to come back.
const WATCH: Duration = Duration::from_secs(6);

/// Five hosts under traffic, one of them away at the moment; the fifth is revoked.
pub(crate) fn revoke_under_traffic(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::start("revoke", engine, weft, 5, &[])?;
    let places = (0..5)
        .map(|host| plain.attach(host, "red", &format!("10.202.0.{}", 10 + host)))
        .collect::<Result<Vec<_>>>()?;
    let [first, second, third, fourth, lost] = &places[..] else { unreachable!("there are five") };
    for from in [first, second, third, fourth] {
        from.wait_for(lost)?;
        lost.wait_for(from)?;
    }
    plain.stop_daemon(3)?;
    let interval = Duration::from_millis(20);
    let others = first.ping(second, interval)?;
    let pings = [first.ping(lost, interval)?, second.ping(lost, interval)?, third.ping(lost, interval)?];

    let ordered = Instant::now();
    plain.host(1).run(["weft", "revoke", "host5"])?;
    let mut slowest = Duration::ZERO;
    for index in 0..3 {
        wait_until("the peer to be shut out", SETTLE, || {
            Ok(peers(plain.host(index))?.iter().all(|p| p["name"] != "host5" || p["state"] != "connected"))
        })?;
        slowest = slowest.max(ordered.elapsed());
    }
    println!("revoked on four hosts within {slowest:.2?}");
    ensure!(slowest <= LIMIT, "shut out only after {slowest:?}");
    for ping in pings {
        let _ = ping.stop()?;
    }
    for from in [first, second, third] {
        ensure!(
            !from.reaches(&lost.ip) && !lost.reaches(&from.ip),
            "{} and the revoked host talk",
            from.name
        );
    }
    // It goes on trying, and hears nothing.
    stays_out(&plain, &[0, 1, 2])?;
    let echoes = others.stop()?;
    ensure!(echoes.n_lost() == 0, "traffic between the others suffered: {echoes:?}");

    // Neither its restart nor theirs, nor one who was away, lets it in again.
    plain.stop_daemon(4)?;
    plain.stop_daemon(0)?;
    for index in [3, 4, 0] {
        plain.start_daemon(index, &[])?;
    }
    for index in [0, 1, 2, 3] {
        wait_until("the four to be connected", SETTLE, || Ok(n_connected(plain.host(index))? == 3))?;
    }
    stays_out(&plain, &[0, 1, 2, 3])?;
    ensure!(n_connected(plain.host(4))? == 0, "the revoked host has peers");

    plain.host(2).run(["weft", "allow", "host5"])?;
    wait_until("the peer to be back", Duration::from_secs(40), || Ok(n_connected(plain.host(4))? == 4))?;
    plain.ensure_sound()
}

/// Watches what the hosts send to the revoked one: not one byte in reply. Their settings name its address, so they knock
/// there by themselves now and then, with an Init.
fn stays_out(plain: &Plain, hosts: &[usize]) -> Result<()> {
    let lost = plain.host(4);
    let capture = plain.lab.capture(lost, "udp port 6783")?;
    thread::sleep(WATCH);
    let wire = capture.stop()?;
    let n_tried = wire.count(&format!("src host {}", lost.ipv4()))?;
    ensure!(n_tried > 0, "the revoked host does not even try");
    for index in hosts {
        let replies = format!("src host {} and udp[8] != 1", plain.host(*index).ipv4());
        let sent = wire.lines(&[], &replies)?;
        ensure!(sent.is_empty(), "{} sends to the revoked host: {sent:?}", plain.host(*index).name());
    }
    let n_knocks = wire.count(&format!("dst host {} and udp[8] = 1", lost.ipv4()))?;
    println!(
        "the revoked host sent {n_tried} datagrams in {WATCH:?}, got no answer, and {n_knocks} Inits by others"
    );
    Ok(())
}
