//! The server side of the control API.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{
    BenchRequest, CaptureRequest, EndCapture, MtuAnswer, MtuRequest, Order, OrderAnswer, Pieces, PingAnswer,
    PingRequest, RouteStatus, SecretAnswer, SecretRequest, Status,
};

/// A request body's greatest length in bytes: a secret, and room.
const MAX_BODY_LEN: usize = 64 << 10;

/// The body of every answer with a status of 400 or above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// One line for people.
    pub error: String,
}

/// Why a daemon does not do what it was asked to, shown with all its causes. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// What was asked is not acceptable, and why (HTTP 422). The operator's to correct.
    #[error("{}", with_causes(.0.as_ref()))]
    Refused(Box<dyn std::error::Error + Send + Sync>),
    /// It could not be done (HTTP 500): the machine's fault.
    #[error("{}", with_causes(.0.as_ref()))]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// An error and what caused it, in one line: the answer is all that the client gets.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What a daemon lets itself be asked. Calls come at the same time.
pub trait Control: Send + Sync + 'static {
    /// The state at this moment.
    fn status(&self) -> impl Future<Output = Status> + Send;

    /// The cluster secret, for the operator to give to another host.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when there is none.
    fn secret(&self) -> impl Future<Output = Result<SecretAnswer, ControlError>> + Send;

    /// Sets the cluster secret, durably: when this returns well, it survives a restart.
    ///
    /// # Errors
    /// See [`ControlError`].
    fn set_secret(
        &self,
        request: SecretRequest,
    ) -> impl Future<Output = Result<SecretAnswer, ControlError>> + Send;

    /// Carries out an order.
    ///
    /// # Errors
    /// See [`ControlError`].
    fn order(&self, order: Order) -> impl Future<Output = Result<OrderAnswer, ControlError>> + Send;

    /// Asks a peer for one echo. That none comes is an answer, not an error.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when no such peer is known, or the daemon carries no traffic.
    fn ping(&self, request: PingRequest) -> impl Future<Output = Result<PingAnswer, ControlError>> + Send;

    /// Where forwarding sends what, at this moment.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when the daemon carries no traffic.
    fn routes(&self) -> impl Future<Output = Result<Vec<RouteStatus>, ControlError>> + Send;

    /// What the path to a peer carries. That it is not known is an answer, not an error.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when no such peer is known, or the daemon carries no traffic.
    fn mtu(&self, request: MtuRequest) -> impl Future<Output = Result<MtuAnswer, ControlError>> + Send;

    /// Begins to hand out copies of frames as pcapng. It goes on until a limit is reached, it is told to end, or the pieces
    /// are dropped.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when no such network or peer is known, too many captures are under way, or the daemon
    /// carries no traffic.
    fn capture(&self, request: CaptureRequest) -> impl Future<Output = Result<Pieces, ControlError>> + Send;

    /// Ends a capture well.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when there is none of this number.
    fn end_capture(&self, request: EndCapture) -> impl Future<Output = Result<(), ControlError>> + Send;

    /// Begins to measure the throughput to and from a peer. It goes on until it is done or the pieces, of which each is a
    /// [`BenchLine`](crate::BenchLine) and a line feed, are dropped.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when no such peer is known, another measurement is under way, or the daemon carries no
    /// traffic.
    fn bench(&self, request: BenchRequest) -> impl Future<Output = Result<Pieces, ControlError>> + Send;
}

const CALLS: &str = "there are GET /v1/status, GET and POST /v1/secret, POST /v1/orders, POST /v1/ping, \
                     GET /v1/routes, POST /v1/mtu, POST /v1/capture, POST /v1/capture/end, POST /v1/bench";

/// The control API as an axum router. Whoever can open the socket can ask: give it mode 0600.
pub fn router<C: Control>(control: Arc<C>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<C>))
        .route("/v1/secret", get(secret::<C>).post(set_secret::<C>))
        .route("/v1/orders", post(order::<C>))
        .route("/v1/ping", post(ping::<C>))
        .route("/v1/routes", get(routes::<C>))
        .route("/v1/mtu", post(mtu::<C>))
        .route("/v1/capture", post(capture::<C>))
        .route("/v1/capture/end", post(end_capture::<C>))
        .route("/v1/bench", post(bench::<C>))
        .fallback(async || error(StatusCode::NOT_FOUND, format!("no such call: {CALLS}")))
        .method_not_allowed_fallback(async || error(StatusCode::METHOD_NOT_ALLOWED, CALLS))
        .layer(DefaultBodyLimit::max(MAX_BODY_LEN))
        .with_state(control)
}

fn error(status: StatusCode, text: impl ToString) -> Response {
    // serde quotes the request's own bytes, and the text goes to a terminal.
    let error = text.to_string().replace(char::is_control, " ");
    (status, Json(ErrorAnswer { error })).into_response()
}

async fn status<C: Control>(State(control): State<Arc<C>>) -> Response {
    Json(control.status().await).into_response()
}

/// Hands the request in a body to `then`; `what` it is to be stands in the error.
async fn with_request<Q: DeserializeOwned, F: Future<Output = Response>>(
    body: Bytes,
    what: &str,
    then: impl FnOnce(Q) -> F,
) -> Response {
    match serde_json::from_slice(&body) {
        Ok(request) => then(request).await,
        // serde_json's messages hold no values of string fields of the expected type, so no secret.
        Err(problem) => error(StatusCode::BAD_REQUEST, format!("not {what}: {problem}")),
    }
}

async fn set_secret<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Response {
    with_request(body, "a request for a secret", |request| {
        answer(async move { control.set_secret(request).await })
    })
    .await
}

async fn secret<C: Control>(State(control): State<Arc<C>>) -> Response {
    answer(async move { control.secret().await }).await
}

async fn order<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Response {
    with_request(body, "an order", |order| answer(async move { control.order(order).await })).await
}

async fn ping<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Response {
    with_request(body, "a request for a ping", |request| answer(async move { control.ping(request).await }))
        .await
}

async fn routes<C: Control>(State(control): State<Arc<C>>) -> Response {
    answer(async move { control.routes().await }).await
}

async fn mtu<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Response {
    with_request(body, "a question for an MTU", |request| answer(async move { control.mtu(request).await }))
        .await
}

async fn capture<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Response {
    with_request(body, "a request for a capture", async |request| {
        pieces("application/x-pcapng", control.capture(request).await)
    })
    .await
}

async fn end_capture<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Response {
    with_request(body, "an end of a capture", |request| {
        answer(async move { control.end_capture(request).await })
    })
    .await
}

async fn bench<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Response {
    with_request(body, "a request for a bench", async |request| {
        pieces("application/x-ndjson", control.bench(request).await)
    })
    .await
}

/// An answer that goes on. The call has no task of its own: a client that hangs up wants no more of it.
fn pieces(kind: &'static str, result: Result<Pieces, ControlError>) -> Response {
    match result {
        Ok(pieces) => ([(CONTENT_TYPE, kind)], Body::new(pieces)).into_response(),
        Err(problem) => failure(&problem),
    }
}

/// Answers a call, in a task of its own: a client that hangs up must not stop it halfway.
async fn answer<T: Serialize + Send + 'static>(
    call: impl Future<Output = Result<T, ControlError>> + Send + 'static,
) -> Response {
    match tokio::spawn(call).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(problem)) => failure(&problem),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "weft met a bug in itself: see its log"),
    }
}

fn failure(problem: &ControlError) -> Response {
    let status = match problem {
        ControlError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    error(status, problem)
}
