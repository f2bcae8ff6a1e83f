//! HTTP: from a request's bytes to an answer's, whatever happens in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE, HOST};
use axum::http::{HeaderValue, Method as HttpMethod, StatusCode};
use axum::response::Response;

use crate::answer::Answer;
use crate::driver::{CallError, Driver, Method};
use crate::{Backend, Engine, Scope};

/// The greatest request body that is read, in bytes. dockerd's are about 1 KiB.
pub const MAX_BODY_LEN: usize = 1 << 20;

/// How long dockerd waits for an answer at most. Below the 30 s after which dockerd itself hangs up without a text, and
/// needed because it waits for ever once it was restarted with the plugin enabled.
pub const CALL_LIMIT: Duration = Duration::from_secs(25);

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");

/// The driver as an axum router: every method of a libnetwork remote network driver, and an error for any other path.
///
/// A call runs to its end even when dockerd hangs up, and a panic in it is answered as an error.
pub fn router<B: Backend>(backend: B, scope: Scope) -> Router {
    Router::new().fallback(handle::<B>).with_state(Arc::new(Driver::new(backend, scope)))
}

fn failed(err: impl ToString) -> Answer {
    Answer::Failed { err: err.to_string() }
}

async fn handle<B: Backend>(State(driver): State<Arc<Driver<B>>>, request: Request) -> Response {
    let started = Instant::now();
    let path = request.uri().path().to_owned();
    // An absent header and one that is no text come from no dockerd.
    let engine = Engine::from_host(request.headers().get(HOST).and_then(|host| host.to_str().ok()));
    let (status, answer) = answer(Arc::clone(&driver), engine, request).await;
    let elapsed = started.elapsed();
    driver.answered(&path, elapsed, matches!(answer, Answer::Failed { .. }));
    match &answer {
        Answer::Failed { err } => {
            tracing::warn!(path, ?engine, ?elapsed, status = status.as_u16(), err, "call failed");
        }
        _ => tracing::debug!(path, ?engine, ?elapsed, "call"),
    }
    response(status, &answer)
}

async fn answer<B: Backend>(
    driver: Arc<Driver<B>>,
    engine: Engine,
    request: Request,
) -> (StatusCode, Answer) {
    let path = request.uri().path();
    let Some(method) = Method::from_path(path) else {
        let text =
            format!("{path:?} is not a call of a network driver, which is all that weft is to dockerd");
        return (StatusCode::NOT_FOUND, failed(text));
    };
    if request.method() != HttpMethod::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, failed("a call is made by POST"));
    }
    let body = match to_bytes(request.into_body(), MAX_BODY_LEN).await {
        Ok(body) => body,
        Err(error) => {
            let text = format!("a request has at most {MAX_BODY_LEN} bytes, all of which must come: {error}");
            return (StatusCode::PAYLOAD_TOO_LARGE, failed(text));
        }
    };
    // A task of its own: the server drops this future when dockerd hangs up, and a call must not stop halfway.
    let call = tokio::spawn(async move { driver.call(method, engine, &body).await });
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(Ok(Ok(answer))) => (StatusCode::OK, answer),
        Ok(Ok(Err(error @ CallError::Request(_)))) => (StatusCode::BAD_REQUEST, failed(error)),
        Ok(Ok(Err(error))) => (StatusCode::OK, failed(error)),
        Ok(Err(_)) => (StatusCode::INTERNAL_SERVER_ERROR, failed("weft met a bug in itself: see its log")),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            failed(format!("weft has not done this within {CALL_LIMIT:?} and goes on with it: try again")),
        ),
    }
}

fn response(status: StatusCode, answer: &Answer) -> Response {
    // Text and maps of text always have a JSON form.
    let json = serde_json::to_vec(answer).unwrap_or_else(|_| b"{}".to_vec());
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}
