// SPDX-License-Identifier: Apache-2.0
//! Fields that are added, kept and removed on both ways.

use remora_testkit::upstream::http::{Recorded, Reply};

use super::case::{Case, Scene, case};

pub(crate) const CASES: &[Case] = &[
    case(
        "request headers are added, overwritten and removed as told",
        "
virtual_host:
  request_headers_to_add: [{header: {key: x-level, value: host}}]
routes:
- match: {prefix: /}
  route: {cluster: $a}
  request_headers_to_remove: [x-secret]
  request_headers_to_add:
  - {header: {key: x-level, value: route}}
  - {header: {key: x-append, value: new}}
  - {header: {key: x-absent, value: new}, append_action: ADD_IF_ABSENT}
  - {header: {key: x-present, value: new}, append_action: ADD_IF_ABSENT}
  - {header: {key: x-overwrite, value: new}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
  - {header: {key: x-only-if, value: new}, append_action: OVERWRITE_IF_EXISTS}
  - {header: {key: x-from, value: '%REQ(x-append)%/%PROTOCOL%/100%%'}}
clusters: {a: {hosts: [1]}}
",
        |s| {
            let request = s
                .request("/")
                .header("x-secret", "1")
                .header("x-append", "old")
                .header("x-present", "old")
                .header("x-overwrite", "old");
            let seen = seen_of(s, &request)?;
            assert_eq!(all(&seen, "x-secret"), [""; 0]);
            assert_eq!(all(&seen, "x-level"), ["route", "host"]);
            assert_eq!(all(&seen, "x-append"), ["old", "new"]);
            assert_eq!(all(&seen, "x-absent"), ["new"]);
            assert_eq!(all(&seen, "x-present"), ["old"]);
            assert_eq!(all(&seen, "x-overwrite"), ["new"]);
            assert_eq!(all(&seen, "x-only-if"), [""; 0]);
            assert_eq!(all(&seen, "x-from"), ["old/HTTP/1.1/100%"]);
            Ok(())
        },
    ),
    case(
        "response headers are added and removed as told, in local answers too",
        "
routes:
- match: {prefix: /}
  route: {cluster: $a}
  response_headers_to_remove: [x-powered-by]
  response_headers_to_add:
  - {header: {key: x-added, value: '%PROTOCOL%'}}
  - {header: {key: x-kept, value: new}, append_action: ADD_IF_ABSENT}
clusters: {a: {hosts: [1]}}
",
        |s| {
            assert_eq!(s.get("/down")?.header("x-added"), Some("HTTP/1.1"));
            let _backend = s.backend_that(
                1,
                Reply::Bytes(
                    b"HTTP/1.1 200 OK\r\nx-powered-by: php\r\nx-kept: old\r\ncontent-length: 0\r\n\r\n"
                        .to_vec(),
                ),
            )?;
            let answer = s.get("/")?;
            assert_eq!(answer.header("x-powered-by"), None);
            assert_eq!(answer.header("x-added"), Some("HTTP/1.1"));
            assert_eq!(answer.header("x-kept"), Some("old"));
            Ok(())
        },
    ),
    case(
        "a request gets an id, and one that it has is kept",
        ONE,
        |s| {
            let seen = seen_of(s, &s.request("/"))?;
            let id = seen
                .header("x-request-id")
                .expect("it has an id")
                .to_owned();
            let shape: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(shape, [8, 4, 4, 4, 12], "{id}");
            assert!(id.chars().nth(14) == Some('4'), "version 4: {id}");
            let other = seen_of(s, &s.request("/"))?;
            assert_ne!(other.header("x-request-id"), Some(id.as_str()));
            let own = seen_of(s, &s.request("/").header("x-request-id", "mine"))?;
            assert_eq!(all(&own, "x-request-id"), ["mine"]);
            Ok(())
        },
    ),
    case(
        "where the client's address is not asked for, forwarded fields are kept as sent",
        ONE,
        |s| {
            let seen = seen_of(s, &s.request("/"))?;
            assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
            assert_eq!(seen.header("x-forwarded-for"), None);
            let request = s
                .request("/")
                .header("x-forwarded-for", "192.0.2.1")
                .header("x-forwarded-proto", "https");
            let seen = seen_of(s, &request)?;
            assert_eq!(all(&seen, "x-forwarded-for"), ["192.0.2.1"]);
            assert_eq!(all(&seen, "x-forwarded-proto"), ["https"]);
            Ok(())
        },
    ),
    case(
        "an edge adds the client's address and does not believe its id and scheme",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters: {a: {hosts: [1]}}
http: {11001: {use_remote_address: true}}
",
        |s| {
            let backend = s.backend(1)?;
            let request = s
                .request("/")
                .header("x-forwarded-for", "192.0.2.1")
                .header("x-forwarded-proto", "https")
                .header("x-request-id", "mine")
                .header("x-envoy-original-path", "/forged");
            assert_eq!(s.send_to(11001, &request)?.status, 200);
            let seen = backend.recorded().pop().expect("a request came");
            // Envoy names a peer on loopback by the machine's address.
            let peer = s.differs("192.0.2.1,10.77.0.10", "192.0.2.1,127.0.0.1");
            assert_eq!(all(&seen, "x-forwarded-for"), [peer]);
            assert_eq!(all(&seen, "x-forwarded-proto"), ["http"]);
            assert_eq!(all(&seen, "x-envoy-original-path"), [""; 0]);
            let id = seen.header("x-request-id").expect("it has an id");
            assert_ne!(id, "mine");
            Ok(())
        },
    ),
    case(
        "the timeout that the upstream is told is the route's, not the client's",
        ONE,
        |s| {
            let name = "x-envoy-expected-rq-timeout-ms";
            let seen = seen_of(s, &s.request("/").header(name, "1"))?;
            assert_eq!(all(&seen, name), ["15000"]);
            let seen = seen_of(s, &s.request("/two-seconds"))?;
            assert_eq!(all(&seen, name), ["2000"]);
            let seen = seen_of(s, &s.request("/no-limit"))?;
            assert_eq!(all(&seen, name), [""; 0]);
            Ok(())
        },
    ),
    case(
        "what would steer the router is not taken from clients",
        ONE,
        |s| {
            let backend = s.backend_that(1, Reply::status(503, "no"))?;
            let request = s
                .request("/")
                .header("x-envoy-retry-on", "5xx")
                .header("x-envoy-max-retries", "3")
                .header("x-envoy-upstream-rq-timeout-ms", "1")
                .header("x-envoy-internal", "true");
            assert_eq!(s.send(&request)?.status, 503);
            let seen = backend.recorded();
            assert_eq!(seen.len(), 1, "the client's wish to retry is not heard");
            for name in ["x-envoy-internal", "x-envoy-upstream-rq-timeout-ms"] {
                assert_eq!(seen[0].header(name), None, "{name}");
            }
            Ok(())
        },
    ),
    case(
        "the attempt is counted in the request and in the answer, if asked for",
        "
virtual_host: {include_request_attempt_count: true, include_attempt_count_in_response: true}
routes: [{match: {prefix: /}, route: {cluster: $a, retry_policy: {retry_on: 5xx, num_retries: 2}}}]
clusters: {a: {hosts: [1]}}
",
        |s| {
            let backend = s.backend(1)?;
            backend.push_replies([Reply::status(503, "no"), Reply::status(503, "no")]);
            let answer = s.get("/")?;
            assert_eq!(
                (answer.status, answer.header("x-envoy-attempt-count")),
                (200, Some("3"))
            );
            let seen = backend.recorded();
            let counts: Vec<_> = seen
                .iter()
                .map(|r| all(r, "x-envoy-attempt-count"))
                .collect();
            assert_eq!(counts, [["1"], ["2"], ["3"]]);
            Ok(())
        },
    ),
    case(
        "an answer tells the server, the date and the upstream's time",
        ONE,
        |s| {
            let late = std::time::Duration::from_millis(60);
            let _backend = s.backend_that(1, Reply::delayed(200, "", late))?;
            let answer = s.get("/")?;
            assert_eq!(answer.header("server"), Some("envoy"));
            assert!(
                answer
                    .header("date")
                    .is_some_and(|date| date.ends_with(" GMT"))
            );
            let time = answer
                .header("x-envoy-upstream-service-time")
                .unwrap_or("none");
            assert!((50..5000).contains(&time.parse::<u64>()?), "{time}");
            Ok(())
        },
    ),
    case(
        "the upstream's own server and date: one is replaced, one is kept",
        ONE,
        |s| {
            let date = "Thu, 01 Jan 1970 00:00:00 GMT";
            let head = format!(
                "HTTP/1.1 200 OK\r\nserver: mine\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n"
            );
            let _backend = s.backend_that(1, Reply::Bytes(head.into_bytes()))?;
            let answer = s.get("/")?;
            assert_eq!(answer.header("server"), Some("envoy"));
            assert_eq!(answer.header("date"), Some(date));
            Ok(())
        },
    ),
    case(
        "fields of one hop stay on that hop, in both directions",
        ONE,
        |s| {
            let head = "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
            x-end: 1\r\ncontent-length: 0\r\n\r\n";
            let backend = s.backend_that(1, Reply::Bytes(head.as_bytes().to_vec()))?;
            let request = s
                .request("/")
                .header("Connection", "x-mine, keep-alive, te")
                .header("X-Mine", "1")
                .header("Keep-Alive", "timeout=5")
                .header("Proxy-Connection", "keep-alive")
                .header("TE", "trailers")
                .header("X-End", "1");
            let answer = s.connect()?.send(&request)?;
            assert_eq!(answer.header("keep-alive"), None);
            assert_eq!(answer.header("x-hop"), s.differs(Some("1"), None));
            assert_eq!(answer.header("x-end"), Some("1"));
            let seen = backend.recorded().pop().expect("a request came");
            for name in ["x-mine", "keep-alive", "proxy-connection"] {
                assert_eq!(seen.header(name), None, "{name}");
            }
            assert_eq!(seen.header("x-end"), Some("1"));
            Ok(())
        },
    ),
    case("trace contexts pass untouched", ONE, |s| {
        let fields = [
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("tracestate", "a=1,b=2"),
            ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
            ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
            ("x-b3-spanid", "e457b5a2e4d86bd1"),
            ("x-b3-sampled", "1"),
            ("baggage", "user=rui"),
        ];
        let mut request = s.request("/");
        for (name, value) in fields {
            request = request.header(name, value);
        }
        let seen = seen_of(s, &request)?;
        for (name, value) in fields {
            assert_eq!(all(&seen, name), [value]);
        }
        Ok(())
    }),
    case(
        "the names of fields reach the other side, lower-cased by Envoy and as sent by Remora",
        ONE,
        |s| {
            let _backend = s.backend_that(
                1,
                Reply::Bytes(
                    b"HTTP/1.1 200 OK\r\nX-Powered-By: PHP\r\nContent-Length: 0\r\n\r\n".to_vec(),
                ),
            )?;
            let answer = s.get("/")?;
            let name = s.differs("x-powered-by", "X-Powered-By");
            assert!(
                answer.headers.iter().any(|(key, _)| key == name),
                "{:?}",
                answer.headers
            );
            Ok(())
        },
    ),
    case(
        "repeated fields stay apart and in order, cookies too",
        ONE,
        |s| {
            let head = "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n";
            let backend = s.backend_that(1, Reply::Bytes(head.as_bytes().to_vec()))?;
            let answer = s.send(&s.request("/").header("x-many", "1").header("x-many", "2"))?;
            let cookies = answer
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
            assert_eq!(
                cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(),
                ["a=1", "b=2"]
            );
            let seen = backend.recorded().pop().expect("a request came");
            assert_eq!(all(&seen, "x-many"), ["1", "2"]);
            Ok(())
        },
    ),
];

const ONE: &str = "
routes:
- {match: {path: /two-seconds}, route: {cluster: $a, timeout: 2s}}
- {match: {path: /no-limit}, route: {cluster: $a, timeout: 0s}}
- {match: {prefix: /}, route: {cluster: $a}}
clusters: {a: {hosts: [1]}}
";

/// What the backend saw of a request.
fn seen_of(s: &Scene, request: &remora_testkit::client::Request) -> anyhow::Result<Recorded> {
    let backend = s.backend(1)?;
    assert_eq!(s.send(request)?.status, 200);
    Ok(backend.recorded().pop().expect("a request came"))
}

/// All values of a field.
fn all<'a>(request: &'a Recorded, name: &str) -> Vec<&'a str> {
    let lines = request
        .headers
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name));
    lines.map(|(_, value)| value.as_str()).collect()
}
