//! Over real sockets, with a daemon that has no secret yet.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_netlink::{FakeFirewall, FakeWiring};

use super::*;
use crate::settings::Settings;
use crate::store::Store;

/// A daemon's core, and the directory of its state.
fn core(settings: Settings) -> (Arc<Core>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let settings = Settings { name: Some("host-a".to_owned()), ..settings };
    let core = Core::new(settings, store, Box::new(FakeWiring::new()), Box::new(FakeFirewall::new()));
    (Arc::new(core.unwrap()), dir)
}

async fn start() -> (SocketAddr, Arc<Core>, tempfile::TempDir) {
    let (core, dir) = core(Settings::new(true));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = answer::router(Arc::clone(&core));
    tokio::spawn(async move { serve(listener, router).await });
    (address, core, dir)
}

/// What comes back for these bytes, until the server closes.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(address: SocketAddr, path: &str, more: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{more}\r\n")).await
}

#[tokio::test]
async fn health_is_of_the_process_and_readiness_of_traffic() {
    let (address, core, _dir) = start().await;
    assert!(get(address, "/healthz", "").await.starts_with("HTTP/1.1 200"));
    core.set_faults(vec!["no cluster secret".to_owned()]);
    let answer = get(address, "/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("no cluster secret"), "{answer}");
    let answer = get(address, "/metrics", "").await;
    assert!(answer.contains("text/plain; version=0.0.4") && answer.contains("\nweft_ready 0\n"), "{answer}");
}

#[tokio::test]
async fn the_status_is_sent_once_while_it_does_not_change() {
    let (address, _core, _dir) = start().await;
    let answer = get(address, "/v1/status", "").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status: weft_api::Status = serde_json::from_str(body).unwrap();
    assert_eq!((status.name.as_str(), status.ready), ("host-a", false));
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let again = get(address, "/v1/status", &format!("if-none-match: {tag}\r\n")).await;
    assert!(again.starts_with("HTTP/1.1 304"), "{again}");
    let other = get(address, "/v1/status", "if-none-match: \"0\"\r\n").await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
}

#[tokio::test]
async fn the_page_allows_nothing_but_itself() {
    let (address, _core, _dir) = start().await;
    let answer = get(address, "/", "").await;
    let policy = answer.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert_eq!(nonce.len(), 32);
    assert_eq!(answer.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "{policy}");
    assert!(!get(address, "/", "").await.contains(nonce), "a nonce is used once");
    for header in ["x-frame-options: DENY", "x-content-type-options: nosniff", "referrer-policy: no-referrer"]
    {
        assert!(answer.contains(header), "{header}");
    }
}

#[tokio::test]
async fn what_could_change_or_trick_is_refused() {
    let (address, _core, _dir) = start().await;
    let close = "connection: close\r\n\r\n";
    for (request, status) in [
        (format!("GET /v1/status HTTP/1.1\r\nhost: evil.example\r\n{close}"), "421"),
        (format!("GET /v1/status HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n{close}"), "421"),
        (format!("GET /v1/status HTTP/1.1\r\n{close}"), "421"),
        (format!("POST /v1/status HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n{close}"), "405"),
        (format!("DELETE /v1/orders HTTP/1.1\r\nhost: localhost\r\n{close}"), "405"),
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx".to_owned(),
            "413",
        ),
        (format!("GET /v1/secret HTTP/1.1\r\nhost: localhost\r\n{close}"), "404"),
        (format!("GET /../etc/passwd HTTP/1.1\r\nhost: localhost\r\n{close}"), "404"),
        (format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n{close}", "y".repeat(MAX_HEAD_LEN)), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = ask(address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    let head = ask(address, &format!("HEAD /v1/status HTTP/1.1\r\nhost: localhost\r\n{close}")).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn an_address_in_use_is_a_fault_until_it_is_free() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = holder.local_addr().unwrap();
    let (core, _dir) = core(Settings { http: Some(address), ..Settings::new(true) });
    let server = {
        let core = Arc::clone(&core);
        tokio::spawn(async move { run(&core).await })
    };
    let until = async |done: &dyn Fn(&Core) -> bool| {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while !done(&core) {
            look.tick().await;
        }
    };
    until(&|core| core.http_fault.get().is_some_and(|fault| fault.contains(&address.to_string()))).await;
    assert!(core.http_at.get().is_none());
    drop(holder);
    until(&|core| core.http_at.get() == Some(&address) && core.http_fault.get().is_none()).await;
    assert!(get(address, "/healthz", "").await.starts_with("HTTP/1.1 200"));
    server.abort();
}
