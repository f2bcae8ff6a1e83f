//! What is shipped in deploy/examples, as its first lines say.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{BUSYBOX, DRIVER, Host, wait_until};

/// Gives the host an example's file; returns where the host has it.
fn example(host: &Host, name: &str) -> Result<String> {
    let (outside, inside) = host.shared_dir("examples")?;
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples").join(name),
        outside.join(name),
    )?;
    Ok(inside.join(name).to_string_lossy().into_owned())
}

pub(crate) fn stack(cluster: &Cluster) -> Result<()> {
    let result = deploy_and_ask(cluster);
    // Also when that failed: later scenarios want a clean cluster.
    cluster.manager().docker(["stack", "rm", "shop"])?;
    let removed = wait_until("the end of the stack", SETTLE, || {
        let networks = cluster.manager().docker(["network", "ls", "--quiet", "--filter", "name=shop_"])?;
        let tasks =
            cluster.lab.hosts().iter().map(|host| host.docker(["ps", "--quiet", "--filter", "name=shop_"]));
        Ok(networks.is_empty() && tasks.collect::<Result<Vec<_>>>()?.iter().all(String::is_empty))
    });
    result.and(removed)
}

fn deploy_and_ask(cluster: &Cluster) -> Result<()> {
    let manager = cluster.manager();
    let file = example(manager, "stack.yml")?;
    let images = ["WEB_IMAGE", "DB_IMAGE"].map(|name| format!("{name}={BUSYBOX}"));
    let deploy = ["docker", "stack", "deploy", "--resolve-image=never", "--compose-file", &file, "shop"];
    manager.run(["env"].into_iter().chain(images.iter().map(String::as_str)).chain(deploy))?;
    let tasks = |host: &Host| host.docker(["ps", "--quiet", "--filter", "name=shop_web"]);
    wait_until("a task of web on each host", SETTLE, || {
        Ok(!tasks(manager)?.is_empty() && !tasks(cluster.worker())?.is_empty())
    })?;
    for host in cluster.lab.hosts() {
        let task = tasks(host)?;
        wait_until("web's answer from db", SETTLE, || {
            host.exec(task.trim(), "timeout 3 wget -qO- http://db").map(|_| true)
        })?;
    }
    let drivers = ["network", "inspect", "--format", "{{.Driver}} {{.Internal}}", "shop_front", "shop_back"];
    let drivers = manager.docker(drivers)?;
    ensure!(drivers == format!("{DRIVER} false\n{DRIVER} true"), "{drivers}");
    Ok(())
}

/// By Debian's docker-compose, of this machine, on the hosts' engines.
pub(crate) fn compose(cluster: &Cluster) -> Result<()> {
    weft_lab::install_missing(&[("docker-compose", "docker-compose")])?;
    let [manager, worker] = [cluster.manager(), cluster.worker()];
    manager.docker(["network", "create", &format!("--driver={DRIVER}"), "--attachable", "shop"])?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/compose.yml");
    let compose = |words: &[&str]| {
        let socket = format!("DOCKER_HOST=unix://{}", manager.docker_socket().display());
        let image = format!("CACHE_IMAGE={BUSYBOX}");
        let file = file.to_string_lossy().into_owned();
        let start = ["env", &socket, &image, "docker-compose", "--project-name=shop", "--file", &file];
        manager.run_in_network(start.iter().chain(words))
    };
    let result = compose(&["up", "--detach"]).and_then(|_| {
        worker.docker(["run", "--detach", "--network=shop", "--name=shop-client", BUSYBOX])?;
        wait_until("an answer from another host", SETTLE, || {
            worker.exec("shop-client", "timeout 3 wget -qO- http://cache").map(|_| true)
        })
    });
    let down = compose(&["down"]).context("docker-compose down");
    let removed = worker.docker(["rm", "--force", "shop-client"]).and_then(|_| {
        wait_until("the end of the network", SETTLE, || {
            manager.docker(["network", "rm", "shop"]).map(|_| true)
        })
    });
    result.and(down.map(drop)).and(removed)
}
