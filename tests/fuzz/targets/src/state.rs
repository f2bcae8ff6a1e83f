//! What a daemon finds on its disk.

mod redb_panic;

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use redb::{Database, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use weft_driver::{EndpointRecord, NetworkRecord};
use weft_node::{Judgement, KnownPeer, Verdict};
use weft_noise::{ClusterSecret, SecretId};
use weft_wire::PeerId;

#[path = "../../../../crates/daemon/src/store.rs"]
#[allow(dead_code, reason = "the daemon's file; not all of it is wanted here")]
mod daemon;

use crate::bytes::Bytes;
use daemon::{Changes, Store};

/// The longest state file that is tried.
const MAX_FILE_LEN: usize = 4 << 20;
const MAX_PATCHES: usize = 64;

/// What is written comes back the same.
pub(crate) fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_vec(value).expect("a value that was read can be written");
    let again: T = serde_json::from_slice(&json).expect("what was written can be read");
    assert_eq!(again, *value);
}

/// A directory in memory where there is one: the store waits for its disk.
fn dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("there is room for a state file")
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("state.redb")
}

/// A state file with something of everything.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = dir();
    fill(&Store::open(dir.path()).expect("a new state file can be made")).expect("and written");
    // As an earlier weft left it.
    put(&file(&dir), "endpoints", "e1", ENDPOINT.as_bytes()).expect("the file is sound");
    let bytes = fs::read(file(&dir)).expect("and read");
    assert!(bytes.len() <= MAX_FILE_LEN);
    bytes
});

fn fill(store: &Store) -> Result<(), daemon::StoreError> {
    let peer = PeerId([1; 16]);
    let name = || "host-b".to_owned();
    let changes = Changes::default()
        .set_incarnation(7)
        .set_secrets(&[ClusterSecret::new([7; 32]), ClusterSecret::new([8; 32])])
        .set_added_secret(Some(SecretId([9; 16])))
        .put_verdict(&Verdict { peer, name: name(), judgement: Judgement::Revoked, stamp: 1, by: peer })
        .put_seed("10.0.0.2:6783")
        .put_peer(KnownPeer { id: peer, name: name(), address: ([10, 0, 0, 2], 6783).into() })
        .put_network(&record(NETWORK));
    store.write_now(changes)
}

fn record<T: DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).expect("the record is of today's form")
}

const NETWORK: &str = r#"{"network":{"network_id":"n1","options":{"mtu":1400,"weft_id":"lan","faults":[]},
    "ipv4":[{"subnet":"10.1.0.0/24","gateway":"10.1.0.1/24","reserved":{"a":"10.1.0.9"}}],"ipv6":[],"internal":false}}"#;
const ENDPOINT: &str = r#"{"endpoint":{"network_id":"n1","endpoint_id":"e1","address":"10.1.0.2/24","address_v6":null,
    "mac":[2,66,10,1,0,2]},"sandbox_key":"/run/docker/netns/1"}"#;

/// Everything that is read at start.
fn read(store: &Store) -> Result<(), daemon::StoreError> {
    let _ = store.identity()?.peer_id();
    let incarnation = store.next_incarnation()?;
    assert!(store.next_incarnation()? > incarnation);
    assert!(store.secrets()?.iter().all(|secret| *secret != ClusterSecret::new([0; 32])));
    store.added_secret()?;
    store.seeds()?;
    store.verdicts()?.iter().for_each(survives);
    store.networks()?.iter().for_each(survives);
    store.endpoints()?.iter().for_each(survives);
    let changes = store.peers()?.into_iter().fold(Changes::default(), Changes::put_peer);
    store.write_now(changes)
}

const TABLES: [&str; 6] = ["meta", "networks", "endpoints", "peers", "verdicts", "seeds"];
const KEYS: [&str; 4] = ["identity", "incarnation", "secret", "added-secret"];

/// Records of any bytes in a sound file. Input: a byte for the table (`a` meta …), one for its key, and the record.
pub fn state_record(bytes: &[u8]) {
    let [table, key, value @ ..] = bytes else { return };
    let _ = serde_json::from_slice::<NetworkRecord>(value).map(|record| survives(&record));
    let _ = serde_json::from_slice::<EndpointRecord>(value).map(|record| survives(&record));
    let _ = serde_json::from_slice::<Verdict>(value).map(|verdict| survives(&verdict));
    let dir = dir();
    fs::write(file(&dir), &*WHOLE).expect("there is room for a state file");
    let name = TABLES[usize::from(*table & 0x1f).wrapping_sub(1) % TABLES.len()];
    let hexadecimal = PeerId([*key; 16]).to_string();
    let key = if name == "meta" { KEYS[usize::from(*key) % KEYS.len()] } else { &hexadecimal };
    put(&file(&dir), name, key, value).expect("the file is sound");
    let store = Store::open(dir.path()).expect("the file is sound");
    // A record of an unknown form is an error, and no reason to lose the others or to write over it.
    if read(&store).is_err() {
        drop(store);
        assert!(read(&Store::open(dir.path()).expect("the file is still sound")).is_err());
    }
}

fn put(file: &Path, table: &str, key: &str, value: &[u8]) -> Result<(), redb::Error> {
    let transaction = Database::open(file)?.begin_write()?;
    transaction.open_table(TableDefinition::<&str, &[u8]>::new(table))?.insert(key, value)?;
    Ok(transaction.commit()?)
}

#[derive(Debug, Arbitrary)]
struct Damage {
    /// In parts of 65536 of the file.
    cut_at: Option<u16>,
    patches: Vec<Patch>,
}

#[derive(Debug, Arbitrary)]
struct Patch {
    /// The part of the file with anything in it is short: a page of 4 KiB, and where in it.
    page: u16,
    at: u16,
    bytes: Bytes,
}

/// A state file whose bytes are not what was written. It is refused, or opened and then read and written without a panic.
pub fn state_file(bytes: &[u8]) {
    let Ok(Damage { cut_at, patches }) = Damage::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return;
    };
    let mut state = WHOLE.clone();
    let n_pages = (state.len() / 4096).max(1);
    for Patch { page, at, bytes } in patches.into_iter().take(MAX_PATCHES) {
        let at = usize::from(page) % n_pages * 4096 + usize::from(at) % 4096;
        for (to, from) in state.iter_mut().skip(at).zip(bytes.iter()) {
            *to = *from;
        }
    }
    if let Some(cut_at) = cut_at {
        state.truncate(state.len() * usize::from(cut_at) / 65536);
    }
    let dir = dir();
    fs::write(file(&dir), &state).expect("there is room for a state file");
    match redb_panic::tolerated(|| Store::open(dir.path())) {
        Ok(store) => {
            let _ = read(&store);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
