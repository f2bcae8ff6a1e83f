//! The Debian package and the install script on hosts made of Debian's packages alone.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{SETTLE, leftovers, ping_losses};
use weft_lab::{BUSYBOX, Engine, Host, Lab, LabConfig, SECRET, Weft, wait_until};

/// Everything that a package may leave behind, but for dpkg's own records.
const FILES: &str =
    "find /etc /usr /var/lib -xdev -not -path '/var/lib/dpkg/*' -not -path '/var/lib/docker*' | sort";

const SETTINGS: &str = "/etc/weft/weft.env";

/// The package that `cargo xtask test --long` made, and one with the next revision, as the host sees them.
fn packages(host: &Host) -> Result<(String, String)> {
    let package =
        env::var_os("WEFT_DEB").map(PathBuf::from).context("no WEFT_DEB: run this by `cargo xtask test`")?;
    let (outside, inside) = host.shared_dir("deb")?;
    fs::copy(&package, outside.join("weft.deb"))?;
    let next = "dpkg-deb -R weft.deb next && sed -i 's/^Version: .*/&.next/' next/DEBIAN/control && \
                echo '# another default' >> next/etc/weft/weft.env && \
                dpkg-deb --root-owner-group -Znone -b next next.deb";
    let done = Command::new("sh").args(["-e", "-c", next]).current_dir(&outside).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let path = |name: &str| inside.join(name).to_string_lossy().into_owned();
    Ok((path("weft.deb"), path("next.deb")))
}

pub(crate) fn package_from_install_to_purge(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("package", engine, 1))?;
    weft.make_secret(&lab, "cluster")?;
    let host = lab.host(0);
    let (package, next) = packages(host)?;
    let before = host.sh(FILES)?;

    let said = host.run(["dpkg", "--install", &package])?;
    ensure!(said.contains("weft init --out") && said.contains("nothing was started"), "{said}");
    ensure!(host.run(["dpkg", "--verify", "weft"])?.is_empty(), "a file is not what the package says");
    for installed in [
        "/usr/bin/weft",
        "/usr/lib/systemd/system/weft.service",
        "/usr/share/bash-completion/completions/weft",
    ] {
        host.run(["test", "-s", installed])?;
    }
    // The settings are right as they come, and what they say is what there is without them.
    host.sh(&format!("set -a; . {SETTINGS}; timeout 20 weft run --help"))?;

    let run = format!("set -a; . {SETTINGS}; exec weft run");
    let daemon = host.spawn("weft", ["sh", "-c", &run])?;
    wait_until("the daemon", SETTLE, || host.run(["weft", "status"]).map(|_| true))?;
    let id = |host: &Host| -> Result<String> { Ok(weft_e2e::status(host)?["peer_id"].to_string()) };
    let first_id = id(host)?;
    host.docker(["network", "create", "--driver=weft", "--subnet=10.203.0.0/24", "net"])?;
    for name in ["box1", "box2"] {
        host.docker(["run", "--detach", "--network=net", "--name", name, BUSYBOX])?;
    }
    let answers = || host.exec("box1", "timeout 3 wget -qO- http://box2").map(|_| true);
    wait_until("an answer", SETTLE, answers)?;

    // An operator's settings outlive an upgrade to a package with others; so does the state.
    host.sh(&format!("sed -i 's/^LOG_LEVEL=.*/LOG_LEVEL=debug/' {SETTINGS}"))?;
    let upgraded = host.sh(&format!("dpkg --force-confold --install {next} 2>&1"))?;
    ensure!(!upgraded.contains("nothing was started"), "{upgraded}");
    ensure!(
        host.sh(&format!("grep LOG_LEVEL= {SETTINGS}"))? == "LOG_LEVEL=debug",
        "settings are overwritten"
    );
    daemon.signal("TERM")?;
    answers().context("containers of one host, while no daemon runs")?;
    let daemon = host.spawn("weft", ["sh", "-c", &run])?;
    wait_until("the new daemon", SETTLE, || host.run(["weft", "status"]).map(|_| true))?;
    ensure!(id(host)? == first_id, "an upgrade lost the host's key");

    host.docker(["rm", "--force", "box1", "box2"])?;
    host.docker(["network", "rm", "net"])?;
    let left = leftovers(host)?;
    ensure!(left.is_empty(), "left behind: {left}");
    daemon.signal("TERM")?;
    host.run(["dpkg", "--remove", "weft"])?;
    host.sh(&format!("test ! -e /usr/bin/weft && test -e {SETTINGS} && test -e /var/lib/weft/state.redb"))?;
    host.run(["dpkg", "--install", &next])?;
    ensure!(host.sh(&format!("grep LOG_LEVEL= {SETTINGS}"))? == "LOG_LEVEL=debug", "settings are gone");
    let said = host.run(["dpkg", "--purge", "weft"])?;
    ensure!(said.contains(&format!("stays in {SECRET}")), "{said}");
    host.run(["rm", "-f", "/etc/weft/weft.env.dpkg-dist"])?;
    let after = host.sh(FILES)?;
    let more: Vec<&str> = after.lines().filter(|file| !before.lines().any(|line| line == *file)).collect();
    ensure!(more.is_empty(), "left behind: {more:?}");
    host.run(["test", "-s", SECRET])?;

    // Without what it calls it is not installed.
    host.run(["dpkg", "--remove", "--force-depends", "iptables"])?;
    let refused = host.output(["dpkg", "--install", &package])?;
    ensure!(!refused.success() && refused.stderr.contains("weft depends on iptables"), "{refused}");
    Ok(())
}

/// The unit of the package under systemd: started by hand only, back when it is killed, new after an upgrade, confined.
///
/// Debian 12's systemd, whichever engine is tested: later ones do not boot on a machine with control groups v1.
pub(crate) fn unit_under_systemd(_: Engine, weft: &Weft) -> Result<()> {
    let engine = Engine::Bookworm;
    let lab = Lab::start(LabConfig { docker: false, systemd: true, ..LabConfig::new("systemd", engine, 1) })?;
    weft.make_secret(&lab, "cluster")?;
    let host = lab.host(0);
    let (package, next) = packages(host)?;
    let system = host.boot()?;
    system.run(["dpkg", "--install", &package])?;
    for (asked, state) in [("is-enabled", "disabled"), ("is-active", "inactive")] {
        let said = system.output(["systemctl", asked, "weft"])?;
        ensure!(said.stdout.trim() == state, "{said}");
    }
    system.run(["systemctl", "enable", "--now", "weft"])?;
    let is_up = || system.run(["weft", "status"]).map(|_| true);
    wait_until("the daemon", SETTLE, is_up)?;
    let pid = || system.run(["systemctl", "show", "--property=MainPID", "--value", "weft"]);
    let first = pid()?;
    // NET_ADMIN, NET_RAW and SYS_ADMIN; no way to more; a filter of system calls.
    let status = system.run(["cat", &format!("/proc/{first}/status")])?;
    for line in ["CapEff:\t0000000000203000", "CapBnd:\t0000000000203000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure!(status.contains(line), "no {line:?} in {status}");
    }
    let exposure = system.run(["systemd-analyze", "security", "--no-pager", "weft.service"])?;
    let exposure = exposure.rsplit_once("weft.service: ").context("systemd gives a mark")?.1.to_owned();
    let mark: f64 = exposure.split(' ').next().context("a number")?.parse()?;
    ensure!(mark < 3.0, "exposure: {exposure}");

    system.run(["docker", "network", "create", "--driver=weft", "--subnet=10.203.0.0/24", "net"])?;
    system.import_image()?;
    for name in ["box1", "box2"] {
        system.run(["docker", "run", "--detach", "--network=net", "--name", name, BUSYBOX])?;
    }
    let ask = ["docker", "exec", "box1", "timeout", "3", "wget", "-qO-", "http://box2"];
    let answers = || system.run(ask).map(|_| true);
    wait_until("an answer", SETTLE, answers)?;
    let ping = "docker exec box1 ping -i 0.1 box2 > /ping.log 2>&1 & echo $!";
    let ping = system.sh(ping)?;
    system.run(["systemctl", "kill", "--signal=KILL", "weft"])?;
    wait_until("another daemon", SETTLE, || Ok(pid()? != first && is_up()?))?;
    let second = pid()?;
    system.run(["dpkg", "--force-confold", "--install", &next])?;
    ensure!(pid()? != second, "an upgrade leaves the old program running");
    wait_until("the new daemon", SETTLE, is_up)?;
    system.sh(&format!("docker exec box1 killall -INT ping; tail --pid={ping} -f /dev/null"))?;
    let seen = system.run(["cat", "/ping.log"])?;
    ensure!(seen.contains("seq=9 ") && ping_losses(&seen).is_empty(), "same-host traffic: {seen}");

    // dockerd, which comes after weft, finds its network again.
    system.run(["systemctl", "restart", "docker"])?;
    system.run(["docker", "start", "box1", "box2"])?;
    wait_until("an answer after dockerd's restart", SETTLE, answers)?;
    system.run(["docker", "rm", "--force", "box1", "box2"])?;
    system.run(["docker", "network", "rm", "net"])?;
    system.run(["dpkg", "--purge", "weft"])?;
    let left = system
        .sh("systemctl is-active weft; ls -d /var/lib/weft /run/weft; systemctl --failed --quiet; true")?;
    ensure!(left == "inactive", "left behind: {left}");
    let left = leftovers(host)?;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
}

/// What the script says where something that it needs is not there; nothing is installed then.
pub(crate) fn script_names_what_is_missing(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("lacks", engine, 1))?;
    let host = lab.host(0);
    let (outside, inside) = host.shared_dir("install")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/install.sh");
    fs::copy(script, outside.join("install.sh"))?;
    let copied =
        Command::new("cp").arg("--archive").arg(&weft.plugin_dir).arg(outside.join("plugin")).status()?;
    ensure!(copied.success(), "cannot copy the plugin");
    let script = inside.join("install.sh").to_string_lossy().into_owned();
    let plugin = inside.join("plugin").to_string_lossy().into_owned();
    let refused = |wanted: &str, before: &str, args: &str, after: &str| -> Result<()> {
        host.sh(before)?;
        let said = host.output(["sh", "-c", &format!("bash {script} {args}")])?;
        host.sh(after)?;
        ensure!(!said.success() && said.stderr.contains(wanted), "instead of {wanted:?}: {said}");
        host.sh("test ! -e /usr/local/bin/weft")?;
        Ok(())
    };
    let with_plugin = format!("--plugin-dir {plugin}");
    refused(
        "docker is not installed",
        "mv /usr/bin/docker /docker",
        &with_plugin,
        "mv /docker /usr/bin/docker",
    )?;
    refused("cargo is not installed", "true", "", "true")?;
    refused("is no plugin directory", "mkdir /empty", "--plugin-dir /empty", "rmdir /empty")?;
    refused("wants a value", "true", "--plugin-dir", "true")?;
    let bad = format!("{with_plugin} --set NO_SUCH=1");
    refused("NO_SUCH", "true", &bad, "true")?;
    let directory = format!("{with_plugin} --secret /etc");
    refused("/etc is not a file", "true", &directory, "true")?;
    host.stop_dockerd()?;
    refused("dockerd does not answer", "true", &with_plugin, "true")?;
    host.start_dockerd()?;
    ensure!(host.docker(["plugin", "ls", "--quiet"])?.is_empty(), "a plugin is left behind");
    Ok(())
}
