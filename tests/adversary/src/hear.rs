//! Counts marked frames on an interface, as the one who is attacked gets them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::{
    forge::{END, MARK, MARK_END},
    port::Port,
};

/// What is still on its way when the last frame has come.
const AFTER_END: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(crate) struct HearArgs {
    /// Where to listen
    #[arg(long, default_value = "eth0")]
    interface: String,
    /// Longest time to listen, in seconds; the frame labelled `end` ends it
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Heard {
    /// Frames by label.
    heard: BTreeMap<String, u64>,
    /// Whether the last one came.
    ended: bool,
}

pub(crate) fn run(args: &HearArgs) -> Result<Heard> {
    let port = Port::open(&args.interface)?;
    eprintln!("listening on {}", args.interface);
    let mut until = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut buf = vec![0; 1 << 17];
    let mut report = Heard { heard: BTreeMap::new(), ended: false };
    while Instant::now() < until {
        let Some(frame) = port.receive(&mut buf, until)? else { continue };
        for label in labels(frame) {
            if label == END && !report.ended {
                report.ended = true;
                until = until.min(Instant::now() + AFTER_END);
            }
            *report.heard.entry(label).or_default() += 1;
        }
    }
    Ok(report)
}

/// The labels in a frame: several when frames were joined on the way.
fn labels(frame: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, window) in frame.windows(MARK.len()).enumerate() {
        if window == MARK
            && let Some(rest) = frame.get(at + MARK.len()..)
            && let Some(label) = rest.split(|byte| *byte == MARK_END).next()
        {
            found.push(String::from_utf8_lossy(label).into_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::mark;

    #[test]
    fn every_label_is_found() {
        let frame = [&[0; 40][..], &mark("one"), &[1, 2], &mark("two")].concat();
        assert_eq!(labels(&frame), ["one", "two"]);
        assert_eq!(labels(b"weft-adversary"), [""; 0]);
    }
}
