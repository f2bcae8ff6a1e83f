//! Running programs in namespaces.

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Runs a line of words; blanks separate them, there is no quoting.
pub(super) fn run(line: &str) -> Result<String> {
    output(words(line)?, line)
}

/// Runs a line in a network namespace.
pub(super) fn run_in(namespace: &str, line: &str) -> Result<String> {
    run(&format!("ip netns exec {namespace} {line}"))
}

/// Gives a program its standard input.
pub(super) fn feed(line: &str, input: &str) -> Result<()> {
    use io::Write as _;
    let mut child =
        words(line)?.stdin(Stdio::piped()).spawn().with_context(|| format!("cannot start {line}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

fn words(line: &str) -> Result<Command> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().context("an empty line")?);
    command.args(words);
    Ok(command)
}

fn output(mut command: Command, line: &str) -> Result<String> {
    let done = command.output().with_context(|| format!("cannot start {line}"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        bail!("{line}: {}: {text}{}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    Ok(text)
}

/// A program that runs until this is dropped.
pub(super) struct Background {
    child: Child,
}

impl Background {
    /// Starts `script` by a shell in a namespace of the network and of mounts, with `/run` of its own.
    pub(super) fn start(namespace: &str, script: &str) -> Result<Self> {
        let script = format!("mount -t tmpfs none /run && {script}");
        // The shell execs its last command, so that the pid is the program's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nsenter", &format!("--net=/run/netns/{namespace}")])
            .args(["unshare", "--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {script}"))?;
        Ok(Self { child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the program has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the program ended: {status}"),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until there is an answer.
pub(super) fn await_ok<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what}: not in {limit:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
