//! Where the lab keeps things.

use std::{env, path::PathBuf};

/// Root filesystems, of the engines and for builds, and extracted tools; kept between runs. `WEFT_LAB_CACHE` overrides it.
#[must_use]
pub fn cache_dir() -> PathBuf {
    env::var_os("WEFT_LAB_CACHE").map_or_else(|| "/var/cache/weft-lab".into(), PathBuf::from)
}

/// A lab's disks: the hosts' upper layers and dockerd's data. `WEFT_LAB_DATA` overrides it.
pub(crate) fn data_dir() -> PathBuf {
    env::var_os("WEFT_LAB_DATA").map_or_else(|| "/var/lib/weft-lab".into(), PathBuf::from)
}

/// A lab's record, sockets, logs and what it shares with its hosts. Short, as socket paths must be.
pub(crate) fn run_dir() -> PathBuf {
    PathBuf::from("/run/weft-lab")
}
