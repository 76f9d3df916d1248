// SPDX-License-Identifier: Apache-2.0
//! What dumps show and what files may say.

use prost::Message;
use serde_json::{Map, json};

use super::*;
use crate::protobuf::Any;
use crate::{ResourceType, cluster, listener, pack, tcp_proxy};

const CLUSTER: &str = ResourceType::Cluster.url();
const LISTENER: &str = ResourceType::Listener.url();

#[test]
fn a_message_with_an_any_inside_survives_the_round_trip() {
    let json = json!({
        "name": "0.0.0.0_80",
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "x",
                "cluster": "y",
                "idle_timeout": "0.250s"
            }
        }]}]
    });
    let bytes = from_json(LISTENER, &json).expect("valid");
    assert_eq!(to_json(LISTENER, &bytes).expect("known"), json);
    let listener = listener::Listener::decode(bytes.as_slice()).expect("own bytes");
    assert_eq!(listener.name, "0.0.0.0_80");
}

#[test]
fn camel_case_is_read_and_proto_names_are_written() {
    let bytes = from_json(CLUSTER, &json!({"name": "a", "connectTimeout": "1s"})).expect("valid");
    let back = to_json(CLUSTER, &bytes).expect("known");
    assert_eq!(back, json!({"name": "a", "connect_timeout": "1s"}));
}

#[test]
fn faults_name_the_field() {
    let tcp = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let table = [
        (
            CLUSTER,
            json!({"nam": "a"}),
            ".",
            "unrecognized field name 'nam'",
        ),
        (
            CLUSTER,
            json!({"connect_timeout": "soon"}),
            "connect_timeout",
            "failed to parse duration",
        ),
        (
            CLUSTER,
            json!({"lb_policy": "BEST"}),
            "lb_policy",
            "unrecognized enum value",
        ),
        (
            LISTENER,
            json!({"address": {"socket_address": {"port_value": "x"}}}),
            "address.socket_address.port_value",
            "invalid digit",
        ),
        (
            LISTENER,
            // The type comes last: the place must be known all the same.
            json!({"filter_chains": [{"filters": [{"typed_config": {
                "max_connect_attempts": -1, "@type": tcp }}]}]}),
            "filter_chains[0].filters[0].typed_config.max_connect_attempts",
            "out of range",
        ),
        (
            LISTENER,
            json!({"filter_chains": [{"filters": [{"typed_config": {"@type": "t/no.Such"}}]}]}),
            "filter_chains[0].filters[0].typed_config",
            "'no.Such' not found",
        ),
    ];
    for (kind, json, path, finding) in table {
        let Err(JsonError::Field {
            path: at,
            finding: what,
        }) = from_json(kind, &json)
        else {
            panic!("{json} is refused");
        };
        assert!(
            at.starts_with(path) && what.contains(finding),
            "{json}: {at}: {what}"
        );
    }
}

#[test]
fn unknown_types_are_refused_by_name() {
    assert!(
        matches!(to_json("t/no.Such", &[]), Err(JsonError::UnknownType(name)) if name == "t/no.Such")
    );
    assert!(matches!(
        to_json(CLUSTER, &[0xff]),
        Err(JsonError::Decode { .. })
    ));
}

fn with_config(any: Any) -> Vec<u8> {
    let filter = listener::Filter {
        name: "f".into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any)),
    };
    let chain = listener::FilterChain {
        filters: vec![filter],
        ..Default::default()
    };
    listener::Listener {
        filter_chains: vec![chain],
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn a_dump_shows_what_it_does_not_know() {
    let unknown = Any {
        type_url: "type.googleapis.com/no.Such".into(),
        value: vec![1, 2, 3],
    };
    let broken = Any {
        value: vec![0xff],
        ..pack(&tcp_proxy::TcpProxy::default())
    };
    for any in [unknown, broken] {
        let url = any.type_url.clone();
        let json = to_json(LISTENER, &with_config(any)).expect("shown");
        let shown = &json["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(shown["type_url"], url);
        assert!(shown["value"]["@unresolved_base64"].is_string(), "{shown}");
    }
}

#[test]
fn anys_nested_without_end_do_not_exhaust_the_stack() {
    let mut any = pack(&cluster::Cluster::default());
    for _ in 0..10_000 {
        any = Any {
            type_url: "type.googleapis.com/google.protobuf.Any".into(),
            value: any.encode_to_vec(),
        };
    }
    assert!(to_json(LISTENER, &with_config(any)).is_ok());
}

#[test]
fn entries_of_maps_come_in_order_and_fields_as_declared() {
    let names: Vec<_> = (b'a'..=b'z').map(|c| char::from(c).to_string()).collect();
    let fields: Map<_, _> = names
        .iter()
        .rev()
        .map(|n| (n.clone(), json!(1.0)))
        .collect();
    let json = json!({
        "name": "a",
        "metadata": {"filter_metadata": {"two": fields, "one": {"b": 1.0, "a": [{"d": 1.0, "c": 2.0}]}}},
        "connect_timeout": "1s",
    });
    let bytes = from_json(CLUSTER, &json).expect("valid");
    let text = to_json(CLUSTER, &bytes).expect("known").to_string();
    let place = |what: &str| {
        text.find(what)
            .unwrap_or_else(|| panic!("no {what} in {text}"))
    };
    assert!(place("\"one\"") < place("\"two\"") && place("\"c\"") < place("\"d\""));
    assert!(
        place("connect_timeout") < place("metadata"),
        "fields by number"
    );
    let last = names.windows(2).map(|pair| (&pair[0], &pair[1]));
    let two = text.get(place("\"two\"")..).expect("is there");
    for (a, b) in last {
        assert!(
            two.find(&format!("\"{a}\":")) < two.find(&format!("\"{b}\":")),
            "{two}"
        );
    }
}
