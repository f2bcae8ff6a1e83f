//! A Docker swarm of a lab's hosts.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{host::Host, lab::Lab, wait};

impl Lab {
    /// Makes the first host the manager of a new swarm, the others its workers, and waits until all are ready.
    ///
    /// # Errors
    /// When a host cannot join; the swarm is left half made.
    pub fn swarm(&self) -> Result<()> {
        let (manager, workers) = self.hosts().split_first().context("a swarm needs a host")?;
        manager.docker(["swarm", "init", "--advertise-addr", &manager.underlay().to_string()])?;
        for worker in workers {
            self.join_swarm(worker)?;
        }
        wait::wait_until("all nodes of the swarm to be ready", Duration::from_secs(60), || {
            let states = manager.docker(["node", "ls", "--format", "{{.Status}}"])?;
            Ok(states.lines().filter(|state| *state == "Ready").count() == self.hosts().len())
        })
    }

    /// Lets a host join the first one's swarm as a worker.
    ///
    /// # Errors
    /// When it cannot.
    pub fn join_swarm(&self, worker: &Host) -> Result<()> {
        let manager = self.hosts().first().context("a swarm needs a host")?;
        let token = manager.docker(["swarm", "join-token", "--quiet", "worker"])?;
        let address = match manager.underlay() {
            std::net::IpAddr::V4(address) => format!("{address}:2377"),
            std::net::IpAddr::V6(address) => format!("[{address}]:2377"),
        };
        let own = worker.underlay().to_string();
        worker.docker(["swarm", "join", "--token", &token, "--advertise-addr", &own, &address])?;
        Ok(())
    }
}
