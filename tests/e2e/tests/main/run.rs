//! `docker run` and `docker network connect` on attachable networks.

use anyhow::{Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{BUSYBOX, Host, wait_until};

/// Waits until `from` gets an answer over HTTP at `to`, a name or an address.
fn reaches(host: &Host, from: &str, to: &str) -> Result<()> {
    wait_until(&format!("an answer of {to} to {from}"), SETTLE, || {
        host.exec(from, &format!("timeout 3 wget -qO- http://{to}")).map(|_| true)
    })
}

/// Fails when `from` gets an echo back from `address`.
fn does_not_reach(host: &Host, from: &str, address: &str) -> Result<()> {
    let done = host.docker_output(["exec", from, "ping", "-c3", "-i0.2", "-W1", address])?;
    ensure!(!done.success(), "{from} reaches {address}: {done}");
    Ok(())
}

pub(crate) fn addresses_and_publishing(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&["--subnet=10.201.0.0/24"])?;
    let here = network.run(manager, &[])?;
    let there =
        network.run(worker, &["--ip=10.201.0.77", "--mac-address=02:11:22:33:44:55", "--publish=8077:80"])?;
    reaches(manager, &here, "10.201.0.77")?;
    let links = worker.exec(&there, "ip addr show eth0")?;
    ensure!(links.contains("10.201.0.77/24"), "the address given is not eth0's:\n{links}");
    ensure!(links.contains("02:11:22:33:44:55"), "the Ethernet address given is not eth0's:\n{links}");

    let ports = worker.docker(["ps", "--filter", &format!("name={there}"), "--format", "{{.Ports}}"])?;
    ensure!(ports.contains("8077->80"), "the published port is not shown: {ports:?}");
    // Through the host's port, from the other host.
    let url = format!("http://{}:8077", worker.ipv4());
    let answer =
        manager.docker(["run", "--rm", "--network=host", BUSYBOX, "timeout", "5", "wget", "-qO-", &url])?;
    ensure!(!answer.is_empty(), "no answer at the published port");
    network.remove()
}

pub(crate) fn connect_restart_kill(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let here = network.run(manager, &[])?;
    let plain = cluster.unique("plain");
    worker.docker(["run", "--detach", "--name", &plain, BUSYBOX])?;
    let result = (|| -> Result<()> {
        worker.docker(["network", "connect", network.name(), &plain])?;
        reaches(manager, &here, &plain)?;
        reaches(worker, &plain, &here)?;
        worker.docker(["network", "disconnect", network.name(), &plain])?;
        let links = worker.exec(&plain, "ip -o link")?;
        ensure!(!links.contains("eth1"), "the link is still there:\n{links}");
        worker.docker(["network", "connect", network.name(), &plain])?;
        reaches(manager, &here, &plain)?;

        worker.docker(["restart", "--time=1", &plain])?;
        reaches(manager, &here, &plain)?;
        worker.docker(["kill", &plain])?;
        worker.docker(["start", &plain])?;
        reaches(manager, &here, &plain)
    })();
    worker.docker(["rm", "--force", &plain])?;
    result?;
    network.remove()
}

pub(crate) fn internal(cluster: &Cluster) -> Result<()> {
    let network = cluster.network(&["--internal"])?;
    let here = network.run(cluster.manager(), &[])?;
    let there = network.run(cluster.worker(), &[])?;
    reaches(cluster.manager(), &here, &there)?;
    let routes = cluster.manager().exec(&here, "ip route")?;
    ensure!(!routes.contains("default"), "an internal network has a way out:\n{routes}");
    network.remove()
}

pub(crate) fn two_networks_on_one_container(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let (red, blue) = (cluster.network(&[])?, cluster.network(&[])?);
    let both = red.run(manager, &[])?;
    manager.docker(["network", "connect", blue.name(), &both])?;
    let on_red = red.run(worker, &[])?;
    let on_blue = blue.run(worker, &[])?;
    reaches(manager, &both, &on_red)?;
    reaches(manager, &both, &on_blue)?;
    let address = address_on(worker, &on_blue, blue.name())?;
    does_not_reach(worker, &on_red, &address)?;
    // The container on both is removed with the first; the second must then let go of it.
    red.remove()?;
    blue.remove()
}

fn address_on(host: &Host, container: &str, network: &str) -> Result<String> {
    let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
    host.docker(["inspect", "--format", &format, container])
}
