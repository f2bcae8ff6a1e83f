//! Calling an axum router without a socket.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// The answer to `request`, which must be JSON.
pub(crate) async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, serde_json::Value) {
    let Ok(response) = router.clone().oneshot(request).await;
    let status = response.status();
    let body = response.into_body().collect().await.expect("an answer is made in memory").to_bytes();
    (status, serde_json::from_slice(&body).expect("every answer is JSON"))
}
