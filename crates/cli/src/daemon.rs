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
    weft_sys::heap::share_arena();
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{Args, Command};

    /// Settings that only a daemon of a host has: in the plugin they are mounts.
    const OF_A_HOST: [&str; 3] = ["ALLOWLIST_FILE", "SECRET_FILE", "STATE_DIR"];

    /// What the daemon reads of its environment, with the names of the options.
    fn of_the_daemon() -> BTreeMap<String, String> {
        let grammar = Args::command();
        let run = grammar.find_subcommand("run").unwrap();
        let shown = run.get_arguments().filter(|arg| !arg.is_hide_set());
        let with_env =
            shown.filter_map(|arg| Some((arg.get_env()?.to_str()?.to_owned(), arg.get_long()?.to_owned())));
        with_env.filter(|(name, _)| name != "WEFT_SOCKET").collect()
    }

    /// Names and values in the file of examples, each with a comment above it.
    fn of_the_example() -> BTreeMap<String, String> {
        let text = include_str!("../../../deploy/weft.env.example");
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2) {
            assert!(
                !pair[1].contains('=') || pair[1].starts_with('#') || pair[0].starts_with("# "),
                "{}",
                pair[1]
            );
        }
        let settings =
            lines.iter().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn of_the_plugin() -> BTreeMap<String, String> {
        let config: serde_json::Value =
            serde_json::from_str(include_str!("../../../plugin/config.json")).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        config["env"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (text(&one["name"]), text(&one["value"])))
            .collect()
    }

    /// What the daemon makes of these values, in words.
    fn understood(values: &BTreeMap<String, String>, plugin: bool) -> String {
        let options = of_the_daemon();
        let given = values.iter().map(|(name, value)| format!("--{}={value}", options[name]));
        let words = ["weft", "run"].map(str::to_owned).into_iter();
        let words = words.chain(plugin.then(|| "--plugin".to_owned())).chain(given);
        let Command::Run(args) = Args::parse_from(words).command else { unreachable!("it says run") };
        format!("{:?} {} {:?}", settings(&args).unwrap(), args.log_level, args.confine)
    }

    #[test]
    fn every_setting_is_explained_and_has_one_name_everywhere() {
        let daemon: Vec<String> = of_the_daemon().into_keys().collect();
        let example: Vec<String> = of_the_example().into_keys().collect();
        assert_eq!(example, daemon, "deploy/weft.env.example");
        let of_a_host = |name: &String| OF_A_HOST.contains(&name.as_str());
        let plugin: Vec<String> = of_the_plugin().into_keys().collect();
        let expected: Vec<String> = daemon.iter().filter(|name| !of_a_host(name)).cloned().collect();
        assert_eq!(plugin, expected, "plugin/config.json");
        for (document, text, names) in [
            ("plugin/README.md", include_str!("../../../plugin/README.md"), &plugin),
            ("docs/operations.md", include_str!("../../../docs/operations.md"), &daemon),
        ] {
            for name in names {
                assert!(text.contains(&format!("`{name}`")), "{document} lacks {name}");
            }
        }
    }

    #[test]
    fn what_is_written_down_is_the_default() {
        assert_eq!(understood(&of_the_example(), false), understood(&BTreeMap::new(), false));
        assert_eq!(understood(&of_the_plugin(), true), understood(&BTreeMap::new(), true));
    }
}
