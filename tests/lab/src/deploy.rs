//! weft on a lab's hosts, put there as its users do.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{command, host::Host, lab::Lab, wait};

/// The name that networks give as their driver: the managed plugin's, with its tag.
pub const DRIVER: &str = "weft:latest";

/// The managed plugin's name.
pub const PLUGIN: &str = "weft";

/// Where a host keeps the cluster secret.
pub const SECRET: &str = "/etc/weft/secret";

/// What was built: the program, and the managed plugin's directory.
#[derive(Debug, Clone)]
pub struct Weft {
    /// The program.
    pub program: PathBuf,
    /// `config.json` and `rootfs/`.
    pub plugin_dir: PathBuf,
}

impl Weft {
    /// What `cargo xtask test` built, from `WEFT_BIN` and `WEFT_PLUGIN_DIR`.
    ///
    /// # Errors
    /// When these are not set.
    pub fn from_env() -> Result<Self> {
        let get = |name: &str| {
            env::var_os(name)
                .map(PathBuf::from)
                .with_context(|| format!("no {name}: run this by `cargo xtask test`"))
        };
        Ok(Self { program: get("WEFT_BIN")?, plugin_dir: get("WEFT_PLUGIN_DIR")? })
    }

    /// Gives the host the `weft` command.
    ///
    /// # Errors
    /// When the program cannot be copied.
    pub fn install_program(&self, host: &Host) -> Result<()> {
        let (outside, inside) = host.shared_dir("bin")?;
        let copy = outside.join("weft");
        if !copy.is_file() {
            let new = outside.join(format!(".weft-{}", host.name()));
            fs::copy(&self.program, &new)
                .with_context(|| format!("cannot copy {}", self.program.display()))?;
            fs::rename(&new, &copy)?;
        }
        host.run(["ln", "-sf", &inside.join("weft").to_string_lossy(), "/usr/local/bin/weft"])?;
        Ok(())
    }

    /// Makes a cluster secret with `weft init --out` and puts it on the hosts at [`SECRET`].
    ///
    /// # Errors
    /// When `weft init` fails.
    pub fn make_secret(&self, lab: &Lab, name: &str) -> Result<()> {
        let file = lab.run_dir().join("files/secrets").join(name);
        fs::create_dir_all(file.parent().context("it has a parent")?)?;
        command::check(command::command(&self.program.to_string_lossy(), ["init", "--out"]).arg(&file))?;
        lab.hosts().iter().try_for_each(|host| self.give_secret(host, name))
    }

    /// Puts the secret that [`make_secret`](Self::make_secret) made under `name` on one more host.
    ///
    /// # Errors
    /// When there is no such secret.
    pub fn give_secret(&self, host: &Host, name: &str) -> Result<()> {
        host.sh(&format!("mkdir -p /etc/weft && install -m 600 /lab/files/secrets/{name} {SECRET}"))?;
        Ok(())
    }

    /// Pushes the plugin to the lab's registry, and installs it and the `weft` command on every host.
    ///
    /// # Errors
    /// When a host's engine refuses.
    pub fn install_everywhere(&self, lab: &Lab, settings: &[&str]) -> Result<()> {
        let first = lab.hosts().first().context("a lab has hosts")?;
        let reference = first.push_plugin(DRIVER, &self.plugin_dir)?;
        for host in lab.hosts() {
            self.install(host, &reference, settings)?;
        }
        Ok(())
    }

    /// Installs the plugin from the registry with the host's secret, and the `weft` command.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn install(&self, host: &Host, reference: &str, settings: &[&str]) -> Result<()> {
        self.install_program(host)?;
        let secret = format!("secret.source={SECRET}");
        host.install_plugin(PLUGIN, reference, &[&[secret.as_str()], settings].concat())
    }
}

impl Host {
    /// `weft status --json` of the host's daemon.
    ///
    /// # Errors
    /// When the daemon does not answer. That it is not ready is no error.
    pub fn weft_status(&self) -> Result<String> {
        let done = self.output(["weft", "status", "--json"])?;
        anyhow::ensure!(done.stdout.starts_with('{'), "{}: weft status: {done}", self.name());
        Ok(done.stdout)
    }

    /// The managed plugin's driver socket as this machine can reach it.
    ///
    /// # Errors
    /// When the plugin is not there.
    pub fn weft_driver_socket(&self) -> Result<PathBuf> {
        // By a link, as the whole path would be too long for a socket's address.
        let link = self.log_path("driver")?.with_extension("dir");
        let sockets = self.plugin_sockets(PLUGIN)?;
        let dir =
            Path::new("/proc").join(self.pid().to_string()).join("root").join(sockets.strip_prefix("/")?);
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        symlink(dir, &link)?;
        Ok(link.join("weft.sock"))
    }
}

impl Lab {
    /// Waits until the swarm's manager knows that all nodes have the network plugin: nodes say so every 20 seconds,
    /// and one that is not known to have it gets no tasks.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for_plugin_on_nodes(&self) -> Result<()> {
        let manager = self.host(0);
        let nodes = manager.docker(["node", "ls", "--quiet"])?;
        wait::wait_until("the swarm to know the plugin of all nodes", Duration::from_secs(60), || {
            let inspect = ["node", "inspect", "--format", "{{json .Description.Engine.Plugins}}"];
            let plugins = manager.docker(inspect.into_iter().chain(nodes.split_whitespace()))?;
            Ok(plugins.lines().filter(|line| line.contains(DRIVER)).count()
                == nodes.split_whitespace().count())
        })
    }
}
