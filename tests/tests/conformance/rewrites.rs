// SPDX-License-Identifier: Apache-2.0
//! Rewrites, redirects, and answers that a route gives itself.

use super::case::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case(
        "a prefix is rewritten, and the original path is told",
        "
routes:
- {match: {prefix: /old/}, route: {cluster: $a, prefix_rewrite: /new/}}
- {match: {prefix: /gone}, route: {cluster: $a, prefix_rewrite: /}}
clusters: {a: {hosts: [1]}}
",
        |s| {
            let backend = s.backend(1)?;
            let table = [
                ("/old/x?q=/old/", "/new/x?q=/old/"),
                ("/gone", "/"),
                ("/gone/x", "//x"),
            ];
            for (path, expected) in table {
                assert_eq!(s.get(path)?.status, 200);
                let seen = backend.recorded().pop().expect("a request came");
                assert_eq!(seen.line, format!("GET {expected} HTTP/1.1"));
                assert_eq!(seen.header("x-envoy-original-path"), Some(path));
            }
            Ok(())
        },
    ),
    case(
        "a regex rewrites every match in the path, and leaves the query alone",
        r"
routes:
- match: {prefix: /}
  route:
    cluster: $a
    regex_rewrite: {pattern: {regex: '/v([0-9])'}, substitution: '/version-\1'}
clusters: {a: {hosts: [1]}}
",
        |s| {
            let backend = s.backend(1)?;
            assert_eq!(s.get("/v1/x/v2?y=/v3")?.status, 200);
            let seen = backend.recorded().pop().expect("a request came");
            assert_eq!(seen.line, "GET /version-1/x/version-2?y=/v3 HTTP/1.1");
            Ok(())
        },
    ),
    case(
        "the host is rewritten, and the original one is told",
        "
routes: [{match: {prefix: /}, route: {cluster: $a, host_rewrite_literal: inner.example}}]
clusters: {a: {hosts: [1]}}
",
        |s| {
            let backend = s.backend(1)?;
            assert_eq!(s.get("/")?.status, 200);
            let seen = backend.recorded().pop().expect("a request came");
            assert_eq!(seen.header("host"), Some("inner.example"));
            let hosts = seen
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("host"));
            assert_eq!(hosts.count(), 1);
            assert_eq!(
                seen.header("x-envoy-original-host"),
                Some(s.host().as_str())
            );
            Ok(())
        },
    ),
    case(
        "redirects: host, path, prefix, scheme, port, code, query",
        "
routes:
- {match: {path: /host}, redirect: {host_redirect: other.test}}
- {match: {path: /path}, redirect: {path_redirect: /there}}
- {match: {prefix: /prefix}, redirect: {prefix_rewrite: /moved}}
- {match: {path: /https}, redirect: {https_redirect: true}}
- {match: {path: /port}, redirect: {port_redirect: 8443}}
- {match: {path: /code}, redirect: {host_redirect: other.test, response_code: PERMANENT_REDIRECT}}
- {match: {path: /query}, redirect: {host_redirect: other.test, strip_query: true}}
",
        |s| {
            let own = s.host();
            let table = [
                ("/host?a=b", 301, "http://other.test/host?a=b".to_owned()),
                ("/path?a=b", 301, format!("http://{own}/there?a=b")),
                ("/prefix/x", 301, format!("http://{own}/moved/x")),
                ("/https", 301, format!("https://{own}/https")),
                ("/port", 301, format!("http://{own}:8443/port")),
                ("/code", 308, "http://other.test/code".to_owned()),
                ("/query?a=b", 301, "http://other.test/query".to_owned()),
            ];
            for (path, status, location) in table {
                let answer = s.get(path)?;
                let found = (answer.status, answer.header("location").map(str::to_owned));
                assert_eq!(found, (status, Some(location)), "{path}");
                assert!(answer.body.is_empty());
            }
            Ok(())
        },
    ),
    case(
        "a direct response has its status and body, and no backend",
        "
routes:
- match: {path: /teapot}
  direct_response: {status: 418, body: {inline_string: short and stout}}
  response_headers_to_add: [{header: {key: x-kind, value: teapot}}]
- {match: {path: /empty}, direct_response: {status: 503}}
",
        |s| {
            let answer = s.get("/teapot")?;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (418, "short and stout")
            );
            assert_eq!(answer.header("content-type"), Some("text/plain"));
            assert_eq!(answer.header("x-kind"), Some("teapot"));
            s.expect_log("/teapot", "418 - direct_response")?;
            let answer = s.get("/empty")?;
            assert_eq!(
                (answer.status, answer.header("content-length")),
                (503, Some("0"))
            );
            Ok(())
        },
    ),
];
