// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::action::DirectResponse;
use remora_http::{HeaderMap, Method, StatusCode, Version};

fn route(path: PathMatch, status: u16) -> Arc<Route> {
    Arc::new(Route {
        name: "".into(),
        matches: RouteMatch {
            path,
            headers: Vec::new(),
            query: Vec::new(),
            share: None,
            grpc: false,
        },
        action: Action::Direct(DirectResponse {
            status: StatusCode::try_new(status).expect("status"),
            body: Bytes::new(),
        }),
        edits: MessageEdits::default(),
        origin: None,
    })
}

fn host(name: &str, domains: &[&str], routes: Vec<Arc<Route>>) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        name: name.into(),
        domains: domains
            .iter()
            .map(|d| DomainPattern::try_new(d).expect("domain"))
            .collect(),
        routes,
        retry: None,
        edits: MessageEdits::default(),
        attempt_count_in_request: false,
        attempt_count_in_response: false,
    })
}

fn table(hosts: Vec<Arc<VirtualHost>>, ignore_port: bool) -> RouteTable {
    RouteTable::try_new(RouteName::new("t"), hosts, ignore_port).expect("no duplicates")
}

fn get(path: &'static str) -> RequestHead {
    RequestHead {
        method: Method::Get,
        scheme: None,
        authority: Bytes::from_static(b"a.test"),
        path: Bytes::from_static(path.as_bytes()),
        version: Version::Http11,
        headers: HeaderMap::new(),
    }
}

#[test]
fn exact_beats_longest_suffix_beats_longest_prefix_beats_any() {
    let hosts = [
        ("any", "*"),
        ("exact", "a.b.test"),
        ("suffix", "*.test"),
        ("longer suffix", "*.b.test"),
        ("prefix", "a.*"),
        ("longer prefix", "a.x.*"),
    ];
    let table = table(
        hosts
            .map(|(name, domain)| host(name, &[domain], Vec::new()))
            .into(),
        false,
    );
    let expected = [
        ("a.b.test", "exact"),
        ("A.B.TEST", "exact"),
        ("c.b.test", "longer suffix"),
        ("c.c.test", "suffix"),
        (".b.test", "suffix"),
        ("a.x.y", "longer prefix"),
        ("a.y", "prefix"),
        ("a.", "any"),
        ("a.b.test:80", "prefix"),
        ("", "any"),
    ];
    for (authority, name) in expected {
        let found = table
            .virtual_host(authority.as_bytes())
            .map(|host| &*host.name);
        assert_eq!(found, Some(name), "{authority}");
    }
}

#[test]
fn a_port_is_ignored_only_if_asked_for() {
    let with = table(vec![host("h", &["a.test", "[::1]"], Vec::new())], true);
    let without = table(vec![host("h", &["a.test"], Vec::new())], false);
    for authority in ["a.test", "a.test:80", "[::1]:80", "[::1]"] {
        assert!(
            with.virtual_host(authority.as_bytes()).is_some(),
            "{authority}"
        );
    }
    assert!(without.virtual_host(b"a.test:80").is_none());
    assert!(with.virtual_host(b"a.test:x").is_none());
}

#[test]
fn two_hosts_with_one_domain_are_refused_by_name() {
    let hosts = vec![
        host("x", &["a.test"], Vec::new()),
        host("y", &["A.test"], Vec::new()),
    ];
    let error = RouteTable::try_new(RouteName::new("t"), hosts, false).expect_err("duplicate");
    assert_eq!(
        error.to_string(),
        "domain `a.test` is claimed by virtual hosts `x` and `y`"
    );
}

#[test]
fn the_first_matching_route_wins() {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let routes = vec![
        route(
            PathMatch::Exact {
                path: text("/exact"),
                case_sensitive: true,
            },
            201,
        ),
        route(
            PathMatch::SegmentPrefix {
                prefix: text("/seg"),
                case_sensitive: true,
            },
            202,
        ),
        route(
            PathMatch::Prefix {
                prefix: text("/Pre"),
                case_sensitive: false,
            },
            203,
        ),
        route(
            PathMatch::Regex(FullRegex::try_new("/r[0-9]+").expect("regex")),
            204,
        ),
        route(PathMatch::Connect, 205),
    ];
    let table = table(vec![host("h", &["*"], routes)], false);
    let expected = [
        ("/exact", Some(201)),
        ("/exact?q=1", Some(201)),
        ("/exact/", None),
        ("/seg", Some(202)),
        ("/seg/x", Some(202)),
        ("/segment", None),
        ("/prefix", Some(203)),
        ("/r12", Some(204)),
        ("/r12?x", Some(204)),
        ("/r12x", None),
        ("*", None),
        ("/", None),
    ];
    for (path, status) in expected {
        let found = table
            .route(&get(path), 0)
            .map(|(_, route)| match &route.action {
                Action::Direct(direct) => direct.status.get(),
                _ => 0,
            });
        assert_eq!(found, status, "{path}");
    }
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let table = [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;x", true),
        ("application/grpc-web", false),
        ("text/plain", false),
    ];
    for (value, expected) in table {
        let mut head = get("/");
        head.headers.insert(
            remora_http::HeaderName::CONTENT_TYPE,
            remora_http::HeaderValue::from_static(value),
        );
        assert_eq!(is_grpc(&head), expected, "{value}");
    }
}
