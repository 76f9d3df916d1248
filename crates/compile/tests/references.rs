// SPDX-License-Identifier: Apache-2.0
//! Whatever is sent can be read again, and names nothing that is not sent beside it.

mod shop;

use std::collections::BTreeSet;
use std::sync::Arc;

use remora_compile::{MeshSettings, OutboundPolicy, ResourceSet, Scope, compile};
use remora_xds_types::{NameTable, ResourceType, cluster, endpoint, json, listener, route, unpack};
use serde_json::Value;

/// The strings below a field name, anywhere in a JSON value.
fn below<'a>(json: &'a Value, field: &str, found: &mut BTreeSet<&'a str>) {
    match json {
        Value::Array(items) => items.iter().for_each(|item| below(item, field, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == field => drop(found.insert(text)),
                    _ => below(value, field, found),
                }
            }
        }
        _ => {}
    }
}

fn readable(set: &ResourceSet, kind: ResourceType) -> Value {
    let bodies = set.of(kind).values();
    let all = bodies.map(|r| json::to_json(kind.url(), &r.body).expect("own bytes"));
    all.collect()
}

/// Clusters that listeners and routes name but nobody sends.
fn missing_clusters(set: &ResourceSet) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let (listeners, routes) = (
        readable(set, ResourceType::Listener),
        readable(set, ResourceType::Route),
    );
    below(&listeners, "cluster", &mut named);
    below(&routes, "cluster", &mut named);
    for weighted in [&listeners, &routes] {
        for clusters in weighted_clusters(weighted) {
            below(clusters, "name", &mut named);
        }
    }
    let sent = set.of(ResourceType::Cluster);
    let missing = named.into_iter().filter(|name| !sent.contains_key(*name));
    missing.map(ToOwned::to_owned).collect()
}

fn weighted_clusters(json: &Value) -> Vec<&Value> {
    match json {
        Value::Array(items) => items.iter().flat_map(weighted_clusters).collect(),
        Value::Object(fields) => {
            let own = fields.get("weighted_clusters").into_iter();
            own.chain(fields.values().flat_map(weighted_clusters))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn check(set: &ResourceSet) {
    let listeners = readable(set, ResourceType::Listener);
    let mut tables = BTreeSet::new();
    below(&listeners, "route_config_name", &mut tables);
    let sent: BTreeSet<_> = set
        .of(ResourceType::Route)
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        tables, sent,
        "every table is used, every used table is sent"
    );
    let clusters = readable(set, ResourceType::Cluster);
    let mut assigned = BTreeSet::new();
    below(&clusters, "service_name", &mut assigned);
    let sent: BTreeSet<_> = set
        .of(ResourceType::Endpoint)
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        assigned, sent,
        "every assignment is used, every used assignment is sent"
    );
}

#[test]
fn every_resource_is_read_back_as_its_type_and_under_its_name() {
    let set = compile(&shop::model(shop::parts(90, 10)), &shop::scope());
    assert!(set.iter().count() > 40);
    for resource in set.iter() {
        let any = resource.to_any();
        let name = match resource.kind {
            ResourceType::Cluster => unpack::<cluster::Cluster>(&any).map(|r| r.name),
            ResourceType::Endpoint => {
                unpack::<endpoint::ClusterLoadAssignment>(&any).map(|r| r.cluster_name)
            }
            ResourceType::Listener => unpack::<listener::Listener>(&any).map(|r| r.name),
            ResourceType::Route => unpack::<route::RouteConfiguration>(&any).map(|r| r.name),
            ResourceType::NameTable => unpack::<NameTable>(&any).map(|_| resource.name.clone()),
            ResourceType::Secret => panic!("no secrets are compiled"),
        };
        assert_eq!(name.as_ref(), Ok(&resource.name));
    }
}

#[test]
fn names_resolve_in_every_scope() {
    let model = shop::model(shop::parts(90, 10));
    let registry_only = Scope {
        settings: Arc::new(MeshSettings {
            outbound: OutboundPolicy::RegistryOnly,
            ..MeshSettings::default()
        }),
        ..shop::scope()
    };
    let scopes = [
        shop::scope(),
        registry_only,
        Scope::new(shop::namespace("mail")),
        Scope::new(shop::namespace("nowhere")),
    ];
    for scope in scopes {
        let set = compile(&model, &scope);
        check(&set);
        assert_eq!(missing_clusters(&set), BTreeSet::new());
    }
}

#[test]
fn an_empty_world_has_just_the_ways_through() {
    let set = compile(&shop::model(Default::default()), &shop::scope());
    check(&set);
    let names = |kind| set.of(kind).keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        names(ResourceType::Listener),
        ["virtualInbound", "virtualOutbound"]
    );
    assert_eq!(missing_clusters(&set), BTreeSet::new());
}

#[test]
fn only_what_the_model_lacks_is_missing() {
    let mut parts = shop::parts(90, 10);
    let destinations = vec![
        shop::to("gone.shop.svc.cluster.local", "", 1),
        shop::to(shop::SMS, "v9", 1),
        shop::to(shop::SMS, "v1", 1),
    ];
    let routes = vec![shop::route(Vec::new(), shop::forward(destinations))];
    let search = "search.shop.svc.cluster.local";
    parts
        .routes
        .push(Arc::new(shop::rule("shop", "search", &[search], routes)));
    let set = compile(&shop::model(parts), &shop::scope());
    check(&set);
    let missing = [
        "outbound|80|v9|sms.shop.svc.cluster.local",
        "outbound|80||gone.shop.svc.cluster.local",
        "outbound|9000||gone.shop.svc.cluster.local",
    ];
    let missing: BTreeSet<_> = missing.into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(missing_clusters(&set), missing);
}
