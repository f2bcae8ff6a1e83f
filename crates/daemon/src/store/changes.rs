//! What is to be written, row by row.

use redb::Database;
use serde::Serialize;
use weft_driver::{EndpointRecord, NetworkRecord};
use weft_node::{Judgement, KnownPeer, Verdict};
use weft_noise::{ClusterSecret, SecretId};
use weft_services::VipTable;
use zeroize::Zeroizing;

use super::{ENDPOINTS, META, NETWORKS, PEERS, SEEDS, StoreError, StoredPeer, Table, VERDICTS};

struct Change {
    table: Table,
    key: String,
    /// `None`: the row goes. Some are secrets.
    value: Option<Zeroizing<Vec<u8>>>,
}

/// Changes that belong together: after a power loss all of them are there, or none.
#[derive(Default)]
pub(crate) struct Changes {
    rows: Vec<Change>,
    /// A record that does not encode, which none that there is does: then nothing is written.
    fault: Option<serde_json::Error>,
}

impl Changes {
    pub(super) fn put(mut self, table: Table, key: impl Into<String>, value: Vec<u8>) -> Self {
        self.rows.push(Change { table, key: key.into(), value: Some(Zeroizing::new(value)) });
        self
    }

    fn put_json(mut self, table: Table, key: &str, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(value) => self.put(table, key, value),
            Err(error) => {
                self.fault = Some(error);
                self
            }
        }
    }

    fn remove(mut self, table: Table, key: impl Into<String>) -> Self {
        self.rows.push(Change { table, key: key.into(), value: None });
        self
    }

    /// The changes, when all of them can be written.
    pub(super) fn checked(mut self) -> Result<Self, StoreError> {
        self.fault.take().map_or(Ok(self), |error| Err(error.into()))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Keeps this peer's key.
    pub(super) fn set_identity(self, seed: &[u8; 32]) -> Self {
        self.put(META, "identity", seed.to_vec())
    }

    /// Keeps the number of this run, when it has grown.
    pub(crate) fn set_incarnation(self, incarnation: u64) -> Self {
        self.put(META, "incarnation", incarnation.to_be_bytes().to_vec())
    }

    /// Keeps the secrets, in place of earlier ones.
    pub(crate) fn set_secrets(self, secrets: &[ClusterSecret]) -> Self {
        // Of its full length at once, so that nothing is left behind where it was shorter.
        let mut text = Vec::with_capacity(65 * secrets.len());
        for secret in secrets {
            text.extend_from_slice(secret.to_text().as_bytes());
            text.push(b'\n');
        }
        self.put(META, "secret", text)
    }

    /// Keeps which secret the last rotation added.
    pub(crate) fn set_added_secret(self, id: Option<SecretId>) -> Self {
        self.put(META, "added-secret", id.map_or_else(Vec::new, |id| id.0.to_vec()))
    }

    /// Keeps a decision; one to forget a peer forgets it here too.
    pub(crate) fn put_verdict(self, verdict: &Verdict) -> Self {
        let peer = verdict.peer.to_string();
        let changes = self.put_json(VERDICTS, &peer, verdict);
        if verdict.judgement == Judgement::Allowed { changes } else { changes.remove(PEERS, peer) }
    }

    /// Keeps a host that was given by `weft join` or `weft connect`.
    pub(crate) fn put_seed(self, host: &str) -> Self {
        self.put(SEEDS, host, b"null".to_vec())
    }

    /// Forgets such a host.
    pub(crate) fn remove_seed(self, host: &str) -> Self {
        self.remove(SEEDS, host)
    }

    /// Keeps what is known of the swarm's services.
    pub(crate) fn set_services(self, table: &VipTable) -> Self {
        self.put_json(META, "services", table)
    }

    /// Keeps a network.
    pub(crate) fn put_network(self, record: &NetworkRecord) -> Self {
        self.put_json(NETWORKS, &record.network.network_id, record)
    }

    /// Forgets a network.
    pub(crate) fn remove_network(self, id: &str) -> Self {
        self.remove(NETWORKS, id)
    }

    /// Keeps an endpoint.
    pub(super) fn put_endpoint(self, record: &EndpointRecord) -> Self {
        self.put_json(ENDPOINTS, &record.endpoint.endpoint_id, record)
    }

    /// Forgets an endpoint.
    pub(super) fn remove_endpoint(self, id: &str) -> Self {
        self.remove(ENDPOINTS, id)
    }

    /// Keeps a peer.
    pub(crate) fn put_peer(self, peer: KnownPeer) -> Self {
        let KnownPeer { id, name, address } = peer;
        self.put_json(PEERS, &id.to_string(), &StoredPeer { name, address })
    }
}

/// Makes all of these changes in one transaction, which is in the file, and on the disk if that is synced, when this
/// returns.
pub(super) fn commit<'a>(
    database: &Database,
    changes: impl IntoIterator<Item = &'a Changes>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for Change { table, key, value } in changes.into_iter().flat_map(|changes| &changes.rows) {
        let mut table = transaction.open_table(*table)?;
        match value {
            Some(value) => drop(table.insert(key.as_str(), value.as_slice())?),
            None => drop(table.remove(key.as_str())?),
        }
    }
    Ok(transaction.commit()?)
}
