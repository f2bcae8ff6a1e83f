//! Services' addresses, with real connections between a client's and its tasks' namespaces.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_netlink::{Kept, VipError, ensure_vips, forget_connections};
use weft_services::VipRules;

use crate::namespace::{Sandbox, on_a_host, run, wait_until};

const PORT: u16 = 7000;
const LIMIT: Duration = Duration::from_secs(5);

/// A bridge with containers 10.9.0.N and fd09::N, the first of which is the client.
struct Place {
    sandboxes: BTreeMap<u8, Sandbox>,
}

impl Place {
    fn new(members: &[u8]) -> Self {
        run("ip link add br0 type bridge");
        run("ip link set br0 up");
        let mut sandboxes = BTreeMap::new();
        for n in members {
            let sandbox = Sandbox::new();
            run(&format!("ip link add h{n} type veth peer name c{n}"));
            run(&format!("ip link set h{n} master br0 up"));
            sandbox.claim(&format!("c{n}"), *n);
            sandboxes.insert(*n, sandbox);
        }
        Self { sandboxes }
    }

    fn path(&self, n: u8) -> PathBuf {
        self.sandboxes[&n].path()
    }

    /// Serves its number at TCP and UDP ports until dropped.
    fn serve(&self, n: u8, ip: &'static str) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let (tcp, udp) = self.sandboxes[&n].call(move || {
            let at = (ip.parse::<IpAddr>().unwrap(), PORT);
            (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())
        });
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 64];
            let mut open = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((mut stream, from)) = tcp.accept() {
                    let _ = stream.write_all(format!("{n} {from}").as_bytes());
                    // Open until the end, as a connection in use is.
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    open.push(stream);
                }
                if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(format!("{n} {from}").as_bytes(), from);
                }
            }
        });
        Server { stop, thread: Some(thread) }
    }

    /// Who answers a TCP connection, and whom it saw as the client.
    fn ask(&self, from: u8, to: SocketAddr) -> std::io::Result<(u8, SocketAddr)> {
        self.sandboxes[&from].call(move || {
            let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(answer(&text))
        })
    }
}

fn answer(text: &str) -> (u8, SocketAddr) {
    let (n, from) = text.split_once(' ').unwrap();
    (n.parse().unwrap(), from.parse().unwrap())
}

struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn rules(vip: &str, tasks: &[&str]) -> VipRules {
    [(vip.parse().unwrap(), tasks.iter().map(|task| task.parse().unwrap()).collect())].into()
}

#[test]
#[ignore = "needs root"]
fn connections_are_spread_over_the_tasks_and_keep_the_clients_address() {
    on_a_host(async || {
        let place = Place::new(&[1, 2, 3]);
        for (ips, vip) in [(["10.9.0.2", "10.9.0.3"], "10.9.0.100"), (["fd09::2", "fd09::3"], "fd09::100")] {
            let _servers = [place.serve(2, ips[0]), place.serve(3, ips[1])];
            assert!(ensure_vips(&place.path(1), &rules(vip, &ips)).await.unwrap());
            assert!(!ensure_vips(&place.path(1), &rules(vip, &ips)).await.unwrap(), "nothing changed");
            let to = SocketAddr::new(vip.parse().unwrap(), PORT);
            let own: IpAddr = if to.is_ipv4() { "10.9.0.1" } else { "fd09::1" }.parse().unwrap();
            let mut seen = BTreeMap::new();
            for _ in 0..40 {
                let (task, client) = place.ask(1, to).unwrap();
                assert_eq!(client.ip(), own);
                *seen.entry(task).or_insert(0) += 1;
            }
            assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [2, 3], "{seen:?}");
            let ping = format!("ping -c 1 -W 5 {vip}");
            place.sandboxes[&1].call(move || run(&ping));
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_task_reaches_itself_at_its_services_address() {
    on_a_host(async || {
        let place = Place::new(&[2]);
        for (ip, vip) in [("10.9.0.2", "10.9.0.100"), ("fd09::2", "fd09::100")] {
            let _server = place.serve(2, ip);
            ensure_vips(&place.path(2), &rules(vip, &[ip])).await.unwrap();
            let to = SocketAddr::new(vip.parse().unwrap(), PORT);
            for _ in 0..3 {
                let (task, client) = place.ask(2, to).unwrap();
                assert_eq!((task, client.ip()), (2, ip.parse::<IpAddr>().unwrap()));
            }
            let socket = place.sandboxes[&2].call(move || {
                let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
                UdpSocket::bind((any, 0)).unwrap()
            });
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.send(b"who").unwrap();
            assert!(socket.recv(&mut [0; 64]).unwrap() > 0);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn without_tasks_connections_are_refused_at_once() {
    on_a_host(async || {
        let place = Place::new(&[1, 2]);
        for (ip, vip) in [("10.9.0.2", "10.9.0.100"), ("fd09::2", "fd09::100")] {
            let _server = place.serve(2, ip);
            let to = SocketAddr::new(vip.parse().unwrap(), PORT);
            ensure_vips(&place.path(1), &rules(vip, &[ip])).await.unwrap();
            place.ask(1, to).unwrap();
            let open = place.sandboxes[&1].call(move || TcpStream::connect_timeout(&to, LIMIT).unwrap());
            ensure_vips(&place.path(1), &rules(vip, &[])).await.unwrap();
            let start = Instant::now();
            assert_eq!(place.ask(1, to).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let udp = place.sandboxes[&1].call(move || {
                let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
                UdpSocket::bind((any, 0)).unwrap()
            });
            udp.connect(to).unwrap();
            udp.set_read_timeout(Some(LIMIT)).unwrap();
            // A datagram that is dropped on its way out is not permitted; the reason comes after it.
            assert_eq!(udp.send(b"who").unwrap_err().kind(), ErrorKind::PermissionDenied);
            assert_eq!(udp.recv(&mut [0; 64]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
            let mut text = String::new();
            open.set_read_timeout(Some(LIMIT)).unwrap();
            (&open).read_to_string(&mut text).unwrap();
            assert!(text.starts_with("2 "), "a connection from before goes on: {text}");
            assert!(ensure_vips(&place.path(1), &VipRules::new()).await.unwrap());
            assert!(!place.sandboxes[&1].call(|| run("nft list tables")).contains("weft"));
        }
    });
}

#[test]
#[ignore = "needs root"]
fn flows_leave_a_task_that_is_gone() {
    on_a_host(async || {
        let place = Place::new(&[1, 2, 3]);
        let (vip, _server) = ("10.9.0.100", [place.serve(2, "10.9.0.2"), place.serve(3, "10.9.0.3")]);
        let to = SocketAddr::new(vip.parse().unwrap(), PORT);
        ensure_vips(&place.path(1), &rules(vip, &["10.9.0.2"])).await.unwrap();
        let flow = place.sandboxes[&1].call(move || UdpSocket::bind("0.0.0.0:0").unwrap());
        flow.connect(to).unwrap();
        flow.set_read_timeout(Some(LIMIT)).unwrap();
        let ask = || {
            let mut buffer = [0; 64];
            flow.send(b"who").unwrap();
            let len = flow.recv(&mut buffer).unwrap();
            answer(std::str::from_utf8(&buffer[..len]).unwrap()).0
        };
        place.ask(1, to).unwrap();
        assert_eq!(ask(), 2);
        ensure_vips(&place.path(1), &rules(vip, &["10.9.0.3"])).await.unwrap();
        assert_eq!(ask(), 2, "a flow keeps its task until it is told otherwise");
        let vips = [to.ip()].into();
        let forget = async |old: Kept| {
            let old_task: IpAddr = "10.9.0.2".parse().unwrap();
            let kept = move |_, task| if task == old_task { old } else { Kept::All };
            forget_connections(&place.path(1), &vips, kept).await.unwrap()
        };
        assert_eq!(forget(Kept::All).await, 0);
        assert_eq!(forget(Kept::Tcp).await, 1, "the flow, and not the connection");
        assert_eq!(ask(), 3);
        assert!(forget(Kept::None).await >= 1, "the connection");
        assert_eq!(forget(Kept::None).await, 0);
        assert_eq!(ask(), 3);
    });
}

#[test]
#[ignore = "needs root"]
fn dockerds_rules_for_names_are_left_alone() {
    on_a_host(async || {
        let place = Place::new(&[1, 2]);
        let _server = place.serve(2, "10.9.0.2");
        // As dockerd sets them in every container, by either backend of iptables.
        for iptables in ["iptables-nft", "iptables-legacy"] {
            place.sandboxes[&1].call(move || {
                run(&format!("{iptables} -t nat -N DOCKER_OUTPUT"));
                run(&format!("{iptables} -t nat -A OUTPUT -d 127.0.0.11 -j DOCKER_OUTPUT"));
                run(&format!(
                    "{iptables} -t nat -A DOCKER_OUTPUT -d 127.0.0.11 -p udp --dport 53 -j DNAT --to-destination 127.0.0.11:5353"
                ));
            });
            ensure_vips(&place.path(1), &rules("10.9.0.100", &["10.9.0.2"])).await.unwrap();
            let to = SocketAddr::from(([10, 9, 0, 100], PORT));
            assert_eq!(place.ask(1, to).unwrap().0, 2, "{iptables}");
            let name = place.sandboxes[&1].call(|| UdpSocket::bind("127.0.0.11:5353").unwrap());
            wait_until("a question for a name to arrive", || {
                place.sandboxes[&1].send_to(SocketAddr::from(([127, 0, 0, 11], 53)));
                name.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                name.recv(&mut [0; 16]).is_ok()
            });
            place.sandboxes[&1].call(move || run(&format!("{iptables} -t nat -F")));
            place.sandboxes[&1].call(move || run(&format!("{iptables} -t nat -X")));
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_namespace_that_is_not_there_is_said() {
    on_a_host(async || {
        let rules = rules("10.9.0.100", &[]);
        for path in ["/nowhere", "/etc/passwd"] {
            let error = ensure_vips(path.as_ref(), &rules).await.unwrap_err();
            assert!(matches!(error, VipError::Namespace(_)), "{error}");
        }
    });
}
