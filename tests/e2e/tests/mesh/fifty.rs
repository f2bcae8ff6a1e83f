//! What a daemon costs, and how soon it hears, in a mesh of fifty.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::daemon_status;
use weft_lab::{Engine, Host, Lab, LabConfig, Weft, wait_until};

use crate::daemons::{ensure_connected, put_on_network, start_all};

const N_HOSTS: usize = 50;
/// Each host is on one, so that five hosts are on each.
const N_NETWORKS: usize = 10;
/// How long all may take to know all. The machine is the bound: fifty programs start on it at once.
const JOIN_LIMIT: Duration = Duration::from_secs(60);
/// Until what joining left to do is done.
const SETTLE: Duration = Duration::from_secs(30);
/// How long is measured.
const MEASURE: Duration = Duration::from_secs(40);
/// Of a core, when nothing is to be done: far above what is measured, as other work on the machine makes all of it dearer.
const MAX_IDLE_SHARE: f64 = 0.01;
const MAX_RSS_KIB: u64 = 20 * 1024;
/// A death is seen by all.
const DEATH_LIMIT: Duration = Duration::from_secs(6);

/// What a daemon is made of, for this machine's kernel.
struct Process {
    pid: u32,
}

impl Process {
    /// The host's daemon: the `weft` in its network.
    fn of(host: &Host) -> Result<Self> {
        let network = fs::read_link(format!("/proc/{}/ns/net", host.pid()))?;
        let is_daemon = |dir: &PathBuf| {
            fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.trim() == "weft")
                && fs::read_link(dir.join("ns/net")).is_ok_and(|of| of == network)
        };
        let found = fs::read_dir("/proc")?.flatten().map(|entry| entry.path()).find(is_daemon);
        let pid = found.as_ref().and_then(|dir| dir.file_name()?.to_str()?.parse().ok());
        Ok(Self { pid: pid.with_context(|| format!("{} has no daemon", host.name()))? })
    }

    /// Processor time of its threads that live, and of the programs that it ran.
    fn cpu(&self) -> Result<Duration> {
        let mut ns = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))?.flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            ns += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let fields = stat.rsplit_once(')').context("stat names the program")?.1;
        // cutime and cstime, in hundredths of a second.
        let children: u64 =
            fields.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_nanos(ns) + Duration::from_millis(children * 10))
    }

    fn rss_kib(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it has memory")?;
        line.split_whitespace().next().context("VmRSS has a value")?.parse().context("VmRSS")
    }
}

/// The least, the middle and the greatest.
fn spread<T: PartialOrd + Copy>(values: &[T]) -> [T; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    [sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]]
}

fn counters(hosts: &[&Host], name: &str) -> Result<Vec<u64>> {
    hosts
        .iter()
        .map(|host| {
            daemon_status(host)?["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
        })
        .collect()
}

/// Tells each host the Ethernet addresses of all others. The kernel has one table of neighbors for all namespaces, which
/// holds a thousand; hosts on machines of their own have one each. What is permanent does not count.
fn introduce(hosts: &[&Host]) -> Result<()> {
    let mut lines = String::new();
    for host in hosts {
        let mac = host.run(["cat", "/sys/class/net/eth0/address"])?;
        lines += &format!("neigh replace {} lladdr {mac} nud permanent dev eth0\n", host.ipv4());
    }
    let (outside, inside) = hosts[0].shared_dir("neighbors")?;
    fs::write(outside.join("batch"), lines)?;
    let batch = inside.join("batch");
    hosts.iter().try_for_each(|host| {
        // Its own address is no neighbor's, which is no harm.
        host.run(["ip", "-force", "-batch", &batch.to_string_lossy()]).map(drop)
    })
}

pub(crate) fn fifty_daemons(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("fifty", engine, N_HOSTS);
    config.docker = false;
    let lab = Lab::start(config)?;
    let hosts: Vec<&Host> = lab.hosts().iter().collect();

    introduce(&hosts)?;
    let daemons = start_all(&lab, weft, 2)?;
    let started = Instant::now();
    for host in &hosts {
        wait_until("all peers", JOIN_LIMIT, || ensure_connected(host, N_HOSTS - 1).map(|()| true))?;
    }
    println!(
        "{N_HOSTS} daemons know each other {:.1} s after the last was started",
        started.elapsed().as_secs_f64()
    );

    for (i, host) in hosts.iter().enumerate() {
        put_on_network(host, 1 + i % N_NETWORKS)?;
    }
    for host in &hosts {
        wait_until("the network's other endpoints", SETTLE, || {
            let status = daemon_status(host)?;
            let n = status["endpoints"].as_array().map_or(0, Vec::len);
            ensure!(n == N_HOSTS / N_NETWORKS, "{} knows {n} endpoints", host.name());
            Ok(true)
        })?;
    }
    // A span of time is what is to be measured, not a condition.
    thread::sleep(SETTLE);
    let processes: Vec<Process> = hosts.iter().map(|host| Process::of(host)).collect::<Result<_>>()?;
    let cpu = || processes.iter().map(Process::cpu).collect::<Result<Vec<_>>>();
    let (began, before) = (Instant::now(), cpu()?);
    thread::sleep(MEASURE);
    let (took, after) = (began.elapsed(), cpu()?);
    let shares: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after.saturating_sub(*before).as_secs_f64() / took.as_secs_f64())
        .collect();
    let [least, middle, most] = spread(&shares).map(|share| share * 100.0);
    println!(
        "idle, over {:.0} s: {least:.2}, {middle:.2}, {most:.2} % of a core (least, median, most)",
        took.as_secs_f64()
    );
    let memory: Vec<u64> = processes.iter().map(Process::rss_kib).collect::<Result<_>>()?;
    let [least, middle, most_memory] = spread(&memory);
    println!("resident: {least}, {middle}, {most_memory} KiB");
    let [least, median, most_sessions] = spread(&counters(&hosts, "sessions")?);
    println!("sessions: {least}, {median}, {most_sessions}");
    let n_false: u64 = counters(&hosts, "peers_down")?.iter().sum();
    ensure!(n_false == 0, "{n_false} times a living daemon was called down");

    let (victim, others) = hosts.split_last().context("there are hosts")?;
    let kill = Process::of(victim)?.pid.to_string();
    let killed = Instant::now();
    let done = std::process::Command::new("kill").args(["-KILL", &kill]).status()?;
    ensure!(done.success(), "the daemon was not killed");
    let mut seen = Vec::new();
    let mut waiting: Vec<&Host> = others.to_vec();
    while !waiting.is_empty() && killed.elapsed() < DEATH_LIMIT * 2 {
        let mut left = Vec::new();
        for host in waiting {
            // Before it is down it may be one that does not answer.
            if counters(&[host], "peers_down")? == [0] {
                left.push(host);
            } else {
                seen.push(killed.elapsed());
            }
        }
        waiting = left;
    }
    ensure!(waiting.is_empty(), "{} hosts do not see the death after {:?}", waiting.len(), DEATH_LIMIT * 2);
    let [first, middle, last] = spread(&seen);
    println!("a killed daemon is down after {first:.1?}, {middle:.1?}, {last:.1?}");
    let n_down: u64 = counters(others, "peers_down")?.iter().sum();
    drop(daemons);

    ensure!(n_down == others.len() as u64, "{n_down} downs for one death seen by {}", others.len());
    ensure!(last <= DEATH_LIMIT, "the death was seen by all after {last:?}");
    ensure!(most / 100.0 <= MAX_IDLE_SHARE, "an idle daemon takes {most:.2} % of a core");
    ensure!(most_memory <= MAX_RSS_KIB, "a daemon has {most_memory} KiB");
    Ok(())
}
