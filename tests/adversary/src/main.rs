//! Attacks on weft, for its tests: what an outsider on the path, a member with modified software, or a hostile container
//! can send.
//!
//! Every subcommand ends by itself and prints one line of JSON: what it sent, and what came back. It judges nothing: the
//! tests do, by what the hosts under attack count and deliver.

mod capture;
mod container;
mod flip;
mod flood;
mod forge;
mod hear;
mod meddle;
mod member;
mod packet;
mod port;
mod probe;
mod replay;
mod secret;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Attacks on weft, for its tests
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    attack: Attack,
}

#[derive(Debug, Subcommand)]
enum Attack {
    /// Send bad handshakes at a rate
    Flood(flood::FloodArgs),
    /// Send datagrams of every type without the secret, and count what comes back
    Probe(probe::ProbeArgs),
    /// Send captured datagrams again, byte for byte, from where they came
    Replay(replay::ReplayArgs),
    /// Send captured datagrams with single bits flipped
    Flip(flip::FlipArgs),
    /// Sit between two hosts: before the first datagram of every kind passes, send it with each single bit flipped
    Meddle(meddle::MeddleArgs),
    /// Join as a member, and then cheat
    Member(Box<member::MemberArgs>),
    /// Send forged frames from inside a container
    Container(container::ContainerArgs),
    /// Count frames that another subcommand marked
    Hear(hear::HearArgs),
}

fn main() -> Result<()> {
    let report = match Args::parse().attack {
        Attack::Flood(args) => serde_json::to_value(flood::run(&args)?)?,
        Attack::Probe(args) => serde_json::to_value(probe::run(&args)?)?,
        Attack::Replay(args) => serde_json::to_value(replay::run(&args)?)?,
        Attack::Flip(args) => serde_json::to_value(flip::run(&args)?)?,
        Attack::Meddle(args) => serde_json::to_value(meddle::run(&args)?)?,
        Attack::Member(args) => serde_json::to_value(member::run(&args)?)?,
        Attack::Container(args) => serde_json::to_value(container::run(&args)?)?,
        Attack::Hear(args) => serde_json::to_value(hear::run(&args)?)?,
    };
    println!("{report}");
    Ok(())
}
