//! Holders: the processes that own a host's namespaces, and entering these.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{cgroup, command};

/// Enters the control groups in `$LAB_GROUPS`, then becomes the program in the arguments.
const ENTER_GROUPS: &str = r#"for dir in $LAB_GROUPS; do echo $$ > "$dir/cgroup.procs"; done; exec "$@""#;

/// Holds a network namespace with nothing but a bridge: the wire between the hosts.
const FABRIC: &str = r#"set -eu
read -r outer_pid _ < /proc/self/stat
mount -t proc proc /proc
ip link add br0 type bridge mcast_snooping 0
ip link set br0 mtu 65535 up
ip link set lo up
for switch in /proc/sys/net/bridge/bridge-nf-call-*; do
    if [ -e "$switch" ]; then echo 0 > "$switch"; fi
done
echo "ready $outer_pid"
if [ "$LAB_STAYS" = yes ]; then sleep infinity; else cat > /dev/null; fi"#;

/// The namespaces that make up a host.
const ALL: [&str; 6] = ["--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup"];

/// A process 1 and its namespaces. They end with it, and it ends with the process that made it, unless it stays.
#[derive(Debug)]
pub(crate) struct Holder {
    /// `unshare`, whose end is its child's end; its standard input is the life line.
    child: Child,
    /// The namespaces' process 1, by this process's count.
    pid: u32,
    groups: Vec<PathBuf>,
}

impl Holder {
    /// A network and a pid namespace with a bridge `br0`.
    pub(crate) fn fabric(groups: Vec<PathBuf>, stays: bool) -> Result<Self> {
        let mut command = in_groups(&groups);
        command.args([
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "sh",
            "-c",
            FABRIC,
        ]);
        Self::start(command, groups, stays)
    }

    /// All the namespaces of a host with the file system of `engine_root`.
    pub(crate) fn host(
        name: &str,
        engine_root: &Path,
        disk: &Path,
        share: &Path,
        groups: Vec<PathBuf>,
        stays: bool,
    ) -> Result<Self> {
        for dir in ["root", "upper", "work", "data"] {
            fs::create_dir_all(disk.join(dir))?;
        }
        let script = disk.join("holder.sh");
        fs::write(&script, include_str!("holder.sh"))?;
        let mut command = in_groups(&groups);
        command
            .args(["unshare", "--cgroup", "--mount", "--net", "--pid", "--ipc", "--uts"])
            .args(["--fork", "--kill-child=KILL", "sh"])
            .arg(script)
            .env("LAB_NAME", name)
            .env("LAB_ENGINE", engine_root)
            .env("LAB_DISK", disk)
            .env("LAB_SHARE", share);
        Self::start(command, groups, stays)
    }

    fn start(mut command: Command, groups: Vec<PathBuf>, stays: bool) -> Result<Self> {
        command
            .env("LAB_STAYS", if stays { "yes" } else { "no" })
            .stdin(if stays { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // An interrupt typed at the terminal is for the owner, who takes the hosts down in order.
            .process_group(0);
        let mut child = command.spawn().context("cannot start a holder")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("standard output is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(pid) = line.strip_prefix("ready ").and_then(|pid| pid.trim().parse().ok()) else {
            let _ = child.kill();
            let done = child.wait_with_output()?;
            bail!("a host's namespaces could not be made: {}", String::from_utf8_lossy(&done.stderr).trim());
        };
        let groups = cgroup::settle(groups)?;
        Ok(Self { child, pid, groups })
    }

    /// The namespaces' process 1, by this process's count.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The processes that hold the namespaces, and without which these end.
    pub(crate) fn processes(&self) -> Vec<u32> {
        // Process 1's first child is its life line; later ones are orphans that it took over.
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).unwrap_or_default();
        let line = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        [self.child.id(), self.pid].into_iter().chain(line).collect()
    }

    /// A command that runs `args` inside the namespaces and file system of the host.
    pub(crate) fn enter<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("nsenter");
        self.target(&mut command, &ALL).args(args);
        command
    }

    /// As [`enter`](Self::enter), for a program that goes on running: it is counted in the host's groups.
    pub(crate) fn enter_as_service<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = in_groups(&self.groups);
        self.target(command.arg("nsenter"), &ALL).args(args);
        command
    }

    /// A command that runs `args` in the network and pid namespaces only, with this machine's programs and files.
    pub(crate) fn enter_network<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("nsenter");
        self.target(&mut command, &["--net", "--pid"]).args(args);
        command
    }

    fn target<'a>(&self, nsenter: &'a mut Command, which: &[&str]) -> &'a mut Command {
        nsenter
            .args(["--target", &self.pid.to_string()])
            .args(which)
            .arg("--")
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .env("LC_ALL", "C")
    }

    /// Ends the namespaces and all processes in them.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that enters the control groups and becomes the program in the arguments that follow.
fn in_groups(groups: &[PathBuf]) -> Command {
    let groups: Vec<_> = groups.iter().map(|dir| dir.to_string_lossy()).collect();
    let mut command = command::command("sh", ["-c", ENTER_GROUPS, "sh"]);
    command.env("LAB_GROUPS", groups.join(" "));
    command
}
