//! One host of a lab: its own network, file system and processes, with a Docker engine of its own.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    command::{self, Output},
    engine::Engine,
    holder::Holder,
};

/// How long a command on a host may take before it is ended and counted as a failure.
///
/// Longer than what dockerd takes to give up on a plugin that does not answer.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(90);

/// A host of a lab.
///
/// Owned by its [`Lab`](crate::Lab), and gone with it: with all that was started on it.
#[derive(Debug)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) engine: Engine,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Option<Ipv6Addr>,
    pub(crate) holder: Holder,
    /// The lab's run directory, which the host has as `/lab`.
    pub(crate) share: PathBuf,
    pub(crate) dockerd_args: Vec<String>,
}

impl Host {
    /// Its host name: `host1`, `host2`, …
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The engine it runs.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The IPv4 address of its `eth0`.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4
    }

    /// The address of its `eth0` that the lab's underlay is of: IPv6 when the lab has it.
    #[must_use]
    pub fn underlay(&self) -> IpAddr {
        self.ipv6.map_or(IpAddr::V4(self.ipv4), IpAddr::V6)
    }

    /// Its process 1 by this machine's count, for `nsenter`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// dockerd's socket as seen from this machine.
    #[must_use]
    pub fn docker_socket(&self) -> PathBuf {
        self.share.join(&self.name).join("docker.sock")
    }

    /// The command line that opens a shell on the host.
    #[must_use]
    pub fn enter_command(&self) -> String {
        format!("nsenter -t {} -m -n -p -i -u -C -- bash -l", self.pid())
    }

    /// A directory that the host has at the path in the second place; the first is this machine's path of it.
    /// Every host of the lab sees the same files there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn shared_dir(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let outside = self.share.join("files").join(name);
        fs::create_dir_all(&outside)?;
        Ok((outside, Path::new("/lab/files").join(name)))
    }

    /// Runs a program on the host and returns its standard output without trailing white space.
    ///
    /// # Errors
    /// When it did not exit with 0 within [`COMMAND_LIMIT`]; the error holds what it printed.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        command::check(&mut self.limited(COMMAND_LIMIT, args)).with_context(|| self.name.clone())
    }

    /// Runs a program on the host and returns what came of it, whatever its exit code.
    ///
    /// # Errors
    /// Only when it could not be started.
    pub fn output<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        command::output(&mut self.limited(COMMAND_LIMIT, args))
    }

    /// Runs a line of shell on the host.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run(["sh", "-c", line])
    }

    /// Runs `docker ARGS` on the host.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn docker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        command::check(self.docker_command().args(args)).with_context(|| self.name.clone())
    }

    /// Runs `docker ARGS` on the host, whatever its exit code.
    ///
    /// # Errors
    /// Only when it could not be started.
    pub fn docker_output<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        command::output(self.docker_command().args(args))
    }

    /// Runs a line of shell in a container of the host.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn exec(&self, container: &str, line: &str) -> Result<String> {
        self.docker(["exec", container, "sh", "-c", line])
    }

    /// Starts a program on the host and lets it run; both its streams go into a file of the lab.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn spawn<S: AsRef<OsStr>>(
        &self,
        log_name: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Background> {
        Background::start(&mut self.holder.enter(args), &self.log_path(log_name)?)
    }

    /// The same, counted in the host's control groups.
    pub(crate) fn spawn_as_service<S: AsRef<OsStr>>(
        &self,
        log_name: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Background> {
        Background::start(&mut self.holder.enter_as_service(args), &self.log_path(log_name)?)
    }

    /// Starts a program in the host's network only, with this machine's programs and files.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn spawn_in_network<S: AsRef<OsStr>>(
        &self,
        log_name: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Background> {
        Background::start(&mut self.holder.enter_network(args), &self.log_path(log_name)?)
    }

    /// Runs a program in the host's network only, with this machine's programs and files.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_in_network<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        command::check(&mut self.holder.enter_network(args)).with_context(|| self.name.clone())
    }

    /// A command for a program in the host's network only, with this machine's programs and files; not started yet.
    pub fn command_in_network<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.holder.enter_network(args)
    }

    /// A file of the lab for this host's log `name`, as this machine sees it; dockerd's is `dockerd`.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn log_path(&self, name: &str) -> Result<PathBuf> {
        let dir = self.share.join(&self.name);
        fs::create_dir_all(&dir)?;
        Ok(dir.join(format!("{name}.log")))
    }

    fn docker_command(&self) -> Command {
        self.limited(COMMAND_LIMIT, ["docker"])
    }

    fn limited<S: AsRef<OsStr>>(&self, limit: Duration, args: impl IntoIterator<Item = S>) -> Command {
        let mut enter = self.holder.enter(command::time_limit(limit));
        enter.args(args);
        enter
    }
}

/// A program that runs beside the test. Ended when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
}

impl Background {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", command::display(command)))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn text(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end; returns what it printed.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(mut self, limit: Duration) -> Result<String> {
        crate::wait::wait_until("end of a background program", limit, || Ok(!self.is_running()?))?;
        self.text()
    }

    /// Sends it the signal (`INT`, `TERM`, …), waits for its end and returns what it printed.
    ///
    /// # Errors
    /// When it still runs after ten seconds.
    pub fn signal(self, signal: &str) -> Result<String> {
        self.send(signal)?;
        self.wait(Duration::from_secs(10))
    }

    /// `nsenter` waits for the program, which is its only child, and does not hand signals on.
    fn send(&self, signal: &str) -> Result<()> {
        let nsenter = self.child.id();
        let children =
            fs::read_to_string(format!("/proc/{nsenter}/task/{nsenter}/children")).unwrap_or_default();
        if !children.is_empty() {
            let mut kill = command::command("kill", [format!("-{signal}")]);
            command::output(kill.args(children.split_whitespace()))?;
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.send("KILL");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
