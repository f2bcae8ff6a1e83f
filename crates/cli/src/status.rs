//! `weft status`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use weft_api::{Client, render_status};

/// Prints the daemon's status; fails when it carries no traffic, so that scripts need not parse it.
pub(crate) async fn status(socket: Option<PathBuf>, json: bool) -> anyhow::Result<ExitCode> {
    let status = Client::discover(socket).await?.status().await?;
    let text = if json { serde_json::to_string_pretty(&status)? + "\n" } else { render_status(&status) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
