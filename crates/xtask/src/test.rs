//! `cargo xtask test`: every check and test, one after the other, and one sum at the end.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use weft_lab::Engine;

use crate::{cargo, deb, plugin, supply, tidy};

/// What of the tests is run.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Run one end-to-end suite only: main, speed, security, mesh, swarm or operations
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// Run the end-to-end suites on one engine only: bookworm, trixie, sid, or a version of these
    #[arg(long, value_name = "NAME")]
    engine: Option<Engine>,
    /// Run the scenarios that take minutes too, on every engine those that engines make little difference to, and the
    /// large simulations
    #[arg(long)]
    long: bool,
    /// Run only the end-to-end scenarios whose name holds this
    #[arg(last = true)]
    filter: Vec<String>,
}

/// The end-to-end suites, in the order they run; one whose file is not there does not exist yet.
const SUITES: [&str; 6] = ["main", "security", "mesh", "swarm", "operations", "speed"];

/// Packages with tests that need root: they make network namespaces of their own.
const PRIVILEGED: [&str; 5] = ["weft-sys", "weft-nft", "weft-netlink", "weft-router", "weft-daemon"];

/// Tests that ended one way or the other.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
}

/// Runs what the arguments say. `false`: something failed, and the output says what.
pub(crate) fn run(args: &TestArgs) -> Result<bool> {
    let suites = suites(args)?;
    let mut total = Count::default();
    if args.suite.is_none() {
        checks_and_tests(&mut total)?;
        if args.long {
            simulations(&mut total)?;
        }
    }
    if !suites.is_empty() {
        end_to_end(args, &suites, &mut total)?;
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

/// What privileged tests call: a program, and the package that has it.
const PRIVILEGED_NEED: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("iptables-nft", "iptables"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
];

fn checks_and_tests(total: &mut Count) -> Result<()> {
    weft_lab::install_missing(&PRIVILEGED_NEED)?;
    let mut step = |name: &str, command: &mut Command| run_step(name, command, total);
    step("fmt", cargo::cargo().args(["fmt", "--all", "--check"]))?;
    step("clippy", cargo::cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny=warnings"]))?;
    let has_nextest = cargo::cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has_nextest {
        let nextest = ["nextest", "run", "--no-tests=pass", "--no-fail-fast", "--status-level=fail"];
        step("tests", cargo::cargo().args(nextest))?;
        // Chosen of the whole workspace: by --package, what they share would be built again with fewer features.
        let privileged: Vec<String> =
            PRIVILEGED.iter().map(|package| format!("package({package})")).collect();
        let chosen = ["--run-ignored=only", "--filterset", &privileged.join(" + ")];
        step("privileged tests", cargo::cargo().args(nextest).args(chosen))?;
    } else {
        let test = ["test", "--no-fail-fast", "--quiet", "--lib", "--bins", "--tests"];
        step("tests", cargo::cargo().args(test))?;
        let privileged = PRIVILEGED.iter().flat_map(|package| ["--package", package]);
        step("privileged tests", cargo::cargo().args(test).args(privileged).args(["--", "--ignored"]))?;
    }
    step("doc tests", cargo::cargo().args(["test", "--doc", "--quiet"]))?;

    println!("== tidy");
    let problems = tidy::run()?;
    for problem in &problems {
        println!("tidy: {problem}");
    }
    total.add(problems.is_empty());

    let (deny, skipped) = supply::cargo_deny();
    if let Some(mut deny) = deny {
        run_step("cargo deny", &mut deny, total)?;
    }
    for line in skipped {
        println!("== cargo deny: skipped in part: {line}");
    }
    Ok(())
}

/// Meshes of up to a thousand hosts in virtual time, optimised, with what they measure.
fn simulations(total: &mut Count) -> Result<()> {
    let test = ["test", "--quiet", "--profile", "quick", "--package", "weft-mesh", "--test", "sim"];
    let run = ["--", "--ignored", "--nocapture"];
    run_step("large simulations", cargo::cargo().args(test).args(run), total)
}

fn end_to_end(args: &TestArgs, suites: &[&str], total: &mut Count) -> Result<()> {
    println!("== the managed plugin");
    let started = Instant::now();
    let made = plugin::build_quick().and_then(|weft| {
        let dir = cargo::target_dir()?.join("plugin");
        plugin::make(&weft, &dir)?;
        Ok((weft, dir))
    });
    println!("== the managed plugin: {:.0} s", started.elapsed().as_secs_f64());
    let (weft, dir): (PathBuf, PathBuf) = match made {
        Ok(made) => made,
        Err(error) => {
            println!("the managed plugin cannot be made, so no end-to-end suite was run: {error:#}");
            total.add(false);
            return Ok(());
        }
    };
    let engines = args.engine.map_or_else(|| Engine::TESTED.to_vec(), |engine| vec![engine]);
    let names: Vec<&str> = engines.iter().map(|engine| engine.release()).collect();
    for suite in suites {
        let mut command = cargo::cargo();
        command
            // Not by --package, for the same reason as with the privileged tests.
            .args(["test", "--quiet", "--workspace", "--test", suite, "--"])
            .args(&args.filter)
            .env("WEFT_PLUGIN_DIR", &dir)
            .env("WEFT_BIN", &weft)
            .env("WEFT_E2E_ENGINES", names.join(","));
        if args.long {
            command.env("WEFT_E2E_LONG", "1");
        }
        if args.long && *suite == "operations" {
            match deb::make(&weft) {
                Ok(package) => drop(command.env("WEFT_DEB", package)),
                Err(error) => {
                    println!("the Debian package cannot be made: {error:#}");
                    total.add(false);
                }
            }
        }
        run_step(&format!("end-to-end suite {suite}"), &mut command, total)?;
    }
    Ok(())
}

fn suites(args: &TestArgs) -> Result<Vec<&'static str>> {
    let exists = |suite: &str| cargo::root().join(format!("tests/e2e/tests/{suite}.rs")).is_file();
    match &args.suite {
        None => Ok(SUITES.into_iter().filter(|suite| exists(suite)).collect()),
        Some(name) => {
            let Some(suite) = SUITES.into_iter().find(|suite| suite == name) else {
                bail!("no suite {name}: {}", SUITES.join(", "));
            };
            ensure!(exists(suite), "suite {suite} has no scenarios yet");
            Ok(vec![suite])
        }
    }
}

/// Runs a command, passing its output on while counting the tests in it. A command without tests counts as one.
fn run_step(name: &str, command: &mut Command, total: &mut Count) -> Result<()> {
    println!("== {name}");
    let started = Instant::now();
    let mut child = command
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    let counted = Mutex::new(Count::default());
    thread::scope(|scope| {
        for stream in streams.into_iter().flatten() {
            let counted = &counted;
            scope.spawn(move || {
                let mut lines = BufReader::new(stream);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|n_read| n_read > 0) {
                    let text = String::from_utf8_lossy(&line);
                    print!("{text}");
                    if let Some(count) = parse(&text) {
                        let mut counted = counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        counted.passed += count.passed;
                        counted.failed += count.failed;
                    }
                    line.clear();
                }
            });
        }
    });
    let status = child.wait()?;
    let mut counted = counted.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if counted == Count::default() || (!status.success() && counted.failed == 0) {
        counted.add(status.success());
    }
    total.passed += counted.passed;
    total.failed += counted.failed;
    let verdict = if counted.failed == 0 { "ok" } else { "FAILED" };
    println!("== {name}: {verdict}, {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

impl Count {
    fn add(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// Reads a closing line of `cargo test` (and of harnesses that print as it does) or of `cargo nextest`.
fn parse(line: &str) -> Option<Count> {
    let line = line.trim();
    let counts = line.strip_prefix("test result: ").or_else(|| line.strip_prefix("Summary ["))?;
    let before = |word: &str| {
        let mut last = "";
        for this in counts.split([' ', ';', ',', '.']).filter(|this| !this.is_empty()) {
            if this == word {
                return last.parse().ok();
            }
            last = this;
        }
        None
    };
    Some(Count {
        passed: before("passed")?,
        failed: before("failed").unwrap_or(0) + before("timed").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let count = |passed, failed| Some(Count { passed, failed });
        let cargo_test = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse(cargo_test), count(12, 3));
        assert_eq!(parse("     Summary [   0.012s] 3 tests run: 3 passed, 0 skipped\n"), count(3, 0));
        let nextest =
            "     Summary [   1.5s] 9 tests run: 6 passed (1 slow), 2 failed, 1 timed out, 4 skipped";
        assert_eq!(parse(nextest), count(6, 3));
        assert_eq!(parse("running 12 tests"), None);
    }
}
