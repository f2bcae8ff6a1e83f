//! Docker's own socket, at which anything may answer.

use std::cell::RefCell;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::web::block_on;

#[path = "../../../../crates/daemon/src/docker.rs"]
#[allow(dead_code, reason = "the daemon's file; not all of it is wanted here")]
mod daemon;

struct Socket {
    dir: TempDir,
    listener: UnixListener,
}

impl Socket {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is room for a socket");
        let listener = block_on(async { UnixListener::bind(dir.path().join("docker.sock")) });
        Self { listener: listener.expect("a socket can be bound"), dir }
    }
}

thread_local! {
    static SOCKET: RefCell<Socket> = RefCell::new(Socket::new());
}

/// What comes for a part of the input: its bytes as they are after `!`, else as the body of a success.
fn answer(part: &[u8]) -> Vec<u8> {
    match part.split_first() {
        Some((b'!', raw)) => raw.to_vec(),
        _ => [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", part.len()).as_bytes(), part].concat(),
    }
}

/// Docker's answers. Input: the answers to `/info` and `/nodes`, with NUL between them.
pub fn docker(bytes: &[u8]) {
    let (info, nodes) = bytes.split_at(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
    let answers = [answer(info), answer(nodes.get(1..).unwrap_or_default())];
    SOCKET.with_borrow_mut(|Socket { dir, listener }| {
        let path = dir.path().join("docker.sock");
        let server = async {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a socket accepts");
                let mut request = [0; 1024];
                // The client may have gone away already; that is its own affair.
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
            }
            std::future::pending::<()>().await;
        };
        let view = block_on(async {
            tokio::select! {
                view = daemon::swarm_view(&path) => view,
                () = server => unreachable!("the server waits at its end"),
            }
        });
        match view {
            Ok(view) => {
                let others = &view.others;
                assert!(others.is_sorted_by(|a, b| a < b), "{others:?}");
                assert!(others.iter().chain(&view.own).all(|address| !address.is_unspecified()));
                assert!(view.own.is_none_or(|own| !others.contains(&own)));
            }
            Err(daemon::DockerError::Timeout) => panic!("a finished answer was waited for"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}
