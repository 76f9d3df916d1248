// SPDX-License-Identifier: Apache-2.0
//! Route tables: what of a rule is sent, in which words.

mod shop;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use remora_compile::{Capabilities, Scope, compile};
use remora_model::*;
use remora_primitives::Percent;
use remora_xds_types::ResourceType;
use serde_json::{Value, json};

use shop::small::*;

#[test]
fn paths_headers_and_queries_are_matched_as_written() {
    let header = |name: &str, value: Option<StringMatch>, inverted| HeaderMatch {
        name: name.into(),
        value,
        inverted,
    };
    let all = HttpMatch {
        name: "all".into(),
        path: Some(PathMatch {
            path: StringMatch::Exact("/Cart".into()),
            ignore_case: true,
        }),
        scheme: None,
        method: Some(StringMatch::Exact("GET".into())),
        authority: Some(StringMatch::Prefix("web".into())),
        headers: vec![
            header("x-id", Some(StringMatch::Regex("[0-9]+".into())), false),
            header("x-any", None, false),
            header("x-not", Some(StringMatch::Exact("1".into())), true),
            header("x-none", None, true),
        ],
        query: vec![QueryMatch {
            name: "q".into(),
            value: Some(StringMatch::Prefix("a".into())),
        }],
        ..HttpMatch::default()
    };
    let mut route = shop::route(
        vec![
            all,
            when(StringMatch::Prefix("/api".into())),
            when(StringMatch::Regex("/r/.*".into())),
        ],
        to_web(),
    );
    route.name = "cart".into();
    let routes = routes(vec![route]);
    assert_eq!(routes[0]["name"], "cart.all");
    let exact = |value: &str| json!({"exact": value});
    assert_eq!(
        routes[0]["match"],
        json!({
            "path": "/Cart",
            "case_sensitive": false,
            "headers": [
                {"name": ":method", "string_match": exact("GET")},
                {"name": ":authority", "string_match": {"prefix": "web"}},
                {"name": "x-id", "string_match": {"safe_regex": {"regex": "[0-9]+"}}},
                {"name": "x-any", "present_match": true},
                {"name": "x-not", "invert_match": true, "string_match": exact("1"),
                 "treat_missing_header_as_empty": true},
                {"name": "x-none", "present_match": true, "invert_match": true},
            ],
            "query_parameters": [{"name": "q", "string_match": {"prefix": "a"}}],
        })
    );
    assert_eq!(routes[1]["match"], json!({"prefix": "/api"}));
    assert_eq!(
        routes[2]["match"],
        json!({"safe_regex": {"regex": "/r/.*"}})
    );
}

#[test]
fn routes_for_other_ports_and_callers_and_behind_a_catch_all_are_left_out() {
    let port = |number| HttpMatch {
        port: Some(shop::port(number)),
        ..HttpMatch::default()
    };
    let from = |namespace: &str| HttpMatch {
        source: SourceMatch {
            labels: Labels::default(),
            namespace: Some(shop::namespace(namespace)),
        },
        ..when(StringMatch::Prefix("/from".into()))
    };
    let labelled = HttpMatch {
        source: SourceMatch {
            labels: [("app", "php")].into_iter().collect(),
            namespace: None,
        },
        ..when(StringMatch::Prefix("/php".into()))
    };
    let named = |name: &str, matches| HttpRoute {
        name: name.into(),
        ..shop::route(matches, to_web())
    };
    let found = routes(vec![
        named("other-port", vec![port(81)]),
        named("other-caller", vec![from("mail")]),
        named("other-labels", vec![labelled]),
        named("mine", vec![from("shop"), port(81)]),
        named("all", vec![port(80)]),
        named("never", Vec::new()),
    ]);
    let found: Vec<_> = found.iter().map(|route| &route["name"]).collect();
    assert_eq!(found, ["mine", "all"]);
}

#[test]
fn a_rule_without_routes_for_a_port_leaves_the_port_as_it_is() {
    let only_81 = HttpMatch {
        port: Some(shop::port(81)),
        ..HttpMatch::default()
    };
    let found = routes(vec![shop::route(vec![only_81], to_web())]);
    assert_eq!(found[0]["name"], "default");
    assert_eq!(found[0]["route"]["cluster"], WEB_CLUSTER);
}

#[test]
fn destinations_name_the_port_written_or_the_only_one_or_the_callers() {
    let two_ports = [(8080, Protocol::Http), (80, Protocol::Http)];
    let services = vec![
        web(),
        shop::service("shop", "one", "10.96.1.2", &[(8080, Protocol::Http)]),
        shop::service("shop", "two", "10.96.1.3", &two_ports),
    ];
    let host = |name: &str| format!("{name}.shop.svc.cluster.local");
    let mut written = shop::to(&host("two"), "", 1);
    written.destination.port = Some(shop::port(8080));
    let destinations = vec![
        shop::to(&host("one"), "", 1),
        shop::to(&host("two"), "", 2),
        written,
    ];
    let route = shop::route(Vec::new(), shop::forward(destinations));
    let rule = shop::rule("shop", "web", &[WEB], vec![route]);
    let set = of(world(services, vec![rule], Vec::new()));
    let table = show(&set, ResourceType::Route, WEB_TABLE);
    let weighted = &table["virtual_hosts"][0]["routes"][0]["route"]["weighted_clusters"];
    let found = weighted["clusters"]
        .as_array()
        .expect("has clusters")
        .iter();
    let found: Vec<_> = found
        .map(|c| c["name"].as_str().expect("is text"))
        .collect();
    let cluster = |port: u16, name: &str| format!("outbound|{port}||{}", host(name));
    assert_eq!(
        found,
        [
            cluster(8080, "one"),
            cluster(80, "two"),
            cluster(8080, "two")
        ]
    );
}

#[test]
fn actions_say_what_is_written_and_no_more() {
    let mut forward = to_web();
    forward.retries = None;
    forward.rewrite = Rewrite {
        path: Some(PathRewrite::Matched("/new".into())),
        authority: Some("other.test".into()),
    };
    let redirect = Redirect {
        code: 308,
        scheme: Some("https".into()),
        authority: None,
        port: Some(RedirectPort::FromRequest),
        path: Some("%PREFIX()%/v2".into()),
        prefix: None,
    };
    let respond = DirectResponse {
        status: 418,
        body: b"teapot".as_slice().into(),
    };
    let on = |path: &str, action| HttpRoute {
        action,
        ..shop::route(vec![when(StringMatch::Prefix(path.into()))], to_web())
    };
    let found = routes(vec![
        on("/a", HttpAction::Forward(Box::new(forward))),
        on("/b", HttpAction::Redirect(redirect)),
        on("/c", HttpAction::Respond(respond)),
    ]);
    assert_eq!(
        found[0]["route"],
        json!({"cluster": WEB_CLUSTER, "timeout": "0s", "prefix_rewrite": "/new",
               "host_rewrite_literal": "other.test"})
    );
    assert_eq!(
        found[1]["redirect"],
        json!({"response_code": "PERMANENT_REDIRECT", "scheme_redirect": "https",
               "port_redirect": 80, "prefix_rewrite": "/v2"})
    );
    assert_eq!(
        found[2]["direct_response"],
        json!({"status": 418, "body": {"inline_bytes": "dGVhcG90"}})
    );
}

#[test]
fn header_edits_become_the_apis_and_the_authority_is_rewritten_in_its_own_place() {
    let pair = |name: &str, value: &str| (Arc::from(name), Arc::from(value));
    let edits = HeaderEdits {
        request: HeaderEdit {
            set: vec![pair("x-set", "1"), pair(":authority", "edge.test")],
            add: vec![pair("x-add", "")],
            remove: vec!["x-gone".into(), "host".into()],
        },
        response: HeaderEdit {
            remove: vec!["server".into()],
            ..HeaderEdit::default()
        },
    };
    let mut one = to_web();
    one.destinations[0].headers = edits.clone();
    let mut two = shop::forward(vec![shop::to(WEB, "", 1), shop::to(WEB, "", 3)]);
    two.destinations[1].headers = edits;
    let path = |path: &str| vec![when(StringMatch::Prefix(path.into()))];
    let found = routes(vec![
        shop::route(path("/one"), one),
        shop::route(path("/two"), two),
    ]);
    let weighted = &found[1]["route"]["weighted_clusters"]["clusters"];
    let option = |name: &str, value: &str, action: &str| json!({"header": {"key": name, "value": value}, "append_action": action});
    let set = option("x-set", "1", "OVERWRITE_IF_EXISTS_OR_ADD");
    for (edited, rewritten) in [
        (&found[0], &found[0]["route"]["host_rewrite_literal"]),
        (&weighted[1], &weighted[1]["host_rewrite_literal"]),
    ] {
        assert_eq!(*rewritten, "edge.test");
        assert_eq!(edited["request_headers_to_add"][0], set);
        assert_eq!(
            edited["request_headers_to_add"][1]["keep_empty_value"],
            true
        );
        assert_eq!(
            edited["request_headers_to_add"][2],
            Value::Null,
            "no authority as a header"
        );
        assert_eq!(edited["request_headers_to_remove"], json!(["x-gone"]));
        assert_eq!(edited["response_headers_to_remove"], json!(["server"]));
    }
    assert_eq!(weighted[0]["request_headers_to_add"], Value::Null);
}

#[test]
fn retries_say_words_codes_times_and_where_not_to_go_again() {
    let mut forward = to_web();
    forward.retries = Some(RetryPolicy {
        attempts: NonZeroU32::new(4).expect("not zero"),
        per_try_timeout: Some(Duration::from_secs(1)),
        on: vec![RetryOn::GatewayError, RetryOn::RetriableStatusCodes],
        status_codes: vec![503, 429],
        remote_localities: true,
        ignore_previous_hosts: false,
        backoff: Some(Duration::from_millis(40)),
    });
    let route = shop::route(Vec::new(), forward);
    let rule = shop::rule("shop", "web", &[WEB], vec![route]);
    let model = shop::model(world(vec![web()], vec![rule], Vec::new()));
    let policy = |retry_priorities| {
        let scope = Scope {
            capabilities: Capabilities {
                retry_priorities,
                ..Capabilities::default()
            },
            ..Scope::new(shop::namespace("shop"))
        };
        let table = show(&compile(&model, &scope), ResourceType::Route, WEB_TABLE);
        table["virtual_hosts"][0]["routes"][0]["route"]["retry_policy"].clone()
    };
    let plain = policy(false);
    assert_eq!(plain["retry_on"], "gateway-error,retriable-status-codes");
    assert_eq!(plain["retriable_status_codes"], json!([503, 429]));
    assert_eq!(plain["num_retries"], 4);
    assert_eq!(plain["retry_back_off"], json!({"base_interval": "0.040s"}));
    assert_eq!(plain["retry_host_predicate"], Value::Null);
    assert_eq!(plain["retry_priority"], Value::Null);
    let priority = &policy(true)["retry_priority"]["typed_config"];
    assert_eq!(priority["update_frequency"], 2);
}

#[test]
fn mirrors_of_nothing_are_not_sent() {
    let mut forward = to_web();
    let mirror = |percent: f64| Mirror {
        destination: shop::destination(WEB, ""),
        share: Percent::try_new(percent).expect("a share"),
    };
    forward.mirrors = vec![mirror(0.0), mirror(100.0), mirror(0.0001)];
    let found = routes(vec![shop::route(Vec::new(), forward)]);
    let mirrors = found[0]["route"]["request_mirror_policies"]
        .as_array()
        .expect("has mirrors");
    let shares = mirrors
        .iter()
        .map(|m| &m["runtime_fraction"]["default_value"]["numerator"]);
    assert_eq!(shares.collect::<Vec<_>>(), [1_000_000, 1]);
}

#[test]
fn rules_for_hosts_that_no_service_has_count_on_port_80() {
    let routes = || vec![shop::route(Vec::new(), to_web())];
    let rules = vec![
        shop::rule(
            "shop",
            "free",
            &["free.example", "*.wild.example"],
            routes(),
        ),
        shop::rule("shop", "all", &["*"], routes()),
    ];
    let service = shop::service("shop", "web", "10.96.1.1", &[(8080, Protocol::Http)]);
    let set = of(world(vec![service], rules, Vec::new()));
    let table = show(&set, ResourceType::Route, "80");
    let hosts = table["virtual_hosts"].as_array().expect("has hosts").iter();
    let domains: Vec<_> = hosts.map(|host| host["domains"][0].clone()).collect();
    assert_eq!(domains, ["*.wild.example", "free.example", "*"]);
    assert_eq!(table["virtual_hosts"][2]["name"], "allow_any");
    let eight = show(&set, ResourceType::Route, "8080").to_string();
    assert!(!eight.contains("free.example"));
}

#[test]
fn weights_that_the_api_cannot_sum_keep_their_ratio() {
    let half = 1 << 31;
    let weights = [half, half / 2, half, 1];
    let destinations = weights.map(|weight| shop::to(WEB, "", weight)).to_vec();
    let found = routes(vec![shop::route(Vec::new(), shop::forward(destinations))]);
    let clusters = &found[0]["route"]["weighted_clusters"]["clusters"];
    let sent: Vec<_> = (0..4)
        .map(|at| clusters[at]["weight"].as_u64().expect("a weight"))
        .collect();
    assert!(sent.iter().sum::<u64>() <= u64::from(u32::MAX), "{sent:?}");
    assert_eq!((sent[0], sent[3]), (2 * sent[1], 1));
}

#[test]
fn rules_and_policies_may_concern_callers_by_their_labels() {
    let php = || -> Labels { [("app", "php")].into_iter().collect() };
    let test = HttpMatch {
        source: SourceMatch {
            labels: php(),
            namespace: None,
        },
        ..when(StringMatch::Prefix("/php".into()))
    };
    let rule = shop::rule(
        "shop",
        "web",
        &[WEB],
        vec![shop::route(vec![test], to_web())],
    );
    let selective = DestinationPolicy {
        workload_selector: php(),
        ..policy(EffectivePolicy {
            connection_pool: Some(ConnectionPool {
                max_connections: Some(3),
                ..ConnectionPool::default()
            }),
            ..EffectivePolicy::default()
        })
    };
    let model = shop::model(world(vec![web()], vec![rule], vec![selective]));
    let seen = |labels| {
        let scope = Scope {
            labels,
            ..Scope::new(shop::namespace("shop"))
        };
        let set = compile(&model, &scope);
        let table = show(&set, ResourceType::Route, WEB_TABLE);
        let cluster = show(&set, ResourceType::Cluster, WEB_CLUSTER);
        let limit = &cluster["circuit_breakers"]["thresholds"][0]["max_connections"];
        let first = &table["virtual_hosts"][0]["routes"][0]["match"]["prefix"];
        (first.clone(), limit.clone())
    };
    assert_eq!(seen(php()), (json!("/php"), json!(3)));
    assert_eq!(seen(Labels::default()), (json!("/"), json!(u32::MAX)));
}
