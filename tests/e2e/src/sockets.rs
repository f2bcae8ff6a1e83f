//! Daemons that run on hosts themselves, asked at their sockets: that costs less than a program for each question.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_lab::Host;

/// How long a daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(30);
const CONTROL: &str = "weft/control.sock";
const DRIVER: &str = "docker/plugins/weft.sock";

fn call(host: &Host, socket: &str, request: &str, body: &str) -> Result<Value> {
    let path = format!("/proc/{}/root/run/{socket}", host.pid());
    let mut stream = UnixStream::connect(&path).with_context(|| format!("{}: {path}", host.name()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let head = "HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json";
    write!(stream, "{request} {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
    let value: Value = serde_json::from_str(body).with_context(|| format!("{request} answered {answer}"))?;
    let error = value.get("Err").and_then(Value::as_str).unwrap_or_default();
    ensure!(
        head.starts_with("HTTP/1.1 200") && error.is_empty(),
        "{}: {request} answered {answer}",
        host.name()
    );
    Ok(value)
}

/// The daemon's status.
///
/// # Errors
/// When it cannot be asked.
pub fn daemon_status(host: &Host) -> Result<Value> {
    call(host, CONTROL, "GET /v1/status", "")
}

/// Calls the driver as dockerd does.
///
/// # Errors
/// When it cannot be asked, or answers with an error.
pub fn call_driver(host: &Host, method: &str, body: &Value) -> Result<Value> {
    call(host, DRIVER, &format!("POST /NetworkDriver.{method}"), &body.to_string())
}
