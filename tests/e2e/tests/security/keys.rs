//! Keys change under traffic, and nothing is lost.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{SETTLE, n_connected, status};
use weft_lab::{Engine, Host, Weft, wait_until};

use crate::{adversary, place::Flow, plain::Plain};

pub(crate) fn rekeys(engine: Engine, weft: &Weft) -> Result<()> {
    const N_REKEYS: usize = 20;
    // A session's age is looked at every 350 ms at the latest, so a rekey comes after at most 2.35 s.
    const LASTING: Duration = Duration::from_secs(48);
    let plain = Plain::start("rekeys", engine, weft, 2, &["REKEY_AFTER=2s"])?;
    let (here, there) = (plain.attach(0, "red", "10.202.0.10")?, plain.attach(1, "red", "10.202.0.20")?);
    here.wait_for(&there)?;
    // Handshakes that were finished, by the first byte of the datagram.
    let capture = plain.lab.capture(plain.host(1), "udp port 6783 and udp[8] = 3")?;
    let pings = here.ping(&there, Duration::from_millis(5))?;
    let udp = Flow::start(&here, &there, LASTING, &["--udp", "--bitrate=20M", "--length=1200"])?;
    let tcp = Flow::start(&there, &here, LASTING, &["--bitrate=20M"])?;
    let (udp, tcp) = (udp.finish()?, tcp.finish()?);
    // Delivered to a receiver that got no processor in time to read it.
    let n_unread = there.n_unread()?;
    let echoes = pings.stop()?;
    let n_finished = capture.stop()?.count("")?;
    let lost = adversary::number(&udp["sum"], "lost_packets")?;
    let goodput = &tcp["sum_received"]["bits_per_second"];
    // A retransmission is no loss: a busy machine's delay makes TCP probe.
    println!(
        "{n_finished} handshakes under traffic: {} of {} echoes and {lost} of {} UDP packets lost, {n_unread} of them \
         delivered and not read, TCP {goodput} bit/s, {} segments sent again",
        echoes.n_lost(),
        echoes.n_sent,
        udp["sum"]["packets"],
        tcp["sum_sent"]["retransmits"]
    );
    for host in plain.lab.hosts() {
        println!("{}: dropped {}", host.name(), status(host)?["drops"]);
    }
    ensure!(n_finished >= N_REKEYS, "{n_finished} rekeys in {LASTING:?}");
    ensure!(echoes.n_lost() == 0, "{echoes:?}");
    ensure!(lost <= n_unread, "UDP lost {lost} packets, of which {n_unread} were delivered");
    ensure!(goodput.as_f64() > Some(19.8e6), "TCP has {goodput} bit/s of 20 Mbit/s");
    plain.ensure_sound()
}

fn fingerprint(host: &Host) -> Result<String> {
    Ok(status(host)?["secret_fingerprint"].as_str().context("a host has a secret")?.to_owned())
}

/// Add, prefer and drop on three hosts, each step twice.
pub(crate) fn rotation(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::prepare("rotation", engine, weft, 3, &[])?;
    plain.start_all()?;
    let [first, second, third] = plain.lab.hosts() else { unreachable!("the lab has three hosts") };
    first.run(["weft", "init"])?;
    let old = first.run(["weft", "secret", "show"])?;
    let give = |host: &Host, command: &str, secret: &str| host.sh(&format!("echo {secret} | {command}"));
    for host in [second, third] {
        give(host, "weft secret set", &old)?;
    }
    plain.wait_connected()?;
    let before = fingerprint(first)?;
    let [a, b, c] = [(0, "10.202.0.10"), (1, "10.202.0.20"), (2, "10.202.0.30")]
        .map(|(host, ip)| plain.attach(host, "red", ip));
    let (a, b, c) = (a?, b?, c?);
    for (from, to) in [(&a, &b), (&b, &c), (&c, &a)] {
        from.wait_for(to)?;
    }
    let interval = Duration::from_millis(10);
    let pings = [a.ping(&b, interval)?, b.ping(&c, interval)?, c.ping(&a, interval)?];

    let refused = first.output(["weft", "secret", "rotate", "drop"])?;
    ensure!(refused.code == Some(1), "drop without a new secret: {refused}");
    for _ in 0..2 {
        first.run(["weft", "secret", "rotate", "add"])?;
    }
    let new = first.run(["weft", "secret", "show", "--next"])?;
    ensure!(new != old && new.len() == 64, "the new secret is no new one");
    for host in [second, third, second, third] {
        give(host, "weft secret rotate add --file -", &new)?;
    }
    for host in [first, second, first] {
        host.run(["weft", "secret", "rotate", "prefer"])?;
    }
    // The third lags behind.
    wait_until("the third to be the only one named", SETTLE, || {
        let refused = first.output(["weft", "secret", "rotate", "drop"])?;
        ensure!(refused.code == Some(1) && refused.text().contains("host3"), "{refused}");
        Ok(!refused.text().contains("host2"))
    })?;
    third.run(["weft", "secret", "rotate", "prefer"])?;
    for host in [first, second, third] {
        wait_until("the old secret to be dropped", SETTLE, || {
            host.run(["weft", "secret", "rotate", "drop"]).map(|_| true)
        })?;
        host.run(["weft", "secret", "rotate", "drop"])?;
    }
    for host in plain.lab.hosts() {
        wait_until("the new secret", SETTLE, || Ok(fingerprint(host)? != before))?;
        ensure!(host.run(["weft", "secret", "show"])? == new, "{} shows another secret", host.name());
        ensure!(n_connected(host)? == 2, "{} lost a peer", host.name());
    }
    // Sessions under the new secret carry it now.
    thread::sleep(Duration::from_secs(2));
    for pings in pings {
        let echoes = pings.stop()?;
        ensure!(echoes.n_lost() == 0 && echoes.n_sent > 100, "the rotation lost {echoes:?}");
        println!("rotation: {} of {} echoes lost", echoes.n_lost(), echoes.n_sent);
    }
    // Who has only the old one is a stranger now.
    adversary::connect(&plain.lab)?;
    let (outside, _) = first.shared_dir("secrets")?;
    let target = format!("{}:6783", first.ipv4());
    for (name, secret, is_answered) in [("old", &old, false), ("new", &new, true)] {
        let file = outside.join(name);
        std::fs::write(&file, secret)?;
        let file = file.to_string_lossy().into_owned();
        let report = adversary::on_wire(
            &plain.lab,
            &["member", "--target", &target, "--secret", &file, "--seconds=3", "--stay=0"],
        )?;
        ensure!(report["established"] == is_answered, "with the {name} secret: {report}");
    }
    plain.ensure_sound()
}
