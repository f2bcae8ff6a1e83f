//! Messages about a measurement of throughput. The node carries them; what they lead to is its caller's.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use weft_wire::PeerId;

use crate::control::Control;
use crate::node::Node;

/// What two hosts say about one run of a bench. `run` is a number of the choice of who began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BenchMessage {
    /// Will you take part, for so many milliseconds in all?
    Begin {
        /// The run.
        run: u32,
        /// Both ways together.
        time_ms: u32,
    },
    /// Answers [`Begin`](Self::Begin): datagrams of the run are counted from now on.
    Ready {
        /// The run.
        run: u32,
    },
    /// Answers [`Begin`](Self::Begin): no.
    Refused {
        /// The run.
        run: u32,
        /// Why not.
        why: BenchRefusal,
    },
    /// What has arrived so far, every 50 ms.
    Report {
        /// The run.
        run: u32,
        /// Datagrams.
        n: u64,
        /// Bytes of their frames.
        len: u64,
        /// Datagrams up to the newest of them, those that are missing included.
        top: u64,
    },
    /// Send now.
    Send {
        /// The run.
        run: u32,
        /// For so many milliseconds.
        time_ms: u32,
        /// Never more than so many bytes of frames a second.
        max_rate: u64,
    },
    /// All was sent.
    Done {
        /// The run.
        run: u32,
        /// Datagrams.
        n: u64,
    },
    /// The run is over, or given up.
    End {
        /// The run.
        run: u32,
    },
}

/// Why a host takes no part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BenchRefusal {
    /// Another run is under way there.
    Busy,
    /// It took part in so many that it must rest.
    Spent {
        /// Seconds until it would.
        wait_s: u32,
    },
}

impl BenchMessage {
    /// The run that it is about.
    #[must_use]
    pub const fn run(&self) -> u32 {
        match *self {
            Self::Begin { run, .. }
            | Self::Ready { run }
            | Self::Refused { run, .. }
            | Self::Report { run, .. }
            | Self::Send { run, .. }
            | Self::Done { run, .. }
            | Self::End { run } => run,
        }
    }
}

impl Node {
    /// Says something about a bench to a peer, inside a session. `false`: there is none.
    pub fn say_bench(&mut self, peer: PeerId, message: &BenchMessage, now: Instant) -> bool {
        self.say(peer, &Control::Bench(*message).to_bytes(), false, now)
    }
}
