//! Managed plugins on a host: created from a directory, or pushed to and installed from the lab's registry.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{command, host::Host, registry::REGISTRY};

impl Host {
    /// `docker plugin create NAME DIR`, `set` and `enable`; `dir` holds `config.json` and `rootfs/`.
    ///
    /// # Errors
    /// When dockerd refuses; the plugin may be there, disabled.
    pub fn create_plugin(&self, name: &str, dir: &Path, settings: &[&str]) -> Result<()> {
        self.upload_plugin(name, dir)?;
        if !settings.is_empty() {
            self.docker(["plugin", "set", name].iter().chain(settings))?;
        }
        self.docker(["plugin", "enable", name])?;
        Ok(())
    }

    /// Pushes a plugin to the lab's registry under `127.0.0.1:5000/NAME`, and leaves none on this host.
    ///
    /// # Errors
    /// When dockerd or the registry refuses.
    pub fn push_plugin(&self, name: &str, dir: &Path) -> Result<String> {
        let reference = format!("{REGISTRY}/{name}");
        self.upload_plugin(&reference, dir)?;
        let pushed = self.docker(["plugin", "push", &reference]);
        self.docker(["plugin", "rm", &reference])?;
        pushed?;
        Ok(reference)
    }

    /// `docker plugin install --grant-all-permissions --alias ALIAS REFERENCE SETTINGS…`, as a user does.
    ///
    /// # Errors
    /// When dockerd refuses; the plugin may be there, disabled.
    pub fn install_plugin(&self, alias: &str, reference: &str, settings: &[&str]) -> Result<()> {
        let install = ["plugin", "install", "--grant-all-permissions", "--alias", alias, reference];
        self.docker(install.iter().chain(settings))?;
        Ok(())
    }

    /// The directory of the plugin's sockets on the host (`/run/docker/plugins/ID`).
    ///
    /// # Errors
    /// When there is no such plugin.
    pub fn plugin_sockets(&self, name: &str) -> Result<PathBuf> {
        Ok(Path::new("/run/docker/plugins").join(self.plugin_id(name)?))
    }

    /// Kills the plugin's process, by the host's count of processes; dockerd starts it again.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_plugin(&self, name: &str) -> Result<()> {
        let pid = self.plugin_pid(name)?;
        self.run(["kill", "-KILL", &pid.to_string()])?;
        Ok(())
    }

    /// The number of the plugin's process on the host.
    ///
    /// # Errors
    /// When it does not run.
    pub fn plugin_pid(&self, name: &str) -> Result<u32> {
        let id = self.plugin_id(name)?;
        // runc's own record, in the plugins' name space of either engine.
        let states = format!("/run/docker/runtime-runc/plugins.moby/{id}/state.json");
        let text = self.run(["cat", &states])?;
        let field = text.split_once("\"init_process_pid\":").context("runc's record has no process")?.1;
        let digits: String = field.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().context("runc's record holds no number")
    }

    fn plugin_id(&self, name: &str) -> Result<String> {
        self.docker(["plugin", "inspect", "--format", "{{.Id}}", name])
    }

    fn upload_plugin(&self, name: &str, dir: &Path) -> Result<()> {
        let (outside, inside) = self.shared_dir("plugins")?;
        let base = dir.file_name().context("the plugin's directory has a name")?;
        let copy = outside.join(format!("{}-{}", self.name(), base.display()));
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        command::check(Command::new("cp").arg("--archive").arg(dir).arg(&copy))?;
        let seen = inside.join(copy.file_name().context("the copy has a name")?);
        let created = self.docker(["plugin", "create", name, &seen.to_string_lossy()]);
        fs::remove_dir_all(&copy)?;
        created?;
        Ok(())
    }
}
