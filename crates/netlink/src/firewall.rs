//! Rules that let frames between two containers of one host pass dockerd's firewall.
//!
//! With br_netfilter (`net.bridge.bridge-nf-call-iptables=1`, as on most hosts with Docker) IPv4 and IPv6 packets that
//! a bridge forwards between its ports run through the `FORWARD` chain, and dockerd sets that chain's policy to DROP.
//! So every bridge of weft gets, for IPv4 and IPv6,
//!
//! ```text
//! -i wfb<network> -o wfb<network> -m comment --comment weft -j ACCEPT
//! ```
//!
//! The same bridge in and out means bridged: nothing that is routed in or out of the network is let through.
//!
//! **Why in dockerd's own tables.** A table of our own, whatever its priority, cannot help: at each hook the kernel
//! calls the base chains one after the other (`nf_hook_slow` in `net/netfilter/core.c`); an accept only ends that base
//! chain and goes on to the next, a drop ends it all. The same holds between the two backends of iptables, which are
//! two hooks: a frame has to be accepted by each that has something to say. So each table that is in use is looked
//! at by itself:
//!
//! | the `filter` table has | the rule goes |
//! |---|---|
//! | a `DOCKER-USER` chain that `FORWARD` jumps to | first in `DOCKER-USER`, which dockerd leaves to the operator |
//! | no such chain, but policy DROP or some rule in `FORWARD` | first in `FORWARD` |
//! | policy ACCEPT and an empty `FORWARD` (Docker's nftables backend, or no Docker) | nowhere |
//!
//! The legacy tables are looked at only where the kernel already has them, since the mere listing creates them.

mod iptables;
mod plan;
mod rules;

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use weft_nft::Nft;

use crate::links::BoxFuture;
use iptables::Iptables;
use plan::Edit;

/// Internet protocol of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `iptables`.
    Ipv4,
    /// `ip6tables`.
    Ipv6,
}

/// Which of the kernel's two packet filters a table is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// nftables, by `iptables-nft`.
    Nft,
    /// `ip_tables`, by `iptables-legacy`.
    Legacy,
}

/// One `filter` table of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// IPv4 or IPv6.
    pub family: Family,
    /// nftables or legacy.
    pub backend: Backend,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.family, self.backend) {
            (Family::Ipv4, Backend::Nft) => "iptables-nft",
            (Family::Ipv6, Backend::Nft) => "ip6tables-nft",
            (Family::Ipv4, Backend::Legacy) => "iptables-legacy",
            (Family::Ipv6, Backend::Legacy) => "ip6tables-legacy",
        })
    }
}

/// The firewall could not be read or changed. Rules already set stay; calling again does the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirewallError {
    /// br_netfilter is on and there is no program to set rules with. For the operator.
    #[error(
        "no iptables program found, so containers of one host may not reach each other over weft: \
         install the package iptables (it has iptables-nft and iptables-legacy)"
    )]
    NoIptables,
    /// The kernel has legacy rules and there is no program to change them with. For the operator.
    #[error(
        "the kernel has legacy {0:?} filter rules and iptables-legacy is missing: install the package iptables \
         (iptables-legacy on some systems), or containers of one host may not reach each other over weft"
    )]
    NoLegacyIptables(Family),
    /// The program failed; `stderr` is what it said. Missing CAP_NET_ADMIN, or a table it cannot handle.
    #[error("{table} failed: {stderr}")]
    Failed {
        /// The table.
        table: Table,
        /// The program's own words, trimmed.
        stderr: Box<str>,
    },
    /// The program did not end in time and was killed.
    #[error("{table} did not end within {limit:?}")]
    TimedOut {
        /// The table.
        table: Table,
        /// The time it had.
        limit: Duration,
    },
    /// The program could not be started.
    #[error("cannot run {table}: {source}")]
    Spawn {
        /// The table.
        table: Table,
        /// Why.
        source: io::Error,
    },
}

/// What a call changed. All zero: everything was as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FirewallReport {
    /// Rules set.
    pub n_inserted: usize,
    /// Rules removed: of bridges that are gone, double, or in the wrong chain.
    pub n_deleted: usize,
}

/// Something wrong with the firewall, for `weft doctor`. [`ForwardRules::ensure`] puts the first two right.
#[derive(Debug)]
#[non_exhaustive]
pub enum Finding {
    /// A rule is missing: frames between two containers of this host on that bridge may be dropped.
    RuleMissing {
        /// Where it is missing.
        table: Table,
        /// The chain it belongs in.
        chain: &'static str,
        /// The bridge.
        bridge: String,
    },
    /// A rule of weft that is of no use: its bridge is gone, or it is double or in the wrong chain.
    RuleStale {
        /// Where it is.
        table: Table,
        /// The chain it is in.
        chain: String,
        /// The bridge it names.
        bridge: String,
    },
    /// The firewall cannot be read.
    Unreadable(FirewallError),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RuleMissing { table, chain, bridge } => write!(
                f,
                "{table}: chain {chain} has no rule for {bridge}: containers of this host may not reach each other"
            ),
            Self::RuleStale { table, chain, bridge } => {
                write!(f, "{table}: chain {chain} has a useless rule for {bridge}")
            }
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

/// The seam between the daemon and the host's firewall. [`Firewall`] is the real one, [`crate::FakeFirewall`] the fake.
pub trait ForwardRules: Send + Sync {
    /// Sets the rules of `bridges`, which are *all* the bridges there are, and removes every other rule of weft.
    /// Idempotent and cheap enough for every few seconds: one listing a table.
    fn ensure<'a>(&'a self, bridges: &'a [String]) -> BoxFuture<'a, Result<FirewallReport, FirewallError>>;

    /// Removes the rules of one bridge. Success when there are none.
    fn remove<'a>(&'a self, bridge: &'a str) -> BoxFuture<'a, Result<FirewallReport, FirewallError>>;

    /// Says what is wrong, changing nothing.
    fn check<'a>(&'a self, bridges: &'a [String]) -> BoxFuture<'a, Vec<Finding>>;
}

/// The rules in the host's `filter` tables, set by the `iptables` programs.
///
/// Acts on the network namespace of the thread that polls its futures; needs CAP_NET_ADMIN (and CAP_NET_RAW for the
/// legacy backend). Whatever dockerd or firewalld did to the tables is seen by the next
/// call.
///
/// In a container (a managed plugin) the programs must be in its own root file system, and on a host with legacy
/// rules the host's `/run/xtables.lock` should be mounted there: iptables-legacy reads a whole table and writes it
/// back, and only that lock keeps it and dockerd from undoing each other's changes.
///
/// Without legacy tables the kernel's count of changes tells whether there is anything to look at.
#[derive(Debug, Default)]
pub struct Firewall {
    iptables: Iptables,
    changing: Mutex<()>,
    nft: OnceLock<Option<Nft>>,
    /// Generation of nf_tables at which the rules of these bridges were as they should be.
    settled: Mutex<Option<(u32, Vec<String>)>>,
    warned: AtomicBool,
}

impl Firewall {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls [`ForwardRules::ensure`] every `period`, for ever, with the bridges that `bridges` gives: dockerd's
    /// restart and firewalld's reload throw rules away. Spawn it; dropping it stops it between two rules.
    pub async fn watch(&self, period: Duration, bridges: impl Fn() -> Vec<String> + Send) {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.ensure(&bridges()).await {
                Ok(FirewallReport { n_inserted: 0, n_deleted: 0 }) => {}
                Ok(report) => {
                    tracing::info!(report.n_inserted, report.n_deleted, "firewall rules put right");
                }
                // The first is logged by `ensure`.
                Err(error) => tracing::debug!(%error, "firewall rules may be missing"),
            }
        }
    }

    /// Sets the rules; where nothing has changed since they were found to be right, the programs are not run.
    async fn ensure_changed(&self, bridges: &[String]) -> Result<FirewallReport, FirewallError> {
        let generation = self.generation().await;
        let mut settled = self.settled.lock().await;
        let is_settled = settled.as_ref().is_some_and(|(at, of)| Some(*at) == generation && of == bridges);
        if is_settled {
            return Ok(FirewallReport::default());
        }
        *settled = None;
        let report = self.apply(|table| plan::ensure(table, bridges)).await?;
        if report == FirewallReport::default() {
            *settled = generation.map(|at| (at, bridges.to_vec()));
        }
        Ok(report)
    }

    /// The number of the last change to the tables; `None` where some are in use whose changes the kernel does not count.
    async fn generation(&self) -> Option<u32> {
        if !self.iptables.are_found() || self.iptables.has_legacy().await {
            return None;
        }
        let nft = self.nft.get_or_init(|| Nft::new().ok()).as_ref()?;
        nft.generation().await.ok()
    }

    /// Runs `decide` on each table and does what it says; goes on to the next table after a failure and returns the
    /// first.
    async fn apply(
        &self,
        decide: impl Fn(&rules::FilterTable) -> Vec<Edit> + Send,
    ) -> Result<FirewallReport, FirewallError> {
        let _changing = self.changing.lock().await;
        let mut report = FirewallReport::default();
        let (tables, mut first_error) = match self.iptables.tables().await {
            Ok(tables) => (tables.usable, tables.unusable),
            Err(error) => (Vec::new(), Some(error)),
        };
        for tool in tables {
            let edits = match tool.list().await {
                Ok(Some(table)) => decide(&table),
                Ok(None) => continue,
                Err(error) => {
                    first_error.get_or_insert(error);
                    continue;
                }
            };
            for edit in edits {
                match tool.apply(&edit).await {
                    Ok(()) => match edit {
                        Edit::Insert { .. } => report.n_inserted += 1,
                        Edit::Delete { .. } => report.n_deleted += 1,
                    },
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
        match first_error {
            None => {
                self.warned.store(false, Ordering::Relaxed);
                Ok(report)
            }
            Some(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "firewall rules may be missing");
                }
                Err(error)
            }
        }
    }

    async fn findings(&self, bridges: &[String]) -> Vec<Finding> {
        let tables = match self.iptables.tables().await {
            Ok(tables) => tables,
            Err(error) => return vec![Finding::Unreadable(error)],
        };
        let mut findings: Vec<_> = tables.unusable.into_iter().map(Finding::Unreadable).collect();
        for tool in tables.usable {
            let table = tool.table();
            match tool.list().await {
                Ok(Some(listed)) => {
                    findings.extend(plan::ensure(&listed, bridges).into_iter().map(|edit| match edit {
                        Edit::Insert { chain, bridge } => Finding::RuleMissing { table, chain, bridge },
                        Edit::Delete { chain, bridge } => Finding::RuleStale { table, chain, bridge },
                    }));
                }
                Ok(None) => {}
                Err(error) => findings.push(Finding::Unreadable(error)),
            }
        }
        findings
    }
}

impl ForwardRules for Firewall {
    fn ensure<'a>(&'a self, bridges: &'a [String]) -> BoxFuture<'a, Result<FirewallReport, FirewallError>> {
        Box::pin(self.ensure_changed(bridges))
    }

    fn remove<'a>(&'a self, bridge: &'a str) -> BoxFuture<'a, Result<FirewallReport, FirewallError>> {
        Box::pin(self.apply(|table| plan::remove(table, bridge)))
    }

    fn check<'a>(&'a self, bridges: &'a [String]) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.findings(bridges))
    }
}
