//! Programs of the machine that the lab runs on: installed from Debian when they are absent.

use std::{
    env, fs,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use anyhow::{Context as _, Result};

use crate::{command, paths};

/// What the lab itself needs: a program, and the package that has it.
const NEEDED: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    ("ip", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("timeout", "coreutils"),
    ("tar", "tar"),
];

/// Installs the packages whose program is not on the path. Does nothing, and asks no mirror, when all are there.
///
/// # Errors
/// When `apt-get` fails, with what it said.
pub fn install_missing(needed: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> =
        needed.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("lab: installing {}", missing.join(" "));
    let _lock = apt_lock()?;
    apt_update()?;
    command::check(
        Command::new("apt-get")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .context("cannot install what the lab needs")?;
    Ok(())
}

/// Installs what every lab needs of this machine.
pub(crate) fn install_needed() -> Result<()> {
    install_missing(NEEDED)
}

/// The program as found on the path, also where root's path of a plain shell does not look.
#[must_use]
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A program taken out of its package without installing it, so that no service is started for it.
///
/// One that is installed is used as it is.
///
/// # Errors
/// When the package cannot be fetched or does not hold `bin/NAME` or `usr/bin/NAME`.
pub(crate) fn extracted(package: &str, name: &str) -> Result<PathBuf> {
    let below = |dir: &Path| {
        [dir.join("bin").join(name), dir.join("usr/bin").join(name)].into_iter().find(|file| file.is_file())
    };
    if let Some(installed) = below(Path::new("/")) {
        return Ok(installed);
    }
    below(&extracted_dir(package)?).with_context(|| format!("package {package} has no program {name}"))
}

/// A library taken out of its package without installing it: `name` is what follows the architecture's directory.
///
/// # Errors
/// When the package cannot be fetched or does not hold `usr/lib/ARCHITECTURE/NAME`.
pub fn extracted_library(package: &str, name: &str) -> Result<PathBuf> {
    fs::read_dir(extracted_dir(package)?.join("usr/lib"))?
        .filter_map(|entry| Some(entry.ok()?.path().join(name)))
        .find(|file| file.is_file())
        .with_context(|| format!("package {package} has no library {name}"))
}

/// What is in a package of this machine's release; kept in the cache.
fn extracted_dir(package: &str) -> Result<PathBuf> {
    let dir = paths::cache_dir().join("tools").join(package);
    let _lock = apt_lock()?;
    if !dir.join("usr").is_dir() {
        eprintln!("lab: fetching {package}");
        apt_update()?;
        fs::create_dir_all(&dir)?;
        command::check(Command::new("apt-get").args(["download", package]).current_dir(&dir))?;
        let deb = fs::read_dir(&dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("no package file of {package}"))?;
        command::check(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&dir))?;
        fs::remove_file(&deb)?;
    }
    Ok(dir)
}

/// The package lists, fetched once a process: on a new machine there are none.
fn apt_update() -> Result<()> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !*done {
        command::check(&mut command::command("apt-get", ["update"]))?;
        *done = true;
    }
    Ok(())
}

/// Held while apt runs, so that two labs do not run into its own lock.
fn apt_lock() -> Result<File> {
    let dir = paths::cache_dir();
    fs::create_dir_all(&dir)?;
    let file = File::create(dir.join("apt.lock"))?;
    file.lock()?;
    Ok(file)
}
