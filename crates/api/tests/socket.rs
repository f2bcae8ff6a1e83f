//! Client and server over real sockets.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;
use weft_api::{
    Client, ClientError, Control, ControlError, DiscoverError, Order, OrderAnswer, PLUGIN_SOCKET_NAME,
    PingAnswer, PingRequest, SearchPlaces, Secret, SecretAnswer, SecretRequest, Status, router,
};

#[derive(Default)]
struct Daemon {
    secret: Mutex<Option<Secret>>,
}

impl Control for Daemon {
    async fn status(&self) -> Status {
        Status {
            version: "0.1.0".to_owned(),
            name: "host-a".to_owned(),
            peer_id: "00".repeat(16),
            listen: Vec::new(),
            suite: "AESGCM".to_owned(),
            secret_fingerprint: self.secret.lock().unwrap().as_ref().map(|_| "7c1f".to_owned()),
            ready: true,
            faults: Vec::new(),
            peers: Vec::new(),
            refused: Vec::new(),
            judged: Vec::new(),
            networks: Vec::new(),
            services: Vec::new(),
            services_state: String::new(),
            service_faults: Vec::new(),
            endpoints: Vec::new(),
            http: None,
            max_overlay_mtu: None,
            checks: Vec::new(),
            duplicates: Vec::new(),
            counters: [].into(),
            drops: [].into(),
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

    async fn ping(&self, request: PingRequest) -> Result<PingAnswer, ControlError> {
        let rtt_us = (request.peer == "host-b").then_some(412);
        Ok(PingAnswer { id: "00".repeat(16), name: request.peer, address: None, path: None, rtt_us })
    }
}

fn serve(path: &Path) -> tokio::task::JoinHandle<()> {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move { axum::serve(listener, router(Arc::new(Daemon::default()))).await.unwrap() })
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
