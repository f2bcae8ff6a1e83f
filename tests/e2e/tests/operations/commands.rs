//! Commands that show, ask and write.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE, status};
use weft_lab::{Engine, Host, Lab, LabConfig, SECRET, Weft, wait_until};

pub(crate) fn status_and_peers(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let network = cluster.network(&[])?;
    network.run(host, &[])?;
    let table = host.run(["weft", "peers"])?;
    ensure!(table.starts_with("PEERS") && table.contains("host2") && !table.contains("NETWORKS"), "{table}");
    let peers: Value = serde_json::from_str(&host.run(["weft", "peers", "-o", "json"])?)?;
    ensure!(peers[0]["name"] == "host2" && peers[0]["same_secret"] == true, "{peers}");
    let networks: Value = serde_json::from_str(&host.run(["weft", "status", "networks", "--json"])?)?;
    ensure!(networks[0]["n_local_endpoints"] == 1, "{networks}");
    let endpoints = host.run(["weft", "status", "endpoints"])?;
    ensure!(endpoints.contains("host1 (here)"), "{endpoints}");

    let watch = host.spawn("watch", ["weft", "status", "peers", "--watch=1"])?;
    wait_until("three looks", SETTLE, || Ok(watch.text()?.matches("PEERS").count() >= 3))?;
    watch.signal("INT")?;
    let wrong = host.output(["weft", "status", "nonsense"])?;
    ensure!(wrong.code == Some(2) && wrong.stderr.contains("peers"), "{wrong}");
    let gone = host.output(["weft", "--socket=/run/none.sock", "peers"])?;
    ensure!(gone.code == Some(1) && gone.stderr.contains("/run/none.sock"), "{gone}");
    network.remove()
}

pub(crate) fn ping_peer(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let text = host.run(["weft", "ping", "-c", "3", "-i", "0.2", "host2"])?;
    ensure!(text.contains("3 sent, 3 answered, 0% lost") && text.contains("path=direct"), "{text}");
    let id = status(cluster.worker())?["peer_id"].as_str().context("a host has an id")?.to_owned();
    host.run(["weft", "ping", "-c", "1", &id[..8]])?;

    let unknown = host.output(["weft", "ping", "-c", "1", "nobody"])?;
    ensure!(unknown.code == Some(2) && unknown.stderr.contains("no peer is called `nobody`"), "{unknown}");
    let itself = host.output(["weft", "ping", "-c", "1", "host1"])?;
    ensure!(itself.code == Some(2) && itself.stderr.contains("this host itself"), "{itself}");
    let _closed = Closed::between(cluster)?;
    let lost = host.output(["weft", "ping", "-c", "2", "-i", "0.2", "-W", "0.5", "host2"])?;
    ensure!(lost.code == Some(1) && lost.stdout.contains("100% lost"), "{lost}");
    Ok(())
}

pub(crate) fn routes_and_rates(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let network = cluster.network(&[])?;
    let (here, there) = (network.run(host, &[])?, network.run(cluster.worker(), &[])?);
    let address = |on: &Host, name: &str| on.exec(name, "hostname -i");
    let (here_ip, there_ip) = (address(host, &here)?, address(cluster.worker(), &there)?);
    let docker_id = host.docker(["network", "inspect", "--format={{.ID}}", network.name()])?;
    let route = |ip: &str| -> Result<Value> {
        let routes: Vec<Value> = serde_json::from_str(&host.run(["weft", "status", "routes", "--json"])?)?;
        let has = |route: &&Value| route["addresses"][0] == ip && route["network"] == docker_id.as_str();
        routes.iter().find(has).cloned().with_context(|| format!("no route to {ip} in {routes:?}"))
    };
    wait_until("a route to the other host", SETTLE, || {
        let route = route(&there_ip)?;
        let to = format!("{}:6783", cluster.worker().ipv4());
        ensure!(route["host"] == "host2" && route["path"] == "direct" && route["address"] == to, "{route}");
        Ok(route["path_mtu"] == 1418)
    })?;
    ensure!(route(&here_ip)?["local"] == true, "{}", route(&here_ip)?);
    let table = host.run(["weft", "status", "routes"])?;
    ensure!(table.starts_with("ROUTES") && table.contains(&there_ip) && table.contains("local"), "{table}");

    let flood = host.spawn("flood", ["docker", "exec", &here, "ping", "-A", "-s", "1000", &there_ip])?;
    let rates = wait_until("rates of the flood", SETTLE, || {
        let text = host.run(["weft", "top", "--once", "--interval=0.5"])?;
        let line = |word: &str| text.lines().find(|line| line.contains(word)).map(str::to_owned);
        let (peer, network) = (line("host2"), line(docker_id.get(..12).unwrap_or_default()));
        let moves =
            |line: Option<String>| line.is_some_and(|line| line.contains("kb/s") || line.contains("Mb/s"));
        ensure!(text.starts_with("weft "), "{text}");
        Ok(moves(peer) && moves(network))
    });
    flood.signal("INT")?;
    rates?;
    top_on_a_terminal(host)?;
    network.remove()
}

/// On a terminal rates are shown again and again, on a screen of their own that is left at the end.
fn top_on_a_terminal(host: &Host) -> Result<()> {
    let line = "weft top --interval 0.2";
    let top = host.spawn("top", ["script", "--quiet", "--return", "--command", line, "/dev/null"])?;
    wait_until("rates on a terminal", SETTLE, || Ok(top.text()?.matches("PEERS").count() >= 3))?;
    // Not to `script`, which would not hand it on.
    host.sh(&format!(
        "for process in /proc/[0-9]*; do \
             [ \"$(tr '\\0' ' ' < $process/cmdline)\" != '{line} ' ] || kill -INT ${{process#/proc/}}; \
         done"
    ))?;
    let screen = top.wait(SETTLE)?;
    let (enter, leave) = ("\x1b[?1049h", "\x1b[?1049l");
    ensure!(screen.find(enter) < screen.find("PEERS") && screen.trim_end().ends_with(leave), "{screen:?}");
    Ok(())
}

pub(crate) fn mtu_of_a_path(cluster: &Cluster) -> Result<()> {
    let (host, other) = (cluster.manager(), cluster.worker());
    let network = cluster.network(&[])?;
    for host in cluster.lab.hosts() {
        network.run(host, &[])?;
    }
    let whole = || {
        wait_until("the whole path", SETTLE, || {
            let done = host.output(["weft", "mtu", "host2", "--probe"])?;
            let text = &done.stdout;
            ensure!(
                done.success() && text.contains("search complete") && text.contains("1378 over IPv4"),
                "{done}"
            );
            Ok(true)
        })
    };
    whole()?;
    let rule = "INPUT -p udp --dport 6783 -m length --length 1401:65535 -j DROP";
    other.sh(&format!("iptables -I {rule}"))?;
    let looked = host.output(["weft", "mtu", "host2", "--probe", "--json"]);
    let told = host.output(["weft", "mtu", "host2"]);
    other.sh(&format!("iptables -D {rule}"))?;
    let (looked, told) = (looked?, told?);
    let answer: Value = serde_json::from_str(&looked.stdout).with_context(|| looked.to_string())?;
    let passes = answer["path_mtu"].as_u64().unwrap_or(0);
    ensure!(looked.code == Some(1) && (1311..=1318).contains(&passes), "{looked}");
    ensure!(answer["state"] == "search_complete" && answer["now"]["lost"].as_u64() > Some(2), "{answer}");
    let advice = [format!("UNDERLAY_MTU={}", passes + 82), format!("driver.mtu={passes}")];
    ensure!(told.code == Some(1) && advice.iter().all(|word| told.stdout.contains(word)), "{told}");
    whole()?;
    network.remove()
}

pub(crate) fn capture_frames(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let network = cluster.network(&[])?;
    let (here, there) = (network.run(host, &[])?, network.run(cluster.worker(), &[])?);
    let there_ip = cluster.worker().exec(&there, "hostname -i")?;
    let ping = || {
        wait_until("three echoes", SETTLE, || {
            host.exec(&here, &format!("ping -c 3 -i 0.2 -s 1200 -w 5 {there_ip}")).map(|_| true)
        })
    };
    ping()?;
    let begin = |name: &str, line: &str| {
        let capture = host.spawn(name, ["sh", "-c", line])?;
        wait_until("the capture to begin", SETTLE, || Ok(capture.text()?.contains("capturing ")))?;
        Ok::<_, anyhow::Error>(capture)
    };

    // Of a network, into a file, until Ctrl-C.
    let file = "/tmp/frames.pcapng";
    let capture = begin("capture", &format!("exec weft capture {} -w {file} --snaplen 100", network.name()))?;
    ping()?;
    let text = capture.signal("INT")?;
    ensure!(text.contains("none dropped"), "{text}");
    let read = host.run(["tcpdump", "-n", "-r", file, "icmp"])?;
    for word in ["echo request", "echo reply"] {
        ensure!(read.matches(word).count() == 3 && read.contains("length 1208"), "{read}");
    }
    let mode = host.run(["stat", "--format=%a", file])?;
    ensure!(mode == "600", "others can read the frames: {mode}");
    let again = host.output(["weft", "capture", network.name(), "-w", file])?;
    ensure!(again.code == Some(1) && again.stderr.contains(file), "it overwrites: {again}");

    // Of a peer, through a pipe, so many frames; then of a reader who has seen enough.
    for (name, line, word) in [
        ("pipe", "weft capture host2 -w - -c 4 | tcpdump -n -v -r - 2>&1", "4 frames captured"),
        ("reader", "weft capture host2 -w - | head -c 300 | wc -c; echo ended", "ended"),
    ] {
        let capture = begin(name, line)?;
        ping()?;
        let text = capture.wait(SETTLE)?;
        ensure!(text.contains(word), "{text}");
        ensure!(name != "pipe" || text.contains("echo request") && !text.contains("bad cksum"), "{text}");
    }
    let refused = host.output(["script", "-qec", "weft capture host2", "/dev/null"])?;
    ensure!(refused.code == Some(1) && refused.stdout.contains("-w FILE"), "{refused}");
    let unknown = host.output(["weft", "capture", "nobody", "-w", "/tmp/none.pcapng"])?;
    ensure!(unknown.code == Some(1) && unknown.stderr.contains("no peer is called `nobody`"), "{unknown}");
    host.run(["test", "!", "-e", "/tmp/none.pcapng"])?;
    network.remove()
}

pub(crate) fn bench_peer(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let bench = host.spawn("bench", ["weft", "bench", "host2", "--time", "1"])?;
    wait_until("the other host to take part", SETTLE, || Ok(bench.text()?.contains("BENCH host2")))?;
    let busy = cluster.worker().output(["weft", "bench", "host1"])?;
    ensure!(
        busy.code == Some(2) && busy.stderr.contains("another bench is under way on this host"),
        "{busy}"
    );
    let table = bench.wait(SETTLE)?;
    ensure!(table.contains("THROUGHPUT") && table.contains("from host2"), "{table}");

    let text = host.run(["weft", "bench", "host2", "--time", "0.5", "--rate", "20M", "--json"])?;
    let outcome: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    for way in ["to", "from"] {
        let number = |name: &str| outcome[way][name].as_u64().unwrap_or(0);
        ensure!((2_000_000..=30_000_000).contains(&number("rate")), "{way}: {outcome}");
        ensure!(number("n_received") > 100 && number("n_received") <= number("n_sent"), "{way}: {outcome}");
        ensure!(number("rtt_us") > 0, "{way}: {outcome}");
    }
    let unknown = host.output(["weft", "bench", "nobody"])?;
    ensure!(unknown.code == Some(2) && unknown.stderr.contains("no peer is called `nobody`"), "{unknown}");
    let _closed = Closed::between(cluster)?;
    let silent = host.output(["weft", "bench", "host2", "--time", "0.5"])?;
    ensure!(silent.code == Some(1) && silent.stderr.contains("does not answer"), "{silent}");
    Ok(())
}

/// UDP between the two hosts is dropped, until this is dropped and they have found each other again.
pub(crate) struct Closed<'a>(&'a Cluster);

impl<'a> Closed<'a> {
    pub(crate) fn between(cluster: &'a Cluster) -> Result<Self> {
        cluster.worker().sh("iptables -I INPUT -p udp --dport 6783 -j DROP")?;
        Ok(Self(cluster))
    }

    pub(crate) fn open(self) -> Result<()> {
        let cluster = self.0;
        drop(self);
        cluster.wait_connected()
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.worker().sh("iptables -D INPUT -p udp --dport 6783 -j DROP") {
            eprintln!("{error:#}");
        }
    }
}

pub(crate) fn report_has_no_secret(cluster: &Cluster) -> Result<()> {
    let host = cluster.manager();
    let secret = host.run(["cat", SECRET])?;
    let token = host.sh("weft token 2>/dev/null")?;
    // Where no secret belongs, and an operator may have put one all the same.
    host.run(["ip", "link", "add", "stray", "type", "veth", "peer", "name", "stray2"])?;
    let alias = format!("{secret} {token} http://user:pass@10.0.0.1/");
    let reported = host
        .run(["ip", "link", "set", "stray", "alias", &alias])
        .and_then(|_| host.run(["weft", "report", "--out", "/tmp/report.tar"]));
    host.run(["ip", "link", "del", "stray"])?;
    reported?;

    let files = host.run(["tar", "-tf", "/tmp/report.tar"])?;
    for file in ["status.json", "doctor.txt", "host/links.txt", "docker/plugins.txt"] {
        ensure!(files.contains(file), "the report lacks {file}: {files}");
    }
    let mode = host.run(["stat", "--format=%a", "/tmp/report.tar"])?;
    ensure!(mode == "600", "others can read the report: {mode}");
    let text = host.run(["tar", "-xOf", "/tmp/report.tar"])?;
    ensure!(
        text.contains("\"peer_id\"") && text.contains("weft-token-[redacted]"),
        "the report is not whole"
    );
    let plain = token.trim_start_matches("weft-token-");
    for word in [secret.as_str(), plain, "user:pass"] {
        ensure!(!text.contains(word), "the report holds what it must not");
    }
    let again = host.output(["weft", "report", "--out", "/tmp/report.tar"])?;
    ensure!(again.code == Some(1) && again.stderr.contains("/tmp/report.tar"), "it overwrites: {again}");
    Ok(())
}

pub(crate) fn connect_and_forget(engine: Engine, weft: &Weft) -> Result<()> {
    let mut config = LabConfig::new("connect", engine, 2);
    config.docker = false;
    let lab = Lab::start(config)?;
    weft.make_secret(&lab, "cluster")?;
    let start = |host: &Host| {
        weft.install_program(host)?;
        let daemon = host.spawn("weft", ["weft", "run"])?;
        wait_until("the daemon", SETTLE, || host.run(["weft", "status"]).map(|_| true))?;
        Ok::<_, anyhow::Error>(daemon)
    };
    let (first, second) = (lab.host(0), lab.host(1));
    let daemon = start(first)?;
    ensure!(status(first)?["peers"] == Value::Array(Vec::new()), "it knows a peer already");
    let bad = first.output(["weft", "connect", "a:b:c"])?;
    ensure!(bad.code == Some(1) && bad.stderr.contains("HOST:PORT"), "{bad}");
    let address = second.ipv4().to_string();
    first.run(["weft", "connect", &address])?;
    wait_until("the address among the peers", SETTLE, || {
        Ok(first.run(["weft", "peers"])?.contains(&address))
    })?;

    // It is kept: the host that was named comes up after a restart of this one.
    daemon.signal("TERM")?;
    let daemon = start(first)?;
    let other = start(second)?;
    let connected = || Ok(status(first)?["peers"][0]["state"] == "connected");
    wait_until("a session", SETTLE, connected)?;

    other.signal("TERM")?;
    first.run(["weft", "forget", &address])?;
    wait_until("the peer to be noticed as down", Duration::from_secs(30), || {
        Ok(status(first)?["peers"][0]["state"] != "connected")
    })?;
    first.run(["weft", "forget", "host2"])?;
    wait_until("no peer", SETTLE, || Ok(status(first)?["peers"] == Value::Array(Vec::new())))?;
    daemon.signal("TERM")?;
    Ok(())
}
