//! Rules, with traffic that proves them.

use std::time::Duration;

use weft_netlink::{Finding, Firewall, FirewallReport, ForwardRules, Links, Wiring};

use crate::namespace::{Sandbox, assert_dropped, assert_reaches, on_a_host, run, succeeds};
use crate::wiring::{endpoint, network};

const NOTHING: FirewallReport = FirewallReport { n_inserted: 0, n_deleted: 0 };

/// What dockerd does to the forward chains at its start.
fn docker(backend: &str) {
    for family in ["iptables", "ip6tables"] {
        for args in
            ["-P FORWARD DROP", "-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER"]
        {
            run(&format!("{family}-{backend} -w 5 {args}"));
        }
    }
}

fn flush(backend: &str) {
    for family in ["iptables", "ip6tables"] {
        run(&format!("{family}-{backend} -w 5 -F DOCKER-USER"));
    }
}

/// Packets that met the policy of FORWARD.
fn dropped_by_policy(program: &str) -> u64 {
    let listing = run(&format!("{program} -w 5 -nvxL FORWARD"));
    let mut words = listing.split_whitespace().skip_while(|word| *word != "DROP");
    words.nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{listing}"))
}

struct Host {
    bridge: String,
    a: Sandbox,
    b: Sandbox,
}

impl Host {
    /// A bridge with two containers, under br_netfilter.
    async fn new() -> Self {
        for key in ["iptables", "ip6tables"] {
            std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{key}"), "1").unwrap();
        }
        let wiring = Wiring::new().unwrap();
        let bridge = wiring.ensure_bridge(&network(1418)).await.unwrap().name;
        let (a, b) = (Sandbox::new(), Sandbox::new());
        for (n, sandbox) in [(1, &a), (2, &b)] {
            let links = wiring.ensure_endpoint(&endpoint(n, 1418)).await.unwrap();
            sandbox.claim(&links.names.container, n);
        }
        Self { bridge, a, b }
    }

    fn assert_open(&self) {
        for ip in ["10.9.0.2", "fd09::2"] {
            assert_reaches(&self.a, &self.b.listen(ip).0);
        }
    }

    fn assert_shut(&self, backend: &str) {
        for (ip, family) in [("10.9.0.2", "iptables"), ("fd09::2", "ip6tables")] {
            let program = format!("{family}-{backend}");
            assert_dropped(&self.a, &self.b.listen(ip).0, || dropped_by_policy(&program));
        }
    }
}

async fn rules_let_containers_talk(backend: &str) {
    let host = Host::new().await;
    host.assert_open();
    docker(backend);
    host.assert_shut(backend);

    let firewall = Firewall::new();
    let bridges = [host.bridge.clone()];
    let missing = firewall.check(&bridges).await;
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(missing.iter().all(|f| matches!(f, Finding::RuleMissing { chain: "DOCKER-USER", .. })));
    let report = firewall.ensure(&bridges).await.unwrap();
    assert_eq!(report, FirewallReport { n_inserted: 2, n_deleted: 0 });
    host.assert_open();
    let listing = format!("iptables-{backend} -S DOCKER-USER");
    let before = run(&listing);
    assert_eq!(before.matches("weft").count(), 1, "{before}");
    assert_eq!(firewall.ensure(&bridges).await.unwrap(), NOTHING);
    assert_eq!((run(&listing), firewall.check(&bridges).await.len()), (before, 0));

    // A watcher brings flushed rules back.
    flush(backend);
    host.assert_shut(backend);
    {
        let watch = firewall.watch(Duration::from_millis(10), || bridges.to_vec());
        let restored = async {
            let look = Firewall::new();
            while !look.check(&bridges).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = watch => {}
            () = restored => {}
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("the rules did not come back"),
        }
    }
    host.assert_open();

    // A rule whose bridge is gone, and a double, go at the next call.
    run(&format!(
        "iptables-{backend} -I DOCKER-USER -i wfb00000000dead -o wfb00000000dead -m comment --comment weft -j ACCEPT"
    ));
    let bridge = &host.bridge;
    run(&format!(
        "iptables-{backend} -I DOCKER-USER -i {bridge} -o {bridge} -m comment --comment weft -j ACCEPT"
    ));
    let report = firewall.ensure(&bridges).await.unwrap();
    assert_eq!(report, FirewallReport { n_inserted: 0, n_deleted: 2 });
    host.assert_open();

    let report = firewall.remove(bridge).await.unwrap();
    assert_eq!(report, FirewallReport { n_inserted: 0, n_deleted: 2 });
    assert_eq!(firewall.remove(bridge).await.unwrap(), NOTHING);
    host.assert_shut(backend);
    for family in ["iptables", "ip6tables"] {
        assert_eq!(run(&format!("{family}-{backend} -S")).matches("weft").count(), 0);
    }
}

#[test]
#[ignore = "needs root"]
fn containers_talk_under_the_nft_backend() {
    on_a_host(async || rules_let_containers_talk("nft").await);
}

#[test]
#[ignore = "needs root"]
fn containers_talk_under_the_legacy_backend() {
    on_a_host(async || {
        if !succeeds("iptables-legacy -S") || !succeeds("ip6tables-legacy -S") {
            eprintln!("skipped: this kernel has no legacy tables");
            return;
        }
        rules_let_containers_talk("legacy").await;
    });
}

#[test]
#[ignore = "needs root"]
fn each_backend_that_drops_gets_its_rule() {
    on_a_host(async || {
        if !succeeds("iptables-legacy -S") {
            eprintln!("skipped: this kernel has no legacy tables");
            return;
        }
        let host = Host::new().await;
        docker("nft");
        run("iptables-legacy -P FORWARD DROP");
        let report = Firewall::new().ensure(std::slice::from_ref(&host.bridge)).await.unwrap();
        assert_eq!(report, FirewallReport { n_inserted: 3, n_deleted: 0 });
        assert_eq!(run("iptables-legacy -S FORWARD").matches("weft").count(), 1);
        host.assert_open();
    });
}

#[test]
#[ignore = "needs root"]
fn an_open_table_gets_no_rule_and_no_legacy_table_comes_to_be() {
    on_a_host(async || {
        let host = Host::new().await;
        let firewall = Firewall::new();
        let bridges = [host.bridge.clone()];
        assert_eq!(firewall.ensure(&bridges).await.unwrap(), NOTHING);
        assert_eq!(firewall.check(&bridges).await.len(), 0);
        let legacy = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
        assert_eq!(legacy, "");

        // A policy without Docker's chains, and Docker's chains coming later.
        run("iptables-nft -P FORWARD DROP");
        assert_eq!(firewall.ensure(&bridges).await.unwrap().n_inserted, 1);
        assert_eq!(run("iptables-nft -S FORWARD").matches("weft").count(), 1);
        docker("nft");
        let report = firewall.ensure(&bridges).await.unwrap();
        assert_eq!(report, FirewallReport { n_inserted: 2, n_deleted: 1 });
        assert_eq!(run("iptables-nft -S FORWARD").matches("weft").count(), 0);
        host.assert_open();
    });
}

/// One listing of each table is all that a quiet call costs.
#[test]
#[ignore = "needs root"]
fn a_quiet_call_is_cheap() {
    on_a_host(async || {
        docker("nft");
        for n in 0..300 {
            run(&format!(
                "iptables-nft -A FORWARD -d 172.17.{}.{}/32 -p tcp --dport 80 -j ACCEPT",
                n / 200,
                n % 200
            ));
        }
        let firewall = Firewall::new();
        let bridges: Vec<_> = (0..20).map(|n| format!("wfb{n:012x}")).collect();
        firewall.ensure(&bridges).await.unwrap();
        let start = std::time::Instant::now();
        let n_calls = 10;
        for _ in 0..n_calls {
            assert_eq!(firewall.ensure(&bridges).await.unwrap(), NOTHING);
        }
        let each = start.elapsed() / n_calls;
        println!("300 rules of Docker, 20 of weft: {each:?} a call");
        assert!(each < Duration::from_millis(500), "{each:?}");
    });
}
