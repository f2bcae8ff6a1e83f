//! A host's Docker daemon: started, stopped, killed and started again in place.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{command, host::Host, wait};

/// How long dockerd may take until it answers. With plugins that do not answer it takes most of this.
const START_LIMIT: Duration = Duration::from_secs(60);

/// dockerd gives its containers and plugins ten seconds each to end.
const STOP_LIMIT: Duration = Duration::from_secs(60);

impl Host {
    /// Starts dockerd and waits until it answers. Its log is appended to.
    ///
    /// # Errors
    /// When it does not answer in time: the error holds the end of its log.
    pub fn start_dockerd(&self) -> Result<()> {
        let log = self.log_path("dockerd")?;
        let inside_log = format!("/lab/{}/dockerd.log", self.name);
        // In a session of its own and its starter gone: then it is the host's process 1 that it belongs to.
        let line = format!(
            "setsid dockerd \"$@\" </dev/null >>{inside_log} 2>&1 & echo $! > /lab/{}/dockerd.pid",
            self.name
        );
        let sockets =
            ["unix:///run/docker.sock".to_owned(), format!("unix:///lab/{}/docker.sock", self.name)];
        let mut start = self.holder.enter_as_service(["sh", "-c", &line, "dockerd"]);
        start.args(sockets.iter().flat_map(|socket| ["--host", socket])).args(&self.dockerd_args);
        command::check(&mut start)?;
        wait::wait_until("dockerd's answer", START_LIMIT, || Ok(is_answering(&self.docker_socket())))
            .with_context(|| format!("{}: {}", self.name, tail(&log)))
    }

    /// Stops dockerd as a service manager does, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_dockerd(&self) -> Result<()> {
        self.end_dockerd("TERM")
    }

    /// Kills dockerd; containers and plugins keep running without it.
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill_dockerd(&self) -> Result<()> {
        self.end_dockerd("KILL")
    }

    fn end_dockerd(&self, signal: &str) -> Result<()> {
        let pid = fs::read_to_string(self.share.join(&self.name).join("dockerd.pid"))?;
        let pid = pid.trim();
        let is_running = || -> Result<bool> {
            // Its name as well: the number may be another's by now, and a zombie has no name there.
            let comm = self.output(["cat", &format!("/proc/{pid}/cmdline")])?;
            Ok(comm.stdout.starts_with("dockerd"))
        };
        ensure!(is_running()?, "{}: dockerd is not running", self.name);
        self.run(["kill", &format!("-{signal}"), pid])?;
        wait::wait_until("end of dockerd", STOP_LIMIT, || Ok(!is_running()?))
            .with_context(|| self.name.clone())
    }
}

/// Whether dockerd answers at `socket` that it is well.
fn is_answering(socket: &Path) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut status = [0_u8; 12];
        stream.read_exact(&mut status)?;
        Ok(status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// The last lines of a log, for a message.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(6).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
