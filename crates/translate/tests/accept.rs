// SPDX-License-Identifier: Apache-2.0
//! What is accepted, and what becomes of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use remora_ir::access_log::Shape;
use remora_ir::action::{Action, Forward, PathRewrite, RetryOn, Target};
use remora_ir::cluster::{
    Cluster, Discovery, Limit, Policy, RetryLimit, SourceAddress, UpstreamProtocol,
};
use remora_ir::listener::{
    Bind, ConnectionFacts, Direction, Interception, Listener, Network, Routes,
};
use remora_ir::route::RouteTable;
use remora_translate::{Context, Notice, Protocol, Resource, bootstrap, resource};
use remora_xds_types::ResourceType;
use serde_json::Value;

fn translate(kind: ResourceType, yaml: &str) -> (Resource, Vec<Notice>) {
    let json: Value = serde_saphyr::from_str(yaml).expect("YAML");
    let bytes = remora_xds_types::json::from_json(kind.url(), &json).expect("a message");
    let ctx = Context::for_node(
        Default::default(),
        "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local",
    );
    match resource(kind, &bytes, &ctx) {
        Ok(translated) => (translated.value, translated.notices),
        Err(faults) => panic!("{faults}"),
    }
}

fn cluster(yaml: &str) -> Arc<Cluster> {
    match translate(ResourceType::Cluster, yaml).0 {
        Resource::Cluster(cluster) => cluster,
        other => panic!("{other:?}"),
    }
}

fn listener(yaml: &str) -> Arc<Listener> {
    match translate(ResourceType::Listener, yaml).0 {
        Resource::Listener(listener) => listener,
        other => panic!("{other:?}"),
    }
}

fn table(yaml: &str) -> Arc<RouteTable> {
    match translate(ResourceType::Route, yaml).0 {
        Resource::Route(table) => table,
        other => panic!("{other:?}"),
    }
}

fn forward(action: &Action) -> &Forward {
    match action {
        Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cluster_without_settings_has_envoys_defaults() {
    let cluster = cluster("{name: c, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}}");
    assert!(
        matches!(&cluster.discovery, Discovery::Eds { service_name } if &**service_name == "c")
    );
    assert_eq!(cluster.balancing.policy, Policy::RoundRobin);
    assert!((cluster.balancing.panic_threshold.get() - 50.0).abs() < f64::EPSILON);
    assert_eq!(cluster.connection.connect_timeout, Duration::from_secs(5));
    assert_eq!(
        cluster.connection.idle_timeout,
        Some(Duration::from_secs(3600))
    );
    assert_eq!(cluster.limits.default.requests, Limit::AtMost(1024));
    assert_eq!(
        cluster.limits.default.retries,
        RetryLimit::Fixed(Limit::AtMost(3))
    );
    assert_eq!(cluster.protocol, UpstreamProtocol::Http1);
    assert!(cluster.outlier.is_none());
}

#[test]
fn circuit_limits_and_ejection_are_as_istio_sends_them() {
    let cluster = cluster(
        r#"
name: outbound|80||sms
lb_policy: LEAST_REQUEST
circuit_breakers:
  thresholds:
  - { max_connections: 7, max_pending_requests: 4294967295, max_retries: 4294967295, track_remaining: true }
  - { priority: HIGH, max_requests: 1, retry_budget: { budget_percent: { value: 25 } } }
outlier_detection: { consecutive_5xx: 3, base_ejection_time: 400s, max_ejection_percent: 100, enforcing_success_rate: 0 }
upstream_bind_config: { source_address: { address: 127.0.0.6, port_value: 0 } }
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    common_http_protocol_options: { idle_timeout: 0s, max_requests_per_connection: 9 }
    explicit_http_config: { http2_protocol_options: { max_concurrent_streams: 5 } }
"#,
    );
    let choices = Policy::LeastRequest {
        choices: 2.try_into().expect("two"),
    };
    assert_eq!(cluster.balancing.policy, choices);
    let (default, high) = (cluster.limits.default, cluster.limits.high);
    assert_eq!(default.connections, Limit::AtMost(7));
    assert_eq!(default.pending, Limit::Unlimited);
    assert_eq!(default.retries, RetryLimit::Fixed(Limit::Unlimited));
    assert_eq!(high.requests, Limit::AtMost(1));
    assert!(matches!(
        high.retries,
        RetryLimit::Budget {
            min_concurrency: 3,
            ..
        }
    ));
    let outlier = cluster.outlier.expect("a policy");
    let five = outlier.consecutive_5xx.expect("on by default");
    assert_eq!((five.threshold.get(), five.enforcing), (3, 100));
    assert!(outlier.consecutive_gateway.is_none(), "off by default");
    assert!(outlier.consecutive_local_origin.is_none(), "not split");
    assert_eq!(
        outlier.max_ejection,
        Duration::from_secs(400),
        "not shorter than the base"
    );
    let source: SocketAddr = "127.0.0.6:0".parse().expect("address");
    assert_eq!(cluster.connection.source, SourceAddress::Fixed(source));
    assert_eq!(cluster.connection.idle_timeout, None);
    assert_eq!(cluster.connection.max_requests.map(u64::from), Some(9));
    let UpstreamProtocol::Http2(options) = cluster.protocol else {
        panic!("{:?}", cluster.protocol);
    };
    assert_eq!(options.max_concurrent_streams, 5);
}

#[test]
fn what_is_ignored_is_reported() {
    let yaml = "{name: c, dns_jitter: 1s, outlier_detection: {enforcing_success_rate: 100}}";
    let (_, notices) = translate(ResourceType::Cluster, yaml);
    let subjects: Vec<_> = notices.iter().map(|n| n.subject.as_str()).collect();
    let expected = [
        "envoy.config.cluster.v3.Cluster.dns_jitter",
        "envoy.config.cluster.v3.OutlierDetection.enforcing_success_rate",
    ];
    assert_eq!(subjects, expected);
}

#[test]
fn typed_policies_and_names_to_resolve() {
    let cluster = cluster(
        r#"
name: c
type: STRICT_DNS
dns_lookup_family: V4_PREFERRED
load_balancing_policy:
  policies:
  - typed_extension_config: { name: x, typed_config: { "@type": type.googleapis.com/google.protobuf.StringValue, value: unknown } }
  - typed_extension_config:
      name: second
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality
        endpoint_picking_policy:
          policies: [{ typed_extension_config: { name: z, typed_config: { "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random } } }]
load_assignment:
  cluster_name: c
  endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: A.test, port_value: 80 } } } }] }]
"#,
    );
    assert_eq!(cluster.balancing.policy, Policy::Random);
    assert!(cluster.balancing.locality_weighted);
    let Discovery::StrictDns(dns) = &cluster.discovery else {
        panic!("{:?}", cluster.discovery);
    };
    assert_eq!(dns.names[0].name.as_str(), "a.test");
}

#[test]
fn a_route_keeps_all_that_is_said_of_it() {
    let table = table(
        r#"
name: "80"
ignore_port_in_host_matching: true
request_mirror_policies: [{ cluster: copy, runtime_fraction: { default_value: { numerator: 5 } } }]
virtual_hosts:
- name: sms
  domains: [sms, sms.shop]
  retry_policy: { retry_on: "5xx, reset", num_retries: 4 }
  include_request_attempt_count: true
  routes:
  - match: { path_separated_prefix: /v2, headers: [{ name: user, string_match: { exact: rui } }] }
    route:
      weighted_clusters: { clusters: [{ name: a, weight: 90 }, { name: b, weight: 10 }, { name: c, weight: 0 }] }
      prefix_rewrite: /
      timeout: 0s
      max_grpc_timeout: 2s
    metadata: { filter_metadata: { istio: { config: /apis/x } } }
    request_headers_to_add: [{ header: { key: X-From, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%" }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }]
  - { match: { prefix: / }, route: { cluster: d } }
"#,
    );
    let host = table
        .virtual_host(b"SMS:80")
        .expect("found without its port");
    assert!(host.attempt_count_in_request);
    let retry = host.retry.as_ref().expect("a policy");
    assert_eq!(
        (retry.on, retry.retries),
        (RetryOn::SERVER_ERROR.union(RetryOn::RESET), 4)
    );
    let canary = forward(&host.routes[0].action);
    let Target::Weighted(weighted) = &canary.target else {
        panic!("{:?}", canary.target);
    };
    assert_eq!(
        weighted.clusters().len(),
        2,
        "a weight of zero gets nothing"
    );
    assert!(matches!(&canary.rewrite.path, Some(PathRewrite::Prefix(prefix)) if &**prefix == b"/"));
    assert_eq!(canary.timeouts.overall, None);
    assert_eq!(canary.timeouts.grpc_max, Some(Some(Duration::from_secs(2))));
    assert_eq!(canary.mirrors.len(), 1, "inherited from the table");
    assert_eq!(host.routes[0].origin.as_deref(), Some("/apis/x"));
    assert_eq!(host.routes[0].edits.request.set[0].name.as_str(), "x-from");
    let plain = forward(&host.routes[1].action);
    assert_eq!(plain.timeouts.overall, Some(Duration::from_secs(15)));
}

const HTTP: &str = r#"
name: 0.0.0.0_80
address: { socket_address: { address: 0.0.0.0, port_value: 80 } }
bind_to_port: false
traffic_direction: OUTBOUND
continue_on_listener_filters_timeout: true
listener_filters_timeout: 0s
listener_filters:
- { name: h, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector } }
filter_chains:
- filter_chain_match: { transport_protocol: raw_buffer, application_protocols: [http/1.1, h2c] }
  filters:
  - name: http
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: out
      rds: { route_config_name: "80", config_source: { ads: {} } }
      normalize_path: true
      stream_idle_timeout: 0s
      upgrade_configs: [{ upgrade_type: WebSocket }]
      access_log:
      - { name: f, typed_config: { "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout } }
      http_filters:
      - { name: mx, typed_config: { "@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/stats.PluginConfig, value: {} } }
      - { name: unknown, is_optional: true, typed_config: { "@type": type.googleapis.com/google.protobuf.StringValue, value: x } }
      - { name: fault, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault } }
      - { name: router, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }
default_filter_chain:
  filters:
  - { name: t, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: PassthroughCluster } }
"#;

#[test]
fn an_outbound_listener_as_istio_sends_it() {
    let listener = listener(HTTP);
    assert_eq!(
        (listener.bind, listener.direction),
        (Bind::Nothing, Direction::Outbound)
    );
    assert!(listener.inspect.http && !listener.inspect.tls);
    assert_eq!(listener.inspect.timeout, None);
    let facts = |application_protocols| ConnectionFacts {
        destination: "10.0.0.1:80".parse().expect("address"),
        source: "10.0.0.2:1".parse().expect("address"),
        server_name: "",
        is_tls: false,
        application_protocols,
    };
    let chain = listener
        .chains
        .find(&facts(&["h2c"]))
        .found()
        .expect("a chain");
    let Network::Http(http) = &chain.network else {
        panic!("{chain:?}");
    };
    assert!(matches!(&http.routes, Routes::Named(name) if name.as_str() == "80"));
    assert!(http.path.normalize);
    assert_eq!(http.timeouts.stream_idle, None);
    assert_eq!(http.timeouts.idle, Some(Duration::from_secs(3600)));
    assert_eq!(&*http.upgrades[0].protocol, "websocket");
    assert_eq!(
        (http.limits.max_head, http.limits.max_fields),
        (60 * 1024, 100)
    );
    assert!(matches!(&http.access_logs[0].shape, Shape::Text(format) if format.0.len() > 15));
    let other = listener
        .chains
        .find(&facts(&[]))
        .found()
        .expect("the default");
    assert!(matches!(&other.network, Network::Tcp(_)));
}

#[test]
fn tolerated_filters_are_reported() {
    let (_, notices) = translate(ResourceType::Listener, HTTP);
    let subjects: Vec<_> = notices.iter().map(|n| n.subject.as_str()).collect();
    let expected = [
        "stats.PluginConfig",
        "google.protobuf.StringValue",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
    ];
    assert_eq!(subjects, expected);
}

#[test]
fn interception_follows_the_listener() {
    let table = [
        ("use_original_dst: true", Interception::Redirect, true),
        ("transparent: true", Interception::Transparent, false),
        (
            "listener_filters: [{name: o, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}]",
            Interception::Redirect,
            false,
        ),
        ("name: l", Interception::None, false),
    ];
    for (line, interception, hand_off) in table {
        let rest = HTTP
            .replace("name: 0.0.0.0_80\n", "")
            .replace("listener_filters:\n", "");
        let rest = rest
            .lines()
            .filter(|l| !l.contains("HttpInspector"))
            .collect::<Vec<_>>();
        let name = if line == "name: l" { "" } else { "name: l\n" };
        let listener = listener(&format!("{name}{line}\n{}", rest.join("\n")));
        assert_eq!(
            (listener.interception, listener.hand_off),
            (interception, hand_off),
            "{line}"
        );
    }
}

#[test]
fn dropped_shares_apply_one_after_the_other() {
    let yaml = "{cluster_name: c, policy: {drop_overloads: [{drop_percentage: {numerator: 30}}, {drop_percentage: {numerator: 20}}]}}";
    let (Resource::Endpoints(_, set), _) = translate(ResourceType::Endpoint, yaml) else {
        panic!("endpoints");
    };
    let drop = set.drop.expect("some").get();
    assert!((drop - 44.0).abs() < 1e-9, "{drop}");
}

#[test]
fn services_answer_to_their_short_names() {
    let yaml = r#"
table:
  sms.shop.svc.cluster.local: { ips: [10.0.0.1], registry: Kubernetes, shortname: sms, namespace: shop }
  mail.other.svc.cluster.local: { ips: [10.0.0.2], registry: Kubernetes, shortname: mail, namespace: other }
  cdn.test: { ips: [240.240.0.1, "fd00::1"], registry: External }
  sms.shop: { ips: [10.0.0.9] }
"#;
    let (Resource::Names(names), _) = translate(ResourceType::NameTable, yaml) else {
        panic!("names");
    };
    let first = |name| {
        names
            .find(name)
            .and_then(|entry| entry.v4.first())
            .map(ToString::to_string)
    };
    let table = [
        ("sms.shop.svc.cluster.local", Some("10.0.0.1")),
        ("sms.shop.svc", Some("10.0.0.1")),
        ("sms", Some("10.0.0.1")),
        ("sms.shop", Some("10.0.0.9")),
        ("mail.other", Some("10.0.0.2")),
        ("mail", None),
        ("cdn.test", Some("240.240.0.1")),
    ];
    for (name, expected) in table {
        assert_eq!(first(name).as_deref(), expected, "{name}");
    }
    assert_eq!(names.find("cdn.test").expect("found").v6.len(), 1);
    assert_eq!(
        names.find("sms.shop").expect("found").v4.len(),
        1,
        "not both"
    );
}

const BOOTSTRAP: &str = r#"
node: { id: sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local, cluster: web.shop }
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 15000 } } }
layered_runtime: { layers: [{ name: s, static_layer: {} }] }
dynamic_resources:
  ads_config: { api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{ envoy_grpc: { cluster_name: xds } }] }
  cds_config: { ads: {}, resource_api_version: V3 }
  lds_config: { ads: {}, resource_api_version: V3 }
static_resources:
  clusters:
  - name: xds
    type: STRICT_DNS
    connect_timeout: 1s
    http2_protocol_options: {}
    load_assignment:
      cluster_name: xds
      endpoints:
      - lb_endpoints:
        - { endpoint: { address: { socket_address: { address: control.test, port_value: 15010 } } } }
        - { endpoint: { address: { socket_address: { address: 10.0.0.1, port_value: 15010 } } } }
"#;

#[test]
fn a_bootstrap_file_says_who_steers() {
    let translated = bootstrap(BOOTSTRAP, &Default::default()).expect("accepted");
    let file = translated.value;
    assert_eq!(file.node.cluster, "web.shop");
    assert_eq!(
        (&*file.context.namespace, &*file.context.dns_domain),
        ("shop", "shop.svc.cluster.local")
    );
    assert_eq!(file.admin.map(|admin| admin.address.port()), Some(15000));
    let control = file.control_plane.expect("one");
    assert_eq!(control.protocol, Protocol::Delta);
    assert_eq!(control.connect_timeout, Duration::from_secs(1));
    assert!(control.listeners && control.clusters);
    let targets: Vec<_> = control.targets.iter().map(|t| format!("{t:?}")).collect();
    assert!(targets[0].contains("control.test") && targets[1].contains("10.0.0.1:15010"));
    assert_eq!(file.clusters.len(), 1);
    assert_eq!(
        translated.notices[0].subject,
        "envoy.config.bootstrap.v3.Bootstrap.layered_runtime"
    );
}

#[test]
fn a_bootstrap_file_that_cannot_be_followed_is_refused() {
    let table = [
        (
            "cluster_name: xds }",
            "cluster_name: other }",
            "bootstrap: dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: no static cluster `other` was accepted",
        ),
        (
            "api_type: DELTA_GRPC",
            "api_type: REST",
            "bootstrap: dynamic_resources.ads_config.api_type: not supported: only `GRPC` and `DELTA_GRPC`",
        ),
        (
            "id: sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local, ",
            "",
            "bootstrap: node: has no id or no cluster, which the control plane asks for",
        ),
        (
            "lds_config: { ads: {}",
            "lds_config: { path_config_source: { path: /x }",
            "bootstrap: dynamic_resources.lds_config: not supported: a source other than `ads`",
        ),
        (
            "address: 127.0.0.1,",
            "address: localhost,",
            "bootstrap: admin.address: `localhost` is not an IP address",
        ),
        (
            "layered_runtime: {",
            "hds_config: {}\nlayered_runtime: {",
            "bootstrap: hds_config: not supported: health discovery",
        ),
    ];
    for (from, to, expected) in table {
        let text = BOOTSTRAP.replace(from, to);
        assert_ne!(text, BOOTSTRAP, "{from}");
        let faults = bootstrap(&text, &Default::default()).expect_err(expected);
        assert_eq!(faults.to_string(), expected);
    }
    assert!(bootstrap("node: [", &Default::default()).is_err());
}
