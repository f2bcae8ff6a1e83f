//! What commands ask of dockerd, at its own socket.

use serde::de::DeserializeOwned;
use weft_api::Client;

const SOCKETS: [&str; 2] = ["/run/docker.sock", "/var/run/docker.sock"];

/// What dockerd answers to `GET path`; `None` when it cannot be asked, or has no such thing.
pub(crate) async fn get<T: DeserializeOwned>(path: &str) -> Option<T> {
    for socket in SOCKETS {
        if let Ok(answer) = Client::new(socket.into()).get(path).await {
            return Some(answer);
        }
    }
    None
}
