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
pub(crate) struct Changes(Vec<Change>);

impl Changes {
    fn put(&mut self, table: Table, key: impl Into<String>, value: Vec<u8>) {
        self.0.push(Change { table, key: key.into(), value: Some(Zeroizing::new(value)) });
    }

    fn put_json(&mut self, table: Table, key: &str, value: &impl Serialize) -> Result<(), StoreError> {
        self.put(table, key, serde_json::to_vec(value)?);
        Ok(())
    }

    fn remove(&mut self, table: Table, key: impl Into<String>) {
        self.0.push(Change { table, key: key.into(), value: None });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Keeps this peer's key.
    pub(super) fn set_identity(&mut self, seed: &[u8; 32]) {
        self.put(META, "identity", seed.to_vec());
    }

    /// Keeps the number of this run, when it has grown.
    pub(crate) fn set_incarnation(&mut self, incarnation: u64) {
        self.put(META, "incarnation", incarnation.to_be_bytes().to_vec());
    }

    /// Keeps the secrets, in place of earlier ones.
    pub(crate) fn set_secrets(&mut self, secrets: &[ClusterSecret]) {
        // Of its full length at once, so that nothing is left behind where it was shorter.
        let mut text = Vec::with_capacity(65 * secrets.len());
        for secret in secrets {
            text.extend_from_slice(secret.to_text().as_bytes());
            text.push(b'\n');
        }
        self.put(META, "secret", text);
    }

    /// Keeps which secret the last rotation added.
    pub(crate) fn set_added_secret(&mut self, id: Option<SecretId>) {
        self.put(META, "added-secret", id.map_or_else(Vec::new, |id| id.0.to_vec()));
    }

    /// Keeps a decision; one to forget a peer forgets it here too.
    ///
    /// # Errors
    /// [`StoreError::Record`]; cannot happen with what there is.
    pub(crate) fn put_verdict(&mut self, verdict: &Verdict) -> Result<(), StoreError> {
        let peer = verdict.peer.to_string();
        self.put_json(VERDICTS, &peer, verdict)?;
        if verdict.judgement != Judgement::Allowed {
            self.remove(PEERS, peer);
        }
        Ok(())
    }

    /// Keeps a host that was given by `weft join` or `weft connect`.
    pub(crate) fn put_seed(&mut self, host: &str) {
        self.put(SEEDS, host, b"null".to_vec());
    }

    /// Forgets such a host.
    pub(crate) fn remove_seed(&mut self, host: &str) {
        self.remove(SEEDS, host);
    }

    /// Keeps what is known of the swarm's services.
    ///
    /// # Errors
    /// See [`Self::put_verdict`].
    pub(crate) fn set_services(&mut self, table: &VipTable) -> Result<(), StoreError> {
        self.put_json(META, "services", table)
    }

    /// Keeps a network.
    ///
    /// # Errors
    /// See [`Self::put_verdict`].
    pub(crate) fn put_network(&mut self, record: &NetworkRecord) -> Result<(), StoreError> {
        self.put_json(NETWORKS, &record.network.network_id, record)
    }

    /// Forgets a network.
    pub(crate) fn remove_network(&mut self, id: &str) {
        self.remove(NETWORKS, id);
    }

    /// Keeps an endpoint.
    ///
    /// # Errors
    /// See [`Self::put_verdict`].
    pub(crate) fn put_endpoint(&mut self, record: &EndpointRecord) -> Result<(), StoreError> {
        self.put_json(ENDPOINTS, &record.endpoint.endpoint_id, record)
    }

    /// Forgets an endpoint.
    pub(crate) fn remove_endpoint(&mut self, id: &str) {
        self.remove(ENDPOINTS, id);
    }

    /// Keeps a peer.
    ///
    /// # Errors
    /// See [`Self::put_verdict`].
    pub(crate) fn put_peer(&mut self, peer: KnownPeer) -> Result<(), StoreError> {
        let KnownPeer { id, name, address } = peer;
        self.put_json(PEERS, &id.to_string(), &StoredPeer { name, address })
    }
}

/// Makes all of these changes in one transaction, which is on the disk when this returns.
pub(super) fn commit<'a>(
    database: &Database,
    changes: impl IntoIterator<Item = &'a Changes>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for Change { table, key, value } in changes.into_iter().flat_map(|changes| &changes.0) {
        let mut table = transaction.open_table(*table)?;
        match value {
            Some(value) => drop(table.insert(key.as_str(), value.as_slice())?),
            None => drop(table.remove(key.as_str())?),
        }
    }
    Ok(transaction.commit()?)
}
