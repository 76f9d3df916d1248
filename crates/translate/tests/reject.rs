// SPDX-License-Identifier: Apache-2.0
//! What is refused, and in which words: one rule a case, in `tests/reject/*.yaml`.
//!
//! A file has a `base` that is accepted and `cases`, each a `rule` and what it lays over the base:
//! `with` over the resource; `route` over its first route (in place of it, if `whole`); `chain`
//! over its first filter chain; `tcp` over its TCP proxy; `http` over a connection manager put in
//! the TCP proxy's place; `filter` before that one's router. `error` is the whole text expected.

use remora_translate::{Context, Faults, resource};
use remora_xds_types::ResourceType;
use serde_json::{Value, json};

#[test]
fn listeners_are_refused_by_rule() {
    check(ResourceType::Listener, include_str!("reject/listener.yaml"));
}

#[test]
fn routes_are_refused_by_rule() {
    check(ResourceType::Route, include_str!("reject/route.yaml"));
}

#[test]
fn clusters_are_refused_by_rule() {
    check(ResourceType::Cluster, include_str!("reject/cluster.yaml"));
}

#[test]
fn endpoints_are_refused_by_rule() {
    check(
        ResourceType::Endpoint,
        include_str!("reject/endpoints.yaml"),
    );
}

#[test]
fn names_are_refused_by_rule() {
    check(ResourceType::NameTable, include_str!("reject/names.yaml"));
}

fn check(kind: ResourceType, text: &str) {
    let file: Value = serde_saphyr::from_str(text).expect("a file of cases");
    let base = &file["base"];
    translate(kind, base).expect("the base is accepted");
    let mut wrong = Vec::new();
    for case in file["cases"].as_array().expect("cases") {
        let rule = case["rule"].as_str().expect("a rule");
        let found = match translate(kind, &built(base, case)) {
            Ok(()) => "accepted".to_owned(),
            Err(faults) => faults.to_string(),
        };
        if case["error"].as_str() != Some(&found) {
            wrong.push(format!("{rule}\n    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn translate(kind: ResourceType, value: &Value) -> Result<(), Faults> {
    let bytes = remora_xds_types::json::from_json(kind.url(), value).expect("a message");
    resource(kind, &bytes, &Context::default()).map(|_| ())
}

/// The base with a case's layers.
fn built(base: &Value, case: &Value) -> Value {
    let mut built = base.clone();
    if let Some(route) = case.get("route") {
        let place = &mut built["virtual_hosts"][0]["routes"][0];
        if case.get("whole").is_some() {
            *place = route.clone();
        } else {
            lay(place, route);
        }
    }
    if let Some(chain) = case.get("chain") {
        lay(&mut built["filter_chains"][0], chain);
    }
    if let Some(tcp) = case.get("tcp") {
        lay(
            &mut built["filter_chains"][0]["filters"][0]["typed_config"],
            tcp,
        );
    }
    if case.get("http").is_some() || case.get("filter").is_some() {
        let mut manager = manager();
        lay(&mut manager, case.get("http").unwrap_or(&json!({})));
        if let Some(filter) = case.get("filter") {
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            let mut named = json!({"name": "f"});
            lay(&mut named, filter);
            filters.insert(0, named);
        }
        built["filter_chains"][0]["filters"][0]["typed_config"] = manager;
    }
    if let Some(with) = case.get("with") {
        lay(&mut built, with);
    }
    built
}

fn manager() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h",
        "rds": {"route_config_name": "r", "config_source": {"ads": {}}},
        "http_filters": [{
            "name": "router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
        }]
    })
}

/// Fields of which only one alternative may be said: laid over as a whole.
const ALTERNATIVES: [&str; 3] = ["match", "route", "config_source"];

/// Lays fields over others; `null` takes one away.
fn lay(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    under.remove(key);
                } else if ALTERNATIVES.contains(&key.as_str()) {
                    under.insert(key.clone(), value.clone());
                } else if let Some(there) = under.get_mut(key) {
                    lay(there, value);
                } else {
                    under.insert(key.clone(), value.clone());
                }
            }
        }
        (under, over) => *under = over.clone(),
    }
}
