//! Where a container's traffic begins and ends: its network, entered with this machine's programs.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use weft_e2e::{NetworkGuard, SETTLE};
use weft_lab::{Background, Host, wait_until};

/// A container's network on a host: Docker's, or one that was attached by hand.
pub(crate) struct Place<'a> {
    pub(crate) host: &'a Host,
    /// The namespace's path as this machine sees it.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) ip: String,
}

impl<'a> Place<'a> {
    /// A new container of Docker's on the network.
    pub(crate) fn docker(network: &NetworkGuard<'_>, host: &'a Host, options: &[&str]) -> Result<Self> {
        let name = network.run(host, options)?;
        let pid = host.docker(["inspect", "--format", "{{.State.Pid}}", &name])?;
        let addresses = host.exec(&name, "hostname -i")?;
        let ip = addresses.split_whitespace().next().context("a container has an address")?.to_owned();
        let mac = host.exec(&name, "cat /sys/class/net/eth0/address")?;
        let namespace = format!("/proc/{}/root/proc/{pid}/ns/net", host.pid());
        Ok(Self { host, namespace, name, mac, ip })
    }

    /// `MAC/IPV4`, as the adversary takes it.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}/{}", self.mac, self.ip)
    }

    fn line<'s>(&self, target: &'s str, args: &[&'s str]) -> Vec<&'s str> {
        [&["nsenter", target], args].concat()
    }

    /// Runs a program in it.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        let target = format!("--net={}", self.namespace);
        self.host.run_in_network(self.line(&target, args))
    }

    /// Starts a program in it.
    pub(crate) fn spawn(&self, log: &str, args: &[&str]) -> Result<Background> {
        let target = format!("--net={}", self.namespace);
        self.host.spawn_in_network(&format!("{log}-{}", self.name), self.line(&target, args))
    }

    /// UDP datagrams that were delivered and for which the program's socket had no room, since the namespace was made.
    pub(crate) fn n_unread(&self) -> Result<u64> {
        let snmp = self.run(&["cat", "/proc/self/net/snmp"])?;
        let mut lines = snmp.lines().filter(|line| line.starts_with("Udp:")).map(|line| line.split(' '));
        let (names, values) = lines.next().zip(lines.next()).with_context(|| snmp.clone())?;
        let value = names.zip(values).find(|(name, _)| *name == "RcvbufErrors");
        Ok(value.with_context(|| snmp.clone())?.1.parse()?)
    }

    /// Whether an echo comes back from `ip` within a second.
    pub(crate) fn reaches(&self, ip: &str) -> bool {
        self.run(&["ping", "-c1", "-W1", ip]).is_ok()
    }

    /// Waits until an echo comes back from `other`.
    pub(crate) fn wait_for(&self, other: &Self) -> Result<()> {
        wait_until(&format!("an echo of {} to {}", other.name, self.name), SETTLE, || {
            Ok(self.reaches(&other.ip))
        })
    }

    /// Sends an echo request to `other` every `interval` until told to stop.
    pub(crate) fn ping(&self, other: &Self, interval: Duration) -> Result<Pings> {
        let seconds = interval.as_secs_f64().to_string();
        // -O names those that are missing; -n asks no resolver.
        let running =
            self.spawn(&format!("ping-{}", other.name), &["ping", "-n", "-i", &seconds, "-W2", &other.ip])?;
        wait_until("the first echo", Duration::from_secs(5), || Ok(running.text()?.contains("icmp_seq=2 ")))?;
        Ok(Pings(running))
    }
}

/// Echo requests under way.
pub(crate) struct Pings(Background);

/// What became of echo requests.
#[derive(Debug)]
pub(crate) struct Echoes {
    pub(crate) n_sent: u64,
    pub(crate) n_received: u64,
    /// Most that were missing one after the other.
    pub(crate) longest_gap: u64,
}

impl Echoes {
    pub(crate) fn n_lost(&self) -> u64 {
        self.n_sent - self.n_received
    }
}

impl Pings {
    /// Stops them.
    pub(crate) fn stop(self) -> Result<Echoes> {
        let text = self.0.signal("INT")?;
        let summary =
            text.lines().find(|line| line.contains(" packets transmitted")).with_context(|| text.clone())?;
        let numbers: Vec<u64> = summary.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
        let [n_sent, n_received, ..] = numbers[..] else { bail!("ping says {summary}") };
        let mut seen: Vec<u64> = text
            .lines()
            .filter_map(|line| line.split_once("icmp_seq=")?.1.split_whitespace().next()?.parse().ok())
            .collect();
        seen.sort_unstable();
        seen.dedup();
        let longest_gap = seen.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0);
        // The last request may still be under way.
        let last_is_open = seen.last().is_some_and(|last| *last < n_sent) && n_sent == n_received + 1;
        Ok(Echoes { n_sent: n_sent - u64::from(last_is_open), n_received, longest_gap })
    }
}

/// A flow of a fixed rate between two containers, far below what the path carries.
pub(crate) struct Flow {
    client: Background,
    _server: Background,
}

impl Flow {
    pub(crate) fn start(
        from: &Place<'_>,
        to: &Place<'_>,
        lasting: Duration,
        options: &[&str],
    ) -> Result<Self> {
        let server = to.spawn("iperf-server", &["iperf3", "--server", "--one-off", "--forceflush"])?;
        wait_until("iperf3", Duration::from_secs(5), || Ok(server.text()?.contains("listening on")))?;
        let seconds = lasting.as_secs().to_string();
        let common = ["iperf3", "--client", &to.ip, "--time", &seconds, "--json"];
        let client = from.spawn("iperf-client", &[&common[..], options].concat())?;
        Ok(Self { client, _server: server })
    }

    /// Waits for its end; the report of iperf3.
    pub(crate) fn finish(self) -> Result<Value> {
        let text = self.client.wait(Duration::from_secs(120))?;
        let start = text.find('{').with_context(|| text.clone())?;
        let report: Value = serde_json::from_str(&text[start..])?;
        ensure!(report["error"].is_null(), "iperf3: {}", report["error"]);
        Ok(report["end"].clone())
    }
}
