//! The Debian package of the daemon and the command line: by cargo-deb, from the metadata in crates/cli/Cargo.toml.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, plugin};

/// Shells whose completions the package has, and the files that Debian looks for them in.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "weft.bash"), ("zsh", "_weft"), ("fish", "weft.fish")];

/// Builds the release and writes `target/debian/weft_*.deb`.
pub(crate) fn run() -> Result<()> {
    let has_cargo_deb =
        cargo::cargo().args(["deb", "--version"]).output().is_ok_and(|out| out.status.success());
    ensure!(has_cargo_deb, "cargo-deb is not installed: cargo install --locked cargo-deb");
    let weft = plugin::build_release()?;
    prepare(&weft, &cargo::target_dir()?.join("package"))?;
    let status = cargo::cargo().args(["deb", "--no-build", "--package", "weft"]).status()?;
    ensure!(status.success(), "cargo deb: {status}");
    Ok(())
}

/// Writes what the program itself makes for packages to `out`, whose earlier content goes.
fn prepare(weft: &Path, out: &Path) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out)?;
    for (shell, file) in COMPLETIONS {
        let done = Command::new(weft).args(["completions", shell]).output().context("cannot start weft")?;
        ensure!(
            done.status.success() && !done.stdout.is_empty(),
            "weft completions {shell}: {}",
            done.status
        );
        fs::write(out.join(file), done.stdout)?;
    }
    let status = Command::new(weft).arg("man").arg(out.join("man")).status().context("cannot start weft")?;
    ensure!(status.success(), "weft man: {status}");
    // In a package the program is where Debian has programs.
    let unit = fs::read_to_string(cargo::root().join("deploy/weft.service"))?;
    let moved = unit.replace("/usr/local/bin/weft", "/usr/bin/weft");
    ensure!(moved != unit, "deploy/weft.service names no /usr/local/bin/weft");
    fs::write(out.join("weft.service"), moved)?;
    Ok(())
}
