//! `weft run` beside Docker without a swarm: networks of local scope.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_e2e::{SETTLE, status};
use weft_lab::{BUSYBOX, Engine, Host, Lab, LabConfig, SECRET, Weft, wait_until};

pub(crate) fn one_host(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("local", engine, 1))?;
    let host = lab.host(0);
    weft.install_program(host)?;
    weft.make_secret(&lab, "cluster")?;
    let daemon = host.spawn("weft", ["weft", "run"])?;
    wait_until("the daemon", SETTLE, || host.run(["weft", "status"]).map(|_| true))?;
    host.docker(["network", "create", "--driver=weft", "--subnet=10.203.0.0/24", "net"])?;
    for name in ["box1", "box2"] {
        host.docker(["run", "--detach", "--network=net", "--name", name, BUSYBOX])?;
    }
    wait_until("an answer", SETTLE, || host.exec("box1", "timeout 3 wget -qO- http://box2").map(|_| true))?;
    host.docker(["rm", "--force", "box1", "box2"])?;
    host.docker(["network", "rm", "net"])?;
    let left = weft_e2e::leftovers(host)?;
    ensure!(left.is_empty(), "left behind: {left}");
    let log = daemon.signal("TERM")?;
    ensure!(!log.contains("panicked"), "{log}");
    ensure!(!log.contains(&host.run(["cat", SECRET])?), "the secret is in the log");
    wait_until("its sockets to be gone", Duration::from_secs(5), || {
        Ok(host.sh("ls /run/weft/control.sock /run/docker/plugins/weft.sock 2>/dev/null; true")?.is_empty())
    })
}

/// Docker's own address manager refuses a pool twice on one engine or in one swarm. On hosts that are not in a swarm
/// the same subnet stands for two networks easily: what tells them apart is the id.
pub(crate) fn same_subnet_twice(engine: Engine, weft: &Weft) -> Result<()> {
    let lab = Lab::start(LabConfig::new("subnet", engine, 3))?;
    weft.make_secret(&lab, "cluster")?;
    let peers: Vec<String> = lab.hosts().iter().map(|host| host.ipv4().to_string()).collect();
    let peers = format!("PEERS={}", peers.join(","));
    let mut daemons = Vec::new();
    for host in lab.hosts() {
        weft.install_program(host)?;
        daemons.push(host.spawn("weft", ["env", &peers, "weft", "run"])?);
    }
    for host in lab.hosts() {
        wait_until("two peers", SETTLE, || {
            let status = status(host)?;
            Ok(status["peers"].to_string().matches("\"connected\"").count() == 2)
        })?;
    }
    let [first, second, third] = lab.hosts() else { unreachable!("the lab has three hosts") };
    // Two containers with one address, on different networks.
    for (host, network, address) in
        [(first, "red", "10.202.0.10"), (second, "red", "10.202.0.20"), (third, "blue", "10.202.0.20")]
    {
        let id = format!("--opt=weft.id={network}");
        host.docker(["network", "create", "--driver=weft", "--subnet=10.202.0.0/24", &id, network])?;
        let (network, ip) = (format!("--network={network}"), format!("--ip={address}"));
        host.docker(["run", "--detach", "--name=web", &network, &ip, BUSYBOX])?;
    }
    wait_until("an answer on the red network", SETTLE, || {
        first.exec("web", "timeout 3 wget -qO- http://10.202.0.20").map(|_| true)
    })?;
    let id = second.docker(["inspect", "--format", "{{slice .Id 0 12}}", "web"])?;
    for _ in 0..5 {
        let answer = first.exec("web", "timeout 3 wget -qO- http://10.202.0.20")?;
        ensure!(answer == id, "{answer} of the other network answered instead of {id}");
    }
    // What is flooded on one network is heard there, and not on the other.
    let listen = |host: &Host| {
        host.spawn("listen", ["tcpdump", "-nl", "--immediate-mode", "-i", "any", "arp and host 10.202.0.10"])
    };
    let (on_red, on_blue) = (listen(second)?, listen(third)?);
    for listener in [&on_red, &on_blue] {
        wait_until("tcpdump to listen", Duration::from_secs(5), || {
            Ok(listener.text()?.contains("listening on"))
        })?;
    }
    // Questions are answered on the spot; what a container says of itself goes to all.
    first.exec("web", "arping -U -c 3 -I eth0 10.202.0.10; true")?;
    wait_until("the red network's flood", Duration::from_secs(5), || {
        Ok(on_red.text()?.contains("who-has 10.202.0.10"))
    })?;
    let heard = on_blue.signal("INT")?;
    ensure!(!heard.contains("who-has"), "the blue network hears the red one: {heard}");
    let alone = third.exec("web", "ping -c2 -W1 10.202.0.10; true")?;
    ensure!(alone.contains("100% packet loss"), "the blue network reaches the red one: {alone}");
    Ok(())
}
