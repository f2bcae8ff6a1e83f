//! A stack: web, app and database, updated under load.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{BUSYBOX, DRIVER, Host, wait_for, wait_until};

use crate::{
    load::{Load, failures, uptime},
    service::{START, containers, wait_for_answers},
};

const NAME: &str = "shop";

/// The compose file: `front` is attachable for the client, `back` is internal.
fn compose(version: u32) -> String {
    format!(
        r#"version: "3.8"
services:
  web:
    image: {BUSYBOX}
    environment: {{ VERSION: "{version}" }}
    networks:
      front: {{ aliases: [shop-front] }}
      back: {{}}
    healthcheck:
      test: ["CMD-SHELL", "wget -qO- http://127.0.0.1/ > /dev/null"]
      interval: 1s
      timeout: 5s
      retries: 5
    stop_grace_period: 5s
    deploy:
      replicas: 2
      endpoint_mode: vip
      update_config: {{ order: start-first, parallelism: 1, delay: 1s }}
  app:
    image: {BUSYBOX}
    networks: [back]
    deploy: {{ replicas: 2, endpoint_mode: dnsrr }}
  db:
    image: {BUSYBOX}
    networks: [back]
    volumes: ["data:/data"]
    command: ["sh", "-c", "trap 'exit 0' TERM; echo kept >> /data/log; mkdir -p /www; cp /data/log /www/index.html; httpd -f -p 80 -h /www & wait"]
    deploy: {{ placement: {{ constraints: ["node.hostname==host1"] }} }}
networks:
  front: {{ driver: "{DRIVER}", attachable: true }}
  back: {{ driver: "{DRIVER}", internal: true }}
volumes:
  data: {{}}
"#
    )
}

fn of_service(host: &Host, service: &str) -> Result<Vec<String>> {
    containers(host, &format!("label=com.docker.swarm.service.name={NAME}_{service}"))
}

fn all_of(cluster: &Cluster, service: &str) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for host in cluster.lab.hosts() {
        all.extend(of_service(host, service)?);
    }
    Ok(all)
}

fn deploy(cluster: &Cluster, version: u32) -> Result<()> {
    let (outside, inside) = cluster.manager().shared_dir("stack")?;
    fs::write(outside.join("compose.yml"), compose(version))?;
    let file = inside.join("compose.yml");
    let deploy =
        ["stack", "deploy", "--resolve-image=never", "--compose-file", &file.to_string_lossy(), NAME];
    cluster.manager().docker(deploy).map(drop)
}

pub(crate) fn stack(cluster: &Cluster) -> Result<()> {
    let result = deploy_and_update(cluster);
    // Also when that failed: later scenarios want a clean cluster.
    for host in cluster.lab.hosts() {
        let client = host.docker(["ps", "--quiet", "--filter", "name=shop-client"])?;
        if !client.is_empty() {
            host.docker(["rm", "--force", &client])?;
        }
    }
    cluster.manager().docker(["stack", "rm", NAME])?;
    let removed = wait_until("end of the stack", START, || {
        let networks = cluster.manager().docker(["network", "ls", "--quiet", "--filter", "name=shop_"])?;
        let running = ["web", "app", "db"].iter().map(|service| all_of(cluster, service));
        let running: Vec<BTreeSet<String>> = running.collect::<Result<_>>()?;
        Ok(networks.is_empty() && running.iter().all(BTreeSet::is_empty))
    });
    result.and(removed)
}

fn deploy_and_update(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    deploy(cluster, 1)?;
    wait_until("the stack to run", START * 2, || {
        let n = |service| all_of(cluster, service).map(|tasks| tasks.len());
        Ok((n("web")?, n("app")?, n("db")?) == (2, 2, 1))
    })?;
    worker.docker(["run", "--detach", "--name=shop-client", "--network=shop_front", BUSYBOX])?;
    // Only healthy tasks are behind the address, by the service's names and by its alias.
    let web = all_of(cluster, "web")?;
    for name in ["web", "shop_web", "shop-front"] {
        wait_for_answers(worker, "shop-client", name, &web)?;
    }
    // web reaches app by the addresses of its tasks, and db at its address, on the internal network.
    let (home, task) = [manager, worker]
        .into_iter()
        .find_map(|host| Some((host, of_service(host, "web").ok()?.pop()?)))
        .context("a task of web runs somewhere")?;
    wait_for("app's answer", SETTLE, || home.exec(&task, "timeout 3 wget -qO- http://app/").map(Some))?;
    let db =
        wait_for("db's answer", SETTLE, || home.exec(&task, "timeout 3 wget -qO- http://db/").map(Some))?;
    ensure!(db == "kept", "{db}");
    let gateway = home.exec(&of_service(home, "web")?[0], "ip route")?;
    ensure!(gateway.contains("default"), "front is no internal network: {gateway}");

    // A rolling update under load.
    let load = Load::start(worker, "shop-client", "web", "rolling-update")?;
    let started = uptime()?;
    deploy(cluster, 2)?;
    wait_until("the update to be complete", START * 2, || {
        let format = "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}";
        let state = manager.docker(["service", "inspect", "--format", format, "shop_web"])?;
        Ok(state == "completed" && all_of(cluster, "web")?.is_disjoint(&web))
    })?;
    wait_for_answers(worker, "shop-client", "web", &all_of(cluster, "web")?)?;
    let requests = load.stop()?;
    let (n_failed, _) = failures(&requests, started);
    println!("rolling update: {n_failed} of {} requests failed", requests.len());
    ensure!(n_failed * 50 <= requests.len(), "more than 2 % of requests failed: {n_failed}");

    // The volume stays when its task is replaced.
    let old = all_of(cluster, "db")?;
    for id in &old {
        manager.docker(["kill", id])?;
    }
    wait_until("another task of db", START, || {
        let now = all_of(cluster, "db")?;
        Ok(now.len() == 1 && now.is_disjoint(&old))
    })?;
    wait_until("db's log to have grown", START, || {
        let (host, task) = (home, of_service(home, "web")?.pop().context("a task of web")?);
        Ok(host.exec(&task, "timeout 3 wget -qO- http://db/")?.lines().count() == 2)
    })
}
