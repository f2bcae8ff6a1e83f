//! `weft run`.

use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use weft_daemon::{SettingError, Settings, parse_peers, parse_suite};

use crate::args::RunArgs;

/// Runs the daemon until it is told to end.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let checked = EnvFilter::try_new(&args.log_level)
        .with_context(|| format!("LOG_LEVEL: `{}`", args.log_level))
        .and_then(|filter| Ok((filter, settings(args)?)));
    match checked {
        Ok((filter, settings)) => start(filter, settings),
        Err(error) if args.plugin => run_with_fault(&format!("{error:#}")),
        Err(error) => Err(error),
    }
}

/// Runs as a plugin whose settings are wrong: dockerd would say of one that ends merely that it did not answer, so this
/// one lives to tell what is wrong with it.
pub(crate) fn run_with_fault(fault: &str) -> anyhow::Result<ExitCode> {
    let fault = format!(
        "weft's settings are wrong: {fault}: disable the plugin, correct them by `docker plugin set`, enable it"
    );
    start(EnvFilter::new("info"), Settings { fault: Some(fault), ..Settings::new(true) })
}

fn start(filter: EnvFilter, settings: Settings) -> anyhow::Result<ExitCode> {
    // dockerd, journald and container runtimes add the time and take colours for garbage.
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false).init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(weft_daemon::run(settings))?;
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &RunArgs) -> Result<Settings, SettingError> {
    let defaults = Settings::new(args.plugin);
    let name = args.name.trim();
    Ok(Settings {
        peers: parse_peers(&args.peers)?,
        port: args.port,
        name: (!name.is_empty()).then(|| name.to_owned()),
        advertise: args.advertise.0,
        suite: parse_suite(&args.suite)?,
        underlay_mtu: args.underlay_mtu.0,
        n_workers: args.workers.0,
        secret_file: args.secret_file.clone().unwrap_or(defaults.secret_file),
        state_dir: args.state_dir.clone(),
        ..Settings::new(args.plugin)
    })
}
