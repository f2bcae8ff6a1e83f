//! What the wire between the hosts carries, as one who taps it sees it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{command, host::Background, wait};

/// A running capture. Ended when dropped.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Background,
    file: PathBuf,
}

impl Capture {
    /// Captures on `interface` with `command` as tcpdump's surroundings, from the moment this returns.
    pub(crate) fn start(
        mut enter: std::process::Command,
        interface: &str,
        filter: &str,
        file: &Path,
    ) -> Result<Self> {
        // Each frame written as it comes, no names, whole frames; root keeps its rights, or it could not write here.
        enter
            .args(["tcpdump", "--immediate-mode", "-U", "-n", "-s0", "-Z", "root", "-i", interface, "-w"])
            .arg(file)
            .arg(filter);
        let tcpdump = Background::start(&mut enter, &file.with_extension("log"))?;
        wait::wait_until("tcpdump to listen", Duration::from_secs(10), || {
            Ok(tcpdump.text()?.contains("listening on"))
        })
        .with_context(|| tcpdump.text().unwrap_or_default())?;
        Ok(Self { tcpdump, file: file.to_owned() })
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// When tcpdump does not end.
    pub fn stop(self) -> Result<Captured> {
        self.tcpdump.signal("INT")?;
        Ok(Captured { bytes: fs::read(&self.file)?, file: self.file })
    }
}

/// What a capture holds.
#[derive(Debug)]
pub struct Captured {
    bytes: Vec<u8>,
    file: PathBuf,
}

impl Captured {
    /// The pcap file, until the lab ends.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The pcap file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `text` stands anywhere in the captured frames.
    #[must_use]
    pub fn contains(&self, text: &[u8]) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text)
    }

    /// tcpdump's lines for the frames that match `filter`; `options` as `-x`, `-A`, `-e`.
    ///
    /// # Errors
    /// When the filter is wrong.
    pub fn lines(&self, options: &[&str], filter: &str) -> Result<Vec<String>> {
        let mut tcpdump = command::command("tcpdump", ["-n", "-tt", "-r"]);
        tcpdump.arg(&self.file).args(options).arg(filter);
        Ok(command::check(&mut tcpdump)?.lines().map(str::to_owned).collect())
    }

    /// How many captured frames match `filter`.
    ///
    /// # Errors
    /// When the filter is wrong.
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.lines(&[], filter)?.len())
    }
}
