//! Programs for arm64, built on another machine: in a root of the oldest Debian that has a compiler new enough.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use weft_lab::DebianRoot;

use crate::{cargo, plugin::Base};

const RELEASE: &str = "trixie";
const TARGET: &str = "aarch64-unknown-linux-gnu";
const TRIPLET: &str = "aarch64-linux-gnu";

/// What is put into the root: compilers that run here, with libraries of there, and iptables of there, so that a program and
/// all that is beside it in the plugin are of one release. The version is in it so that a root is made anew when it rises.
const SETUP: &str = concat!(
    "# Rust ",
    env!("CARGO_PKG_RUST_VERSION"),
    r#"
dpkg --add-architecture arm64
sed "s/ trixie / trixie-backports /" /etc/apt/sources.list > /etc/apt/sources.list.d/backports.list
apt-get update
apt-get install --yes --no-install-recommends gcc gcc-aarch64-linux-gnu libc6-dev libc6-dev-arm64-cross iptables:arm64 \
    cargo/trixie-backports rustc/trixie-backports libstd-rust-dev:arm64/trixie-backports
mkdir /source /cargo /target
"#
);

/// Mounts what the build reads and writes, in a mount namespace that ends with it, and builds. The crates are fetched
/// before, by this machine's cargo with its own settings of proxies and the like.
const BUILD: &str = r#"
mount --bind --options ro "$SOURCE" "$ROOT/source"
mount --bind "$CARGO_HOME" "$ROOT/cargo"
mount --bind "$CARGO_TARGET_DIR" "$ROOT/target"
exec chroot "$ROOT" env --chdir=/source CARGO_HOME=/cargo CARGO_TARGET_DIR=/target cargo "$@"
"#;

/// Builds weft as it is shipped; returns the program, and the root that it is to run in.
pub(crate) fn build_release() -> Result<(PathBuf, Base)> {
    let root = DebianRoot {
        name: "the build for arm64",
        dir: weft_lab::cache_dir().join("cross").join(format!("{RELEASE}-arm64")),
        release: RELEASE,
        packages: "",
        setup: SETUP,
    }
    .ensure()?;
    // What is built for this machine too: the crates that build scripts and macros are made of.
    let here = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let status =
        cargo::cargo().args(["fetch", "--locked", "--target", TARGET, "--target", &here]).status()?;
    ensure!(status.success(), "cargo fetch: {status}");

    // Apart from what this machine's compiler builds.
    let target = cargo::target_dir()?.join("cross");
    fs::create_dir_all(&target)?;
    let mut build = weft_lab::unshared(&root.join("proc"));
    build.args(["sh", "-e", "-c", BUILD, "sh", "build", "--locked", "--offline", "--release"]);
    build.args(["--package", "weft", "--target", TARGET]);
    // What cargo and the operator have set is about another compiler.
    build.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    build.env("SOURCE", cargo::root()).env("ROOT", &root).env("CARGO_HOME", cargo_home()?);
    build.env("CARGO_TARGET_DIR", &target);
    build.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", format!("{TRIPLET}-gcc"));
    let status = build.status().context("cannot start unshare")?;
    ensure!(status.success(), "the build for arm64: {status}");
    Ok((target.join(TARGET).join("release/weft"), Base { root, triplet: TRIPLET.to_owned() }))
}

fn cargo_home() -> Result<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    let default = || Some(Path::new(&env::var_os("HOME")?).join(".cargo"));
    set.or_else(default).context("neither CARGO_HOME nor HOME is set")
}
