//! Every request that two engines sent, replayed.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use weft_driver::Scope;

use crate::fake::{Engine, NEWER, OLDER};

const TRACES: [(&str, &str, usize); 2] = [
    (OLDER, include_str!("../../testdata/requests-20.10.24.jsonl"), N_OLDER),
    (NEWER, include_str!("../../testdata/requests-29.7.2.jsonl"), N_NEWER),
];
const N_OLDER: usize = 516;
const N_NEWER: usize = 493;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Recorded {
    trace: String,
    node: String,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

pub(crate) fn recorded(text: &str) -> Vec<Recorded> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn all_recorded() -> Vec<Recorded> {
    TRACES.iter().flat_map(|(_, text, _)| recorded(text)).collect()
}

/// The structs into which dockerd decodes answers, with nothing beside what it knows.
mod go {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct Nothing {}

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct Failed {
        pub(super) err: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct Activate {
        pub(super) implements: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct Capabilities {
        pub(super) scope: String,
        pub(super) connectivity_scope: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct Allocate {
        #[serde(rename = "Options")]
        _options: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct GwAllocCheck {
        #[serde(rename = "SkipIPv4")]
        pub(super) skip_ipv4: bool,
        #[serde(rename = "SkipIPv6")]
        pub(super) skip_ipv6: bool,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct CreateEndpoint {
        pub(super) interface: Option<Interface>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct Interface {
        pub(super) mac_address: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct Info {
        #[serde(rename = "Value")]
        _value: BTreeMap<String, Value>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct Join {
        pub(super) interface_name: InterfaceName,
        #[serde(default)]
        pub(super) static_routes: Vec<StaticRoute>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct StaticRoute {
        pub(super) destination: String,
        pub(super) route_type: i64,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "PascalCase")]
    pub(super) struct InterfaceName {
        pub(super) src_name: String,
        pub(super) dst_prefix: String,
    }
}

fn of_form<T: for<'de> Deserialize<'de>>(answer: &Value) -> T {
    T::deserialize(answer).unwrap_or_else(|error| panic!("dockerd would not take {answer}: {error}"))
}

/// Panics when dockerd would not accept the answer; the error's text when it is one.
fn check(request: &Recorded, answer: &Value) -> Option<String> {
    if answer.get("Err").is_some() {
        let go::Failed { err } = of_form(answer);
        assert!(!err.is_empty());
        return Some(err);
    }
    match request.path.rsplit('.').next().unwrap() {
        "Activate" => assert_eq!(of_form::<go::Activate>(answer).implements, ["NetworkDriver"]),
        "GetCapabilities" => {
            let go::Capabilities { scope, connectivity_scope } = of_form(answer);
            assert!(scope == connectivity_scope && ["local", "global"].contains(&scope.as_str()));
        }
        "AllocateNetwork" => drop(of_form::<go::Allocate>(answer)),
        "GwAllocCheck" => {
            let go::GwAllocCheck { skip_ipv4, skip_ipv6 } = of_form(answer);
            assert!(!skip_ipv4 && !skip_ipv6);
        }
        "CreateEndpoint" => {
            let given = request.body.as_ref().unwrap()["Interface"]["MacAddress"].as_str().unwrap();
            let interface = of_form::<go::CreateEndpoint>(answer).interface;
            assert_eq!(interface.is_some(), given.is_empty(), "only what came empty may be answered");
            if let Some(go::Interface { mac_address }) = interface {
                let mac: weft_wire::Mac = mac_address.parse().unwrap();
                assert!(!mac.is_group());
            }
        }
        "EndpointOperInfo" => drop(of_form::<go::Info>(answer)),
        "Join" => {
            let go::Join { interface_name, static_routes } = of_form(answer);
            let go::InterfaceName { src_name, dst_prefix } = interface_name;
            let routes: Vec<_> =
                static_routes.iter().map(|r| (r.destination.as_str(), r.route_type)).collect();
            assert_eq!(routes, [("224.0.0.0/4", 1)]);
            assert!((1..=15).contains(&src_name.len()) && dst_prefix == "eth");
        }
        _ => drop(of_form::<go::Nothing>(answer)),
    }
    None
}

/// One daemon for each node of each trace; every request twice. Yields the errors by call.
async fn replay(
    host: &'static str,
    scope: Scope,
    requests: &[Recorded],
) -> BTreeMap<String, BTreeSet<String>> {
    let mut engines: BTreeMap<(String, String), Engine> = BTreeMap::new();
    let mut errors: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in requests {
        let engine = engines
            .entry((request.trace.clone(), request.node.clone()))
            .or_insert_with(|| Engine::new(scope, host));
        let body = request.body.as_ref().map(Value::to_string).unwrap_or_default();
        let (status, answer) = engine.send(&request.path, body.clone()).await;
        let again = engine.send(&request.path, body).await;
        assert_eq!(
            (status, &answer),
            (again.0, &again.1),
            "{} answers differently when repeated",
            request.path
        );
        let due = !["GetCapabilities", "Activate"].iter().any(|call| request.path.ends_with(call));
        if due && request.body.is_none() {
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(answer["Err"].as_str().unwrap().contains("no body"));
            continue;
        }
        assert_eq!(status, StatusCode::OK, "{}: {answer}", request.path);
        if let Some(text) = check(request, &answer) {
            errors.entry(request.path.clone()).or_default().insert(text);
        }
    }
    errors
}

/// The recording driver took any option; weft's own take their place, and connections have none.
fn with_known_options(mut requests: Vec<Recorded>) -> Vec<Recorded> {
    for request in &mut requests {
        let Some(options) = request.body.as_mut().and_then(|body| body["Options"].as_object_mut()) else {
            continue;
        };
        if request.path.ends_with("AllocateNetwork") {
            options.clear();
            options.insert("com.docker.network.driver.mtu".to_owned(), "1400".into());
        }
        options.retain(|name, _| name.starts_with("com.docker."));
        if let Some(generic) = options.get_mut("com.docker.network.generic") {
            *generic = serde_json::json!({ "com.docker.network.driver.mtu": "1400" });
        }
    }
    requests
}

#[tokio::test]
async fn every_recorded_request_is_answered_in_a_form_that_dockerd_takes() {
    for (host, text, n) in TRACES {
        let requests = recorded(text);
        assert_eq!(requests.len(), n);
        for scope in [Scope::Global, Scope::Local] {
            replay(host, scope, &requests).await;
        }
    }
}

#[tokio::test]
async fn in_swarm_unknown_options_are_refused_on_the_clean_call_only() {
    for ((host, text, _), clean) in
        TRACES.into_iter().zip(["/NetworkDriver.Join", "/NetworkDriver.CreateEndpoint"])
    {
        let errors = replay(host, Scope::Global, &recorded(text)).await;
        let by_option = |texts: &BTreeSet<String>| texts.iter().any(|text| text.starts_with("option "));
        let calls: Vec<_> =
            errors.iter().filter(|(_, texts)| by_option(texts)).map(|(call, _)| call).collect();
        assert_eq!(calls, [clean]);
    }
}

#[tokio::test]
async fn with_options_that_weft_knows_nothing_is_refused() {
    for (host, text, _) in TRACES {
        let requests = with_known_options(recorded(text));
        for scope in [Scope::Global, Scope::Local] {
            let errors = replay(host, scope, &requests).await;
            assert_eq!(errors, BTreeMap::new());
        }
    }
}
