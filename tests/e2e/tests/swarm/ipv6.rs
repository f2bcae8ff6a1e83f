//! Services on networks with IPv6.

use anyhow::{Result, ensure};
use weft_e2e::Cluster;

use crate::service::{Service, wait_for_answers};

/// What Docker gives a service on a network with an IPv6 subnet, and that it is reached there.
pub(crate) fn service_ipv6(cluster: &Cluster) -> Result<()> {
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&["--ipv6", "--subnet=10.207.0.0/24", "--subnet=fd99:207::/64"])?;
    let service = Service::create(cluster, network.name(), &["--replicas=2"])?;
    let format = "{{range .Endpoint.VirtualIPs}}{{println .Addr}}{{end}}";
    let vips = manager.docker(["service", "inspect", "--format", format, &service.name])?;
    println!("{}: virtual addresses {vips:?}", manager.engine());
    let tasks = service.all_containers()?;
    for host in [manager, worker] {
        let client = network.run(host, &[])?;
        println!("{}: addresses {}", host.name(), host.exec(&client, "hostname -i")?);
        wait_for_answers(host, &client, &service.name, &tasks)?;
        for vip in vips.lines().filter_map(|vip| vip.split('/').next()) {
            let url = if vip.contains(':') { format!("[{vip}]") } else { vip.to_owned() };
            wait_for_answers(host, &client, &url, &tasks)?;
        }
    }
    ensure!(!vips.is_empty(), "the service has no address");
    service.remove()?;
    network.remove()
}
