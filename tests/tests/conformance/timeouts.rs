// SPDX-License-Identifier: Apache-2.0
//! Deadlines: of the route, of an attempt, of a silent stream, of gRPC.

use std::time::{Duration, Instant};

use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;

use super::case::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case(
        "a route's timeout is 504 UT, and the attempt is given up",
        ROUTES,
        |s| {
            let backend = s.backend_that(1, Reply::Hang)?;
            let start = Instant::now();
            assert_eq!(s.answer("/short")?, "504 upstream request timeout");
            let time = start.elapsed();
            assert!((280..2000).contains(&time.as_millis()), "{time:?}");
            s.expect_log("/short", "504 UT response_timeout")?;
            assert_eq!(backend.recorded().len(), 1);
            backend.set_reply(Reply::status(200, "again"));
            assert_eq!(
                s.answer("/short")?,
                "200 again",
                "the next request is not harmed"
            );
            Ok(())
        },
    ),
    case(
        "the clock of a route starts when the request is complete",
        ROUTES,
        |s| {
            let _backend = s.backend(1)?;
            let mut connection = s.connect()?;
            let host = s.host();
            let head =
                format!("POST /short HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\na");
            connection.write(head.as_bytes())?;
            wait::rest(Duration::from_millis(600));
            connection.write(b"b")?;
            assert_eq!(connection.read_response("POST")?.status, 200);
            Ok(())
        },
    ),
    case(
        "an answer that has begun is cut at the route's timeout",
        ROUTES,
        |s| {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
            let _backend = s.backend_that(1, Reply::Bytes(head.to_vec()))?;
            assert!(
                s.get("/short").is_err(),
                "the body does not come to its end"
            );
            let line = s.log_of("/short")?;
            assert_eq!((line.field("code"), line.field("flags")), ("200", "UT"));
            Ok(())
        },
    ),
    case(
        "a per-try timeout is retried, then 504 with UT and URX",
        ROUTES,
        |s| {
            let backend = s.backend_that(1, Reply::Hang)?;
            assert_eq!(s.answer("/per-try")?, "504 upstream request timeout");
            s.expect_log("/per-try", "504 URX,UT upstream_per_try_timeout")?;
            assert_eq!(backend.recorded().len(), 2);
            backend.push_replies([Reply::Hang]);
            backend.set_reply(Reply::status(200, "second"));
            assert_eq!(s.answer("/per-try")?, "200 second");
            Ok(())
        },
    ),
    case(
        "the route's timeout bounds all attempts together",
        ROUTES,
        |s| {
            let backend = s.backend_that(1, Reply::Hang)?;
            let start = Instant::now();
            assert_eq!(s.answer("/all-tries")?, "504 upstream request timeout");
            let time = start.elapsed();
            assert!((480..2000).contains(&time.as_millis()), "{time:?}");
            let tries = backend.recorded().len();
            assert!(
                (2..=4).contains(&tries),
                "{tries} attempts of 200 ms in 500 ms"
            );
            Ok(())
        },
    ),
    case("a silent stream is 504 SI", ROUTES, |s| {
        let _backend = s.backend_that(1, Reply::Hang)?;
        assert_eq!(s.answer("/idle")?, "504 stream timeout");
        s.expect_log("/idle", "504 SI stream_idle_timeout")
    }),
    case("without a limit a slow answer comes through", ROUTES, |s| {
        let late = Reply::delayed(200, "late", Duration::from_millis(800));
        let _backend = s.backend_that(1, late)?;
        assert_eq!(s.answer("/no-limit")?, "200 late");
        Ok(())
    }),
    case("a stream that is too old is 504 DT", ROUTES, |s| {
        let _backend = s.backend_that(1, Reply::Hang)?;
        assert_eq!(s.answer("/old")?, "504 downstream duration timeout");
        let log = s.differs("504 - max_duration_timeout", "504 DT max_duration_timeout");
        s.expect_log("/old", log)?;
        let grpc = s.request("/old").header("content-type", "application/grpc");
        assert_eq!(s.send(&grpc)?.header("grpc-status"), Some("4"));
        Ok(())
    }),
    case(
        "a gRPC request's own deadline holds where the route says so",
        ROUTES,
        |s| {
            let _backend = s.backend_that(1, Reply::Hang)?;
            let request = s
                .request("/grpc")
                .header("content-type", "application/grpc");
            let start = Instant::now();
            let answer = s.send(&request.header("grpc-timeout", "300m"))?;
            let time = start.elapsed();
            assert_eq!(
                (answer.status, answer.header("grpc-status")),
                (200, Some("4"))
            );
            assert!((280..2000).contains(&time.as_millis()), "{time:?}");
            Ok(())
        },
    ),
];

const ROUTES: &str = "
routes:
- {match: {path: /short}, route: {cluster: $a, timeout: 0.3s}}
- {match: {path: /per-try}, route: {cluster: $a, timeout: 5s, retry_policy: {retry_on: 5xx, num_retries: 1, per_try_timeout: 0.2s}}}
- {match: {path: /all-tries}, route: {cluster: $a, timeout: 0.5s, retry_policy: {retry_on: 5xx, num_retries: 9, per_try_timeout: 0.2s}}}
- {match: {path: /idle}, route: {cluster: $a, timeout: 0s, idle_timeout: 0.3s}}
- {match: {path: /old}, route: {cluster: $a, timeout: 0s, max_stream_duration: {max_stream_duration: 0.3s}}}
- {match: {path: /no-limit}, route: {cluster: $a, timeout: 0s}}
- {match: {path: /grpc}, route: {cluster: $a, max_stream_duration: {grpc_timeout_header_max: 5s}}}
clusters: {a: {hosts: [1]}}
";
