// SPDX-License-Identifier: Apache-2.0
//! Listeners: what is told apart by address, by name, by what is spoken.

mod shop;

use std::time::Duration;

use remora_compile::{AccessLog, MeshSettings, OutboundPolicy, ResourceSet, Scope, compile};
use remora_model::*;
use remora_xds_types::{ResourceType, json};
use serde_json::json;

use shop::small::*;

#[test]
fn unknown_destinations_are_refused_where_only_the_registry_counts() {
    let settings = MeshSettings {
        outbound: OutboundPolicy::RegistryOnly,
        ..MeshSettings::default()
    };
    let set = with_settings(world(vec![web()], Vec::new(), Vec::new()), settings);
    for listener in ["virtualOutbound", "0.0.0.0_80"] {
        let shown = show(&set, ResourceType::Listener, listener);
        let rest = &shown["default_filter_chain"]["filters"][0]["typed_config"];
        assert_eq!(rest["cluster"], "BlackHoleCluster", "{listener}");
    }
    let others = show(&set, ResourceType::Route, "80")["virtual_hosts"][1].clone();
    assert_eq!(others["name"], "block_all");
    assert_eq!(others["routes"][0]["direct_response"]["status"], 502);
}

#[test]
fn services_at_one_address_are_told_apart_by_host_and_the_first_takes_the_rest() {
    let address = || shop::addresses("10.9.9.9", AddressOrigin::Declared);
    let entry = |name, protocol| shop::entry(name, address(), &[(80, protocol)]);
    let services = vec![
        entry("b.test", Protocol::Http),
        entry("a.test", Protocol::Http),
    ];
    let set = of(world(services, Vec::new(), Vec::new()));
    let listener = show(&set, ResourceType::Listener, "10.9.9.9_80").to_string();
    assert!(
        listener.contains(r#""route_config_name":"10.9.9.9_80""#),
        "{listener}"
    );
    let table = show(&set, ResourceType::Route, "10.9.9.9_80");
    let domains: Vec<_> = [0, 1]
        .map(|at| table["virtual_hosts"][at]["domains"].clone())
        .into();
    assert_eq!(
        domains,
        [json!(["a.test", "a.test.", "10.9.9.9"]), json!(["*"])]
    );
}

#[test]
fn http_and_tcp_at_one_address_are_told_apart_by_what_is_spoken() {
    let address = || shop::addresses("10.9.9.9", AddressOrigin::Declared);
    let services = vec![
        shop::entry("tcp.test", address(), &[(80, Protocol::Tcp)]),
        shop::entry("http.test", address(), &[(80, Protocol::Http)]),
    ];
    let set = of(world(services, Vec::new(), Vec::new()));
    let listener = show(&set, ResourceType::Listener, "10.9.9.9_80");
    let chain = &listener["filter_chains"][0]["filter_chain_match"];
    assert_eq!(
        chain["application_protocols"],
        json!(["http/1.0", "http/1.1", "h2c"])
    );
    let rest = &listener["default_filter_chain"]["filters"][0]["typed_config"];
    assert_eq!(rest["cluster"], "outbound|80||tcp.test");
    let table = show(&set, ResourceType::Route, "10.9.9.9_80");
    assert_eq!(table["virtual_hosts"].as_array().map(Vec::len), Some(1));
    let action = &table["virtual_hosts"][0]["routes"][0]["route"];
    assert_eq!(action["cluster"], "outbound|80||http.test");
}

#[test]
fn tls_at_one_address_is_told_apart_by_server_name() {
    let address = || shop::addresses("10.9.9.9", AddressOrigin::Declared);
    let entry = |name| shop::entry(name, address(), &[(443, Protocol::Tls)]);
    let set = of(world(
        vec![entry("a.test"), entry("b.test")],
        Vec::new(),
        Vec::new(),
    ));
    let listener = show(&set, ResourceType::Listener, "10.9.9.9_443");
    let chains = listener["filter_chains"].as_array().expect("has chains");
    let names: Vec<_> = chains
        .iter()
        .map(|c| &c["filter_chain_match"]["server_names"])
        .collect();
    assert_eq!(names, [&json!(["a.test"]), &json!(["b.test"])]);
    let filters = listener["listener_filters"].as_array().map(Vec::len);
    assert_eq!(filters, Some(1), "only TLS is looked for");
}

#[test]
fn a_range_has_chains_of_its_own_and_spells_out_the_rest() {
    let range = shop::addresses("10.8.0.0/16 fd00:8::/32", AddressOrigin::Declared);
    let set = of(world(
        vec![shop::entry("wide.test", range, &[(8080, Protocol::Auto)])],
        Vec::new(),
        Vec::new(),
    ));
    let listener = show(&set, ResourceType::Listener, "0.0.0.0_8080");
    let chains = listener["filter_chains"].as_array().expect("has chains");
    let names: Vec<_> = chains
        .iter()
        .map(|c| c["name"].as_str().expect("is text"))
        .collect();
    let each = |net: &str| ["http", "tcp", "tls"].map(|kind| format!("{net}|{kind}"));
    assert_eq!(names, [each("10.8.0.0/16"), each("fd00:8::/32")].concat());
    assert_eq!(
        chains[1]["filter_chain_match"]["transport_protocol"],
        "raw_buffer"
    );
    assert_eq!(names.len(), 6);
}

#[test]
fn a_headless_service_is_called_where_it_was_dialled_unless_a_rule_speaks() {
    let headless = || Service {
        resolution: Resolution::Headless,
        addresses: Vec::new(),
        ..web()
    };
    let plain = of(world(vec![headless()], Vec::new(), Vec::new()));
    let action = |set: &ResourceSet| {
        let table = show(set, ResourceType::Route, WEB_TABLE);
        table["virtual_hosts"][0]["routes"][0]["route"]["cluster"].clone()
    };
    assert_eq!(names(&plain, ResourceType::Listener)[1], "10.1.0.1_80");
    let direct = "direct|80||web.shop.svc.cluster.local";
    assert_eq!(action(&plain), direct);
    assert_eq!(
        show(&plain, ResourceType::Cluster, direct)["type"],
        "ORIGINAL_DST"
    );
    let rule = shop::rule(
        "shop",
        "web",
        &[WEB],
        vec![shop::route(Vec::new(), to_web())],
    );
    let ruled = of(world(vec![headless()], vec![rule], Vec::new()));
    assert_eq!(action(&ruled), WEB_CLUSTER);
    assert_eq!(
        show(&ruled, ResourceType::Cluster, WEB_CLUSTER)["type"],
        "EDS"
    );
}

#[test]
fn an_address_made_up_by_the_mesh_is_not_dialled_for_those_who_choose_theirs() {
    let service = |resolution| Service {
        resolution,
        ..shop::entry(
            "any.test",
            shop::addresses("240.240.0.9", AddressOrigin::Allocated),
            &[(80, Protocol::Http)],
        )
    };
    let placed = of(world(
        vec![service(Resolution::Dns)],
        Vec::new(),
        Vec::new(),
    ));
    assert!(
        placed
            .find(ResourceType::Listener, "240.240.0.9_80")
            .is_some()
    );
    let unplaced = of(world(
        vec![service(Resolution::Passthrough)],
        Vec::new(),
        Vec::new(),
    ));
    assert!(
        unplaced
            .find(ResourceType::Listener, "240.240.0.9_80")
            .is_none()
    );
    let table = show(&unplaced, ResourceType::Route, "80");
    assert_eq!(table["virtual_hosts"][0]["domains"][0], "any.test");
    let names = show(&unplaced, ResourceType::NameTable, "name-table");
    assert_eq!(names, json!({}));
}

#[test]
fn tcp_and_tls_rules_route_connections() {
    let service = shop::service(
        "shop",
        "web",
        "10.96.1.1",
        &[(443, Protocol::Tls), (5432, Protocol::Tcp)],
    );
    let l4 = |port, net: &str| L4Match {
        destination: net
            .split_whitespace()
            .map(|n| n.parse().expect("a net"))
            .collect(),
        port: Some(shop::port(port)),
        source: SourceMatch::default(),
    };
    let subsets = |v1, v2| vec![shop::to(WEB, "v1", v1), shop::to(WEB, "v2", v2)];
    let rule = RouteRule {
        tls: vec![TlsRoute {
            matches: vec![TlsMatch {
                sni: vec![shop::host("a.test"), shop::host("*.b.test")],
                l4: l4(443, ""),
            }],
            destinations: subsets(1, 3),
        }],
        tcp: vec![
            TcpRoute {
                matches: vec![l4(5432, "10.99.0.0/16")],
                destinations: subsets(1, 1),
            },
            TcpRoute {
                matches: vec![l4(5432, "10.96.0.0/16")],
                destinations: subsets(9, 1),
            },
        ],
        ..shop::rule("shop", "web", &[WEB], Vec::new())
    };
    let pool = EffectivePolicy {
        connection_pool: Some(ConnectionPool {
            tcp_idle_timeout: Some(Duration::from_secs(60)),
            ..ConnectionPool::default()
        }),
        ..EffectivePolicy::default()
    };
    let set = of(world(vec![service], vec![rule], vec![policy(pool)]));
    let tcp = show(&set, ResourceType::Listener, "10.96.1.1_5432");
    let proxy = &tcp["filter_chains"][0]["filters"][0]["typed_config"];
    let cluster = |port: u16, subset: &str| format!("outbound|{port}|{subset}|{WEB}");
    assert_eq!(
        proxy["weighted_clusters"]["clusters"],
        json!([{"name": cluster(5432, "v1"), "weight": 9}, {"name": cluster(5432, "v2"), "weight": 1}])
    );
    assert_eq!(proxy["idle_timeout"], "60s");
    let tls = show(&set, ResourceType::Listener, "10.96.1.1_443");
    let chains = tls["filter_chains"].as_array().expect("has chains");
    let names: Vec<_> = chains
        .iter()
        .map(|c| &c["filter_chain_match"]["server_names"][0])
        .collect();
    assert_eq!(names, ["a.test", "*.b.test"]);
    let rest = &tls["default_filter_chain"]["filters"][0]["typed_config"];
    assert_eq!(rest["cluster"], cluster(443, ""));
}

#[test]
fn the_sidecars_own_ports_are_never_anyones() {
    let service = shop::service(
        "shop",
        "web",
        "10.96.1.1",
        &[(15001, Protocol::Http), (15006, Protocol::Http)],
    );
    let scope = Scope {
        addresses: [shop::ip("10.1.0.1")].into(),
        ..Scope::new(shop::namespace("shop"))
    };
    let set = compile(
        &shop::model(world(vec![service], Vec::new(), Vec::new())),
        &scope,
    );
    let listeners = names(&set, ResourceType::Listener);
    let expected = [
        "10.96.1.1_15001",
        "10.96.1.1_15006",
        "virtualInbound",
        "virtualOutbound",
    ];
    assert_eq!(listeners, expected);
    let inbound = show(&set, ResourceType::Listener, "virtualInbound");
    assert_eq!(
        inbound["filter_chains"].as_array().map(Vec::len),
        Some(1),
        "only the guard"
    );
}

#[test]
fn a_workload_with_an_ipv6_address_is_reached_by_both_families() {
    let scope = Scope {
        addresses: [shop::ip("10.0.0.2"), shop::ip("fd00::2")].into(),
        ..Scope::new(shop::namespace("shop"))
    };
    let set = compile(&shop::model(shop::parts(1, 1)), &scope);
    for name in ["virtualInbound", "virtualOutbound", "0.0.0.0_80"] {
        let shown = show(&set, ResourceType::Listener, name);
        let second = &shown["additional_addresses"][0]["address"]["socket_address"];
        assert_eq!(second["address"], "::", "{name}");
    }
    let shown = show(&set, ResourceType::Cluster, "inbound|8080||");
    let bind = &shown["upstream_bind_config"];
    assert_eq!(bind["source_address"]["address"], "127.0.0.6");
    assert_eq!(
        bind["extra_source_addresses"][0]["address"]["address"],
        "::6"
    );
}

#[test]
fn access_is_logged_only_where_the_mesh_says() {
    let parts = || world(vec![web()], Vec::new(), Vec::new());
    let silent = with_settings(parts(), MeshSettings::default());
    assert!(
        !show(&silent, ResourceType::Listener, "virtualOutbound")
            .to_string()
            .contains("log")
    );
    let settings = MeshSettings {
        access_log: Some(AccessLog {
            path: "/dev/stdout".into(),
            format: Some("%START_TIME%\n".into()),
        }),
        ..MeshSettings::default()
    };
    let set = with_settings(parts(), settings);
    let outbound = show(&set, ResourceType::Listener, "virtualOutbound");
    let log = json!({
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": "/dev/stdout",
        "log_format": {"text_format_source": {"inline_string": "%START_TIME%\n"}},
    });
    assert_eq!(
        outbound["access_log"][0]["filter"]["response_flag_filter"]["flags"],
        json!(["NR"])
    );
    assert_eq!(outbound["access_log"][0]["typed_config"], log);
    let vip = show(&set, ResourceType::Listener, "10.96.1.1_80");
    let manager = &vip["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["access_log"][0]["typed_config"], log);
}

#[test]
fn objects_that_a_namespace_may_not_see_do_not_concern_it() {
    let hidden = || Visibility::Namespaces([shop::namespace("mail")].into());
    let secret = Service {
        visibility: hidden(),
        ..shop::service("mail", "secret", "10.96.1.9", &[(80, Protocol::Http)])
    };
    let rule = RouteRule {
        visibility: hidden(),
        ..shop::rule(
            "mail",
            "web",
            &[WEB],
            vec![shop::route(
                Vec::new(),
                shop::forward(vec![shop::to("x.test", "", 1)]),
            )],
        )
    };
    let set = of(world(vec![web(), secret], vec![rule], Vec::new()));
    for resource in set.iter() {
        let text = json::to_json(resource.kind.url(), &resource.body)
            .expect("own bytes")
            .to_string();
        assert!(
            !text.contains("secret") && !text.contains("x.test"),
            "{}",
            resource.name
        );
    }
}
