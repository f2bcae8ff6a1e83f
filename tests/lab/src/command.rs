//! Running programs: the output is kept, a failure says everything, and nothing runs for ever.

use std::{
    ffi::OsStr,
    fmt,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// What a program that ended left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
}

impl Output {
    /// Whether the program exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Both streams, for a message or a search.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(124) => write!(f, "no answer within its time")?,
            Some(code) => write!(f, "exit code {code}")?,
            None => write!(f, "ended by a signal")?,
        }
        for text in [self.stdout.trim(), self.stderr.trim()] {
            if !text.is_empty() {
                write!(f, "\n  {}", text.replace('\n', "\n  "))?;
            }
        }
        Ok(())
    }
}

/// Runs `command` to its end with no standard input, whatever its exit code.
///
/// # Errors
/// Only when the program could not be started.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(Output {
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
    })
}

/// Runs `command` and returns its standard output without the trailing white space.
///
/// # Errors
/// When it could not be started or did not exit with 0; the error holds the command and both streams.
pub(crate) fn check(command: &mut Command) -> Result<String> {
    let done = output(command)?;
    if !done.success() {
        bail!("{}: {done}", display(command));
    }
    Ok(done.stdout.trim_end().to_owned())
}

/// The program and its arguments as one would type them.
pub(crate) fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A command for `program` with `args`.
pub(crate) fn command<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// The words that put a limit of `time` on the program that follows them.
pub(crate) fn time_limit(time: Duration) -> [String; 3] {
    ["timeout".into(), "--kill-after=2".into(), format!("{:.1}", time.as_secs_f64())]
}
