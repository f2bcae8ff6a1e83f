//! Batches: changes that the kernel makes all together or not at all.

use std::fmt;

use crate::attr::{HEADER_LEN, Writer};
use crate::model::{BaseChain, Element, Rule, Set, Table, encode_comment};

/// `NFNL_SUBSYS_NFTABLES`, as the high byte of a message's type.
pub(crate) const SUBSYSTEM: u16 = 10;
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// How many elements go into one message: few enough that the longest fit an attribute's 16-bit length.
const MAX_ELEMENTS: usize = 128;

/// What one message of a batch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Makes a table, or finds it.
    AddTable,
    /// Deletes a table with all that is in it.
    DeleteTable,
    /// Makes a chain, or finds it.
    AddChain,
    /// Deletes a chain with its rules.
    DeleteChain,
    /// Deletes a chain's rules.
    FlushChain,
    /// Adds a rule.
    AddRule,
    /// Deletes a rule.
    DeleteRule,
    /// Makes a set, or finds it.
    AddSet,
    /// Deletes a set.
    DeleteSet,
    /// Adds elements to a set.
    AddElements,
    /// Deletes elements of a set.
    DeleteElements,
    /// Deletes all elements of a set.
    FlushSet,
}

impl Change {
    /// The message's number, and its flags besides `NLM_F_REQUEST`.
    fn message(self) -> (u16, u16) {
        match self {
            Self::AddTable => (0, CREATE),
            Self::DeleteTable => (2, 0),
            Self::AddChain => (3, CREATE),
            Self::DeleteChain => (5, 0),
            Self::AddRule => (6, CREATE | APPEND),
            Self::FlushChain | Self::DeleteRule => (8, 0),
            Self::AddSet => (9, CREATE),
            Self::DeleteSet => (11, 0),
            Self::AddElements => (12, CREATE),
            Self::DeleteElements | Self::FlushSet => (14, 0),
        }
    }
}

/// One message of a batch, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub change: Change,
    /// The family and name of the table.
    pub table: String,
    /// The chain or set.
    pub object: Option<String>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.change {
            Change::AddTable => "make table",
            Change::DeleteTable => "delete table",
            Change::AddChain => "make chain",
            Change::DeleteChain => "delete chain",
            Change::FlushChain => "empty chain",
            Change::AddRule => "add a rule to chain",
            Change::DeleteRule => "delete a rule of chain",
            Change::AddSet => "make set",
            Change::DeleteSet => "delete set",
            Change::AddElements => "add elements to set",
            Change::DeleteElements => "delete elements of set",
            Change::FlushSet => "empty set",
        };
        write!(f, "{verb} {}", self.table)?;
        self.object.iter().try_for_each(|object| write!(f, " {object}"))
    }
}

/// A message does not fit the format: an attribute of more than 65535 bytes. Nothing was sent. A bug, or far too many
/// expressions in one rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message {index} of the batch ({step}) is too long")]
pub struct TooLong {
    /// Its place in the batch, from 0.
    pub index: usize,
    /// What it was to do.
    pub step: Step,
}

/// Changes, in their order.
///
/// # Example
/// ```
/// # use weft_nft::*;
/// let table = Table { family: Family::Ipv4, name: "example" };
/// let mut batch = Batch::new();
/// batch.add_table(table, Some("an example"));
/// batch.add_chain(table, "refuse", None);
/// batch.add_rule(table, "refuse", &Rule::new([Expr::Counter, Expr::Verdict(Verdict::Drop)]));
/// assert_eq!(batch.len(), 3);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Batch {
    writer: Writer,
    steps: Vec<Step>,
    too_long: Option<TooLong>,
    n_sets: u32,
}

impl Batch {
    /// No changes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What each message does; a message's place here is the index that [`crate::CommitError`] names.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    fn push(
        &mut self,
        change: Change,
        table: Table<'_>,
        object: Option<&str>,
        body: impl FnOnce(&mut Writer),
    ) {
        let (number, flags) = change.message();
        self.writer.message(SUBSYSTEM << 8 | number, REQUEST | flags, table.family.number(), 0, body);
        let step = Step { change, table: table.to_string(), object: object.map(str::to_owned) };
        if std::mem::take(&mut self.writer.overflowed) && self.too_long.is_none() {
            self.too_long = Some(TooLong { index: self.steps.len(), step: step.clone() });
        }
        self.steps.push(step);
    }

    /// Makes the table, or leaves one of that name as it is. Kernels before 5.10 keep no comment.
    pub fn add_table(&mut self, table: Table<'_>, comment: Option<&str>) {
        self.push(Change::AddTable, table, None, |w| {
            w.put_str(1, table.name);
            w.put_u32(2, 0);
            if let Some(comment) = comment {
                w.put(6, &encode_comment(comment));
            }
        });
    }

    /// Deletes the table and all that is in it. Refused when there is none (`ENOENT`).
    pub fn delete_table(&mut self, table: Table<'_>) {
        self.push(Change::DeleteTable, table, None, |w| w.put_str(1, table.name));
    }

    /// Makes the chain, or finds one that is like it; refused when there is another of that name.
    pub fn add_chain(&mut self, table: Table<'_>, chain: &str, base: Option<&BaseChain>) {
        self.push(Change::AddChain, table, Some(chain), |w| {
            w.put_str(1, table.name);
            w.put_str(3, chain);
            if let Some(base) = base {
                base.encode(w);
            }
        });
    }

    /// Deletes the chain and its rules. Refused when there is none (`ENOENT`), or when others lead to it (`EBUSY`).
    pub fn delete_chain(&mut self, table: Table<'_>, chain: &str) {
        self.push(Change::DeleteChain, table, Some(chain), |w| {
            w.put_str(1, table.name);
            w.put_str(3, chain);
        });
    }

    /// Deletes the chain's rules.
    pub fn flush_chain(&mut self, table: Table<'_>, chain: &str) {
        self.push(Change::FlushChain, table, Some(chain), |w| {
            w.put_str(1, table.name);
            w.put_str(2, chain);
        });
    }

    /// Adds the rule at the chain's end.
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, rule: &Rule) {
        self.push(Change::AddRule, table, Some(chain), |w| {
            w.put_str(1, table.name);
            w.put_str(2, chain);
            w.nest(4, |w| rule.expressions.iter().for_each(|expression| expression.encode(w)));
            if let Some(comment) = &rule.comment {
                w.put(7, &encode_comment(comment));
            }
        });
    }

    /// Deletes the rule of that handle.
    pub fn delete_rule(&mut self, table: Table<'_>, chain: &str, handle: u64) {
        self.push(Change::DeleteRule, table, Some(chain), |w| {
            w.put_str(1, table.name);
            w.put_str(2, chain);
            w.put_u64(3, handle);
        });
    }

    /// Makes the set, or finds one that is like it.
    pub fn add_set(&mut self, table: Table<'_>, set: &Set) {
        self.n_sets += 1;
        let id = self.n_sets;
        self.push(Change::AddSet, table, Some(&set.name), |w| set.encode(table.name, id, w));
    }

    /// Deletes the set. Refused when rules use it (`EBUSY`).
    pub fn delete_set(&mut self, table: Table<'_>, set: &str) {
        self.push(Change::DeleteSet, table, Some(set), |w| {
            w.put_str(1, table.name);
            w.put_str(2, set);
        });
    }

    /// Adds the elements, in as many messages as they need. One that is there already with the same value is left.
    pub fn add_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) {
        self.elements(Change::AddElements, table, set, elements);
    }

    /// Deletes the elements of those keys. Refused when one is not there (`ENOENT`).
    pub fn delete_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) {
        self.elements(Change::DeleteElements, table, set, elements);
    }

    fn elements(&mut self, change: Change, table: Table<'_>, set: &str, elements: &[Element]) {
        for some in elements.chunks(MAX_ELEMENTS) {
            self.push(change, table, Some(set), |w| {
                w.put_str(1, table.name);
                w.put_str(2, set);
                w.nest(3, |w| some.iter().for_each(|e| e.encode(change == Change::AddElements, w)));
            });
        }
    }

    /// Deletes all elements of the set.
    pub fn flush_set(&mut self, table: Table<'_>, set: &str) {
        self.push(Change::FlushSet, table, Some(set), |w| {
            w.put_str(2, set);
            w.put_str(1, table.name);
        });
    }

    /// The batch as it is sent: its messages numbered from `first + 1`, between a begin (`first`) and an end. The last
    /// asks for an acknowledgement, which kernels give only to the messages of a batch, not to its end.
    pub(crate) fn encode(&self, first: u32) -> Result<Vec<u8>, TooLong> {
        if let Some(too_long) = &self.too_long {
            return Err(too_long.clone());
        }
        let mut all = Writer::default();
        all.message(BEGIN, REQUEST, 0, SUBSYSTEM, |_| {});
        all.bytes.extend(&self.writer.bytes);
        all.message(END, REQUEST, 0, SUBSYSTEM, |_| {});
        let last = first.wrapping_add(self.steps.len() as u32);
        let (mut sequence, mut at) = (first, 0);
        while at < all.bytes.len() {
            let header = &mut all.bytes[at..at + HEADER_LEN];
            if sequence == last {
                let flags = u16::from_ne_bytes([header[6], header[7]]) | ACK;
                header[6..8].copy_from_slice(&flags.to_ne_bytes());
            }
            header[8..12].copy_from_slice(&sequence.to_ne_bytes());
            at += u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            sequence = sequence.wrapping_add(1);
        }
        Ok(all.bytes)
    }
}

#[cfg(test)]
mod tests;
