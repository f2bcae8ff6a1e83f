//! Checking records, once per process where many meshes share one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use weft_wire::PeerId;

use crate::keys;
use crate::record::{Body, Origin, Record, SignedRecord};
use crate::tree::hash128;

/// Results of signature checks, and the records that passed, shared by the meshes that are given clones of it.
///
/// For simulations of many peers in one process: a check costs some 50 µs and a thousand peers would each check the
/// same records. It grows without bound; a daemon has none. Sharing changes no result.
#[derive(Clone, Default)]
pub struct SignatureCache(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    peers: HashMap<[u8; 32], Option<PeerId>>,
    records: HashMap<[u8; 16], Option<Arc<Record>>>,
}

impl fmt::Debug for SignatureCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignatureCache").finish_non_exhaustive()
    }
}

/// Derives owners and checks signatures.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    cache: Option<SignatureCache>,
    /// Owners already derived, from keys whose signature held at least once.
    peers: HashMap<[u8; 32], PeerId>,
}

impl Checks {
    pub(crate) fn new(cache: Option<SignatureCache>) -> Self {
        Self { cache, peers: HashMap::new() }
    }

    /// The peer that `key` belongs to.
    pub(crate) fn owner(&self, key: &[u8; 32]) -> Option<PeerId> {
        if let Some(peer) = self.peers.get(key) {
            return Some(*peer);
        }
        match &self.cache {
            None => keys::peer_of_ed25519(key),
            Some(cache) => {
                let Ok(mut shared) = cache.0.lock() else { return keys::peer_of_ed25519(key) };
                *shared.peers.entry(*key).or_insert_with(|| keys::peer_of_ed25519(key))
            }
        }
    }

    /// The record, when its signature is the owner's and its body is well formed.
    pub(crate) fn check(
        &mut self,
        origin: &Origin,
        owner: PeerId,
        signed: SignedRecord,
    ) -> Option<Arc<Record>> {
        let record = match &self.cache {
            None => check(origin, signed)?,
            Some(cache) => {
                let name = hash128(&[&signed.signed_bytes(origin), &signed.signature()]);
                let Ok(mut shared) = cache.0.lock() else { return check(origin, signed) };
                shared.records.entry(name).or_insert_with(|| check(origin, signed)).clone()?
            }
        };
        self.peers.insert(origin.key, owner);
        Some(record)
    }

    pub(crate) fn forget(&mut self, owner: PeerId) {
        self.peers.retain(|_, peer| *peer != owner);
    }
}

fn check(origin: &Origin, signed: SignedRecord) -> Option<Arc<Record>> {
    let body = Body::decode(&signed.body, origin.scope)?;
    let genuine = keys::verify(&origin.key, &signed.signed_bytes(origin), &signed.signature());
    genuine.then(|| Arc::new(Record { signed, body }))
}
