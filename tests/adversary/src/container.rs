//! A container that may open raw sockets, as Docker lets every container by default.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::{
    forge::{Cast, END},
    port::Port,
};

#[derive(Debug, Args)]
pub(crate) struct ContainerArgs {
    /// The container's interface
    #[arg(long, default_value = "eth0")]
    interface: String,
    #[command(flatten)]
    cast: Cast,
    /// How often each frame is sent
    #[arg(long, default_value_t = 5)]
    count: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    /// Frames by label.
    sent: BTreeMap<String, u64>,
}

pub(crate) fn run(args: &ContainerArgs) -> Result<Sent> {
    let port = Port::open(&args.interface)?;
    let mut frames = vec![("honest", args.cast.honest("honest"))];
    frames.extend(args.cast.forged());
    for _ in 0..args.count {
        for (_, frame) in &frames {
            port.send(frame)?;
        }
    }
    port.send(&args.cast.honest(END))?;
    Ok(Sent { sent: frames.iter().map(|(label, _)| ((*label).to_owned(), args.count)).collect() })
}
