use super::*;

fn endpoint(json: &str) -> Result<EndpointWanted, RequestError> {
    parse::<CreateEndpointRequest>(json.as_bytes()).and_then(TryInto::try_into)
}

fn error_of<T: DeserializeOwned>(json: &str) -> String {
    match parse::<T>(json.as_bytes()) {
        Ok(_) => panic!("{json} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn errors_name_the_field() {
    for (json, field) in [
        (r#"{"NetworkID": 5}"#, "NetworkID"),
        (r#"{"NetworkID": ""}"#, "NetworkID"),
        (r#"{"NetworkID": "../x"}"#, "NetworkID"),
        (r#"{}"#, "NetworkID"),
        (r#"{"NetworkID": "n", "Options": []}"#, "Options"),
        (r#"{"NetworkID": "n", "Options": {"com.docker.network.generic": {"a": {}}}}"#, "generic.a"),
        (r#"{"NetworkID": "n", "Options": {"com.docker.network.internal": "yes"}}"#, "network.internal"),
        (r#"{"NetworkID": "n", "IPv4Data": [["10.0.0.0/8"]]}"#, "IPv4Data[0]"),
        (r#"{"NetworkID": "n", "IPv4Data": [{"Pool": "10.0.0.0/33"}]}"#, "IPv4Data[0].Pool"),
        (
            r#"{"NetworkID": "n", "IPv4Data": [{"Pool": "10.0.0.0/8", "Gateway": "x"}]}"#,
            "IPv4Data[0].Gateway",
        ),
        (r#"{"NetworkID": "n", "IPv6Data": [{"AuxAddresses": {"h1": "x"}}]}"#, "IPv6Data[0].AuxAddresses.h1"),
    ] {
        let text = error_of::<CreateNetworkRequest>(json);
        assert!(text.contains(field), "{json}: {text}");
    }
    for (json, field) in [
        (r#"{"NetworkID": "n", "EndpointID": null}"#, "EndpointID"),
        (
            r#"{"NetworkID": "n", "EndpointID": "e", "Interface": {"Address": "10.0.0.1"}}"#,
            "Interface.Address",
        ),
        (
            r#"{"NetworkID": "n", "EndpointID": "e", "Interface": {"MacAddress": "02:42"}}"#,
            "Interface.MacAddress",
        ),
    ] {
        let text = error_of::<CreateEndpointRequest>(json);
        assert!(text.contains(&format!("field {field}:")), "{json}: {text}");
    }
}

#[test]
fn broken_json_and_what_follows_it_are_refused() {
    assert!(matches!(parse::<NetworkRequest>(b" \n"), Err(RequestError::Empty)));
    for bad in ["{", "nonsense", "[]", r#"["n"]"#, "5", r#"{"NetworkID": "n"} {}"#, "\u{0}"] {
        assert!(matches!(parse::<NetworkRequest>(bad.as_bytes()), Err(RequestError::Field { .. })), "{bad}");
    }
}

#[test]
fn null_and_unknown_fields_are_passed_over() {
    let json = br#"{"NetworkID": "n", "Options": null, "IPv4Data": null, "Later": {"x": [1]}}"#;
    let network = CreateNetwork::from(parse::<CreateNetworkRequest>(json).unwrap());
    assert_eq!(
        (network.ipv4.len(), network.internal, network.options),
        (0, false, NetworkOptions::default())
    );
    let wanted =
        endpoint(r#"{"NetworkID": "n", "EndpointID": "e", "Interface": null, "Options": null}"#).unwrap();
    assert_eq!(wanted.assigned_mac, Some(wanted.endpoint.mac));
}

#[test]
fn ipv6_pools_are_told_by_their_address() {
    let json = br#"{"NetworkID": "n", "IPv6Data": null, "IPv4Data": [
        {"Pool": "10.73.0.0/24", "Gateway": "10.73.0.1/24", "AuxAddresses": {"h": "10.73.0.9/24"}},
        {"Pool": "fd73::/64", "Gateway": "fd73::1/64"}]}"#;
    let network = AllocateNetwork::from(parse::<AllocateNetworkRequest>(json).unwrap());
    assert_eq!(network.ipv4[0].reserved["h"].to_string(), "10.73.0.9");
    assert_eq!(network.ipv6[0].gateway.unwrap().to_string(), "fd73::1/64");
    assert_eq!((network.ipv4.len(), network.ipv6.len()), (1, 1));
}

#[test]
fn the_option_gives_the_mac_where_the_interface_does_not() {
    let json = |mac: &str, option: &str| {
        format!(
            r#"{{"NetworkID": "n", "EndpointID": "e", "Interface": {{"Address": "10.0.0.2/24", "MacAddress": "{mac}"}},
                "Options": {{"com.docker.network.endpoint.macaddress": {option}}}}}"#
        )
    };
    let given = endpoint(&json("", r#""Aqq7zN0B""#)).unwrap();
    assert_eq!(given.endpoint.mac.to_string(), "02:aa:bb:cc:dd:01");
    assert_eq!(given.assigned_mac, Some(given.endpoint.mac));
    let both = endpoint(&json("02:aa:bb:cc:dd:01", r#""Aqq7zN0B""#)).unwrap();
    assert_eq!((both.endpoint.mac, both.assigned_mac), (given.endpoint.mac, None));
    for bad in [r#""""#, r#""Aqq7""#, r#""????????""#, "5"] {
        let text = endpoint(&json("", bad)).err().unwrap().to_string();
        assert!(text.contains("endpoint.macaddress"), "{text}");
    }
}

#[test]
fn faults_of_an_endpoint_are_not_errors() {
    let wanted = endpoint(
        r#"{"NetworkID": "n", "EndpointID": "e", "Interface": {"MacAddress": "01:00:5e:00:00:01"},
            "Options": {"dopt": "x", "com.docker.network.endpoint.ifname": "eth7"}}"#,
    )
    .unwrap();
    let texts: Vec<_> = wanted.faults.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2);
    assert!(texts[0].contains("dopt") && texts[1].contains("01:00:5e:00:00:01"), "{texts:?}");
}

#[test]
fn other_discovery_types_are_passed_over() {
    let node = |json: &str| parse::<DiscoveryRequest>(json.as_bytes()).and_then(DiscoveryRequest::node);
    assert_eq!(node(r#"{"DiscoveryType": 3, "DiscoveryData": "key"}"#).unwrap(), None);
    assert_eq!(node(r#"{"DiscoveryType": 2}"#).unwrap(), None);
    for bad in ["null", "{}", r#"["10.0.0.1"]"#, r#"{"Address": "host"}"#, r#"{"Address": ""}"#] {
        let text =
            node(&format!(r#"{{"DiscoveryType": 1, "DiscoveryData": {bad}}}"#)).unwrap_err().to_string();
        assert!(text.contains("DiscoveryData"), "{text}");
    }
}
