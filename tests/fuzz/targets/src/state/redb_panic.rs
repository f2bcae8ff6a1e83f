//! Panics that are redb's own.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static HAPPENED: Cell<bool> = const { Cell::new(false) };
}

/// The fuzzers' hook ends the process at any panic, so redb's must not get there.
fn install() {
    let other = take_hook();
    set_hook(Box::new(move |panic| {
        let is_redbs = panic.location().is_some_and(|at| at.file().contains("/redb-"));
        if WATCHED.get() && is_redbs {
            HAPPENED.set(true);
        } else {
            other(panic);
        }
    }));
}

/// Runs `f`; a panic inside redb is its end, any other goes on.
pub(super) fn tolerated(f: impl FnOnce()) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install);
    WATCHED.set(true);
    HAPPENED.set(false);
    let result = catch_unwind(AssertUnwindSafe(f));
    WATCHED.set(false);
    if let Err(panic) = result
        && !HAPPENED.get()
    {
        resume_unwind(panic);
    }
}
