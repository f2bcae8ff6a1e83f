//! Client and server over real sockets.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;
use tokio::sync::Notify;
use weft_api::{
    BenchRequest, CaptureRequest, Client, ClientError, Control, ControlError, DiscoverError, EndCapture,
    MtuAnswer, MtuRequest, Order, OrderAnswer, PLUGIN_SOCKET_NAME, Pieces, PingAnswer, PingRequest,
    RouteStatus, SearchPlaces, Secret, SecretAnswer, SecretRequest, Status, router,
};

#[derive(Default)]
struct Daemon {
    secret: Mutex<Option<Secret>>,
    /// The client of a capture has hung up.
    gone: Arc<Notify>,
}

impl Control for Daemon {
    async fn status(&self) -> Status {
        Status {
            version: "0.1.0".to_owned(),
            name: "host-a".to_owned(),
            peer_id: "00".repeat(16),
            suite: "AESGCM".to_owned(),
            secret_fingerprint: self.secret.lock().unwrap().as_ref().map(|_| "7c1f".to_owned()),
            ready: true,
            ..Status::default()
        }
    }

    async fn secret(&self) -> Result<SecretAnswer, ControlError> {
        let secret = self.secret.lock().unwrap().clone();
        let secret = secret.ok_or_else(|| ControlError::Refused("there is none".into()))?;
        Ok(SecretAnswer { fingerprint: "7c1f".to_owned(), secret: Some(secret) })
    }

    async fn set_secret(&self, request: SecretRequest) -> Result<SecretAnswer, ControlError> {
        let (secret, told) = match request {
            SecretRequest::Generate => (Secret::new("made".to_owned()), Some(Secret::new("made".to_owned()))),
            SecretRequest::Join(secret) if secret.expose().len() < 8 => {
                return Err(ControlError::Refused("a secret has at least 8 characters".into()));
            }
            SecretRequest::Join(secret) => (secret, None),
        };
        *self.secret.lock().unwrap() = Some(secret);
        Ok(SecretAnswer { fingerprint: "7c1f".to_owned(), secret: told })
    }

    async fn order(&self, order: Order) -> Result<OrderAnswer, ControlError> {
        match order {
            Order::PreferSecret => Ok(OrderAnswer { text: "preferred".to_owned(), ..OrderAnswer::default() }),
            _ => Err(ControlError::Refused("not that".into())),
        }
    }

    async fn routes(&self) -> Result<Vec<RouteStatus>, ControlError> {
        Ok(Vec::new())
    }

    async fn mtu(&self, request: MtuRequest) -> Result<MtuAnswer, ControlError> {
        Err(ControlError::Refused(format!("no peer is called `{}`", request.peer).into()))
    }

    async fn capture(&self, request: CaptureRequest) -> Result<Pieces, ControlError> {
        if request.of != ["host-b"] {
            return Err(ControlError::Refused("no such peer".into()));
        }
        let (sender, pieces) = Pieces::new();
        let gone = Arc::clone(&self.gone);
        tokio::spawn(async move {
            for piece in ["one", "two"] {
                sender.send(piece.into()).await.unwrap();
            }
            // Until the client hangs up.
            sender.closed().await;
            gone.notify_one();
        });
        Ok(pieces)
    }

    async fn end_capture(&self, request: EndCapture) -> Result<(), ControlError> {
        match request.capture {
            7 => Ok(()),
            other => Err(ControlError::Refused(format!("there is no capture {other}").into())),
        }
    }

    async fn bench(&self, request: BenchRequest) -> Result<Pieces, ControlError> {
        Err(ControlError::Refused(format!("no peer is called `{}`", request.peer).into()))
    }

    async fn ping(&self, request: PingRequest) -> Result<PingAnswer, ControlError> {
        let rtt_us = (request.peer == "host-b").then_some(412);
        Ok(PingAnswer { id: "00".repeat(16), name: request.peer, address: None, path: None, rtt_us })
    }
}

fn serve(path: &Path) -> tokio::task::JoinHandle<()> {
    serve_as(path, Daemon::default())
}

fn serve_as(path: &Path, daemon: Daemon) -> tokio::task::JoinHandle<()> {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move { axum::serve(listener, router(Arc::new(daemon))).await.unwrap() })
}

fn places(dir: &Path) -> SearchPlaces {
    SearchPlaces { socket: None, env: None, default: dir.join("control.sock"), plugins: dir.join("plugins") }
}

#[tokio::test]
async fn calls_over_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let _server = serve(&path);
    let client = Client::new(path);
    assert_eq!(client.status().await.unwrap().secret_fingerprint, None);

    let short = client.set_secret(&SecretRequest::Join(Secret::new("short".to_owned()))).await;
    assert!(matches!(short, Err(ClientError::Refused(text)) if text == "a secret has at least 8 characters"));
    assert_eq!(client.status().await.unwrap().secret_fingerprint, None);

    let made = client.set_secret(&SecretRequest::Generate).await.unwrap();
    assert_eq!(made.secret.unwrap().expose(), "made");
    let joined =
        client.set_secret(&SecretRequest::Join(Secret::new("long enough".to_owned()))).await.unwrap();
    assert_eq!(joined.secret, None);
    assert_eq!(client.status().await.unwrap().secret_fingerprint.as_deref(), Some("7c1f"));
    assert_eq!(client.order(&Order::PreferSecret).await.unwrap().text, "preferred");
    let request = |peer: &str| PingRequest { peer: peer.to_owned(), wait_ms: 1 };
    assert_eq!(client.ping(&request("host-b")).await.unwrap().rtt_us, Some(412));
    assert_eq!(client.ping(&request("host-c")).await.unwrap().rtt_us, None);
    assert_eq!(client.get::<Status>("/v1/status").await.unwrap().name, "host-a");
    assert_eq!(client.routes().await.unwrap(), []);
    let refused = client.mtu(&MtuRequest { peer: "host-c".to_owned(), probe: false }).await;
    assert!(matches!(refused, Err(ClientError::Refused(text)) if text.contains("host-c")));
    let refused = client.order(&Order::AddedSecret).await;
    assert!(matches!(refused, Err(ClientError::Refused(text)) if text == "not that"));
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_told_from_one_that_hangs_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    assert!(matches!(Client::new(path.clone()).status().await, Err(ClientError::Connect { .. })));
    let listener = UnixListener::bind(&path).unwrap();
    let hang_up = tokio::spawn(async move { drop(listener.accept().await) });
    assert!(matches!(Client::new(path).status().await, Err(ClientError::Broken(_))));
    hang_up.await.unwrap();
}

#[tokio::test]
async fn the_daemon_is_found_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut places = places(dir.path());
    let text = Client::discover_in(&places).await.unwrap_err().to_string();
    assert!(text.contains("control.sock") && text.contains(&format!("*/{PLUGIN_SOCKET_NAME}")), "{text}");

    let plugin = |id: &str| places.plugins.join(id).join(PLUGIN_SOCKET_NAME);
    let (first, second) = (plugin("aa"), plugin("bb"));
    let _first = serve(&first);
    assert_eq!(Client::discover_in(&places).await.unwrap().socket(), first);
    drop(UnixListener::bind(dir.path().join("control.sock")).unwrap());
    assert_eq!(Client::discover_in(&places).await.unwrap().socket(), first, "a dead socket is passed over");

    let _second = serve(&second);
    match Client::discover_in(&places).await {
        Err(DiscoverError::Several { found }) => assert_eq!(found, [first.clone(), second.clone()]),
        other => panic!("{other:?}"),
    }
    std::fs::remove_file(dir.path().join("control.sock")).unwrap();
    let _own = serve(&places.default);
    assert_eq!(Client::discover_in(&places).await.unwrap().socket(), places.default);
    places.env = Some(second.clone().into());
    assert_eq!(Client::discover_in(&places).await.unwrap().socket(), second);
    places.socket = Some(dir.path().join("nowhere.sock"));
    let text = Client::discover_in(&places).await.unwrap_err().to_string();
    assert!(text.contains("nowhere.sock (no such file)") && !text.contains("plugins"), "{text}");
}

#[tokio::test]
async fn what_goes_on_comes_in_pieces_until_the_client_hangs_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let daemon = Daemon::default();
    let gone = Arc::clone(&daemon.gone);
    let _server = serve_as(&path, daemon);
    let client = Client::new(path);
    let request = |of: &str| CaptureRequest {
        capture: 7,
        of: vec![of.to_owned()],
        snap_len: 64,
        max_frames: 1,
        max_len: 1,
        max_time_ms: 1,
    };
    let refused = client.capture(&request("host-c")).await;
    assert!(matches!(refused, Err(ClientError::Refused(text)) if text == "no such peer"));
    let mut answering = client.capture(&request("host-b")).await.unwrap();
    let mut text = Vec::new();
    while text.len() < 6 {
        text.extend(answering.next().await.unwrap().unwrap());
    }
    assert_eq!(text, b"onetwo");
    client.end_capture(7).await.unwrap();
    assert!(matches!(client.end_capture(8).await, Err(ClientError::Refused(text)) if text.contains('8')));
    drop(answering);
    gone.notified().await;
    let bench = client.bench(&BenchRequest { peer: "host-c".to_owned(), time_ms: 1, max_rate: None }).await;
    assert!(matches!(bench, Err(ClientError::Refused(text)) if text.contains("host-c")));
}
