//! Hostile containers: with the raw sockets that Docker grants by default.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::Cluster;

use crate::{
    adversary::{self, Listener},
    place::Place,
};

/// Sends every forged frame from `attacker` to `target`; what came of them, by label.
fn attack(attacker: &Place<'_>, target: &Place<'_>, victim: &Place<'_>) -> Result<(Value, Value)> {
    let listener = Listener::start(target, "hear")?;
    let (own, to, victim) = (attacker.endpoint(), target.endpoint(), victim.endpoint());
    let report =
        adversary::inside(attacker, &["container", "--own", &own, "--to", &to, "--victim", &victim])?;
    Ok((report["sent"].clone(), listener.heard()?))
}

/// Addresses of a neighbour on the attacker's own host, towards another host and towards the same.
pub(crate) fn hostile_container(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let far = Place::docker(&network, manager, &[])?;
    let [near, victim, attacker] = [(); 3].map(|()| Place::docker(&network, worker, &[]));
    let (near, victim, attacker) = (near?, victim?, attacker?);
    for (from, to) in [(&far, &victim), (&near, &victim), (&attacker, &far), (&attacker, &near)] {
        from.wait_for(to)?;
    }
    let mut came = Vec::new();
    for target in [&far, &near] {
        let (sent, heard) = attack(&attacker, target, &victim)?;
        println!("from a container to {}: sent {sent}, heard {heard}", target.host.name());
        ensure!(heard["honest"].as_u64() > Some(0), "its honest frames do not come: {heard}");
        for (label, _) in sent.as_object().into_iter().flatten().filter(|(label, _)| *label != "honest") {
            if !heard[label].is_null() {
                came.push(format!("{label} on {}: {}", target.host.name(), heard[label]));
            }
        }
        ensure!(target.reaches(&victim.ip), "the victim is cut off from {}", target.host.name());
    }
    ensure!(came.is_empty(), "forged frames were delivered: {came:?}");
    let drops = weft_e2e::status(worker)?["drops"].clone();
    let n: u64 = drops
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("container_"))
        .filter_map(|(_, n)| n.as_u64())
        .sum();
    ensure!(n > 0, "the status counts no forged frames: {drops}");
    network.remove()
}

/// A second address, as VRRP puts one on: it answers on a network without the check, and on no other.
pub(crate) fn spoof_check_off(cluster: &Cluster) -> Result<()> {
    for (option, answers) in [("off", true), ("on", false)] {
        let network = cluster.network(&[&format!("--opt=weft.spoof-check={option}")])?;
        let asker = Place::docker(&network, cluster.manager(), &[])?;
        let holder = Place::docker(&network, cluster.worker(), &[])?;
        asker.wait_for(&holder)?;
        let (first, _) = holder.ip.rsplit_once('.').context("an IPv4 address")?;
        let second = format!("{first}.250");
        let links = holder.run(&["ip", "-o", "addr"])?;
        let line = links.lines().find(|line| line.contains(&holder.ip)).context("the holder's interface")?;
        let link = line.split_whitespace().nth(1).context("its name")?;
        holder.run(&["ip", "addr", "add", &format!("{second}/24"), "dev", link])?;
        ensure!(
            asker.reaches(&second) == answers,
            "weft.spoof-check={option}: {second} answers: {}",
            !answers
        );
        ensure!(asker.reaches(&holder.ip), "weft.spoof-check={option}: the first address is cut off");
        drop((asker, holder));
        network.remove()?;
    }
    Ok(())
}
