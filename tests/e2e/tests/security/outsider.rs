//! One who sits on the path without the secret: listens, sends again, changes, knocks.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE, n_connected};
use weft_lab::{Engine, Weft, wait_until};

use crate::{
    adversary::{self, number},
    place::{Flow, Place},
    plain::{Plain, dropped, frames_taken},
};

/// Everything that weft refuses of what comes from the underlay, but handshakes.
const REFUSALS: [&str; 4] = ["malformed", "unknown_session", "replayed", "bad_seal"];

/// Canaries of every kind that containers send, and the overlay's own names, are searched for in all that passes.
pub(crate) fn nothing_readable(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let id = manager.docker(["network", "inspect", "--format", "{{.Id}}", network.name()])?;
    let captures = [
        cluster.lab.capture(manager, "not tcp port 2377 and not port 7946")?,
        cluster.lab.capture(worker, "not tcp port 2377 and not port 7946")?,
    ];
    let here = Place::docker(&network, manager, &["--hostname=canaryhost"])?;
    let there = Place::docker(&network, worker, &["--network-alias=canaryalias"])?;
    here.wait_for(&there)?;
    // ICMP, also in fragments; TCP; UDP; DNS.
    manager
        .exec(&here.name, &format!("ping -c2 -i0.2 -p 5c {0}; ping -c2 -i0.2 -s 4000 -p 5c {0}", there.ip))?;
    worker
        .exec(&there.name, "for i in $(seq 500); do echo canary-tcp-0123456789; done > /www/canary-path")?;
    manager.exec(&here.name, &format!("timeout 5 wget -qO- http://{}/canary-path >/dev/null", there.ip))?;
    let got =
        there.spawn("canaries", &["tcpdump", "-lnA", "--immediate-mode", "-i", "eth0", "udp port 5300"])?;
    wait_until("tcpdump", SETTLE, || Ok(got.text()?.contains("listening on")))?;
    let send = format!("echo canary-udp-0123456789 > /dev/udp/{}/5300", there.ip);
    wait_until("a canary by UDP", SETTLE, || {
        here.run(&["bash", "-c", &send])?;
        Ok(got.text()?.contains("canary-udp"))
    })?;
    manager.exec(&here.name, &format!("timeout 2 nslookup canarydns.example {} ; true", there.ip))?;
    wait_until("the name to be known", SETTLE, || {
        manager.exec(&here.name, "nslookup canaryalias").map(|_| true)
    })?;

    let status = weft_e2e::status(manager)?;
    let wire_ids: Vec<u64> = status["networks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|network| u64::from_str_radix(network["wire_id"].as_str()?, 16).ok())
        .collect();
    ensure!(!wire_ids.is_empty(), "no network has a number: {status}");
    let mac = |text: &str| -> Result<Vec<u8>> {
        Ok(text.split(':').map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<_, _>>()?)
    };
    let mut canaries: Vec<(String, Vec<u8>)> = vec![
        ("the echo's pattern".to_owned(), vec![0x5c; 16]),
        ("here's Ethernet address".to_owned(), mac(&here.mac)?),
        ("there's Ethernet address".to_owned(), mac(&there.mac)?),
    ];
    for text in [
        "canary-tcp",
        "canary-udp",
        "canary-path",
        "canarydns",
        "canaryhost",
        "canaryalias",
        "GET /",
        "HTTP/1.",
        network.name(),
        id.as_str(),
        here.name.as_str(),
        there.name.as_str(),
    ] {
        canaries.push((text.to_owned(), text.as_bytes().to_vec()));
    }
    for number in wire_ids {
        canaries.push((format!("network number {number:012x}"), number.to_be_bytes()[2..].to_vec()));
    }
    for capture in captures {
        let wire = capture.stop()?;
        ensure!(wire.count("udp port 6783")? > 20, "the traffic is not on weft's port");
        for (what, bytes) in &canaries {
            ensure!(!wire.contains(bytes), "{what} is on the wire in the clear");
        }
        let others = wire.lines(&[], "not udp port 6783 and not arp and not icmp6")?;
        ensure!(others.is_empty(), "on the wire beside weft: {others:?}");
    }
    network.remove()
}

/// All that a host was sent is sent to it three times more.
pub(crate) fn replay(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::prepare("replay", engine, weft, 2, &[])?;
    weft.make_secret(&plain.lab, "cluster")?;
    let capture = plain.lab.capture(plain.host(1), "udp port 6783")?;
    // From the first handshake on.
    plain.start_all()?;
    plain.wait_connected()?;
    let (here, there) = (plain.attach(0, "red", "10.202.0.10")?, plain.attach(1, "red", "10.202.0.20")?);
    here.wait_for(&there)?;
    let flow =
        Flow::start(&here, &there, Duration::from_secs(2), &["--udp", "--bitrate=20M", "--length=1200"])?;
    flow.finish()?;
    let captured = capture.stop()?;
    // What the containers say by themselves must be over.
    settle(&plain, 1)?;

    let counting = there.spawn(
        "counting",
        &["tcpdump", "-lnn", "--immediate-mode", "-Q", "in", "-i", "eth0", "udp or icmp"],
    )?;
    wait_until("tcpdump", Duration::from_secs(5), || Ok(counting.text()?.contains("listening on")))?;
    let target = plain.host(1);
    let (taken, refused) = (frames_taken(target)?, dropped(target, &REFUSALS)?);
    let file = captured.file().to_string_lossy().into_owned();
    let to = target.ipv4().to_string();
    let report =
        adversary::on_wire(&plain.lab, &["replay", &file, "--times=3", "--interface=host2", "--to", &to])?;
    let sent = number(&report, "sent_data")?;
    ensure!(sent > 3000, "hardly anything was replayed: {report}");
    wait_until("all of it to be refused", Duration::from_secs(5), || {
        let n = dropped(target, &REFUSALS)? - refused;
        ensure!(n >= sent, "{n} of {sent} were refused");
        Ok(true)
    })?;
    let n = frames_taken(target)? - taken;
    let heard = counting.signal("INT")?;
    let heard = heard.lines().filter(|line| line.contains(" IP ")).count();
    println!("replay: {sent} data datagrams sent again: {n} frames taken, {heard} heard by the container");
    ensure!(n == 0 && heard == 0, "{n} frames were taken again, {heard} came to the container");
    ensure!(here.reaches(&there.ip), "the sessions are disturbed");
    plain.ensure_sound()
}

/// Waits until no frames of containers pass by themselves.
fn settle(plain: &Plain, index: usize) -> Result<()> {
    let mut last = u64::MAX;
    wait_until("the containers to be silent", SETTLE, || {
        thread::sleep(Duration::from_secs(1));
        let now = frames_taken(plain.host(index))?;
        Ok(std::mem::replace(&mut last, now) == now)
    })
}

/// A datagram of each kind is sent with each single bit flipped, before the original comes: so nothing is refused merely
/// for having been seen, and that the hosts connect and talk in the end shows that no state was spoilt.
pub(crate) fn flipped_bits(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::prepare("flips", engine, weft, 2, &[])?;
    weft.make_secret(&plain.lab, "cluster")?;
    for port in ["host1", "host2"] {
        plain.lab.run_on_fabric(&["ip", "link", "set", port, "nomaster"])?;
    }
    adversary::program()?;
    let meddle = ["meddle", "--between", "host1", "host2", "--seconds=14"];
    let report = thread::scope(|scope| -> Result<Value> {
        let meddler = scope.spawn(|| adversary::on_wire(&plain.lab, &meddle));
        let connected = (|| -> Result<()> {
            // The second knows of the first, which listens by then: so no changed datagram meets a closed port.
            plain.start_daemon(0, &["PEERS="])?;
            plain.start_daemon(1, &[])?;
            plain.wait_connected()?;
            let (here, there) =
                (plain.attach(0, "red", "10.202.0.10")?, plain.attach(1, "red", "10.202.0.20")?);
            here.wait_for(&there)?;
            ensure!(there.reaches(&here.ip), "echoes pass one way only");
            Ok(())
        })();
        let report = meddler.join().map_err(|_| anyhow::anyhow!("the meddler panicked"))??;
        connected.map(|()| report)
    })?;
    let kinds = report["kinds"].as_object().context("a report by kind")?;
    for (host, from, to) in [(plain.host(1), "host1", "host2"), (plain.host(0), "host2", "host1")] {
        let direction = format!("{from} to {to}");
        let (mut n_flipped, mut n_for_workers) = (0, 0);
        for (kind, done) in kinds.iter().filter(|(kind, _)| kind.ends_with(&direction)) {
            ensure!(number(done, "answers")? == 0, "{kind}: a changed datagram was answered: {done}");
            n_flipped += number(done, "flipped")?;
            n_for_workers += number(done, "flipped_for_workers")?;
        }
        let refused = dropped(host, &REFUSALS)?;
        println!(
            "flips, {direction}: {n_flipped} sent, {n_for_workers} of them for workers, which refused {refused}"
        );
        ensure!(
            refused >= n_for_workers,
            "{to} took {} changed datagrams: {kinds:?}",
            n_for_workers - refused
        );
    }
    for kind in ["Init", "Response", "Finish", "Data, control", "Data, frame"] {
        ensure!(kinds.keys().any(|done| done.starts_with(kind)), "no {kind} passed: {kinds:?}");
    }
    plain.ensure_sound()
}

/// Cookies, whose first byte is 4, to who floods.
const COOKIES_TO_OTHERS: &str = "udp src port 6783 and not dst port 6783 and udp[8] = 4";

/// Above so many Inits a second a cookie is demanded of all; below it of a source that sends more than its share, and then
/// one of them may still get in without.
const UNDER_LOAD: usize = 50;

/// A host that is flooded demands a cookie of a peer that dials it, and each single bit of the Cookie is flipped on the way.
///
/// The flood comes from the dialling host's own address: so the peer gets in by its cookie alone.
pub(crate) fn flipped_cookie(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::prepare("cookie", engine, weft, 2, &[])?;
    weft.make_secret(&plain.lab, "cluster")?;
    for port in ["host1", "host2"] {
        plain.lab.run_on_fabric(&["ip", "link", "set", port, "nomaster"])?;
    }
    let (program, secret) = (adversary::program()?, adversary::secret_file(&plain.lab, "cluster")?);
    let meddle = ["meddle", "--between", "host1", "host2", "--cookies-to=6783", "--seconds=10"];
    let target = format!("{}:6783", plain.host(0).ipv4());
    let report = thread::scope(|scope| -> Result<Value> {
        let meddler = scope.spawn(|| adversary::on_wire(&plain.lab, &meddle));
        let connected = (|| -> Result<()> {
            plain.start_daemon(0, &["PEERS="])?;
            let flood = ["--kind=right-mac1", "--rate=80", "--seconds=8", "--secret", &secret];
            let flood = [&[program, "flood", "--target", &target][..], &flood].concat();
            let demanded = plain.host(0).spawn_in_network(
                "demanded",
                ["tcpdump", "-lnn", "--immediate-mode", "-i", "eth0", COOKIES_TO_OTHERS],
            )?;
            wait_until("tcpdump", Duration::from_secs(5), || Ok(demanded.text()?.contains("listening on")))?;
            let flood = plain.host(1).spawn_in_network("flood", &flood)?;
            wait_until("cookies to be demanded", Duration::from_secs(5), || {
                Ok(demanded.text()?.matches(" UDP, ").count() > UNDER_LOAD)
            })?;
            demanded.signal("INT")?;
            plain.start_daemon(1, &[])?;
            plain.wait_connected()?;
            flood.wait(Duration::from_secs(20)).map(drop)
        })();
        let report = meddler.join().map_err(|_| anyhow::anyhow!("the meddler panicked"))??;
        connected.map(|()| report)
    })?;
    println!("flips of a cookie: {report}");
    let done = &report["kinds"]["Cookie, host1 to host2"];
    ensure!(number(done, "flipped")? >= 8 * 64, "no Cookie was changed: {report}");
    ensure!(number(done, "answers")? == 0, "a changed Cookie was taken: {report}");
    plain.ensure_sound()
}

/// Not one byte is answered to who does not know the secret.
pub(crate) fn silence(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::start("silence", engine, weft, 2, &[])?;
    adversary::connect(&plain.lab)?;
    let target = format!("{}:6783", plain.host(0).ipv4());
    let (right, wrong) =
        (adversary::secret_file(&plain.lab, "cluster")?, adversary::secret_file(&plain.lab, "other")?);
    // Another cluster's; no host here has it.
    plain.lab.run_on_fabric(&[&weft.program.to_string_lossy(), "init", "--out", &wrong])?;
    let capture = plain.lab.capture(plain.host(0), &format!("host {}", adversary::ADDRESS))?;
    for secret in [vec![], vec!["--secret", &wrong]] {
        let report = adversary::on_wire(
            &plain.lab,
            &[&["probe", "--target", &target, "--seconds=1.5"], &secret[..]].concat(),
        )?;
        ensure!(number(&report, "sent")? > 300, "{report}");
        ensure!(number(&report, "received_bytes")? == 0, "a stranger was answered: {report}");
    }
    let wire = capture.stop()?;
    let answers = wire.lines(&[], &format!("ip and src host {}", plain.host(0).ipv4()))?;
    ensure!(answers.is_empty(), "sent to a stranger: {answers:?}");
    // Who knows it is answered: so the probe hears answers.
    let report =
        adversary::on_wire(&plain.lab, &["probe", "--target", &target, "--seconds=0.5", "--secret", &right])?;
    ensure!(number(&report, "received_datagrams")? > 0, "a member is not answered: {report}");
    Ok(())
}

/// 100,000 bad handshakes a second beside flows of a fixed rate.
///
/// The generator takes a processor of the same machine, so what counts is the loss of flows far below capacity, and as a
/// baseline the same flood to a port where nobody listens. What was delivered to a receiver that got no processor in time
/// to read it is not lost by weft.
pub(crate) fn flood(engine: Engine, weft: &Weft) -> Result<()> {
    const LASTING: Duration = Duration::from_secs(6);
    let plain = Plain::start("flood", engine, weft, 2, &[])?;
    adversary::connect(&plain.lab)?;
    let secret = adversary::secret_file(&plain.lab, "cluster")?;
    let (here, there) = (plain.attach(0, "red", "10.202.0.10")?, plain.attach(1, "red", "10.202.0.20")?);
    here.wait_for(&there)?;
    let address = plain.host(1).ipv4();
    let mut failures = Vec::new();
    let mut tcp_baseline = 0.0;
    for (kind, port) in [("wrong-mac1", 6999), ("wrong-mac1", 6783), ("random", 6783), ("right-mac1", 6783)] {
        let target = format!("{address}:{port}");
        // Both towards the host that is flooded.
        let udp = Flow::start(&here, &there, LASTING, &["--udp", "--bitrate=20M", "--length=1200"])?;
        let tcp = Flow::start(&there, &here, LASTING, &["--reverse", "--bitrate=20M"])?;
        let args = [
            "flood",
            "--target",
            &target,
            "--kind",
            kind,
            "--seconds=5.5",
            "--rate=100000",
            "--secret",
            &secret,
        ];
        let unread_before = there.n_unread()?;
        let flooded = adversary::on_wire(&plain.lab, &args)?;
        let (udp, tcp) = (udp.finish()?, tcp.finish()?);
        let n_unread = there.n_unread()? - unread_before;
        let (lost, sent) = (number(&udp["sum"], "lost_packets")?, number(&udp["sum"], "packets")?);
        let loss = lost.saturating_sub(n_unread) as f64 / sent as f64;
        let goodput = tcp["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
        let rate = flooded["rate"].as_f64().unwrap_or(0.0);
        println!(
            "flood of {kind} to port {port}: {rate:.0}/s, {lost} of {sent} UDP packets lost, {n_unread} of them delivered and \
             not read, TCP {goodput:.2} of 20 Mbit/s, {} bytes answered",
            flooded["received_bytes"]
        );
        // On a busy machine the generator does not reach its rate; below this it would be no flood.
        ensure!(rate > 30_000.0, "only {rate:.0} datagrams a second were sent");
        if port == 6999 {
            tcp_baseline = goodput;
            continue;
        }
        if sent == 0 || loss > 0.01 {
            failures.push(format!("{kind}: UDP loses {:.2} %", loss * 100.0));
        }
        if goodput < tcp_baseline * 0.99 {
            failures.push(format!(
                "{kind}: TCP has {goodput:.2} Mbit/s, and {tcp_baseline:.2} without a flood of weft"
            ));
        }
        if n_connected(plain.host(0))? != 1 || n_connected(plain.host(1))? != 1 {
            failures.push(format!("{kind}: the hosts have lost each other"));
        }
    }
    for index in 0..2 {
        let log = plain.log(index)?;
        if log.contains("peer down") {
            failures.push(format!("a peer was taken for down: {log}"));
        }
    }
    plain.ensure_sound()?;
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}
