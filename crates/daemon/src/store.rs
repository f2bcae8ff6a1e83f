//! What must survive the daemon: its key, the secret, Docker's networks and endpoints, the peers it has met.
//!
//! One redb file, mode 0600, committed with fsync before a call of dockerd is answered. redb's commits are atomic, so
//! a power loss leaves the state before or after a call, never between. Calls that come while the disk is busy are
//! committed together. Endpoints are in a second file, which lasts as long as containers do ([`boot`]).

// With their places, as the fuzzers compile this file in from elsewhere.
#[path = "store/boot.rs"]
mod boot;
#[path = "store/changes.rs"]
mod changes;
#[path = "store/copy.rs"]
mod copy;
#[path = "store/writer.rs"]
mod writer;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_driver::{EndpointRecord, NetworkRecord};
use weft_mesh::IdentityKey;
use weft_node::{KnownPeer, Verdict};
use weft_noise::{ClusterSecret, SecretId};
use weft_services::VipTable;
use zeroize::Zeroizing;

use boot::Unsynced;
pub(crate) use changes::Changes;
use copy::FileCopy;
use writer::Writer;

/// Bytes of pages that redb may keep in memory: more than a state file has.
const CACHE_LEN: usize = 8 << 20;

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const META: Table = TableDefinition::new("meta");
const NETWORKS: Table = TableDefinition::new("networks");
const ENDPOINTS: Table = TableDefinition::new("endpoints");
const PEERS: Table = TableDefinition::new("peers");
const VERDICTS: Table = TableDefinition::new("verdicts");
const SEEDS: Table = TableDefinition::new("seeds");
/// The tables of `state.redb`; one of an earlier weft has [`ENDPOINTS`] too.
const TABLES: [Table; 5] = [META, NETWORKS, PEERS, VERDICTS, SEEDS];

/// The state file cannot be opened. Nothing was changed on the disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OpenError {
    /// The directory or file cannot be made or opened.
    #[error("cannot open the state file {path}: {error}{}", advice(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another daemon has it open.
    #[error("the state file {0} is in use: another weft daemon runs on this host; stop it first")]
    InUse(PathBuf),
    /// The bytes of the endpoints' file make no sense. It was written by this boot's kernel, so something else wrote to it.
    #[error(
        "the file of endpoints {path} is damaged ({source}): move it away, then restart the containers that are on weft's \
         networks on this host"
    )]
    EndpointsDamaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// Its bytes make no sense.
    #[error(
        "the state file {path} is damaged ({source}): restore it from a backup, or move it away to start as a new peer"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
}

/// Something was not read or written. The file is as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StoreError {
    /// The disk is full, or fails. It is tried anew at the next call.
    #[error("the state file {path} cannot be read or written: {error}{}", advice(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// redb found damage.
    #[error("the state file {path} cannot be read or written")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A record of an unknown form, from a newer weft.
    #[error("a record in the state file is of an unknown form: {0}")]
    Record(#[from] serde_json::Error),
    /// redb panicked at what is in the file, or there is a bug.
    #[error("the state file was not written: weft met a bug in itself, see its log")]
    Panicked,
}

/// What an operator can do about it, after the error itself.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; free some space on its disk, then try again",
        io::ErrorKind::QuotaExceeded => "; raise the quota, then try again",
        _ => "",
    }
}

/// A peer that was once connected.
#[derive(Serialize, Deserialize)]
struct StoredPeer {
    name: String,
    address: std::net::SocketAddr,
}

/// The open files.
#[derive(Debug)]
pub(crate) struct Store {
    state: Kept,
    endpoints: Kept,
}

/// An open file, and the thread that writes it.
#[derive(Debug)]
struct Kept {
    file: Arc<StateFile>,
    writer: Writer,
}

impl Kept {
    fn new(file: StateFile) -> Result<Self, OpenError> {
        let (path, file) = (file.path.clone(), Arc::new(file));
        let writer = Writer::new(Arc::clone(&file)).map_err(|error| OpenError::Io { path, error })?;
        Ok(Self { file, writer })
    }

    async fn write(&self, changes: Changes) -> Result<(), StoreError> {
        let answer = self.writer.hand_over(changes.checked()?).ok_or(StoreError::Panicked)?;
        answer.await.unwrap_or(Err(StoreError::Panicked))
    }

    fn list<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StoreError> {
        let rows = self.file.with(|database| rows(database, table))?;
        rows.into_iter().map(|(key, value)| Ok((key, serde_json::from_slice(&value)?))).collect()
    }
}

/// How long a file lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    /// For ever: it is synced with its disk.
    Disk,
    /// Until the machine goes down.
    Boot,
}

impl Lasting {
    fn tables(self) -> &'static [Table] {
        match self {
            Self::Disk => &TABLES,
            Self::Boot => &[ENDPOINTS],
        }
    }

    fn thread_name(self) -> &'static str {
        match self {
            Self::Disk => "state file",
            Self::Boot => "endpoints",
        }
    }
}

#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    lasting: Lasting,
    /// None after a read or write failed, until the next call opens the file again: redb takes nothing after a failure.
    database: RwLock<Option<Database>>,
    /// Why the last changes were not made.
    refused: Mutex<Option<String>>,
}

impl StateFile {
    fn open(path: &Path, lasting: Lasting) -> Result<Self, OpenError> {
        let path = path.to_owned();
        let opened = match lasting {
            Lasting::Disk => builder().create(&path),
            Lasting::Boot => open_unsynced(&path),
        };
        let database = opened.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.clone()),
            other => not_open(&path, other.into()),
        })?;
        ensure_tables(&database, lasting.tables()).map_err(|error| not_open(&path, error))?;
        Ok(Self::new(path, lasting, Some(database)))
    }

    fn new(path: PathBuf, lasting: Lasting, database: Option<Database>) -> Self {
        Self { path, lasting, database: RwLock::new(database), refused: Mutex::default() }
    }

    /// Opens the file after it was closed.
    fn reopen(&self) -> Result<Database, redb::Error> {
        match self.lasting {
            Lasting::Disk => Ok(builder().open(&self.path)?),
            Lasting::Boot => {
                let database = open_unsynced(&self.path)?;
                ensure_tables(&database, self.lasting.tables())?;
                Ok(database)
            }
        }
    }

    /// Runs a transaction, on the file opened anew if it failed before.
    fn with<T>(&self, f: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let result = loop {
            if let Some(database) = self.database().as_ref() {
                break f(database);
            }
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if database.is_none() {
                *database = Some(self.reopen().map_err(|error| self.failure(error))?);
            }
        };
        result.map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            self.failure(error)
        })
    }

    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self, error: redb::Error) -> StoreError {
        let path = self.path.clone();
        match error {
            redb::Error::Io(error) => StoreError::Io { path, error },
            other => StoreError::Database { path, source: Box::new(other) },
        }
    }

    /// Makes all of these changes, or none; those made are kept as long as the file lasts.
    fn commit<'a>(&self, changes: impl IntoIterator<Item = &'a Changes>) -> Result<(), StoreError> {
        let made = self.with(|database| changes::commit(database, changes));
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) =
            made.as_ref().err().map(|error| weft_api::with_causes(error));
        made
    }

    fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Store {
    /// Opens or makes `dir/state.redb`, and the endpoints of this boot beside it.
    ///
    /// # Errors
    /// See [`OpenError`]; a damaged file is never replaced.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let boot = boot::boot_id().map_err(|(path, error)| OpenError::Io { path, error })?;
        Self::open_at_boot(dir, &boot)
    }

    fn open_at_boot(dir: &Path, boot: &str) -> Result<Self, OpenError> {
        let path = dir.join("state.redb");
        let io = |error| OpenError::Io { path: path.clone(), error };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        drop(file);
        verify(&path)?;
        let state = StateFile::open(&path, Lasting::Disk)?;
        let endpoints = open_endpoints(dir, boot)?;
        take_over(&state, &endpoints)?;
        Ok(Self { state: Kept::new(state)?, endpoints: Kept::new(endpoints)? })
    }

    /// Makes the changes, after those of earlier calls; they are on the disk when this returns. A caller that does not
    /// wait for the end loses the answer only.
    ///
    /// # Errors
    /// [`StoreError`]; none of the changes is made then.
    pub(crate) async fn write(&self, changes: Changes) -> Result<(), StoreError> {
        self.state.write(changes).await
    }

    /// As [`Self::write`], by the calling thread: for the start, which waits for the disk anyway.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn write_now(&self, changes: Changes) -> Result<(), StoreError> {
        self.state.file.commit([&changes.checked()?])
    }

    /// Keeps an endpoint, after earlier calls; it outlives the daemon when this returns.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) async fn put_endpoint(&self, record: &EndpointRecord) -> Result<(), StoreError> {
        self.endpoints.write(Changes::default().put_endpoint(record)).await
    }

    /// Forgets an endpoint, as [`Self::put_endpoint`] keeps one.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) async fn remove_endpoint(&self, id: &str) -> Result<(), StoreError> {
        self.endpoints.write(Changes::default().remove_endpoint(id)).await
    }

    /// Why the last changes were not made, of either file; one line. Until others are made there.
    pub(crate) fn fault(&self) -> Option<String> {
        self.state.file.refused().or_else(|| self.endpoints.file.refused())
    }

    fn get(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.state.file.with(|database| {
            let table = database.begin_read()?.open_table(META)?;
            Ok(table.get(key)?.map(|value| Zeroizing::new(value.value().to_vec())))
        })
    }

    /// This peer's key, made at the first call.
    ///
    /// # Errors
    /// [`StoreError`]; a key that could not be written is not used.
    pub(crate) fn identity(&self) -> Result<IdentityKey, StoreError> {
        if let Some(bytes) = self.get("identity")?
            && let Ok(seed) = <&[u8; 32]>::try_from(bytes.as_slice())
        {
            return Ok(IdentityKey::from_seed(seed));
        }
        let mut seed = Zeroizing::new([0; 32]);
        rand::Rng::fill_bytes(&mut rand::rng(), &mut *seed);
        self.write_now(Changes::default().set_identity(&seed))?;
        Ok(IdentityKey::from_seed(&seed))
    }

    /// A number larger than at any earlier start.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn next_incarnation(&self) -> Result<u64, StoreError> {
        let last =
            self.get("incarnation")?.and_then(|b| b.as_slice().try_into().ok()).map(u64::from_be_bytes);
        // Beyond that it is damage, not a count.
        let last = last.filter(|last| *last <= u64::MAX / 2).unwrap_or(0);
        // The wall clock guards against a state file that was restored from a backup.
        let clock = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis().try_into().unwrap_or(0));
        let next = (last + 1).max(clock);
        self.write_now(Changes::default().set_incarnation(next))?;
        Ok(next)
    }

    /// The secrets that were handed over, the preferred one first; a second one only during a rotation.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn secrets(&self) -> Result<Vec<ClusterSecret>, StoreError> {
        let text = self.get("secret")?;
        let lines = text.iter().filter_map(|text| std::str::from_utf8(text).ok()).flat_map(str::lines);
        Ok(lines.filter_map(|line| ClusterSecret::parse(line).ok()).collect())
    }

    /// The secret that the last rotation added.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn added_secret(&self) -> Result<Option<SecretId>, StoreError> {
        let bytes = self.get("added-secret")?;
        Ok(bytes.and_then(|bytes| bytes.as_slice().try_into().ok()).map(SecretId))
    }

    /// Operators' decisions about peers.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn verdicts(&self) -> Result<Vec<Verdict>, StoreError> {
        Ok(self.state.list(VERDICTS)?.into_iter().map(|(_, verdict)| verdict).collect())
    }

    /// Hosts that were given by `weft join` and `weft connect`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn seeds(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.state.list::<()>(SEEDS)?.into_iter().map(|(host, ())| host).collect())
    }

    /// What was last known of the swarm's services.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn services(&self) -> Result<VipTable, StoreError> {
        let bytes = self.get("services")?;
        Ok(bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose()?.unwrap_or_default())
    }

    /// Docker's networks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        Ok(self.state.list(NETWORKS)?.into_iter().map(|(_, record)| record).collect())
    }

    /// Docker's endpoints.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn endpoints(&self) -> Result<Vec<EndpointRecord>, StoreError> {
        // Not there while the disk has had no room for it.
        if !boot::is_there(&self.endpoints.file.path) {
            return Ok(Vec::new());
        }
        Ok(self.endpoints.list(ENDPOINTS)?.into_iter().map(|(_, record)| record).collect())
    }

    /// Peers that were once connected.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn peers(&self) -> Result<Vec<KnownPeer>, StoreError> {
        let known = |(id, peer): (String, StoredPeer)| {
            Some(KnownPeer { id: id.parse().ok()?, name: peer.name, address: peer.address })
        };
        Ok(self.state.list(PEERS)?.into_iter().filter_map(known).collect())
    }
}

/// How redb opens the file. It keeps up to a gibibyte of pages otherwise, which a damaged file can make it read.
fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_LEN);
    builder
}

/// The rows of a table; none where there is no such table.
fn rows(database: &Database, table: Table) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let table = match database.begin_read()?.open_table(table) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let rows = table.iter()?.map(|row| {
        let (key, value) = row?;
        Ok((key.value().to_owned(), value.value().to_vec()))
    });
    rows.collect()
}

/// Opens or makes the endpoints' file of this boot, and removes those of others.
fn open_endpoints(dir: &Path, boot: &str) -> Result<StateFile, OpenError> {
    let path = boot::path(dir, boot);
    boot::remove_others(dir, &path).map_err(|error| OpenError::Io { path: dir.to_owned(), error })?;
    let is_new = !boot::is_there(&path);
    let opened = if is_new { Ok(()) } else { verify(&path) };
    match opened.and_then(|()| StateFile::open(&path, Lasting::Boot)) {
        // It is tried anew at the next call: a daemon is to start on a full disk too.
        Err(OpenError::Io { error, .. }) if is_new && error.kind() == io::ErrorKind::StorageFull => {
            std::fs::remove_file(&path).map_err(|error| OpenError::Io { path: path.clone(), error })?;
            Ok(StateFile::new(path, Lasting::Boot, None))
        }
        Err(OpenError::Damaged { path, source }) => Err(OpenError::EndpointsDamaged { path, source }),
        other => other,
    }
}

/// Moves the endpoints that an earlier weft kept in the state file. Should it end in between, the next start goes on.
fn take_over(state: &StateFile, endpoints: &StateFile) -> Result<(), OpenError> {
    let moved = || {
        let old = state.with(|database| rows(database, ENDPOINTS))?;
        if old.is_empty() {
            return Ok(());
        }
        let known = endpoints.with(|database| rows(database, ENDPOINTS))?;
        let (mut put, mut remove) = (Changes::default(), Changes::default());
        for (id, record) in old {
            remove = remove.remove_endpoint(&id);
            if known.iter().all(|(known, _)| *known != id) {
                put = put.put(ENDPOINTS, id, record);
            }
        }
        endpoints.commit([&put])?;
        state.commit([&remove])
    };
    moved().map_err(|error: StoreError| match error {
        StoreError::Io { path, error } => OpenError::Io { path, error },
        StoreError::Database { path, source } => OpenError::Damaged { path, source },
        // Nothing is read as a record, and no panic is caught here.
        StoreError::Record(_) | StoreError::Panicked => corrupted(&state.path, &error.to_string()),
    })
}

/// Opens or makes a file that is as lasting as the kernel.
fn open_unsynced(path: &Path) -> Result<Database, redb::DatabaseError> {
    builder().create_with_backend(Unsynced::open(path)?)
}

/// Whether every page is as its checksum says, found out on a copy: redb mends a file as it opens it, and otherwise comes
/// upon a damaged page in the middle of some later call, with a panic.
fn verify(path: &Path) -> Result<(), OpenError> {
    // redb panics at some damage inside its pages.
    std::panic::catch_unwind(|| check(path))
        .unwrap_or_else(|_| Err(corrupted(path, "its pages contradict each other")))
}

fn check(path: &Path) -> Result<(), OpenError> {
    let io = |error| OpenError::Io { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(io)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse(path.to_owned()),
        TryLockError::Error(error) => io(error),
    })?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.read_to_end(&mut bytes).map_err(io)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let copy = FileCopy::new(bytes);
    let damaged = |error: redb::DatabaseError| OpenError::Damaged {
        path: path.to_owned(),
        source: Box::new(error.into()),
    };
    // Should it panic, its end is not to be tried, which may panic again.
    let mut database = ManuallyDrop::new(builder().create_with_backend(copy).map_err(damaged)?);
    let is_sound = database.check_integrity().map_err(damaged)?;
    drop(ManuallyDrop::into_inner(database));
    if is_sound { Ok(()) } else { Err(corrupted(path, "its pages are not as their checksums say")) }
}

fn corrupted(path: &Path, why: &str) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), source: Box::new(redb::Error::Corrupted(why.to_owned())) }
}

/// Makes the tables where one is missing, and only then: a daemon is to start on a full disk too.
fn ensure_tables(database: &Database, tables: &[Table]) -> Result<(), redb::Error> {
    let transaction = database.begin_read()?;
    for table in tables {
        match transaction.open_table(*table) {
            Err(redb::TableError::TableDoesNotExist(_)) => return make_tables(database, tables),
            other => drop(other?),
        }
    }
    Ok(())
}

fn make_tables(database: &Database, tables: &[Table]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in tables {
        transaction.open_table(*table)?;
    }
    Ok(transaction.commit()?)
}

fn not_open(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => OpenError::Io { path, error },
        other => OpenError::Damaged { path, source: Box::new(other) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_and_the_incarnation_outlive_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let (id, first) = {
            let store = Store::open(dir.path()).unwrap();
            (store.identity().unwrap().peer_id(), store.next_incarnation().unwrap())
        };
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.identity().unwrap().peer_id(), id);
        assert!(store.next_incarnation().unwrap() > first);
        let mode = std::fs::metadata(dir.path().join("state.redb")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    fn endpoint(n: usize) -> EndpointRecord {
        let endpoint = weft_driver::CreateEndpoint {
            network_id: "n1".to_owned(),
            endpoint_id: format!("{n:064x}"),
            address: None,
            address_v6: None,
            mac: "02:42:0a:00:01:02".parse().unwrap(),
        };
        EndpointRecord { endpoint, sandbox_key: None, multicast_route: false }
    }

    fn record(n: usize) -> String {
        serde_json::to_string(&endpoint(n)).unwrap()
    }

    #[tokio::test]
    async fn what_was_answered_is_in_the_file_though_many_wrote_at_once_and_nobody_closed_it() {
        const N: usize = 100;
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open_at_boot(dir.path(), "1").unwrap();
        let writes = (0..N).map(|n| {
            // In the same transaction, or a later one: the order counts.
            let changes = Changes::default().put_seed(&format!("kept{n}")).put_seed(&format!("host{n}"));
            store.state.writer.hand_over(changes).unwrap()
        });
        for answer in writes.collect::<Vec<_>>() {
            answer.await.unwrap().unwrap();
        }
        for n in 0..N {
            store.put_endpoint(&endpoint(n)).await.unwrap();
        }
        let changes = (0..N).fold(Changes::default(), |changes, n| changes.remove_seed(&format!("host{n}")));
        store.write(changes).await.unwrap();
        store.remove_endpoint(&endpoint(0).endpoint.endpoint_id).await.unwrap();
        for name in ["state.redb", "endpoints-1.redb"] {
            std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
        let found = Store::open_at_boot(copy.path(), "1").unwrap();
        assert_eq!(found.endpoints().unwrap(), (1..N).map(endpoint).collect::<Vec<_>>());
        let mut kept: Vec<String> = (0..N).map(|n| format!("kept{n}")).collect();
        kept.sort();
        assert_eq!(found.seeds().unwrap(), kept);
        let mode = std::fs::metadata(copy.path().join("endpoints-1.redb")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn endpoints_are_of_one_boot_and_what_another_left_is_not_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let path = |boot: &str| dir.path().join(format!("endpoints-{boot}.redb"));
        let key = {
            let store = Store::open_at_boot(dir.path(), "1").unwrap();
            store.put_endpoint(&endpoint(1)).await.unwrap();
            store.identity().unwrap().peer_id()
        };
        // As after a power loss, which leaves anything of a file that was never synced.
        std::fs::write(path("1"), [7; 100_000]).unwrap();
        let store = Store::open_at_boot(dir.path(), "2").unwrap();
        assert_eq!(store.endpoints().unwrap(), []);
        assert_eq!(store.identity().unwrap().peer_id(), key);
        assert!(!path("1").exists());
        store.put_endpoint(&endpoint(2)).await.unwrap();
        drop(store);
        assert_eq!(Store::open_at_boot(dir.path(), "2").unwrap().endpoints().unwrap(), [endpoint(2)]);

        std::fs::write(path("2"), [7; 100_000]).unwrap();
        let error = Store::open_at_boot(dir.path(), "2").unwrap_err();
        assert!(error.to_string().contains("move it away, then restart the containers"), "{error}");
        assert_eq!(std::fs::read(path("2")).unwrap(), [7; 100_000]);
    }

    #[test]
    fn endpoints_of_an_earlier_weft_are_taken_over_also_by_a_second_try() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) =
            (endpoint(1), EndpointRecord { sandbox_key: Some("s".to_owned()), ..endpoint(2) });
        let state = StateFile::open(&dir.path().join("state.redb"), Lasting::Disk).unwrap();
        let put = |n| Changes::default().put(ENDPOINTS, format!("{n:064x}"), record(n).into());
        state.commit([&put(1), &put(2)]).unwrap();
        drop(state);
        // As far as a first try came that ended in between, and what was written since.
        let path = dir.path().join("endpoints-1.redb");
        let endpoints = StateFile::open(&path, Lasting::Boot).unwrap();
        endpoints.commit([&Changes::default().put_endpoint(&second)]).unwrap();
        drop(endpoints);
        for _ in 0..2 {
            let store = Store::open_at_boot(dir.path(), "1").unwrap();
            assert_eq!(store.endpoints().unwrap(), [first.clone(), second.clone()]);
            assert_eq!(store.state.list::<EndpointRecord>(ENDPOINTS).unwrap(), []);
        }
    }

    #[tokio::test]
    async fn the_endpoints_file_is_made_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_at_boot(dir.path(), "1").unwrap();
        // As it is left when the disk was full at start.
        std::fs::remove_file(&store.endpoints.file.path).unwrap();
        *store.endpoints.file.database.write().unwrap() = None;
        assert_eq!(store.endpoints().unwrap(), []);
        store.put_endpoint(&endpoint(1)).await.unwrap();
        assert_eq!(store.endpoints().unwrap(), [endpoint(1)]);
        drop(store);
        assert_eq!(Store::open_at_boot(dir.path(), "1").unwrap().endpoints().unwrap(), [endpoint(1)]);
    }

    #[test]
    fn a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _store = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(OpenError::InUse(_))));
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        std::fs::write(&path, b"not a database at all, but long enough to look at").unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("restore it from a backup"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"not a database at all, but long enough to look at");
    }

    #[test]
    fn no_byte_changes_unnoticed_where_there_is_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let key = Store::open(dir.path()).unwrap().identity().unwrap().peer_id();
        let sound = std::fs::read(&path).unwrap();
        // The head of the file has what redb needs of it twice, and pages begin after it.
        let filled: Vec<usize> = (4096..sound.len()).filter(|at| sound[*at] != 0).collect();
        assert!(filled.len() > 100, "{}", filled.len());
        for at in filled.into_iter().step_by(211) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            match Store::open(dir.path()) {
                Err(OpenError::Damaged { .. }) => assert_eq!(std::fs::read(&path).unwrap(), damaged, "{at}"),
                Err(other) => panic!("byte {at}: {other}"),
                // Of a page that is no longer in use.
                Ok(store) => assert_eq!(store.identity().unwrap().peer_id(), key, "{at}"),
            }
        }
        std::fs::write(&path, &sound).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().identity().unwrap().peer_id(), key);
    }
}
