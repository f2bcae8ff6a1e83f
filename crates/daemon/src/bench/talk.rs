//! What two hosts say about one run.

use std::time::Duration;

use rand::RngExt;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use weft_node::{BenchMessage, Event};
use weft_wire::PeerId;

use super::Broken;
use crate::core::Running;

/// Says and hears what is about one run with one peer.
pub(super) struct Talk<'a> {
    running: &'a Running,
    peer: PeerId,
    /// The run's number.
    pub(super) run: u32,
    events: broadcast::Receiver<Event>,
}

/// What concerns the run.
pub(super) enum Heard {
    Said(BenchMessage),
    Echo { nonce: u32, rtt: Duration },
}

impl<'a> Talk<'a> {
    /// A new run.
    pub(super) fn new(running: &'a Running, peer: PeerId) -> Self {
        Self { running, peer, run: rand::rng().random(), events: running.node.events() }
    }

    pub(super) async fn say(&self, message: BenchMessage) -> Result<(), Broken> {
        say(self.running, self.peer, message).await.ok_or(Broken::Stopped)
    }

    pub(super) async fn ask_for_echo(&self, echoes: &mut Echoes) -> Result<(), Broken> {
        let peer = self.peer;
        let sent = self.running.node.call(move |node, now| node.send_echo(peer, now, &mut rand::rng()));
        echoes.open.extend(sent.await.ok_or(Broken::Stopped)?);
        Ok(())
    }

    pub(super) async fn hear(&mut self) -> Result<Heard, Broken> {
        loop {
            match self.events.recv().await {
                Ok(Event::Bench { id, message }) if id == self.peer && message.run() == self.run => {
                    return Ok(Heard::Said(message));
                }
                Ok(Event::Echoed { id, nonce, rtt }) if id == self.peer => {
                    return Ok(Heard::Echo { nonce, rtt });
                }
                // What was missed is said again.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Err(Broken::Stopped),
            }
        }
    }

    /// `None`: nothing until then.
    pub(super) async fn hear_until(&mut self, deadline: Instant) -> Result<Option<Heard>, Broken> {
        match tokio::time::timeout_at(deadline, self.hear()).await {
            Ok(heard) => heard.map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// `None`: the node has stopped. That there is no session is no error: it is said again, or missed.
pub(super) async fn say(running: &Running, peer: PeerId, message: BenchMessage) -> Option<()> {
    running.node.call(move |node, now| node.say_bench(peer, &message, now)).await.map(|_| ())
}

/// Echoes of one phase.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    /// Asked for and not back.
    open: Vec<u32>,
    rtts: Vec<Duration>,
}

impl Echoes {
    pub(super) fn take(&mut self, nonce: u32, rtt: Duration) {
        if let Some(place) = self.open.iter().position(|open| *open == nonce) {
            self.open.swap_remove(place);
            self.rtts.push(rtt);
        }
    }

    pub(super) fn n_open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn least(&self) -> Option<Duration> {
        self.rtts.iter().min().copied()
    }

    pub(super) fn most(&self) -> Option<Duration> {
        self.rtts.iter().max().copied()
    }

    pub(super) fn mean(&self) -> Option<Duration> {
        let n = u32::try_from(self.rtts.len()).ok().filter(|n| *n > 0)?;
        Some(self.rtts.iter().sum::<Duration>() / n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_echoes_that_were_asked_for_count_and_once() {
        let mut echoes = Echoes { open: vec![1, 2, 3], ..Echoes::default() };
        for (nonce, ms) in [(1, 10), (1, 99), (9, 99), (3, 30)] {
            echoes.take(nonce, Duration::from_millis(ms));
        }
        assert_eq!(echoes.n_open(), 1);
        let ms = |time: Option<Duration>| time.map(|time| time.as_millis());
        assert_eq!([echoes.least(), echoes.mean(), echoes.most()].map(ms), [Some(10), Some(20), Some(30)]);
        assert_eq!(Echoes::default().mean(), None);
    }
}
