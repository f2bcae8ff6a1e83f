//! Root filesystems of Debian's releases: made once, and kept in the cache.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, packages};

/// A root filesystem of Debian, by what is in it.
#[derive(Debug)]
pub struct DebianRoot<'a> {
    /// What it is called in messages.
    pub name: &'a str,
    /// Where it is kept, in a directory that may be shared with others.
    pub dir: PathBuf,
    /// Debian's name of the release.
    pub release: &'a str,
    /// The packages beside the essential ones, separated by commas.
    pub packages: &'a str,
    /// What a shell does in it at the end, with the network at hand; may be empty.
    pub setup: &'a str,
}

impl DebianRoot<'_> {
    /// Makes it unless it is there, and returns its directory. Takes a minute or more when it is not. Two processes
    /// that need the same one wait for each other. Nobody writes to it afterwards.
    ///
    /// # Errors
    /// When the mirror cannot be reached, or `debootstrap` or the set-up fails; the cache is left without it.
    pub fn ensure(&self) -> Result<PathBuf> {
        if self.is_complete() {
            return Ok(self.dir.clone());
        }
        packages::install_needed()?;
        fs::create_dir_all(self.dir.parent().context("the cache has a parent")?)?;
        let lock = File::create(self.beside("", ".lock")?)?;
        lock.lock()?;
        if !self.is_complete() {
            self.build().with_context(|| format!("cannot make the root filesystem of {}", self.name))?;
        }
        Ok(self.dir.clone())
    }

    /// One made by an older recipe counts as absent.
    fn is_complete(&self) -> bool {
        fs::read_to_string(self.dir.join(MARK)).is_ok_and(|made_by| made_by == self.recipe())
    }

    fn recipe(&self) -> String {
        format!("{}{}", self.packages, self.setup)
    }

    fn beside(&self, before: &str, after: &str) -> Result<PathBuf> {
        let name = self.dir.file_name().context("the root has a name")?.to_string_lossy();
        Ok(self.dir.with_file_name(format!("{before}{name}{after}")))
    }

    fn build(&self) -> Result<()> {
        let building = self.beside(".", ".building")?;
        // The lock is ours: what is here was left by one that was interrupted, or by an older recipe.
        for stale in [&building, &self.dir] {
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
        }
        let mirror = mirror()?;
        eprintln!("lab: making the root filesystem of {} (a minute or two, once)", self.name);
        let log = self.beside("", ".log")?;
        File::create(&log)?;
        let run = |mut command: Command, what: &str| -> Result<()> {
            if let Some(proxy) = &mirror.proxy {
                command.env("http_proxy", proxy);
            }
            let append = || File::options().append(true).open(&log);
            let status = command
                .stdin(Stdio::null())
                .stdout(append()?)
                .stderr(append()?)
                .status()
                .with_context(|| format!("cannot start {what}"))?;
            if !status.success() {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(8).collect();
                bail!("{what}: {status}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            Ok(())
        };
        let mut debootstrap = unshared(Path::new("/proc"));
        debootstrap.args(["debootstrap", "--variant=minbase"]);
        if !self.packages.is_empty() {
            debootstrap.arg(format!("--include={}", self.packages));
        }
        debootstrap.arg(self.release).arg(&building).arg(&mirror.uri);
        run(debootstrap, "debootstrap")?;
        if !self.setup.is_empty() {
            let mut shell = unshared(&building.join("proc"));
            shell.arg("chroot").arg(&building).args(["sh", "-e", "-c", self.setup]);
            shell.env("DEBIAN_FRONTEND", "noninteractive");
            run(shell, "the set-up")?;
        }
        fs::remove_dir_all(building.join("var/cache/apt"))?;
        fs::write(building.join(MARK), self.recipe())?;
        fs::rename(&building, &self.dir)?;
        Ok(())
    }
}

/// Holds the recipe of a root that is complete.
const MARK: &str = ".weft-lab";

/// The words that give the program after them a mount namespace of its own, so that an interruption leaves no mounts,
/// and a pid namespace with its `proc`, so that it leaves no processes.
#[must_use]
pub fn unshared(proc: &Path) -> Command {
    let mut command = command::command("unshare", ["--mount", "--pid", "--fork", "--kill-child"]);
    let mut mount = std::ffi::OsString::from("--mount-proc=");
    mount.push(proc);
    command.arg(mount);
    command
}

struct Mirror {
    uri: String,
    proxy: Option<String>,
}

/// The Debian mirror that this machine installs from. `WEFT_LAB_MIRROR` overrides it.
fn mirror() -> Result<Mirror> {
    let mut files: Vec<PathBuf> = vec!["/etc/apt/sources.list".into()];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let uri = match std::env::var("WEFT_LAB_MIRROR") {
        Ok(uri) => uri,
        Err(_) => files
            .iter()
            .filter_map(|file| mirror_of(&fs::read_to_string(file).ok()?))
            .next()
            .context("this machine's apt sources name no Debian mirror: set WEFT_LAB_MIRROR")?,
    };
    let proxy = command::check(Command::new("sh").args([
        "-c",
        "apt-config shell PROXY Acquire::http::Proxy | sed -n \"s/^PROXY='\\(.*\\)'$/\\1/p\"",
    ]))?;
    Ok(Mirror { uri, proxy: (!proxy.is_empty()).then_some(proxy) })
}

/// The first mirror of Debian itself that a sources file names, in either of apt's two formats.
fn mirror_of(text: &str) -> Option<String> {
    let is_release = |suite: &str| {
        ["stable", "testing", "unstable", "sid", "bookworm", "trixie", "forky"].contains(&suite)
    };
    for line in text.lines() {
        let mut words = line.split_whitespace().filter(|word| !word.starts_with('[') && !word.ends_with(']'));
        if words.next() == Some("deb")
            && let (Some(uri), Some(suite)) = (words.next(), words.next())
            && is_release(suite)
            && words.any(|component| component == "main")
        {
            return Some(uri.to_owned());
        }
    }
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
        };
        (field("Types").split_whitespace().any(|kind| kind == "deb")
            && field("Suites").split_whitespace().any(is_release)
            && field("Components").split_whitespace().any(|component| component == "main"))
        .then(|| field("URIs").split_whitespace().next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_both_formats_of_sources() {
        let one_line = "# deb http://no.example/debian sid main\n\
                        deb http://security.example/debian-security bookworm-security main\n\
                        deb [arch=amd64 signed-by=/k] http://mirror.example/debian bookworm main contrib\n";
        assert_eq!(mirror_of(one_line).unwrap(), "http://mirror.example/debian");
        let deb822 = "Types: deb\nURIs: http://security.example/s\nSuites: bookworm-security\nComponents: main\n\n\
                      Types: deb deb-src\n# comment\nURIs: http://mirror.example/debian/\n\
                      Suites: trixie trixie-updates\nComponents: main\n";
        assert_eq!(mirror_of(deb822).unwrap(), "http://mirror.example/debian/");
        let other = "deb https://packages.example/apt tool-bookworm main\n\n\
                     Types: deb\nURIs: https://deb.example/node\nSuites: nodistro\nComponents: main\n";
        assert_eq!(mirror_of(other), None);
    }
}
