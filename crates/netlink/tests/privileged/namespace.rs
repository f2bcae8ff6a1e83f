//! Nameless network namespaces, each held by a thread: when the thread ends, also by panic, the kernel destroys them.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// How long to wait for something that is bound to happen.
const PATIENCE: Duration = Duration::from_secs(10);

fn enter_new() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root can make a network namespace");
    run("ip link set lo up");
}

/// Runs `body` on a runtime whose threads are all in a new namespace: the host of the test.
pub(crate) fn on_a_host<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send) {
    thread::scope(|scope| {
        let host = scope.spawn(|| {
            enter_new();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body());
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs a command line in the calling thread's namespace; it has to succeed.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether the command line succeeds.
pub(crate) fn succeeds(line: &str) -> bool {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().is_ok_and(|output| output.status.success())
}

/// Asks again until the answer is yes.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A container's namespace.
pub(crate) struct Sandbox {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    /// The thread's id, by which `ip link set … netns` finds the namespace.
    tid: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (report, tid) = mpsc::channel();
        let thread = thread::spawn(move || {
            enter_new();
            let me = std::fs::read_link("/proc/thread-self").unwrap();
            report.send(me.file_name().unwrap().to_str().unwrap().to_owned()).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        Self { jobs: Some(jobs), thread: Some(thread), tid: tid.recv().unwrap() }
    }

    /// Where the namespace can be entered.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid).into()
    }

    /// Runs `job` in the sandbox.
    pub(crate) fn call<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.as_ref().unwrap().send(job).expect("the sandbox's thread lives");
        result.recv().expect("the job did not panic")
    }

    /// Does what dockerd does: moves the link in, renames it, gives it addresses, brings it up.
    pub(crate) fn claim(&self, link: &str, host_part: u8) {
        run(&format!("ip link set {link} netns {}", self.tid));
        let link = link.to_owned();
        self.call(move || {
            run(&format!("ip link set {link} name eth0"));
            run(&format!("ip address add 10.9.0.{host_part}/24 dev eth0"));
            run(&format!("ip -6 address add fd09::{host_part}/64 dev eth0 nodad"));
            run("ip link set eth0 up");
        });
    }

    /// Binds a socket in the sandbox.
    pub(crate) fn listen(&self, ip: &str) -> (UdpSocket, SocketAddr) {
        let ip: IpAddr = ip.parse().unwrap();
        let socket = self.call(move || UdpSocket::bind((ip, 0)).unwrap());
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    /// Sends one datagram from the sandbox.
    pub(crate) fn send_to(&self, to: SocketAddr) {
        self.call(move || {
            let from: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
            // An error here says that an earlier datagram found no one.
            let _ = UdpSocket::bind(from).unwrap().send_to(b"hello", to);
        });
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until a datagram from `from` arrives at `socket`.
pub(crate) fn assert_reaches(from: &Sandbox, socket: &UdpSocket) {
    let to = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    wait_until(&format!("a datagram reaches {to}"), || {
        from.send_to(to);
        socket.recv(&mut [0; 16]).is_ok()
    });
    while socket.recv(&mut [0; 16]).is_ok() {}
}

/// Sends until `dropped` counts a drop, and asserts that nothing has arrived.
pub(crate) fn assert_dropped(from: &Sandbox, socket: &UdpSocket, dropped: impl Fn() -> u64) {
    let to = socket.local_addr().unwrap();
    let before = dropped();
    wait_until(&format!("a datagram to {to} is dropped"), || {
        from.send_to(to);
        dropped() > before
    });
    socket.set_nonblocking(true).unwrap();
    let received = socket.recv(&mut [0; 16]);
    socket.set_nonblocking(false).unwrap();
    assert!(received.is_err(), "a datagram reached {to}");
}
