//! The counters of a lane: each handed out once.

use std::sync::atomic::{AtomicU64, Ordering};

/// What [`Counter`] asks of an atomic number, so that the model in the tests runs this very code over its own.
pub(crate) trait Atomic {
    fn load(&self, order: Ordering) -> u64;
    fn compare_exchange_weak(&self, old: u64, new: u64, set: Ordering, fail: Ordering) -> Result<u64, u64>;
}

impl Atomic for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn compare_exchange_weak(&self, old: u64, new: u64, set: Ordering, fail: Ordering) -> Result<u64, u64> {
        self.compare_exchange_weak(old, new, set, fail)
    }
}

/// Counts up, from 0, and never back: a counter that is used twice under one key gives the key away.
#[derive(Debug, Default)]
pub(crate) struct Counter<A = AtomicU64> {
    next: A,
}

impl<A: Atomic> Counter<A> {
    /// Takes `n` consecutive counters below `limit`, and returns the first. `None`: fewer are left, and none was taken.
    #[inline]
    pub(crate) fn reserve(&self, n: u64, limit: u64) -> Option<u64> {
        // Read-modify-write on one location: no two callers can get the same counter under any ordering.
        let order = Ordering::Relaxed;
        let mut next = self.next.load(order);
        loop {
            let end = next.checked_add(n).filter(|&end| end <= limit)?;
            match self.next.compare_exchange_weak(next, end, order, order) {
                Ok(first) => return Some(first),
                Err(now) => next = now,
            }
        }
    }

    /// How many were taken.
    #[inline]
    pub(crate) fn n_reserved(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64 as ModelU64;
    use loom::thread;

    use super::*;

    impl Atomic for ModelU64 {
        fn load(&self, order: Ordering) -> u64 {
            self.load(order)
        }

        fn compare_exchange_weak(
            &self,
            old: u64,
            new: u64,
            set: Ordering,
            fail: Ordering,
        ) -> Result<u64, u64> {
            self.compare_exchange_weak(old, new, set, fail)
        }
    }

    /// Not atomic: reads and writes.
    #[derive(Default)]
    struct Torn(ModelU64);

    impl Atomic for Torn {
        fn load(&self, order: Ordering) -> u64 {
            self.0.load(order)
        }

        fn compare_exchange_weak(
            &self,
            old: u64,
            new: u64,
            set: Ordering,
            fail: Ordering,
        ) -> Result<u64, u64> {
            let now = self.0.load(fail);
            if now != old {
                return Err(now);
            }
            self.0.store(new, set);
            Ok(now)
        }
    }

    /// Threads that reserve, `wanted[thread][call]` counters a call. Whatever the order of their steps (with at most
    /// `n_preemptions` switches that no thread asked for), no counter is handed out twice, none at or beyond the limit,
    /// and none is lost.
    fn model<A: Atomic + Default + Send + Sync + 'static>(
        n_preemptions: Option<usize>,
        limit: u64,
        wanted: &'static [&'static [u64]],
    ) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = n_preemptions;
        model.check(move || {
            let counter = Arc::new(Counter::<A>::default());
            let reserve = move |counter: Arc<Counter<A>>, calls: &'static [u64]| {
                let taken = |&n: &u64| counter.reserve(n, limit).map(|first| (first, n));
                calls.iter().filter_map(taken).collect::<Vec<_>>()
            };
            let threads: Vec<_> = wanted[1..]
                .iter()
                .map(|calls| {
                    let counter = counter.clone();
                    thread::spawn(move || reserve(counter, calls))
                })
                .collect();
            let mut taken = reserve(counter.clone(), wanted[0]);
            taken.extend(threads.into_iter().flat_map(|thread| thread.join().unwrap()));
            taken.sort_unstable();
            let mut next = 0;
            for (first, n) in taken {
                assert_eq!(first, next, "a counter was handed out twice, or lost");
                next += n;
            }
            assert!(next <= limit);
            assert_eq!(counter.n_reserved(), next);
            let left = limit - next;
            assert_eq!(counter.reserve(left + 1, limit), None, "the hard stop");
            assert_eq!(counter.reserve(left, limit), Some(next));
        });
    }

    #[test]
    fn no_interleaving_hands_out_a_counter_twice() {
        model::<ModelU64>(None, 100, &[&[1, 7], &[2]]);
        model::<ModelU64>(Some(2), 100, &[&[1], &[2], &[3]]);
    }

    #[test]
    fn no_interleaving_passes_the_limit() {
        model::<ModelU64>(None, 4, &[&[2, 1], &[2]]);
        model::<ModelU64>(Some(2), 3, &[&[2], &[2], &[1]]);
    }

    #[test]
    #[should_panic = "handed out twice"]
    fn the_model_finds_a_counter_that_is_not_atomic() {
        model::<Torn>(None, 100, &[&[1], &[1]]);
    }

    #[test]
    fn the_last_counters_are_not_wrapped_around() {
        let counter = Counter { next: AtomicU64::new(u64::MAX - 1) };
        assert_eq!(counter.reserve(2, u64::MAX), None);
        assert_eq!(counter.reserve(1, u64::MAX), Some(u64::MAX - 1));
        assert_eq!((counter.reserve(1, u64::MAX), counter.n_reserved()), (None, u64::MAX));
    }
}
