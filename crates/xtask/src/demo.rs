//! `cargo xtask demo`: two hosts in a swarm, weft on both, and the proof that it works.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weft_lab::{BUSYBOX, DRIVER, Engine, Host, Lab, LabConfig, PLUGIN, REGISTRY, SECRET, Weft, wait_for};

use crate::{cargo, plugin};

const KIND: &str = "demo";
const NETWORK: &str = "weft-custom-net";

/// What the containers send each other, so that it can be looked for on the wire.
const CANARY: &str = "canary-that-only-containers-may-read";

/// Progress for people: what is being done, and how long the demo has been running.
struct Progress {
    started: Instant,
}

impl Progress {
    fn step(&self, text: &str) {
        println!("[{:>4.0} s] {text}", self.started.elapsed().as_secs_f64());
        let _ = io::stdout().flush();
    }

    /// Runs docker on a host as a user would, and shows it.
    fn docker(&self, host: &Host, args: &[&str]) -> Result<String> {
        self.step(&format!("{}$ docker {}", host.name(), shown(args)));
        let text = host.docker(args)?;
        for line in text.lines() {
            println!("         {line}");
        }
        Ok(text)
    }
}

/// Brings the demo up; one that is up is taken down first.
pub(crate) fn up(engine: Engine) -> Result<()> {
    let progress = Progress { started: Instant::now() };
    if weft_lab::remove_staying(KIND)? > 0 {
        progress.step("took the earlier demo down");
    }
    progress.step("building weft");
    let program = plugin::build_quick()?;
    let plugin_dir = cargo::target_dir()?.join("plugin");
    progress.step("making the managed plugin");
    plugin::make(&program, &plugin_dir)?;
    let weft = Weft { program, plugin_dir };

    progress.step(&format!("starting two hosts with Docker {engine}, each in namespaces of its own"));
    let mut config = LabConfig::new(KIND, engine, 2);
    config.can_stay = true;
    let lab = Lab::start(config)?;
    // Dropped, it is gone: neither a failure nor an interrupt leaves half a demo up.
    match show(&progress, &lab, &weft) {
        Ok(()) => {
            instructions(&lab);
            lab.keep()
        }
        Err(error) => {
            let logs = cargo::target_dir()?.join("lab-logs").join(lab.id());
            let saved = lab.save_logs(&logs);
            drop(lab);
            match saved {
                Ok(()) => Err(error.context(format!("the demo failed; logs are in {}", logs.display()))),
                Err(_) => Err(error.context("the demo failed")),
            }
        }
    }
}

/// Removes the demo.
pub(crate) fn down() -> Result<()> {
    weft_lab::sweep()?;
    match weft_lab::remove_staying(KIND)? {
        0 => println!("no demo is up"),
        _ => println!("the demo is down: its hosts, links, processes and files are gone"),
    }
    Ok(())
}

/// Becomes a shell on a host of the demo.
pub(crate) fn enter(host: &str) -> Result<()> {
    let dir: PathBuf =
        weft_lab::staying(KIND).into_iter().next().context("no demo is up: cargo xtask demo")?;
    let pid =
        fs::read_to_string(dir.join(host).join("pid")).with_context(|| format!("the demo has no {host}"))?;
    let error = Command::new("nsenter")
        .args([
            "--target",
            pid.trim(),
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--uts",
            "--cgroup",
            "--",
            "bash",
            "-l",
        ])
        .env("PS1", format!("{host}# "))
        .exec();
    Err(error).context("cannot start nsenter")
}

fn show(progress: &Progress, lab: &Lab, weft: &Weft) -> Result<()> {
    let (first, second) = (lab.host(0), lab.host(1));
    progress.step(&format!(
        "{} ({}) and {} ({}) form a swarm",
        first.name(),
        first.ipv4(),
        second.name(),
        second.ipv4()
    ));
    lab.swarm()?;
    progress.step(&format!("weft init --out {SECRET}: one cluster secret, on both hosts"));
    weft.make_secret(lab, "cluster")?;
    progress.step("pushing the plugin to a registry on loopback");
    let reference = first.push_plugin(DRIVER, &weft.plugin_dir)?;
    let secret = format!("secret.source={SECRET}");
    for host in lab.hosts() {
        weft.install_program(host)?;
        let install =
            ["plugin", "install", "--grant-all-permissions", "--alias", PLUGIN, &reference, &secret];
        progress.docker(host, &install)?;
    }
    progress.step("waiting until the swarm's manager knows that both nodes have the plugin");
    lab.wait_for_plugin_on_nodes()?;

    let capture = lab.capture(second, "")?;
    progress.docker(first, &["network", "create", &format!("--driver={DRIVER}"), NETWORK])?;
    let network = format!("--network={NETWORK}");
    let create = [
        "service",
        "create",
        "--quiet",
        "--no-resolve-image",
        &network,
        "--replicas=3",
        "--name=workshop",
        BUSYBOX,
    ];
    progress.docker(first, &create)?;

    let on_first = tasks(first)?;
    let on_second = tasks(second)?;
    // Two are on one of the hosts: the exercise is done from there.
    let (here, there, near, far) = if on_first.len() == 2 {
        (first, second, on_first, on_second)
    } else {
        (second, first, on_second, on_first)
    };
    ensure!(near.len() == 2 && far.len() == 1, "three tasks are not two on one host and one on the other");
    let (one, two, three) = (&near[0], &near[1], &far[0]);
    progress.step(&format!(
        "FIRST {one} and SECOND {two} are on {}, THIRD {three} on {}",
        here.name(),
        there.name()
    ));

    let mut proof = Vec::new();
    for (host, from, to, way) in [
        (here, one, two, "on one host"),
        (here, one, three, "across hosts"),
        (there, three, two, "across hosts"),
    ] {
        let line = format!("wget -qO- http://{to}");
        progress.step(&format!("{}$ docker exec {from} sh -c \"{line}\"", host.name()));
        // Names take a moment to reach the other host's engine.
        let answer = wait_for("an answer", Duration::from_secs(20), || host.exec(from, &line).map(Some))?;
        println!("         {answer}");
        ensure!(answer == *to, "{to} was asked and {answer} answered");
        proof.push(format!("{from} asked {to} ({way}), and {answer} answered"));
    }
    there.exec(three, &format!("echo {CANARY} > /www/canary"))?;
    let canary = here.exec(one, &format!("wget -qO- http://{three}/canary"))?;
    ensure!(canary == CANARY, "the canary came as {canary:?}");
    proof.push(format!("{one} read {CANARY:?} from {three} (across hosts)"));

    progress.step("looking at what the wire between the hosts carried");
    let wire = capture.stop()?;
    let sealed = wire.lines(&["-x"], "udp port 6783 and greater 200")?;
    ensure!(!sealed.is_empty(), "no datagram of weft was on the wire");
    for secret in [CANARY.as_bytes(), b"GET / HTTP", one.as_bytes()] {
        // The engines' own gossip, which is not weft's, carries names of containers.
        let in_weft = weft_datagrams_contain(&wire, secret)?;
        ensure!(!in_weft, "{} is on the wire in the clear", String::from_utf8_lossy(secret));
    }
    println!();
    println!("Proof");
    for line in &proof {
        println!("  {line}");
    }
    println!("  on the wire of {} between the hosts:", second.name());
    for line in sealed.iter().take(5) {
        println!("    {}", line.trim());
    }
    println!(
        "  {} datagrams of weft; none holds the canary, a request or a container's name",
        wire.count("udp port 6783")?
    );
    println!();
    println!("{}", first.run(["weft", "status"])?);
    Ok(())
}

/// Short ids of the host's containers of the service.
fn tasks(host: &Host) -> Result<Vec<String>> {
    let list = host.docker([
        "ps",
        "--filter",
        "label=com.docker.swarm.service.name=workshop",
        "--format",
        "{{.ID}}",
    ])?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Whether the payload of a datagram of weft's holds `text`.
fn weft_datagrams_contain(wire: &weft_lab::Captured, text: &[u8]) -> Result<bool> {
    let dump = wire.lines(&["-x"], "udp port 6783")?;
    // Lines of tcpdump's dump: an offset, a colon, and groups of hexadecimal digits.
    let digits: String = dump
        .iter()
        .filter_map(|line| line.trim_start().strip_prefix("0x")?.split_once(':'))
        .flat_map(|(_, digits)| digits.chars().filter(|digit| !digit.is_whitespace()))
        .collect();
    let wanted: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(digits.contains(&wanted))
}

fn instructions(lab: &Lab) {
    println!("It stays up, to play with:");
    println!("  cargo xtask demo --enter host1     a shell on a host, with docker and weft");
    for host in lab.hosts() {
        println!(
            "  DOCKER_HOST=unix://{}     its engine, for a docker client of yours",
            host.docker_socket().display()
        );
    }
    println!("  (in it: docker ps, docker service ps workshop, weft status; the registry is {REGISTRY})");
    println!("  cargo xtask demo --down            removes every trace");
}

fn shown(args: &[&str]) -> String {
    args.join(" ")
}
