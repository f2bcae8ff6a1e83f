//! `weft bench`: how much gets through to another daemon and back.
//!
//! ```text
//! this host                                    the other
//!   echoes                                       answers
//!   Begin ------------------------------------>  one run at a time, a share of its time: Ready, or Refused
//!   datagrams, faster and faster ------------->  counted
//!   <--------------------------- Report, every 50 ms: the rate follows what arrives
//!   Done ------------------------------------->  Report
//!   Send ------------------------------------->  the same the other way round
//!   End -------------------------------------->
//! ```
//!
//! Both sides hold nothing but a few numbers and one buffer, and end by themselves when the other falls silent.

mod answer;
mod pace;
mod talk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;
use weft_api::{
    BenchDirection, BenchLine, BenchRequest, BenchResult, ControlError, MAX_BENCH_RATE, MAX_BENCH_TIME,
    Pieces,
};
use weft_node::{BenchMessage, BenchRefusal};
use weft_router::BenchCounts;
use weft_wire::PeerId;

use crate::control::{peer_status, view};
use crate::core::{Core, Running};
use crate::orders::{node_stopped, refused, running};
use crate::paths::find_peer;
pub(crate) use answer::answer;
use pace::Pace;
use talk::{Echoes, Heard, Talk};

/// How often what arrived is reported.
const REPORT_EVERY: Duration = Duration::from_millis(50);
/// How often an echo is asked for meanwhile.
const ECHO_EVERY: Duration = Duration::from_millis(100);
/// How often something is said again that was not answered.
const AGAIN: Duration = Duration::from_millis(250);
/// How long a peer has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long what is under way may take after the last datagram.
const LINGER: Duration = Duration::from_millis(400);
/// Echoes before anything is sent, and how long they may take together.
const N_IDLE_ECHOES: usize = 10;
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// The one bench that a host takes part in.
#[derive(Default)]
pub(crate) struct Slot(Arc<AtomicBool>);

/// Held while a bench is under way.
pub(crate) struct Taken(Arc<AtomicBool>);

impl Slot {
    fn take(&self) -> Option<Taken> {
        let free = !self.0.swap(true, Ordering::AcqRel);
        free.then(|| Taken(Arc::clone(&self.0)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Why a run ended before it was done.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// It did not echo either.
    #[error("it does not answer: `weft peers` and `weft doctor` say more")]
    Silent,
    /// It echoes.
    #[error("it answers echoes, and not this: its weft is older than `weft bench`; upgrade it")]
    Unknown,
    #[error("it takes part in another bench at the moment: try again in a minute")]
    Busy,
    #[error("it took part in so many benches that it rests: try again in {0} s")]
    Spent(u32),
    #[error("it fell silent in the middle: what was measured is not to be trusted")]
    FellSilent,
    #[error("this daemon has stopped carrying traffic")]
    Stopped,
    #[error("no thread can be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The client has hung up; nobody reads this.
    #[error("nobody asks any more")]
    Unasked,
}

pub(crate) async fn begin(core: &Arc<Core>, request: BenchRequest) -> Result<Pieces, ControlError> {
    let running = running(core)?;
    let text = request.peer.clone();
    let id = running.node.call(move |node, _| find_peer(node, &text)).await.ok_or_else(node_stopped)??;
    let taken = core.bench.take();
    let taken =
        taken.ok_or_else(|| refused("another bench is under way on this host: try again in a minute"))?;
    let (client, pieces) = Pieces::new();
    let time = Duration::from_millis(request.time_ms).clamp(Duration::from_millis(100), MAX_BENCH_TIME);
    let max_rate = request.max_rate.unwrap_or(MAX_BENCH_RATE).clamp(1, MAX_BENCH_RATE) / 8;
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let _taken = taken;
        let bench =
            Bench { talk: Talk::new(&running, id), running: &running, id, time, max_rate, client: &client };
        info!(peer = %id, time_s = time.as_secs_f64(), "bench begins");
        if let Err(error) = bench.run(&core).await {
            info!(peer = %id, %error, "bench ended early");
            let error = format!("{}: {error}", request.peer);
            // The client may have gone.
            let _ = tell(&client, &BenchLine::Failed { error }).await;
        }
    });
    Ok(pieces)
}

fn encode(line: &BenchLine) -> Bytes {
    // Plain data has no failure.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

async fn tell(client: &mpsc::Sender<Bytes>, line: &BenchLine) -> Result<(), Broken> {
    client.send(encode(line)).await.map_err(|_| Broken::Unasked)
}

/// The side that began it.
struct Bench<'a> {
    talk: Talk<'a>,
    running: &'a Running,
    id: PeerId,
    time: Duration,
    /// Bytes a second.
    max_rate: u64,
    client: &'a mpsc::Sender<Bytes>,
}

impl Bench<'_> {
    async fn run(mut self, core: &Core) -> Result<(), Broken> {
        let idle = self.idle_echoes().await?;
        let begun = self.ask(idle.is_some()).await;
        let measured = match begun {
            Ok(()) => self.measure(core, idle).await,
            Err(error) => Err(error),
        };
        // Else it waits for more until it loses patience.
        let run = self.talk.run;
        self.talk.say(BenchMessage::End { run }).await?;
        measured
    }

    async fn measure(&mut self, core: &Core, idle: Option<Duration>) -> Result<(), Broken> {
        let view = view(self.running).await.ok_or(Broken::Stopped)?;
        let peer = view.peers.iter().find(|peer| peer.id == Some(self.id));
        let status = peer.map(|peer| peer_status(peer, &view, core.settings.port));
        let line = BenchLine::Begin {
            id: self.id.to_string(),
            name: status.as_ref().and_then(|peer| peer.name.clone()).unwrap_or_default(),
            path: status.as_ref().and_then(|peer| peer.path),
            via: status.as_ref().and_then(|peer| peer.via.clone()),
            address: status.as_ref().and_then(|peer| peer.address),
            path_mtu: status.as_ref().and_then(|peer| peer.path_mtu),
            rtt_idle_us: idle.map(micros),
        };
        tell(self.client, &line).await?;
        let result = self.send().await?;
        tell(self.client, &BenchLine::End { direction: BenchDirection::To, result }).await?;
        let result = self.receive().await?;
        tell(self.client, &BenchLine::End { direction: BenchDirection::From, result }).await
    }

    /// Tells of progress, unless the client has not taken in the last: the rate must be looked after.
    fn show(&self, line: &BenchLine) {
        // Whether it has gone is seen elsewhere.
        let _ = self.client.try_send(encode(line));
    }

    /// The least round trip while nothing is sent; `None`: no echo came back.
    async fn idle_echoes(&mut self) -> Result<Option<Duration>, Broken> {
        let (mut echoes, deadline) = (Echoes::default(), Instant::now() + IDLE_LIMIT);
        for _ in 0..N_IDLE_ECHOES {
            self.talk.ask_for_echo(&mut echoes).await?;
            while echoes.n_open() > 0 {
                match self.talk.hear_until(deadline).await? {
                    Some(Heard::Echo { nonce, rtt }) => echoes.take(nonce, rtt),
                    Some(_) => {}
                    None => return Ok(echoes.least()),
                }
            }
        }
        Ok(echoes.least())
    }

    /// Gets the peer to take part.
    async fn ask(&mut self, echoes: bool) -> Result<(), Broken> {
        let run = self.talk.run;
        let time_ms = u32::try_from(self.time.as_millis() * 2).unwrap_or(u32::MAX);
        let deadline = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < deadline {
            self.talk.say(BenchMessage::Begin { run, time_ms }).await?;
            let again = Instant::now() + AGAIN;
            while let Some(heard) = self.talk.hear_until(again).await? {
                match heard {
                    Heard::Said(BenchMessage::Ready { .. }) => return Ok(()),
                    Heard::Said(BenchMessage::Refused { why: BenchRefusal::Busy, .. }) => {
                        return Err(Broken::Busy);
                    }
                    Heard::Said(BenchMessage::Refused { why: BenchRefusal::Spent { wait_s }, .. }) => {
                        return Err(Broken::Spent(wait_s));
                    }
                    _ => {}
                }
            }
        }
        Err(if echoes { Broken::Unknown } else { Broken::Silent })
    }

    /// Measures the way there.
    async fn send(&mut self) -> Result<BenchResult, Broken> {
        let run = self.talk.run;
        let mut pace = Pace::new(self.max_rate, Instant::now());
        let sender = self.running.router.send_bench(self.id, run, self.time, pace.rate())?;
        let mut measure = Measure::new(BenchDirection::To, self.time);
        let mut tick = ticks(ECHO_EVERY);
        let mut done_at: Option<Instant> = None;
        loop {
            tokio::select! {
                heard = self.talk.hear() => match heard? {
                    Heard::Said(BenchMessage::Report { n, len, top, .. }) => {
                        let counts = BenchCounts { n, len, top };
                        sender.set_rate(pace.report(counts, sender.counts().len, Instant::now()));
                        measure.arrived(counts);
                    }
                    Heard::Echo { nonce, rtt } => measure.echoes.take(nonce, rtt),
                    Heard::Said(_) => {}
                },
                _ = tick.tick() => {
                    sender.set_rate(pace.wait(Instant::now()).ok_or(Broken::FellSilent)?);
                    if done_at.is_none() && !sender.is_done() {
                        self.talk.ask_for_echo(&mut measure.echoes).await?;
                        self.show(&measure.progress());
                    }
                }
                () = self.client.closed() => return Err(Broken::Unasked),
            }
            if sender.is_done() {
                let n = sender.counts().n;
                let since = *done_at.get_or_insert_with(Instant::now);
                self.talk.say(BenchMessage::Done { run, n }).await?;
                if measure.total.n >= n || since.elapsed() > LINGER {
                    return Ok(measure.result(n));
                }
            }
        }
    }

    /// Measures the way back.
    async fn receive(&mut self) -> Result<BenchResult, Broken> {
        let run = self.talk.run;
        let receiver = self.running.router.expect_bench(self.id, run);
        let mut measure = Measure::new(BenchDirection::From, self.time);
        let time_ms = u32::try_from(self.time.as_millis()).unwrap_or(u32::MAX);
        let ask = BenchMessage::Send { run, time_ms, max_rate: self.max_rate };
        let (mut tick, mut n_ticks) = (ticks(REPORT_EVERY), 0_u32);
        let limit = Instant::now() + self.time + ANSWER_WITHIN;
        let mut done: Option<(u64, Instant)> = None;
        loop {
            tokio::select! {
                heard = self.talk.hear() => match heard? {
                    Heard::Said(BenchMessage::Done { n, .. }) => {
                        done.get_or_insert_with(|| (n, Instant::now()));
                    }
                    Heard::Echo { nonce, rtt } => measure.echoes.take(nonce, rtt),
                    Heard::Said(_) => {}
                },
                _ = tick.tick() => {
                    let counts = receiver.counts();
                    measure.arrived(counts);
                    if counts.n == 0 && n_ticks.is_multiple_of(5) {
                        self.talk.say(ask).await?;
                    }
                    let BenchCounts { n, len, top } = counts;
                    self.talk.say(BenchMessage::Report { run, n, len, top }).await?;
                    if n_ticks.is_multiple_of(2) && done.is_none() {
                        self.talk.ask_for_echo(&mut measure.echoes).await?;
                        self.show(&measure.progress());
                    }
                    n_ticks += 1;
                    if Instant::now() > limit {
                        return Err(Broken::FellSilent);
                    }
                }
                () = self.client.closed() => return Err(Broken::Unasked),
            }
            if let Some((n, since)) = done
                && (receiver.counts().n >= n || since.elapsed() > LINGER)
            {
                measure.arrived(receiver.counts());
                return Ok(measure.result(n));
            }
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What one way has come to.
struct Measure {
    direction: BenchDirection,
    begin: Instant,
    time: Duration,
    total: BenchCounts,
    /// At the end of the first fifth, and when that was.
    first: Option<(BenchCounts, Instant)>,
    /// When more had arrived than before.
    last: Instant,
    shown: (BenchCounts, Instant),
    echoes: Echoes,
}

impl Measure {
    fn new(direction: BenchDirection, time: Duration) -> Self {
        let begin = Instant::now();
        let total = BenchCounts::default();
        Self {
            direction,
            begin,
            time,
            total,
            first: None,
            last: begin,
            shown: (total, begin),
            echoes: Echoes::default(),
        }
    }

    fn arrived(&mut self, counts: BenchCounts) {
        let now = Instant::now();
        // Reports may overtake each other.
        if counts.n <= self.total.n {
            return;
        }
        (self.total, self.last) = (counts, now);
        if self.first.is_none() && now >= self.begin + self.time / 5 {
            self.first = Some((counts, now));
        }
    }

    fn progress(&mut self) -> BenchLine {
        let (before, then) = std::mem::replace(&mut self.shown, (self.total, Instant::now()));
        let seconds = then.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        BenchLine::Progress {
            direction: self.direction,
            elapsed_ms: u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            rate: ((self.total.len - before.len) as f64 * 8.0 / seconds) as u64,
        }
    }

    fn result(&self, n_sent: u64) -> BenchResult {
        let (first, at) = self.first.unwrap_or((BenchCounts::default(), self.begin));
        let seconds = self.last.saturating_duration_since(at).max(Duration::from_millis(1)).as_secs_f64();
        BenchResult {
            n_sent,
            n_received: self.total.n,
            rate: ((self.total.len - first.len) as f64 * 8.0 / seconds) as u64,
            frame_rate: ((self.total.n - first.n) as f64 / seconds) as u64,
            rtt_us: self.echoes.mean().map(micros),
            rtt_max_us: self.echoes.most().map(micros),
            n_echoes_lost: self.echoes.n_open() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let slot = Slot::default();
        let taken = slot.take();
        assert!(taken.is_some() && slot.take().is_none());
        drop(taken);
        assert!(slot.take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn throughput_is_that_without_the_first_fifth() {
        let mut measure = Measure::new(BenchDirection::To, Duration::from_secs(5));
        for n in 1..=50_u64 {
            tokio::time::advance(Duration::from_millis(100)).await;
            // Slowly for a second, then 1 Mb/s.
            let len = if n <= 10 { n } else { 10 + (n - 10) * 12_500 };
            measure.arrived(BenchCounts { n, len, top: n });
        }
        let result = measure.result(60);
        assert_eq!(
            (result.n_sent, result.n_received, result.rate, result.frame_rate),
            (60, 50, 1_000_000, 10)
        );
        measure.arrived(BenchCounts { n: 3, len: 3, top: 3 });
        assert_eq!(measure.total.n, 50, "an old report");
    }
}
