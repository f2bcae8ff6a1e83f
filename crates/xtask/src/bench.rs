//! `cargo xtask bench`: weft beside the raw link, kernel VXLAN and other userspace overlays, in one run.
//!
//! Two namespaces stand for hosts, each with a "container" namespace; real sockets send through the whole path. The
//! machine's speed drifts, so configurations take turns within a round, and what counts is the ratio of the medians of
//! one run.

mod ground;
mod measure;
mod overlay;
mod plot;
mod report;
mod shell;
mod weft;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use ground::{Ground, Underlay};
use measure::Figures;
use overlay::Overlay;

use crate::plugin;

/// What `cargo xtask bench` is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Rounds; the figures are medians over them
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Only these configurations, separated by commas: raw, vxlan, wireguard-go, vpncloud, forwarder, weft-aes,
    /// weft-chacha, bridge, bridge-of-weft-mtu, weft-local
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<Overlay>,
    /// Measure this build of weft too, as weft-before, so that a change is compared within one run
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// MTU of the underlay
    #[arg(long, default_value_t = 1500, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1280..=9000))]
    mtu: u16,
    /// Drop this many of 1000 datagrams between the hosts, after segmentation, so that each datagram counts
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=500))]
    loss_permille: u16,
    /// Let this many of 1000 datagrams arrive after those that were sent after them
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=500))]
    reorder_permille: u16,
    /// Segment in the sender's kernel, as on a link without offloads, though nothing is lost
    #[arg(long)]
    segmented: bool,
    /// Turn off segmentation and checksum offloads of the underlay and of the containers
    #[arg(long)]
    no_offloads: bool,
    /// How TCP finds its speed, whatever this machine's default is: cubic is what Linux takes unless told otherwise
    #[arg(long, default_value = "cubic", value_name = "NAME")]
    congestion_control: String,
    /// Measure TCP only
    #[arg(long)]
    tcp_only: bool,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The programs that are measured.
struct Programs {
    /// weft as this source builds it.
    weft: PathBuf,
    /// Another build, to compare with.
    before: Option<PathBuf>,
}

/// Measures, and prints the table.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    weft_lab::install_missing(&[
        ("iperf3", "iperf3"),
        ("ip", "iproute2"),
        ("ethtool", "ethtool"),
        ("nft", "nftables"),
        ("ping", "iputils-ping"),
        ("wg", "wireguard-tools"),
    ])?;
    let programs = Programs { weft: plugin::build_release()?, before: before(args)? };
    let underlay = Underlay {
        mtu: args.mtu,
        loss_permille: args.loss_permille,
        reorder_permille: args.reorder_permille,
        segmented: args.segmented || args.loss_permille > 0 || args.reorder_permille > 0,
        offloads: !args.no_offloads,
        congestion_control: args.congestion_control.clone(),
    };
    let mut wanted = if args.only.is_empty() { Overlay::ALL.to_vec() } else { args.only.clone() };
    if args.before.is_some() && !wanted.contains(&Overlay::WeftBefore) {
        // Beside what it is compared with, so that the machine's drift is the least.
        let place = wanted.iter().position(|overlay| *overlay == Overlay::WeftAes).unwrap_or(wanted.len());
        wanted.insert(place, Overlay::WeftBefore);
    }
    let mut rounds: BTreeMap<Overlay, Vec<Figures>> = BTreeMap::new();
    for round in 1..=args.runs {
        for overlay in &wanted {
            eprintln!("round {round} of {}: {overlay}", args.runs);
            let ground = Ground::new(&underlay).context("cannot lay out the namespaces")?;
            let up = match overlay.start(&ground, &programs) {
                Ok(up) => up,
                Err(error) if overlay.is_optional() => {
                    eprintln!("  left out: {error:#}");
                    continue;
                }
                Err(error) => return Err(error.context(format!("cannot start {overlay}"))),
            };
            let figures = measure::all(&ground, &up, args.seconds, args.tcp_only)
                .with_context(|| format!("cannot measure {overlay}"))?;
            eprintln!("  {figures}");
            rounds.entry(*overlay).or_default().push(figures);
        }
    }
    ensure!(!rounds.is_empty(), "nothing was measured");
    let medians = rounds.iter().map(|(overlay, figures)| (*overlay, Figures::median(figures))).collect();
    let report = report::Report::new(medians, underlay, args.runs, args.seconds);
    print!("{report}");
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report.json())? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, plot::svg(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The other build, by its whole path, since it is started from other folders.
fn before(args: &BenchArgs) -> Result<Option<PathBuf>> {
    ensure!(
        args.before.is_some() || !args.only.contains(&Overlay::WeftBefore),
        "weft-before is another build of weft: name it by --before PROGRAM"
    );
    args.before
        .as_ref()
        .map(|path| path.canonicalize().with_context(|| format!("cannot find {}", path.display())))
        .transpose()
}
