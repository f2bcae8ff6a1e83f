//! The netlink socket.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::Mutex;

use crate::attr::{Attributes, HEADER_LEN, Message, Messages, Writer};
use crate::batch::{ACK, Batch, REQUEST, SUBSYSTEM, Step, TooLong};
use crate::model::{Family, FoundChain, FoundRule, FoundTable, Table};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: what was listed changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// How often a listing is begun again because of that.
const MAX_DUMPS: usize = 10;

/// The kernel refused one message of a batch, so it made none of the changes.
#[derive(Debug, thiserror::Error)]
#[error("message {index} ({step}): {source}{}", note.as_deref().map(|note| format!(" ({note})")).unwrap_or_default())]
pub struct Refusal {
    /// The message's place in the batch, from 0.
    pub index: usize,
    /// What it was to do.
    pub step: Step,
    /// The kernel's answer.
    pub source: io::Error,
    /// The kernel's own words, when it had any.
    pub note: Option<Box<str>>,
}

/// A batch was not committed: none of its changes were made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The kernel refused a message. A bug, or someone changed the table meanwhile.
    #[error(transparent)]
    Refused(Refusal),
    /// The kernel refused the whole: `EPERM` without CAP_NET_ADMIN, `EOPNOTSUPP` without nf_tables.
    #[error("the kernel takes no nf_tables changes: {0}")]
    Batch(#[source] io::Error),
    /// A message cannot be written. Nothing was sent.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The socket failed. Whether the changes were made is unknown if it failed in receiving.
    #[error("netlink: {0}")]
    Socket(#[source] io::Error),
}

impl CommitError {
    /// The kernel's error number.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(refusal) => refusal.source.raw_os_error(),
            Self::Batch(error) | Self::Socket(error) => error.raw_os_error(),
            Self::TooLong(_) => None,
        }
    }
}

/// The kernel did not list what it has.
#[derive(Debug, thiserror::Error)]
#[error("cannot list {what}: {source}")]
pub struct DumpError {
    /// What was to be listed.
    pub what: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// A socket to the netfilter of one network namespace. Cheap to clone; clones take turns.
///
/// Dropping a future while it waits loses its answer only: the kernel makes changes while they are sent.
#[derive(Clone)]
pub struct Nft {
    line: Arc<Mutex<Line>>,
}

struct Line {
    socket: TokioSocket,
    /// The last number that was used.
    sequence: u32,
}

impl Line {
    /// Sends a message outside of batches; returns the number that its answers bear.
    async fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        body: impl Fn(&mut Writer),
    ) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Writer::default();
        request.message(kind, flags, family.number(), 0, body);
        request.bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send(&request.bytes).await?;
        Ok(self.sequence)
    }
}

impl std::fmt::Debug for Nft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nft").finish_non_exhaustive()
    }
}

impl Nft {
    /// Opens a socket in the calling thread's network namespace. Listing and changing need CAP_NET_ADMIN there.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` when the kernel has no netfilter.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
        // Shorter answers, with words; both are optional.
        let _ = socket.socket_ref().set_cap_ack(true);
        let _ = socket.socket_ref().set_ext_ack(true);
        Ok(Self { line: Arc::new(Mutex::new(Line { socket, sequence: 0 })) })
    }

    /// Opens a socket in the network namespace at `path` (`/run/docker/netns/…`), by a thread that goes there and ends.
    ///
    /// # Errors
    /// As [`Nft::new`], and when there is no namespace at `path` or it may not be entered (CAP_SYS_ADMIN).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn in_namespace(path: impl AsRef<Path>) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let path = path.as_ref();
        let there = || {
            weft_sys::netns::enter(path)?;
            let _runtime = runtime.enter();
            Self::new()
        };
        thread::scope(|scope| scope.spawn(there).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread that opens the socket panicked")))
    }

    /// Has the kernel make all changes of the batch, or none. A batch without any is well at once.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut line = self.line.lock().await;
        let first = line.sequence.wrapping_add(1);
        let n_messages = batch.len() as u32;
        let bytes = batch.encode(first)?;
        line.sequence = first.wrapping_add(n_messages).wrapping_add(1);
        line.socket.send(&bytes).await.map_err(CommitError::Socket)?;
        let mut refused: Option<Refusal> = None;
        loop {
            let (received, _) = line.socket.recv_from_full().await.map_err(CommitError::Socket)?;
            for message in Messages(&received).filter(|message| message.kind == NLMSG_ERROR) {
                let place = message.sequence.wrapping_sub(first);
                if place > n_messages {
                    continue;
                }
                let (error, note) = outcome(&message);
                let Some(index) = (place as usize).checked_sub(1) else {
                    // To the batch's begin the kernel answers only when it refuses all.
                    return match error {
                        Some(error) => Err(CommitError::Batch(error)),
                        None => continue,
                    };
                };
                if let (Some(source), None, Some(step)) = (error, &refused, batch.steps().get(index)) {
                    refused = Some(Refusal { index, step: step.clone(), source, note });
                }
                if place == n_messages {
                    return refused.map_or(Ok(()), |refusal| Err(CommitError::Refused(refusal)));
                }
            }
        }
    }

    /// The number of the last change to any table of the namespace, by whomever. It costs next to nothing to ask.
    ///
    /// # Errors
    /// When the kernel refuses; also `EOPNOTSUPP` without nf_tables.
    pub async fn generation(&self) -> io::Result<u32> {
        const GET_GENERATION: u16 = SUBSYSTEM << 8 | 16;
        let mut line = self.line.lock().await;
        let sequence = line.ask(GET_GENERATION, REQUEST, Family::Inet, |_| {}).await?;
        loop {
            let (received, _) = line.socket.recv_from_full().await?;
            let Some(answer) = Messages(&received).find(|message| message.sequence == sequence) else {
                continue;
            };
            if answer.kind == NLMSG_ERROR {
                return Err(outcome(&answer).0.unwrap_or_else(|| io::ErrorKind::InvalidData.into()));
            }
            let number = answer.attributes().find(1).and_then(|attribute| attribute.u32());
            return number.ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }

    /// Finds the table.
    ///
    /// # Errors
    /// When the kernel refuses; also `EOPNOTSUPP` without nf_tables.
    pub async fn table(&self, table: Table<'_>) -> Result<Option<FoundTable>, DumpError> {
        let all = self.dump("tables", SUBSYSTEM << 8 | 1, table.family, |_| {}, FoundTable::parse).await?;
        Ok(all.into_iter().find(|found| found.name == table.name))
    }

    /// Lists the table's chains; none when there is no such table.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn chains(&self, table: Table<'_>) -> Result<Vec<FoundChain>, DumpError> {
        let mut all =
            self.dump("chains", SUBSYSTEM << 8 | 4, table.family, |_| {}, FoundChain::parse).await?;
        all.retain(|chain| chain.table == table.name);
        Ok(all)
    }

    /// Lists the rules of one chain of the table, or of all, in their order; none when there is no such table.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn rules(&self, table: Table<'_>, chain: Option<&str>) -> Result<Vec<FoundRule>, DumpError> {
        let select = |w: &mut Writer| {
            w.put_str(1, table.name);
            if let Some(chain) = chain {
                w.put_str(2, chain);
            }
        };
        // Old kernels do not select.
        let parse = |attributes: Attributes<'_>| {
            (attributes.find(1)?.text()? == table.name).then(|| FoundRule::parse(attributes)).flatten()
        };
        let mut all = self.dump("rules", SUBSYSTEM << 8 | 7, table.family, select, parse).await?;
        all.retain(|rule| chain.is_none_or(|chain| rule.chain == chain));
        Ok(all)
    }

    /// Lists what the messages of type `kind` list.
    pub(crate) async fn dump<T>(
        &self,
        what: &'static str,
        kind: u16,
        family: Family,
        select: impl Fn(&mut Writer),
        parse: impl Fn(Attributes<'_>) -> Option<T>,
    ) -> Result<Vec<T>, DumpError> {
        let failed = |source| DumpError { what, source };
        let mut line = self.line.lock().await;
        for _ in 0..MAX_DUMPS {
            let sequence = line.ask(kind, REQUEST | DUMP, family, &select).await.map_err(failed)?;
            let mut found = Vec::new();
            let mut interrupted = false;
            'answer: loop {
                let (received, _) = line.socket.recv_from_full().await.map_err(failed)?;
                for message in Messages(&received).filter(|message| message.sequence == sequence) {
                    interrupted |= message.flags & INTERRUPTED != 0;
                    match message.kind {
                        NLMSG_DONE => break 'answer,
                        NLMSG_ERROR => {
                            if let (Some(error), _) = outcome(&message) {
                                return Err(failed(error));
                            }
                            break 'answer;
                        }
                        _ => found.extend(parse(message.attributes())),
                    }
                }
            }
            if !interrupted {
                return Ok(found);
            }
        }
        Err(failed(io::ErrorKind::ResourceBusy.into()))
    }

    /// Sends one message outside of batches, and waits until the kernel has done it.
    pub(crate) async fn order(
        &self,
        kind: u16,
        family: Family,
        body: impl Fn(&mut Writer),
    ) -> io::Result<()> {
        let mut line = self.line.lock().await;
        let sequence = line.ask(kind, REQUEST | ACK, family, body).await?;
        loop {
            let (received, _) = line.socket.recv_from_full().await?;
            let mut answers = Messages(&received).filter(|m| m.sequence == sequence && m.kind == NLMSG_ERROR);
            if let Some(answer) = answers.next() {
                return outcome(&answer).0.map_or(Ok(()), Err);
            }
        }
    }
}

/// The error in an answer, and the kernel's words to it.
fn outcome(message: &Message<'_>) -> (Option<io::Error>, Option<Box<str>>) {
    /// `NLM_F_CAPPED`: only the header of the refused message is repeated.
    const CAPPED: u16 = 0x100;
    let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    let error = (code != 0).then(|| io::Error::from_raw_os_error(code.saturating_neg()));
    let repeated = message.body.get(4..).unwrap_or_default();
    let len = if message.flags & CAPPED != 0 {
        HEADER_LEN
    } else {
        repeated.first_chunk().map_or(0, |len| u32::from_ne_bytes(*len) as usize)
    };
    let notes = Attributes(repeated.get(len.next_multiple_of(4)..).unwrap_or_default());
    let note = notes.find(1).and_then(|note| note.text()).filter(|note| !note.is_empty()).map(Box::from);
    (error, note)
}
