// SPDX-License-Identifier: Apache-2.0
//! A small world to compile: a shop with every kind of service that shapes configuration.

// Each test binary uses its own part of it.
#![allow(dead_code, reason = "shared by several test binaries")]

pub(crate) mod small;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use remora_compile::Scope;
use remora_model::*;
use remora_primitives::{HostName, Percent, Port, Weight};

pub(crate) fn port(number: u16) -> Port {
    Port::new(number).expect("not zero")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn host(text: &str) -> Host {
    Host::try_new(text).expect("a host")
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace::try_new(name).expect("a namespace")
}

pub(crate) fn origin(kind: ObjectKind, ns: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind,
        namespace: namespace(ns),
        name: name.into(),
        file: "shop.yaml".into(),
        line: 1,
    }
}

/// A service of the cluster: `name.ns.svc.cluster.local`.
pub(crate) fn service(ns: &str, name: &str, vip: &str, ports: &[(u16, Protocol)]) -> Service {
    Service {
        host: host(&format!("{name}.{ns}.svc.cluster.local")),
        namespace: namespace(ns),
        name: name.into(),
        registry: Registry::Cluster,
        ports: ports
            .iter()
            .map(|(n, protocol)| service_port(*n, *protocol))
            .collect(),
        addresses: addresses(vip, AddressOrigin::Declared),
        resolution: Resolution::Static,
        placement: Placement::Internal,
        visibility: Visibility::Everyone,
        origin: origin(ObjectKind::Service, ns, name),
    }
}

/// A service beyond the mesh.
pub(crate) fn entry(
    name: &str,
    addresses: Vec<ServiceAddress>,
    ports: &[(u16, Protocol)],
) -> Service {
    Service {
        host: host(name),
        registry: Registry::Entry,
        placement: Placement::External,
        addresses,
        origin: origin(ObjectKind::ServiceEntry, "shop", &name.replace('*', "any")),
        ..service("shop", "entry", "", ports)
    }
}

pub(crate) fn addresses(nets: &str, origin: AddressOrigin) -> Vec<ServiceAddress> {
    let nets = nets.split_whitespace().map(|net| match net.parse() {
        Ok(net) => net,
        Err(_) => ip(net).into(),
    });
    nets.map(|net| ServiceAddress { net, origin }).collect()
}

fn service_port(number: u16, protocol: Protocol) -> ServicePort {
    ServicePort {
        number: port(number),
        name: "".into(),
        protocol,
        target: TargetPort::Number(port(number)),
    }
}

/// An instance: address, labels, and `service port -> own port` pairs.
pub(crate) fn endpoint(address: &str, version: &str, ports: &[(u16, u16)]) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Ip(ip(address)),
        ports: ports
            .iter()
            .map(|(service, target)| PortTarget {
                service: port(*service),
                target: port(*target),
            })
            .collect(),
        labels: [("version", version)].into_iter().collect(),
        locality: Locality::default(),
        weight: Weight::ONE,
        health: Health::Healthy,
        service_account: "".into(),
        workload: "".into(),
        hostname: None,
    }
}

pub(crate) fn to(name: &str, subset: &str, weight: u32) -> WeightedDestination {
    WeightedDestination {
        destination: destination(name, subset),
        weight: Weight::try_new(weight).expect("not zero"),
        headers: HeaderEdits::default(),
    }
}

pub(crate) fn destination(name: &str, subset: &str) -> Destination {
    Destination {
        host: HostName::try_new(name).expect("a name"),
        subset: (!subset.is_empty()).then(|| subset.into()),
        port: None,
    }
}

pub(crate) fn forward(destinations: Vec<WeightedDestination>) -> Forward {
    Forward {
        destinations,
        timeout: None,
        retries: Some(RetryPolicy::default()),
        mirrors: Vec::new(),
        rewrite: Rewrite::default(),
    }
}

pub(crate) fn route(matches: Vec<HttpMatch>, forward: Forward) -> HttpRoute {
    HttpRoute {
        name: "".into(),
        matches,
        action: HttpAction::Forward(Box::new(forward)),
        headers: HeaderEdits::default(),
    }
}

pub(crate) fn rule(ns: &str, name: &str, hosts: &[&str], http: Vec<HttpRoute>) -> RouteRule {
    RouteRule {
        origin: origin(ObjectKind::VirtualService, ns, name),
        namespace: namespace(ns),
        hosts: hosts.iter().map(|text| host(text)).collect(),
        visibility: Visibility::Everyone,
        http,
        tls: Vec::new(),
        tcp: Vec::new(),
    }
}

pub(crate) const SMS: &str = "sms.shop.svc.cluster.local";

/// `user: rui` to v2; the rest 90/10, retried, mirrored.
pub(crate) fn sms_rule(v1: u32, v2: u32) -> RouteRule {
    let rui = HttpMatch {
        headers: vec![HeaderMatch {
            name: "user".into(),
            value: Some(StringMatch::Exact("rui".into())),
            inverted: false,
        }],
        ..HttpMatch::default()
    };
    let mut canary = forward(vec![to(SMS, "v1", v1), to(SMS, "v2", v2)]);
    canary.timeout = Some(Duration::from_secs(3));
    canary.retries = Some(RetryPolicy {
        attempts: NonZeroU32::new(3).expect("not zero"),
        per_try_timeout: Some(Duration::from_millis(250)),
        on: vec![RetryOn::FiveXx, RetryOn::Reset, RetryOn::ConnectFailure],
        ..RetryPolicy::default()
    });
    canary.mirrors = vec![Mirror {
        destination: destination(SMS, "v2"),
        share: Percent::try_new(12.5).expect("a share"),
    }];
    let routes = vec![
        route(vec![rui], forward(vec![to(SMS, "v2", 1)])),
        route(Vec::new(), canary),
    ];
    rule("shop", "sms", &[SMS], routes)
}

fn sms_policy() -> DestinationPolicy {
    let subset = |name: &str| Subset {
        name: name.into(),
        labels: [("version", name)].into_iter().collect(),
        policy: None,
    };
    DestinationPolicy {
        origin: origin(ObjectKind::DestinationRule, "shop", "sms"),
        namespace: namespace("shop"),
        host: host(SMS),
        visibility: Visibility::Everyone,
        workload_selector: Labels::default(),
        policy: TrafficPolicy {
            general: EffectivePolicy {
                connection_pool: Some(ConnectionPool {
                    max_connections: Some(100),
                    max_pending_requests: Some(10),
                    connect_timeout: Some(Duration::from_millis(500)),
                    max_requests_per_connection: Some(50),
                    ..ConnectionPool::default()
                }),
                outlier_detection: Some(OutlierDetection {
                    consecutive_5xx: Some(5),
                    interval: Some(Duration::from_secs(1)),
                    max_ejection: Some(Percent::HUNDRED),
                    ..OutlierDetection::default()
                }),
                ..EffectivePolicy::default()
            },
            ports: Vec::new(),
        },
        subsets: vec![subset("v1"), subset("v2")],
    }
}

/// The shop's parts with weights for the canary.
pub(crate) fn parts(v1: u32, v2: u32) -> ModelParts {
    let headless = Service {
        resolution: Resolution::Headless,
        addresses: Vec::new(),
        ..service("shop", "db", "", &[(3306, Protocol::MySql)])
    };
    let partner = Service {
        resolution: Resolution::Dns,
        addresses: addresses("240.240.0.1", AddressOrigin::Allocated),
        ..entry("api.partner.example", Vec::new(), &[(443, Protocol::Https)])
    };
    let cdn = Service {
        resolution: Resolution::Passthrough,
        ..entry("*.cdn.example", Vec::new(), &[(443, Protocol::Tls)])
    };
    let warehouse = entry(
        "warehouse.example",
        addresses("10.200.0.0/16", AddressOrigin::Declared),
        &[(5432, Protocol::Tcp)],
    );
    let services = [
        service("shop", "sms", "10.96.0.10", &[(80, Protocol::Http)]),
        service(
            "shop",
            "search",
            "10.96.0.11",
            &[(80, Protocol::Http), (9000, Protocol::Grpc)],
        ),
        service(
            "shop",
            "legacy",
            "10.96.0.12",
            &[(7000, Protocol::Auto), (514, Protocol::Udp)],
        ),
        service("mail", "mailer", "10.96.0.13", &[(80, Protocol::Http)]),
        headless,
        partner,
        cdn,
        warehouse,
    ];
    let mut endpoints: BTreeMap<ServiceKey, Arc<[Endpoint]>> = BTreeMap::new();
    let mut add = |at: usize, list: Vec<Endpoint>| {
        endpoints.insert(services[at].key(), list.into());
    };
    let sms = |address, version| endpoint(address, version, &[(80, 8080)]);
    add(
        0,
        vec![
            sms("10.0.0.2", "v1"),
            sms("10.0.0.3", "v2"),
            sms("10.0.0.4", "v1"),
        ],
    );
    add(
        1,
        vec![endpoint("10.0.0.5", "v1", &[(80, 8080), (9000, 9000)])],
    );
    add(2, vec![endpoint("10.0.0.2", "v1", &[(7000, 7000)])]);
    add(3, vec![endpoint("10.0.1.2", "v1", &[(80, 80)])]);
    let db = |nth: usize, address| Endpoint {
        hostname: Some(format!("db-{nth}").into()),
        ..endpoint(address, "v1", &[(3306, 3306)])
    };
    add(4, vec![db(0, "10.0.0.20"), db(1, "10.0.0.21")]);
    add(7, vec![endpoint("10.200.3.4", "v1", &[(5432, 5432)])]);
    ModelParts {
        services: services.into_iter().map(Arc::new).collect(),
        endpoints,
        routes: vec![Arc::new(sms_rule(v1, v2))],
        policies: vec![Arc::new(sms_policy())],
        workloads: Vec::new(),
    }
}

pub(crate) fn model(parts: ModelParts) -> Model {
    Model::new(1, parts, None)
}

/// The sidecar of an instance of `sms` and `legacy`.
pub(crate) fn scope() -> Scope {
    Scope {
        addresses: [ip("10.0.0.2")].into(),
        ..Scope::new(namespace("shop"))
    }
}
