//! Messages on their way out: small ones at once, bulk paced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::event::Target;

/// Bytes of bulk that may go at once.
const BURST: f64 = 128_000.0;
/// Bytes of bulk that may wait; beyond it those who ask are to ask someone else.
const MAX_WAITING: usize = 512_000;

#[derive(Debug)]
pub(super) struct Outbox {
    ready: VecDeque<(Target, Vec<u8>)>,
    bulk: VecDeque<(Target, Vec<u8>)>,
    waiting_len: usize,
    tokens: f64,
    rate: f64,
    at: Instant,
}

impl Outbox {
    pub(super) fn new(now: Instant, rate: u32) -> Self {
        Self {
            ready: VecDeque::new(),
            bulk: VecDeque::new(),
            waiting_len: 0,
            tokens: BURST,
            rate: f64::from(rate.max(10_000)),
            at: now,
        }
    }

    pub(super) fn push(&mut self, to: Target, message: Vec<u8>) {
        debug_assert!(message.len() <= crate::MAX_MESSAGE_LEN);
        self.ready.push_back((to, message));
    }

    /// Queues behind earlier bulk. `false` when too much waits already: the message is dropped.
    pub(super) fn push_bulk(&mut self, to: Target, message: Vec<u8>) -> bool {
        debug_assert!(message.len() <= crate::MAX_MESSAGE_LEN);
        if self.waiting_len + message.len() > MAX_WAITING {
            return false;
        }
        self.waiting_len += message.len();
        self.bulk.push_back((to, message));
        true
    }

    /// Lets go what the rate allows.
    pub(super) fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.rate).min(BURST);
        while self.tokens > 0.0
            && let Some((to, message)) = self.bulk.pop_front()
        {
            self.tokens -= message.len() as f64;
            self.waiting_len -= message.len();
            self.ready.push_back((to, message));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let needed = (4_000.0 - self.tokens).max(0.0) / self.rate;
        (!self.bulk.is_empty()).then(|| self.at + Duration::from_secs_f64(needed))
    }

    pub(super) fn pop(&mut self) -> Option<(Target, Vec<u8>)> {
        self.ready.pop_front()
    }
}
