//! Between two hosts: passes on what they send each other, and first changes a bit of it.
//!
//! The first datagram of each kind is held back until the receiver has been sent it with each single bit flipped. So none
//! of these is refused merely for having been seen before, and the original still has to be taken afterwards.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use weft_wire::{Header, Lane, MessageType};

use crate::{flip::flips, packet::Udp, port::Port};

/// Longest wait for the answer to a flipped datagram.
const ANSWER: Duration = Duration::from_millis(40);
/// How long one side is listened to before the other gets its turn.
const TURN: Duration = Duration::from_micros(500);
/// Data datagrams at most this long are meddled with, so that the whole of one takes no second.
const MAX_LEN: usize = 320;
const BURST: usize = 64;
/// mac2, all zeros without a cookie, and mac1 after it are the last of an Init.
const MAC_LEN: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct MeddleArgs {
    /// Where the two hosts are connected; neither may be a port of a bridge
    #[arg(long, num_args = 2, value_names = ["INTERFACE", "INTERFACE"])]
    between: Vec<String>,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Pass frames of containers on, without changing a bit of them
    #[arg(long)]
    spare_frames: bool,
    /// Change nothing but Cookies to this port
    #[arg(long, value_name = "PORT")]
    cookies_to: Option<u16>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Meddled {
    /// By kind and direction.
    kinds: BTreeMap<String, Kind>,
    passed: u64,
}

#[derive(Debug, Default, Serialize)]
struct Kind {
    /// Datagrams that were sent with a bit flipped, by the header that they then had: what kind of datagram the receiver
    /// takes it for.
    flipped: u64,
    /// Of these, those that still have the form of a data datagram or no valid header.
    flipped_for_workers: u64,
    /// Datagrams of the kind that a receiver answers with who took one for good.
    answers: u64,
}

pub(crate) fn run(args: &MeddleArgs) -> Result<Meddled> {
    let [first, second] = args.between.as_slice() else { anyhow::bail!("two interfaces are needed") };
    let sides = [Side::open(first)?, Side::open(second)?];
    let mut meddler = Meddler {
        sides,
        initiators: BTreeSet::new(),
        spare_frames: args.spare_frames,
        cookies_to: args.cookies_to,
        report: Meddled::default(),
    };
    eprintln!("between {first} and {second}");
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < until {
        for from in [0, 1] {
            meddler.turn(from)?;
        }
    }
    Ok(meddler.report)
}

struct Side {
    name: String,
    port: Port,
    /// Came while an answer was waited for.
    waiting: VecDeque<Vec<u8>>,
    buf: Vec<u8>,
}

impl Side {
    fn open(name: &str) -> Result<Self> {
        let port = Port::open(name)?;
        Ok(Self { name: name.to_owned(), port, waiting: VecDeque::new(), buf: vec![0; 1 << 17] })
    }

    fn next(&mut self, until: Instant) -> Result<Option<Vec<u8>>> {
        match self.waiting.pop_front() {
            Some(frame) => Ok(Some(frame)),
            None => Ok(self.port.receive(&mut self.buf, until)?.map(<[u8]>::to_vec)),
        }
    }
}

struct Meddler {
    sides: [Side; 2],
    /// Session numbers under which initiators wait for data.
    initiators: BTreeSet<u32>,
    spare_frames: bool,
    cookies_to: Option<u16>,
    report: Meddled,
}

impl Meddler {
    /// Passes on what one side has sent.
    fn turn(&mut self, from: usize) -> Result<()> {
        let until = Instant::now() + TURN;
        loop {
            let side = self.sides.get_mut(from).context("a side")?;
            let Some(frame) = side.next(until)? else { return Ok(()) };
            self.pass(from, &frame)?;
        }
    }

    fn pass(&mut self, from: usize, frame: &[u8]) -> Result<()> {
        let to = 1 - from;
        let Some(udp) = Udp::parse(frame) else {
            self.report.passed += 1;
            return self.send(to, frame);
        };
        for datagram in udp.datagrams() {
            if let Some(header) = Header::parse(datagram) {
                self.meddle(from, &udp, &header, datagram)?;
            }
            self.report.passed += 1;
            self.send(to, &udp.frame_with(datagram))?;
        }
        Ok(())
    }

    fn send(&self, to: usize, frame: &[u8]) -> Result<()> {
        self.sides.get(to).context("a side")?.port.send(frame)
    }

    fn meddle(&mut self, from: usize, udp: &Udp, header: &Header, datagram: &[u8]) -> Result<()> {
        let to = 1 - from;
        if header.message == MessageType::Init {
            self.initiators.insert((header.counter >> 36) as u32);
        }
        let is_control = header.receiver.lane() == Lane::CONTROL;
        let kind = match header.message {
            MessageType::Data if is_control => "Data, control".to_owned(),
            MessageType::Data => "Data, frame".to_owned(),
            other => format!("{other:?}"),
        };
        let is_spared = match self.cookies_to {
            Some(port) => header.message != MessageType::Cookie || udp.to.port() != port,
            None => {
                header.message == MessageType::Data
                    && (datagram.len() > MAX_LEN || (!is_control && self.spare_frames))
            }
        };
        let direction = format!("{kind}, {} to {}", self.name(from), self.name(to));
        if is_spared || self.report.kinds.contains_key(&direction) {
            return Ok(());
        }
        let mut done = Kind::default();
        for flipped in flips(datagram, usize::MAX) {
            self.send(to, &udp.frame_with(&flipped))?;
            done.flipped += 1;
            let is_handshake = Header::parse(&flipped).is_some_and(|h| h.message != MessageType::Data);
            done.flipped_for_workers += u64::from(!is_handshake);
            if done.flipped.is_multiple_of(BURST as u64) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // Whatever the receiver sends now is kept for later, and looked at.
        let until = Instant::now() + ANSWER;
        while Instant::now() < until {
            let side = self.sides.get_mut(to).context("a side")?;
            let Some(frame) = side.port.receive(&mut side.buf, until)?.map(<[u8]>::to_vec) else { break };
            done.answers += u64::from(self.is_answer(header.message, &frame));
            if let Some(side) = self.sides.get_mut(to) {
                side.waiting.push_back(frame);
            }
        }
        self.report.kinds.insert(direction, done);
        Ok(())
    }

    fn name(&self, side: usize) -> &str {
        self.sides.get(side).map_or("", |side| side.name.as_str())
    }

    /// Whether only one who took a datagram of the type `taken` for good sends `frame`.
    fn is_answer(&self, taken: MessageType, frame: &[u8]) -> bool {
        let Some(udp) = Udp::parse(frame) else { return false };
        udp.datagrams().iter().filter_map(|datagram| Some((Header::parse(datagram)?, datagram))).any(
            |(header, datagram)| match taken {
                MessageType::Init => matches!(header.message, MessageType::Response | MessageType::Cookie),
                MessageType::Response => header.message == MessageType::Finish,
                MessageType::Finish => {
                    header.message == MessageType::Data
                        && self.initiators.contains(&header.receiver.session())
                }
                // Who took a Cookie sends its Init again, with a mac2.
                MessageType::Cookie => header.message == MessageType::Init && has_mac2(datagram),
                // Sessions speak at any time: here only counters tell.
                MessageType::Data => false,
            },
        )
    }
}

fn has_mac2(init: &[u8]) -> bool {
    let before_mac1 = init.split_last_chunk::<MAC_LEN>().map_or(init, |(before, _)| before);
    !before_mac1.ends_with(&[0; MAC_LEN])
}
