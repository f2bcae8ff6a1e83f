//! The client side of the control API, and where to find a daemon.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{
    BenchRequest, CaptureRequest, EndCapture, ErrorAnswer, MtuAnswer, MtuRequest, Order, OrderAnswer,
    PingAnswer, PingRequest, RouteStatus, SecretAnswer, SecretRequest, Status,
};

/// Where the daemon serves the control API, unless it is a managed plugin.
pub const DEFAULT_SOCKET: &str = "/run/weft/control.sock";
/// Environment variable that names a socket.
pub const SOCKET_ENV: &str = "WEFT_SOCKET";
/// The socket's name in the directory that a managed plugin shares with its host: `/run/docker/plugins/<id>/`.
pub const PLUGIN_SOCKET_NAME: &str = "weft-control.sock";

/// The longest that a call takes; joining waits for another host.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// The longest answer that is read, in bytes: a status with some hundred thousand endpoints.
const MAX_ANSWER_LEN: usize = 64 << 20;

/// Why a call has no answer. Before `Status` and `Answer`, the daemon may or may not have done what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing listens at the socket, or it may not be opened.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon broke the connection off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("the daemon does not answer")]
    Slow,
    /// The daemon refused, and says why.
    #[error("{0}")]
    Refused(String),
    /// The answer is not of this API: another version of the daemon, or not weft.
    #[error("the daemon's answer is not understood: is it of another version?")]
    Answer(#[source] serde_json::Error),
}

/// Why no daemon was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// Nothing answered anywhere.
    #[error("no weft daemon answers on this host; looked at: {}", list(tried))]
    NotFound {
        /// Every place that was looked at, and what was there.
        tried: Vec<(PathBuf, String)>,
    },
    /// Several plugins answer; one must be named.
    #[error(
        "several weft daemons answer on this host; name one with --socket or {SOCKET_ENV}: {}",
        paths(found)
    )]
    Several {
        /// Their sockets.
        found: Vec<PathBuf>,
    },
}

fn list(tried: &[(PathBuf, String)]) -> String {
    tried.iter().map(|(path, what)| format!("{} ({what})", path.display())).collect::<Vec<_>>().join(", ")
}

fn paths(found: &[PathBuf]) -> String {
    found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Where [`Client::discover_in`] looks, in this order. The first that is set or answers is taken.
#[derive(Debug, Clone)]
pub struct SearchPlaces {
    /// Given by the operator (`--socket`): the only place when set.
    pub socket: Option<PathBuf>,
    /// From the environment: the only place when set, and `socket` is not.
    pub env: Option<OsString>,
    /// The daemon's own.
    pub default: PathBuf,
    /// The directory in which managed plugins have one each.
    pub plugins: PathBuf,
}

impl SearchPlaces {
    /// The places of a real host.
    #[must_use]
    pub fn of_host(socket: Option<PathBuf>) -> Self {
        Self {
            socket,
            env: std::env::var_os(SOCKET_ENV).filter(|value| !value.is_empty()),
            default: DEFAULT_SOCKET.into(),
            plugins: "/run/docker/plugins".into(),
        }
    }
}

/// A way to one daemon. Each call makes a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon that serves `socket`, whether it runs or not.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Finds the daemon of this host: see [`SearchPlaces`]. `socket` is what the operator named, if anything.
    ///
    /// # Errors
    /// See [`DiscoverError`]; its text says where was looked.
    pub async fn discover(socket: Option<PathBuf>) -> Result<Self, DiscoverError> {
        Self::discover_in(&SearchPlaces::of_host(socket)).await
    }

    /// [`discover`](Self::discover), in other places.
    ///
    /// # Errors
    /// See [`DiscoverError`].
    pub async fn discover_in(places: &SearchPlaces) -> Result<Self, DiscoverError> {
        let named = places.socket.clone().or_else(|| places.env.clone().map(PathBuf::from));
        let mut tried = Vec::new();
        let first = named.clone().unwrap_or_else(|| places.default.clone());
        match probe(&first).await {
            Ok(()) => return Ok(Self::new(first)),
            Err(problem) => tried.push((first, problem)),
        }
        if named.is_some() {
            return Err(DiscoverError::NotFound { tried });
        }

        let candidates = plugin_sockets(&places.plugins);
        if candidates.is_empty() {
            tried.push((places.plugins.join("*").join(PLUGIN_SOCKET_NAME), "no such file".to_owned()));
        }
        let mut found = Vec::new();
        for candidate in candidates {
            match probe(&candidate).await {
                Ok(()) => found.push(candidate),
                Err(problem) => tried.push((candidate, problem)),
            }
        }
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(Self::new(only)),
            (Some(last), false) => {
                found.push(last);
                Err(DiscoverError::Several { found })
            }
            (None, _) => Err(DiscoverError::NotFound { tried }),
        }
    }

    /// The daemon's state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// The cluster secret.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn secret(&self) -> Result<SecretAnswer, ClientError> {
        self.call(Method::GET, "/v1/secret", Bytes::new()).await
    }

    /// Sets the cluster secret.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_secret(&self, request: &SecretRequest) -> Result<SecretAnswer, ClientError> {
        self.call(Method::POST, "/v1/secret", json(request)?).await
    }

    /// Has an order carried out.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn order(&self, order: &Order) -> Result<OrderAnswer, ClientError> {
        self.call(Method::POST, "/v1/orders", json(order)?).await
    }

    /// Asks a peer for one echo.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ping(&self, request: &PingRequest) -> Result<PingAnswer, ClientError> {
        self.call(Method::POST, "/v1/ping", json(request)?).await
    }

    /// Where forwarding sends what.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn routes(&self) -> Result<Vec<RouteStatus>, ClientError> {
        self.call(Method::GET, "/v1/routes", Bytes::new()).await
    }

    /// What the path to a peer carries.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn mtu(&self, request: &MtuRequest) -> Result<MtuAnswer, ClientError> {
        self.call(Method::POST, "/v1/mtu", json(request)?).await
    }

    /// Begins a capture; what comes is a pcapng file.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn capture(&self, request: &CaptureRequest) -> Result<Answering, ClientError> {
        self.begin("/v1/capture", json(request)?).await
    }

    /// Ends a capture well, so that its file is whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn end_capture(&self, capture: u64) -> Result<(), ClientError> {
        self.call(Method::POST, "/v1/capture/end", json(&EndCapture { capture })?).await
    }

    /// Begins a measurement; what comes are lines, a [`BenchLine`](crate::BenchLine) each.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn bench(&self, request: &BenchRequest) -> Result<Answering, ClientError> {
        self.begin("/v1/bench", json(request)?).await
    }

    /// Asks for what goes on for a while; only its begin must come in time.
    async fn begin(&self, path: &str, body: Bytes) -> Result<Answering, ClientError> {
        let begun = async {
            let (mut sender, connection) = self.connect().await?;
            let connection = tokio::spawn(async move {
                // Its errors are told to the body as well.
                let _ = connection.await;
            });
            let answering = |body| Answering { body, connection };
            let response = sender.send_request(request(Method::POST, path, body)?).await.map_err(broken)?;
            let (status, mut answer) = (response.status(), answering(response.into_body()));
            if status.is_success() {
                return Ok(answer);
            }
            let mut text = Vec::new();
            while let Some(piece) = answer.next().await {
                text.extend(piece?);
                if text.len() > MAX_ANSWER_LEN {
                    break;
                }
            }
            Err(refusal(&text))
        };
        tokio::time::timeout(CALL_LIMIT, begun).await.map_err(|_| ClientError::Slow)?
    }

    /// Any other JSON that is served at the socket: dockerd's too.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(CALL_LIMIT, self.exchange(method, path, body))
            .await
            .map_err(|_| ClientError::Slow)?
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (mut sender, connection) = self.connect().await?;
        let request = request(method, path, body)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_LEN).collect().await;
            Ok((status, body.map_err(ClientError::Broken)?.to_bytes()))
        };
        // The connection does the work of both; its own errors are told to the answer as well.
        tokio::pin!(connection, answer);
        let (status, body) = tokio::select! {
            answer = &mut answer => answer?,
            _ = &mut connection => answer.await?,
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(ClientError::Answer);
        }
        Err(refusal(&body))
    }

    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, Connected), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { path: self.socket.clone(), source })?;
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)
    }
}

type Connected = hyper::client::conn::http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// An answer that goes on for a while. Dropping it hangs up, which ends what it tells of.
#[derive(Debug)]
pub struct Answering {
    body: Incoming,
    connection: tokio::task::JoinHandle<()>,
}

impl Answering {
    /// The next piece, as it came; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        loop {
            match self.body.frame().await?.map_err(broken) {
                Err(error) => return Some(Err(error)),
                // Trailers are of no use here.
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
            }
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Broken(error.into())
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "weft")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::Broken(error.into()))
}

fn refusal(body: &[u8]) -> ClientError {
    match serde_json::from_slice(body) {
        Ok(ErrorAnswer { error }) => ClientError::Refused(error),
        Err(error) => ClientError::Answer(error),
    }
}

fn json(value: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(ClientError::Answer)
}

/// Whether something listens; if not, why, for people.
async fn probe(socket: &Path) -> Result<(), String> {
    match UnixStream::connect(socket).await {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => "no such file".to_owned(),
            io::ErrorKind::ConnectionRefused => "nothing listens: the daemon has ended".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied: run as root".to_owned(),
            _ => error.to_string(),
        }),
    }
}

/// In the order of the plugins' ids. A directory that cannot be read has none.
fn plugin_sockets(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sockets: Vec<_> = entries
        .map(|entry| entry.path().join(PLUGIN_SOCKET_NAME))
        // Seen from inside a plugin, its own directory is this one.
        .chain([dir.join(PLUGIN_SOCKET_NAME)])
        .filter(|socket| fs::symlink_metadata(socket).is_ok())
        .collect();
    sockets.sort();
    sockets
}
