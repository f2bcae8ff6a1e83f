//! The command line's grammar.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// An encrypted overlay network for Docker.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "The daemon is found by itself, as a managed plugin as well as on the host."
)]
pub(crate) struct Args {
    /// Control socket of the daemon
    #[arg(long, env = "WEFT_SOCKET", global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon
    Run(RunArgs),
    /// Show peers, networks, endpoints and counters
    #[command(
        after_help = "Examples:\n  weft status\n  weft status --json | jq .peers\n\nExit status: 0 when the daemon carries traffic, 1 when it does not or cannot be reached."
    )]
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the cluster secret, on the first host of a cluster
    #[command(
        after_help = "Examples:\n  weft init                        hand a new secret to the running daemon\n  weft init --out /etc/weft/secret  write it to a file, mode 0600"
    )]
    Init {
        /// Write the secret to a new file instead of handing it to the daemon
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show the cluster secret, or set the one of another host
    #[command(subcommand)]
    Secret(SecretCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Print the secret, to give it to another host: whoever has it can join
    Show,
    /// Read the secret from a file or standard input and hand it to the daemon
    #[command(after_help = "Example:\n  weft secret show | ssh host2 weft secret set")]
    Set {
        /// File to read; standard input if absent
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Settings of the daemon; the managed plugin sets them by `docker plugin set`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Run as Docker's managed plugin: scope global
    #[arg(long)]
    pub(crate) plugin: bool,
    /// Hosts to contact, HOST or HOST:PORT, separated by commas
    #[arg(long, env = "PEERS", default_value = "", hide_env_values = true)]
    pub(crate) peers: String,
    /// UDP port for control and data
    #[arg(long, env = "PORT", default_value_t = 6783, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Level of the log: error, warn, info, debug, trace, or directives such as weft_node=debug
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub(crate) log_level: String,
    /// This host's name among the peers; its hostname if empty
    #[arg(long, env = "NAME", default_value = "")]
    pub(crate) name: String,
    /// Address at which other hosts reach this one; picks the interface whose MTU counts
    #[arg(long, env = "ADVERTISE", value_parser = parse_optional::<IpAddr>, default_value = "")]
    pub(crate) advertise: Optional<IpAddr>,
    /// Suite of the whole cluster: auto, aes-256-gcm, chacha20-poly1305
    #[arg(long, env = "SUITE", default_value = "auto")]
    pub(crate) suite: String,
    /// MTU of the underlay; the interface's if empty
    #[arg(long, env = "UNDERLAY_MTU", value_parser = parse_optional::<u16>, default_value = "")]
    pub(crate) underlay_mtu: Optional<u16>,
    /// Worker threads, 1 to 15; one per core, at most four, if empty
    #[arg(long, env = "WORKERS", value_parser = parse_workers, default_value = "")]
    pub(crate) workers: Optional<usize>,
    /// File with the cluster secret [default: /etc/weft/secret; in the plugin the mount `secret`]
    #[arg(long, env = "SECRET_FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Directory of the state file
    #[arg(long, env = "STATE_DIR", default_value = "/var/lib/weft")]
    pub(crate) state_dir: PathBuf,
}

/// A setting that is unset when empty, as `docker plugin set` cannot remove one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Optional<T>(pub(crate) Option<T>);

fn parse_optional<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Optional<T>, String> {
    if text.is_empty() {
        return Ok(Optional(None));
    }
    text.parse().map(|value| Optional(Some(value))).map_err(|error: T::Err| error.to_string())
}

fn parse_workers(text: &str) -> Result<Optional<usize>, String> {
    match parse_optional(text)? {
        Optional(Some(n)) if !(1..=15).contains(&n) => Err("1 to 15 workers are possible".to_owned()),
        workers => Ok(workers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn empty_settings_are_unset_and_bad_ones_refused() {
        assert_eq!(parse_workers(""), Ok(Optional(None)));
        assert_eq!(parse_workers("3"), Ok(Optional(Some(3))));
        assert!(parse_workers("0").is_err() && parse_workers("16").is_err() && parse_workers("x").is_err());
        assert_eq!(parse_optional::<IpAddr>("").unwrap(), Optional(None));
        assert!(parse_optional::<IpAddr>("10.0.0").is_err());
    }
}
