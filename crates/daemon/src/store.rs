//! What must survive the daemon: its key, the secret, Docker's networks and endpoints, the peers it has met.
//!
//! One redb file, mode 0600, committed with fsync before a call of dockerd is answered. redb's commits are atomic, so
//! a power loss leaves the state before or after a call, never between.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_driver::{EndpointRecord, NetworkRecord};
use weft_noise::{ClusterSecret, Identity};
use weft_wire::PeerId;
use zeroize::Zeroizing;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<&str, &[u8]> = TableDefinition::new("networks");
const ENDPOINTS: TableDefinition<&str, &[u8]> = TableDefinition::new("endpoints");
const PEERS: TableDefinition<&str, &[u8]> = TableDefinition::new("peers");

/// The state file cannot be opened. Nothing was changed on the disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OpenError {
    /// The directory or file cannot be made or opened.
    #[error("cannot open the state file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has it open.
    #[error("the state file {0} is in use: another weft daemon runs on this host; stop it first")]
    InUse(PathBuf),
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
    /// The disk is full, or redb found damage.
    #[error("the state file cannot be read or written: {0}")]
    Database(#[source] Box<redb::Error>),
    /// A record of an unknown form, from a newer weft.
    #[error("a record in the state file is of an unknown form: {0}")]
    Record(#[from] serde_json::Error),
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })*
    };
}

from_redb!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

/// A peer that was once connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPeer {
    /// Its name.
    pub(crate) name: String,
    /// Where it was last reached.
    pub(crate) address: std::net::SocketAddr,
}

/// The open state file.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
}

impl Store {
    /// Opens or makes `dir/state.redb`.
    ///
    /// # Errors
    /// See [`OpenError`]; a damaged file is never replaced.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("state.redb");
        let io = |source| OpenError::Io { path: path.clone(), source };
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
        let database = Database::create(&path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.clone()),
            redb::DatabaseError::Storage(redb::StorageError::Io(source))
                if source.kind() != io::ErrorKind::InvalidData =>
            {
                OpenError::Io { path: path.clone(), source }
            }
            other => OpenError::Damaged { path: path.clone(), source: Box::new(other.into()) },
        })?;
        let store = Self { database };
        store.make_tables().map_err(|error| match error {
            StoreError::Database(source) => OpenError::Damaged { path: path.clone(), source },
            StoreError::Record(source) => {
                OpenError::Io { path: path.clone(), source: io::Error::other(source) }
            }
        })?;
        Ok(store)
    }

    fn make_tables(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(META)?;
        transaction.open_table(NETWORKS)?;
        transaction.open_table(ENDPOINTS)?;
        transaction.open_table(PEERS)?;
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let table = self.database.begin_read()?.open_table(META)?;
        Ok(table.get(key)?.map(|value| Zeroizing::new(value.value().to_vec())))
    }

    fn put(&self, table: TableDefinition<&str, &[u8]>, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(table)?.insert(key, value)?;
        Ok(transaction.commit()?)
    }

    fn remove(&self, table: TableDefinition<&str, &[u8]>, key: &str) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(table)?.remove(key)?;
        Ok(transaction.commit()?)
    }

    fn list<T: DeserializeOwned>(
        &self,
        table: TableDefinition<&str, &[u8]>,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let table = self.database.begin_read()?.open_table(table)?;
        table
            .iter()?
            .map(|row| {
                let (key, value) = row?;
                Ok((key.value().to_owned(), serde_json::from_slice(value.value())?))
            })
            .collect()
    }

    /// This peer's key, made at the first call.
    ///
    /// # Errors
    /// [`StoreError`]; a key that could not be written is not used.
    pub(crate) fn identity(&self) -> Result<Identity, StoreError> {
        if let Some(bytes) = self.get("identity")?
            && let Ok(bytes) = <[u8; 32]>::try_from(bytes.as_slice())
        {
            return Ok(Identity::from_bytes(bytes));
        }
        let identity = Identity::generate(&mut rand::rng());
        self.put(META, "identity", identity.to_bytes().as_slice())?;
        Ok(identity)
    }

    /// A number larger than at any earlier start.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn next_incarnation(&self) -> Result<u64, StoreError> {
        let last =
            self.get("incarnation")?.and_then(|b| b.as_slice().try_into().ok()).map_or(0, u64::from_be_bytes);
        // The wall clock guards against a state file that was restored from a backup.
        let clock =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let next = (last + 1).max(clock);
        self.put(META, "incarnation", &next.to_be_bytes())?;
        Ok(next)
    }

    /// The secret that was handed over, if any.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn secret(&self) -> Result<Option<ClusterSecret>, StoreError> {
        let text = self.get("secret")?;
        Ok(text.and_then(|text| ClusterSecret::parse(std::str::from_utf8(&text).ok()?).ok()))
    }

    /// Keeps the secret, in place of an earlier one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn set_secret(&self, secret: &ClusterSecret) -> Result<(), StoreError> {
        self.put(META, "secret", secret.to_text().as_bytes())
    }

    /// Docker's networks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        Ok(self.list(NETWORKS)?.into_iter().map(|(_, record)| record).collect())
    }

    /// Keeps a network.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn put_network(&self, record: &NetworkRecord) -> Result<(), StoreError> {
        self.put(NETWORKS, &record.network.network_id, &serde_json::to_vec(record)?)
    }

    /// Forgets a network.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn remove_network(&self, id: &str) -> Result<(), StoreError> {
        self.remove(NETWORKS, id)
    }

    /// Docker's endpoints.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn endpoints(&self) -> Result<Vec<EndpointRecord>, StoreError> {
        Ok(self.list(ENDPOINTS)?.into_iter().map(|(_, record)| record).collect())
    }

    /// Keeps an endpoint.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn put_endpoint(&self, record: &EndpointRecord) -> Result<(), StoreError> {
        self.put(ENDPOINTS, &record.endpoint.endpoint_id, &serde_json::to_vec(record)?)
    }

    /// Forgets an endpoint.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn remove_endpoint(&self, id: &str) -> Result<(), StoreError> {
        self.remove(ENDPOINTS, id)
    }

    /// Peers that were once connected.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn peers(&self) -> Result<Vec<(PeerId, StoredPeer)>, StoreError> {
        let rows = self.list::<StoredPeer>(PEERS)?;
        Ok(rows.into_iter().filter_map(|(id, peer)| Some((id.parse().ok()?, peer))).collect())
    }

    /// Keeps a peer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn put_peer(&self, id: PeerId, peer: &StoredPeer) -> Result<(), StoreError> {
        self.put(PEERS, &id.to_string(), &serde_json::to_vec(peer)?)
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
}
