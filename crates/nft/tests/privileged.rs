//! What the kernel makes of batches, in network namespaces of their own: `nft` lists it, and packets meet it.

use std::future::Future;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use weft_nft::*;

/// Runs `body` in a new namespace, which ends with its thread.
fn on_a_host<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send) {
    thread::scope(|scope| {
        let host = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root can make a network namespace");
            run("ip link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body());
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn base(kind: ChainType, hook: Hook, device: Option<&str>) -> BaseChain {
    BaseChain { kind, hook, priority: -100, device: device.map(str::to_owned), policy: Policy::Accept }
}

fn lines(listing: &str) -> Vec<&str> {
    listing.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

const NETDEV: Table<'_> = Table { family: Family::Netdev, name: "weft-test" };
const INET: Table<'_> = Table { family: Family::Inet, name: "weft-test" };
const IPV4: Table<'_> = Table { family: Family::Ipv4, name: "weft-test" };

#[test]
#[ignore = "needs root"]
fn nft_lists_what_was_committed() {
    on_a_host(async || {
        run("ip link add d0 type bridge");
        let nft = Nft::new().unwrap();
        let mut batch = Batch::new();
        batch.add_table(NETDEV, Some("a comment"));
        batch.add_chain(NETDEV, "in", Some(&base(ChainType::Filter, Hook::Ingress, Some("d0"))));
        let not_from = [
            Expr::meta(MetaKey::InputLinkType),
            Expr::equals([1, 0]),
            Expr::payload(Base::Link, 6, 6),
            Expr::differs([2, 0, 0, 0, 0, 1]),
        ];
        let rule = not_from.into_iter().chain([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
        batch.add_rule(NETDEV, "in", &Rule::new(rule.collect::<Vec<_>>()).with_comment("not its own"));
        let prefix = |high: [u8; 2]| {
            let mut address = [0; 16];
            address[..2].copy_from_slice(&high);
            address
        };
        batch.add_rule(
            NETDEV,
            "in",
            &Rule::new([
                Expr::meta(MetaKey::Protocol),
                Expr::equals([0x86, 0xdd]),
                Expr::payload(Base::Network, 8, 16),
                Expr::mask(prefix([0xff, 0xc0])),
                Expr::differs(prefix([0xfe, 0x80])),
                Expr::Verdict(Verdict::Accept),
            ]),
        );
        nft.commit(&batch).await.unwrap();
        let listing = run("nft list table netdev weft-test");
        assert_eq!(
            lines(&listing),
            [
                "table netdev weft-test {",
                "comment \"a comment\"",
                "chain in {",
                "type filter hook ingress device \"d0\" priority -100; policy accept;",
                "ether saddr != 02:00:00:00:00:01 counter packets 0 bytes 0 drop comment \"not its own\"",
                "ip6 saddr != fe80::/10 accept",
                "}",
                "}",
            ]
        );

        assert_eq!(nft.table(NETDEV).await.unwrap().unwrap().comment.as_deref(), Some("a comment"));
        assert_eq!(nft.table(INET).await.unwrap(), None);
        let chains = nft.chains(NETDEV).await.unwrap();
        assert_eq!((chains[0].name.as_str(), chains[0].priority), ("in", Some(-100)));
        assert_eq!(chains[0].devices, ["d0"]);
        let rules = nft.rules(NETDEV, Some("in")).await.unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].comment.as_deref(), Some("not its own"));
        assert_eq!((rules[0].counter, rules[1].counter), (Some(Counter::default()), None));
        assert_eq!(nft.rules(NETDEV, Some("out")).await.unwrap(), []);
        assert_eq!(nft.rules(INET, None).await.unwrap(), []);

        let mut batch = Batch::new();
        batch.delete_rule(NETDEV, "in", rules[0].handle);
        nft.commit(&batch).await.unwrap();
        assert_eq!(nft.rules(NETDEV, None).await.unwrap(), [rules[1].clone()]);
        let mut batch = Batch::new();
        batch.delete_chain(NETDEV, "in");
        batch.delete_table(NETDEV);
        nft.commit(&batch).await.unwrap();
        assert_eq!(run("nft list ruleset"), "");
    });
}

#[test]
#[ignore = "needs root"]
fn sets_maps_and_nat_are_listed_as_meant() {
    on_a_host(async || {
        let nft = Nft::new().unwrap();
        let mut batch = Batch::new();
        batch.add_table(IPV4, None);
        batch.add_chain(IPV4, "pre", Some(&base(ChainType::Nat, Hook::Prerouting, None)));
        batch.add_chain(IPV4, "post", Some(&base(ChainType::Nat, Hook::Postrouting, None)));
        batch.add_chain(IPV4, "one", None);
        let from = Register::R1;
        let (key, constant) = (DataType::IPV4, false);
        let services = Set { name: "services".into(), key, map: Some(MapTo::Verdict), constant };
        batch.add_set(IPV4, &services);
        let one = Value::Verdict(Verdict::Goto("one".into()));
        let elements = [Element { key: vec![10, 0, 0, 1], value: Some(one) }];
        batch.add_elements(IPV4, "services", &elements);
        let map = Some(MapTo::Data(DataType::IPV4));
        batch.add_set(IPV4, &Set { name: "backends".into(), key: DataType::MARK, map, constant });
        let backend = |n: u32| Element {
            key: n.to_ne_bytes().into(),
            value: Some(Value::Data(vec![10, 1, 1, n as u8])),
        };
        batch.add_elements(IPV4, "backends", &[backend(0), backend(1)]);
        batch.add_set(IPV4, &Set { name: "plain".into(), key, map: None, constant: true });
        batch.add_elements(IPV4, "plain", &[Element::key([192, 0, 2, 1]), Element::key([192, 0, 2, 2])]);
        let destination = Expr::payload(Base::Network, 16, 4);
        let by_service = Expr::VerdictMap { map: "services".into(), from };
        batch.add_rule(IPV4, "pre", &Rule::new([destination.clone(), by_service]));
        batch.add_rule(
            IPV4,
            "one",
            &Rule::new([
                Expr::Numgen { how: Numgen::Random, modulus: 2, offset: 0, to: from },
                Expr::Lookup { set: "backends".into(), negated: false, from, to: Some(from) },
                Expr::Nat { what: Nat::Destination, family: Family::Ipv4, address: Some(from), port: None },
            ]),
        );
        let in_plain = Expr::Lookup { set: "plain".into(), negated: true, from, to: None };
        batch.add_rule(IPV4, "post", &Rule::new([destination, in_plain, Expr::Masquerade]));
        nft.commit(&batch).await.unwrap();
        let listing = run("nft list table ip weft-test");
        for line in [
            "elements = { 10.0.0.1 : goto one }",
            "elements = { 192.0.2.1, 192.0.2.2 }",
            "ip daddr vmap @services",
            "dnat to numgen random mod 2 map @backends",
            "ip daddr != @plain masquerade",
        ] {
            assert!(lines(&listing).contains(&line), "{line} is not in {listing}");
        }
        assert!(listing.contains(": 10.1.1.0") && listing.contains(": 10.1.1.1"), "{listing}");

        let mut batch = Batch::new();
        batch.delete_elements(IPV4, "services", &elements);
        batch.flush_set(IPV4, "backends");
        nft.commit(&batch).await.unwrap();
        let listing = run("nft list table ip weft-test");
        assert!(!listing.contains("goto one }") && !listing.contains(": 10.1.1.1"), "{listing}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_refused_message_is_named_and_nothing_is_changed() {
    on_a_host(async || {
        let nft = Nft::new().unwrap();
        let mut batch = Batch::new();
        batch.add_table(INET, None);
        batch.add_chain(INET, "a", None);
        batch.add_rule(INET, "a", &Rule::new([Expr::Verdict(Verdict::Jump("nowhere".into()))]));
        batch.add_chain(INET, "b", None);
        let error = nft.commit(&batch).await.unwrap_err();
        assert!(error.to_string().contains("message 2 (add a rule to chain inet weft-test a)"), "{error}");
        let CommitError::Refused(refusal) = error else { panic!("{error}") };
        assert_eq!((refusal.index, refusal.source.kind()), (2, ErrorKind::NotFound));
        assert_eq!(run("nft list ruleset"), "");

        let mut batch = Batch::new();
        batch.delete_table(INET);
        let error = nft.commit(&batch).await.unwrap_err();
        assert_eq!(error.errno(), Some(2));
        // The socket goes on after errors, and an empty batch is well.
        nft.commit(&Batch::new()).await.unwrap();
        let mut batch = Batch::new();
        batch.add_table(INET, None);
        nft.commit(&batch).await.unwrap();
        assert_eq!(run("nft list tables"), "table inet weft-test\n");
    });
}

#[test]
#[ignore = "needs root"]
fn packets_meet_the_rules_and_are_counted() {
    on_a_host(async || {
        let nft = Nft::new().unwrap();
        let mut batch = Batch::new();
        batch.add_table(INET, None);
        batch.add_chain(INET, "out", Some(&base(ChainType::Filter, Hook::Output, None)));
        let to_port = |low: u16, high: u16| {
            let (low, high) = (low.to_be_bytes().into(), high.to_be_bytes().into());
            [
                Expr::meta(MetaKey::TransportProtocol),
                Expr::equals([17]),
                Expr::payload(Base::Transport, 2, 2),
                Expr::Range { from: Register::R1, negated: false, low, high },
                Expr::Counter,
            ]
        };
        let drop = to_port(1000, 1999).into_iter().chain([Expr::Verdict(Verdict::Drop)]);
        batch.add_rule(INET, "out", &Rule::new(drop.collect::<Vec<_>>()));
        let reject = to_port(2000, 2999).into_iter().chain([Expr::Reject(Reject::PortUnreachable)]);
        batch.add_rule(INET, "out", &Rule::new(reject.collect::<Vec<_>>()));
        nft.commit(&batch).await.unwrap();

        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let send = |port: u16| socket.send_to(b"hello", ("127.0.0.1", port)).map_err(|error| error.kind());
        assert_eq!(send(1000), Err(ErrorKind::PermissionDenied));
        assert_eq!(send(1999), Err(ErrorKind::PermissionDenied));
        let open = UdpSocket::bind("127.0.0.1:3000").unwrap();
        assert_eq!(send(3000), Ok(5));
        assert_eq!(open.recv(&mut [0; 9]).unwrap(), 5);
        let rejected = UdpSocket::bind("127.0.0.1:0").unwrap();
        rejected.connect("127.0.0.1:2500").unwrap();
        let _ = rejected.send(b"hello");
        assert_eq!(rejected.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let counters: Vec<_> =
            nft.rules(INET, None).await.unwrap().iter().map(|rule| rule.counter.unwrap().n_packets).collect();
        assert_eq!(counters, [2, 1]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_socket_acts_in_the_namespace_it_was_opened_in() {
    on_a_host(async || {
        let (report, path) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let me = std::fs::read_link("/proc/thread-self").unwrap();
            report.send(format!("/proc/{}/ns/net", me.display())).unwrap();
            let _ = ended.recv();
            run("nft list tables")
        });
        let there = Nft::in_namespace(path.recv().unwrap()).unwrap();
        let mut batch = Batch::new();
        batch.add_table(INET, None);
        there.commit(&batch).await.unwrap();
        assert_eq!(run("nft list tables"), "", "not here");
        end.send(()).unwrap();
        assert_eq!(other.join().unwrap(), "table inet weft-test\n");
        assert!(Nft::in_namespace("/nowhere").is_err());
    });
}

#[test]
#[ignore = "needs root"]
fn every_change_is_counted_and_nothing_else() {
    on_a_host(async || {
        let nft = Nft::new().unwrap();
        let before = nft.generation().await.unwrap();
        run("nft list ruleset");
        nft.chains(IPV4).await.unwrap();
        assert_eq!(nft.generation().await.unwrap(), before);
        run("nft add table ip other");
        let after = nft.generation().await.unwrap();
        assert_ne!(after, before);
        let mut batch = Batch::new();
        batch.add_table(IPV4, None);
        nft.commit(&batch).await.unwrap();
        assert_ne!(nft.generation().await.unwrap(), after);
    });
}
