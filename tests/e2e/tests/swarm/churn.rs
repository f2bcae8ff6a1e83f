//! Containers that come and go.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use weft_e2e::{Cluster, SETTLE, leftovers, status};
use weft_lab::{BUSYBOX, DRIVER, Engine, Host, LabConfig, PLUGIN, Weft, wait_until};

const N_CONTAINERS: usize = 50;
const N_ROUNDS: usize = 20;
/// Rounds until memory is in use that stays in use.
const WARM_UP: usize = 5;
/// What CreateEndpoint and Join together are to take for ninety-nine containers of a hundred, on a host that has the machine to
/// itself.
const CALLS_P99: Duration = Duration::from_millis(20);
/// How much more memory, for each part of what was in use after the warm-up.
const DRIFT: f64 = 0.02;

/// What a daemon holds on to.
#[derive(Debug, Clone, Copy)]
struct Use {
    /// Of the process, in kilobytes.
    rss: u64,
    /// Bytes that are allocated, with what threads keep for themselves; told, as it differs by chance.
    heap_len: u64,
    n_fds: usize,
}

/// Of the plugin's process itself.
fn in_use(host: &Host) -> Result<Use> {
    let pid = host.plugin_pid(PLUGIN)?;
    let status = host.run(["cat", &format!("/proc/{pid}/status")])?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok())
        .context("a process has memory")?;
    let n_fds = host.sh(&format!("ls /proc/{pid}/fd | wc -l"))?.parse()?;
    let page = metrics(host)?;
    let heap_len = page.lines().find_map(|line| line.strip_prefix("weft_heap_bytes ")?.parse().ok());
    Ok(Use { rss, heap_len: heap_len.context("the daemon tells its heap's size")?, n_fds })
}

/// What a daemon holds on to when it has nothing to do: threads that wait for more work live for ten seconds, and their stacks
/// with them, so it is the least of a while.
fn at_rest(host: &Host) -> Result<Use> {
    let end = Instant::now() + Duration::from_secs(15);
    let mut least = in_use(host)?;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(500));
        let now = in_use(host)?;
        if now.rss < least.rss {
            least = now;
        }
    }
    Ok(least)
}

fn metrics(host: &Host) -> Result<String> {
    let curl = ["curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:6784/metrics"];
    host.run_in_network(curl)
}

/// What must be the same after all containers have gone.
fn traces(host: &Host) -> Result<String> {
    let status = status(host)?;
    let rules = host.sh(
        "nft list ruleset netdev 2>/dev/null | grep -c chain; \
         for list in iptables-nft-save iptables-legacy-save ip6tables-nft-save; do $list 2>/dev/null | grep -c wf; done; \
         ip -o link | grep -c ' wf'; true",
    )?;
    Ok(format!(
        "{rules}\nnetworks {}\nendpoints {}\n{}",
        status["networks"],
        status["endpoints"],
        leftovers(host)?
    ))
}

/// How many of the containers a host starts.
fn share(cluster: &Cluster, index: usize) -> usize {
    let n_hosts = cluster.lab.hosts().len();
    N_CONTAINERS / n_hosts + usize::from(index < N_CONTAINERS % n_hosts)
}

/// Starts the host's share of containers on the network and removes them; how long the starts took.
fn round(host: &Host, network: &str, n: usize) -> Result<Duration> {
    let since = Instant::now();
    let on = format!("--network={network}");
    // Three at a time, as one who deploys does.
    let line = format!(
        "seq {n} | xargs -P 3 -I% docker run --detach --label churn {on} --name churn% {BUSYBOX} >/dev/null"
    );
    host.sh(&line)?;
    let took = since.elapsed();
    host.sh("docker rm --force $(docker ps --all --quiet --filter label=churn) >/dev/null")?;
    Ok(took)
}

/// A round on one host after the other, so that each has the machine to itself, as hosts have.
fn round_in_turns(cluster: &Cluster, network: &str) -> Result<()> {
    let mut hosts = cluster.lab.hosts().iter().enumerate();
    hosts.try_for_each(|(index, host)| round(host, network, share(cluster, index)).map(drop))
}

/// A round on all hosts at once; the slowest host's starts.
fn round_everywhere(cluster: &Cluster, network: &str) -> Result<Duration> {
    let hosts = cluster.lab.hosts();
    let results: Vec<Result<Duration>> = std::thread::scope(|scope| {
        let workers: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(index, host)| scope.spawn(move || round(host, network, share(cluster, index))))
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker.join().unwrap_or_else(|_| bail!("a thread that started containers panicked"))
            })
            .collect()
    });
    results.into_iter().try_fold(Duration::ZERO, |most, took| Ok(most.max(took?)))
}

/// A histogram's counts by their upper bounds in seconds.
type Histogram = Vec<(f64, u64)>;

/// For how many endpoints CreateEndpoint and Join took at most as long together; all hosts'.
fn set_ups(cluster: &Cluster) -> Result<Histogram> {
    let mut sum: BTreeMap<String, u64> = BTreeMap::new();
    for host in cluster.lab.hosts() {
        let page = metrics(host)?;
        let begin = "weft_endpoint_setup_duration_seconds_bucket{le=\"";
        for line in page.lines().filter_map(|line| line.strip_prefix(begin)) {
            let (bound, n) = line.split_once("\"} ").context("a sample has a value")?;
            *sum.entry(bound.to_owned()).or_default() += n.parse::<u64>()?;
        }
    }
    let mut bounds: Histogram = sum
        .into_iter()
        .map(|(bound, n)| Ok((bound.replace("+Inf", "inf").parse()?, n)))
        .collect::<Result<_>>()?;
    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    ensure!(!bounds.is_empty(), "no histogram of endpoints");
    Ok(bounds)
}

/// Adds to `sum` what was counted between two looks.
fn add_between(sum: &mut Histogram, before: &Histogram, after: &Histogram) {
    sum.resize(after.len(), (0.0, 0));
    for ((sum, (_, before)), (bound, after)) in sum.iter_mut().zip(before).zip(after) {
        *sum = (*bound, sum.1 + after - before);
    }
}

/// The lowest bound within which this part of the calls was.
fn quantile(bounds: &[(f64, u64)], part: f64) -> f64 {
    let n = bounds.last().map_or(0, |(_, n)| *n);
    #[expect(clippy::cast_precision_loss, reason = "counts of calls are small")]
    let within = bounds.iter().find(|(_, count)| *count as f64 >= part * n as f64);
    within.map_or(f64::INFINITY, |(bound, _)| *bound)
}

/// Fifty containers on three hosts, twenty times over: nothing is left, memory does not grow, dockerd's calls are short where a
/// host has the machine to itself, and it is said how long they take beside others and how containers start beside Docker's
/// own overlay.
pub(crate) fn churn(engine: Engine, weft: &Weft) -> Result<()> {
    let cluster = Cluster::with(LabConfig::new("churn", engine, 3), weft)?;
    let (hosts, manager) = (cluster.lab.hosts(), cluster.manager());
    let driver = format!("--driver={DRIVER}");
    for (driver, name) in [(driver.as_str(), "ours"), ("--driver=overlay", "docker")] {
        manager.docker(
            ["network", "create", driver, "--attachable", "--subnet"]
                .into_iter()
                .chain([if name == "ours" { "10.210.0.0/16" } else { "10.211.0.0/16" }, name]),
        )?;
    }
    let before: Vec<String> = hosts.iter().map(traces).collect::<Result<_>>()?;
    let mut used = Vec::new();
    let (mut ours, mut docker) = (Vec::new(), Vec::new());
    let (mut at_once, mut in_turns) = (Histogram::new(), Histogram::new());
    for number in 0..N_ROUNDS {
        let before = set_ups(&cluster)?;
        let sum = if number % 2 == 1 {
            round_in_turns(&cluster, "ours")?;
            &mut in_turns
        } else {
            ours.push(round_everywhere(&cluster, "ours")?);
            &mut at_once
        };
        add_between(sum, &before, &set_ups(&cluster)?);
        // In turns, so that both see the same machine.
        if number % 4 == 0 {
            docker.push(round_everywhere(&cluster, "docker")?);
        }
        if number + 1 == WARM_UP || number + 1 == N_ROUNDS {
            used.push(hosts.iter().map(at_rest).collect::<Result<Vec<_>>>()?);
        }
        println!("round {number}: starts on all hosts at once took {:.1?}", ours.last());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (ours, docker) = (median(&mut ours), median(&mut docker));
    println!(
        "start of {N_CONTAINERS} containers on three hosts: {ours:.2?}, on Docker's overlay {docker:.2?}, ratio {:.2}",
        ours.as_secs_f64() / docker.as_secs_f64()
    );

    for (when, bounds) in [("all hosts at once", &at_once), ("hosts in turns", &in_turns)] {
        println!(
            "CreateEndpoint and Join, {when}: {} endpoints, half within {} s, 99 % within {} s: {bounds:?}",
            bounds.last().map_or(0, |(_, n)| *n),
            quantile(bounds, 0.5),
            quantile(bounds, 0.99),
        );
    }

    let [warm, last] = &used[..] else { bail!("memory was looked at twice") };
    for ((host, warm), last) in hosts.iter().zip(warm).zip(last) {
        #[expect(clippy::cast_precision_loss, reason = "kilobytes of a process")]
        let drift = |last: u64, warm: u64| last as f64 / warm as f64 - 1.0;
        let (rss, heap) = (drift(last.rss, warm.rss), drift(last.heap_len, warm.heap_len));
        println!(
            "{}: {warm:?} after {WARM_UP} rounds, {last:?} after all, memory {:+.2} %, heap {:+.2} %",
            host.name(),
            rss * 100.0,
            heap * 100.0
        );
        ensure!(rss < DRIFT, "{}: memory grew by {:.1} %", host.name(), rss * 100.0);
        wait_until("open files to be as many as before", SETTLE, || {
            let now = in_use(host)?.n_fds;
            ensure!(now <= warm.n_fds, "{}: {now} open files, {} before", host.name(), warm.n_fds);
            Ok(true)
        })?;
    }
    for (host, before) in hosts.iter().zip(&before) {
        // Docker deletes the network with its last container; what it keeps is collected.
        wait_until("nothing to be left", Duration::from_secs(90), || {
            let after = traces(host)?;
            ensure!(after == *before, "{}: before\n{before}\nafter\n{after}", host.name());
            Ok(true)
        })?;
    }
    // Of all hosts at once it is told only: there nine starts at a time share the machine's processors.
    let within = quantile(&in_turns, 0.99);
    ensure!(
        within <= CALLS_P99.as_secs_f64(),
        "CreateEndpoint and Join take more than {CALLS_P99:?} too often: 99 % are within {within} s"
    );
    Ok(())
}
