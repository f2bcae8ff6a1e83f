//! Who is let in: the allowlist, and join tokens.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use weft_e2e::{SETTLE, n_connected, status};
use weft_lab::{Engine, Host, Weft, wait_until};

use crate::plain::{Plain, peer_id};

const ALLOWLIST: &str = "/etc/weft/allowlist";
/// The file is read again within this time of its change, and its effect seen.
const RE_READ: Duration = Duration::from_secs(15);

fn write_list(hosts: &[Host], ids: &[String]) -> Result<()> {
    for host in hosts {
        let lines: String = ids.iter().map(|id| format!("{id} # a host\\n")).collect();
        host.sh(&format!(
            "printf '# peers\\n\\n{lines}' > {ALLOWLIST}.new && mv {ALLOWLIST}.new {ALLOWLIST}"
        ))?;
    }
    Ok(())
}

pub(crate) fn allowlist(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::prepare("allowlist", engine, weft, 3, &[])?;
    weft.make_secret(&plain.lab, "cluster")?;
    let mut ids = Vec::new();
    for host in 0..3 {
        // Alone, to learn its id.
        plain.start_daemon(host, &["PEERS="])?;
        wait_until("an id", SETTLE, || Ok(!peer_id(plain.host(host))?.is_empty()))?;
        ids.push(peer_id(plain.host(host))?);
        plain.stop_daemon(host)?;
    }
    write_list(plain.lab.hosts(), &ids[..2])?;
    for host in 0..3 {
        plain.start_daemon(host, &["ADMISSION=allowlist", &format!("ALLOWLIST_FILE={ALLOWLIST}")])?;
    }
    let is_refused = |by: &Host, id: &str| -> Result<bool> {
        let refused = status(by)?["refused"].clone();
        Ok(refused.as_array().is_some_and(|all| {
            all.iter()
                .any(|peer| peer["id"] == id && peer["reason"].as_str().is_some_and(|text| !text.is_empty()))
        }))
    };
    for host in 0..2 {
        wait_until("the two that are listed", SETTLE, || Ok(n_connected(plain.host(host))? == 1))?;
        wait_until("the third to be named", SETTLE, || is_refused(plain.host(host), &ids[2]))?;
    }
    ensure!(n_connected(plain.host(2))? == 0, "a peer that is not listed is connected");

    write_list(plain.lab.hosts(), &ids)?;
    for host in 0..3 {
        wait_until("all three", RE_READ, || Ok(n_connected(plain.host(host))? == 2))?;
    }
    wait_until("the third to be refused no longer", RE_READ, || {
        let status = status(plain.host(0))?;
        ensure!(!is_refused(plain.host(0), &ids[2])?, "{status}");
        Ok(true)
    })?;
    write_list(plain.lab.hosts(), &ids[..2])?;
    for host in 0..2 {
        wait_until("the third to be out again", RE_READ, || Ok(n_connected(plain.host(host))? == 1))?;
    }
    plain.ensure_sound()
}

pub(crate) fn join_token(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::prepare("token", engine, weft, 5, &[])?;
    for host in 0..5 {
        // Nobody knows of the others but by the token.
        plain.start_daemon(host, &["PEERS="])?;
    }
    let [first, second, third, fourth, fifth] = plain.lab.hosts() else {
        unreachable!("the lab has five hosts")
    };
    first.run(["weft", "init"])?;
    wait_until("the first host to be ready", SETTLE, || Ok(status(first)?["ready"] == true))?;
    let address = first.ipv4().to_string();
    let token = first.run(["weft", "token"])?;
    ensure!(token.lines().count() == 1 && !token.contains(' '), "a token is one word: {token}");

    second.run(["weft", "join", &address, &token])?;
    let logs = || -> Result<String> {
        Ok((0..3).map(|host| plain.log(host)).collect::<Result<Vec<_>>>()?.join("\n"))
    };
    for host in [first, second] {
        wait_until("the two to be connected", SETTLE, || {
            ensure!(n_connected(host)? == 1, "{}: {}\n{}", host.name(), status(host)?["peers"], logs()?);
            Ok(true)
        })?;
    }
    let fingerprint = |host: &Host| status(host).map(|status| status["secret_fingerprint"].clone());
    ensure!(fingerprint(first)? == fingerprint(second)?, "the secrets differ");

    let short = first.run(["weft", "token", "--ttl", "1s"])?;
    thread::sleep(Duration::from_millis(1500));
    let made_up = format!("{}{}", &token[..token.len() - 8], "01234567");
    let refused =
        [("used twice", third, &token), ("expired", fourth, &short), ("that was not given", fifth, &made_up)];
    // At once: each takes its time to be sure.
    let mut running = Vec::new();
    for (what, host, token) in refused {
        let line = format!("weft join {address} {token}; echo exit $?");
        running.push((what, host, host.spawn("join", ["sh", "-c", &line])?));
    }
    for (what, host, joining) in running {
        let said = joining.wait(Duration::from_secs(60))?;
        ensure!(said.contains("exit 1"), "a token {what}: {said}");
        ensure!(status(host)?["secret_fingerprint"].is_null(), "a token {what}: the host has a secret now");
        ensure!(n_connected(first)? == 1, "a token {what}: the host is connected");
    }

    let two = first.run(["weft", "token", "--uses", "2"])?;
    third.run(["weft", "join", &address, &two]).or_else(|error| {
        thread::sleep(Duration::from_secs(1));
        Err(error.context(logs()?))
    })?;
    for host in [first, second, third] {
        wait_until("all three, each with all others", SETTLE, || {
            ensure!(n_connected(host)? == 2, "{}: {}\n{}", host.name(), status(host)?["peers"], logs()?);
            Ok(true)
        })?;
    }
    // What was learnt by the token outlives a restart.
    plain.stop_daemon(1)?;
    plain.start_daemon(1, &["PEERS="])?;
    wait_until("the second host to be back", SETTLE, || Ok(n_connected(second)? == 2))?;
    plain.ensure_sound()
}
