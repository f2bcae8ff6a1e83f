//! Holds each container to the Ethernet and IP addresses that Docker gave it.
//!
//! Every endpoint has a chain of its own on the ingress hook of its host-side veth, named as the veth is, in the
//! nftables table `netdev weft`. There a frame is seen before the bridge sees it, so the check also holds for traffic
//! within the host, which the router never sees.
//!
//! | a container may send | else it counts as |
//! |---|---|
//! | frames from its own Ethernet address | `mac` |
//! | ARP whose sender has its addresses, or no IP address (a probe) | `arp` |
//! | neighbour advertisements for its IPv6 addresses and link-local ones | `arp` |
//! | IPv4 from its addresses; from 0.0.0.0 only IGMP and to a DHCP server | `ip` |
//! | IPv6 from its addresses and link-local ones; from `::` only ICMPv6 | `ip` |
//! | nothing else | `other` |
//!
//! A chain is set up in one transaction before dockerd gets the container's end, which is down until then. It is compared
//! with what it should be by the comments of its rules, which hold a digest.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use weft_nft::{
    BaseChain, Batch, ChainType, Change, CommitError, DumpError, Family, FoundRule, FoundTable, Hook, Nft,
    Policy, Rule, Table,
};

use crate::links::EndpointSpec;
use crate::names;
use rules::Cause;

const TABLE: Table<'_> = Table { family: Family::Netdev, name: "weft" };
/// What makes the table weft's.
const COMMENT: &str = "weft: what containers may send";
/// Before other chains on the hook.
const PRIORITY: i32 = -300;

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;

/// Frames of one container that the guard has dropped since its rules were set, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardDrops {
    /// From another Ethernet address.
    pub mac: u64,
    /// ARP and neighbour advertisements that claim another's address.
    pub arp: u64,
    /// IP from another address.
    pub ip: u64,
    /// Neither ARP nor IP.
    pub other: u64,
}

impl GuardDrops {
    fn of<'a>(rules: impl IntoIterator<Item = &'a FoundRule>) -> Self {
        let mut drops = Self::default();
        for rule in rules {
            let Some(cause) = rule.comment.as_deref().and_then(Cause::of_comment) else { continue };
            let n_packets = rule.counter.unwrap_or_default().n_packets;
            *match cause {
                Cause::Mac => &mut drops.mac,
                Cause::Arp => &mut drops.arp,
                Cause::Ip => &mut drops.ip,
                Cause::Other => &mut drops.other,
            } += n_packets;
        }
        drops
    }

    /// All causes together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.mac + self.arp + self.ip + self.other
    }
}

/// Whether an endpoint's frames are checked on their way out of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// Yes.
    Yes,
    /// No: its network asked for none.
    Off,
    /// No: this kernel cannot. Its remote traffic is still checked by the router.
    Lacking,
}

/// Whether this host can check what containers send.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GuardState {
    /// Nothing has asked for it yet.
    #[default]
    Untried,
    /// It did at the last try.
    Working,
    /// The kernel has no nf_tables, or not the part for ingress (`CONFIG_NF_TABLES`, `CONFIG_NF_TABLES_NETDEV`).
    /// Containers of one host can take each other's addresses.
    Lacking {
        /// What the kernel refused, for people.
        reason: String,
    },
}

/// What [`crate::Links::ensure_guards`] changed. All zero: everything was as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardReport {
    /// Endpoints whose rules were missing or not as they should be.
    pub n_restored: usize,
    /// Chains removed: of endpoints that are gone, or need none.
    pub n_removed: usize,
}

/// Guards could not be read or set. Those set before stay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The operator or another program has a table of that name. It was not touched.
    #[error("the nftables table `netdev weft` exists and is not weft's: rename or remove it")]
    Foreign,
    /// The kernel refused.
    #[error("cannot set the rules for what a container may send: {0}")]
    Commit(#[from] CommitError),
    /// The kernel did not list its rules.
    #[error("cannot read the rules for what containers may send: {0}")]
    Dump(#[from] DumpError),
    /// The kernel did not list its links.
    #[error("cannot list links: {0}")]
    Links(#[source] io::Error),
}

/// The guards of one network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Guards {
    /// `None`: the kernel has no netfilter.
    nft: Option<Nft>,
    state: Arc<Mutex<GuardState>>,
}

impl Guards {
    /// Opens a socket in the calling thread's namespace. Does not fail: the lack is the state.
    pub(crate) fn new() -> Self {
        let (nft, state) = match Nft::new() {
            Ok(nft) => (Some(nft), GuardState::Untried),
            Err(error) => (None, GuardState::Lacking { reason: format!("no netfilter socket: {error}") }),
        };
        Self { nft, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn state(&self) -> GuardState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_state(&self, state: GuardState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Notes what a try says of the kernel; `None` when it cannot.
    fn judge<T>(&self, tried: Result<T, GuardError>) -> Result<Option<T>, GuardError> {
        match tried {
            Ok(value) => {
                self.set_state(GuardState::Working);
                Ok(Some(value))
            }
            Err(error) if is_lack(&error) => {
                let reason = error.to_string();
                if !matches!(self.state(), GuardState::Lacking { .. }) {
                    tracing::warn!(reason, "this kernel cannot hold containers to their addresses");
                }
                self.set_state(GuardState::Lacking { reason });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sets the endpoint's rules on the link `veth`, which exists, or removes them. `is_new`: the link was just made,
    /// so what is there is worth no look.
    pub(crate) async fn ensure(
        &self,
        veth: &str,
        spec: &EndpointSpec,
        is_new: bool,
    ) -> Result<Guarded, GuardError> {
        let Some(nft) = &self.nft else {
            return Ok(if spec.spoof_check { Guarded::Lacking } else { Guarded::Off });
        };
        if !spec.spoof_check {
            self.remove(veth).await?;
            return Ok(Guarded::Off);
        }
        let set = async {
            let has_table = find_table(nft).await?;
            let rules = rules::rules(spec);
            if is_new || !has_table || !is_same(&nft.rules(TABLE, Some(veth)).await?, &rules) {
                nft.commit(&install(veth, &rules)).await?;
            }
            Ok(())
        };
        Ok(self.judge(set.await)?.map_or(Guarded::Lacking, |()| Guarded::Yes))
    }

    /// Removes the chain of a link. Success when there is none, also when the table is another's.
    pub(crate) async fn remove(&self, veth: &str) -> Result<(), GuardError> {
        let Some(nft) = &self.nft else { return Ok(()) };
        let removed = async {
            match find_table(nft).await {
                Ok(true) => remove_chain(nft, veth).await.map(drop),
                Ok(false) | Err(GuardError::Foreign) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.judge(removed.await).map(drop)
    }

    /// Makes the guards of all endpoints be as they should, where `exists` says that the veth is there, and collects
    /// chains whose veth is gone.
    pub(crate) async fn ensure_all(
        &self,
        specs: &[EndpointSpec],
        exists: &BTreeSet<String>,
    ) -> Result<GuardReport, GuardError> {
        let Some(nft) = &self.nft else { return Ok(GuardReport::default()) };
        let ensured = self.ensure_all_with(nft, specs, exists).await;
        Ok(self.judge(ensured)?.unwrap_or_default())
    }

    async fn ensure_all_with(
        &self,
        nft: &Nft,
        specs: &[EndpointSpec],
        exists: &BTreeSet<String>,
    ) -> Result<GuardReport, GuardError> {
        let mut report = GuardReport::default();
        let (mut found, mut chains) = (BTreeMap::new(), BTreeSet::new());
        if find_table(nft).await? {
            found = by_chain(nft.rules(TABLE, None).await?);
            chains.extend(nft.chains(TABLE).await?.into_iter().map(|chain| chain.name));
        }
        let mut first_error = None;
        let mut unguarded = BTreeSet::new();
        for spec in specs {
            let Some(veth) = names::veth_names(&spec.id).map(|names| names.host) else { continue };
            if !spec.spoof_check {
                unguarded.insert(veth);
                continue;
            }
            let rules = rules::rules(spec);
            let is_set =
                chains.contains(&veth) && is_same(found.get(&veth).map_or(&[][..], Vec::as_slice), &rules);
            if is_set || !exists.contains(&veth) {
                continue;
            }
            match nft.commit(&install(&veth, &rules)).await {
                Ok(()) => report.n_restored += 1,
                Err(error) => drop(first_error.get_or_insert(GuardError::from(error))),
            }
        }
        let is_stale = |chain: &&String| {
            names::is_host_veth(chain) && (!exists.contains(*chain) || unguarded.contains(*chain))
        };
        for chain in chains.iter().filter(is_stale) {
            match remove_chain(nft, chain).await {
                Ok(removed) => report.n_removed += usize::from(removed),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        first_error.map_or(Ok(report), Err)
    }

    /// What each chain has dropped, by the veth's name.
    pub(crate) async fn drops(&self) -> Result<BTreeMap<String, GuardDrops>, GuardError> {
        let Some(nft) = &self.nft else { return Ok(BTreeMap::new()) };
        let rules = self.judge(nft.rules(TABLE, None).await.map_err(GuardError::from))?;
        let chains = by_chain(rules.unwrap_or_default());
        Ok(chains.into_iter().map(|(veth, rules)| (veth, GuardDrops::of(&rules))).collect())
    }
}

/// Whether the table is there; an error when it is another's.
async fn find_table(nft: &Nft) -> Result<bool, GuardError> {
    let Some(table) = nft.table(TABLE).await? else { return Ok(false) };
    let chains = match table.comment {
        None => nft.chains(TABLE).await?.into_iter().map(|chain| chain.name).collect(),
        Some(_) => Vec::new(),
    };
    if is_ours(&table, &chains) { Ok(true) } else { Err(GuardError::Foreign) }
}

/// Kernels before 5.10 keep no comment of a table; there all its chains must be named as weft's are.
fn is_ours(table: &FoundTable, chains: &[String]) -> bool {
    match &table.comment {
        Some(comment) => comment == COMMENT,
        None => chains.iter().all(|chain| names::is_host_veth(chain)),
    }
}

fn is_same(found: &[FoundRule], wanted: &[Rule]) -> bool {
    found.iter().map(|rule| &rule.comment).eq(wanted.iter().map(|rule| &rule.comment))
}

fn by_chain(rules: Vec<FoundRule>) -> BTreeMap<String, Vec<FoundRule>> {
    let mut chains: BTreeMap<String, Vec<FoundRule>> = BTreeMap::new();
    for rule in rules {
        chains.entry(rule.chain.clone()).or_default().push(rule);
    }
    chains
}

fn install(veth: &str, rules: &[Rule]) -> Batch {
    let base = BaseChain {
        kind: ChainType::Filter,
        hook: Hook::Ingress,
        priority: PRIORITY,
        device: Some(veth.to_owned()),
        policy: Policy::Accept,
    };
    let mut batch = Batch::new();
    batch.add_table(TABLE, Some(COMMENT));
    batch.add_chain(TABLE, veth, Some(&base));
    batch.flush_chain(TABLE, veth);
    rules.iter().for_each(|rule| batch.add_rule(TABLE, veth, rule));
    batch
}

/// Whether there was such a chain.
async fn remove_chain(nft: &Nft, veth: &str) -> Result<bool, GuardError> {
    let mut batch = Batch::new();
    batch.delete_chain(TABLE, veth);
    match nft.commit(&batch).await {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the error says that the kernel was built, or is run, without what the guards need.
fn is_lack(error: &GuardError) -> bool {
    match error {
        GuardError::Commit(CommitError::Refused(refusal)) => match refusal.source.raw_os_error() {
            Some(EOPNOTSUPP | EAFNOSUPPORT) => true,
            // A kind of chain or of expression that the kernel does not know; the link is there.
            Some(ENOENT) => matches!(refusal.step.change, Change::AddChain | Change::AddRule),
            _ => false,
        },
        GuardError::Commit(CommitError::Batch(error)) => error.raw_os_error() == Some(EOPNOTSUPP),
        // How netfilter answers a listing of what it does not know.
        GuardError::Dump(error) => {
            matches!(error.source.raw_os_error(), Some(EINVAL | EOPNOTSUPP | EAFNOSUPPORT))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_nft::{Counter, Refusal, Step};

    #[test]
    fn a_table_is_ours_by_its_comment_or_its_chains() {
        let table =
            |comment: Option<&str>| FoundTable { name: "weft".into(), comment: comment.map(str::to_owned) };
        let ours = ["wfv0123456789ab".to_owned()];
        assert!(is_ours(&table(Some(COMMENT)), &[]));
        assert!(!is_ours(&table(Some("mine")), &ours));
        assert!(is_ours(&table(None), &ours));
        assert!(is_ours(&table(None), &[]));
        assert!(!is_ours(&table(None), &[ours[0].clone(), "input".into()]));
    }

    #[test]
    fn only_what_the_kernel_cannot_do_is_a_lack() {
        const EPERM: i32 = 1;
        const ENOSPC: i32 = 28;
        let error = io::Error::from_raw_os_error;
        let refused = |change, errno| {
            let step = Step { change, table: "netdev weft".into(), object: None };
            is_lack(
                &CommitError::Refused(Refusal { index: 0, step, source: error(errno), note: None }).into(),
            )
        };
        assert!(refused(Change::AddTable, EAFNOSUPPORT));
        assert!(refused(Change::AddChain, EOPNOTSUPP));
        assert!(refused(Change::AddRule, ENOENT));
        assert!(!refused(Change::DeleteChain, ENOENT));
        assert!(!refused(Change::AddRule, ENOSPC));
        assert!(is_lack(&CommitError::Batch(error(EOPNOTSUPP)).into()));
        assert!(!is_lack(&CommitError::Batch(error(EPERM)).into()));
        let dump = |errno| is_lack(&DumpError { what: "tables", source: error(errno) }.into());
        assert!(dump(EINVAL) && !dump(EPERM));
        assert!(!is_lack(&GuardError::Foreign));
    }

    #[test]
    fn drops_are_summed_by_cause() {
        let rule = |comment: &str, n_packets| FoundRule {
            chain: "wfv0123456789ab".into(),
            handle: 1,
            comment: Some(comment.into()),
            counter: Some(Counter { n_packets, n_bytes: 0 }),
        };
        let rules = [
            rule("weft mac 0", 1),
            rule("weft arp 1", 2),
            rule("weft arp 2", 4),
            rule("weft ip 1", 8),
            rule("weft other 1", 16),
            rule("weft pass 1", 32),
            rule("someone's", 64),
        ];
        let drops = GuardDrops::of(&rules);
        assert_eq!(drops, GuardDrops { mac: 1, arp: 6, ip: 8, other: 16 });
        assert_eq!(drops.total(), 31);
    }
}
