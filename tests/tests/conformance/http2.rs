// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 with prior knowledge on either side, and gRPC over it.

use bytes::Bytes;
use h2::Reason;
use http::Request;
use remora_testkit::upstream::http::Reply as Http1Reply;
use remora_tests::h2_peer::{self, H2Upstream, Message, Reply, fields};

use super::case::{Case, PROXY, Scene, case};

pub(crate) const CASES: &[Case] = &[
    case("an HTTP/2 client reaches an HTTP/1.1 upstream", ONE, |s| {
        let backend = s.backend_that(1, Http1Reply::Echo)?;
        let answer = h2_peer::ask(PROXY, post(s, "/h2?q", "hello")?)?;
        assert_eq!(answer.status(), 200);
        assert!(answer.body.ends_with(b"hello"));
        let seen = backend.recorded().pop().expect("a request came");
        assert_eq!(seen.line, "POST /h2?q HTTP/1.1");
        assert_eq!(seen.header("host"), Some(s.host().as_str()));
        assert_eq!(seen.body, b"hello");
        assert_eq!(s.log_of("/h2?q")?.field("protocol"), "HTTP/2");
        Ok(())
    }),
    case(
        "cookies that came apart are joined for HTTP/1.1",
        ONE,
        |s| {
            let backend = s.backend(1)?;
            let mut request = post(s, "/", "")?;
            for pair in ["a=1", "b=2", "c=3"] {
                request.head.headers_mut().append("cookie", pair.parse()?);
            }
            assert_eq!(h2_peer::ask(PROXY, request)?.status(), 200);
            let seen = backend.recorded().pop().expect("a request came");
            assert_eq!(seen.header("cookie"), Some("a=1; b=2; c=3"));
            Ok(())
        },
    ),
    case("requests of one connection run side by side", ONE, |s| {
        let late = std::time::Duration::from_millis(500);
        let backend = s.backend_that(1, Http1Reply::delayed(200, "late", late))?;
        let start = std::time::Instant::now();
        let requests = (0..8)
            .map(|n| post(s, &format!("/{n}"), "x"))
            .collect::<anyhow::Result<_>>()?;
        for answer in h2_peer::ask_all(PROXY, requests)? {
            assert_eq!(answer?.body, "late");
        }
        assert!(start.elapsed() < late * 3, "{:?}", start.elapsed());
        assert_eq!(backend.recorded().len(), 8);
        Ok(())
    }),
    case(
        "a megabyte passes over HTTP/2 in both directions",
        HTTP2,
        |s| {
            let _backend = H2Upstream::start(s.address(1), Reply::Echo)?;
            let body: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
            let mut request = post(s, "/", "")?;
            request.body = Bytes::from(body.clone());
            let answer = h2_peer::ask(PROXY, request)?;
            assert!(answer.body == body, "{} bytes came back", answer.body.len());
            Ok(())
        },
    ),
    case("gRPC passes with its trailers", HTTP2, |s| {
        let reply = Reply::Answer {
            status: 200,
            headers: vec![("content-type", "application/grpc")],
            body: "\0\0\0\0\x02ok",
            trailers: vec![("grpc-status", "0"), ("grpc-message", "well")],
        };
        let backend = H2Upstream::start(s.address(1), reply)?;
        let answer = h2_peer::ask(PROXY, grpc(s, "/shop.Search/Find")?)?;
        assert_eq!(
            (answer.status(), answer.body.as_ref()),
            (200, &b"\0\0\0\0\x02ok"[..])
        );
        assert_eq!(answer.trailer("grpc-status"), Some("0"));
        assert_eq!(answer.trailer("grpc-message"), Some("well"));
        let seen = backend.recorded().pop().expect("a request came");
        assert_eq!(seen.head.uri().path(), "/shop.Search/Find");
        assert_eq!(
            seen.head.uri().authority().map(|a| a.as_str()),
            Some(s.host().as_str())
        );
        assert_eq!(
            seen.head.headers().get("te").map(|v| v.as_bytes()),
            Some(&b"trailers"[..])
        );
        Ok(())
    }),
    case("request trailers reach an HTTP/2 upstream", HTTP2, |s| {
        let backend = H2Upstream::start(s.address(1), Reply::Echo)?;
        let mut request = post(s, "/", "body")?;
        request.trailers = Some(fields(&[("x-sum", "1")])?);
        let answer = h2_peer::ask(PROXY, request)?;
        assert_eq!(
            (answer.body.as_ref(), answer.trailer("x-sum")),
            (&b"body"[..], Some("1"))
        );
        let seen = backend.recorded().pop().expect("a request came");
        assert!(
            seen.trailers
                .is_some_and(|trailers| trailers.contains_key("x-sum"))
        );
        Ok(())
    }),
    case(
        "a gRPC answer of trailers alone passes as such",
        HTTP2,
        |s| {
            let reply = Reply::Answer {
                status: 200,
                headers: vec![("content-type", "application/grpc"), ("grpc-status", "5")],
                body: "",
                trailers: vec![],
            };
            let _backend = H2Upstream::start(s.address(1), reply)?;
            let answer = h2_peer::ask(PROXY, grpc(s, "/shop.Search/Find")?)?;
            assert_eq!(
                (answer.header("grpc-status"), answer.body.len()),
                (Some("5"), 0)
            );
            Ok(())
        },
    ),
    case(
        "an HTTP/1.1 client reaches an HTTP/2 upstream",
        HTTP2,
        |s| {
            let backend = H2Upstream::start(s.address(1), Reply::Echo)?;
            assert_eq!(
                s.answer_to(&s.request("/x").with_body("POST", "hello"))?,
                "200 hello"
            );
            let seen = backend.recorded().pop().expect("a request came");
            assert_eq!(
                (seen.head.method().as_str(), seen.head.uri().path()),
                ("POST", "/x")
            );
            for name in ["connection", "transfer-encoding", "host"] {
                assert!(!seen.head.headers().contains_key(name), "{name}");
            }
            Ok(())
        },
    ),
    case(
        "a refused stream is retried by its word, and 503 UR without",
        HTTP2,
        |s| {
            let backend = H2Upstream::start(s.address(1), Reply::Reset(Reason::REFUSED_STREAM))?;
            assert_eq!(s.get("/retried")?.status, 503);
            assert_eq!(backend.recorded().len(), 2);
            assert_eq!(s.get("/once")?.status, 503);
            assert_eq!(backend.recorded().len(), 3);
            let line = s.log_of("/once")?;
            assert_eq!(line.field("flags"), "UR");
            Ok(())
        },
    ),
    case("a stream that the upstream resets is 503 UR", HTTP2, |s| {
        let _backend = H2Upstream::start(s.address(1), Reply::Reset(Reason::INTERNAL_ERROR))?;
        let answer = s.answer("/reset")?;
        assert!(answer.starts_with("503 upstream connect error"), "{answer}");
        assert_eq!(s.log_of("/reset")?.field("flags"), "UR");
        Ok(())
    }),
    case(
        "no route is 404 over HTTP/2, and the connection goes on",
        HTTP2,
        |s| {
            let _backend = H2Upstream::start(s.address(1), Reply::Echo)?;
            let mut missing = post(s, "/", "x")?;
            *missing.head.uri_mut() = "http://nobody.test/".parse()?;
            let answers = h2_peer::ask_all(PROXY, vec![missing, post(s, "/", "x")?])?;
            let statuses: Vec<_> = answers
                .into_iter()
                .map(|a| a.map(|a| a.status()))
                .collect::<Result<_, _>>()?;
            assert_eq!(statuses, [404, 200]);
            Ok(())
        },
    ),
    case(
        "a gRPC request that no upstream takes is told so in its head",
        ONE,
        |s| {
            let answer = h2_peer::ask(PROXY, grpc(s, "/shop.Search/Find")?)?;
            assert_eq!(
                (answer.status(), answer.header("grpc-status")),
                (200, Some("14"))
            );
            Ok(())
        },
    ),
];

const ONE: &str = "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters: {a: {hosts: [1]}}
";

const HTTP2: &str = "
routes:
- {match: {path: /retried}, route: {cluster: $a, retry_policy: {retry_on: refused-stream}}}
- {match: {prefix: /}, route: {cluster: $a}}
clusters: {a: {hosts: [1], http2: true}}
";

fn post(s: &Scene, target: &str, body: &'static str) -> anyhow::Result<Message<Request<()>>> {
    let head = Request::post(format!("http://{}{target}", s.host())).body(())?;
    Ok(Message {
        head,
        body: Bytes::from_static(body.as_bytes()),
        trailers: None,
    })
}

fn grpc(s: &Scene, method: &str) -> anyhow::Result<Message<Request<()>>> {
    let mut request = post(s, method, "\0\0\0\0\x02hi")?;
    let headers = request.head.headers_mut();
    headers.insert("content-type", "application/grpc".parse()?);
    headers.insert("te", "trailers".parse()?);
    Ok(request)
}
