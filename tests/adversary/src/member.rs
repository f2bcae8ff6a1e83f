//! A member with modified software: it has the secret, keeps the protocol as far as it must, and then cheats.

mod link;
mod records;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use rand::Rng as _;
use serde::Serialize;
use weft_mesh::{EndpointTag, IdentityKey, Membership};
use weft_noise::Suite;
use weft_wire::{InnerKind, NetworkId, PeerId};

use self::link::Link;
use crate::{
    forge::{Cast, END, Endpoint},
    secret,
};

/// How long what is announced takes to be known.
const SPREAD: Duration = Duration::from_secs(2);
/// Between two rounds of forged frames.
const ROUND: Duration = Duration::from_millis(50);
const OVERLAY_MTU: u16 = 1400;

/// What the member does once it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deed {
    /// Nothing: it says its name and stays
    Stay,
    /// Send frames under others' addresses and on others' networks
    Frames,
    /// Send records and membership messages in the victim's name
    Records,
    /// Announce the victim's addresses as its own
    Claim,
}

/// Where the member's id is to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Below the victim's
    Below,
    /// Above it
    Above,
}

#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    /// A peer
    #[arg(long)]
    target: SocketAddr,
    /// The cluster's secret
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,
    /// The suite that it offers
    #[arg(long, default_value_t = Suite::auto())]
    suite: Suite,
    /// The name that it goes by
    #[arg(long, default_value = "adversary")]
    name: String,
    /// UDP port; any without it
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Longest time to wait for a session
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, value_enum, default_value_t = Deed::Stay)]
    deed: Deed,
    /// How long it stays when it does nothing
    #[arg(long, default_value_t = 2.0)]
    stay: f64,
    /// The network that it joins, 12 hexadecimal digits
    #[arg(long, value_parser = parse_network)]
    network: Option<NetworkId>,
    /// A network that it does not join
    #[arg(long, value_parser = parse_network)]
    foreign_network: Option<NetworkId>,
    #[arg(long)]
    own: Option<Endpoint>,
    #[arg(long)]
    to: Option<Endpoint>,
    #[arg(long)]
    victim: Option<Endpoint>,
    /// The victim's host
    #[arg(long)]
    victim_id: Option<PeerId>,
    /// Take a key whose id lies so, beside the victim's
    #[arg(long, value_enum, requires = "victim_id")]
    order: Option<Order>,
    /// How often each forged frame is sent
    #[arg(long, default_value_t = 5)]
    count: u64,
}

fn parse_network(text: &str) -> Result<NetworkId, std::num::ParseIntError> {
    u64::from_str_radix(text, 16).map(NetworkId::from_u48)
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    id: String,
    /// Whether it got a session on which the peer spoke.
    established: bool,
    /// The id and name that the peer showed.
    peer: Option<(String, String)>,
    /// What the peer said when it refused.
    refused: Option<String>,
    /// Datagrams from the peer.
    received: u64,
    /// Forged frames and messages by label.
    sent: BTreeMap<&'static str, u64>,
}

pub(crate) fn run(args: &MemberArgs) -> Result<Report> {
    let seed = seed(args);
    let id = IdentityKey::from_seed(&seed).peer_id();
    let mut report = Report { id: id.to_string(), ..Report::default() };
    let secret = secret::read(&args.secret)?;
    let mut link = Link::new(args.target, args.port, &seed, secret, args.suite, &args.name)?;
    link.run(Duration::from_secs_f64(args.seconds), |link| link.is_heard() || link.refused.is_some())?;
    report.established = link.is_heard();
    if link.is_heard() && link.refused.is_none() {
        match args.deed {
            Deed::Stay => link.run(Duration::from_secs_f64(args.stay), |link| link.refused.is_some())?,
            Deed::Frames => send_frames(&mut link, args, &mut report)?,
            Deed::Records => send_records(&mut link, args, &seed, &mut report)?,
            Deed::Claim => claim(&mut link, args, &mut report)?,
        }
    }
    report.peer = link.peer_name();
    report.refused = link.refused.as_ref().map(|reason| format!("{reason:?}"));
    report.received = link.n_received;
    Ok(report)
}

/// What its key is made of.
fn seed(args: &MemberArgs) -> [u8; 32] {
    loop {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        let id = IdentityKey::from_seed(&seed).peer_id();
        let fits = match (args.order, args.victim_id) {
            (Some(Order::Below), Some(victim)) => id < victim,
            (Some(Order::Above), Some(victim)) => id > victim,
            _ => true,
        };
        if fits {
            return seed;
        }
    }
}

fn cast(args: &MemberArgs) -> Result<Cast> {
    let wanted = "--own, --to and --victim are needed";
    Ok(Cast {
        own: args.own.context(wanted)?,
        to: args.to.context(wanted)?,
        victim: args.victim.context(wanted)?,
    })
}

/// Joins the network with an endpoint, as an honest member does.
fn join(link: &mut Link, args: &MemberArgs, endpoint: Endpoint) -> Result<NetworkId> {
    let network = args.network.context("--network is needed")?;
    link.mesh.join_network(network, Membership { overlay_mtu: OVERLAY_MTU });
    link.mesh.set_local_endpoint(
        network,
        weft_mesh::Endpoint {
            tag: EndpointTag(*b"weft-adversary 1"),
            mac: endpoint.mac,
            addresses: vec![endpoint.ip.into()],
            name: None,
        },
    )?;
    link.run(SPREAD, |_| false)?;
    ensure!(link.is_heard(), "the session is gone");
    Ok(network)
}

fn send_frames(link: &mut Link, args: &MemberArgs, report: &mut Report) -> Result<()> {
    let cast = cast(args)?;
    let network = join(link, args, cast.own)?;
    let forged_number = NetworkId::from_u48(network.get() ^ 1);
    for _ in 0..args.count {
        link.send_frame(InnerKind::Frame, network, &cast.honest("honest"))?;
        *report.sent.entry("honest").or_default() += 1;
        for (label, frame) in cast.forged() {
            link.send_frame(InnerKind::Frame, network, &frame)?;
            link.send_frame(InnerKind::FramePartial, network, &frame)?;
            *report.sent.entry(label).or_default() += 2;
        }
        link.send_frame(InnerKind::Frame, forged_number, &cast.honest("forged-network"))?;
        *report.sent.entry("forged-network").or_default() += 1;
        if let Some(foreign) = args.foreign_network {
            link.send_frame(InnerKind::Frame, foreign, &cast.honest("foreign-network"))?;
            *report.sent.entry("foreign-network").or_default() += 1;
        }
        link.run(ROUND, |_| false)?;
    }
    link.send_frame(InnerKind::Frame, network, &cast.honest(END))?;
    link.run(ROUND, |_| false)
}

fn send_records(link: &mut Link, args: &MemberArgs, seed: &[u8; 32], report: &mut Report) -> Result<()> {
    let cast = cast(args)?;
    let victim = args.victim_id.context("--victim-id is needed")?;
    let network = join(link, args, cast.own)?;
    let seen = std::mem::take(&mut link.mesh_messages);
    let forged = records::forge(&seen, victim, cast.victim.mac, cast.own.mac, seed)?;
    ensure!(!forged.is_empty(), "no record of the victim's endpoint came in {} messages", seen.len());
    for _ in 0..args.count {
        for (label, message) in &forged {
            link.send_mesh(message)?;
            *report.sent.entry(label).or_default() += 1;
        }
        link.run(ROUND, |_| false)?;
    }
    link.send_frame(InnerKind::Frame, network, &cast.honest(END))?;
    link.run(ROUND, |_| false)
}

fn claim(link: &mut Link, args: &MemberArgs, report: &mut Report) -> Result<()> {
    let cast = cast(args)?;
    let network = join(link, args, cast.victim)?;
    for _ in 0..args.count {
        let frame = Cast { own: cast.victim, ..cast }.honest("claimed");
        link.send_frame(InnerKind::Frame, network, &frame)?;
        *report.sent.entry("claimed").or_default() += 1;
        link.run(ROUND, |_| false)?;
    }
    // For as long as it says so, others' frames to the victim may come here.
    link.run(Duration::from_secs_f64(args.stay), |_| false)
}
