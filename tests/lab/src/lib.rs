//! Real Docker hosts on one machine, for end-to-end tests and the demonstration.
//!
//! A [`Lab`] is a wire (a bridge in a network namespace of its own) with [`Host`]s on it. Each host has its own
//! network, file system, process numbers and control groups, and runs a real [`Engine`]: Debian's packages of it,
//! in a root filesystem that is made once and cached. Nothing of this machine's own network is touched.
//!
//! ```no_run
//! use weft_lab::{Engine, Lab, LabConfig};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::start(LabConfig::new("example", Engine::Sid, 2))?;
//! lab.swarm()?;
//! let manager = lab.host(0);
//! manager.docker(["network", "create", "--driver=overlay", "--attachable", "net"])?;
//! manager.docker(["run", "--detach", "--network=net", "--name=web", weft_lab::BUSYBOX])?;
//! println!("{}", manager.exec("web", "wget -qO- http://web")?);
//! # Ok(())
//! # }
//! ```
//!
//! Hosts have no default route and no resolver, so that a look-up of something outside fails at once.
//!
//! # What is left behind
//! Nothing, when the lab is dropped or its process gets SIGINT, SIGTERM or SIGHUP. When the process is killed, its
//! hosts end with it (their process 1 reads a pipe that closes then); directories and control groups are removed
//! by the next lab, which knows the owner's death from the record in `/run/weft-lab`. The engines' cache stays in
//! `/var/cache/weft-lab`.
//!
//! Labs need root. Several may run at once.

mod capture;
mod cgroup;
mod command;
mod debian;
mod deploy;
mod dockerd;
mod engine;
mod holder;
mod host;
mod image;
mod lab;
mod packages;
mod paths;
mod plugin;
mod record;
mod registry;
mod swarm;
mod systemd;
mod wait;

pub use self::{
    capture::{Capture, Captured},
    command::Output,
    debian::{DebianRoot, unshared},
    deploy::{DRIVER, PLUGIN, SECRET, Weft},
    engine::Engine,
    host::{Background, COMMAND_LIMIT, Host},
    image::BUSYBOX,
    lab::{Lab, LabConfig},
    packages::{extracted_library, install_missing},
    paths::cache_dir,
    record::{remove_staying, staying, sweep},
    registry::REGISTRY,
    systemd::Systemd,
    wait::{wait_for, wait_until},
};
