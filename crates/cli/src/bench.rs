//! `weft bench`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use weft_api::{
    BenchDirection, BenchLine, BenchRequest, BenchResult, Client, PathKind, render_path, render_rtt,
    render_table,
};

use crate::args::BenchArgs;
use crate::top::bits;

/// The longest line that is waited for.
const MAX_LINE_LEN: usize = 64 << 10;

/// Measures the way to a peer and back, and prints both.
pub(crate) async fn bench(socket: Option<PathBuf>, args: BenchArgs) -> anyhow::Result<ExitCode> {
    let request = BenchRequest {
        peer: args.peer.clone(),
        time_ms: args.time.as_millis().try_into().unwrap_or(u64::MAX),
        max_rate: args.rate,
    };
    let mut answering = Client::discover(socket).await?.bench(&request).await?;
    let shows_progress = !args.json && std::io::stderr().is_terminal();
    let mut outcome = Outcome::default();
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let piece = tokio::select! {
            piece = answering.next() => piece,
            _ = tokio::signal::ctrl_c() => bail!("ended before it was done"),
        };
        let Some(piece) = piece.transpose().context("the bench broke off")? else { break };
        rest.extend(piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line: BenchLine =
                serde_json::from_slice(&line).context("the daemon's answer is of another version")?;
            if shows_progress {
                // Over what was there.
                eprint!("\r\x1b[K{}", progress(&line, &args.peer));
                std::io::stderr().flush()?;
            }
            if let BenchLine::Failed { error } = &line {
                eprintln!("weft: {error}");
                return Ok(ExitCode::FAILURE);
            }
            if !args.json && matches!(line, BenchLine::Begin { .. }) {
                print!("{}", head(&line, &args.peer));
            }
            outcome.take(line);
        }
        if rest.len() > MAX_LINE_LEN {
            bail!("what the daemon sends is no bench: is it of another version?");
        }
    }
    if outcome.to.is_none() || outcome.from.is_none() {
        bail!("the daemon ended it before it was done: its log says why");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print!("{}", outcome.render(&args.peer));
    }
    Ok(ExitCode::SUCCESS)
}

/// All that was told, as it is printed for programs.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    peer: Option<String>,
    path: Option<PathKind>,
    via: Option<String>,
    path_mtu: Option<u16>,
    rtt_idle_us: Option<u64>,
    to: Option<BenchResult>,
    from: Option<BenchResult>,
}

impl Outcome {
    fn take(&mut self, line: BenchLine) {
        match line {
            BenchLine::Begin { id, path, via, path_mtu, rtt_idle_us, .. } => {
                (self.peer, self.path, self.via) = (Some(id), path, via);
                (self.path_mtu, self.rtt_idle_us) = (path_mtu, rtt_idle_us);
            }
            BenchLine::End { direction: BenchDirection::To, result } => self.to = Some(result),
            BenchLine::End { direction: BenchDirection::From, result } => self.from = Some(result),
            _ => {}
        }
    }

    fn render(&self, peer: &str) -> String {
        let heading = ["", "THROUGHPUT", "FRAMES/S", "LOST", "RTT MEANWHILE", "LONGEST", "ECHOES LOST"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        let results = [("to", self.to), ("from", self.from)];
        rows.extend(results.into_iter().filter_map(|(way, result)| {
            let result = result?;
            Some(vec![
                format!("{way} {peer}"),
                bits(result.rate as f64),
                result.frame_rate.to_string(),
                percent(result.n_sent.saturating_sub(result.n_received), result.n_sent),
                ms(result.rtt_us),
                ms(result.rtt_max_us),
                result.n_echoes_lost.to_string(),
            ])
        }));
        render_table(&rows)
    }
}

fn head(line: &BenchLine, peer: &str) -> String {
    let BenchLine::Begin { id, address, path, via, path_mtu, rtt_idle_us, .. } = line else {
        return String::new();
    };
    let path = render_path(*path, via.as_deref());
    let address = address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
    let mtu = path_mtu.map_or_else(|| "unknown".to_owned(), |mtu| mtu.to_string());
    format!(
        "BENCH {peer} ({}) at {address}: path {path}, path MTU {mtu}, idle RTT {}\n",
        id.get(..12).unwrap_or(id),
        ms(*rtt_idle_us)
    )
}

fn progress(line: &BenchLine, peer: &str) -> String {
    let BenchLine::Progress { direction, elapsed_ms, rate } = line else { return String::new() };
    let way = match direction {
        BenchDirection::To => "to",
        BenchDirection::From => "from",
    };
    format!("{way} {peer}: {}.{} s, {}", elapsed_ms / 1000, elapsed_ms / 100 % 10, bits(*rate as f64))
}

fn ms(us: Option<u64>) -> String {
    render_rtt(us.map(Duration::from_micros))
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.2} %", part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_shown_with_what_was_lost() {
        let begin = BenchLine::Begin {
            id: "0123456789abcdef0123456789abcdef".to_owned(),
            name: "host2".to_owned(),
            path: Some(PathKind::Direct),
            via: None,
            address: Some("10.0.0.2:6783".parse().unwrap()),
            path_mtu: Some(1418),
            rtt_idle_us: Some(412),
        };
        assert_eq!(
            head(&begin, "host2"),
            "BENCH host2 (0123456789ab) at 10.0.0.2:6783: path direct, path MTU 1418, idle RTT 0.412 ms\n"
        );
        let result = BenchResult {
            n_sent: 1000,
            n_received: 995,
            rate: 3_410_000_000,
            frame_rate: 298_000,
            rtt_us: Some(1920),
            rtt_max_us: Some(7100),
            n_echoes_lost: 0,
        };
        let mut outcome = Outcome::default();
        outcome.take(begin);
        for direction in [BenchDirection::To, BenchDirection::From] {
            outcome.take(BenchLine::End { direction, result });
        }
        let text = outcome.render("host2");
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(lines[1], ["to host2", "3.4 Gb/s", "298000", "0.50 %", "1.920 ms", "7.100 ms", "0"]);
        assert_eq!(lines[2][0], "from host2");
        assert_eq!(serde_json::to_value(&outcome).unwrap()["from"]["rate"], 3_410_000_000_u64);
    }

    #[test]
    fn progress_says_which_way() {
        let line = BenchLine::Progress { direction: BenchDirection::From, elapsed_ms: 1250, rate: 1_200_000 };
        assert_eq!(progress(&line, "host2"), "from host2: 1.2 s, 1.2 Mb/s");
        assert_eq!((percent(0, 0), percent(1, 3)), ("-".to_owned(), "33.33 %".to_owned()));
    }
}
