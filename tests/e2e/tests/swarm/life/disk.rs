//! No room for the state file.

use anyhow::{Result, ensure};
use weft_e2e::{SETTLE, leftovers, status};
use weft_lab::{BUSYBOX, Engine, Host, Lab, LabConfig, Weft, wait_for, wait_until};

use super::{ensure_nothing_left, ensure_unique_addresses};

/// How many networks at most until a full disk shows: the file has room of its own for a while.
const MANY: usize = 200;

fn fill(host: &Host) -> Result<()> {
    host.sh("dd if=/dev/zero of=/var/lib/weft/filler bs=4k 2>/dev/null; df /var/lib/weft | grep -q 100%")
        .map(drop)
}

fn make_room(host: &Host) -> Result<()> {
    host.sh("rm /var/lib/weft/filler").map(drop)
}

/// The text names the file, the reason and what to do.
fn ensure_helpful(text: &str) -> Result<()> {
    for word in ["/var/lib/weft/state.redb", "No space left", "free some space"] {
        ensure!(text.contains(word), "a full disk is not told by {word:?}: {text}");
    }
    Ok(())
}

/// What `weft status` says is wrong with the state file.
fn told(host: &Host) -> Result<Option<String>> {
    let known = status(host)?;
    let check =
        known["checks"].as_array().and_then(|all| all.iter().find(|check| check["name"] == "state-file"));
    let fault = check.and_then(|check| check["fault"].as_str()).map(str::to_owned);
    let is_among_faults = known["faults"]
        .as_array()
        .is_some_and(|all| all.iter().any(|text| text.as_str() == fault.as_deref()));
    ensure!(
        check.is_some() && is_among_faults == fault.is_some(),
        "faults and checks contradict each other: {known}"
    );
    Ok(fault)
}

/// The state file's disk is full: dockerd's calls fail and say why, nothing is half made or lost, what runs goes on, and
/// everything works again once there is room; also for a daemon that starts meanwhile.
pub(crate) fn disk_full(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("disk", engine, 1))?;
    let host = lab.host(0);
    weft.install_program(host)?;
    weft.make_secret(&lab, "cluster")?;
    host.sh("mkdir -p /var/lib/weft && mount -t tmpfs -o size=4m,mode=700 tmpfs /var/lib/weft")?;
    let start = || -> Result<_> {
        let daemon = host.spawn("weft", ["weft", "run"])?;
        wait_until("the daemon", SETTLE, || Ok(status(host)?["ready"] == true))?;
        Ok(daemon)
    };
    let daemon = start()?;
    let id = status(host)?["peer_id"].clone();
    host.docker(["network", "create", "--driver=weft", "--subnet=10.205.0.0/24", "kept"])?;
    for name in ["box1", "box2"] {
        host.docker(["run", "--detach", "--network=kept", "--name", name, BUSYBOX])?;
    }
    let answers = |from: &str, to: &str| {
        wait_until(&format!("an answer of {to} to {from}"), SETTLE, || {
            host.exec(from, &format!("timeout 2 wget -qO- http://{to}/")).map(|_| true)
        })
    };
    answers("box1", "box2")?;

    fill(host)?;
    let mut created = Vec::new();
    let mut refused = None;
    for n in 0..MANY {
        let (name, subnet) = (format!("many{n}"), format!("--subnet=10.206.{n}.0/24"));
        let done = host.docker_output(["network", "create", "--driver=weft", &subnet, &name])?;
        if done.success() {
            created.push(name);
        } else {
            refused = Some((name, subnet, done.text()));
            break;
        }
    }
    let Some((name, subnet, text)) = refused else { anyhow::bail!("{MANY} networks fit on a full disk") };
    println!("after {} networks: {}", created.len(), text.trim());
    ensure_helpful(&text)?;
    // Refused again, and the same way: not as a consequence of the first failure.
    let again = host.docker_output(["network", "create", "--driver=weft", &subnet, &name])?;
    ensure!(!again.success(), "there is room");
    ensure_helpful(&again.text())?;
    ensure_helpful(&told(host)?.unwrap_or_default())?;
    let run = host.docker_output(["run", "--detach", "--network=kept", "--name=box3", BUSYBOX])?;
    println!("a container: {}", run.text().trim());
    if !run.success() {
        ensure_helpful(&run.text())?;
    }
    host.docker(["rm", "--force", "box3"])?;
    answers("box1", "box2")?;
    let known = status(host)?;
    let n_networks = known["networks"].as_array().map_or(0, Vec::len);
    ensure!(n_networks == created.len() + 1, "{n_networks} networks, not {}: half made?", created.len() + 1);

    make_room(host)?;
    host.docker(["network", "create", "--driver=weft", &subnet, &name])?;
    created.push(name);
    host.docker(["run", "--detach", "--network=kept", "--name=box3", BUSYBOX])?;
    answers("box3", "box1")?;
    let still = told(host)?;
    ensure!(still.is_none(), "there is room, and a fault is told still: {still:?}");
    ensure_unique_addresses(&[host])?;

    // Full again while the daemon begins anew: it adopts what runs, and says what is wrong.
    fill(host)?;
    let log = daemon.signal("TERM")?;
    ensure!(!log.contains("panicked"), "{log}");
    let mut daemon = host.spawn("weft", ["weft", "run"])?;
    // The file may have room of its own for what a start writes.
    let is_ready = wait_for("a daemon on a full disk to carry traffic, or to say why not", SETTLE, || {
        if !daemon.is_running()? {
            return Ok(Some(false));
        }
        Ok(Some(status(host)?["ready"] == true).filter(|ready| *ready))
    })?;
    println!("started on a full disk, ready: {is_ready}");
    if !is_ready {
        ensure_helpful(&daemon.text()?)?;
    }
    answers("box1", "box2")?;
    if is_ready {
        daemon.signal("TERM")?;
    }
    make_room(host)?;
    let daemon = start()?;
    let known = status(host)?;
    ensure!(known["peer_id"] == id, "the key was lost");
    let n_networks = known["networks"].as_array().map_or(0, Vec::len);
    ensure!(
        n_networks == created.len() + 1,
        "{n_networks} networks after a restart, not {}",
        created.len() + 1
    );
    for (from, to) in [("box1", "box2"), ("box2", "box3"), ("box3", "box1")] {
        answers(from, to)?;
    }
    host.docker(["rm", "--force", "box1", "box2", "box3"])?;
    host.docker(["network", "rm", "kept"].into_iter().chain(created.iter().map(String::as_str)))?;
    ensure_nothing_left(&[host])?;
    ensure!(leftovers(host)?.is_empty(), "links are left");
    let log = daemon.signal("TERM")?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}
