//! Which counters of a lane have been seen.

use crate::REPLAY_WINDOW;

const WORD_BITS: u64 = u64::BITS as u64;
/// One word more than the window holds, so that the newest word's unused bits never take from the window.
const N_WORDS: u64 = REPLAY_WINDOW / WORD_BITS + 1;

/// A window over the counters of a lane, moving with the newest (RFC 6479).
///
/// A counter is accepted once, and only while fewer than [`REPLAY_WINDOW`] counters are newer. [`check`](Self::check)
/// stands before opening, so that replays cost no decryption, and [`accept`](Self::accept) after it, so that only
/// what the peer has sealed moves the window.
///
/// ```
/// # use weft_noise::{Replayed, ReplayWindow};
/// let mut window = ReplayWindow::default();
/// window.check(5)?;
/// window.accept(5);
/// assert_eq!(window.check(5), Err(Replayed::Seen));
/// window.accept(20_000);
/// assert_eq!(window.check(6), Err(Replayed::TooOld));
/// # Ok::<(), Replayed>(())
/// ```
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// The counter after the newest accepted one; 0 while there is none.
    next: u64,
    words: [u64; N_WORDS as usize],
}

/// A counter that is not to be accepted. The window is unchanged. Networks cause it by duplicating and delaying, and
/// attackers by replaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Replayed {
    /// It has been accepted before.
    #[error("the counter was seen before")]
    Seen,
    /// It is behind the window, so nobody knows.
    #[error("the counter is older than the replay window")]
    TooOld,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, words: [0; N_WORDS as usize] }
    }
}

impl ReplayWindow {
    /// Whether `counter` may still be accepted.
    ///
    /// # Errors
    /// See [`Replayed`]. `u64::MAX` is always too old; no sender reaches it.
    #[inline]
    pub fn check(&self, counter: u64) -> Result<(), Replayed> {
        if counter == u64::MAX {
            return Err(Replayed::TooOld);
        }
        if counter >= self.next {
            return Ok(());
        }
        if self.next - counter > REPLAY_WINDOW {
            return Err(Replayed::TooOld);
        }
        if self.words[word(counter)] & bit(counter) == 0 { Ok(()) } else { Err(Replayed::Seen) }
    }

    /// Marks `counter`, for which [`check`](Self::check) has just succeeded, as seen.
    #[inline]
    pub fn accept(&mut self, counter: u64) {
        debug_assert!(self.check(counter).is_ok());
        if counter >= self.next {
            let newest = self.next.saturating_sub(1);
            let n_entered = (counter / WORD_BITS - newest / WORD_BITS).min(N_WORDS);
            for step in 0..n_entered {
                self.words[word(counter - step * WORD_BITS)] = 0;
            }
            self.next = counter.saturating_add(1);
        }
        self.words[word(counter)] |= bit(counter);
    }

    /// The newest accepted counter; 0 while there is none.
    #[must_use]
    #[inline]
    pub const fn newest(&self) -> u64 {
        self.next.saturating_sub(1)
    }
}

const fn word(counter: u64) -> usize {
    (counter / WORD_BITS % N_WORDS) as usize
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// Remembers everything.
    #[derive(Default)]
    struct Oracle {
        seen: HashSet<u64>,
        newest: Option<u64>,
    }

    impl Oracle {
        fn check(&self, counter: u64) -> Result<(), Replayed> {
            if self.newest.is_some_and(|newest| counter + REPLAY_WINDOW <= newest) {
                return Err(Replayed::TooOld);
            }
            if self.seen.contains(&counter) { Err(Replayed::Seen) } else { Ok(()) }
        }

        fn accept(&mut self, counter: u64) {
            self.seen.insert(counter);
            self.newest = self.newest.max(Some(counter));
        }
    }

    /// How the next counter lies to the newest one. Jumps of all magnitudes, and around the window's edges.
    fn step() -> impl Strategy<Value = i64> {
        let window = REPLAY_WINDOW as i64;
        prop_oneof![
            4 => Just(1i64),
            4 => -80i64..80,
            3 => -window - 70..-window + 70,
            2 => -window..window,
            2 => window - 70..window + 140,
            1 => -3 * window..3 * window,
            1 => (0u32..55).prop_map(|shift| 1 << shift),
        ]
    }

    proptest! {
        // 500 runs of 2000 operations: a million.
        #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 2000, ..ProptestConfig::default() })]
        #[test]
        fn agrees_with_a_set(
            start in 0u64..100_000,
            steps in prop::collection::vec(step(), 2000),
        ) {
            let (mut window, mut oracle) = (ReplayWindow::default(), Oracle::default());
            let mut newest = start;
            for step in steps {
                let counter = newest.saturating_add_signed(step).min(1 << 60);
                let expected = oracle.check(counter);
                prop_assert_eq!(window.check(counter), expected, "counter {}, newest {}", counter, newest);
                if expected.is_ok() {
                    window.accept(counter);
                    oracle.accept(counter);
                    newest = oracle.newest.unwrap_or(start);
                    prop_assert_eq!(window.newest(), newest);
                }
            }
        }
    }

    #[test]
    fn whole_window_is_told_apart() {
        let mut window = ReplayWindow::default();
        let newest = 3 * REPLAY_WINDOW + 17;
        window.accept(newest);
        assert_eq!(window.check(newest - REPLAY_WINDOW), Err(Replayed::TooOld));
        for counter in newest - REPLAY_WINDOW + 1..newest {
            assert_eq!(window.check(counter), Ok(()));
            window.accept(counter);
            assert_eq!(window.check(counter), Err(Replayed::Seen));
        }
    }

    #[test]
    fn last_counter_is_refused() {
        assert_eq!(ReplayWindow::default().check(u64::MAX), Err(Replayed::TooOld));
    }
}
