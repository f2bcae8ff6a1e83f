//! A lab: hosts on one wire, and the guard that removes all of it.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    capture::Capture,
    cgroup, command,
    engine::Engine,
    holder::Holder,
    host::Host,
    image, packages,
    record::{self, Record},
    registry, wait,
};

/// What a lab is made of.
#[derive(Debug, Clone)]
pub struct LabConfig {
    /// What the lab is for; a part of its id. Letters, digits and `-`.
    pub kind: String,
    /// The engine of each host, in order: `host1` is the first.
    pub engines: Vec<Engine>,
    /// MTU of the hosts' `eth0`, in bytes.
    pub underlay_mtu: u16,
    /// Whether `eth0` has an IPv6 address as well; the swarm and the underlay then use that one.
    pub ipv6: bool,
    /// More arguments for dockerd, for instance `--live-restore`.
    pub dockerd_args: Vec<String>,
    /// Whether dockerd is started, and the image and registry provided.
    pub docker: bool,
    /// Whether the hosts have systemd, which [`Host::boot`] starts. Their file system is another one, made when it
    /// is first asked for.
    pub systemd: bool,
    /// Whether the lab can be made to stay after the process that made it, by [`Lab::keep`].
    pub can_stay: bool,
}

impl LabConfig {
    /// `n_hosts` hosts with the same engine, MTU 1500, IPv4.
    #[must_use]
    pub fn new(kind: &str, engine: Engine, n_hosts: usize) -> Self {
        Self {
            kind: kind.to_owned(),
            engines: vec![engine; n_hosts],
            underlay_mtu: 1500,
            ipv6: false,
            dockerd_args: Vec::new(),
            docker: true,
            systemd: false,
            can_stay: false,
        }
    }
}

/// Hosts on one wire.
///
/// Everything a lab makes ends with it: when it is dropped, on SIGINT and SIGTERM, and, but for directories and
/// control groups, also when its process is killed; the next lab removes those.
#[derive(Debug)]
pub struct Lab {
    record: Record,
    config: LabConfig,
    fabric: Holder,
    hosts: Vec<Host>,
    n_captures: AtomicUsize,
}

/// The labs of this process that are to be removed when it is interrupted.
static RUNNING: Mutex<Vec<Arc<Record>>> = Mutex::new(Vec::new());

impl Lab {
    /// Makes the hosts, starts their engines, and gives each the image and a registry. Takes some seconds; the
    /// first time an engine is used, a minute or two more.
    ///
    /// # Errors
    /// When something is missing or fails; what had been made is removed.
    pub fn start(config: LabConfig) -> Result<Self> {
        remove_on_signals()?;
        packages::install_needed()?;
        record::sweep()?;
        let mut engines = config.engines.clone();
        engines.dedup();
        if config.systemd {
            engines.iter().try_for_each(|engine| engine.ensure_with_systemd().map(drop))?;
        } else {
            Engine::ensure_all(&engines)?;
        }

        let record = Record::create(&config.kind)?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(record.clone()));
        let mut lab = match Holder::fabric(cgroup::create(&record.group(), "fabric")?, config.can_stay) {
            Ok(fabric) => Self { record, config, fabric, hosts: Vec::new(), n_captures: AtomicUsize::new(0) },
            Err(error) => {
                forget(&record);
                record.remove()?;
                return Err(error);
            }
        };
        // From here on, dropping the lab removes it.
        for engine in lab.config.engines.clone() {
            lab.add_host(engine)?;
        }
        if lab.config.docker {
            lab.start_engines()?;
        }
        Ok(lab)
    }

    /// Lets the lab stay when this process ends: [`remove_staying`](crate::remove_staying) removes it.
    ///
    /// # Errors
    /// When the lab was not made for that, or its record cannot be written; it is removed then.
    pub fn keep(self) -> Result<()> {
        ensure!(self.config.can_stay, "lab {} ends with its maker", self.record.id());
        self.record.give_up()?;
        forget(&self.record);
        std::mem::forget(self);
        Ok(())
    }

    /// The hosts: `host1` first.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host with this index, from 0.
    ///
    /// # Panics
    /// When there are not that many.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The lab's id, unique on this machine.
    #[must_use]
    pub fn id(&self) -> &str {
        self.record.id()
    }

    /// The lab's directory: sockets, logs, captures. Gone with the lab.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.record.run_dir()
    }

    /// Adds a host to the wire, its dockerd not started.
    ///
    /// # Errors
    /// When its namespaces or links cannot be made.
    pub fn add_host(&mut self, engine: Engine) -> Result<&Host> {
        let number = u8::try_from(self.hosts.len() + 1)?;
        let name = format!("host{number}");
        let share = self.record.run_dir();
        fs::create_dir_all(share.join(&name))?;
        fs::create_dir_all(share.join("files"))?;
        let holder = self.boot(&name, engine)?;
        let host = Host {
            name,
            engine,
            ipv4: Ipv4Addr::new(10, 77, 0, 10 + number),
            ipv6: self.config.ipv6.then(|| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 10 + u16::from(number))),
            holder,
            share,
            dockerd_args: self.config.dockerd_args.clone(),
        };
        fs::write(host.share.join(&host.name).join("pid"), host.pid().to_string())?;
        self.connect(&host)?;
        self.hosts.push(host);
        self.hosts.last().context("a host was added just now")
    }

    /// Ends a host as a loss of power does: its processes and its network, all at once. Its disk stays.
    ///
    /// # Errors
    /// When something of it goes on.
    pub fn power_off(&mut self, index: usize) -> Result<()> {
        let host = &mut self.hosts[index];
        host.holder.kill();
        let port = host.name.clone();
        // The port goes with the host's network, and that with its last process.
        wait::wait_until("the host's network to be gone", Duration::from_secs(20), || {
            Ok(self.run_on_fabric(&["ip", "link", "show", &port]).is_err())
        })
    }

    /// Kills dockerd, plugins and containers of a host, all at once. Its network stays, and all files, in `/run` too.
    ///
    /// # Errors
    /// When processes go on.
    pub fn kill_all(&self, host: &Host) -> Result<()> {
        let group = format!("{}/{}", self.record.group(), host.name());
        let own = host.holder.processes();
        wait::wait_until("end of the host's processes", Duration::from_secs(20), || {
            let mut pids = cgroup::processes(&group);
            pids.retain(|pid| !own.contains(pid));
            if !pids.is_empty() {
                let pids = pids.iter().map(u32::to_string);
                command::output(&mut command::command("kill", ["-KILL".to_owned()].into_iter().chain(pids)))?;
            }
            Ok(pids.is_empty())
        })
    }

    /// Starts a host again that was powered off: with its disk, without anything that was in `/run`. Its dockerd is not
    /// started.
    ///
    /// # Errors
    /// When its namespaces or links cannot be made.
    pub fn power_on(&mut self, index: usize) -> Result<()> {
        let (name, engine) = (self.hosts[index].name.clone(), self.hosts[index].engine);
        self.hosts[index].holder = self.boot(&name, engine)?;
        let host = &self.hosts[index];
        fs::write(host.share.join(&host.name).join("pid"), host.pid().to_string())?;
        self.connect(host)
    }

    /// Puts a new machine in the place of a host that was powered off: with the same name and addresses, and an empty
    /// disk. It is not started.
    ///
    /// # Errors
    /// When the old one's disk cannot be removed.
    pub fn replace_disk(&self, index: usize) -> Result<()> {
        let disk = self.record.data_dir().join(self.hosts[index].name());
        // Mounts of the old one go a moment after its processes.
        wait::wait_until("removal of the host's disk", Duration::from_secs(20), || {
            fs::remove_dir_all(&disk)?;
            Ok(true)
        })
    }

    /// Makes the namespaces of a host, on the disk that it has or on a new one.
    fn boot(&self, name: &str, engine: Engine) -> Result<Holder> {
        Holder::host(
            name,
            &if self.config.systemd { engine.root_with_systemd() } else { engine.root() },
            &self.record.data_dir().join(name),
            &self.record.run_dir(),
            cgroup::create(&self.record.group(), name)?,
            self.config.can_stay,
        )
    }

    /// Runs a program on the wire between the hosts, where `br0` is the bridge and each host's port has its name.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn run_on_fabric(&self, args: &[&str]) -> Result<String> {
        command::check(&mut self.fabric.enter_network(args))
    }

    /// Captures what passes the port of `host`, both ways, from the moment this returns. `filter` as tcpdump's;
    /// empty for all.
    ///
    /// # Errors
    /// When tcpdump does not start.
    pub fn capture(&self, host: &Host, filter: &str) -> Result<Capture> {
        let number = self.n_captures.fetch_add(1, Ordering::Relaxed);
        let file = self.record.run_dir().join(format!("capture{number}.pcap"));
        Capture::start(self.fabric.enter_network::<&str>([]), host.name(), filter, &file)
    }

    /// Writes the logs and what the engines say of themselves below `dir`, for one who looks into a failure.
    ///
    /// # Errors
    /// When `dir` cannot be written to.
    pub fn save_logs(&self, dir: &Path) -> Result<()> {
        const LOOKS: &str = "for look in 'docker ps --all' 'docker network ls' 'docker plugin ls' 'docker node ls' \
            'docker service ls' 'ip -d link' 'ip addr' 'ip route' 'bridge fdb' 'iptables-save' \
            'iptables-legacy-save' 'nft list ruleset' 'ps axf'; do \
            echo \"== $look\"; timeout 10 $look 2>&1; done";
        for host in &self.hosts {
            let to = dir.join(&host.name);
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(self.record.run_dir().join(&host.name))?.flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "log") {
                    fs::copy(entry.path(), to.join(entry.file_name()))?;
                }
            }
            fs::write(to.join("state.txt"), host.output(["sh", "-c", LOOKS])?.text())?;
        }
        Ok(())
    }

    /// Starts the engine and registry of a host that was added, and gives it the image.
    ///
    /// # Errors
    /// When dockerd or the registry does not start.
    pub fn start_engine(&self, host: &Host) -> Result<()> {
        host.start_dockerd()?;
        registry::start(host)?;
        image::import(host)
    }

    fn start_engines(&self) -> Result<()> {
        // Made by one of them alone.
        image::prepare(self.host(0))?;
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let workers: Vec<_> =
                self.hosts.iter().map(|host| scope.spawn(move || self.start_engine(host))).collect();
            workers
                .into_iter()
                .map(|worker| {
                    worker.join().unwrap_or_else(|_| bail!("the thread that started an engine panicked"))
                })
                .collect()
        });
        results.into_iter().collect()
    }

    /// Gives the host its `eth0`. Both ends are made inside the lab: this machine's own network is not touched.
    fn connect(&self, host: &Host) -> Result<()> {
        let (port, pid, mtu) = (host.name(), host.pid().to_string(), self.config.underlay_mtu.to_string());
        // The number is this machine's, so that the command must see this machine's /proc.
        let ip = |args: &[&str]| -> Result<String> {
            let target = format!("--net=/proc/{}/ns/net", self.fabric.pid());
            command::check(command::command("nsenter", [&target, "ip"]).args(args))
        };
        ip(&[
            "link", "add", port, "mtu", &mtu, "type", "veth", "peer", "name", "eth0", "mtu", &mtu, "netns",
            &pid,
        ])?;
        ip(&["link", "set", port, "master", "br0", "up"])?;
        host.run(["ip", "addr", "add", &format!("{}/24", host.ipv4), "dev", "eth0"])?;
        if let Some(ipv6) = host.ipv6 {
            host.run(["ip", "addr", "add", &format!("{ipv6}/64"), "dev", "eth0", "nodad"])?;
        }
        host.run(["ip", "link", "set", "eth0", "up"])?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.holder.kill();
        }
        self.fabric.kill();
        forget(&self.record);
        if let Err(error) = self.record.remove() {
            eprintln!("lab {}: {error:#}", self.record.id());
        }
    }
}

fn forget(record: &Record) {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|running| running.id() != record.id());
}

/// Makes SIGINT, SIGTERM and SIGHUP remove this process's labs before they end it.
fn remove_on_signals() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        result = ctrlc::set_handler(|| {
            eprintln!("lab: interrupted, cleaning up");
            // The lock is kept, so that no lab begins any more.
            let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            for record in running.iter() {
                if let Err(error) = record.remove() {
                    eprintln!("lab {}: {error:#}", record.id());
                }
            }
            process::exit(130);
        });
    });
    result.context("cannot handle signals")
}
