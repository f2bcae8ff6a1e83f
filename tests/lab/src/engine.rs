//! Docker engines: a cached root filesystem for each, made of Debian's packages.

use std::{
    fmt, fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{command, packages, paths};

/// A Docker engine, as one Debian release packages it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// Debian 12: docker.io 20.10.24.
    Bookworm,
    /// Debian 13: docker.io 26.1.5.
    Trixie,
    /// Debian unstable: docker.io 28.5.2 when this was written.
    Sid,
}

impl Engine {
    /// The engines that the end-to-end suites run on: the oldest and the newest.
    pub const TESTED: [Self; 2] = [Self::Bookworm, Self::Sid];

    /// Debian's name of the release.
    #[must_use]
    pub const fn release(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// The engine's version as it was when this was written, for names of tests; unstable moves on.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Bookworm => "20.10.24",
            Self::Trixie => "26.1.5",
            Self::Sid => "28.5.2",
        }
    }

    /// The packages of the root filesystem beside the essential ones.
    fn packages(self) -> String {
        let mut packages = vec![
            "docker.io",
            "iproute2",
            "iptables",
            "nftables",
            "ca-certificates",
            "procps",
            "iputils-ping",
            "tcpdump",
            "iperf3",
        ];
        // Bookworm's docker.io holds the client; later ones only recommend it.
        if self != Self::Bookworm {
            packages.push("docker-cli");
        }
        packages.join(",")
    }

    /// Where the root filesystem is kept.
    #[must_use]
    pub fn root(self) -> PathBuf {
        paths::cache_dir().join("engines").join(self.release())
    }

    /// Where the root filesystem with systemd is kept.
    #[must_use]
    pub fn root_with_systemd(self) -> PathBuf {
        paths::cache_dir().join("engines").join(format!("{}-systemd", self.release()))
    }

    /// Makes the root filesystem unless it is there, and returns its directory. Takes a minute or two when it
    /// is not. Two processes that need the same one wait for each other. It is never written to afterwards:
    /// the hosts lay an overlay over it.
    ///
    /// # Errors
    /// When the mirror cannot be reached or `debootstrap` fails; the cache is left without it.
    pub fn ensure(self) -> Result<PathBuf> {
        self.ensure_of(self.root(), &self.packages())
    }

    /// The same with systemd in it, for hosts that boot.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub fn ensure_with_systemd(self) -> Result<PathBuf> {
        self.ensure_of(self.root_with_systemd(), &format!("{},systemd,systemd-sysv", self.packages()))
    }

    fn ensure_of(self, root: PathBuf, recipe: &str) -> Result<PathBuf> {
        if is_complete(&root, recipe) {
            return Ok(root);
        }
        packages::install_needed()?;
        let cache = root.parent().context("the cache has a parent")?.to_owned();
        fs::create_dir_all(&cache)?;
        let name = root.file_name().context("the root has a name")?.to_string_lossy().into_owned();
        let lock = File::create(cache.join(format!("{name}.lock")))?;
        lock.lock()?;
        if !is_complete(&root, recipe) {
            self.build(&cache, &name, recipe)
                .with_context(|| format!("cannot make the root filesystem of engine {self}"))?;
        }
        Ok(root)
    }

    /// [`ensure`](Self::ensure) for several, at the same time.
    ///
    /// # Errors
    /// The first failure, after all have ended.
    pub fn ensure_all(engines: &[Self]) -> Result<()> {
        let workers: Vec<_> = engines.iter().map(|&engine| thread::spawn(move || engine.ensure())).collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        for result in results {
            match result {
                Ok(made) => drop(made?),
                Err(_) => bail!("the thread that made an engine panicked"),
            }
        }
        Ok(())
    }

    fn build(self, cache: &Path, name: &str, recipe: &str) -> Result<()> {
        let (root, building) = (cache.join(name), cache.join(format!(".{name}.building")));
        // The lock is ours: what is here was left by one that was interrupted, or by an older recipe.
        for stale in [&building, &root] {
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
        }
        let mirror = mirror()?;
        eprintln!("lab: making the root filesystem of engine {self} (a minute or two, once)");
        let log = cache.join(format!("{name}.log"));
        // A mount namespace of its own, so that an interruption leaves no mounts; a pid namespace, so that it
        // leaves no processes.
        let mut command = command::command(
            "unshare",
            [
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "debootstrap",
                "--variant=minbase",
            ],
        );
        command.arg(format!("--include={recipe}")).arg(self.release()).arg(&building).arg(&mirror.uri);
        if let Some(proxy) = mirror.proxy {
            command.env("http_proxy", proxy);
        }
        let status = command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .status()
            .context("cannot start debootstrap")?;
        if !status.success() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(8).collect();
            bail!("debootstrap: {status}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        fs::remove_dir_all(building.join("var/cache/apt"))?;
        fs::write(building.join(".weft-lab"), recipe)?;
        fs::rename(&building, &root)?;
        Ok(())
    }
}

/// A root made by an older recipe counts as absent.
fn is_complete(root: &Path, recipe: &str) -> bool {
    fs::read_to_string(root.join(".weft-lab")).is_ok_and(|made_by| made_by == recipe)
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version())
    }
}

impl FromStr for Engine {
    type Err = anyhow::Error;

    /// Takes a release's name, or the beginning of a version: `20.10` is bookworm's.
    fn from_str(name: &str) -> Result<Self> {
        [Self::Bookworm, Self::Trixie, Self::Sid]
            .into_iter()
            .find(|engine| {
                let version = engine.version();
                engine.release() == name
                    || version.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
            .with_context(|| {
                format!("no engine {name}: bookworm (20.10.24), trixie (26.1.5) or sid (28.5.2)")
            })
    }
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
    fn engines_are_named_by_release_or_version() {
        assert_eq!("sid".parse::<Engine>().unwrap(), Engine::Sid);
        assert_eq!("20.10".parse::<Engine>().unwrap(), Engine::Bookworm);
        assert_eq!("26.1.5".parse::<Engine>().unwrap(), Engine::Trixie);
        assert!("2".parse::<Engine>().is_err());
        assert!("29".parse::<Engine>().unwrap_err().to_string().contains("trixie"));
    }

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
