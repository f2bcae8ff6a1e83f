//! Runs the kept inputs of all targets.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_fuzz_targets::TARGETS;

/// The longest that any input may take.
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
            // A busy machine may take a break in one run, not in all of them.
            let is_soon = || (0..4).any(|_| time(target.run, &input) < LIMIT);
            match catch_unwind(is_soon) {
                Ok(true) => {}
                Ok(false) => faults.push(format!("{} takes more than {LIMIT:?}", file.display())),
                Err(_) => faults.push(format!("{} breaks a promise: see the panic above", file.display())),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn time(run: fn(&[u8]), input: &[u8]) -> Duration {
    let started = Instant::now();
    run(input);
    started.elapsed()
}

#[test]
fn every_corpus_has_a_target() {
    for entry in fs::read_dir(corpus()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "{name} is not a target");
    }
}
