//! What is measured of a configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Child;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::ground::Ground;
use super::overlay::Up;
use super::shell;

const START_LIMIT: Duration = Duration::from_secs(5);
/// Kernel's clock ticks a second in `/proc`.
const TICKS: f64 = 100.0;

/// Names of all figures, in the order in which they are shown, with their digits after the point.
pub(super) const NAMES: [(&str, usize); 16] = [
    ("overlay_mtu", 0),
    ("tcp1_gbps", 2),
    ("tcp1_reverse_gbps", 2),
    ("tcp4_gbps", 2),
    ("tcp4_reverse_gbps", 2),
    ("udp64_kpps", 0),
    ("udp64_delivered_kpps", 0),
    ("udp1400_kpps", 0),
    ("udp1400_delivered_kpps", 0),
    ("rtt_us_p50", 0),
    ("rtt_us_p99", 0),
    ("rtt_loaded_us_p50", 0),
    ("rtt_loaded_us_p99", 0),
    ("overlay_cpu_s_per_gb", 2),
    ("machine_cpu_s_per_gb", 2),
    ("rss_mib", 0),
];

/// Figures by name; one that was not measured is absent.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures(BTreeMap<&'static str, f64>);

impl Figures {
    pub(super) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    pub(super) fn median(rounds: &[Self]) -> Self {
        let mut medians = BTreeMap::new();
        for (name, _) in NAMES {
            let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.get(name)).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            let median = match (values.len() % 2, values.get(middle)) {
                (_, None) => continue,
                (1, Some(value)) => *value,
                (_, Some(value)) => (value + values[middle - 1]) / 2.0,
            };
            medians.insert(name, median);
        }
        Self(medians)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, digits) in NAMES {
            if let Some(value) = self.get(name) {
                write!(f, "{name} {value:.digits$}  ")?;
            }
        }
        Ok(())
    }
}

/// Measures everything, one after the other.
pub(super) fn all(ground: &Ground, up: &Up, seconds: u32, tcp_only: bool) -> Result<Figures> {
    let mut figures = BTreeMap::from([("overlay_mtu", f64::from(up.overlay_mtu))]);
    let busy = || -> Result<(f64, f64)> { Ok((overlay_cpu(up)?, machine_cpu()?)) };
    let tcp = |seconds: u32, options: &str| {
        tcp(up, seconds, &format!("-C {} {options}", ground.underlay.congestion_control))
    };
    let before = busy()?;
    let (tcp1, sent) = tcp(seconds, "")?;
    let after = busy()?;
    figures.insert("tcp1_gbps", tcp1);
    let gigabytes = sent / 1e9;
    if !up.processes.is_empty() {
        figures.insert("overlay_cpu_s_per_gb", (after.0 - before.0) / gigabytes);
    }
    figures.insert("machine_cpu_s_per_gb", (after.1 - before.1) / gigabytes);
    figures.insert("tcp1_reverse_gbps", tcp(seconds, "-R")?.0);
    figures.insert("tcp4_gbps", tcp(seconds, "-P 4")?.0);
    figures.insert("tcp4_reverse_gbps", tcp(seconds, "-P 4 -R")?.0);
    if !tcp_only {
        for (len, read, came) in
            [(64, "udp64_kpps", "udp64_delivered_kpps"), (1380, "udp1400_kpps", "udp1400_delivered_kpps")]
        {
            let (received, delivered) = udp(up, seconds, len)?;
            figures.extend([(read, received), (came, delivered)]);
        }
        let (p50, p99) = rtt(up, seconds)?;
        figures.insert("rtt_us_p50", p50);
        figures.insert("rtt_us_p99", p99);
        let load = std::thread::scope(|scope| -> Result<(f64, f64)> {
            let load = scope.spawn(|| tcp(seconds + 1, ""));
            let measured = rtt(up, seconds);
            load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
            measured
        })?;
        figures.insert("rtt_loaded_us_p50", load.0);
        figures.insert("rtt_loaded_us_p99", load.1);
    }
    if !up.processes.is_empty() {
        figures.insert("rss_mib", rss(up)?);
    }
    Ok(Figures(figures))
}

/// A server that serves one client.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It ends by itself after its client.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn iperf(up: &Up, seconds: u32, options: &str) -> Result<Value> {
    // Each has a port of its own: what is still under way of an earlier flood would be taken for this one's greeting.
    static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
    let port = 5300 + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 20_000;
    let server = std::process::Command::new("ip")
        .args(["netns", "exec", &up.server, "iperf3", "-s", "-1", "-p", &port.to_string()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .context("cannot start iperf3")?;
    let _server = Server(server);
    let line = format!("iperf3 -c {} -p {port} -J -t {seconds} {options}", up.address);
    // The server needs a moment to listen; a client that is refused says so at once.
    shell::await_ok("iperf3", START_LIMIT, || {
        let text = match shell::run_in(&up.client, &line) {
            Ok(text) => text,
            Err(error) => bail!("{error}"),
        };
        let answer: Value = serde_json::from_str(&text)?;
        match answer.get("error") {
            Some(error) => bail!("iperf3: {error}"),
            None => Ok(answer),
        }
    })
}

/// Gigabits a second received, and bytes received.
fn tcp(up: &Up, seconds: u32, options: &str) -> Result<(f64, f64)> {
    let answer = iperf(up, seconds, options)?;
    let received = &answer["end"]["sum_received"];
    let number = |name: &str| received[name].as_f64().with_context(|| format!("iperf3 says no {name}"));
    Ok((number("bits_per_second")? / 1e9, number("bytes")?))
}

/// Thousands of datagrams a second that the server's program received, and that came to its socket: what the overlay
/// carried, though the program had no time to read it.
fn udp(up: &Up, seconds: u32, len: u32) -> Result<(f64, f64)> {
    let before = udp_delivered(up)?;
    let answer = iperf(up, seconds, &format!("-u -b 0 -l {len}"))?;
    let delivered = udp_delivered(up)? - before;
    let sum = &answer["end"]["sum"];
    let number = |name: &str| sum[name].as_f64().with_context(|| format!("iperf3 says no {name}"));
    let rate = |n: f64| -> Result<f64> { Ok(n / number("seconds")? / 1e3) };
    Ok((rate(number("packets")? - number("lost_packets")?)?, rate(delivered)?))
}

/// Datagrams that came to sockets of the server's namespace, read or dropped because the socket was full.
fn udp_delivered(up: &Up) -> Result<f64> {
    let text = shell::run_in(&up.server, "cat /proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = lines.next().zip(lines.next()).context("the kernel counts UDP")?;
    let counter = |name: &str| {
        let (_, value) = names.split_whitespace().zip(values.split_whitespace()).find(|(n, _)| *n == name)?;
        value.parse::<f64>().ok()
    };
    let (read, dropped) =
        counter("InDatagrams").zip(counter("RcvbufErrors")).context("the kernel counts datagrams")?;
    Ok(read + dropped)
}

/// Median and 99th percentile of the round-trip time, in microseconds.
fn rtt(up: &Up, seconds: u32) -> Result<(f64, f64)> {
    // Back to back: with pauses between, it is the processor's sleep that is measured.
    // And without a count: a slow link, or a lost packet, would make it a failure.
    let text = shell::run_in(&up.client, &format!("ping -n -A -w {seconds} {}", up.address))?;
    let mut times: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse::<f64>().ok())
        .map(|milliseconds| milliseconds * 1e3)
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (times.len().saturating_sub(1)) as f64 * share;
        times.get(place.round() as usize).copied()
    };
    at(0.5).zip(at(0.99)).context("no ping was answered")
}

/// Seconds of processor time that the overlay's processes have used.
fn overlay_cpu(up: &Up) -> Result<f64> {
    let mut ticks = 0.0;
    for process in &up.processes {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()))?;
        let (_, fields) = stat.rsplit_once(')').context("a process has a state")?;
        let used = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        ticks += used.sum::<f64>();
    }
    Ok(ticks / TICKS)
}

/// Seconds of processor time that the machine has used.
fn machine_cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat has a line")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|i| fields.get(*i)).sum::<f64>();
    Ok(busy / TICKS)
}

/// Resident memory of the overlay's processes together, in MiB.
fn rss(up: &Up) -> Result<f64> {
    let mut kib = 0.0;
    for process in &up.processes {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has a size")?;
        kib += line.trim().trim_end_matches("kB").trim().parse::<f64>()?;
    }
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_each_figure_by_itself() {
        let round = |tcp, rtt: Option<f64>| {
            Figures([("tcp1_gbps", tcp)].into_iter().chain(rtt.map(|r| ("rtt_us_p50", r))).collect())
        };
        let median = Figures::median(&[round(3.0, Some(10.0)), round(1.0, None), round(2.0, Some(20.0))]);
        assert_eq!((median.get("tcp1_gbps"), median.get("rtt_us_p50")), (Some(2.0), Some(15.0)));
        assert_eq!(median.get("udp64_kpps"), None);
    }
}
