//! Developer commands: `cargo xtask test`, `demo`, `bench`, `plugin`, `deb`, `tidy`.

mod bench;
mod cargo;
mod cross;
mod deb;
mod demo;
mod plugin;
mod supply;
mod test;
mod tidy;

use std::{env, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use weft_lab::Engine;

/// Developer commands of weft.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check and test, or one end-to-end suite
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --suite main --engine 28.5.2\n  \
        cargo xtask test --suite main -- exercise"
    )]
    Test(test::TestArgs),
    /// Bring up a two-host swarm with weft, show that it works, and leave it up
    #[command(
        after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --enter host1\n  cargo xtask demo --down"
    )]
    Demo {
        /// Remove every trace of it
        #[arg(long, conflicts_with = "enter")]
        down: bool,
        /// Open a shell on one of its hosts
        #[arg(long, value_name = "HOST")]
        enter: Option<String>,
        /// Docker engine of its hosts: bookworm, trixie, sid, or a version of these
        #[arg(long, default_value = "sid", value_name = "NAME")]
        engine: Engine,
    },
    /// Measure weft beside the raw link, kernel VXLAN, wireguard-go and vpncloud, in one run
    #[command(
        after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --only vxlan,weft-aes --runs 5 --json figures.json"
    )]
    Bench(bench::BenchArgs),
    /// Build the release and write the managed plugin's directory, for `docker plugin create`
    Plugin {
        /// Where config.json and rootfs/ are written
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For machines of another architecture than this one's
        #[arg(long, value_name = "ARCH")]
        arch: Option<Arch>,
    },
    /// Build the release and write a Debian package of the daemon and the command line
    Deb,
    /// Check the order of the crates, the length of files, where unsafe code may stand, and licences
    Tidy,
}

/// What a plugin can be made for anywhere.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Arch {
    Arm64,
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Demo { down: true, .. } => demo::down().map(|()| true),
        Command::Demo { enter: Some(host), .. } => demo::enter(&host).map(|()| true),
        Command::Demo { engine, .. } => demo::up(engine).map(|()| true),
        Command::Bench(args) => bench::run(&args).map(|()| true),
        Command::Plugin { out, arch: Some(Arch::Arm64) } if env::consts::ARCH != "aarch64" => {
            cross::build_release().and_then(|(weft, base)| plugin::make_of(&weft, &base, &out)).map(|()| true)
        }
        Command::Plugin { out, .. } => {
            plugin::build_release().and_then(|weft| plugin::make(&weft, &out)).map(|()| true)
        }
        Command::Deb => deb::run().map(|file| {
            println!("{}", file.display());
            true
        }),
        Command::Tidy => tidy::run().map(|problems| {
            for problem in &problems {
                eprintln!("tidy: {problem}");
            }
            problems.is_empty()
        }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
