//! Health, metrics, the status and the live map over HTTP.
//!
//! Read-only, and without credentials: who reaches the address sees what `weft status` shows, which holds no secret. So
//! it is this host's loopback unless the operator says otherwise, and what a browser can be tricked into is refused: a
//! page of another site that made its name point here (DNS rebinding) is told by the Host header.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the live map: one page, which asks for `/v1/status` |
//! | `/healthz` | 200: the process lives |
//! | `/readyz` | 200 when traffic is carried, else 503 and why not |
//! | `/metrics` | Prometheus' text format |
//! | `/v1/status` | the status as JSON, with an ETag |

mod answer;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::core::Core;

/// Connections served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take for a request's head, also for the next one on its connection.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection lives; a client that reads slowly ends with it.
const CONNECTION_LIMIT: Duration = Duration::from_secs(120);
/// How long one that must end may take for the answer it is at.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);
/// The longest head of a request, in bytes.
const MAX_HEAD_LEN: usize = 16 << 10;
/// How often an address that cannot be had is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Serves for ever, or waits for ever where it is off. That the port is in use is a fault in the status, and no reason to
/// end: traffic does not hang on it.
pub(crate) async fn run(core: &Arc<Core>) -> Infallible {
    let Some(address) = core.settings.http else { return std::future::pending().await };
    if !address.ip().is_loopback() {
        warn!(%address, "HTTP is served to others than this host: names, addresses and traffic can be seen by who reaches it");
    }
    let listener = listen(core, address).await;
    serve(listener, answer::router(Arc::clone(core))).await
}

async fn listen(core: &Core, address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                core.http_fault.set(None);
                info!(%address, "HTTP: health, metrics, live map");
                // It is set once: from here on this returns.
                let _ = core.http_at.set(address);
                return listener;
            }
            Err(error) => {
                let fault = format!(
                    "HTTP is not served, since {address} cannot be had ({error}): set HTTP to another address, or to off"
                );
                if core.http_fault.set(Some(fault.clone())) {
                    warn!("{fault}");
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn serve(listener: TcpListener, router: Router) -> Infallible {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return std::future::pending().await;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of files or memory, most likely: others need a moment to give some back.
                debug!(%error, "HTTP: connection not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, router).await {
                debug!(%error, "HTTP: connection ended");
            }
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, router: Router) -> Result<(), hyper::Error> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD_LEN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    if let Ok(ended) = tokio::time::timeout(CONNECTION_LIMIT, connection.as_mut()).await {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(FAREWELL_LIMIT, connection).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests;
