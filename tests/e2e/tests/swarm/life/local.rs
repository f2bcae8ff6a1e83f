//! Docker outside a swarm, which lets containers outlive dockerd.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{SETTLE, ping_losses};
use weft_lab::{BUSYBOX, Engine, Host, Lab, LabConfig, Weft, wait_until};

use super::{Member, all, ensure_nothing_left, ensure_unique_addresses, wait_healed, wait_peers};

/// Hosts outside a swarm, their daemons not started.
pub(super) fn lab(kind: &str, engine: Engine, weft: &Weft, dockerd_args: &[&str]) -> Result<Lab> {
    let mut config = LabConfig::new(kind, engine, 2);
    config.dockerd_args = dockerd_args.iter().copied().map(str::to_owned).collect();
    let lab = Lab::start(config)?;
    weft.make_secret(&lab, "cluster")?;
    for host in lab.hosts() {
        weft.install_program(host)?;
    }
    Ok(lab)
}

/// `weft run`'s setting that names both hosts.
pub(super) fn peers(lab: &Lab) -> String {
    let peers: Vec<String> = lab.hosts().iter().map(|host| host.ipv4().to_string()).collect();
    format!("PEERS={}", peers.join(","))
}

/// Creates each host's network of the same id; the hosts give different addresses of one subnet.
pub(super) fn create_networks(lab: &Lab) -> Result<()> {
    for (host, range) in lab.hosts().iter().zip(["10.204.0.0/25", "10.204.0.128/25"]) {
        let range = format!("--ip-range={range}");
        let create = [
            "network",
            "create",
            "--driver=weft",
            "--subnet=10.204.0.0/24",
            &range,
            "--opt=weft.id=net",
            "net",
        ];
        host.docker(create)?;
    }
    Ok(())
}

pub(super) fn remove_networks(lab: &Lab, members: &[Member<'_>]) -> Result<()> {
    for member in members {
        member.host.docker(["rm", "--force", &member.container])?;
    }
    for host in lab.hosts() {
        host.docker(["network", "rm", "net"])?;
    }
    ensure_nothing_left(&all(lab))
}

/// With `--live-restore` containers go on without dockerd, and so do their connections; dockerd finds them again.
pub(crate) fn live_restore(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = lab("live", engine, weft, &["--live-restore"])?;
    let peers = peers(&lab);
    let daemons = lab
        .hosts()
        .iter()
        .map(|host| host.spawn("weft", ["env", &peers, "weft", "run"]))
        .collect::<Result<Vec<_>>>()?;
    let hosts = all(&lab);
    wait_peers(&hosts, 1)?;
    create_networks(&lab)?;
    let members =
        [Member::run(hosts[0], "net", &["--name=box1"])?, Member::run(hosts[1], "net", &["--name=box2"])?];
    wait_healed("before", &members)?;
    for how in ["killed", "stopped"] {
        let ping = ping(hosts[0], &members)?;
        if how == "killed" {
            hosts[0].kill_dockerd()?
        } else {
            hosts[0].stop_dockerd()?
        }
        ensure!(hosts[0].docker_output(["ps"])?.code != Some(0), "dockerd answers still");
        hosts[0].start_dockerd()?;
        wait_until("the container to be found again", SETTLE, || {
            Ok(hosts[0].docker(["inspect", "--format", "{{.State.Running}}", "box1"])? == "true")
        })?;
        let log = ping.signal("INT")?;
        let lost = ping_losses(&log);
        println!("live-restore, dockerd {how}: echoes lost: {lost:?}");
        ensure!(lost.is_empty(), "echoes were lost while dockerd was away: {lost:?}");
        wait_healed(&format!("dockerd {how}, containers alive"), &members)?;
        // The network serves new containers, and lets go of them.
        let late = Member::run(hosts[0], "net", &["--name=late"])?;
        let [first, second] = &members;
        for member in [first, second] {
            let url = format!("timeout 2 wget -qO- http://{}/", late.address);
            wait_until("an answer of the late container", SETTLE, || {
                member.host.exec(&member.container, &url).map(|_| true)
            })?;
        }
        ensure_unique_addresses(&hosts)?;
        hosts[0].docker(["rm", "--force", "late"])?;
    }
    remove_networks(&lab, &members)?;
    for daemon in daemons {
        let log = daemon.signal("TERM")?;
        ensure!(!log.contains("panicked"), "{log}");
    }
    Ok(())
}

/// Starts pinging the second member from the first one's network, without dockerd's help.
fn ping(host: &Host, members: &[Member<'_>; 2]) -> Result<weft_lab::Background> {
    let pid = host.docker(["inspect", "--format", "{{.State.Pid}}", &members[0].container])?;
    let ping = host.spawn("ping", ["nsenter", "-t", &pid, "-n", "ping", "-i", "0.1", &members[1].address])?;
    wait_until("echoes", Duration::from_secs(10), || Ok(ping.text()?.contains("seq=3 ")))
        .with_context(|| ping.text().unwrap_or_default())?;
    Ok(ping)
}

/// Removes and starts containers on a host while the network stays: what a full disk or a wrong clock must not break.
pub(super) fn exercise(host: &Host, other: &Member<'_>) -> Result<()> {
    let fresh = host.docker(["run", "--detach", "--network=net", BUSYBOX])?;
    wait_until("an answer to a new container", SETTLE, || {
        host.exec(&fresh, &format!("timeout 2 wget -qO- http://{}/", other.address)).map(|_| true)
    })?;
    host.docker(["rm", "--force", &fresh]).map(drop)
}
