// SPDX-License-Identifier: Apache-2.0
//! What the client and the access log are told when there is no answer to pass on.

use remora_testkit::client::Request;
use remora_testkit::upstream::http::Reply;

use super::case::{Case, Scene, case};

pub(crate) const CASES: &[Case] = &[
    case(
        "no route is 404 NR",
        "routes: [{match: {path: /only}, direct_response: {status: 200}}]",
        |s| {
            let answer = s.get("/none")?;
            assert_eq!((answer.status, answer.body.len()), (404, 0));
            s.expect_log("/none", "404 NR route_not_found")
        },
    ),
    case(
        "no virtual host is 404 NR",
        "routes: [{match: {path: /}, direct_response: {status: 200}}]",
        |s| {
            let host = format!("other.{}", s.host());
            assert_eq!(s.answer_to(&Request::get(&host, "/"))?, "404");
            Ok(())
        },
    ),
    case(
        "a cluster that does not exist is 503 NC, or the code that the route gives",
        "
routes:
- {match: {path: /missing}, route: {cluster: $missing}}
- {match: {path: /missing-404}, route: {cluster: $missing, cluster_not_found_response_code: NOT_FOUND}}
",
        |s| {
            assert_eq!(s.answer("/missing")?, "503");
            s.expect_log("/missing", "503 NC cluster_not_found")?;
            assert_eq!(s.answer("/missing-404")?, "404");
            s.expect_log("/missing-404", "404 NC cluster_not_found")
        },
    ),
    case(
        "a cluster without endpoints is 503 UH",
        "
routes: [{match: {prefix: /}, route: {cluster: $empty}}]
clusters: {empty: {hosts: []}}
",
        |s| {
            assert_eq!(s.answer("/uh")?, "503 no healthy upstream");
            s.expect_log("/uh", "503 UH no_healthy_upstream")
        },
    ),
    case("a refused connection is 503 UF", ONE, |s| {
        let answer = s.answer("/uf")?;
        let expected = "503 upstream connect error or disconnect/reset before headers. \
            reset reason: remote connection failure";
        assert!(answer.starts_with(expected), "{answer}");
        let line = s.log_of("/uf")?;
        assert_eq!((line.field("code"), line.field("flags")), ("503", "UF"));
        let details = line.field("details");
        assert!(
            details.starts_with("upstream_reset_before_response_started{remote_connection_failure"),
            "{details}"
        );
        assert_eq!(line.field("upstream"), s.address(1).to_string());
        Ok(())
    }),
    case("an upstream that closes before its answer is 503 UC", ONE, |s| {
        let _backend = s.backend_that(1, Reply::Close)?;
        assert_eq!(
            s.answer("/uc")?,
            "503 upstream connect error or disconnect/reset before headers. \
             reset reason: connection termination"
        );
        let details = "upstream_reset_before_response_started{connection_termination}";
        s.expect_log("/uc", &format!("503 UC {details}"))
    }),
    case("an upstream that resets the connection is 503 UC", ONE, |s| {
        let _backend = s.backend_that(1, Reply::Reset)?;
        let answer = s.answer("/reset")?;
        assert!(answer.ends_with("reset reason: connection termination"), "{answer}");
        assert_eq!(s.log_of("/reset")?.field("flags"), "UC");
        Ok(())
    }),
    case("what is no HTTP answer is 502 UPE", ONE, |s| {
        let table: [(&str, &[u8]); 7] = [
            ("/garbage", b"\x16\x03\x01garbage\r\n\r\n"),
            ("/status", b"HTTP/1.1 abc OK\r\n\r\n"),
            ("/both", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            ("/two", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab"),
            ("/nul", b"HTTP/1.1 200 OK\r\nx: a\0b\r\nContent-Length: 0\r\n\r\n"),
            ("/09", b"<html>no head at all</html>\r\n\r\n"),
            ("/coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab"),
        ];
        let backend = s.backend(1)?;
        for (path, bytes) in table {
            backend.set_reply(Reply::Raw(bytes.to_vec()));
            let answer = s.answer(path)?;
            let expected = "502 upstream connect error or disconnect/reset before headers. \
                reset reason: protocol error";
            assert_eq!(answer, expected, "{path}");
            let line = s.log_of(path)?;
            assert_eq!((line.field("code"), line.field("flags")), ("502", "UPE"), "{path}");
        }
        Ok(())
    }),
    case("a body that is shorter than promised is cut for the client too", ONE, |s| {
        let _backend = s.backend_that(1, Reply::CloseInBody)?;
        let error = s.get("/short").expect_err("the body is not whole");
        assert!(format!("{error:#}").contains("9 of 1000 bytes"), "{error:#}");
        let line = s.log_of("/short")?;
        assert_eq!(line.field("code"), "200");
        assert!(["UPE", "UC"].contains(&line.field("flags")), "{}", line.field("flags"));
        Ok(())
    }),
    case("a chunked body that breaks off is cut for the client too", ONE, |s| {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n";
        let _backend = s.backend_that(1, Reply::Raw(bytes.to_vec()))?;
        assert!(s.get("/chunk").is_err(), "the body is not whole");
        assert_eq!(s.log_of("/chunk")?.field("flags"), "UPE");
        Ok(())
    }),
    case(
        "a gRPC request is told in gRPC's own terms",
        "
routes:
- {match: {prefix: /svc/}, route: {cluster: $a}}
- {match: {prefix: /empty/}, route: {cluster: $empty}}
clusters: {a: {hosts: [1]}, empty: {hosts: []}}
",
        |s| {
            let table = [
                ("/none/M", "12", None),
                ("/svc/M", "14", Some("upstream connect error")),
                ("/empty/M", "14", Some("no healthy upstream")),
            ];
            for (path, status, message) in table {
                let request = s.request(path).header("content-type", "application/grpc");
                let answer = s.send(&request)?;
                assert_eq!((answer.status, answer.header("grpc-status")), (200, Some(status)), "{path}");
                assert_eq!(answer.header("content-type"), Some("application/grpc"));
                let found = answer.header("grpc-message").unwrap_or_default();
                assert!(found.starts_with(message.unwrap_or_default()), "{path}: {found}");
            }
            Ok(())
        },
    ),
    case("a client that goes away is DC, and its request is given up", ONE, |s| {
        let backend = s.backend_that(1, Reply::Hang)?;
        let mut connection = s.connect()?;
        let request = format!("GET /dc HTTP/1.1\r\nHost: {}\r\n\r\n", s.host());
        connection.write(request.as_bytes())?;
        wait_for_requests(&backend, 1)?;
        drop(connection);
        let line = s.log_of("/dc")?;
        assert_eq!((line.field("code"), line.field("flags")), ("0", "DC"));
        Ok(())
    }),
    case("requests that are malformed are refused and reach nobody", ONE, |s| {
        let backend = s.backend(1)?;
        let host = s.host();
        let table = [
            ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
            ("unknown coding", format!("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip\r\n\r\n"), "501"),
            ("both lengths", format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "400"),
            ("two lengths", format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "400"),
            ("fragment", format!("GET /#x HTTP/1.1\r\nHost: {host}\r\n\r\n"), "400"),
            ("blank in a name", format!("GET / HTTP/1.1\r\nHost: {host}\r\nx y: 1\r\n\r\n"), "400"),
            ("blank before the colon", format!("GET / HTTP/1.1\r\nHost: {host}\r\nx : 1\r\n\r\n"), "400"),
            ("NUL in a value", format!("GET / HTTP/1.1\r\nHost: {host}\r\nx: a\0b\r\n\r\n"), "400"),
            ("no request line", "hello\r\n\r\n".to_owned(), "400"),
            ("version", format!("GET / HTTP/2.0\r\nHost: {host}\r\n\r\n"), s.differs("426", "505")),
        ];
        for (what, bytes, expected) in table {
            let mut connection = s.connect()?;
            connection.write(bytes.as_bytes())?;
            let answer = String::from_utf8(connection.read_to_end()?)?;
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert_eq!(status, expected, "{what}: {answer}");
        }
        assert_eq!(backend.recorded().len(), 0);
        Ok(())
    }),
    case(
        "requests that two parsers could read differently: Envoy takes some, Remora none",
        ONE,
        |s| {
            let backend = s.backend(1)?;
            let host = s.host();
            let table = [
                (
                    "the same length twice",
                    format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 1\r\nConnection: close\r\n\r\na"),
                    "400",
                ),
                (
                    "a folded line",
                    format!("GET / HTTP/1.1\r\nHost: {host}\r\nx: 1\r\n 2\r\nConnection: close\r\n\r\n"),
                    "200",
                ),
                (
                    "bare line feeds",
                    format!("GET / HTTP/1.1\nHost: {host}\nConnection: close\n\n"),
                    "200",
                ),
                (
                    "a bare carriage return",
                    format!("GET / HTTP/1.1\r\nHost: {host}\r\nx: 1\r2\r\nConnection: close\r\n\r\n"),
                    "200",
                ),
            ];
            for (what, bytes, envoy) in table {
                let mut connection = s.connect()?;
                connection.write(bytes.as_bytes())?;
                let answer = String::from_utf8(connection.read_to_end()?)?;
                let status = answer.split(' ').nth(1).unwrap_or_default();
                assert_eq!(status, s.differs(envoy, "400"), "{what}: {answer}");
            }
            assert!(backend.recorded().len() <= s.differs(3, 0));
            Ok(())
        },
    ),
    case("heads beyond 60 KiB or a hundred fields are 431", ONE, |s| {
        let backend = s.backend(1)?;
        let big = s.request("/").header("x-big", &"x".repeat(61 * 1024));
        assert_eq!(s.send(&big)?.status, 431);
        let mut many = s.request("/");
        for n in 0..101 {
            many = many.header(&format!("x-{n}"), "1");
        }
        assert_eq!(s.send(&many)?.status, 431);
        let long = s.request(&format!("/{}", "x".repeat(61 * 1024)));
        assert_eq!(s.send(&long)?.status, s.differs(431, 414));
        assert_eq!(backend.recorded().len(), 0);
        let fits = s.request("/").header("x-big", &"x".repeat(50 * 1024));
        assert_eq!(s.send(&fits)?.status, 200);
        Ok(())
    }),
];

const ONE: &str = "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters: {a: {hosts: [1]}}
";

/// Waits until a backend has seen this many requests.
pub(crate) fn wait_for_requests(
    backend: &remora_testkit::upstream::HttpUpstream,
    count: usize,
) -> anyhow::Result<()> {
    let what = format!("{count} requests at the backend");
    remora_testkit::wait::until_true(&what, remora_testkit::wait::PATIENCE, || {
        backend.recorded().len() >= count
    })
}

/// Flags of the access log for a path.
pub(crate) fn flags(s: &Scene, path: &str) -> anyhow::Result<String> {
    Ok(s.log_of(path)?.field("flags").to_owned())
}
