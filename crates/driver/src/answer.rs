//! dockerd's answers as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    #[serde(rename_all = "PascalCase")]
    Activated {
        implements: [&'static str; 1],
    },
    #[serde(rename_all = "PascalCase")]
    Capabilities {
        scope: String,
        connectivity_scope: String,
    },
    #[serde(rename_all = "PascalCase")]
    Allocated {
        options: BTreeMap<String, String>,
    },
    GatewayAllocation {
        #[serde(rename = "SkipIPv4")]
        skip_ipv4: bool,
        #[serde(rename = "SkipIPv6")]
        skip_ipv6: bool,
    },
    #[serde(rename_all = "PascalCase")]
    Endpoint {
        interface: Interface,
    },
    #[serde(rename_all = "PascalCase")]
    Info {
        value: BTreeMap<String, String>,
    },
    #[serde(rename_all = "PascalCase")]
    Joined {
        interface_name: InterfaceName,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        static_routes: Vec<StaticRoute>,
    },
    #[serde(rename_all = "PascalCase")]
    Failed {
        err: String,
    },
    Done {},
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Interface {
    pub(crate) mac_address: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InterfaceName {
    pub(crate) src_name: String,
    pub(crate) dst_prefix: String,
}

/// Type 1 of dockerd's routes: over the endpoint's own interface, without a next hop.
pub(crate) const CONNECTED: u8 = 1;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StaticRoute {
    pub(crate) destination: &'static str,
    pub(crate) route_type: u8,
}
