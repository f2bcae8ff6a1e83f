//! Transfers between containers with what their image has, as they are set up by Docker.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{Background, Host, wait_until};

use crate::{
    probe,
    sandbox::{Counts, Sandbox, ensure_nothing_was_refused, pair},
};

/// Answers everyone who connects with the hash of what he sent.
const HASH_SERVER: [&str; 6] = ["nc", "-ll", "-p", "9000", "-e", "sha256sum"];
const MIB: u64 = 1 << 20;

pub(crate) fn super_frames_travel_as_trains(cluster: &Cluster) -> Result<()> {
    let network = cluster.network(&["--opt=weft.spoof-check=off"])?;
    let [here, there] = pair(cluster, &network)?;
    let before = Counts::of(cluster)?;
    for ipv6 in [false, true] {
        // Once the connection has grown its window, the kernel hands over super-frames.
        probe::tcp(&here, &there, ipv6, 1_000_003)?;
        probe::udp_train(&here, &there, ipv6, 40 * 1370 + 1, 1370)?;
        probe::udp_train(&here, &there, ipv6, 60 * 64 + 63, 64)?;
    }
    for (before, after) in before.iter().zip(Counts::of(cluster)?) {
        ensure!(
            after.get("udp_segmentation_offload")? == 1,
            "this kernel cuts no trains of datagrams: {after:?}"
        );
        ensure!(after.get("udp_receive_offload")? == 1, "this kernel joins no datagrams: {after:?}");
        let since = |name: &str| after.since(before, name);
        let (datagrams, trains) = (since("datagrams_sent")?, since("trains_sent")?);
        ensure!(datagrams > 3 * trains, "{datagrams} datagrams in {trains} trains: {after:?}");
        let (datagrams, writes) = (since("datagrams_received")?, since("tap_writes")?);
        ensure!(datagrams > 2 * writes, "{datagrams} datagrams received in {writes} frames: {after:?}");
    }
    ensure_nothing_was_refused(cluster, &before)?;
    network.remove()
}

pub(crate) fn pings_of_every_size(cluster: &Cluster) -> Result<()> {
    let network = cluster.network(&["--opt=weft.spoof-check=off"])?;
    let sandboxes = pair(cluster, &network)?;
    let before = Counts::of(cluster)?;
    let [here, there] = &sandboxes;
    for (from, to) in [(here, there), (there, here)] {
        for address in [to.address(false), to.address(true)] {
            // From one byte to three fragments: an odd step, and every size around the longest whole packet.
            let line = format!(
                "for size in $(seq 1 13 3000) $(seq 1360 1400) 2760 2776 2780 65000; do \
                 ping -c1 -W5 -s $size {address} >/dev/null || {{ echo no echo of $size bytes; exit 1; }}; done 2>&1"
            );
            from.host.exec(&from.container, &line)?;
        }
    }
    ensure_nothing_was_refused(cluster, &before)?;
    network.remove()
}

pub(crate) fn files_of_odd_sizes(cluster: &Cluster) -> Result<()> {
    let network = cluster.network(&["--opt=weft.spoof-check=off"])?;
    let [here, there] = pair(cluster, &network)?;
    let before = Counts::of(cluster)?;
    for (server, client) in [(&here, &there), (&there, &here)] {
        for len in [1, 1365, 1366, 1367, 65_537, 1_000_003, 10_000_019] {
            let make = format!("head -c {len} /dev/urandom > /www/file; sha256sum < /www/file");
            let made = server.host.exec(&server.container, &make)?;
            let get =
                format!("timeout 30 wget -qO /tmp/file http://{}/file; sha256sum < /tmp/file", server.ipv4);
            let got = client.host.exec(&client.container, &get)?;
            ensure!(got == made, "a file of {len} bytes of {} arrived as another", server.container);
        }
    }
    ensure_nothing_was_refused(cluster, &before)?;
    network.remove()
}

pub(crate) fn parallel_streams_with_hashes(cluster: &Cluster) -> Result<()> {
    streams_with_hashes(cluster, 256 * MIB)
}

pub(crate) fn long_parallel_streams_with_hashes(cluster: &Cluster) -> Result<()> {
    streams_with_hashes(cluster, 4096 * MIB)
}

/// Two streams each way at once, of `len` random bytes together.
fn streams_with_hashes(cluster: &Cluster, len: u64) -> Result<()> {
    let network = cluster.network(&["--opt=weft.spoof-check=off"])?;
    let sandboxes = pair(cluster, &network)?;
    let before = Counts::of(cluster)?;
    let [here, there] = &sandboxes;
    for sandbox in &sandboxes {
        serve_hashes(sandbox)?;
    }
    let mut streams = Vec::new();
    for (from, to) in [(here, there), (there, here), (here, there), (there, here)] {
        let number = streams.len();
        streams.push((number, send_and_hash(from, to, len / 4 + number as u64, number)?));
    }
    // Hashing takes longer than carrying; even a busy machine does 10 MB a second.
    let limit = Duration::from_secs(60 + len / 10_000_000);
    for (number, stream) in streams {
        let hashes = stream.wait(limit).with_context(|| format!("stream {number}"))?;
        let hashes: Vec<&str> = hashes.lines().collect();
        ensure!(
            matches!(hashes[..], [far, near] if far == near && near.len() > 64),
            "stream {number}: the hashes of what arrived and of what was sent are {hashes:?}"
        );
    }
    ensure_nothing_was_refused(cluster, &before)?;
    network.remove()
}

fn serve_hashes(sandbox: &Sandbox<'_>) -> Result<()> {
    let (host, container) = (sandbox.host, sandbox.container.as_str());
    host.docker(["exec", "--detach", container].iter().chain(&HASH_SERVER))?;
    wait_until("the server of hashes", SETTLE, || {
        host.exec(container, "echo | nc 127.0.0.1 9000").map(|_| true)
    })
}

/// Sends random bytes; prints the hash of what arrived, and then that of what was sent.
fn send_and_hash(from: &Sandbox<'_>, to: &Sandbox<'_>, len: u64, number: usize) -> Result<Background> {
    let line = format!(
        "mkfifo /tmp/copy{number}; sha256sum < /tmp/copy{number} > /tmp/hash{number} & \
         head -c {len} /dev/urandom | tee /tmp/copy{number} | nc {} 9000; wait; cat /tmp/hash{number}",
        to.ipv4
    );
    from.host
        .spawn(&format!("stream{number}"), ["docker", "exec", from.container.as_str(), "sh", "-c", &line])
}

pub(crate) fn one_host_passes_weft_by(cluster: &Cluster) -> Result<()> {
    let network = cluster.network(&["--opt=weft.spoof-check=off"])?;
    let host = cluster.manager();
    let first = Sandbox::start(&network, host, 1)?;
    let second = Sandbox::start(&network, host, 2)?;
    // Broadcasts for addresses reach the daemon, and are over before the first answer.
    wait_until("an echo", SETTLE, || {
        host.exec(&first.container, &format!("ping -c1 -W1 {}", second.ipv4)).map(|_| true)
    })?;
    let before = Counts::of_host(host)?;
    for len in [1, 1_000_003] {
        probe::tcp(&first, &second, false, len)?;
        probe::tcp(&second, &first, true, len)?;
    }
    transfer_with_hash(host, &first, &second)?;
    let after = Counts::of_host(host)?;
    for name in ["tap_reads", "datagrams_sent", "tap_writes"] {
        let n = after.since(&before, name)?;
        // Neighbours may be asked for again meanwhile; the transfers are tens of thousands of segments.
        ensure!(n < 20, "{n} {name} while the containers of one host talked");
    }
    network.remove()
}

fn transfer_with_hash(host: &Host, from: &Sandbox<'_>, to: &Sandbox<'_>) -> Result<()> {
    serve_hashes(to)?;
    let hashes = send_and_hash(from, to, 32 * MIB + 1, 0)?.wait(SETTLE)?;
    let hashes: Vec<&str> = hashes.lines().collect();
    ensure!(
        matches!(hashes[..], [far, near] if far == near && near.len() > 64),
        "{}: the hashes of what arrived and of what was sent are {hashes:?}",
        host.name()
    );
    Ok(())
}
