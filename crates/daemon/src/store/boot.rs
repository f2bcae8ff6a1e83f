//! Where the endpoints are kept: a file for each boot of the machine, which waits for no disk.
//!
//! No container outlives a power loss, and dockerd makes the endpoints of those that it starts again anew. So an endpoint's
//! record has to outlive the daemon, and not the kernel: it is in the kernel's memory when a write returns, in the order in
//! which it was written, and the file of another boot, of which anything may be missing, is never looked into.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Error};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;

const PREFIX: &str = "endpoints-";
const SUFFIX: &str = ".redb";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the kernel calls this boot.
///
/// # Errors
/// With the file that could not be read.
pub(super) fn boot_id() -> Result<String, (PathBuf, Error)> {
    match fs::read_to_string(BOOT_ID) {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(error) => Err((BOOT_ID.into(), error)),
    }
}

pub(super) fn path(dir: &Path, boot: &str) -> PathBuf {
    dir.join(format!("{PREFIX}{boot}{SUFFIX}"))
}

/// Removes the files of other boots.
pub(super) fn remove_others(dir: &Path, current: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) && path != current {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// A file that is as lasting as the kernel.
#[derive(Debug)]
pub(super) struct Unsynced(FileBackend);

impl Unsynced {
    /// Opens or makes it. Its directory is one that a single daemon has, by its state file.
    pub(super) fn open(path: &Path) -> Result<Self, redb::DatabaseError> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        Ok(Self(FileBackend::new(file.map_err(redb::StorageError::Io)?)?))
    }
}

impl StorageBackend for Unsynced {
    fn len(&self) -> Result<u64, Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.0.write(offset, data)
    }

    fn close(&self) -> Result<(), Error> {
        self.0.close()
    }
}

/// Whether there is a file with anything in it.
pub(super) fn is_there(path: &Path) -> bool {
    File::open(path).and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.len() > 0)
}
