//! Runs the kept inputs of all targets.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use weft_fuzz_targets::TARGETS;

/// The most processor time that any input may take.
const LIMIT: Duration = Duration::from_millis(100);

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let dir =
        fs::read_dir(corpus().join(target)).unwrap_or_else(|error| panic!("corpus of {target}: {error}"));
    let mut files: Vec<_> = dir.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_is_taken_well_and_soon() {
    let mut faults = Vec::new();
    for target in TARGETS {
        let files = inputs(target.name);
        assert!(!files.is_empty(), "{} has no inputs", target.name);
        for file in files {
            let input = fs::read(&file).unwrap();
            match catch_unwind(|| time(target.run, &input)) {
                Ok(took) if took < LIMIT => {}
                Ok(took) => faults.push(format!("{} takes {took:?}, more than {LIMIT:?}", file.display())),
                Err(_) => faults.push(format!("{} breaks a promise: see the panic above", file.display())),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Of the processor, with all threads: a busy machine may make a run last, not make it work.
fn time(run: fn(&[u8]), input: &[u8]) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
    let started = now();
    run(input);
    now() - started
}

#[test]
fn every_corpus_has_a_target() {
    for entry in fs::read_dir(corpus()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "{name} is not a target");
    }
}
