//! How fast to send: what arrives is followed, so that nothing collapses.

use std::time::Duration;

use tokio::time::Instant;
use weft_router::BenchCounts;

/// Bytes a second to begin with: 100 Mb/s.
const FIRST_RATE: f64 = 12_500_000.0;
/// The least, so that something goes on arriving.
const MIN_RATE: f64 = 125_000.0;
/// By what it grows with each report until something is lost, and after that.
const FIRST_GROWTH: f64 = 1.5;
const GROWTH: f64 = 1.02;
/// What arrives of what was sent up to it, when nothing was lost but a little: something is at any rate, somewhere.
const WHOLE: f64 = 0.98;
/// After a loss: a little less than arrived, so that queues empty.
const BACK: f64 = 0.95;
/// More than this over what really is sent is of no use: the processor is the limit.
const MOST_OVER: f64 = 1.5;
/// Silence after which the rate is halved, again and again, and after which nobody is there any more.
const DOUBT_AFTER: Duration = Duration::from_millis(300);
const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
/// Reports that come closer together say little: they were held up.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// The rate of one sender.
pub(super) struct Pace {
    rate: f64,
    max: f64,
    has_lost: bool,
    /// At the last report: what had arrived, and the bytes that had been sent.
    arrived: BenchCounts,
    sent: u64,
    at: Instant,
    heard_at: Instant,
    halved_at: Instant,
}

impl Pace {
    pub(super) fn new(max_rate: u64, now: Instant) -> Self {
        let max = max_rate as f64;
        Self {
            rate: FIRST_RATE.min(max),
            max,
            has_lost: false,
            arrived: BenchCounts::default(),
            sent: 0,
            at: now,
            heard_at: now,
            halved_at: now,
        }
    }

    /// Bytes a second.
    pub(super) fn rate(&self) -> u64 {
        self.rate as u64
    }

    /// So much has arrived, as the receiver says, and so many bytes were sent, in all.
    pub(super) fn report(&mut self, arrived: BenchCounts, sent: u64, now: Instant) -> u64 {
        self.heard_at = now;
        self.halved_at = now;
        let time = now.saturating_duration_since(self.at);
        let before = self.arrived;
        // Reports may overtake each other.
        if time < MIN_INTERVAL
            || arrived.top <= before.top
            || arrived.n < before.n
            || arrived.len < before.len
        {
            return self.rate();
        }
        let per_second = |bytes: u64| bytes as f64 / time.as_secs_f64();
        let (arriving, sending) =
            (per_second(arrived.len - before.len), per_second(sent.saturating_sub(self.sent)));
        let (n_arrived, n_sent) = ((arrived.n - before.n) as f64, (arrived.top - before.top) as f64);
        (self.arrived, self.sent, self.at) = (arrived, sent, now);
        let next = if n_arrived >= n_sent * WHOLE {
            let growth = if self.has_lost { GROWTH } else { FIRST_GROWTH };
            (self.rate * growth).min((sending * MOST_OVER).max(FIRST_RATE))
        } else {
            self.has_lost = true;
            arriving * BACK
        };
        self.rate = next.clamp(MIN_RATE.min(self.max), self.max);
        self.rate()
    }

    /// Nothing was reported; `None`: for so long that nothing will be.
    pub(super) fn wait(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.heard_at) >= GIVE_UP_AFTER {
            return None;
        }
        if now.saturating_duration_since(self.halved_at) >= DOUBT_AFTER {
            self.halved_at = now;
            self.rate = (self.rate / 2.0).max(MIN_RATE.min(self.max));
        }
        Some(self.rate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(50);

    /// A path that carries so many bytes a second and drops the rest, in virtual time, with datagrams of 1000 bytes; what
    /// arrives is known two steps later. Returns what arrived and was sent in the last half, in bytes.
    fn run(pace: &mut Pace, carries: f64, processor: f64, n_steps: usize) -> (f64, f64) {
        let mut now = pace.at;
        let (mut arrived, mut sent, mut history) = (0.0_f64, 0.0_f64, vec![(0.0, 0.0)]);
        for step in 0..n_steps {
            now += STEP;
            let tried = (pace.rate() as f64).min(processor) * STEP.as_secs_f64();
            sent += tried;
            arrived += tried.min(carries * STEP.as_secs_f64());
            history.push((arrived, sent));
            if step >= 2 {
                let (arrived, top) = history[step - 1];
                let n = |bytes: f64| (bytes / 1000.0) as u64;
                let counts = BenchCounts { n: n(arrived), len: arrived as u64, top: n(top) };
                pace.report(counts, sent as u64, now);
            }
            pace.wait(now).unwrap();
        }
        let half = history[n_steps / 2];
        (arrived - half.0, sent - half.1)
    }

    #[test]
    fn what_the_path_carries_is_found_and_kept_with_little_loss() {
        for carries in [1e6, 12.5e6, 125e6, 1.25e9] {
            let mut pace = Pace::new(5_000_000_000, Instant::now());
            let (arrived, sent) = run(&mut pace, carries, f64::MAX, 200);
            let ideal = carries * 5.0;
            assert!(arrived > 0.9 * ideal, "{carries}: {arrived} of {ideal}");
            assert!(sent < arrived * 1.1, "{carries}: {sent} for {arrived}");
        }
    }

    #[test]
    fn neither_the_processor_nor_the_most_is_exceeded() {
        let mut pace = Pace::new(5_000_000_000, Instant::now());
        run(&mut pace, f64::MAX, 1e8, 100);
        assert!(pace.rate() <= 150_000_000, "{}", pace.rate());
        let mut pace = Pace::new(1_000_000, Instant::now());
        let (arrived, _) = run(&mut pace, f64::MAX, f64::MAX, 100);
        assert!((0.95..=1.01).contains(&(arrived / 2.5e6)), "{arrived}");
    }

    #[test]
    fn silence_slows_it_down_and_then_ends_it() {
        let start = Instant::now();
        let mut pace = Pace::new(5_000_000_000, start);
        let first = pace.rate();
        assert_eq!(pace.wait(start + Duration::from_millis(100)), Some(first));
        assert_eq!(pace.wait(start + Duration::from_millis(300)), Some(first / 2));
        assert_eq!(pace.wait(start + Duration::from_millis(400)), Some(first / 2));
        assert_eq!(pace.wait(start + Duration::from_millis(700)), Some(first / 4));
        assert_eq!(pace.wait(start + Duration::from_secs(3)), None);
    }
}
