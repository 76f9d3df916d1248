// SPDX-License-Identifier: Apache-2.0
//! Messages on the wire: framing, kept connections, interim answers, trailers, old versions.

use std::io::Write as _;
use std::time::Duration;

use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;

use super::case::{Case, case};
use super::replies::wait_for_requests;

pub(crate) const CASES: &[Case] = &[
    case(
        "an answer to HEAD has a length and no body, and the connection goes on",
        ONE,
        |s| {
            let backend = s.backend_that(1, Reply::status(200, "hello"))?;
            let mut connection = s.connect()?;
            for _ in 0..2 {
                let mut head = s.request("/");
                head.method = "HEAD".to_owned();
                let answer = connection.send(&head)?;
                assert_eq!(
                    (answer.status, answer.header("content-length")),
                    (200, Some("5"))
                );
                assert_eq!(connection.send(&s.request("/"))?.text(), "hello");
            }
            assert_eq!(backend.recorded()[0].line, "HEAD / HTTP/1.1");
            Ok(())
        },
    ),
    case(
        "204 and 304 have no body, and the connection goes on",
        ONE,
        |s| {
            let backend = s.backend(1)?;
            let mut connection = s.connect()?;
            for head in ["204 No Content", "304 Not Modified"] {
                let bytes = format!("HTTP/1.1 {head}\r\nx-tag: 1\r\n\r\n");
                backend.push_replies([Reply::Bytes(bytes.into_bytes())]);
                let answer = connection.send(&s.request("/"))?;
                assert!(head.starts_with(&answer.status.to_string()));
                assert_eq!(answer.header("x-tag"), Some("1"));
                assert_eq!(answer.header("transfer-encoding"), None);
                assert_eq!(connection.send(&s.request("/"))?.text(), "1");
            }
            Ok(())
        },
    ),
    case("a chunked request reaches the upstream whole", ONE, |s| {
        let backend = s.backend(1)?;
        let mut connection = s.connect()?;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            s.host()
        );
        connection.write(head.as_bytes())?;
        for part in [
            "5\r\nhello\r\n",
            "1;ext=1\r\n,\r\n",
            "6\r\n world\r\n",
            "0\r\n\r\n",
        ] {
            connection.write(part.as_bytes())?;
            wait::rest(Duration::from_millis(20));
        }
        assert_eq!(connection.read_response("POST")?.status, 200);
        let seen = backend.recorded().pop().expect("a request came");
        assert_eq!(seen.body, b"hello, world");
        assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
        assert_eq!(seen.header("content-length"), None);
        Ok(())
    }),
    case(
        "a chunked answer reaches the client whole, part by part",
        ONE,
        |s| {
            let bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n";
            let _backend = s.backend_that(1, Reply::Bytes(bytes.as_bytes().to_vec()))?;
            let mut connection = s.connect()?;
            for _ in 0..2 {
                let answer = connection.send(&s.request("/"))?;
                assert_eq!(answer.text(), "hello, world");
                assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
            }
            Ok(())
        },
    ),
    case(
        "the first part of an answer does not wait for the rest",
        ONE,
        |s| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            let _backend = s.backend_that(1, Reply::Bytes(head.as_bytes().to_vec()))?;
            let mut connection = s.connect()?;
            connection.write(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", s.host()).as_bytes())?;
            let mut seen = Vec::new();
            let mut buffer = [0; 1024];
            while !seen.ends_with(b"5\r\nfirst\r\n") {
                let read = std::io::Read::read(connection.stream(), &mut buffer)?;
                assert_ne!(read, 0, "closed after {:?}", String::from_utf8_lossy(&seen));
                seen.extend_from_slice(buffer.get(..read).unwrap_or_default());
            }
            Ok(())
        },
    ),
    case(
        "an answer that ends with its connection is whole, and the client's connection stays",
        ONE,
        |s| {
            let bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end";
            let _backend = s.backend_that(1, Reply::Raw(bytes.to_vec()))?;
            let mut connection = s.connect()?;
            for _ in 0..2 {
                let answer = connection.send(&s.request("/"))?;
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (200, "until the end")
                );
                assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
            }
            Ok(())
        },
    ),
    case("ten megabytes pass in both directions", ONE, |s| {
        let backend = s.backend_that(1, Reply::Echo)?;
        let body: Vec<u8> = (0..10_u32 << 18).flat_map(u32::to_le_bytes).collect();
        let answer = s.send(&s.request("/").with_body("POST", body.clone()))?;
        assert_eq!(answer.status, 200);
        assert!(
            answer.body.ends_with(&body),
            "the echo of {} bytes differs",
            body.len()
        );
        assert_eq!(backend.recorded()[0].body.len(), body.len());
        Ok(())
    }),
    case(
        "an answer before the end of the request is passed on",
        ONE,
        |s| {
            let early = |head: &str| {
                format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: 4\r\n\r\nearl")
            };
            // This one does not wait for the body: it answers whatever has come.
            let listener = std::net::TcpListener::bind(s.address(1))?;
            let answered = std::thread::scope(|scope| {
                scope.spawn(move || -> std::io::Result<()> {
                    let (mut stream, _) = listener.accept()?;
                    let mut buffer = [0; 4096];
                    let _ = std::io::Read::read(&mut stream, &mut buffer)?;
                    stream.write_all(early("413 Content Too Large").as_bytes())?;
                    while std::io::Read::read(&mut stream, &mut buffer)? > 0 {}
                    Ok(())
                });
                let mut connection = s.connect()?;
                let head = format!(
                    "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 100000\r\n\r\nsome",
                    s.host()
                );
                connection.write(head.as_bytes())?;
                connection.read_response("POST")
            })?;
            assert_eq!((answered.status, answered.text().as_str()), (413, "earl"));
            Ok(())
        },
    ),
    case(
        "a connection serves request after request, each to its own route",
        TWO,
        |s| {
            let (a, b) = (s.backend(1)?, s.backend(2)?);
            let mut connection = s.connect()?;
            for n in 0..50 {
                let (path, expected) = if n % 2 == 0 { ("/a", "1") } else { ("/b", "2") };
                assert_eq!(connection.send(&s.request(path))?.text(), expected);
            }
            assert_eq!(
                (a.accepted(), b.accepted()),
                (1, 1),
                "upstream connections are kept too"
            );
            Ok(())
        },
    ),
    case(
        "requests that come at once are answered in their order",
        TWO,
        |s| {
            let late = Reply::delayed(200, "1", Duration::from_millis(150));
            let _backends = (s.backend_that(1, late)?, s.backend(2)?);
            let mut connection = s.connect()?;
            let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", s.host());
            let mut all = String::new();
            for _ in 0..5 {
                all.push_str(&one("/a"));
                all.push_str(&one("/b"));
            }
            connection.write(all.as_bytes())?;
            let mut found = String::new();
            for _ in 0..10 {
                found.push_str(&connection.read_response("GET")?.text());
            }
            assert_eq!(found, "1212121212");
            Ok(())
        },
    ),
    case(
        "Connection: close is honoured, and keep-alive is the default",
        ONE,
        |s| {
            let _backend = s.backend(1)?;
            let mut connection = s.connect()?;
            let answer = connection.send(&s.request("/").header("Connection", "close"))?;
            assert_eq!(answer.header("connection"), Some("close"));
            assert_eq!(connection.read_to_end()?, b"");
            Ok(())
        },
    ),
    case(
        "a client that waits for 100 Continue is told to go on",
        ONE,
        |s| {
            let backend = s.backend(1)?;
            let mut connection = s.connect()?;
            let host = s.host();
            let head = format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            );
            connection.write(head.as_bytes())?;
            connection.expect(b"HTTP/1.1 100 Continue\r\n")?;
            connection.expect(b"\r\n")?;
            connection.write(b"body")?;
            assert_eq!(connection.read_response("POST")?.status, 200);
            assert_eq!(backend.recorded()[0].body, b"body");
            Ok(())
        },
    ),
    case(
        "103 Early Hints reaches the client before the answer",
        ONE,
        |s| {
            let bytes = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            let _backend = s.backend_that(1, Reply::Bytes(bytes.as_bytes().to_vec()))?;
            let answer = s.get("/")?;
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
            // Envoy drops interim answers.
            assert_eq!(answer.interim, s.differs(vec![], vec![103]));
            Ok(())
        },
    ),
    case(
        "HTTP/1.0 is served, and its connection closed unless it asks to keep it",
        ONE,
        |s| {
            let backend = s.backend(1)?;
            let host = s.host();
            let mut connection = s.connect()?;
            connection.write(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
            let text = String::from_utf8(connection.read_to_end()?)?;
            assert!(
                text.contains(" 200 ") && text.ends_with("\r\n\r\n1"),
                "{text}"
            );
            let mut kept = s.connect()?;
            for _ in 0..2 {
                let head =
                    format!("GET / HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n");
                kept.write(head.as_bytes())?;
                assert_eq!(kept.read_response("GET")?.text(), "1");
            }
            assert!(
                backend
                    .recorded()
                    .iter()
                    .all(|request| request.line == "GET / HTTP/1.1")
            );
            let bytes =
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
            backend.set_reply(Reply::Bytes(bytes.to_vec()));
            let mut connection = s.connect()?;
            connection.write(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
            let text = String::from_utf8(connection.read_to_end()?)?;
            assert!(
                text.ends_with("\r\n\r\nhello"),
                "1.0 knows no chunks: {text}"
            );
            Ok(())
        },
    )
    .of_remora(),
    case("trailers pass in both directions", ONE, |s| {
        let bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
        let backend = s.backend_that(1, Reply::Bytes(bytes.as_bytes().to_vec()))?;
        let mut connection = s.connect()?;
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nTE: trailers\r\nConnection: te\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n",
            s.host()
        );
        connection.write(request.as_bytes())?;
        let answer = connection.read_response("POST")?;
        let pair = |value: &str| vec![("x-sum".to_owned(), value.to_owned())];
        // Envoy drops trailers of HTTP/1.
        assert_eq!(answer.trailers, s.differs(vec![], pair("1")));
        let seen = backend.recorded().pop().expect("a request came");
        assert_eq!(seen.body, b"ok");
        assert_eq!(seen.trailers, s.differs(vec![], pair("2")));
        Ok(())
    }),
    case(
        "a client that sends half a body and leaves does not look complete to the upstream",
        ONE,
        |s| {
            let backend = s.backend(1)?;
            let mut connection = s.connect()?;
            let head = format!(
                "POST /half HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\n\r\nhalf",
                s.host()
            );
            connection.write(head.as_bytes())?;
            wait::rest(Duration::from_millis(100));
            drop(connection);
            wait_for_requests(&backend, 1)?;
            assert!(!backend.recorded()[0].is_complete);
            Ok(())
        },
    ),
    case(
        "options of methods and targets pass as they are",
        ONE,
        |s| {
            let backend = s.backend(1)?;
            for (method, target) in [
                ("DELETE", "/x"),
                ("PATCH", "/x"),
                ("OPTIONS", "/x"),
                ("GET", "/a%20b/%2F/..;x=1?q=%zz&r=[]"),
                ("GET", "/~x/(y)/$z,'*'"),
            ] {
                let mut request = s.request(target);
                request.method = method.to_owned();
                assert_eq!(s.send(&request)?.status, 200, "{method} {target}");
                let seen = backend.recorded().pop().expect("a request came");
                assert_eq!(seen.line, format!("{method} {target} HTTP/1.1"));
            }
            Ok(())
        },
    ),
];

const ONE: &str = "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters: {a: {hosts: [1]}}
";

const TWO: &str = "
routes:
- {match: {path: /a}, route: {cluster: $a}}
- {match: {path: /b}, route: {cluster: $b}}
clusters: {a: {hosts: [1]}, b: {hosts: [2]}}
";
