//! The socket that dockerd connects to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::UnixListener;

/// The socket's permissions: its owner's alone. dockerd and weft both run as root; anyone else who could connect could
/// take networks from under containers.
pub const SOCKET_MODE: u32 = 0o600;

/// Why a socket could not be bound. What was at the path is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process answers there: a second daemon on this host. The operator's to end.
    #[error("{0} is already served by another process")]
    Served(PathBuf),
    /// Something that is not a socket is there. The operator's to remove.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// The file system refused; the operator's to mend.
    #[error("cannot listen on {path}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Listens on a unix socket at `path`, with [`SOCKET_MODE`]; makes its directory when there is none.
///
/// A socket that a dead process left behind is removed: it is connected to first, and only a refused connection counts
/// as dead. Must be called within a tokio runtime.
///
/// # Errors
/// See [`BindError`].
pub fn bind_socket(path: &Path) -> Result<UnixListener, BindError> {
    let io_error = |source| BindError::Io { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(io_error)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(BindError::Served(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(io_error)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(error)),
        },
    }
    // Until the next line others may hold the mode that umask left, which lets no one else write (so: connect) unless
    // the operator set a umask that does.
    let listener = UnixListener::bind(path).map_err(io_error)?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE)).map_err(io_error)?;
    Ok(listener)
}

/// Serves `router` on `listener` until the future is dropped. Connections are kept open however long they are idle:
/// dockerd keeps its own open, and repeats a call over a broken one with an empty body.
///
/// # Errors
/// As [`axum::serve()`]: it goes on after a failed accept, so in practice none.
pub async fn serve(listener: UnixListener, router: Router) -> io::Result<()> {
    axum::serve(listener, router).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins/weft.sock");
        let first = bind_socket(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(matches!(bind_socket(&path), Err(BindError::Served(_))));
        drop(first);
        let _second = bind_socket(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.sock");
        fs::write(&path, "x").unwrap();
        assert!(matches!(bind_socket(&path), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
