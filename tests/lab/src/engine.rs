//! Docker engines: a cached root filesystem for each, made of Debian's packages.

use std::{fmt, path::PathBuf, str::FromStr, thread};

use anyhow::{Context as _, Result, bail};

use crate::{debian::DebianRoot, paths};

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

    fn ensure_of(self, root: PathBuf, packages: &str) -> Result<PathBuf> {
        let name = format!("engine {self}");
        DebianRoot { name: &name, dir: root, release: self.release(), packages, setup: "" }.ensure()
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
}
