//! nf_tables and connection tracking, spoken over netlink without a program or a C library.
//!
//! * [`Batch`] collects changes (tables, chains, rules, sets); [`Nft::commit`] has the kernel make them all together or
//!   not at all.
//! * [`Rule`] is a list of [`Expr`], the kernel's own instructions, as `nft --debug=netlink` prints them.
//! * [`Nft::table`], [`Nft::chains`] and [`Nft::rules`] list what is there, as far as comparing and counting needs.
//! * [`Nft::connections`] lists what connection tracking follows, and [`Nft::forget`] ends that.
//!
//! Encoding is pure; only [`Nft`] does IO. All names are unique within their table, and whose a table is must be told
//! by its name and comment: the kernel knows no owners that outlive a process.
//!
//! Source: the kernel's `include/uapi/linux/netfilter/nf_tables.h`; the tests hold encodings against those of `nft`.
//!
//! # Example
//! ```no_run
//! # use weft_nft::*;
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let nft = Nft::new()?;
//! let table = Table { family: Family::Netdev, name: "example" };
//! let base = BaseChain {
//!     kind: ChainType::Filter,
//!     hook: Hook::Ingress,
//!     priority: 0,
//!     device: Some("eth0".into()),
//!     policy: Policy::Accept,
//! };
//! let mut batch = Batch::new();
//! batch.add_table(table, None);
//! batch.add_chain(table, "in", Some(&base));
//! batch.add_rule(table, "in", &Rule::new([
//!     Expr::payload(Base::Link, 6, 6),
//!     Expr::equals([2, 0, 0, 0, 0, 1]),
//!     Expr::Counter,
//!     Expr::Verdict(Verdict::Drop),
//! ]));
//! nft.commit(&batch).await?;
//! # Ok(()) }
//! ```

mod attr;
mod batch;
mod conntrack;
mod expr;
mod model;
mod socket;

pub use batch::{Batch, Change, Step, TooLong};
pub use conntrack::Connection;
pub use expr::{Base, Comparison, ConntrackKey, Expr, MetaKey, Nat, Numgen, Register, Reject};
pub use model::{
    BaseChain, ChainType, Counter, DataType, Element, Family, FoundChain, FoundRule, FoundTable, Hook,
    MAX_COMMENT_LEN, MapTo, Policy, Rule, Set, Table, Value, Verdict,
};
pub use socket::{CommitError, DumpError, Nft, Refusal};
