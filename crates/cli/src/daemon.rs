//! `weft run`.

use std::os::unix::fs::DirBuilderExt;
use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use weft_daemon::{SettingError, Settings, parse_admission, parse_http, parse_peers, parse_suite};

use crate::args::{RunArgs, Switch};

/// Runs the daemon until it is told to end.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let checked = EnvFilter::try_new(&args.log_level)
        .with_context(|| format!("LOG_LEVEL: `{}`", args.log_level))
        .and_then(|filter| Ok((filter, settings(args)?)));
    match checked {
        Ok((filter, settings)) => start(filter, settings, args.confine == Switch::On),
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
    start(EnvFilter::new("info"), Settings { fault: Some(fault), ..Settings::new(true) }, true)
}

fn start(filter: EnvFilter, settings: Settings, confined: bool) -> anyhow::Result<ExitCode> {
    // dockerd, journald and container runtimes add the time and take colours for garbage.
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false).init();
    if confined {
        confine(&settings);
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(weft_daemon::run(settings))?;
    Ok(ExitCode::SUCCESS)
}

/// Before any thread starts. A machine that cannot is said so, and no reason not to run.
fn confine(settings: &Settings) {
    // It must be there to be named; the daemon itself reports what is wrong with it.
    let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&settings.state_dir);
    let files =
        [&settings.secret_file, &settings.driver_socket, &settings.control_socket, &settings.docker_socket];
    let files = files.into_iter().chain(&settings.allowlist_file);
    let dirs = files.filter_map(|file| file.parent()).map(std::path::Path::to_path_buf);
    let access = weft_confine::Access::of_daemon(dirs.chain([settings.state_dir.clone()]));
    match weft_confine::confine(&access) {
        Ok(weft_confine::Files::Confined) => {}
        Ok(weft_confine::Files::Partly | weft_confine::Files::Unconfined) => {
            tracing::info!(
                "this kernel's Landlock is old, off or missing: access to files is not (wholly) confined"
            );
        }
        Err(error) => tracing::warn!("not confined: {:#}", anyhow::Error::from(error)),
    }
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
        allowlist_file: parse_admission(
            args.admission.trim(),
            args.allowlist_file.clone().unwrap_or_else(|| default_allowlist(args.plugin)),
        )?,
        rekey_after: args.rekey_after.unwrap_or(defaults.rekey_after),
        secret_file: args.secret_file.clone().unwrap_or(defaults.secret_file),
        state_dir: args.state_dir.clone(),
        http: parse_http(args.http.trim())?,
        ..Settings::new(args.plugin)
    })
}

fn default_allowlist(plugin: bool) -> std::path::PathBuf {
    if plugin { "/run/secrets/weft-allowlist".into() } else { "/etc/weft/allowlist".into() }
}
