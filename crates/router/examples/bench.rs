//! Measures the data path between two namespaces of this machine against kernel VXLAN, interleaved. Needs root, iperf3.
//!
//! `cargo run --release -p weft-router --example bench -- [--runs N] [--secs N] [--workers N] [--chacha]
//! [--only tcp1,tcp4,tcp1r,udp64,udp1400,rtt] [--no-vxlan] [--whole-trains] [--hold]`
//!
//! `v` is VXLAN, `w` the routers. `--whole-trains` limits the containers' super-frames to what one train carries; `--hold`
//! prints the name of a container's namespace and waits, to try things by hand.

#[path = "../tests/bed/bed.rs"]
mod bed;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bed::{Bed, Plan, inner_v4};
use serde_json::Value;
use weft_noise::Suite;

struct Args {
    runs: usize,
    secs: u32,
    plan: Plan,
    only: Option<String>,
    vxlan: bool,
    hold: bool,
    whole_trains: bool,
}

fn args() -> Result<Args> {
    let mut args = Args {
        runs: 3,
        secs: 3,
        plan: Plan::default(),
        only: None,
        vxlan: true,
        hold: false,
        whole_trains: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--runs" => args.runs = value()?.parse()?,
            "--secs" => args.secs = value()?.parse()?,
            "--workers" => args.plan.n_workers = value()?.parse()?,
            "--chacha" => args.plan.suite = Suite::ChaCha20Poly1305,
            "--only" => args.only = Some(value()?),
            "--no-vxlan" => args.vxlan = false,
            "--hold" => args.hold = true,
            "--whole-trains" => args.whole_trains = true,
            other => anyhow::bail!("unknown argument {other}"),
        }
    }
    Ok(args)
}

/// CPU time of this process (both routers).
fn cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn iperf(bed: &Bed, x: &str, options: &str) -> Result<Value> {
    let mut server = bed.spawn("c1", "iperf3 -s -1 -p 5300")?;
    let line = format!("iperf3 -c {} -p 5300 -J {options}", inner_v4(1, x));
    let deadline = Instant::now() + Duration::from_secs(5);
    let json = loop {
        // With -J a failed client prints its error, and may still exit with 0.
        let failed = match bed.exec("c0", &line) {
            Ok(text) => match serde_json::from_str::<Value>(&text)? {
                json if json.get("error").is_none() => break json,
                json => anyhow::anyhow!("{}", json["error"]),
            },
            Err(error) => error,
        };
        if Instant::now() > deadline {
            server.kill()?;
            server.wait()?;
            return Err(failed);
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    server.wait()?;
    Ok(json)
}

type Figures = BTreeMap<String, Vec<f64>>;

fn measure(bed: &Bed, x: &str, args: &Args, figures: &mut Figures) -> Result<()> {
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| only.split(',').any(|o| o == name));
    let mut put = |name: &str, value: f64| figures.entry(format!("{x} {name}")).or_default().push(value);
    let secs = args.secs;
    for (name, options) in [("tcp1", ""), ("tcp4", "-P 4"), ("tcp1r", "-R")] {
        if !wanted(name) {
            continue;
        }
        let before = cpu()?;
        let json = iperf(bed, x, &format!("-t {secs} {options}"))?;
        let used = cpu()? - before;
        let received = &json["end"]["sum_received"];
        let bytes = received["bytes"].as_f64().context("bytes")?;
        put(&format!("{name} Gb/s"), received["bits_per_second"].as_f64().context("bits")? / 1e9);
        put(
            &format!("{name} retransmits"),
            json["end"]["sum_sent"]["retransmits"].as_f64().unwrap_or(f64::NAN),
        );
        if x == "w" {
            put(&format!("{name} cpu s/GB"), used.as_secs_f64() / bytes * 1e9);
        }
    }
    for (name, len) in [("udp64", 64), ("udp1400", 1370)] {
        if !wanted(name) {
            continue;
        }
        let json = iperf(bed, x, &format!("-u -b 0 -l {len} -t {secs}"))?;
        let sum = &json["end"]["sum"];
        let got =
            sum["packets"].as_f64().context("packets")? - sum["lost_packets"].as_f64().context("lost")?;
        put(&format!("{name} kpps received"), got / sum["seconds"].as_f64().context("seconds")? / 1e3);
        put(&format!("{name} kpps sent"), sum["packets"].as_f64().context("packets")? / secs as f64 / 1e3);
    }
    if wanted("rtt") {
        let text = bed.exec("c0", &format!("ping -i 0.002 -c 600 {}", inner_v4(1, x)))?;
        let mut times: Vec<f64> =
            text.lines().filter_map(|l| l.split("time=").nth(1)?.split(' ').next()?.parse().ok()).collect();
        times.sort_by(f64::total_cmp);
        put("rtt p50 us", times.get(times.len() / 2).context("no answers")? * 1e3);
        put("rtt p99 us", times.get(times.len() * 99 / 100).context("no answers")? * 1e3);
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = args()?;
    let bed = Bed::new(args.plan)?;
    if args.whole_trains {
        for i in 0..2 {
            let n = 65_507 / (usize::from(args.plan.overlay_mtu) + 14 + 40);
            bed.exec(&format!("c{i}"), &format!("ip link set eth-w gso_max_segs {n}"))?;
        }
    }
    if args.vxlan {
        bed.add_vxlan()?;
    }
    if args.hold {
        println!("{}", bed.ns("c0"));
        std::thread::sleep(Duration::from_secs(3600));
    }
    let mut figures = Figures::new();
    for _ in 0..args.runs {
        if args.vxlan {
            measure(&bed, "v", &args, &mut figures)?;
        }
        measure(&bed, "w", &args, &mut figures)?;
    }
    let median = |values: &Vec<f64>| {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    for (name, values) in &figures {
        let other = name.strip_prefix("w ").and_then(|n| figures.get(&format!("v {n}")));
        let ratio = other.map_or(String::new(), |v| format!("   ratio {:.2}", median(values) / median(v)));
        let each: Vec<String> = values.iter().map(|v| format!("{v:.2}")).collect();
        println!("{name:28} {:10.2}   [{}]{ratio}", median(values), each.join(" "));
    }
    for i in 0..2 {
        println!("{i}: {:?}", bed.router(i).stats());
    }
    Ok(())
}
