//! `deploy/install.sh` on a host, as its usage says.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{SETTLE, leftovers};
use weft_lab::{BUSYBOX, DRIVER, Engine, Lab, LabConfig, SECRET, Weft, wait_until};

pub(crate) fn script_installs_and_uninstalls(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("install", engine, 1))?;
    lab.swarm()?;
    let host = lab.host(0);
    let (outside, inside) = host.shared_dir("install")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/install.sh");
    for (from, to) in [(script.as_path(), "install.sh"), (weft.plugin_dir.as_path(), "plugin")] {
        let copied = Command::new("cp").arg("--archive").arg(from).arg(outside.join(to)).status()?;
        ensure!(copied.success(), "cannot copy {}", from.display());
    }
    let script = inside.join("install.sh");
    let script = script.to_str().context("a plain path")?;
    let install = format!("bash {script} --plugin-dir {}", inside.join("plugin").display());

    // Twice: the second finds everything in place.
    for _ in 0..2 {
        let said = host.sh(&install)?;
        ensure!(said.contains("ready: docker network create"), "{said}");
    }
    ensure!(host.sh(&format!("stat --format=%a {SECRET}"))?.trim() == "600", "the secret is open to others");
    host.docker(["network", "create", "--driver", DRIVER, "--attachable", "net"])?;
    host.docker(["run", "--detach", "--name=box", "--network=net", BUSYBOX])?;

    let refused = host.output(["bash", script, "--uninstall"])?;
    ensure!(!refused.success() && refused.stderr.contains("networks use the plugin"), "{refused}");
    host.docker(["rm", "--force", "box"])?;
    host.docker(["network", "rm", "net"])?;
    wait_until("the script to uninstall", SETTLE, || {
        host.run(["bash", script, "--uninstall"]).map(|_| true)
    })?;
    ensure!(host.docker(["plugin", "ls", "--quiet"])?.trim().is_empty(), "the plugin is still there");
    ensure!(
        host.sh(&format!("test -f {SECRET} && ! test -e /usr/local/bin/weft")).is_ok(),
        "secret or program"
    );
    let left = leftovers(host)?;
    ensure!(left.is_empty(), "left behind: {left}");

    let refused = host.output(["bash", script, "--no-such-option"])?;
    ensure!(!refused.success() && refused.stderr.contains("--no-such-option"), "{refused}");
    Ok(())
}
