//! `weft doctor`: gathers facts of this host and its daemon, and says what is wrong and what mends it.
//!
//! Gathering asks and reads, and changes nothing; what the facts mean is decided by [`findings::of`], which is pure.

mod facts;
mod findings;

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) use facts::Facts;
pub(crate) use findings::{Finding, Level};

/// Prints the findings; fails when one is a fault.
pub(crate) async fn doctor(socket: Option<PathBuf>, json: bool) -> anyhow::Result<ExitCode> {
    let findings = findings::of(&Facts::gather(socket).await);
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", render(&findings));
    }
    let faulty = findings.iter().any(|finding| finding.level == Level::Fault);
    Ok(if faulty { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The findings as text for people, with what mends each below it.
pub(crate) fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for Finding { level, check, text, fix } in findings {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{:<5}  {check:<width$}  {text}", level.word());
        if let Some(fix) = fix {
            let _ = writeln!(out, "{:<5}  {:<width$}  -> {fix}", "", "");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let _ = writeln!(out, "\n{} fault(s), {} warning(s)", count(Level::Fault), count(Level::Warn));
    out
}

/// The findings of this host.
pub(crate) async fn examine(socket: Option<PathBuf>) -> Vec<Finding> {
    findings::of(&Facts::gather(socket).await)
}
