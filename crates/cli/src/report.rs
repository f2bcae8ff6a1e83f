//! `weft report`: what a bug report needs, in one file, without secrets.

mod redact;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use weft_api::{Client, Order, render_status};

use self::redact::Redactor;
use crate::doctor;

/// How long one command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);
/// The longest output that is kept of one, in bytes; of longer ones the end.
const MAX_OUTPUT_LEN: usize = 2 << 20;
/// Where an operator's secret is usually: only read to take its words out.
const SECRET_FILE: &str = "/etc/weft/secret";

/// What is asked of the host, by the file in the report.
const COMMANDS: [(&str, &str); 14] = [
    ("host/kernel.txt", "uname -a; cat /etc/os-release"),
    ("host/date.txt", "date --utc; timedatectl 2>/dev/null"),
    ("host/links.txt", "ip -details link"),
    ("host/addresses.txt", "ip addr; ip route show table all; ip rule"),
    ("host/sockets.txt", "ss -lntup"),
    ("host/sysctl.txt", "sysctl -a 2>/dev/null | grep -E 'bridge-nf|ip_forward|rp_filter|rmem_max|wmem_max'"),
    ("host/iptables.txt", "iptables-save; ip6tables-save"),
    ("host/nftables.txt", "nft list table netdev weft"),
    ("docker/version.txt", "docker version"),
    ("docker/info.txt", "docker info"),
    ("docker/plugins.txt", "docker plugin ls --no-trunc; docker plugin inspect $(docker plugin ls -q)"),
    ("docker/networks.txt", "docker network ls --no-trunc"),
    ("log/weft.txt", "journalctl --no-pager -n 5000 -u weft"),
    ("log/plugin.txt", "journalctl --no-pager -n 50000 -u docker | grep -E 'plugin|weft' | tail -n 5000"),
];

/// Writes the report; never over another file.
pub(crate) async fn report(socket: Option<PathBuf>, out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let stem = format!("weft-report-{}-{seconds}", host.trim());
    let path = out.unwrap_or_else(|| format!("{stem}.tar").into());
    let mut file = OpenOptions::new();
    let file = file.write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot make {}", path.display()))?;
    let written = async {
        let items = gather(socket).await;
        write(file, &stem, &items, seconds)
    };
    if let Err(error) = written.await {
        // Half a report is none; that it cannot be removed either changes nothing about the error.
        let _ = std::fs::remove_file(&path);
        return Err(error.context(format!("cannot write {}", path.display())));
    }
    println!("{} written", path.display());
    println!(
        "it holds no secret, but names, addresses, networks and containers: look through it before you send it"
    );
    Ok(ExitCode::SUCCESS)
}

struct Item {
    name: &'static str,
    text: String,
}

async fn gather(socket: Option<PathBuf>) -> Vec<Item> {
    let (mut items, secrets) = from_daemon(socket.clone()).await;
    let findings = doctor::examine(socket).await;
    items.push(Item { name: "doctor.txt", text: doctor::render(&findings) });
    for (name, line) in COMMANDS {
        items.push(Item { name, text: run(line).await });
    }
    let redactor = Redactor::new(secrets);
    for item in &mut items {
        item.text = redactor.redact(&item.text);
    }
    items
}

/// What the daemon says, and the secrets that must not be in the report.
async fn from_daemon(socket: Option<PathBuf>) -> (Vec<Item>, Vec<String>) {
    let text = std::fs::read_to_string(SECRET_FILE).unwrap_or_default();
    let mut secrets: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    let client = match Client::discover(socket).await {
        Ok(client) => client,
        Err(error) => return (vec![Item { name: "status.txt", text: error.to_string() }], secrets),
    };
    if let Ok(answer) = client.secret().await {
        secrets.extend(answer.secret.map(|secret| secret.expose().to_owned()));
    }
    if let Ok(answer) = client.order(&Order::AddedSecret).await {
        secrets.extend(answer.secret.map(|secret| secret.expose().to_owned()));
    }
    let items = match client.status().await {
        Ok(status) => vec![
            Item { name: "status.txt", text: render_status(&status) },
            Item { name: "status.json", text: serde_json::to_string_pretty(&status).unwrap_or_default() },
        ],
        Err(error) => vec![Item { name: "status.txt", text: error.to_string() }],
    };
    (items, secrets)
}

/// What a line of shell prints, and how it ended if not well.
async fn run(line: &str) -> String {
    let child = tokio::process::Command::new("sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(COMMAND_LIMIT, child).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return format!("$ {line}\n{error}\n"),
        Err(_) => return format!("$ {line}\nno end within {} s\n", COMMAND_LIMIT.as_secs()),
    };
    let mut text = format!("$ {line}\n");
    for stream in [&output.stdout, &output.stderr] {
        let kept = stream.get(stream.len().saturating_sub(MAX_OUTPUT_LEN)..).unwrap_or_default();
        text += &String::from_utf8_lossy(kept);
    }
    if !output.status.success() {
        text += &format!("({})\n", output.status);
    }
    text
}

fn write(file: impl Write, stem: &str, items: &[Item], seconds: u64) -> anyhow::Result<()> {
    let mut tar = tar::Builder::new(file);
    for Item { name, text } in items {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        tar.append_data(&mut header, Path::new(stem).join(name), text.as_bytes())?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_file_holds_what_was_gathered() {
        let items = [Item { name: "host/links.txt", text: "lo\n".to_owned() }];
        let mut bytes = Vec::new();
        write(&mut bytes, "weft-report-a-1", &items, 1).unwrap();
        let mut tar = tar::Archive::new(&bytes[..]);
        let mut entry = tar.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new("weft-report-a-1/host/links.txt"));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "lo\n");
    }

    #[tokio::test]
    async fn an_existing_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.tar");
        std::fs::write(&path, "mine").unwrap();
        let error = report(Some(dir.path().join("no.sock")), Some(path.clone())).await.unwrap_err();
        assert!(error.to_string().contains("report.tar"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_command_that_fails_says_so() {
        let text = run("echo out; echo err >&2; exit 3").await;
        assert!(text.contains("out\nerr\n") && text.contains("exit status: 3"), "{text}");
    }
}
