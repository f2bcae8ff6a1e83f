//! `weft run` on a host: settings that cannot work.

use anyhow::{Result, ensure};
use weft_e2e::SETTLE;
use weft_lab::{Engine, Lab, LabConfig, Weft, wait_until};

pub(crate) fn bad_settings(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("settings", engine, 1);
    config.docker = false;
    let lab = Lab::start(config)?;
    let host = lab.host(0);
    weft.install_program(host)?;
    weft.make_secret(&lab, "cluster")?;

    let fails = |what: &str, line: &str, words: &[&str]| -> Result<()> {
        let done = host.output(["sh", "-c", &format!("exec timeout 10 {line}")])?;
        ensure!(done.code.is_some_and(|code| code != 0 && code != 124), "{what}: it runs on: {done}");
        let errors: Vec<&str> = done.stderr.lines().chain(done.stdout.lines()).collect();
        for word in words {
            ensure!(errors.iter().any(|line| line.contains(word)), "{what}: {word} is not said: {done}");
        }
        ensure!(!done.text().contains("panicked"), "{what}: {done}");
        Ok(())
    };
    fails("an MTU below IPv6's least", "env UNDERLAY_MTU=1000 weft run", &["1000"])?;
    fails("a bad peer", "env PEERS=a:b:c weft run", &["PEERS"])?;
    fails("a bad suite", "env SUITE=rot13 weft run", &["SUITE", "aes-256-gcm"])?;
    fails(
        "no CAP_NET_ADMIN",
        "setpriv --bounding-set=-net_admin --inh-caps=-net_admin weft run",
        &["CAP_NET_ADMIN"],
    )?;
    fails(
        "no /dev/net/tun",
        "unshare --mount sh -c 'mount -t tmpfs none /dev/net && exec weft run'",
        &["/dev/net/tun"],
    )?;

    let first = host.spawn("first", ["weft", "run"])?;
    wait_until("the first daemon", SETTLE, || {
        Ok(host.run(["ss", "-Hlun", "sport = :6783"])?.contains("6783"))
    })?;
    fails("a second daemon", "env STATE_DIR=/tmp/other weft run", &["weft.sock"])?;
    // With sockets of its own, as in another container, only the port is shared.
    fails(
        "a port in use",
        "unshare --mount sh -c 'mount -t tmpfs none /run && STATE_DIR=/tmp/other exec weft run'",
        &["6783"],
    )?;
    first.signal("TERM")?;
    Ok(())
}
