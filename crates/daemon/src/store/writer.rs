//! The thread that writes: what waits while it does, it writes in one go.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use super::{Changes, StateFile, StoreError};

struct Job {
    changes: Changes,
    /// Who waits may have gone; what it wanted is written all the same.
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Hands changes to the thread. When dropped, it waits until all of them are written.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn new(file: Arc<StateFile>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let name = file.lasting.thread_name().to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || write_all(&file, &queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Puts the changes behind those that were handed over before; the answer comes when they are kept as long as the file
    /// lasts. `None`: the thread has ended, which takes a bug.
    pub(super) fn hand_over(&self, changes: Changes) -> Option<oneshot::Receiver<Result<(), StoreError>>> {
        let (done, answer) = oneshot::channel();
        self.jobs.as_ref()?.send(Job { changes, done }).ok()?;
        Some(answer)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panics were told to those who waited.
            let _ = thread.join();
        }
    }
}

/// A commit, and most of all its fsync, costs as much for many changes as for one, so those that came during the last one share
/// the next.
fn write_all(file: &StateFile, queue: &mpsc::Receiver<Job>) {
    // redb panics at some damage, which is this call's failure and no other's: what is shared is the file, and that changes
    // as a whole or not at all.
    let commit = |changes: &[&Changes]| {
        let committed = catch_unwind(AssertUnwindSafe(|| file.commit(changes.iter().copied())));
        committed.unwrap_or(Err(StoreError::Panicked))
    };
    while let Ok(first) = queue.recv() {
        write_group(std::iter::once(first).chain(queue.try_iter()).collect(), commit);
    }
}

/// Writes all of these together, or, when that fails, one by one, so that each fails by itself.
fn write_group(group: Vec<Job>, commit: impl Fn(&[&Changes]) -> Result<(), StoreError>) {
    let changes: Vec<&Changes> = group.iter().map(|job| &job.changes).collect();
    let mut together = Some(commit(&changes)).filter(|written| written.is_ok() || changes.len() == 1);
    let all_written = matches!(together, Some(Ok(())));
    for Job { changes, done } in group {
        let written =
            if all_written { Ok(()) } else { together.take().unwrap_or_else(|| commit(&[&changes])) };
        let _ = done.send(written);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn one_that_cannot_be_written_takes_no_other_along() {
        let (mut group, mut answers) = (Vec::new(), Vec::new());
        for n in [1, 2, 1] {
            let changes = (0..n).fold(Changes::default(), |changes, _| changes.put_seed("host"));
            let (done, answer) = oneshot::channel();
            group.push(Job { changes, done });
            answers.push(answer);
        }
        let tried = RefCell::new(Vec::new());
        write_group(group, |changes| {
            tried.borrow_mut().push(changes.len());
            if changes.iter().any(|changes| changes.len() == 2) { Err(StoreError::Panicked) } else { Ok(()) }
        });
        let written: Vec<bool> =
            answers.iter_mut().map(|answer| answer.try_recv().unwrap().is_ok()).collect();
        assert_eq!(written, [true, false, true]);
        assert_eq!(tried.into_inner(), [3, 1, 1, 1]);
    }
}
