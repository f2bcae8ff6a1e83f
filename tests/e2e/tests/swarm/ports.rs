//! Ports published on a host.

use anyhow::{Result, ensure};
use weft_e2e::{Cluster, SETTLE};
use weft_lab::wait_for;

use crate::service::Service;

/// `-p mode=host` on a service and `-p` on a container, reached from the other host.
pub(crate) fn host_mode_port(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    let client = network.run(worker, &[])?;
    let options =
        ["--constraint=node.hostname==host1", "--publish=mode=host,target=80,published=8080,protocol=tcp"];
    let service = Service::create(cluster, network.name(), &options)?;
    let task = service.containers(manager)?;
    let container = network.run(manager, &["--publish=8081:80"])?;
    let id = manager.docker(["inspect", "--format", "{{.Config.Hostname}}", &container])?;
    for (port, expected) in [(8080, &task[0]), (8081, &id)] {
        let url = format!("http://{}:{port}/", manager.ipv4());
        let answer = wait_for("an answer at the port", SETTLE, || {
            worker.exec(&client, &format!("timeout 3 wget -qO- {url}")).map(Some)
        })?;
        ensure!(answer == *expected, "{url}: {answer}, not {expected}");
    }
    service.remove()?;
    network.remove()
}
