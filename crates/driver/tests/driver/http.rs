//! Bytes, connections and time: what is not of the calls themselves.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::UnixStream;
use tower::ServiceExt;
use weft_driver::{CALL_LIMIT, MAX_BODY_LEN, Scope, bind_socket, serve};

use crate::fake::{Engine, NEWER, OLDER};

#[tokio::test]
async fn both_personalities_say_their_scope() {
    for (scope, name) in [(Scope::Global, "global"), (Scope::Local, "local")] {
        let engine = Engine::new(scope, OLDER);
        let (status, answer) = engine.send("/NetworkDriver.GetCapabilities", Body::empty()).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({ "Scope": name, "ConnectivityScope": name })));
        let (_, answer) = engine.send("/Plugin.Activate", Body::empty()).await;
        assert_eq!(answer, json!({ "Implements": ["NetworkDriver"] }));
    }
}

#[tokio::test]
async fn other_paths_and_methods_get_an_error_in_json() {
    let engine = Engine::new(Scope::Global, NEWER);
    for path in ["/IpamDriver.RequestPool", "/NetworkDriver.Nothing", "/", "/NetworkDriver.Join/"] {
        let (status, answer) = engine.send(path, "{}").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(answer["Err"].as_str().unwrap().contains(path), "{answer}");
    }
    let get = Request::get("/NetworkDriver.Join").body(Body::empty()).unwrap();
    let response = engine.router.clone().oneshot(get).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_body_is_wanted_up_to_a_limit() {
    let engine = Engine::new(Scope::Global, NEWER);
    let padded = |len: usize| {
        let json = r#"{"NetworkID":"n1"}"#;
        format!("{json}{}", " ".repeat(len - json.len()))
    };
    let (status, _) = engine.send("/NetworkDriver.DeleteNetwork", padded(MAX_BODY_LEN)).await;
    assert_eq!(status, StatusCode::OK);
    let (status, answer) = engine.send("/NetworkDriver.DeleteNetwork", padded(MAX_BODY_LEN + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer["Err"].as_str().unwrap().contains("1048576"), "{answer}");
    let (status, answer) = engine.send("/NetworkDriver.DeleteNetwork", Body::empty()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["Err"].as_str().unwrap().contains("no body"), "{answer}");
}

#[tokio::test]
async fn a_panic_is_answered_and_survived() {
    let engine = Engine::new(Scope::Global, NEWER);
    let ids = json!({ "NetworkID": "n1", "EndpointID": "e1" });
    engine.fake.with(|s| s.panic_in_leave = true);
    let (status, answer) = engine.send("/NetworkDriver.Leave", ids.to_string()).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer["Err"].as_str().unwrap().contains("bug"), "{answer}");
    engine.fake.with(|s| s.panic_in_leave = false);
    assert_eq!(engine.call("Leave", ids).await, json!({}));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_answered_in_time_and_goes_on() {
    let engine = Engine::new(Scope::Global, NEWER);
    engine.call("CreateNetwork", json!({ "NetworkID": "n1" })).await;
    let permit = engine.fake.gate.acquire().await.unwrap();
    let started = tokio::time::Instant::now();
    let (status, answer) = engine.send("/NetworkDriver.DeleteNetwork", r#"{"NetworkID":"n1"}"#).await;
    assert_eq!(
        (status, started.elapsed().as_secs()),
        (StatusCode::INTERNAL_SERVER_ERROR, CALL_LIMIT.as_secs())
    );
    assert!(answer["Err"].as_str().unwrap().contains("25s"), "{answer}");
    drop(permit);
    gone(&engine).await;
}

/// Waits for the network to be deleted by a call that nobody waits for.
async fn gone(engine: &Engine) {
    let deleted = async {
        while engine.fake.with(|s| !s.networks.is_empty()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), deleted).await.expect("the call was not finished");
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn connect(path: &std::path::Path) -> (Sender, tokio::task::JoinHandle<()>) {
    let stream = TokioIo::new(UnixStream::connect(path).await.unwrap());
    let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    (sender, tokio::spawn(async move { drop(connection.await) }))
}

fn post(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "").body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
}

#[tokio::test]
async fn over_a_socket_one_connection_serves_many_calls_and_a_lost_one_stops_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.sock");
    let engine = Engine::new(Scope::Global, OLDER);
    let server = tokio::spawn(serve(bind_socket(&path).unwrap(), engine.router.clone()));

    let (mut sender, connection) = connect(&path).await;
    for _ in 0..3 {
        let response =
            sender.send_request(post("/NetworkDriver.CreateNetwork", r#"{"NetworkID":"n1"}"#)).await;
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
        sender.ready().await.unwrap();
    }

    let permit = engine.fake.gate.acquire().await.unwrap();
    let call = tokio::spawn(async move {
        sender.send_request(post("/NetworkDriver.DeleteNetwork", r#"{"NetworkID":"n1"}"#)).await.map(drop)
    });
    while engine.fake.n_at_gate.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    connection.abort();
    call.abort();
    drop((connection.await, call.await));
    drop(permit);
    gone(&engine).await;
    server.abort();
}
