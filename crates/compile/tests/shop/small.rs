// SPDX-License-Identifier: Apache-2.0
//! Worlds with next to nothing in them, and what is sent for them as JSON.

use std::sync::Arc;

use remora_compile::{MeshSettings, ResourceSet, Scope, compile};
use remora_model::*;
use remora_xds_types::{ResourceType, json};
use serde_json::Value;

use super as shop;

pub(crate) fn show(set: &ResourceSet, kind: ResourceType, name: &str) -> Value {
    let resource = set
        .find(kind, name)
        .unwrap_or_else(|| panic!("no {name} in {set:#?}"));
    json::to_json(kind.url(), &resource.body).expect("own bytes")
}

pub(crate) fn names(set: &ResourceSet, kind: ResourceType) -> Vec<&str> {
    set.of(kind).keys().map(String::as_str).collect()
}

/// A world of these services, rules and policies; each service has one endpoint per port.
pub(crate) fn world(
    services: Vec<Service>,
    rules: Vec<RouteRule>,
    policies: Vec<DestinationPolicy>,
) -> ModelParts {
    let mut parts = ModelParts::default();
    for (at, service) in services.into_iter().enumerate() {
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|p| (p.number.get(), p.number.get()))
            .collect();
        let endpoint = shop::endpoint(&format!("10.1.0.{}", at + 1), "v1", &ports);
        if !matches!(
            service.resolution,
            Resolution::Dns | Resolution::DnsRoundRobin
        ) {
            parts.endpoints.insert(service.key(), vec![endpoint].into());
        }
        parts.services.push(Arc::new(service));
    }
    parts.routes = rules.into_iter().map(Arc::new).collect();
    parts.policies = policies.into_iter().map(Arc::new).collect();
    parts
}

pub(crate) fn of(parts: ModelParts) -> Arc<ResourceSet> {
    compile(&shop::model(parts), &Scope::new(shop::namespace("shop")))
}

pub(crate) fn with_settings(parts: ModelParts, settings: MeshSettings) -> Arc<ResourceSet> {
    let scope = Scope {
        settings: Arc::new(settings),
        ..shop::scope()
    };
    compile(&shop::model(parts), &scope)
}

pub(crate) fn web() -> Service {
    shop::service("shop", "web", "10.96.1.1", &[(80, Protocol::Http)])
}

pub(crate) const WEB: &str = "web.shop.svc.cluster.local";
pub(crate) const WEB_TABLE: &str = "web.shop.svc.cluster.local:80";
pub(crate) const WEB_CLUSTER: &str = "outbound|80||web.shop.svc.cluster.local";

pub(crate) fn policy(policy: EffectivePolicy) -> DestinationPolicy {
    DestinationPolicy {
        origin: shop::origin(ObjectKind::DestinationRule, "shop", "web"),
        namespace: shop::namespace("shop"),
        host: shop::host(WEB),
        visibility: Visibility::Everyone,
        workload_selector: Labels::default(),
        policy: TrafficPolicy {
            general: policy,
            ports: Vec::new(),
        },
        subsets: Vec::new(),
    }
}

/// The routes of the table of `web` under a rule with these routes.
pub(crate) fn routes(http: Vec<HttpRoute>) -> Vec<Value> {
    let rule = shop::rule("shop", "web", &[WEB], http);
    let set = of(world(vec![web()], vec![rule], Vec::new()));
    let table = show(&set, ResourceType::Route, WEB_TABLE);
    table["virtual_hosts"][0]["routes"]
        .as_array()
        .expect("has routes")
        .clone()
}

pub(crate) fn to_web() -> Forward {
    shop::forward(vec![shop::to(WEB, "", 1)])
}

pub(crate) fn when(path: StringMatch) -> HttpMatch {
    HttpMatch {
        path: Some(PathMatch {
            path,
            ignore_case: false,
        }),
        ..HttpMatch::default()
    }
}

pub(crate) fn cluster(sections: EffectivePolicy) -> Value {
    let set = of(world(vec![web()], Vec::new(), vec![policy(sections)]));
    show(&set, ResourceType::Cluster, WEB_CLUSTER)
}
