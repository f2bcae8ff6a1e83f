//! The command line's grammar.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// An encrypted overlay network for Docker.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "The daemon is found by itself, as a managed plugin as well as on the host.\n\nExit status: 0 when it was done, 1 \
    when it was not (and whatever a command says of itself), 2 when the command line is wrong."
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
    Run(Box<RunArgs>),
    /// Show peers, networks, endpoints and counters
    #[command(
        after_help = "Examples:\n  weft status\n  weft status peers --watch\n  weft status --json | jq .peers\n\nExit status: 0 when the daemon carries traffic, 1 when it does not or cannot be reached."
    )]
    Status {
        /// Only this part of it
        #[arg(value_enum)]
        part: Option<Part>,
        #[command(flatten)]
        view: View,
    },
    /// Show the other hosts: short for `weft status peers`
    #[command(after_help = "Examples:\n  weft peers\n  weft peers -o json\n  weft peers --watch")]
    Peers {
        #[command(flatten)]
        view: View,
    },
    /// Ask another host for echoes, inside the encrypted session
    #[command(
        after_help = "Examples:\n  weft ping host2\n  weft ping -c 3 -i 0.2 host2\n\nOn the first echo, time may include a handshake. Ends with Ctrl-C.\n\nExit status: 0 when an echo came back, 1 when none did, 2 on any other error."
    )]
    Ping(PingArgs),
    /// Look for what is wrong on this host, and say what mends it
    #[command(
        after_help = "Examples:\n  weft doctor\n  weft doctor --json | jq '.[] | select(.level == \"fault\")'\n\nExit status: 0 without a fault (warnings do not count), 1 with one."
    )]
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Contact a host, now and after every restart
    #[command(
        after_help = "Examples:\n  weft connect host2\n  weft connect 10.0.0.2:6783\n  weft forget 10.0.0.2:6783     takes it back"
    )]
    Connect {
        /// The other host, HOST or HOST:PORT
        host: String,
    },
    /// Write what a bug report needs into a file, without any secret
    #[command(
        after_help = "Examples:\n  weft report\n  weft report --out /tmp/host1.tar\n\nLook through it before you send it: it names hosts, addresses, networks and containers."
    )]
    Report {
        /// The file, which must not exist yet [default: weft-report-HOST-TIME.tar]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print a script that completes weft's commands in a shell
    #[command(
        after_help = "Examples:\n  weft completions bash > /usr/share/bash-completion/completions/weft\n  weft completions fish > ~/.config/fish/completions/weft.fish"
    )]
    Completions {
        /// For this shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual's pages into a directory, for packages
    #[command(hide = true)]
    Man {
        /// Where to
        dir: PathBuf,
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
    /// Make a token by which another host can join this one's cluster
    #[command(
        after_help = "Example:\n  weft token                   prints the token; on the new host: weft join THIS-HOST TOKEN\n  weft token --uses 5 --ttl 10m"
    )]
    Token {
        /// How long it is good: 90s, 10m, 1h, at most 24h
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_span)]
        ttl: Duration,
        /// How many hosts may use it
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
    },
    /// Join the cluster of another host by a token that `weft token` printed there
    #[command(
        after_help = "Examples:\n  weft join host1 weft-token-0123…\n  ssh host1 weft token | weft join host1 -\n\nThe token is visible in the process list while this runs; `-` reads it from standard input."
    )]
    Join {
        /// The other host, HOST or HOST:PORT
        host: String,
        /// The token; `-` reads it from standard input
        token: String,
    },
    /// Shut a peer out of all hosts at once, and for good
    #[command(
        after_help = "Example:\n  weft revoke host7\n\nA peer is named by its name, its id, or the begin of its id. It still knows the cluster secret: rotate it."
    )]
    Revoke {
        /// Name, id, or the begin of the id
        peer: String,
    },
    /// Take a revocation back
    Allow {
        /// Name, id, or the begin of the id
        peer: String,
    },
    /// Forget a peer's name and addresses: for one that is gone for good, or was set up anew
    #[command(
        after_help = "Examples:\n  weft forget host7\n  weft forget 10.0.0.7          what `weft connect 10.0.0.7` set up"
    )]
    Forget {
        /// Name, id, or the begin of the id; or what was given to `weft connect`
        peer: String,
    },
    /// Show the cluster secret, set the one of another host, or rotate it
    #[command(subcommand)]
    Secret(SecretCommand),
}

/// A part of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The other hosts
    Peers,
    /// Networks on this host
    Networks,
    /// Endpoints of containers on them
    Endpoints,
    /// Services of the swarm with an address on them
    Services,
}

/// How to show it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct View {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    pub(crate) output: Form,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    pub(crate) json: bool,
    /// Show it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
        value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) watch: Option<u16>,
}

/// A form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Settings of `weft ping`.
#[derive(Debug, clap::Args)]
pub(crate) struct PingArgs {
    /// Name, id, or the begin of the id
    pub(crate) peer: String,
    /// Stop after so many
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// Seconds from one to the next, at least 0.1
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub(crate) interval: Duration,
    /// Seconds to wait for each, at most 10
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Print the secret, to give it to another host: whoever has it can join
    Show {
        /// The one that a rotation has added
        #[arg(long)]
        next: bool,
    },
    /// Change the secret without interruption: `add` on every host, then `prefer`, then `drop`
    #[command(subcommand)]
    Rotate(RotateCommand),
    /// Read the secret from a file or standard input and hand it to the daemon
    #[command(after_help = "Example:\n  weft secret show | ssh host2 weft secret set")]
    Set {
        /// File to read; standard input if absent
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RotateCommand {
    /// Accept a new secret beside the present one; makes it if none is given
    #[command(
        after_help = "Example, on every host but the first:\n  ssh host1 weft secret show --next | weft secret rotate add --file -"
    )]
    Add {
        /// File with the secret that another host has added; `-` for standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Begin handshakes with the new secret, once every host accepts it
    Prefer,
    /// Accept the old secret no longer, once every host prefers the new one
    Drop {
        /// Although a peer still needs it
        #[arg(long)]
        force: bool,
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
    /// Whom to admit of those that know the secret: secret (everyone), allowlist
    #[arg(long, env = "ADMISSION", default_value = "secret")]
    pub(crate) admission: String,
    /// File with the ids of the peers to admit, one a line; read again when it changes [default: /etc/weft/allowlist;
    /// in the plugin the mount `allowlist`]
    #[arg(long, env = "ALLOWLIST_FILE")]
    pub(crate) allowlist_file: Option<PathBuf>,
    /// Age at which a session in use is replaced; for tests
    #[arg(long, env = "REKEY_AFTER", hide = true, value_parser = parse_span)]
    pub(crate) rekey_after: Option<Duration>,
    /// Give up, at the start, access to files and system calls that are never needed (Landlock, seccomp)
    #[arg(long, env = "CONFINE", default_value = "on", value_enum)]
    pub(crate) confine: Switch,
    /// Where health, metrics and the live map are served, ADDRESS:PORT, or off; this host's loopback if empty
    /// [default: 127.0.0.1:6784]
    #[arg(long, env = "HTTP", default_value = "", hide_default_value = true)]
    pub(crate) http: String,
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

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// Reads 90s, 10m or 1h.
fn parse_span(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a time like 90s, 10m or 1h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(bad)
}

/// Reads seconds with a fraction, from 0.1 to 10 minutes.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let seconds = seconds.filter(|s| (0.1..=600.0).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` is not a number of seconds from 0.1 to 600"))
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
    fn spans_have_a_unit() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "s", "0s", "5", "5d", "-1s", "18446744073709551615h", "1é"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(parse_seconds("0.2"), Ok(Duration::from_millis(200)));
        for bad in ["", "0", "-1", "601", "NaN", "inf", "1s"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_that_an_operator_sees_has_its_help() {
        for command in Args::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
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
