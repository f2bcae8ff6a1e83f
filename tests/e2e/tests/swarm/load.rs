//! A client that asks a service again and again, and notes what came of it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_lab::{Background, Host, wait_until};

/// One request.
#[derive(Debug)]
pub(crate) struct Request {
    /// When it ended, in seconds since the machine started.
    pub(crate) at: f64,
    /// Who answered; `None`: nobody did.
    pub(crate) answer: Option<String>,
}

/// The client. It goes on until it is stopped.
pub(crate) struct Load<'a> {
    host: &'a Host,
    container: String,
    client: Background,
    stop_file: String,
}

impl<'a> Load<'a> {
    /// Starts asking `to` from the container, and waits for the first answer.
    pub(crate) fn start(host: &'a Host, container: &str, to: &str, log: &str) -> Result<Self> {
        let stop_file = format!("/tmp/stop-{log}");
        let line = format!(
            "while [ ! -e {stop_file} ]; do \
                if answer=$(timeout 3 wget -qO- http://{to}/ 2>/dev/null); then state=ok; else state=failed; fi; \
                read -r up rest < /proc/uptime; echo \"$up $state $answer\"; sleep 0.02; \
            done"
        );
        let client = host.spawn(log, ["docker", "exec", container, "sh", "-c", &line])?;
        let load = Self { host, container: container.to_owned(), client, stop_file };
        wait_until("a first answer", Duration::from_secs(20), || {
            Ok(load.requests()?.iter().any(|request| request.answer.is_some()))
        })?;
        Ok(load)
    }

    /// What has been asked so far.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        Ok(parse(&self.client.text()?))
    }

    /// Stops, and returns everything that was asked.
    pub(crate) fn stop(self) -> Result<Vec<Request>> {
        self.host.exec(&self.container, &format!("touch {}", self.stop_file))?;
        let text = self.client.wait(Duration::from_secs(20))?;
        Ok(parse(&text))
    }
}

fn parse(text: &str) -> Vec<Request> {
    let request = |line: &str| {
        let mut words = line.split_whitespace();
        let at = words.next()?.parse().ok()?;
        let is_ok = words.next()? == "ok";
        Some(Request { at, answer: is_ok.then(|| words.next().unwrap_or_default().to_owned()) })
    };
    text.lines().filter_map(request).collect()
}

/// Seconds since the machine started, as the client counts them.
pub(crate) fn uptime() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    text.split_whitespace().next().context("/proc/uptime has numbers")?.parse().context("a number")
}

/// How many requests that ended after `since` failed, and how long after it the last of them ended.
pub(crate) fn failures(requests: &[Request], since: f64) -> (usize, f64) {
    let failed: Vec<f64> =
        requests.iter().filter(|r| r.answer.is_none() && r.at >= since).map(|r| r.at - since).collect();
    (failed.len(), failed.iter().copied().fold(0.0, f64::max))
}
