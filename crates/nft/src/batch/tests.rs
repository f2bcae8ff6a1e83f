//! Encodings, held against those of the `nft` program.

use proptest::prelude::*;

use super::*;
use crate::attr::Messages;
use crate::{
    Base, BaseChain, ChainType, Comparison, ConntrackKey, DataType, Expr, Family, Hook, MapTo, MetaKey, Nat,
    Numgen, Policy, Register, Reject, Value, Verdict,
};

const NETDEV: Table<'_> = Table { family: Family::Netdev, name: "weft" };
const IPV4: Table<'_> = Table { family: Family::Ipv4, name: "v" };
const IPV6: Table<'_> = Table { family: Family::Ipv6, name: "v" };

/// Type and contents of the messages that `nft` sent.
fn golden(name: &str) -> Vec<(u16, Vec<u8>)> {
    let bytes = |hex: &str| {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let lines = include_str!("golden.txt").lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let messages: Vec<_> = lines
        .filter(|words| words[0] == name)
        .map(|words| (u16::from_str_radix(&words[1][2..], 16).unwrap(), bytes(words[2])))
        .collect();
    assert!(!messages.is_empty(), "{name}");
    messages
}

fn assert_golden(name: &str, make: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    make(&mut batch);
    let written: Vec<_> = Messages(&batch.writer.bytes).map(|m| (m.kind, m.body.to_vec())).collect();
    assert_eq!(written, golden(name), "{name}");
}

fn rule(name: &str, table: Table<'_>, rule: impl Into<Vec<Expr>>) {
    assert_golden(name, |batch| batch.add_rule(table, "c", &Rule::new(rule)));
}

#[cfg(target_endian = "little")]
#[test]
fn tables_and_chains_are_as_nft_writes_them() {
    assert_golden("table", |b| b.add_table(NETDEV, Some("weft")));
    let base = |kind, hook, priority, device: Option<&str>| BaseChain {
        kind,
        hook,
        priority,
        device: device.map(str::to_owned),
        policy: Policy::Accept,
    };
    let ingress = base(ChainType::Filter, Hook::Ingress, -300, Some("d0"));
    assert_golden("chain", |b| b.add_chain(NETDEV, "g", Some(&ingress)));
    assert_golden("natchain", |b| {
        b.add_chain(IPV4, "out", Some(&base(ChainType::Nat, Hook::Output, -100, None)))
    });
    assert_golden("plainchain", |b| b.add_chain(IPV4, "c", None));
    assert_golden("flush", |b| b.flush_chain(NETDEV, "c"));
    assert_golden("delchain", |b| b.delete_chain(NETDEV, "c"));
    assert_golden("deltable", |b| b.delete_table(NETDEV));
    assert_golden("delrule", |b| b.delete_rule(IPV4, "c", 2));
}

#[cfg(target_endian = "little")]
#[test]
fn rules_are_as_nft_writes_them() {
    let mac_rule = Rule::new([
        Expr::meta(MetaKey::InputLinkType),
        Expr::equals([1, 0]),
        Expr::payload(Base::Link, 6, 6),
        Expr::differs([2, 0x42, 10, 9, 0, 1]),
        Expr::Counter,
        Expr::Verdict(Verdict::Drop),
    ]);
    assert_golden("rule1", |b| b.add_rule(NETDEV, "c", &mac_rule.with_comment("weft mac")));
    let mut mask = vec![0; 16];
    mask[..2].copy_from_slice(&[0xff, 0xc0]);
    let mut link_local = vec![0; 16];
    link_local[..2].copy_from_slice(&[0xfe, 0x80]);
    let accept = Expr::Verdict(Verdict::Accept);
    let bitwise = [Expr::payload(Base::Network, 8, 16), Expr::mask(mask), Expr::differs(link_local), accept];
    // The default operation, which kernels before 5.6 do not know by number.
    let operation: (&[u16], &[u8]) = (&[4, 1, 2, 6], &[0; 4]);
    assert_golden_but("bitwise", &[operation], |b| b.add_rule(IPV6, "c", &Rule::new(bitwise)));
    let is_tcp = [Expr::meta(MetaKey::TransportProtocol), Expr::equals([6])];
    let ports = Expr::Range { from: Register::R1, negated: true, low: vec![0, 10], high: vec![0, 20] };
    let [protocol, tcp] = is_tcp.clone();
    rule(
        "range",
        IPV4,
        [
            protocol.clone(),
            tcp.clone(),
            Expr::payload(Base::Transport, 2, 2),
            ports,
            Expr::Verdict(Verdict::Return),
        ],
    );
    rule("rejectrst", IPV4, [protocol, tcp, Expr::Reject(Reject::TcpReset)]);
    rule("reject", IPV6, [Expr::Reject(Reject::Icmp(4))]);
    let is_new = Expr::mask(8_u32.to_ne_bytes());
    rule(
        "masq",
        IPV4,
        [
            Expr::Conntrack { key: ConntrackKey::State, to: Register::R1 },
            is_new,
            Expr::differs([0; 4]),
            Expr::Conntrack { key: ConntrackKey::Mark, to: Register::R1 },
            Expr::equals(7_u32.to_ne_bytes()),
            Expr::Masquerade,
        ],
    );
    rule(
        "random",
        IPV4,
        [
            Expr::payload(Base::Network, 16, 4),
            Expr::equals([10, 0, 0, 1]),
            Expr::payload(Base::Network, 9, 1),
            Expr::equals([6]),
            Expr::Data { value: vec![10, 1, 1, 1], to: Register::R1 },
            Expr::Numgen { how: Numgen::Random, modulus: 2, offset: 80, to: Register::R2 },
            Expr::Nat {
                what: Nat::Destination,
                family: Family::Ipv4,
                address: Some(Register::R1),
                port: Some(Register::R2),
            },
        ],
    );
}

/// The attributes in some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Tree {
    Leaf(u16, Vec<u8>),
    Nest(u16, Vec<Tree>),
}

/// Reads them, but for those of the given paths and values.
fn tree(mut bytes: &[u8], path: &mut Vec<u16>, left_out: &[(&[u16], &[u8])]) -> Vec<Tree> {
    let mut found = Vec::new();
    while let [l0, l1, k0, k1, ..] = *bytes {
        let (len, kind) = (usize::from(u16::from_le_bytes([l0, l1])), u16::from_le_bytes([k0, k1]));
        let value = &bytes[4..len];
        path.push(if *path == [3] { 1 } else { kind & 0xff });
        // `nft` numbers a set's elements, which the kernel ignores.
        let kind = if path.len() == 2 && path[0] == 3 { 0x8001 } else { kind };
        if kind & 0x8000 != 0 {
            found.push(Tree::Nest(kind, tree(value, path, left_out)));
        } else if !left_out.contains(&(path.as_slice(), value)) {
            found.push(Tree::Leaf(kind, value.to_vec()));
        }
        path.pop();
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// As [`assert_golden`], but for optional attributes that `nft` writes: the path and value of each.
fn assert_golden_but(name: &str, left_out: &[(&[u16], &[u8])], make: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    make(&mut batch);
    let read = |body: &[u8], left_out| (body[..4].to_vec(), tree(&body[4..], &mut Vec::new(), left_out));
    let written: Vec<_> = Messages(&batch.writer.bytes).map(|m| (m.kind, read(m.body, &[]))).collect();
    let expected: Vec<_> = golden(name).iter().map(|(kind, body)| (*kind, read(body, left_out))).collect();
    assert_eq!(written, expected, "{name}");
}

#[cfg(target_endian = "little")]
#[test]
fn sets_are_as_nft_writes_them() {
    let set = |name: &str, map| Set { name: name.into(), key: DataType::IPV4, map, constant: false };
    // How `nft` is to list keys and values.
    const LISTING: &[u16] = &[13];
    assert_golden_but("set", &[(LISTING, &[0, 4, 2, 0, 0, 0])], |b| b.add_set(IPV4, &set("s", None)));
    let listing = [0, 4, 2, 0, 0, 0, 1, 4, 0, 0, 0, 0, 6, 4, 0, 0, 0, 0];
    assert_golden_but("vmapset", &[(LISTING, &listing)], |b| {
        b.add_set(IPV4, &set("m", Some(MapTo::Verdict)));
    });
    let numbers = Set {
        name: "n".into(),
        key: DataType::MARK,
        map: Some(MapTo::Data(DataType::IPV4)),
        constant: false,
    };
    let listing = [0, 4, 1, 0, 0, 0, 1, 4, 2, 0, 0, 0, 6, 4, 0, 0, 0, 0];
    assert_golden_but("map", &[(LISTING, &listing)], |b| b.add_set(IPV4, &numbers));
    assert_golden("delset", |b| b.delete_set(IPV4, "s"));
    let element =
        |key: u8, verdict| Element { key: vec![10, 0, 0, key], value: Some(Value::Verdict(verdict)) };
    let elements = [element(1, Verdict::Goto("c".into())), element(2, Verdict::Drop)];
    // The set's number within the batch, beside its name.
    let number = [0, 0, 0, 1];
    assert_golden_but("vmapelem", &[(&[4], &number)], |b| b.add_elements(IPV4, "m", &elements));
    assert_golden("delelem", |b| b.delete_elements(IPV4, "m", &elements[..1]));
    assert_golden_but("flushset", &[], |b| b.flush_set(IPV4, "s"));
    let number: (&[u16], &[u8]) = (&[4, 1, 2, 4], &number);
    let from = Register::R1;
    let lookup = Expr::Lookup { set: "s".into(), negated: true, from, to: None };
    let lookup = [Expr::payload(Base::Network, 12, 4), lookup, Expr::Verdict(Verdict::Drop)];
    assert_golden_but("notinset", &[number], |b| b.add_rule(IPV4, "c", &Rule::new(lookup)));
    let lookup = [Expr::payload(Base::Network, 16, 4), Expr::VerdictMap { map: "m".into(), from }];
    assert_golden_but("vmaprule", &[number], |b| b.add_rule(IPV4, "c", &Rule::new(lookup)));

    // A rule whose map has no name; ours has the name that `nft` leaves to the kernel.
    let spread = [
        Expr::payload(Base::Network, 16, 4),
        Expr::equals([10, 0, 0, 1]),
        Expr::Numgen { how: Numgen::Incremental, modulus: 2, offset: 0, to: from },
        Expr::Lookup { set: "__map%d".into(), negated: false, from, to: Some(from) },
        Expr::Nat { what: Nat::Destination, family: Family::Ipv4, address: Some(from), port: None },
    ];
    let backend = |n: u32| Element {
        key: n.to_ne_bytes().into(),
        value: Some(Value::Data(vec![10, 1, 1, n as u8 + 1])),
    };
    let mut batch = Batch::new();
    batch.add_elements(IPV4, "__map%d", &[backend(0), backend(1)]);
    batch.add_rule(IPV4, "c", &Rule::new(spread));
    let written: Vec<_> =
        Messages(&batch.writer.bytes).map(|m| tree(&m.body[4..], &mut Vec::new(), &[])).collect();
    let left_out: [(&[u16], &[u8]); 3] = [number, (&[4], &[0, 0, 0, 1]), (&[3, 1, 3], &[0, 0, 0, 0])];
    let expected: Vec<_> =
        golden("numgen")[1..].iter().map(|(_, body)| tree(&body[4..], &mut Vec::new(), &left_out)).collect();
    assert_eq!(written, expected);
}

#[test]
fn a_batch_is_numbered_and_its_last_message_asks_for_an_answer() {
    let mut batch = Batch::new();
    batch.add_table(NETDEV, None);
    batch.add_chain(NETDEV, "c", None);
    let bytes = batch.encode(u32::MAX).unwrap();
    let messages: Vec<_> = Messages(&bytes).map(|m| (m.kind, m.sequence, m.flags & ACK != 0)).collect();
    let last = (SUBSYSTEM << 8 | 3, 1, true);
    assert_eq!(messages, [(BEGIN, u32::MAX, false), (SUBSYSTEM << 8, 0, false), last, (END, 2, false)]);
    assert_eq!(batch.steps()[1].to_string(), "make chain netdev weft c");
}

#[test]
fn a_rule_that_is_too_long_is_named() {
    let mut batch = Batch::new();
    batch.add_chain(NETDEV, "c", None);
    batch.add_rule(NETDEV, "c", &Rule::new(vec![Expr::equals([0; 16]); 2000]));
    let too_long = batch.encode(1).unwrap_err();
    assert_eq!((too_long.index, too_long.step.change), (1, Change::AddRule));
}

#[test]
fn many_elements_are_spread_over_messages() {
    let elements: Vec<_> = (0..1000_u32).map(|n| Element::key(n.to_be_bytes())).collect();
    let mut batch = Batch::new();
    batch.add_elements(IPV4, "s", &elements);
    assert_eq!(batch.len(), elements.len().div_ceil(MAX_ELEMENTS));
    let n: usize = Messages(&batch.writer.bytes)
        .map(|m| m.attributes().find(3).map_or(0, |list| list.nested().count()))
        .sum();
    assert_eq!(n, elements.len());
}

fn expr() -> impl Strategy<Value = Expr> {
    let bytes = || proptest::collection::vec(any::<u8>(), 1..=16);
    let name = || "[a-z]{1,40}";
    prop_oneof![
        bytes().prop_map(Expr::equals),
        bytes().prop_map(Expr::mask),
        (bytes(), bytes()).prop_map(|(low, high)| Expr::Range {
            from: Register::R2,
            negated: false,
            low,
            high
        }),
        (any::<u32>(), 1..=16_u32).prop_map(|(offset, len)| Expr::payload(Base::Network, offset, len)),
        name().prop_map(|map| Expr::VerdictMap { map, from: Register::R3 }),
        name().prop_map(|chain| Expr::Verdict(Verdict::Jump(chain))),
        bytes().prop_map(|value| Expr::Data { value, to: Register::R4 }),
        Just(Expr::Counter),
        Just(Expr::Compare { from: Register::R1, how: Comparison::AtMost, value: vec![1] }),
    ]
}

proptest! {
    /// Every byte of a rule belongs to an attribute, at every depth, and every expression is in its place.
    #[test]
    fn a_rule_nests_as_it_should(
        expressions in proptest::collection::vec(expr(), 0..20),
        comment in proptest::option::of("\\PC{0,80}"),
    ) {
        let mut batch = Batch::new();
        batch.add_rule(IPV4, "c", &Rule { expressions: expressions.clone(), comment: comment.clone() });
        let message = Messages(&batch.writer.bytes).next().unwrap();
        prop_assert_eq!(message.body.len() + HEADER_LEN, batch.writer.bytes.len());
        let len: usize = message.attributes().map(|a| (a.value.len() + 4).next_multiple_of(4)).sum();
        prop_assert_eq!(len + 4, message.body.len());
        let list = message.attributes().find(4).unwrap();
        let len: usize = list.nested().map(|a| (a.value.len() + 4).next_multiple_of(4)).sum();
        prop_assert_eq!(len, list.value.len());
        let names: Vec<_> = list.nested().map(|e| e.nested().find(1).unwrap().text().unwrap()).collect();
        prop_assert_eq!(names.len(), expressions.len());
        for (element, expression) in list.nested().zip(&expressions) {
            let mut alone = Writer::default();
            expression.encode(&mut alone);
            prop_assert_eq!(&alone.bytes[4..4 + element.value.len()], element.value);
        }
    }
}
