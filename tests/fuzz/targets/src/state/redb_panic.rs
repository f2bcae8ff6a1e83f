//! Panics that are redb's own.

use std::cell::Cell;
use std::panic::{set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// The fuzzers' hook ends the process at any panic, so redb's must not get there.
fn install() {
    let other = take_hook();
    set_hook(Box::new(move |panic| {
        let is_redbs = panic.location().is_some_and(|at| at.file().contains("/redb-"));
        if !(WATCHED.get() && is_redbs) {
            other(panic);
        }
    }));
}

/// Runs `f`, which looks after a panic inside redb itself.
pub(super) fn tolerated<T>(f: impl FnOnce() -> T) -> T {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install);
    WATCHED.set(true);
    let result = f();
    WATCHED.set(false);
    result
}
