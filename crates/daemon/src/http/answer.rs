//! What is answered to which request.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH,
    REFERRER_POLICY, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rand::RngExt;
use tokio::sync::Mutex;
use weft_api::{Control, Status};

use crate::control::Controls;
use crate::core::Core;
use crate::metrics::{self, Process};

const PAGE: &str = include_str!("../../assets/map.html");
/// Where the page wants the nonce that its one script and one style sheet are allowed by.
const NONCE: &str = "NONCE";

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// How old a status may be: whoever asks more often costs nothing more.
const STATUS_AGE: Duration = Duration::from_millis(500);

const PATHS: &str = "there are /, /healthz, /readyz, /metrics and /v1/status\n";

/// What answers share.
pub(super) struct Shared {
    core: Arc<Core>,
    /// The last status, and when it was taken.
    last: Mutex<Option<(Instant, Arc<Status>)>>,
}

impl Shared {
    async fn status(&self) -> Arc<Status> {
        // Held while the status is taken, so that all who wait for it share one.
        let mut last = self.last.lock().await;
        if let Some((_, status)) = last.as_ref().filter(|(at, _)| at.elapsed() < STATUS_AGE) {
            return Arc::clone(status);
        }
        let status = Arc::new(Controls(Arc::clone(&self.core)).status().await);
        *last = Some((Instant::now(), Arc::clone(&status)));
        status
    }
}

pub(super) fn router(core: Arc<Core>) -> Router {
    let shared = Arc::new(Shared { core, last: Mutex::default() });
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(async || (StatusCode::OK, [(CONTENT_TYPE, PLAIN)], "ok\n")))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .fallback(async || (StatusCode::NOT_FOUND, [(CONTENT_TYPE, PLAIN)], PATHS))
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// Before everything else: whether the request may be answered at all.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let refusal = refuse(request.method(), request.headers(), &shared.core.name());
    let mut response = match refusal {
        Some((status, text)) => (status, [(CONTENT_TYPE, PLAIN)], text).into_response(),
        None => next.run(request).await,
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn refuse(method: &Method, headers: &HeaderMap, name: &str) -> Option<(StatusCode, &'static str)> {
    if ![Method::GET, Method::HEAD].contains(method) {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: nothing can be changed here\n"));
    }
    let has_body = headers.get(CONTENT_LENGTH).is_some_and(|len| len.as_bytes() != b"0");
    if has_body || headers.contains_key(TRANSFER_ENCODING) {
        return Some((StatusCode::PAYLOAD_TOO_LARGE, "a request has no body here\n"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() || !host.is_some_and(|host| is_own(host, name)) {
        let text = "ask by an IP address, by localhost or by this host's name: any other name in the Host header may be \
            another site's that points here\n";
        return Some((StatusCode::MISDIRECTED_REQUEST, text));
    }
    None
}

/// Whether a Host header can only be of someone who meant this host: no name that others could make point here.
fn is_own(host: &str, name: &str) -> bool {
    let host = match host.rsplit_once(':') {
        Some((before, port)) if port.parse::<u16>().is_ok() && !before.ends_with(':') => before,
        _ => host,
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || host.eq_ignore_ascii_case(name)
}

async fn page() -> Response {
    let nonce = format!("{:032x}", rand::rng().random::<u128>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    (
        [(CONTENT_TYPE, HTML.as_bytes()), (CONTENT_SECURITY_POLICY, policy.as_bytes())],
        PAGE.replace(NONCE, &nonce),
    )
        .into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let running = shared.core.running.load().is_some();
    let text = if running { "ready".to_owned() } else { shared.core.faults().join("\n") };
    let status = if running { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CONTENT_TYPE, PLAIN)], text + "\n").into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = metrics::render(&*shared.status().await, &shared.core.calls, &Process::now());
    ([(CONTENT_TYPE, METRICS)], text).into_response()
}

async fn status(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let Ok(json) = serde_json::to_vec(&*shared.status().await) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut hasher = DefaultHasher::new();
    json.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    ([(CONTENT_TYPE, JSON.as_bytes()), (ETAG, tag.as_bytes())], json).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_anothers_name_is_own() {
        for own in [
            "localhost",
            "localhost:6784",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.0.0.1:6784",
            "[::1]",
            "[::1]:6784",
            "10.0.0.1:6784",
            "host-a",
            "Host-A:6784",
        ] {
            assert!(is_own(own, "host-a"), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:6784",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "host-a.evil.example",
            "localhost:x",
            "127.0.0.1:6784:1",
            "[evil]",
            ":6784",
            "user@127.0.0.1",
        ] {
            assert!(!is_own(other, "host-a"), "{other}");
        }
    }

    #[test]
    fn the_page_is_of_one_piece() {
        for outside in ["http://", "https://", "//cdn", "@import", "url("] {
            let found: Vec<_> = PAGE.lines().filter(|line| line.contains(outside)).collect();
            // The name of SVG's elements is no address that is loaded.
            let loaded = found.iter().filter(|line| !line.contains("http://www.w3.org/2000/svg"));
            assert_eq!(loaded.count(), 0, "{outside}: {found:?}");
        }
        assert_eq!(PAGE.matches("nonce=\"NONCE\"").count(), 2, "one style sheet and one script");
        assert!(!PAGE.contains("innerHTML"), "names of peers and containers are text, never markup");
    }
}
