// SPDX-License-Identifier: Apache-2.0
//! YAML in, a summary of the model out.

use std::fmt::Write as _;
use std::sync::Arc;

use remora_model::{Labels, Model, Namespace, Service};

use super::assemble;
use crate::source::SourceSnapshot;
use crate::source::manifest::{Object, read_text};

fn read(texts: &[&str]) -> SourceSnapshot {
    let domain: Arc<str> = "cluster.local".into();
    let mut objects: Vec<Arc<Object>> = Vec::new();
    for (nth, text) in texts.iter().enumerate() {
        let content = read_text(&format!("{nth}.yaml").into(), text, &domain);
        assert_eq!(content.findings, [], "{text}");
        objects.extend(content.objects.into_iter().map(Arc::new));
    }
    assemble(&objects, &domain)
}

/// One line for each service, and one for each of its endpoints.
fn summary(text: &str) -> String {
    let model = Model::new(1, read(&[text]).parts, None);
    let mut lines = String::new();
    for service in model.services() {
        describe(&mut lines, service);
        for endpoint in model.all_endpoints(&service.key()) {
            let ports: Vec<_> = endpoint
                .ports
                .iter()
                .map(|p| format!("{}>{}", p.service, p.target))
                .collect();
            let labels: Vec<_> = endpoint
                .labels
                .iter()
                .map(|(n, v)| format!("{n}={v}"))
                .collect();
            let (health, address) = (endpoint.health, &endpoint.address);
            let (ports, labels) = (ports.join(" "), labels.join(" "));
            let place = &endpoint.locality;
            writeln!(
                lines,
                "  {address} [{ports}] {{{labels}}} {place} {health:?}"
            )
            .expect("fits");
        }
    }
    lines
}

fn describe(lines: &mut String, service: &Service) {
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| format!("{}/{:?}", port.number, port.protocol))
        .collect();
    let addresses: Vec<_> = service
        .addresses
        .iter()
        .map(|a| a.net.to_string())
        .collect();
    let (ports, addresses) = (ports.join(" "), addresses.join(" "));
    let (host, how) = (&service.host, service.resolution);
    writeln!(lines, "{host} {how:?} ({addresses}) [{ports}]").expect("fits");
}

fn check(text: &str, expected: &[&str]) {
    let found = summary(text);
    assert_eq!(found.lines().collect::<Vec<_>>(), expected, "\n{found}");
}

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: sms-1, namespace: shop, labels: {app: sms, version: v1}}
spec:
  containers: [{name: sms, ports: [{name: web, containerPort: 8080}]}]
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata:
  name: sms-2
  namespace: shop
  labels: {app: sms, version: v2, topology.kubernetes.io/zone: b}
spec:
  containers: [{name: sms, ports: [{name: web, containerPort: 9090}]}]
status:
  podIP: 10.0.0.2
  phase: Running
  conditions: [{type: Ready, status: 'False', lastTransitionTime: null}]
---
apiVersion: v1
kind: Pod
metadata: {name: sms-3, namespace: other, labels: {app: sms}}
spec: {containers: []}
status: {podIP: 10.0.0.3}
---
";

#[test]
fn a_selector_finds_the_pods_of_its_namespace_and_their_named_ports() {
    let service = "
apiVersion: v1
kind: Service
metadata: {name: sms, namespace: shop}
spec:
  clusterIP: 10.1.0.1
  selector: {app: sms}
  ports:
  - {name: http, port: 80, targetPort: web}
  - {name: grpc-api, port: 81, targetPort: 7000}
  - {name: dns, port: 53, protocol: UDP}
";
    check(
        &format!("{PODS}{service}"),
        &[
            "sms.shop.svc.cluster.local Static (10.1.0.1/32) [80/Http 81/Grpc 53/Udp]",
            "  10.0.0.1 [80>8080 81>7000] {app=sms version=v1} // Healthy",
            "  10.0.0.2 [80>9090 81>7000] {app=sms topology.kubernetes.io/zone=b version=v2} /b/ \
             Unready",
        ],
    );
}

#[test]
fn slices_outrank_pods_and_learn_labels_from_them() {
    let more = "
apiVersion: v1
kind: Service
metadata: {name: sms, namespace: shop}
spec: {clusterIP: None, selector: {app: sms}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sms-x, namespace: shop, labels: {kubernetes.io/service-name: sms}}
addressType: IPv4
ports: [{name: '', port: 8000}]
endpoints:
- {addresses: [10.0.0.9], conditions: {ready: true}, zone: a}
- {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}
- addresses: [10.9.9.9]
  conditions: {ready: false}
  targetRef: {kind: Pod, name: sms-1, namespace: shop}
- {addresses: [10.0.0.9]}
";
    check(
        &format!("{PODS}{more}"),
        &[
            "sms.shop.svc.cluster.local Headless () [80/Auto]",
            "  10.0.0.2 [80>8000] {app=sms topology.kubernetes.io/zone=b version=v2} /b/ Draining",
            "  10.0.0.9 [80>8000] {} /a/ Healthy",
            "  10.9.9.9 [80>8000] {app=sms version=v1} // Unready",
        ],
    );
}

#[test]
fn service_entries_resolve_as_they_say() {
    let text = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cdn}
spec:
  hosts: [cdn.example.com, '*.img.example.com']
  location: MESH_EXTERNAL
  resolution: NONE
  ports: [{number: 443, name: https, protocol: HTTPS}]
---
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.example.com]
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata: {name: vm}
spec:
  hosts: [vm.internal]
  addresses: [10.7.0.1, 10.8.0.0/16]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 90, name: tcp, protocol: TCP}]
  workloadSelector: {labels: {app: vm}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1}
spec:
  address: 10.2.0.1
  labels: {app: vm, version: v1}
  locality: eu/a
  ports: {http: 8081}
";
    check(
        text,
        &[
            "cdn.example.com Passthrough () [443/Https]",
            "*.img.example.com Passthrough () [443/Https]",
            "api.example.com Dns (240.240.175.106/32) [80/Http]",
            "  api.example.com [80>8080] {} // Healthy",
            "vm.internal Static (10.7.0.1/32 10.8.0.0/16) [80/Http 90/Tcp]",
            "  10.2.0.1 [80>8081 90>90] {app=vm version=v1} eu/a/ Healthy",
        ],
    );
}

#[test]
fn an_external_name_is_dialled_by_name() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {type: ExternalName, externalName: db.example.com, clusterIP: 10.1.0.9, ports: [{port: 3306}]}
";
    let found = summary(text);
    assert!(
        found.contains("db.default.svc.cluster.local Dns (240.240."),
        "{found}"
    );
    assert!(found.contains("  db.example.com [3306>3306]"), "{found}");
}

#[test]
fn allocated_addresses_do_not_depend_on_the_order_of_files() {
    let service = |name: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{}}}}")
    };
    let texts = ["a", "b", "c", "d"].map(service);
    let addresses = |order: &[usize]| {
        let texts: Vec<_> = order.iter().map(|at| texts[*at].as_str()).collect();
        let mut found: Vec<_> = read(&texts)
            .parts
            .services
            .iter()
            .map(|s| (s.name.to_string(), s.vips().next().map(|ip| ip.to_string())))
            .collect();
        found.sort();
        found
    };
    let forward = addresses(&[0, 1, 2, 3]);
    assert!(
        forward
            .iter()
            .all(|(_, ip)| ip.as_ref().is_some_and(|ip| ip.starts_with("240.240.")))
    );
    assert_eq!(forward, addresses(&[3, 1, 0, 2]));
}

#[test]
fn policies_for_one_host_come_together_and_layers_apply_in_order() {
    let text = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: sms
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool: {tcp: {maxConnections: 10}}
    portLevelSettings:
    - {port: {number: 81}, loadBalancer: {simple: RANDOM}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - name: v2
    labels: {version: v2}
    trafficPolicy: {connectionPool: {tcp: {maxConnections: 20}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b}
spec:
  host: sms.default.svc.cluster.local
  subsets: [{name: v3, labels: {version: v3}}]
";
    let parts = read(&[text]).parts;
    let [policy] = &parts.policies[..] else {
        panic!("{:?}", parts.policies)
    };
    let names: Vec<_> = policy.subsets.iter().map(|s| &*s.name).collect();
    assert_eq!(names, ["v1", "v2", "v3"]);
    let table = [
        (None, 80, "RoundRobin", Some(10)),
        (Some("v1"), 80, "RoundRobin", Some(10)),
        (Some("v2"), 80, "RoundRobin", Some(20)),
        (None, 81, "Random", None),
        (Some("v2"), 81, "Random", Some(20)),
        (Some("no-such"), 80, "RoundRobin", Some(10)),
    ];
    for (subset, port, balancer, connections) in table {
        let port = remora_primitives::Port::new(port).expect("is a port");
        let effective = policy.effective(subset, port);
        let simple = effective.load_balancer.and_then(|lb| lb.simple);
        let found = simple
            .map(|simple| format!("{simple:?}"))
            .unwrap_or_default();
        let limit = effective
            .connection_pool
            .and_then(|pool| pool.max_connections);
        assert_eq!(
            (found.as_str(), limit),
            (balancer, connections),
            "{subset:?} {port}"
        );
    }
}

#[test]
fn the_model_finds_what_a_caller_means() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: sms, namespace: shop}
spec: {selector: {app: sms}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: all, namespace: shop}
spec: {hosts: ['*.example.com'], ports: [{number: 80, name: http}], exportTo: ['.']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sms, namespace: shop}
spec: {hosts: [sms], http: [{route: [{destination: {host: sms}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mine, namespace: web}
spec: {host: '*.svc.cluster.local'}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: theirs, namespace: shop}
spec: {host: sms}
";
    let model = Model::new(1, read(&[PODS, text]).parts, None);
    let namespace = |name| Namespace::try_new(name).expect("is a label");
    let host = |name| remora_model::Host::try_new(name).expect("is a host");
    let (shop, web, far) = (namespace("shop"), namespace("web"), namespace("far"));
    let sms = host("sms.shop.svc.cluster.local");
    let service = model.service(&sms, &web).expect("sms is seen by all");
    assert_eq!(
        service.short_names(&shop),
        ["sms", "sms.shop", "sms.shop.svc"]
    );
    assert_eq!(service.short_names(&web), ["sms.shop", "sms.shop.svc"]);
    let a = host("a.example.com");
    assert!(model.service(&a, &shop).is_some(), "the wildcard covers it");
    assert!(
        model.service(&a, &web).is_none(),
        "it is exported to its own namespace only"
    );
    assert_eq!(model.services_visible_to(&web).len(), 1);
    assert!(model.route(&sms, &web).is_some());
    let policy = |caller| {
        let none = Labels::default();
        model
            .policy(&sms, &shop, (caller, &none))
            .map(|p| p.origin.name.to_string())
    };
    assert_eq!(
        policy(&web).as_deref(),
        Some("mine"),
        "the caller's own namespace is first"
    );
    assert_eq!(policy(&far).as_deref(), Some("theirs"));
    let port = remora_primitives::Port::new(80).expect("is a port");
    let key = service.key();
    let v1: Labels = [("version", "v1")].into_iter().collect();
    let v2: Labels = [("version", "v2")].into_iter().collect();
    assert_eq!(model.endpoints(&key, port, &v1).count(), 1);
    assert_eq!(
        model.endpoints(&key, port, &v2).count(),
        0,
        "the pod is not ready"
    );
    let at: Vec<_> = model
        .services_at("10.0.0.1".parse().expect("is an address"))
        .collect();
    assert_eq!(at.len(), 1);
    let workload = model.workload_at("10.0.0.3".parse().expect("is an address"));
    assert_eq!(
        workload.map(|w| w.name.to_string()).as_deref(),
        Some("sms-3")
    );
}

#[test]
fn what_did_not_change_keeps_its_place_in_memory() {
    let service = |ports: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: {ports}}}}}"
        )
    };
    let other = "{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {ports: [{port: 1}]}}";
    let first = Model::new(1, read(&[&service("[{port: 80}]"), other]).parts, None);
    let commented = format!("# moved down\n{other}");
    let parts = read(&[&service("[{port: 81}]"), &commented]).parts;
    let second = Model::new(2, parts, Some(&first));
    let same: Vec<_> = first
        .services()
        .iter()
        .zip(second.services())
        .map(|(old, new)| Arc::ptr_eq(old, new))
        .collect();
    assert_eq!(same, [false, true]);
}

/// Every kind, with most of their fields.
const EVERYTHING: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: networking.istio.io/v1
  kind: VirtualService
  metadata: {name: r, namespace: shop, labels: {a: b}}
  spec:
    hosts: [sms, '*.example.com']
    gateways: [mesh]
    exportTo: ['.', web]
    http:
    - match: [{uri: {prefix: /a}, headers: {x: {regex: 'a+'}}, port: 80, sourceLabels: {a: b}}]
      route:
      - {destination: {host: sms, subset: v1, port: {number: 80}}, weight: 90}
      - {destination: {host: sms}, weight: 10, headers: {request: {set: {a: b}, remove: [c]}}}
      timeout: 1.5s
      retries: {attempts: 3, perTryTimeout: 1s, retryOn: '5xx,503'}
      mirror: {host: sms}
      mirrorPercentage: {value: 1.5}
      rewrite: {uriRegexRewrite: {match: '^/(.*)$', rewrite: '/b/\\1'}}
    - redirect: {uri: /x, redirectCode: 302}
    - directResponse: {status: 204}
    tls: [{match: [{sniHosts: [a.b], port: 443}], route: [{destination: {host: a.b}}]}]
    tcp: [{match: [{destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: a.b}}]}]
- apiVersion: networking.istio.io/v1
  kind: DestinationRule
  metadata: {name: d, namespace: shop}
  spec:
    host: sms
    trafficPolicy:
      loadBalancer: {simple: RANDOM, localityLbSetting: {enabled: false}, warmup: {duration: 1m}}
      connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s}, http: {maxRetries: 1}}
      outlierDetection: {consecutive5xxErrors: 5, interval: 1s, maxEjectionPercent: 100}
      portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]
    subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {retryBudget: {percent: 20}}}]
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: e}
  spec:
    hosts: [a.b]
    addresses: [10.0.0.1, 10.1.0.0/16]
    ports: [{number: 443, name: tls, protocol: TLS}]
    resolution: STATIC
    endpoints: [{address: 10.0.0.2, ports: {tls: 8443}, weight: 2, locality: a/b/c}]
---
";

#[test]
fn no_change_of_bytes_makes_the_reader_panic() {
    let sound = format!("{EVERYTHING}{PODS}");
    assert_eq!(
        read_text(&"f".into(), &sound, &"cluster.local".into()).findings,
        []
    );
    let odd = b"\0\t\n -:[]{}&*!|>'\"%@`#,?09azAZ~\xc3\xff";
    for seed in 0_u64..1500 {
        let mut bytes = sound.clone().into_bytes();
        for nth in 0..=seed % 6 {
            let random = xxhash_rust::xxh64::xxh64(&nth.to_le_bytes(), seed);
            let at = usize::try_from(random % bytes.len() as u64).expect("fits");
            let byte = odd[usize::try_from(random >> 40).expect("fits") % odd.len()];
            match random >> 32 & 3 {
                0 => drop(bytes.drain(at..(at + 9).min(bytes.len()))),
                1 => bytes.insert(at, byte),
                _ => bytes[at] = byte,
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let domain: Arc<str> = "cluster.local".into();
        let content = read_text(&"f".into(), &text, &domain);
        let objects: Vec<_> = content.objects.into_iter().map(Arc::new).collect();
        let snapshot = assemble(&objects, &domain);
        let _ = Model::new(1, snapshot.parts, None);
        let silent = content.broken && content.findings.is_empty();
        assert!(!silent, "seed {seed}: a broken file says nothing:\n{text}");
    }
}
