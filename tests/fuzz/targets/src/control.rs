//! The control API, both ways: requests at the daemon, a daemon's status at the command line.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use weft_api::{
    BenchRequest, CaptureRequest, Control, ControlError, EndCapture, MtuAnswer, MtuRequest, Order,
    OrderAnswer, Pieces, PingAnswer, PingRequest, ProbeCounts, RouteStatus, SearchState, SecretAnswer,
    SecretRequest, Status, render_status, router,
};

use crate::state::survives;
use crate::web::{ask, block_on};

struct Yes;

impl Control for Yes {
    async fn status(&self) -> Status {
        unreachable!("a status is not asked for")
    }

    async fn secret(&self) -> Result<SecretAnswer, ControlError> {
        Err(ControlError::Refused("there is none".into()))
    }

    async fn set_secret(&self, request: SecretRequest) -> Result<SecretAnswer, ControlError> {
        survives(&request);
        assert!(!is_shown(&request), "Debug shows a secret");
        Ok(SecretAnswer { fingerprint: "00000000".to_owned(), secret: None })
    }

    async fn order(&self, order: Order) -> Result<OrderAnswer, ControlError> {
        survives(&order);
        Ok(OrderAnswer::default())
    }

    async fn capture(&self, request: CaptureRequest) -> Result<Pieces, ControlError> {
        survives(&request);
        Ok(Pieces::new().1)
    }

    async fn end_capture(&self, request: EndCapture) -> Result<(), ControlError> {
        survives(&request);
        Ok(())
    }

    async fn bench(&self, request: BenchRequest) -> Result<Pieces, ControlError> {
        survives(&request);
        Ok(Pieces::new().1)
    }

    async fn ping(&self, request: PingRequest) -> Result<PingAnswer, ControlError> {
        survives(&request);
        Ok(PingAnswer { id: String::new(), name: request.peer, address: None, path: None, rtt_us: None })
    }

    async fn routes(&self) -> Result<Vec<RouteStatus>, ControlError> {
        Ok(Vec::new())
    }

    async fn mtu(&self, request: MtuRequest) -> Result<MtuAnswer, ControlError> {
        survives(&request);
        Ok(MtuAnswer {
            id: String::new(),
            name: request.peer,
            path: None,
            via: None,
            address: None,
            state: SearchState::Disabled,
            path_mtu: 0,
            underlay_mtu: None,
            overhead: None,
            base: 0,
            ceiling: 0,
            failed: Vec::new(),
            waiting: Vec::new(),
            probes: ProbeCounts::default(),
            now: ProbeCounts::default(),
            networks: Vec::new(),
            max_overlay_mtu: None,
        })
    }
}

/// Whether what `Debug` prints depends on the secret. Whether it holds the secret's text would not do: the text may be one
/// that is printed whatever the secret.
fn is_shown(request: &SecretRequest) -> bool {
    let other = serde_json::from_str::<SecretRequest>(r#"{"secret": "another"}"#).ok();
    match request {
        SecretRequest::Join(_) => other.is_none_or(|other| format!("{request:?}") != format!("{other:?}")),
        SecretRequest::Generate => false,
    }
}

/// The control API. Input: a byte that says what (`o` an order, `p` a ping, `s` a secret, `m` an MTU, anything else a
/// status), and JSON.
pub fn control(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    let path = match which {
        b'o' => "/v1/orders",
        b'p' => "/v1/ping",
        b's' => "/v1/secret",
        b'm' => "/v1/mtu",
        _ => {
            if let Ok(status) = serde_json::from_slice::<Status>(body) {
                survives(&status);
                assert!(render_status(&status).ends_with('\n'));
            }
            return;
        }
    };
    let request = Request::post(path).body(Body::from(body.to_vec())).expect("the request is well formed");
    let (status, answer) = block_on(ask(&router(Arc::new(Yes)), request));
    match status {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST => {
            assert!(answer["error"].as_str().is_some_and(|text| !text.is_empty() && !text.contains('\n')));
        }
        _ => panic!("{path}: {status} {answer}"),
    }
}
