// SPDX-License-Identifier: Apache-2.0
//! Clusters and assignments: who is called, with what care.

mod shop;

use std::time::Duration;

use remora_compile::{Scope, compile};
use remora_model::*;
use remora_primitives::{Percent, Weight};
use remora_xds_types::ResourceType;
use serde_json::{Value, json};

use shop::small::*;

#[test]
fn dns_services_are_asked_for_by_their_endpoints_or_their_own_name() {
    let service = || Service {
        resolution: Resolution::DnsRoundRobin,
        ..shop::entry("api.test", Vec::new(), &[(443, Protocol::Tls)])
    };
    let hosts = |parts| {
        let shown = show(&of(parts), ResourceType::Cluster, "outbound|443||api.test");
        assert_eq!(shown["type"], "STRICT_DNS");
        let endpoints = shown["load_assignment"]["endpoints"][0]["lb_endpoints"].clone();
        let endpoints = endpoints.as_array().expect("has hosts").clone();
        let addresses = endpoints.into_iter();
        let addresses = addresses.map(|e| e["endpoint"]["address"]["socket_address"].clone());
        addresses.collect::<Vec<_>>()
    };
    let own = world(vec![service()], Vec::new(), Vec::new());
    assert_eq!(
        hosts(own),
        [json!({"address": "api.test", "port_value": 443})]
    );
    let mut listed = world(vec![service()], Vec::new(), Vec::new());
    let name = remora_primitives::HostName::try_new("origin.test").expect("a name");
    let endpoint = Endpoint {
        address: EndpointAddress::Name(name),
        ..shop::endpoint("10.0.0.1", "v1", &[(443, 8443)])
    };
    listed
        .endpoints
        .insert(service().key(), vec![endpoint].into());
    assert_eq!(
        hosts(listed),
        [json!({"address": "origin.test", "port_value": 8443})]
    );
}

#[test]
fn limits_ejection_and_balancing_are_the_policys() {
    let shown = cluster(EffectivePolicy {
        load_balancer: Some(LoadBalancer {
            simple: Some(SimpleBalancer::RoundRobin),
            locality: None,
            warmup: Some(Warmup {
                duration: Duration::from_secs(60),
                minimum: Some(Percent::try_new(5.0).expect("a share")),
                aggression_thousandths: 1500,
            }),
        }),
        connection_pool: Some(ConnectionPool {
            max_retries: Some(7),
            keep_alive: Some(KeepAlive {
                probes: None,
                time: Some(Duration::from_millis(10)),
                interval: Some(Duration::from_secs(75)),
            }),
            max_requests_per_connection: Some(0),
            http_idle_timeout: Some(Duration::from_secs(9)),
            h2_upgrade: H2Upgrade::Always,
            max_concurrent_streams: Some(20),
            ..ConnectionPool::default()
        }),
        outlier_detection: Some(OutlierDetection {
            consecutive_5xx: Some(0),
            consecutive_gateway_errors: Some(3),
            split_local_origin: true,
            min_health: Some(Percent::try_new(30.0).expect("a share")),
            ..OutlierDetection::default()
        }),
        tls: None,
        retry_budget: Some(RetryBudget {
            share: Some(Percent::try_new(25.0).expect("a share")),
            min_concurrency: None,
        }),
    });
    assert_eq!(
        shown["lb_policy"],
        Value::Null,
        "round robin is the API's zero"
    );
    assert_eq!(
        shown["round_robin_lb_config"]["slow_start_config"],
        json!({"slow_start_window": "60s", "aggression": {"default_value": 1.5},
               "min_weight_percent": {"value": 5.0}})
    );
    let limits = &shown["circuit_breakers"]["thresholds"][0];
    assert_eq!(
        (&limits["max_retries"], &limits["max_requests"]),
        (&json!(7), &json!(u32::MAX))
    );
    assert_eq!(
        limits["retry_budget"],
        json!({"budget_percent": {"value": 25.0}})
    );
    assert_eq!(
        shown["upstream_connection_options"]["tcp_keepalive"],
        json!({"keepalive_time": 1, "keepalive_interval": 75})
    );
    assert_eq!(
        shown["outlier_detection"],
        json!({
            "enforcing_consecutive_5xx": 0,
            "consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100,
            "split_external_local_origin_errors": true,
            "consecutive_local_origin_failure": 5,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_success_rate": 0,
        })
    );
    assert_eq!(
        shown["common_lb_config"]["healthy_panic_threshold"]["value"],
        30.0
    );
    let options = &shown["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(
        options["common_http_protocol_options"],
        json!({"idle_timeout": "9s"})
    );
    assert_eq!(
        options["explicit_http_config"]["http2_protocol_options"],
        json!({"max_concurrent_streams": 20})
    );
}

#[test]
fn a_balancer_that_passes_through_makes_the_dialled_address_the_host() {
    let shown = cluster(EffectivePolicy {
        load_balancer: Some(LoadBalancer {
            simple: Some(SimpleBalancer::Passthrough),
            ..LoadBalancer::default()
        }),
        outlier_detection: Some(OutlierDetection::default()),
        ..EffectivePolicy::default()
    });
    assert_eq!(
        (&shown["type"], &shown["lb_policy"]),
        (&json!("ORIGINAL_DST"), &json!("CLUSTER_PROVIDED"))
    );
    assert_eq!(shown["outlier_detection"], Value::Null);
}

#[test]
fn nearer_endpoints_come_first_where_failures_are_found_out() {
    let locality = Locality::from_path;
    let endpoint = |address, path, weight| Endpoint {
        locality: locality(path),
        weight: Weight::try_new(weight).expect("not zero"),
        ..shop::endpoint(address, "v1", &[(80, 8080)])
    };
    let list = vec![
        endpoint("10.2.0.9", "us/a/1", 1),
        endpoint("10.2.0.3", "eu/a/1", 3),
        endpoint("10.2.0.2", "eu/a/1", 2),
        endpoint("10.2.0.4", "eu/a/2", 1),
    ];
    let priorities = |detection: Option<OutlierDetection>, own: &str| {
        let sections = EffectivePolicy {
            outlier_detection: detection,
            ..EffectivePolicy::default()
        };
        let mut parts = world(vec![web()], Vec::new(), vec![policy(sections)]);
        parts.endpoints.insert(web().key(), list.clone().into());
        let scope = Scope {
            locality: locality(own),
            ..Scope::new(shop::namespace("shop"))
        };
        let set = compile(&shop::model(parts), &scope);
        let shown = show(&set, ResourceType::Endpoint, WEB_CLUSTER);
        let groups = shown["endpoints"].as_array().expect("has groups").iter();
        let group = |g: &Value| {
            let zone = g["locality"]["sub_zone"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let region = g["locality"]["region"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            (g["priority"].as_u64().unwrap_or(0), region + &zone)
        };
        groups.map(group).collect::<Vec<_>>()
    };
    let named = |groups: [(u64, &str); 3]| groups.map(|(p, name)| (p, name.to_owned())).to_vec();
    let on = Some(OutlierDetection::default());
    let near = named([(0, "eu1"), (1, "eu2"), (2, "us1")]);
    assert_eq!(priorities(on.clone(), "eu/a/1"), near);
    assert_eq!(
        priorities(on.clone(), "us/b/1"),
        named([(0, "us1"), (1, "eu1"), (1, "eu2")])
    );
    let all_alike = named([(0, "eu1"), (0, "eu2"), (0, "us1")]);
    assert_eq!(priorities(None, "eu/a/1"), all_alike);
    assert_eq!(priorities(on, ""), all_alike);
}

#[test]
fn endpoints_carry_weight_and_health_and_those_not_ready_are_left_out() {
    let endpoint = |address, health, weight| Endpoint {
        health,
        weight: Weight::try_new(weight).expect("not zero"),
        ..shop::endpoint(address, "v1", &[(80, 8080)])
    };
    let mut parts = world(vec![web()], Vec::new(), Vec::new());
    let list = vec![
        endpoint("10.2.0.3", Health::Draining, 2),
        endpoint("10.2.0.2", Health::Healthy, 5),
        endpoint("10.2.0.4", Health::Unready, 1),
        endpoint("10.2.0.2", Health::Healthy, 5),
        shop::endpoint("10.2.0.5", "v1", &[(81, 81)]),
    ];
    parts.endpoints.insert(web().key(), list.into());
    let shown = show(&of(parts), ResourceType::Endpoint, WEB_CLUSTER);
    let host = |address: &str, weight: u32, health: Option<&str>| {
        let socket = json!({"address": address, "port_value": 8080});
        let mut host = json!({
            "endpoint": {"address": {"socket_address": socket}},
            "load_balancing_weight": weight,
        });
        if let Some(health) = health {
            host["health_status"] = health.into();
        }
        host
    };
    let hosts = [
        host("10.2.0.2", 5, None),
        host("10.2.0.3", 2, Some("DRAINING")),
    ];
    assert_eq!(
        shown["endpoints"],
        json!([{"lb_endpoints": hosts, "load_balancing_weight": 7}])
    );
}

#[test]
fn times_that_the_api_refuses_are_left_to_its_defaults() {
    let shown = cluster(EffectivePolicy {
        connection_pool: Some(ConnectionPool {
            connect_timeout: Some(Duration::ZERO),
            ..ConnectionPool::default()
        }),
        outlier_detection: Some(OutlierDetection {
            interval: Some(Duration::ZERO),
            base_ejection_time: Some(Duration::ZERO),
            ..OutlierDetection::default()
        }),
        ..EffectivePolicy::default()
    });
    assert_eq!(shown["connect_timeout"], "10s");
    let detection = &shown["outlier_detection"];
    assert_eq!(
        (&detection["interval"], &detection["base_ejection_time"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn the_weights_of_an_assignment_are_never_more_than_the_api_can_sum() {
    let endpoint = |nth: u32| Endpoint {
        weight: Weight::try_new(u32::MAX - nth).expect("not zero"),
        locality: Locality::from_path(if nth == 0 { "eu" } else { "us" }),
        ..shop::endpoint(&format!("10.3.0.{nth}"), "v1", &[(80, 80)])
    };
    let mut parts = world(vec![web()], Vec::new(), Vec::new());
    parts
        .endpoints
        .insert(web().key(), (0..3).map(endpoint).collect());
    let shown = show(&of(parts), ResourceType::Endpoint, WEB_CLUSTER);
    let groups = shown["endpoints"].as_array().expect("has groups").iter();
    let total: u64 = groups
        .map(|g| g["load_balancing_weight"].as_u64().expect("a weight"))
        .sum();
    assert!(total <= u64::from(u32::MAX) && total > 1 << 30, "{total}");
}
