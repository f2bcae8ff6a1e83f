//! The command line's grammar.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use weft_api::{MAX_BENCH_RATE, MAX_BENCH_TIME, MAX_CAPTURE_LEN, MAX_CAPTURE_TIME};

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
        after_help = "Examples:\n  weft status\n  weft status peers --watch\n  weft status --json | jq .peers\n  weft status routes             where frames for each address go\n\nExit status: 0 when the daemon carries traffic, 1 when it does not or cannot be reached."
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
    /// Show how much the path to another host carries, and what follows from it
    #[command(
        after_help = "Examples:\n  weft mtu host2\n  weft mtu --probe host2         look now, and wait for the outcome\n  weft mtu host2 --json | jq .path_mtu\n\nThe path is that from this host to the other: ask there for the way back. State is in the words of RFC 8899.\n\nExit status: 0 when the path carries the networks' packets whole, 1 when it does not or that is not known, 2 on any other error."
    )]
    Mtu {
        /// Name, id, or the begin of the id
        peer: String,
        /// Look again now, and wait for the outcome (up to 15 s)
        #[arg(long)]
        probe: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show throughput, packets, drops and round trips by peer and network, again and again
    #[command(
        after_help = "Examples:\n  weft top\n  weft top --sort rtt --interval 1\n  weft top --once | head          rates of two seconds, for scripts\n\nPeers: frames inside the seal, as they are on the wire. Networks: frames and super-frames (up to 64 KiB) at this host's TAP, and those that weft did not take in time. Ends with Ctrl-C. Where the output is no terminal it is as with --once.\n\nExit status: 0 when something was shown, 1 when the daemon cannot be reached at the start."
    )]
    Top(TopArgs),
    /// Write decrypted frames of a network, or of what is exchanged with another host, as pcapng
    #[command(
        after_help = "Examples:\n  weft capture mynet -w - | tcpdump -n -r -\n  weft capture mynet -w - | tshark -i -\n  weft capture host2 -w host2.pcapng --duration 10m --snaplen 128\n\nA network is named by its name, its id, or the begin of its id (4 digits at least); a host by its name, id, or the begin of that. Only networks with a container on this host are known. Frames are as they are inside the seal: a container's super-frames are cut, received ones not joined yet; checksums that were left to a NIC are filled in where the frame is kept whole. Of a network also frames are shown that go nowhere, and weft's own answers (ARP, ICMP).\n\nFor root alone, as is the control socket. When frames come faster than they are written, some are dropped from the capture, never from the network; their number is printed, and stands in the file's interface statistics. Ends at the first limit, with Ctrl-C, or when nobody reads it any more.\n\nExit status: 0 when it ended in one of these ways, 1 on any error."
    )]
    Capture(CaptureArgs),
    /// Measure the throughput to another host and back
    #[command(
        after_help = "Examples:\n  weft bench host2\n  weft bench host2 --time 10 --rate 500M\n  weft bench host2 --json | jq .from.rate\n\nWhat is measured: sealed datagrams from one daemon to the other, as long as the longest frames that the path carries whole, by one thread, over the same sessions, sockets and path as containers' frames. That is sealing, sending, the underlay, receiving and opening. What is not: containers' veth, bridge and TAP, and TCP. A transfer between containers can thus be slower, and many at a time can be faster, as they use several threads.\n\nThe rate is raised until datagrams are lost and then follows what arrives, as the receiver reports it every 50 ms; throughput is that without the first fifth of the time. Some loss is therefore how it is measured. Traffic of containers is slowed meanwhile: --rate bounds it. One bench at a time on a host, at most 30 s each way, and on the other host 120 s in any 8 minutes.\n\nExit status: 0 when both ways were measured, 1 when the other host does not take part (it is busy, too old, or does not answer), 2 on any other error."
    )]
    Bench(BenchArgs),
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
    /// Which addresses are reached on which host, and which way
    Routes,
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

/// Settings of `weft top`.
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Seconds from one look to the next, at least 0.1
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    pub(crate) interval: Duration,
    /// Show the rates of one interval, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// What comes first: the most of it
    #[arg(short, long, value_enum, default_value = "traffic", value_name = "KEY")]
    pub(crate) sort: SortKey,
    /// The most rows of a table
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rows: u16,
}

/// Settings of `weft capture`.
#[derive(Debug, clap::Args)]
pub(crate) struct CaptureArgs {
    /// A network or another host
    #[arg(value_name = "NETWORK|PEER")]
    pub(crate) of: String,
    /// A file that does not exist yet, or a pipe; `-` is standard output, which must not be a terminal
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Bytes of each frame that are kept
    #[arg(short, long, value_name = "BYTES", default_value_t = 65535, value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub(crate) snaplen: u32,
    /// End after so many frames
    #[arg(short, long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// End before the file is longer, in bytes; K, M and G are powers of 1024; at most 16G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) max_size: u64,
    /// End after this time: 90s, 10m, 1h; at most 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_capture_time)]
    pub(crate) duration: Duration,
}

/// Settings of `weft bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Name, id, or the begin of the id
    pub(crate) peer: String,
    /// Seconds each way, at most 30
    #[arg(short, long, value_name = "SECONDS", default_value = "5", value_parser = parse_bench_time)]
    pub(crate) time: Duration,
    /// Never more than so many bits a second; K, M and G are powers of 1000 [default: as much as gets through]
    #[arg(short, long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) rate: Option<u64>,
    /// Print JSON at the end, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SortKey {
    /// Bytes received and sent
    Traffic,
    /// Bytes received
    Received,
    /// Bytes sent
    Sent,
    /// Packets received and sent
    Packets,
    /// Frames dropped (networks)
    Drops,
    /// Round trip (peers)
    Rtt,
    /// By name, from a to z
    Name,
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

/// Reads a number with K, M or G behind it, or without.
fn parse_scaled(text: &str, base: u64) -> Option<u64> {
    let exponent = match text.chars().last()?.to_ascii_uppercase() {
        'K' => 1,
        'M' => 2,
        'G' => 3,
        _ => 0,
    };
    let number = if exponent > 0 { text.get(..text.len() - 1)? } else { text };
    number.parse::<u64>().ok()?.checked_mul(base.pow(exponent)).filter(|n| *n > 0)
}

fn parse_size(text: &str) -> Result<u64, String> {
    let size = parse_scaled(text, 1024).filter(|size| (1024..=MAX_CAPTURE_LEN).contains(size));
    size.ok_or_else(|| format!("`{text}` is not a size from 1K to 16G"))
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = parse_scaled(text, 1000).filter(|rate| (100_000..=MAX_BENCH_RATE).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is not a rate from 100K to 40G"))
}

fn parse_capture_time(text: &str) -> Result<Duration, String> {
    let time = parse_span(text)?;
    if time > MAX_CAPTURE_TIME { Err(format!("`{text}` is more than 1h")) } else { Ok(time) }
}

fn parse_bench_time(text: &str) -> Result<Duration, String> {
    let time = parse_seconds(text)?;
    if time > MAX_BENCH_TIME { Err(format!("`{text}` is more than 30 seconds")) } else { Ok(time) }
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
    fn sizes_and_rates_have_a_scale() {
        assert_eq!((parse_size("256M"), parse_size("2048")), (Ok(256 << 20), Ok(2048)));
        assert_eq!((parse_rate("500M"), parse_rate("1g")), (Ok(500_000_000), Ok(1_000_000_000)));
        for bad in ["", "M", "0", "17G", "1.5G", "-1K", "99999999999999999999", "1é"] {
            assert!(parse_size(bad).is_err() && parse_rate(bad).is_err() || bad == "17G", "{bad}");
        }
        assert!(parse_size("17G").is_err() && parse_rate("41G").is_err() && parse_rate("99K").is_err());
        assert!(parse_capture_time("2h").is_err() && parse_bench_time("31").is_err());
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
