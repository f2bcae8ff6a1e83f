//! Whatever comes in, something readable goes out.

use axum::http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};
use weft_driver::{Scope, paths};

use crate::fake::{Engine, NEWER, OLDER};
use crate::golden::all_recorded;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[0-9a-f:./]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[A-Za-z.]{1,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// Puts `value` in place of the `at`-th node of `tree`, counted from its leaves to its root.
fn replace(tree: &mut Value, at: &mut usize, value: &Value) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, at, value)),
        Value::Object(map) => map.values_mut().for_each(|item| replace(item, at, value)),
        _ => {}
    }
    if *at == 0 {
        *tree = value.clone();
    }
    *at = at.wrapping_sub(1);
}

fn answers_readably(path: &str, body: &[u8]) -> Result<StatusCode, TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut seen = StatusCode::OK;
    for (scope, host) in [(Scope::Global, OLDER), (Scope::Global, NEWER), (Scope::Local, NEWER)] {
        let engine = Engine::new(scope, host);
        let (status, answer) = runtime.block_on(engine.send(path, body.to_vec()));
        prop_assert!(status == StatusCode::OK || status == StatusCode::BAD_REQUEST, "{} {}", status, answer);
        if status != StatusCode::OK {
            prop_assert!(answer["Err"].as_str().is_some_and(|text| text.len() > 10), "{}", answer);
        }
        seen = status;
    }
    Ok(seen)
}

proptest! {
    #[test]
    fn bytes(path in prop::sample::select(paths().to_vec()), body in prop::collection::vec(any::<u8>(), 0..200)) {
        answers_readably(path, &body)?;
    }

    #[test]
    fn any_json_value(path in prop::sample::select(paths().to_vec()), body in any_json()) {
        answers_readably(path, body.to_string().as_bytes())?;
    }

    #[test]
    fn recorded_requests_with_one_node_replaced(
        request in prop::sample::select(all_recorded()),
        at in 0_usize..24,
        value in any_json(),
    ) {
        let mut body = request.body.unwrap_or_default();
        replace(&mut body, &mut { at }, &value);
        answers_readably(&request.path, body.to_string().as_bytes())?;
    }

    #[test]
    fn recorded_requests_cut_short(request in prop::sample::select(all_recorded()), cut in 1_usize..40) {
        let body = request.body.unwrap_or_else(|| json!({ "NetworkID": "n" })).to_string();
        let status = answers_readably(&request.path, &body.as_bytes()[..body.len().saturating_sub(cut)])?;
        let takes_nothing = ["/Plugin.Activate", "/NetworkDriver.GetCapabilities"].contains(&request.path.as_str());
        prop_assert_eq!(status == StatusCode::OK, takes_nothing);
    }
}
