//! Virtual addresses of services, translated in the namespace of each container that may call them.
//!
//! Tables `ip weft` and `ip6 weft` of the container's namespace, on its output hook, so that the kernel does the work and
//! the client's address is kept:
//!
//! | chain | hook, priority | does |
//! |---|---|---|
//! | `refuse` | filter output, -110 | refuses new connections to an address without tasks at once: TCP by a reset, the rest by ICMP |
//! | `services` | nat output, -100 | goes to the chain of the address |
//! | `to-ADDRESS` | | translates the destination to one of the tasks, drawn at random for each connection |
//!
//! Every protocol is translated, also ICMP: `ping SERVICE` is answered by a task. dockerd's own rules for its DNS server
//! at 127.0.0.11 are in another table and about another address.
//!
//! Sockets are opened for one change and closed: one that stays would keep the namespace alive after its container.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use weft_nft::{
    Base, BaseChain, Batch, ChainType, CommitError, ConntrackKey, DataType, DumpError, Element, Expr, Family,
    Hook, MapTo, MetaKey, Nat, Nft, Numgen, Policy, Register, Reject, Rule, Set, Table, Value, Verdict,
};
use weft_services::VipRules;

const NAME: &str = "weft";
/// Before the translation, so that the address is still the service's, and after connection tracking.
const REFUSE_PRIORITY: i32 = -110;
/// `NF_IP_PRI_NAT_DST`.
const NAT_PRIORITY: i32 = -100;
/// What the table's comment begins with; a digest of its rules follows.
const COMMENT: &str = "weft: services ";

const TCP: u8 = 6;
/// A connection's first packet, among the bits of [`ConntrackKey::State`].
const NEW: u32 = 8;

/// A namespace's rules are not as they should be; they are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VipError {
    /// The namespace cannot be entered: it is gone, or not there yet.
    #[error("the namespace cannot be entered: {0}")]
    Namespace(#[source] io::Error),
    /// The kernel did not say what is there.
    #[error(transparent)]
    List(#[from] DumpError),
    /// The kernel took no changes.
    #[error("rules for services: {0}")]
    Commit(#[from] CommitError),
    /// The kernel did not forget a connection.
    #[error("a connection to a task that is gone stays: {0}")]
    Forget(#[source] io::Error),
}

/// Has the namespace at `sandbox` translate just these addresses, in one transaction a family. Whether anything changed.
///
/// # Errors
/// See [`VipError`].
///
/// # Panics
/// Outside a tokio runtime.
pub async fn ensure_vips(sandbox: &Path, rules: &VipRules) -> Result<bool, VipError> {
    let nft = Nft::in_namespace(sandbox).map_err(VipError::Namespace)?;
    let mut changed = false;
    for family in [Family::Ipv4, Family::Ipv6] {
        let table = Table { family, name: NAME };
        let rules: VipRules = of_family(rules, family);
        let found = match nft.table(table).await {
            // A kernel without nf_tables, or without the family, has nothing of ours.
            Err(_) if rules.is_empty() => continue,
            found => found?,
        };
        let comment = comment(&rules);
        let is_right = match &found {
            Some(found) => !rules.is_empty() && found.comment.as_ref() == Some(&comment),
            None => rules.is_empty(),
        };
        if !is_right {
            nft.commit(&batch(table, &rules, &comment, found.is_some())).await?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Has the kernel forget, in the namespace at `sandbox`, the connections to virtual addresses that are translated to
/// tasks which are not to be used: all of them to a task that is gone, and all but TCP's to one that is merely leaving,
/// so that it can finish what it has begun. How many were forgotten.
///
/// `kept` tells, of an address and a task, what is to become of connections between.
///
/// # Errors
/// See [`VipError`].
///
/// # Panics
/// Outside a tokio runtime.
pub async fn forget_connections(
    sandbox: &Path,
    vips: &BTreeSet<IpAddr>,
    kept: impl Fn(IpAddr, IpAddr) -> Kept,
) -> Result<usize, VipError> {
    let nft = Nft::in_namespace(sandbox).map_err(VipError::Namespace)?;
    let mut n_forgotten = 0;
    for family in [Family::Ipv4, Family::Ipv6] {
        if !vips.iter().any(|vip| vip.is_ipv4() == (family == Family::Ipv4)) {
            continue;
        }
        for connection in nft.connections(family).await? {
            let is_translated = vips.contains(&connection.to) && connection.answerer != connection.to;
            let goes = is_translated
                && match kept(connection.to, connection.answerer) {
                    Kept::All => false,
                    Kept::Tcp => connection.protocol != TCP,
                    Kept::None => true,
                };
            if goes && nft.forget(&connection).await.map_err(VipError::Forget)? {
                n_forgotten += 1;
            }
        }
    }
    Ok(n_forgotten)
}

/// Which connections to a task go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All: it is in use.
    All,
    /// TCP's: it is leaving.
    Tcp,
    /// None: it is gone.
    None,
}

fn of_family(rules: &VipRules, family: Family) -> VipRules {
    let is_of = |address: &IpAddr| address.is_ipv4() == (family == Family::Ipv4);
    let of = rules.iter().filter(|(vip, _)| is_of(vip));
    of.map(|(vip, tasks)| (*vip, tasks.iter().copied().filter(is_of).collect())).collect()
}

/// Tells whether a table holds these rules: FNV-1a over them. Tables are compared by it, since parsing rules back would be
/// as much code again.
fn comment(rules: &VipRules) -> String {
    let text = format!("{rules:?}");
    let digest = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{COMMENT}{digest:016x}")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn name_of(prefix: &str, vip: IpAddr) -> String {
    octets(vip).iter().fold(prefix.to_owned(), |mut name, byte| {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// The whole table anew.
fn batch(table: Table<'_>, rules: &VipRules, comment: &str, is_there: bool) -> Batch {
    let mut batch = Batch::new();
    if is_there {
        batch.delete_table(table);
    }
    if rules.is_empty() {
        return batch;
    }
    let (key, offset) = match table.family {
        Family::Ipv6 => (DataType::IPV6, 24),
        _ => (DataType::IPV4, 16),
    };
    let destination = Expr::payload(Base::Network, offset, if key == DataType::IPV6 { 16 } else { 4 });
    batch.add_table(table, Some(comment));
    let base = |kind, priority| BaseChain {
        kind,
        hook: Hook::Output,
        priority,
        device: None,
        policy: Policy::Accept,
    };

    let deserted: Vec<Element> = rules
        .iter()
        .filter(|(_, tasks)| tasks.is_empty())
        .map(|(vip, _)| Element::key(octets(*vip)))
        .collect();
    if !deserted.is_empty() {
        batch.add_chain(table, "refuse", Some(&base(ChainType::Filter, REFUSE_PRIORITY)));
        batch.add_set(table, &Set { name: "deserted".into(), key, map: None, constant: true });
        batch.add_elements(table, "deserted", &deserted);
        let lookup = Expr::Lookup { set: "deserted".into(), negated: false, from: Register::R1, to: None };
        let is_new = [
            Expr::Conntrack { key: ConntrackKey::State, to: Register::R1 },
            Expr::mask(NEW.to_ne_bytes()),
            Expr::differs([0; 4]),
        ];
        let refuse =
            |more: &[Expr]| Rule::new([&[destination.clone(), lookup.clone()], &is_new[..], more].concat());
        let is_tcp = [Expr::meta(MetaKey::TransportProtocol), Expr::equals([TCP])];
        batch.add_rule(table, "refuse", &refuse(&[&is_tcp[..], &[Expr::Reject(Reject::TcpReset)]].concat()));
        // Port unreachable: each family has a number of its own for it.
        let code = if table.family == Family::Ipv6 { 4 } else { 3 };
        batch.add_rule(table, "refuse", &refuse(&[Expr::Reject(Reject::Icmp(code))]));
    }

    let served = || rules.iter().filter(|(_, tasks)| !tasks.is_empty());
    let mut chains = Vec::new();
    for (vip, tasks) in served() {
        let chain = name_of("to-", *vip);
        batch.add_chain(table, &chain, None);
        let nat = Expr::Nat {
            what: Nat::Destination,
            family: table.family,
            address: Some(Register::R1),
            port: None,
        };
        let choose = match tasks.first() {
            Some(only) if tasks.len() == 1 => vec![Expr::Data { value: octets(*only), to: Register::R1 }],
            _ => {
                let map = name_of("tasks-", *vip);
                let data = Some(MapTo::Data(key));
                batch.add_set(
                    table,
                    &Set { name: map.clone(), key: DataType::MARK, map: data, constant: true },
                );
                let elements: Vec<Element> = (0_u32..)
                    .zip(tasks)
                    .map(|(n, task)| Element {
                        key: n.to_ne_bytes().into(),
                        value: Some(Value::Data(octets(*task))),
                    })
                    .collect();
                batch.add_elements(table, &map, &elements);
                let (from, to) = (Register::R1, Some(Register::R1));
                vec![
                    Expr::Numgen { how: Numgen::Random, modulus: elements.len() as u32, offset: 0, to: from },
                    Expr::Lookup { set: map, negated: false, from, to },
                ]
            }
        };
        batch.add_rule(table, &chain, &Rule::new([choose, vec![nat]].concat()));
        chains.push(Element { key: octets(*vip), value: Some(Value::Verdict(Verdict::Goto(chain))) });
    }
    // Also without a rule in it: the kernel goes on translating connections only where some chain translates.
    batch.add_chain(table, "services", Some(&base(ChainType::Nat, NAT_PRIORITY)));
    if !chains.is_empty() {
        let map = Set { name: "services".into(), key, map: Some(MapTo::Verdict), constant: true };
        batch.add_set(table, &map);
        batch.add_elements(table, "services", &chains);
        let go = Expr::VerdictMap { map: "services".into(), from: Register::R1 };
        batch.add_rule(table, "services", &Rule::new([destination, go]));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    #[test]
    fn a_comment_tells_rules_apart() {
        let rules =
            |tasks: &[u8]| VipRules::from([(address(1), tasks.iter().map(|n| address(*n)).collect())]);
        assert_eq!(comment(&rules(&[2, 3])), comment(&rules(&[3, 2])));
        assert_ne!(comment(&rules(&[2, 3])), comment(&rules(&[2, 4])));
        assert!(comment(&rules(&[2])).len() < weft_nft::MAX_COMMENT_LEN);
    }

    #[test]
    fn families_are_kept_apart() {
        let (four, six) = (address(1), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]));
        let rules = VipRules::from([(four, [address(2), six].into()), (six, BTreeSet::new())]);
        assert_eq!(of_family(&rules, Family::Ipv4), VipRules::from([(four, [address(2)].into())]));
        assert_eq!(of_family(&rules, Family::Ipv6), VipRules::from([(six, BTreeSet::new())]));
    }

    #[test]
    fn nothing_is_left_of_a_table_without_services() {
        let table = Table { family: Family::Ipv4, name: NAME };
        let steps = |is_there| batch(table, &VipRules::new(), "", is_there).steps().to_vec();
        assert_eq!(steps(true).len(), 1);
        assert_eq!(steps(false), []);
    }
}
