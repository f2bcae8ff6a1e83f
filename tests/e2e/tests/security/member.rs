//! Members with modified software: they have the secret, and cheat.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_e2e::{SETTLE, n_connected, status};
use weft_lab::{Engine, Host, Weft, wait_until};

use crate::{
    adversary::{self, Listener, number},
    place::Place,
    plain::{Plain, dropped, peer_id, wire_id},
};

/// The address that the member claims for an endpoint of its own.
const OWN: &str = "02:42:0a:ca:00:63/10.202.0.99";

/// Two hosts with a container each on the network `red`, and one more on `blue` on the first.
struct Stage<'p> {
    plain: &'p Plain,
    /// The container that is attacked, on the first host.
    local: Place<'p>,
    /// The one whose addresses are abused, on the second.
    victim: Place<'p>,
    red: String,
    blue: String,
    secret: String,
}

impl<'p> Stage<'p> {
    fn set(plain: &'p Plain) -> Result<Self> {
        adversary::connect(&plain.lab)?;
        let (local, victim) =
            (plain.attach(0, "red", "10.202.0.10")?, plain.attach(1, "red", "10.202.0.20")?);
        plain.attach(0, "blue", "10.203.0.10")?;
        local.wait_for(&victim)?;
        let (red, blue) = (wire_id(plain.host(0), "red")?, wire_id(plain.host(0), "blue")?);
        let secret = adversary::secret_file(&plain.lab, "cluster")?;
        Ok(Self { plain, local, victim, red, blue, secret })
    }

    fn target(&self) -> &Host {
        self.plain.host(0)
    }

    /// Joins the first host as a member and does `deed`.
    fn attack(&self, name: &str, deed: &str, more: &[&str]) -> Result<Value> {
        let target = format!("{}:6783", self.target().ipv4());
        let (to, victim, victim_id) =
            (self.local.endpoint(), self.victim.endpoint(), peer_id(self.victim.host)?);
        let args = [
            "member",
            "--target",
            &target,
            "--secret",
            &self.secret,
            "--name",
            name,
            "--deed",
            deed,
            "--network",
            &self.red,
            "--foreign-network",
            &self.blue,
            "--own",
            OWN,
            "--to",
            &to,
            "--victim",
            &victim,
            "--victim-id",
            &victim_id,
        ];
        adversary::on_wire(&self.plain.lab, &[&args[..], more].concat())
    }
}

fn staged(engine: Engine, weft: &Weft, deed: fn(&Stage<'_>) -> Result<()>) -> Result<()> {
    let plain = Plain::start("member", engine, weft, 2, &[])?;
    deed(&Stage::set(&plain)?)?;
    plain.ensure_sound()
}

pub(crate) fn forged_frames(engine: Engine, weft: &Weft) -> Result<()> {
    staged(engine, weft, cheats_with_frames)
}

pub(crate) fn forged_records(engine: Engine, weft: &Weft) -> Result<()> {
    staged(engine, weft, cheats_with_records)
}

pub(crate) fn pinned_name(engine: Engine, weft: &Weft) -> Result<()> {
    staged(engine, weft, takes_a_name)
}

pub(crate) fn other_suite(engine: Engine, weft: &Weft) -> Result<()> {
    staged(engine, weft, offers_another_suite)
}

/// Frames on others' networks, and under addresses of others, of the receiver and of nobody.
fn cheats_with_frames(stage: &Stage<'_>) -> Result<()> {
    let before = status(stage.target())?["drops"].clone();
    let listener = Listener::start(&stage.local, "frames")?;
    let report = stage.attack("cheat-frames", "frames", &[])?;
    ensure!(report["established"] == true, "the member got no session: {report}");
    let heard = listener.heard()?;
    let after = status(stage.target())?["drops"].clone();
    println!("forged frames: sent {}, heard {heard}", report["sent"]);
    ensure!(heard["honest"].as_u64() > Some(0), "an honest member's frames do not come: {heard}");
    let sent = report["sent"].as_object().into_iter().flatten();
    let came: Vec<&String> =
        sent.map(|(label, _)| label).filter(|label| *label != "honest" && !heard[*label].is_null()).collect();
    ensure!(came.is_empty(), "forged frames came to the container: {came:?}");
    let grown = |name: &str| after[name].as_u64().unwrap_or(0) - before[name].as_u64().unwrap_or(0);
    ensure!(grown("unknown_network") + grown("not_member") >= 10, "forged networks are not counted: {after}");
    ensure!(grown("spoofed_mac") >= 30, "forged Ethernet addresses are not counted: {after}");
    Ok(())
}

/// Records and membership messages in the victim's name.
fn cheats_with_records(stage: &Stage<'_>) -> Result<()> {
    let of_victim = || -> Result<Vec<Value>> {
        let status = status(stage.target())?;
        let all = status["endpoints"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|endpoint| endpoint["host"] == stage.victim.host.name()).collect())
    };
    let before = of_victim()?;
    ensure!(before.len() == 1, "{before:?}");
    let report = stage.attack("cheat-records", "records", &[])?;
    ensure!(report["sent"].as_object().is_some_and(|sent| sent.len() >= 5), "{report}");
    ensure!(of_victim()? == before, "the victim's endpoint became {:?}, from {before:?}", of_victim()?);
    ensure!(stage.local.reaches(&stage.victim.ip), "the victim is not reached any more");
    let state = crate::plain::peer(stage.target(), stage.victim.host.name())?;
    ensure!(state["state"] == "connected", "{state}");
    Ok(())
}

/// A name that another key has.
fn takes_a_name(stage: &Stage<'_>) -> Result<()> {
    let victim = stage.victim.host.name();
    let report = stage.attack(victim, "stay", &[])?;
    ensure!(
        report["refused"].as_str().is_some_and(|reason| reason.contains("NameTaken")),
        "a second {victim} was not refused: {report}"
    );
    let refused = status(stage.target())?["refused"].clone();
    let of_it = refused.as_array().and_then(|all| all.iter().find(|peer| peer["id"] == report["id"]));
    ensure!(of_it.is_some_and(|peer| peer["name"] == victim), "the status does not tell of it: {refused}");
    let state = crate::plain::peer(stage.target(), victim)?;
    ensure!(state["state"] == "connected" && state["id"] == peer_id(stage.victim.host)?.as_str(), "{state}");
    Ok(())
}

/// Nobody is talked into another suite.
fn offers_another_suite(stage: &Stage<'_>) -> Result<()> {
    let own = status(stage.target())?["suite"].as_str().unwrap_or_default().to_owned();
    let other = if own == "aes-256-gcm" { "chacha20-poly1305" } else { "aes-256-gcm" };
    let report = stage.attack("cheat-suite", "stay", &["--suite", other, "--seconds=4"])?;
    ensure!(
        report["established"] == false && report["peer"].is_null(),
        "suite {other} connects to {own}: {report}"
    );
    ensure!(number(&report, "received")? == 0, "who offers {other} is answered: {report}");
    let report = stage.attack("honest-suite", "stay", &["--suite", &own])?;
    ensure!(report["established"] == true, "suite {own} does not connect: {report}");
    Ok(())
}

/// A member that announces the addresses of another's endpoint, with a key whose id is lower, and higher.
pub(crate) fn claimed_address(engine: Engine, weft: &Weft) -> Result<()> {
    let plain = Plain::start("claim", engine, weft, 2, &[])?;
    let stage = Stage::set(&plain)?;
    let mut failures = Vec::new();
    for order in ["above", "below"] {
        let pings = stage.local.ping(&stage.victim, Duration::from_millis(50))?;
        let listener =
            stage.local.spawn(&format!("hear-{order}"), &[adversary::program()?, "hear", "--seconds=6"])?;
        let report = stage.attack(&format!("claim-{order}"), "claim", &["--order", order, "--stay=2"])?;
        ensure!(report["established"] == true, "{report}");
        let echoes = pings.stop()?;
        let heard = listener.wait(Duration::from_secs(20))?;
        println!("claimed by an id {order}: {} of {} echoes lost", echoes.n_lost(), echoes.n_sent);
        if echoes.n_lost() > 0 || heard.contains("claimed") {
            failures.push(format!("an id {order} the owner's takes its address: {echoes:?}, {heard}"));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

/// `N` networks over `M` hosts, with one subnet for all: every pair of containers, and forged numbers.
pub(crate) fn isolation(engine: Engine, weft: &Weft) -> Result<()> {
    const NETWORKS: [&str; 4] = ["red", "blue", "green", "gold"];
    let plain = Plain::start("isolation", engine, weft, 3, &[])?;
    let mut all = Vec::new();
    for (number, network) in NETWORKS.iter().enumerate() {
        for host in 0..3 {
            let ip = format!("10.204.0.{}", 10 + number * 10 + host);
            all.push((*network, plain.attach(host, network, &ip)?));
        }
    }
    for network in NETWORKS {
        let of_it: Vec<&Place<'_>> =
            all.iter().filter(|(on, _)| *on == network).map(|(_, place)| place).collect();
        for from in &of_it {
            for to in of_it.iter().filter(|to| to.ip != from.ip) {
                from.wait_for(to)?;
            }
        }
    }
    // All at once: each waits a second for what must not come.
    let mut asked = Vec::new();
    for (network, from) in &all {
        let others: Vec<&str> =
            all.iter().filter(|(on, _)| on != network).map(|(_, to)| to.ip.as_str()).collect();
        let line = format!(
            "for ip in {}; do ping -n -c1 -W1 $ip > /dev/null && echo reached $ip & done; wait",
            others.join(" ")
        );
        asked.push((network, from.spawn("others", &["sh", "-c", &line])?));
    }
    let n_pairs = all.len() * (all.len() - 3);
    for (network, asking) in asked {
        let said = asking.wait(Duration::from_secs(30))?;
        ensure!(!said.contains("reached"), "from {network}: {said}");
    }
    println!(
        "isolation: {n_pairs} pairs of {} containers on {} networks do not reach each other",
        all.len(),
        NETWORKS.len()
    );
    // By name, so that what they heard of the flood of ARP requests was dropped for this and nothing else.
    ensure!(dropped(plain.host(0), &["bad_seal", "malformed", "bad_inner"])? == 0);
    wait_until("sessions", SETTLE, || Ok(n_connected(plain.host(0))? == 2))?;
    plain.ensure_sound()
}
