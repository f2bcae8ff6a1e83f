//! Services over UDP.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use weft_e2e::Cluster;
use weft_lab::{Host, wait_until};

use crate::service::{START, Service};

const PORT: u16 = 9000;
/// How long to wait for an answer before asking again.
const PATIENCE: Duration = Duration::from_millis(50);
/// How soon a flow is to leave a task that is gone.
const SOON: Duration = Duration::from_millis(1500);

/// Opens a socket in the container's network; it stays there.
fn socket(host: &Host, container: &str, port: u16) -> Result<UdpSocket> {
    let pid = host.docker(["inspect", "--format", "{{.State.Pid}}", container])?;
    // The number is the host's, so that it is looked up in the host's /proc.
    let namespace = PathBuf::from(format!("/proc/{}/root/proc/{pid}/ns/net", host.pid()));
    let open = move || -> std::io::Result<UdpSocket> {
        weft_sys::netns::enter(&namespace)?;
        UdpSocket::bind(("0.0.0.0", port))
    };
    let socket =
        thread::spawn(open).join().map_err(|_| anyhow!("a thread in a container's network panicked"))?;
    let socket = socket.with_context(|| format!("no socket in {container}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Answers with a task's id, in its network, until dropped.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(host: &Host, task: &str) -> Result<Self> {
        let (socket, id, stop) =
            (socket(host, task, PORT)?, task.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 16]) {
                    // Who does not get the answer asks again.
                    let _ = socket.send_to(id.as_bytes(), from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks once; nothing when no answer came.
fn ask(socket: &UdpSocket) -> Option<String> {
    let mut answer = [0; 64];
    socket.send(b"who").ok()?;
    let len = socket.recv(&mut answer).ok()?;
    std::str::from_utf8(&answer[..len]).ok().map(str::to_owned)
}

pub(crate) fn service_udp(cluster: &Cluster) -> Result<()> {
    let network = cluster.network(&[])?;
    let client = network.run(cluster.worker(), &[])?;
    let service = Service::create(cluster, network.name(), &["--replicas=2"])?;
    let vip = SocketAddr::new(service.vip()?.parse()?, PORT);
    let (mut servers, mut homes) = (Vec::new(), Vec::new());
    for host in cluster.lab.hosts() {
        for task in service.containers(host)? {
            servers.push(Server::start(host, &task)?);
            homes.push((host, task));
        }
    }
    let tasks: BTreeSet<String> = homes.iter().map(|(_, task)| task.clone()).collect();
    ensure!(tasks.len() == 2, "{tasks:?}");
    let mut seen = BTreeSet::new();
    wait_until("answers of both tasks", START, || {
        let flow = socket(cluster.worker(), &client, 0)?;
        flow.connect(vip)?;
        seen.extend(ask(&flow));
        Ok(seen == tasks)
    })?;

    // A flow with a port of its own, as a resolver or a logger has, whose task dies.
    let flow = socket(cluster.worker(), &client, 5353)?;
    flow.connect(vip)?;
    flow.set_read_timeout(Some(START))?;
    let first = ask(&flow).context("an answer")?;
    for _ in 0..20 {
        ensure!(ask(&flow).as_ref() == Some(&first), "a flow changed its task");
    }
    let (home, task) = homes.iter().find(|(_, task)| *task == first).context("one of the tasks")?;
    flow.set_read_timeout(Some(PATIENCE))?;
    home.docker(["kill", task])?;
    let killed = Instant::now();
    wait_until("the flow to reach the other task", START, || {
        Ok(ask(&flow).is_some_and(|answer| answer != first))
    })?;
    let took = killed.elapsed();
    println!("a UDP flow left its dead task {took:.2?} after `docker kill` had ended");
    ensure!(took <= SOON, "it took {took:?}");
    drop(servers);
    service.remove()?;
    network.remove()
}
