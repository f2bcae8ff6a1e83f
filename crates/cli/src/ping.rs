//! `weft ping`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_api::{Client, MAX_PING_WAIT, PingAnswer, PingRequest, render_path, render_rtt};

use crate::args::PingArgs;

/// Asks for echoes until it is told to stop, and prints as ping(8) does.
pub(crate) async fn ping(socket: Option<PathBuf>, args: PingArgs) -> anyhow::Result<ExitCode> {
    let client = Client::discover(socket).await?;
    let wait_ms = args.wait.min(MAX_PING_WAIT).as_millis().try_into().unwrap_or(u64::MAX);
    let request = PingRequest { peer: args.peer, wait_ms };
    let started = Instant::now();
    let mut interval = tokio::time::interval(args.interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rtts = Vec::new();
    let (mut n_sent, mut name) = (0_u32, request.peer.clone());
    while args.count.is_none_or(|count| n_sent < count) {
        let answer = async {
            interval.tick().await;
            client.ping(&request).await
        };
        let answer = tokio::select! {
            answer = answer => answer?,
            _ = tokio::signal::ctrl_c() => break,
        };
        if n_sent == 0 {
            name = shown_name(&answer);
            let address = answer.address.map_or_else(|| "an unknown address".to_owned(), |a| a.to_string());
            println!("PING {name} ({}) at {address}", answer.id.get(..12).unwrap_or(&answer.id));
        }
        n_sent += 1;
        println!("{}", line(&name, n_sent, &answer));
        rtts.extend(answer.rtt_us.map(Duration::from_micros));
    }
    print!("{}", summary(&name, n_sent, &rtts, started.elapsed()));
    Ok(if rtts.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shown_name(answer: &PingAnswer) -> String {
    if answer.name.is_empty() { answer.id.clone() } else { answer.name.clone() }
}

fn line(name: &str, seq: u32, answer: &PingAnswer) -> String {
    match answer.rtt_us {
        Some(us) => {
            let path = render_path(answer.path, None);
            format!("from {name}: seq={seq} path={path} time={}", ms(Duration::from_micros(us)))
        }
        None => format!("no answer: seq={seq}"),
    }
}

fn ms(span: Duration) -> String {
    render_rtt(Some(span))
}

fn summary(name: &str, n_sent: u32, rtts: &[Duration], elapsed: Duration) -> String {
    let n_lost = u64::from(n_sent).saturating_sub(rtts.len() as u64);
    let loss = (n_lost * 100).checked_div(n_sent.into()).unwrap_or(0);
    let mut text = format!(
        "\n--- {name} ping statistics ---\n{n_sent} sent, {} answered, {loss}% lost, time {} ms\n",
        rtts.len(),
        elapsed.as_millis()
    );
    if let (Some(min), Some(max)) = (rtts.iter().min(), rtts.iter().max()) {
        let mean = rtts.iter().sum::<Duration>().as_secs_f64() / rtts.len() as f64;
        let square = rtts.iter().map(|rtt| rtt.as_secs_f64().powi(2)).sum::<f64>() / rtts.len() as f64;
        let deviation = (square - mean * mean).max(0.0).sqrt();
        let [mean, deviation] = [mean, deviation].map(Duration::from_secs_f64);
        text += &format!(
            "rtt min/avg/max/mdev: {} / {} / {} / {}\n",
            ms(*min),
            ms(mean),
            ms(*max),
            ms(deviation)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_api::PathKind;

    #[test]
    fn lines_and_summary_say_what_ping_says() {
        let mut answer = PingAnswer {
            id: "00".repeat(16),
            name: "host-b".to_owned(),
            address: None,
            path: Some(PathKind::Direct),
            rtt_us: Some(1412),
        };
        assert_eq!(line("host-b", 1, &answer), "from host-b: seq=1 path=direct time=1.412 ms");
        answer.rtt_us = None;
        assert_eq!(line("host-b", 2, &answer), "no answer: seq=2");
        let rtts = [Duration::from_micros(1000), Duration::from_micros(3000)];
        let text = summary("host-b", 4, &rtts, Duration::from_millis(3002));
        assert!(text.contains("4 sent, 2 answered, 50% lost, time 3002 ms"), "{text}");
        assert!(text.contains("1.000 ms / 2.000 ms / 3.000 ms / 1.000 ms"), "{text}");
        assert!(summary("host-b", 0, &[], Duration::ZERO).contains("0 sent, 0 answered, 0% lost"));
    }
}
