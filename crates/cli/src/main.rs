//! weft: the daemon, its command line and the entrypoint of the managed plugin in one program.

mod args;
mod bench;
mod capture;
mod daemon;
mod docker;
mod doctor;
mod manual;
mod mtu;
mod ping;
mod report;
mod secret;
mod status;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use args::{Args, Command, Part, SecretCommand};
use clap::Parser;
use weft_api::{Judgement, Order};

fn main() -> ExitCode {
    let result = match Args::try_parse() {
        Ok(args) => dispatch(args),
        // Only settings of the environment can be wrong there, and dockerd shows nothing of a plugin that ends.
        Err(error) if std::env::args().any(|arg| arg == "--plugin") => {
            daemon::run_with_fault(&first_line(&error))
        }
        Err(error) => error.exit(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn dispatch(args: Args) -> anyhow::Result<ExitCode> {
    let socket = args.socket;
    match args.command {
        Command::Run(run) => daemon::run(&run),
        Command::Status { part, view } => block_on(status::status(socket, part, view)),
        Command::Peers { view } => block_on(status::status(socket, Some(Part::Peers), view)),
        Command::Ping(args) => Ok(or_two(block_on(ping::ping(socket, args)))),
        Command::Mtu { peer, probe, json } => Ok(or_two(block_on(mtu::mtu(socket, peer, probe, json)))),
        Command::Capture(args) => block_on(capture::capture(socket, args)),
        Command::Bench(args) => Ok(or_two(block_on(bench::bench(socket, args)))),
        Command::Top(args) => block_on(top::top(socket, args)),
        Command::Doctor { json } => block_on(doctor::doctor(socket, json)),
        Command::Connect { host } => block_on(secret::carry_out(socket, &Order::Connect { host })),
        Command::Report { out } => block_on(report::report(socket, out)),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::pages(&dir),
        Command::Init { out } => block_on(secret::init(socket, out)),
        Command::Token { ttl, uses } => block_on(secret::token(socket, ttl, uses)),
        Command::Join { host, token } => block_on(secret::join(socket, host, token)),
        Command::Revoke { peer } => block_on(judge(socket, peer, Judgement::Revoked)),
        Command::Allow { peer } => block_on(judge(socket, peer, Judgement::Allowed)),
        Command::Forget { peer } => block_on(judge(socket, peer, Judgement::Forgotten)),
        Command::Secret(SecretCommand::Show { next }) => block_on(secret::show(socket, next)),
        Command::Secret(SecretCommand::Rotate(step)) => block_on(secret::rotate(socket, step)),
        Command::Secret(SecretCommand::Set { file }) => block_on(secret::set(socket, file)),
    }
}

/// For commands whose exit status 1 is an answer.
fn or_two(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("weft: {error:#}");
        ExitCode::from(2)
    })
}

async fn judge(socket: Option<PathBuf>, peer: String, judgement: Judgement) -> anyhow::Result<ExitCode> {
    secret::carry_out(socket, &Order::Judge { peer, judgement }).await
}

/// Commands wait for one answer; a thread is enough.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
