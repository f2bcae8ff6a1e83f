//! Running a suite's scenarios on each engine.

use std::{
    env,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use weft_lab::{Engine, Weft};

use crate::cluster::Cluster;

/// One scenario of a suite.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name in the output.
    pub name: &'static str,
    /// What is done.
    pub body: Body,
    /// Whether it takes minutes, and is run with `--long` only.
    pub long: bool,
    /// Whether engines make little difference to it: without `--long` it is run with the last one only.
    pub once: bool,
}

/// What a scenario needs.
#[derive(Debug, Clone, Copy)]
pub enum Body {
    /// The suite's two-host swarm with weft.
    Shared(fn(&Cluster) -> Result<()>),
    /// An engine, to make a lab of its own with.
    Own(fn(Engine, &Weft) -> Result<()>),
}

impl Scenario {
    /// A scenario with a lab of its own.
    #[must_use]
    pub const fn own(name: &'static str, body: fn(Engine, &Weft) -> Result<()>) -> Self {
        Self { name, body: Body::Own(body), long: false, once: false }
    }

    /// The same scenario, run with the last of the engines only, but for `--long`.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// The same scenario, run with `--long` only.
    #[must_use]
    pub const fn long(mut self) -> Self {
        self.long = true;
        self
    }
}

/// A scenario on the suite's two-host swarm.
#[must_use]
pub const fn shared(name: &'static str, body: fn(&Cluster) -> Result<()>) -> Scenario {
    Scenario { name, body: Body::Shared(body), long: false, once: false }
}

/// The suite's cluster: made by the first scenario that wants it. One that could not be made is not tried again.
type SharedCluster = Arc<Mutex<Option<Result<Cluster, String>>>>;

/// Runs `scenarios` on every engine of `WEFT_E2E_ENGINES` (all tested ones without it), one after the other.
#[must_use]
pub fn run(suite: &'static str, scenarios: &[Scenario]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let engines = match engines() {
        Ok(engines) => engines,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let is_long = env::var_os("WEFT_E2E_LONG").is_some();
    let mut all_passed = true;
    let last = engines.last().copied();
    for engine in engines {
        let cluster = SharedCluster::default();
        let trials = scenarios
            .iter()
            .filter(|scenario| !scenario.once || is_long || Some(engine) == last)
            .map(|&scenario| {
                let cluster = Arc::clone(&cluster);
                let name = format!("{suite}::{engine}::{}", scenario.name);
                Trial::test(name, move || run_scenario(suite, engine, &scenario, &cluster))
                    .with_ignored_flag(scenario.long && !is_long)
            })
            .collect();
        let conclusion = libtest_mimic::run(&arguments, trials);
        all_passed &= !conclusion.has_failed();
        // The lab goes here, before the next engine's comes up.
        drop(cluster.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
    if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_scenario(
    suite: &str,
    engine: Engine,
    scenario: &Scenario,
    cluster: &SharedCluster,
) -> Result<(), Failed> {
    let result = match scenario.body {
        Body::Own(body) => Weft::from_env().and_then(|weft| body(engine, &weft)),
        Body::Shared(body) => {
            let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
            let cluster = cluster
                .get_or_insert_with(|| Cluster::start(suite, engine).map_err(|error| format!("{error:#}")));
            match cluster {
                Ok(cluster) => body(cluster).map_err(|error| {
                    let dir = logs_dir();
                    let dir = dir.join(format!("{suite}-{engine}-{}", scenario.name));
                    match cluster.lab.save_logs(&dir) {
                        Ok(()) => error.context(format!("logs are in {}", dir.display())),
                        Err(_) => error,
                    }
                }),
                Err(text) => Err(anyhow::anyhow!("the suite's swarm could not be made: {text}")),
            }
        }
    };
    result.map_err(|error| Failed::from(format!("{error:#}")))
}

fn engines() -> Result<Vec<Engine>> {
    let Ok(names) = env::var("WEFT_E2E_ENGINES") else { return Ok(Engine::TESTED.to_vec()) };
    let engines: Vec<Engine> = names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::parse)
        .collect::<Result<_>>()
        .context("WEFT_E2E_ENGINES")?;
    if engines.is_empty() {
        bail!("WEFT_E2E_ENGINES names no engine");
    }
    Ok(engines)
}

/// Where logs of failed scenarios go: `WEFT_E2E_LOGS`, or beside what cargo builds.
fn logs_dir() -> PathBuf {
    env::var_os("WEFT_E2E_LOGS")
        .map_or_else(
            || {
                env::current_exe()
                    .ok()
                    .and_then(|file| Some(file.ancestors().nth(3)?.to_owned()))
                    .unwrap_or_default()
            },
            PathBuf::from,
        )
        .join("lab-logs")
}
