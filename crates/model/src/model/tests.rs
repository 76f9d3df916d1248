// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::name::Visibility;
use crate::origin::{ObjectKind, ObjectRef};
use crate::policy::TrafficPolicy;
use crate::service::{Placement, Registry, Resolution};

fn namespace(name: &str) -> Namespace {
    Namespace::try_new(name).expect("is a label")
}

fn host(text: &str) -> Host {
    Host::try_new(text).expect("is a host")
}

fn only(names: &[&str]) -> Visibility {
    Visibility::Namespaces(names.iter().map(|name| namespace(name)).collect())
}

fn origin(kind: ObjectKind, home: &str, name: &str, line: u32) -> ObjectRef {
    ObjectRef {
        kind,
        namespace: namespace(home),
        name: name.into(),
        file: "f".into(),
        line,
    }
}

fn service(home: &str, name: &str, visibility: Visibility) -> Arc<Service> {
    Arc::new(Service {
        host: host(name),
        namespace: namespace(home),
        name: name.into(),
        registry: Registry::Entry,
        ports: Vec::new(),
        addresses: Vec::new(),
        resolution: Resolution::Static,
        placement: Placement::External,
        visibility,
        origin: origin(ObjectKind::ServiceEntry, home, name, 1),
    })
}

fn rule(name: &str, hosts: &[&str], visibility: Visibility) -> Arc<RouteRule> {
    Arc::new(RouteRule {
        origin: origin(ObjectKind::VirtualService, "a", name, 1),
        namespace: namespace("a"),
        hosts: hosts.iter().map(|text| host(text)).collect(),
        visibility,
        http: Vec::new(),
        tls: Vec::new(),
        tcp: Vec::new(),
    })
}

fn policy(home: &str, name: &str, of: &str, selector: &[(&str, &str)]) -> Arc<DestinationPolicy> {
    Arc::new(DestinationPolicy {
        origin: origin(ObjectKind::DestinationRule, home, name, 1),
        namespace: namespace(home),
        host: host(of),
        visibility: Visibility::Everyone,
        workload_selector: selector.iter().copied().collect(),
        policy: TrafficPolicy::default(),
        subsets: Vec::new(),
    })
}

#[test]
fn a_host_means_the_callers_own_service_first_then_the_first_it_sees() {
    let parts = ModelParts {
        services: vec![
            service("a", "api.test", only(&["a"])),
            service("b", "api.test", Visibility::Everyone),
            service("c", "api.test", Visibility::Everyone),
            service("b", "*.test", Visibility::Everyone),
        ],
        ..ModelParts::default()
    };
    let model = Model::new(1, parts, None);
    let table = [
        ("api.test", "a", Some("a")),
        ("api.test", "c", Some("c")),
        ("api.test", "d", Some("b")),
        ("other.test", "d", Some("b")),
        ("test", "d", None),
    ];
    for (name, caller, expected) in table {
        let found = model.service(&host(name), &namespace(caller));
        let found = found.map(|service| service.namespace.to_string());
        assert_eq!(found.as_deref(), expected, "{name} from {caller}");
    }
    assert_eq!(model.services_visible_to(&namespace("a")).len(), 2);
}

#[test]
fn the_narrowest_rule_that_is_visible_routes_a_host() {
    let parts = ModelParts {
        routes: vec![
            rule("any", &["*"], Visibility::Everyone),
            rule("wide", &["*.test"], Visibility::Everyone),
            rule("narrow", &["*.b.test", "x.test"], Visibility::Everyone),
            rule("private", &["a.b.test"], only(&["a"])),
            rule("late", &["x.test"], Visibility::Everyone),
        ],
        ..ModelParts::default()
    };
    let model = Model::new(1, parts, None);
    let table = [
        ("a.b.test", "a", "private"),
        ("a.b.test", "z", "narrow"),
        ("c.b.test", "a", "narrow"),
        ("c.test", "a", "wide"),
        ("x.test", "a", "narrow"),
        ("*.b.test", "a", "narrow"),
        ("elsewhere", "a", "any"),
    ];
    for (name, caller, expected) in table {
        let found = model.route(&host(name), &namespace(caller));
        let found = found.map(|rule| rule.origin.name.to_string());
        assert_eq!(found.as_deref(), Some(expected), "{name} from {caller}");
    }
}

#[test]
fn policies_are_asked_of_the_caller_then_of_the_service() {
    let parts = ModelParts {
        policies: vec![
            policy("shop", "service", "sms.test", &[]),
            policy("web", "wide", "*.test", &[]),
            policy("web", "php", "*.test", &[("app", "php")]),
            policy("other", "stranger", "sms.test", &[]),
        ],
        ..ModelParts::default()
    };
    let model = Model::new(1, parts, None);
    type Pairs = &'static [(&'static str, &'static str)];
    let table: [(&str, Pairs, Option<&str>); 4] = [
        ("web", &[], Some("wide")),
        ("web", &[("app", "php")], Some("php")),
        ("far", &[], Some("service")),
        ("shop", &[], Some("service")),
    ];
    for (caller, labels, expected) in table {
        let labels: Labels = labels.iter().copied().collect();
        let caller = namespace(caller);
        let found = model.policy(&host("sms.test"), &namespace("shop"), (&caller, &labels));
        let found = found.map(|policy| policy.origin.name.to_string());
        assert_eq!(found.as_deref(), expected, "from {caller}");
    }
}

#[test]
fn unchanged_objects_keep_their_arc_and_their_place_does_not_count() {
    let parts = |line: u32, second: &str| ModelParts {
        services: vec![
            Arc::new(Service {
                origin: origin(ObjectKind::ServiceEntry, "a", "one", line),
                ..(*service("a", "one.test", Visibility::Everyone)).clone()
            }),
            service("a", second, Visibility::Everyone),
        ],
        ..ModelParts::default()
    };
    let first = Model::new(1, parts(1, "two.test"), None);
    assert_eq!(
        *first.parts(),
        parts(7, "two.test"),
        "a moved object is the same object"
    );
    let second = Model::new(2, parts(7, "three.test"), Some(&first));
    assert!(Arc::ptr_eq(&first.services()[0], &second.services()[0]));
    assert!(!Arc::ptr_eq(&first.services()[1], &second.services()[1]));
}
