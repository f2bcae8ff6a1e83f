//! `weft capture`.

use std::io::{ErrorKind, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use weft_api::pcapng::Totals;
use weft_api::{CaptureRequest, Client};

use crate::args::CaptureArgs;
use crate::docker;

/// Writes decrypted frames until a limit is reached, Ctrl-C, or nobody reads them any more.
pub(crate) async fn capture(socket: Option<PathBuf>, args: CaptureArgs) -> anyhow::Result<ExitCode> {
    let to_stdout = args.write.as_deref().is_none_or(|path| path == Path::new("-"));
    if to_stdout && std::io::stdout().is_terminal() {
        bail!(
            "frames are not written to a terminal: name a file (`-w FILE`), or have them read (`weft capture {0} -w - | \
             tcpdump -n -r -`)",
            args.of
        );
    }
    let client = Client::discover(socket).await?;
    let of = network_id(&args.of).await.into_iter().chain([args.of.clone()]).collect();
    let request = CaptureRequest {
        capture: rand::random(),
        of,
        snap_len: args.snaplen,
        max_frames: args.count,
        max_len: args.max_size,
        max_time_ms: args.duration.as_millis().try_into().unwrap_or(u64::MAX),
    };
    let mut answering = client.capture(&request).await?;
    // Made once it is known that there is something to write.
    let mut out = match args.write.as_deref().filter(|_| !to_stdout) {
        Some(path) => open(path)?,
        None => File::from_std(std::io::stdout().as_fd().try_clone_to_owned()?.into()),
    };
    let started = Instant::now();
    eprintln!(
        "capturing {}: at most {} s, {} frames, {} bytes; Ctrl-C ends it",
        args.of,
        args.duration.as_secs(),
        args.count,
        args.max_size
    );
    let (mut totals, mut len, mut told) = (Totals::default(), 0_u64, false);
    loop {
        let piece = tokio::select! {
            piece = answering.next() => piece,
            _ = tokio::signal::ctrl_c() => {
                if std::mem::replace(&mut told, true) {
                    break;
                }
                // It may have ended by itself a moment ago.
                let _ = client.end_capture(request.capture).await;
                continue;
            }
        };
        let Some(piece) = piece.transpose().context("the capture broke off")? else { break };
        let written = async {
            out.write_all(&piece).await?;
            out.flush().await
        };
        match written.await {
            Ok(()) => {}
            // Whoever read it has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            Err(error) => return Err(error).context("cannot write"),
        }
        len += piece.len() as u64;
        if !totals.feed(&piece) {
            bail!("what the daemon sends is no capture: is it of another version?");
        }
    }
    eprintln!("{}", summary(&totals, len, started.elapsed().as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

fn summary(totals: &Totals, len: u64, seconds: f64) -> String {
    let Totals { n_frames, n_dropped, has_end, .. } = totals;
    let dropped = match (has_end, n_dropped) {
        (false, _) => "cut off before the end, so how many were dropped is not known".to_owned(),
        (true, 0) => "none dropped".to_owned(),
        (true, n) => format!("{n} more dropped, since they came faster than they were written"),
    };
    format!("{n_frames} frames captured in {seconds:.1} s, {len} bytes; {dropped}")
}

/// For root alone. An existing file is left alone; a pipe or device is written to.
fn open(path: &Path) -> anyhow::Result<File> {
    let is_special = std::fs::metadata(path).is_ok_and(|there| !there.is_file());
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(!is_special).mode(0o600);
    let file = options.open(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(File::from_std(file))
}

/// Docker's id of the network of this name, as far as dockerd knows one.
async fn network_id(name: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Network {
        id: String,
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_plain) {
        return None;
    }
    let Network { id } = docker::get(&format!("/networks/{name}")).await?;
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_file_is_private_and_another_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcapng");
        drop(open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = open(&path).unwrap_err();
        assert!(error.to_string().contains("a.pcapng"), "{error}");
        open(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut totals = Totals::default();
        (totals.n_frames, totals.has_end) = (3, true);
        assert_eq!(summary(&totals, 400, 1.0), "3 frames captured in 1.0 s, 400 bytes; none dropped");
        totals.n_dropped = 9;
        assert!(summary(&totals, 400, 1.0).contains("9 more dropped"));
        totals.has_end = false;
        assert!(summary(&totals, 400, 1.0).contains("cut off"));
    }
}
