//! Containers whose network the test enters with sockets of its own.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use weft_lab::Host;

/// A container's network.
#[derive(Debug)]
pub struct Namespace {
    container: String,
    path: PathBuf,
}

impl Namespace {
    /// That of a container that runs on the host.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn of(host: &Host, container: &str) -> Result<Self> {
        let pid = host.docker(["inspect", "--format", "{{.State.Pid}}", container])?;
        // The number is the host's, so that it is looked up in the host's /proc.
        let path = format!("/proc/{}/root/proc/{pid}/ns/net", host.pid()).into();
        Ok(Self { container: container.to_owned(), path })
    }

    /// Runs `f` on a thread in the container's network. Sockets that it opens stay there.
    ///
    /// # Errors
    /// When the container has ended, or `f` panics.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| weft_sys::netns::enter(&self.path).map(|()| f()));
            let entered = thread.join().map_err(|_| anyhow!("a thread in a container's network panicked"))?;
            entered.with_context(|| format!("cannot enter the network of {}", self.container))
        })
    }

    /// Runs a line of shell with this machine's programs in the container's network.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn sh(&self, line: &str) -> Result<String> {
        let done = self.enter(|| Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output())??;
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        ensure!(done.status.success(), "{line}: {}: {err}{out}", done.status);
        Ok(out.trim_end().to_owned())
    }
}
