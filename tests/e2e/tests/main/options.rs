//! Input that is wrong, and what its sender is told.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{BUSYBOX, DRIVER, Engine, wait_until};

pub(crate) fn bad_options(cluster: &Cluster) -> Result<()> {
    let manager = cluster.manager();
    let driver = format!("--driver={DRIVER}");
    for (option, words) in [
        ("com.docker.network.driver.mtu=100", ["com.docker.network.driver.mtu", "1280"]),
        ("no.such.option=1", ["no.such.option", "com.docker.network.driver.mtu"]),
    ] {
        let name = cluster.unique("bad");
        manager.docker(["network", "create", &driver, "--attachable", "--opt", option, &name])?;
        let run = manager.docker_output(["run", "--rm", "--network", &name, BUSYBOX, "true"])?;
        // 26.1.5 keeps a refused container's attachment to the network until it starts anew.
        if manager.engine() == Engine::Trixie {
            manager.stop_dockerd()?;
            manager.start_dockerd()?;
            cluster.wait_connected()?;
        }
        // Nothing else may keep the network from being removed: the refusal leaks no attachment.
        wait_until("removal of the network", SETTLE, || {
            manager.docker(["network", "rm", &name]).map(|_| true)
        })?;
        ensure!(!run.success(), "{option} was accepted");
        for word in words {
            ensure!(run.text().contains(word), "{option}: the user is not told {word}: {run}");
        }
    }
    Ok(())
}

pub(crate) fn malformed_requests(cluster: &Cluster) -> Result<()> {
    let socket = cluster.manager().weft_driver_socket()?;
    let post = |method: &str, body: &str| -> Result<(u16, String)> {
        let mut stream = UnixStream::connect(&socket).context("the driver's socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let length = body.len();
        let head = format!("POST /NetworkDriver.{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).context("a status line")?;
        Ok((status, answer))
    };

    let (code, answer) = post("CreateEndpoint", "{\"NetworkID\": 5}")?;
    ensure!(code == 400 && answer.contains("NetworkID"), "a number as NetworkID: {answer}");
    let (code, answer) = post("Join", "")?;
    ensure!(code == 400, "an empty body: {answer}");
    let (code, answer) = post("Join", "{\"NetworkID\": \"n\"")?;
    ensure!(code == 400, "half a body: {answer}");

    let unknown = "{\"NetworkID\": \"unheard-of-net\", \"EndpointID\": \"unheard-of-endpoint\"}";
    for method in ["Leave", "DeleteEndpoint", "DeleteNetwork"] {
        let (code, answer) = post(method, unknown)?;
        ensure!(code == 200 && !answer.contains("\"Err\""), "{method} of something unknown: {answer}");
    }
    let join = "{\"NetworkID\": \"unheard-of-net\", \"EndpointID\": \"unheard-of-endpoint\", \"SandboxKey\": \"/x\"}";
    let (_, answer) = post("Join", join)?;
    ensure!(
        answer.contains("\"Err\"") && answer.contains("unheard-of"),
        "Join of something unknown: {answer}"
    );
    Ok(())
}
