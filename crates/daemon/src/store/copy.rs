//! A copy of a state file in memory, to be looked through without harm to the file.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;
use zeroize::Zeroizing;

/// How much longer it may get: redb notes in a file what was free in it when it was closed.
const MAX_GROWTH: usize = 4 << 20;

/// A file's bytes. A damaged head can claim that there are many more, which are not made up here.
pub(super) struct FileCopy {
    bytes: Mutex<Zeroizing<Vec<u8>>>,
    max_len: usize,
}

impl FileCopy {
    pub(super) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        let max_len = bytes.len() + MAX_GROWTH;
        Self { bytes: Mutex::new(bytes), max_len }
    }

    fn bytes(&self) -> MutexGuard<'_, Zeroizing<Vec<u8>>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FileCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileCopy").field("len", &self.bytes().len()).finish_non_exhaustive()
    }
}

fn outside() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "it speaks of bytes beyond its end")
}

/// The bytes of `all` from `offset` on, as many as `len`.
fn part(all: &mut [u8], offset: u64, len: usize) -> Result<&mut [u8], Error> {
    let from = usize::try_from(offset).map_err(|_| outside())?;
    let to = from.checked_add(len).ok_or_else(outside)?;
    all.get_mut(from..to).ok_or_else(outside)
}

impl StorageBackend for FileCopy {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        out.copy_from_slice(part(&mut self.bytes(), offset, out.len())?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.max_len).ok_or_else(outside)?;
        self.bytes().resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        part(&mut self.bytes(), offset, data.len())?.copy_from_slice(data);
        Ok(())
    }
}
