//! dockerd's requests as JSON, and their conversion into checked values.
//!
//! Unknown fields are passed over, and null counts as absent: releases differ in both. An error names the field.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use weft_wire::Mac;

use crate::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, Join, NetworkOptions, NodeDiscovery, OptionFault, Pool,
    derive_mac, endpoint_option_faults,
};

const MAC_OPTION: &str = "com.docker.network.endpoint.macaddress";

/// A request that is not of the protocol. Nothing was changed; only a broken peer can cause it, and dockerd itself
/// when it repeats a call over a broken connection: it has used up the body by then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the request has no body: dockerd repeated a call whose first attempt got no answer")]
    Empty,
    #[error("the request is not JSON of the expected form: field {field}: {problem}")]
    Field { field: String, problem: String },
}

impl RequestError {
    fn field(field: &str, problem: impl ToString) -> Self {
        Self::Field { field: field.to_owned(), problem: problem.to_string() }
    }
}

/// Reads one request.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(RequestError::Empty);
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let Object(request) = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| RequestError::field(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| RequestError::field(".", error))?;
    Ok(request)
}

fn null_is_absent<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// A struct that must come as an object. Derived structs also take an array, as their fields in order.
#[derive(Default)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        d.deserialize_map(Fields(PhantomData))
    }
}

/// Null, absent and empty text are `None`.
fn parsed_text<'de, T: FromStr<Err: std::fmt::Display>, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    match Option::<String>::deserialize(d)? {
        Some(text) if !text.is_empty() => {
            text.parse().map(Some).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
        }
        _ => Ok(None),
    }
}

/// Docker's id of a network or endpoint: it becomes a key of the state and part of names, so its form is checked.
#[derive(Debug)]
struct Id(String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let id = String::deserialize(d)?;
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if (1..=128).contains(&id.len()) && id.bytes().all(known) {
            Ok(Self(id))
        } else {
            Err(D::Error::custom("an id is 1 to 128 characters of A-Z a-z 0-9 _ -"))
        }
    }
}

/// An option's value. Docker sends text; numbers and booleans are taken as their text.
struct OptionText(String);

impl<'de> Deserialize<'de> for OptionText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::String(text) => Ok(Self(text)),
            Value::Null => Ok(Self(String::new())),
            value @ (Value::Bool(_) | Value::Number(_)) => Ok(Self(value.to_string())),
            Value::Array(_) | Value::Object(_) => Err(D::Error::custom("expected text")),
        }
    }
}

type Options = BTreeMap<String, OptionText>;

fn texts(options: Options) -> BTreeMap<String, String> {
    options.into_iter().map(|(name, OptionText(value))| (name, value)).collect()
}

/// With a prefix or, taken as its own subnet, without.
struct Cidr(IpNet);

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse::<IpNet>()
            .or_else(|_| s.parse::<IpAddr>().map(IpNet::from))
            .map(Self)
            .map_err(|_| "expected an address, or an address and prefix length")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PoolJson {
    #[serde(default, deserialize_with = "parsed_text")]
    pool: Option<Cidr>,
    #[serde(default, deserialize_with = "parsed_text")]
    gateway: Option<Cidr>,
    #[serde(default, deserialize_with = "null_is_absent")]
    aux_addresses: BTreeMap<String, Reserved>,
}

struct Reserved(Option<Cidr>);

impl<'de> Deserialize<'de> for Reserved {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        parsed_text(d).map(Self)
    }
}

/// Splits by family whatever list a pool came in: 20.10 puts a swarm network's IPv6 pools into IPv4Data.
fn pools(v4: Vec<Object<PoolJson>>, v6: Vec<Object<PoolJson>>) -> (Vec<Pool>, Vec<Pool>) {
    let reserved = |(name, Reserved(address)): (_, Reserved)| Some((name, address?.0.addr()));
    v4.into_iter()
        .chain(v6)
        .filter_map(|Object(json)| {
            Some(Pool {
                subnet: json.pool?.0,
                gateway: json.gateway.map(|cidr| cidr.0),
                reserved: json.aux_addresses.into_iter().filter_map(reserved).collect(),
            })
        })
        .partition(|pool| pool.subnet.addr().is_ipv4())
}

#[derive(Deserialize)]
pub(crate) struct AllocateNetworkRequest {
    #[serde(rename = "NetworkID")]
    network_id: Id,
    #[serde(rename = "Options", default, deserialize_with = "null_is_absent")]
    options: Options,
    #[serde(rename = "IPv4Data", default, deserialize_with = "null_is_absent")]
    ipv4: Vec<Object<PoolJson>>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "null_is_absent")]
    ipv6: Vec<Object<PoolJson>>,
}

impl From<AllocateNetworkRequest> for AllocateNetwork {
    fn from(request: AllocateNetworkRequest) -> Self {
        let given = texts(request.options);
        let (ipv4, ipv6) = pools(request.ipv4, request.ipv6);
        Self { network_id: request.network_id.0, options: NetworkOptions::parse(&given), given, ipv4, ipv6 }
    }
}

#[derive(Default, Deserialize)]
struct CreateOptions {
    #[serde(rename = "com.docker.network.generic", default, deserialize_with = "null_is_absent")]
    generic: Options,
    #[serde(rename = "com.docker.network.internal", default, deserialize_with = "null_is_absent")]
    internal: bool,
}

#[derive(Deserialize)]
pub(crate) struct CreateNetworkRequest {
    #[serde(rename = "NetworkID")]
    network_id: Id,
    #[serde(rename = "Options", default, deserialize_with = "null_is_absent")]
    options: Object<CreateOptions>,
    #[serde(rename = "IPv4Data", default, deserialize_with = "null_is_absent")]
    ipv4: Vec<Object<PoolJson>>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "null_is_absent")]
    ipv6: Vec<Object<PoolJson>>,
}

impl From<CreateNetworkRequest> for CreateNetwork {
    fn from(request: CreateNetworkRequest) -> Self {
        let (ipv4, ipv6) = pools(request.ipv4, request.ipv6);
        Self {
            network_id: request.network_id.0,
            options: NetworkOptions::parse(&texts(request.options.0.generic)),
            ipv4,
            ipv6,
            internal: request.options.0.internal,
        }
    }
}

/// FreeNetwork, DeleteNetwork.
#[derive(Deserialize)]
pub(crate) struct NetworkRequest {
    #[serde(rename = "NetworkID")]
    network_id: Id,
}

impl NetworkRequest {
    pub(crate) fn network_id(&self) -> &str {
        &self.network_id.0
    }
}

/// DeleteEndpoint, Leave, EndpointOperInfo, ProgramExternalConnectivity, RevokeExternalConnectivity.
#[derive(Deserialize)]
pub(crate) struct EndpointRequest {
    #[serde(rename = "NetworkID")]
    network_id: Id,
    #[serde(rename = "EndpointID")]
    endpoint_id: Id,
}

impl EndpointRequest {
    pub(crate) fn network_id(&self) -> &str {
        &self.network_id.0
    }

    pub(crate) fn endpoint_id(&self) -> &str {
        &self.endpoint_id.0
    }
}

/// GwAllocCheck: the options of a network that has no id yet.
#[derive(Deserialize)]
pub(crate) struct GwAllocCheckRequest {
    #[serde(rename = "Options", default, deserialize_with = "null_is_absent")]
    _options: Object<CreateOptions>,
}

#[derive(Default, Deserialize)]
struct InterfaceJson {
    #[serde(rename = "Address", default, deserialize_with = "parsed_text")]
    address: Option<Ipv4Net>,
    #[serde(rename = "AddressIPv6", default, deserialize_with = "parsed_text")]
    address_v6: Option<Ipv6Net>,
    #[serde(rename = "MacAddress", default, deserialize_with = "parsed_text")]
    mac: Option<Mac>,
}

#[derive(Deserialize)]
pub(crate) struct CreateEndpointRequest {
    #[serde(rename = "NetworkID")]
    network_id: Id,
    #[serde(rename = "EndpointID")]
    endpoint_id: Id,
    #[serde(rename = "Interface", default, deserialize_with = "null_is_absent")]
    interface: Object<InterfaceJson>,
    #[serde(rename = "Options", default, deserialize_with = "null_is_absent")]
    options: BTreeMap<String, Value>,
}

/// An endpoint that was asked for, and what may be wrong with it by the user's fault.
pub(crate) struct EndpointWanted {
    pub(crate) endpoint: CreateEndpoint,
    /// The address to answer: dockerd wants to hear only what it did not say itself.
    pub(crate) assigned_mac: Option<Mac>,
    pub(crate) faults: Vec<OptionFault>,
}

impl TryFrom<CreateEndpointRequest> for EndpointWanted {
    type Error = RequestError;

    fn try_from(request: CreateEndpointRequest) -> Result<Self, RequestError> {
        let Object(InterfaceJson { address, address_v6, mac: interface_mac }) = request.interface;
        let option_mac = match request.options.get(MAC_OPTION) {
            None | Some(Value::Null) => None,
            Some(value) => Some(base64_mac(value)?),
        };
        let endpoint_id = request.endpoint_id.0;
        let mac =
            interface_mac.or(option_mac).unwrap_or_else(|| derive_mac(address, address_v6, &endpoint_id));
        let options = request.options.iter().map(|(name, value)| {
            (name.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        let mut faults = endpoint_option_faults(options);
        if mac.is_group() {
            faults.push(OptionFault {
                name: "mac-address".to_owned(),
                value: mac.to_string(),
                accepted: "an address of one container, its first byte even".to_owned(),
                known: true,
            });
        }
        Ok(Self {
            endpoint: CreateEndpoint {
                network_id: request.network_id.0,
                endpoint_id,
                address,
                address_v6,
                mac,
            },
            assigned_mac: interface_mac.is_none().then_some(mac),
            faults,
        })
    }
}

fn base64_mac(value: &Value) -> Result<Mac, RequestError> {
    let decoded = value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    decoded
        .and_then(|bytes| bytes.try_into().ok())
        .map(Mac)
        .ok_or_else(|| RequestError::field(&format!("Options.{MAC_OPTION}"), "expected six bytes in base64"))
}

#[derive(Deserialize)]
pub(crate) struct JoinRequest {
    #[serde(rename = "NetworkID")]
    network_id: Id,
    #[serde(rename = "EndpointID")]
    endpoint_id: Id,
    #[serde(rename = "SandboxKey", default, deserialize_with = "null_is_absent")]
    sandbox_key: String,
}

impl From<JoinRequest> for Join {
    fn from(request: JoinRequest) -> Self {
        Self {
            network_id: request.network_id.0,
            endpoint_id: request.endpoint_id.0,
            sandbox_key: request.sandbox_key,
        }
    }
}

/// The one type that dockerd passes on to remote drivers.
const NODE_DISCOVERY: i64 = 1;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DiscoveryRequest {
    discovery_type: i64,
    #[serde(default)]
    discovery_data: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeJson {
    #[serde(default, deserialize_with = "parsed_text")]
    address: Option<IpAddr>,
    #[serde(default, deserialize_with = "parsed_text")]
    bind_address: Option<IpAddr>,
    #[serde(rename = "Self", default, deserialize_with = "null_is_absent")]
    self_: bool,
}

impl DiscoveryRequest {
    /// `None` for a type that says nothing to weft.
    pub(crate) fn node(self) -> Result<Option<NodeDiscovery>, RequestError> {
        const DATA: &str = "DiscoveryData";
        if self.discovery_type != NODE_DISCOVERY {
            return Ok(None);
        }
        let Object(node): Object<NodeJson> = serde_path_to_error::deserialize(self.discovery_data)
            .map_err(|error| RequestError::field(&format!("{DATA}.{}", error.path()), error.inner()))?;
        let address = node
            .address
            .ok_or_else(|| RequestError::field(&format!("{DATA}.Address"), "expected an IP address"))?;
        Ok(Some(NodeDiscovery { address, bind_address: node.bind_address, self_: node.self_ }))
    }
}

#[cfg(test)]
mod tests;
