//! A registry on the loopback of every host, all with the same files: what one host pushes, each can install.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};

use crate::{dockerd, host::Host, packages, wait};

/// The registry's address on every host. dockerd trusts loopback without TLS.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// Starts the registry of the host.
pub(crate) fn start(host: &Host) -> Result<()> {
    let program = packages::extracted("docker-registry", "docker-registry")?;
    let (files, _) = host.shared_dir("registry")?;
    let config = host.log_path("registry")?.with_extension("yml");
    let text = format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
         http: {{addr: \"{REGISTRY}\"}}\n",
        files.display(),
    );
    fs::write(&config, text)?;
    let log = host.log_path("registry")?;
    // It stays with the host, not with this process: the shell that starts it goes at once.
    let line = format!("setsid \"$@\" </dev/null >{} 2>&1 &", log.display());
    host.run_in_network([
        "sh",
        "-c",
        &line,
        "sh",
        &program.to_string_lossy(),
        "serve",
        &config.to_string_lossy(),
    ])?;
    let (address, port) = REGISTRY.split_once(':').context("the registry's address has a port")?;
    debug_assert!(address.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback()));
    wait::wait_until("the registry's port", Duration::from_secs(15), || {
        Ok(!host.run(["ss", "-Hltn", &format!("sport = :{port}")])?.is_empty())
    })
    .with_context(|| dockerd::tail(&log))
}
