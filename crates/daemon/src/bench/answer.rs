//! The side that is asked to take part.
//!
//! A malicious member can have no more than an operator: one run at a time, datagrams to itself alone, no faster than it
//! says that they arrive, and a share of the time.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tracing::{info, warn};
use weft_api::{MAX_BENCH_RATE, MAX_BENCH_TIME};
use weft_node::{BenchMessage, BenchRefusal, Event};
use weft_router::{BenchCounts, BenchSender};
use weft_wire::PeerId;

use super::pace::Pace;
use super::{REPORT_EVERY, Taken, talk, ticks};
use crate::core::{Core, Running};

/// What a run may take beside its two ways.
const MARGIN: Duration = Duration::from_secs(6);
/// A run of which nothing is heard for so long has ended.
const SILENCE: Duration = Duration::from_secs(4);
/// What a run is charged beside them.
const MIN_CHARGE: Duration = Duration::from_secs(2);
/// The time that is given to others: so much at once, and what is used comes back at a quarter of its speed.
const MAX_SHARE: Duration = Duration::from_secs(120);
const SHARE_BACK: u32 = 4;

/// Answers for ever.
pub(crate) async fn answer(core: &Core, running: &Running) -> Infallible {
    let mut events = running.node.events();
    let mut share = Share { left: MAX_SHARE, at: Instant::now() };
    loop {
        let (id, run, time_ms) = match events.recv().await {
            Ok(Event::Bench { id, message: BenchMessage::Begin { run, time_ms } }) => (id, run, time_ms),
            Ok(_) | Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => std::future::pending().await,
        };
        let time = Duration::from_millis(time_ms.into()).min(MAX_BENCH_TIME * 2);
        let refusal = match core.bench.take() {
            None => BenchRefusal::Busy,
            Some(taken) => match share.take(time + MIN_CHARGE, Instant::now()) {
                Ok(()) => {
                    info!(peer = %id, "takes part in a bench");
                    let end = Instant::now() + time + MARGIN;
                    let answering = Answering { running, id, run, time, end };
                    answering.take_part(&mut events, taken).await;
                    continue;
                }
                Err(wait) => {
                    BenchRefusal::Spent { wait_s: u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX) }
                }
            },
        };
        // Whoever stops here is the node's end.
        talk::say(running, id, BenchMessage::Refused { run, why: refusal }).await;
    }
}

/// What is left of the time for others.
struct Share {
    left: Duration,
    at: Instant,
}

impl Share {
    /// Takes `time`, or says how long it takes until there is so much.
    fn take(&mut self, time: Duration, now: Instant) -> Result<(), Duration> {
        let back = now.saturating_duration_since(self.at) / SHARE_BACK;
        self.left = (self.left + back).min(MAX_SHARE);
        self.at = now;
        match self.left.checked_sub(time) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err((time - self.left) * SHARE_BACK),
        }
    }
}

/// One run.
struct Answering<'a> {
    running: &'a Running,
    id: PeerId,
    run: u32,
    /// That it was asked for.
    time: Duration,
    end: Instant,
}

impl Answering<'_> {
    async fn take_part(&self, events: &mut tokio::sync::broadcast::Receiver<Event>, _taken: Taken) {
        let Self { running, id, run, end, .. } = *self;
        let receiver = running.router.expect_bench(id, run);
        let mut sending: Option<(BenchSender, Pace)> = None;
        let (mut heard_at, mut counted) = (Instant::now(), BenchCounts::default());
        let mut tick = ticks(REPORT_EVERY);
        self.say(BenchMessage::Ready { run }).await;
        loop {
            tokio::select! {
                event = events.recv() => {
                    let message = match event {
                        Ok(Event::Bench { id: from, message }) if from == id && message.run() == run => message,
                        Ok(Event::Bench { id, message: BenchMessage::Begin { run, .. } }) => {
                            let refused = BenchMessage::Refused { run, why: BenchRefusal::Busy };
                            talk::say(running, id, refused).await;
                            continue;
                        }
                        Ok(_) | Err(RecvError::Lagged(_)) => continue,
                        Err(RecvError::Closed) => return,
                    };
                    heard_at = Instant::now();
                    match message {
                        BenchMessage::Begin { .. } => self.say(BenchMessage::Ready { run }).await,
                        BenchMessage::Done { .. } => self.report(receiver.counts()).await,
                        BenchMessage::Send { time_ms, max_rate, .. } if sending.is_none() => {
                            sending = self.send(time_ms, max_rate);
                        }
                        BenchMessage::Report { n, len, top, .. } => {
                            if let Some((sender, pace)) = &mut sending {
                                let counts = BenchCounts { n, len, top };
                                sender.set_rate(pace.report(counts, sender.counts().len, heard_at));
                            }
                        }
                        BenchMessage::End { .. } => return,
                        _ => {}
                    }
                }
                _ = tick.tick() => {
                    let now = Instant::now();
                    if let Some((sender, pace)) = &mut sending {
                        let Some(rate) = pace.wait(now) else { return };
                        sender.set_rate(rate);
                        if sender.is_done() {
                            let n = sender.counts().n;
                            self.say(BenchMessage::Done { run, n }).await;
                        }
                    } else {
                        let counts = receiver.counts();
                        if counts != counted {
                            (heard_at, counted) = (now, counts);
                        }
                        if counts.n > 0 {
                            self.report(counts).await;
                        }
                    }
                    if now > end || now > heard_at + SILENCE {
                        return;
                    }
                }
            }
        }
    }

    /// Sends to who asked, and to nobody else.
    fn send(&self, time_ms: u32, max_rate: u64) -> Option<(BenchSender, Pace)> {
        let time = Duration::from_millis(time_ms.into()).min(MAX_BENCH_TIME).min(self.time);
        let pace = Pace::new(max_rate.clamp(1, MAX_BENCH_RATE / 8), Instant::now());
        match self.running.router.send_bench(self.id, self.run, time, pace.rate()) {
            Ok(sender) => Some((sender, pace)),
            Err(error) => {
                warn!(%error, "no thread for a bench");
                None
            }
        }
    }

    async fn report(&self, BenchCounts { n, len, top }: BenchCounts) {
        self.say(BenchMessage::Report { run: self.run, n, len, top }).await;
    }

    async fn say(&self, message: BenchMessage) {
        // Of the node's end the next event tells.
        talk::say(self.running, self.id, message).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_have_a_share_of_the_time_and_no_more() {
        let start = Instant::now();
        let mut share = Share { left: MAX_SHARE, at: start };
        let ten = Duration::from_secs(10);
        assert_eq!((0..20).take_while(|_| share.take(ten, start).is_ok()).count(), 12);
        assert_eq!(share.take(ten, start), Err(Duration::from_secs(40)));
        assert_eq!(share.take(ten, start + Duration::from_secs(20)), Err(Duration::from_secs(20)));
        assert_eq!(share.take(ten, start + Duration::from_secs(40)), Ok(()));
        // A day of asking every second.
        let day =
            (0..86_400).filter(|s| share.take(ten, start + Duration::from_secs(100 + s)).is_ok()).count();
        assert!((2100..=2200).contains(&day), "{day}");
    }
}
