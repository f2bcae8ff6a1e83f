//! A host that is run by systemd: its services start, restart and are confined as on a real one.

use std::{ffi::OsStr, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    Background,
    command::{Output, time_limit},
    host::{COMMAND_LIMIT, Host},
    image, wait,
};

/// How long systemd may take until all that starts with the host has started: dockerd is among it.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// Becomes systemd in namespaces of processes and mounts of its own, in the host's file system and network.
const BOOT: &str = "mount --make-rprivate / && mount -t proc proc /proc && \
    mount -t tmpfs -o mode=755 tmpfs /run && mount --make-rshared / && exec /sbin/init";

/// systemd on a host. It and all that it started end when this is dropped.
#[derive(Debug)]
pub struct Systemd<'a> {
    host: &'a Host,
    pid: String,
    _init: Background,
}

impl Host {
    /// Boots the host, of a lab with [`LabConfig::systemd`](crate::LabConfig::systemd).
    ///
    /// # Errors
    /// When a service fails, or not all have started in time.
    pub fn boot(&self) -> Result<Systemd<'_>> {
        let unshare = ["unshare", "--pid", "--mount", "--fork", "--kill-child=KILL"];
        let init = ["env", "container=weft-lab", "sh", "-c", BOOT];
        let init = self.spawn_as_service("systemd", unshare.into_iter().chain(init))?;
        let pid = wait::wait_for("systemd", BOOT_LIMIT, || {
            let found = self.output(["pgrep", "--oldest", "--exact", "systemd"])?;
            Ok(found.success().then(|| found.stdout.trim().to_owned()))
        })?;
        let systemd = Systemd { host: self, pid, _init: init };
        wait::wait_until("the end of the boot", BOOT_LIMIT, || {
            let state = systemd.output(["systemctl", "is-system-running"])?;
            ensure!(!state.stdout.starts_with("degraded"), "{}", systemd.run(["systemctl", "--failed"])?);
            Ok(state.stdout.trim() == "running")
        })?;
        Ok(systemd)
    }
}

impl Systemd<'_> {
    /// Runs a program as one who logs in on the host would, whatever its exit code.
    ///
    /// # Errors
    /// Only when it could not be started.
    pub fn output<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let limit = time_limit(COMMAND_LIMIT);
        let words = ["nsenter", "--target", &self.pid, "--pid", "--mount", "--"].map(str::to_owned);
        let enter = words.into_iter().chain(limit).map(Into::into);
        self.host.output(enter.chain(args.into_iter().map(|arg| arg.as_ref().to_os_string())))
    }

    /// The same; returns what it printed.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let done = self.output(args)?;
        ensure!(done.success(), "{}: {done}", self.host.name());
        Ok(done.stdout.trim_end().to_owned())
    }

    /// Gives its dockerd the image [`BUSYBOX`](crate::BUSYBOX).
    ///
    /// # Errors
    /// When dockerd refuses.
    pub fn import_image(&self) -> Result<()> {
        self.run(image::import_command(self.host)?).map(drop)
    }

    /// Runs a line of shell.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run(["sh", "-c", line])
    }
}
