// SPDX-License-Identifier: Apache-2.0
//! Circuit limits: what is too much is refused at once, with 503 UO.

use std::time::{Duration, Instant};

use remora_testkit::client::Response;
use remora_testkit::upstream::http::Reply;

use super::case::{Case, Scene, case};
use super::replies::{flags, wait_for_requests};

pub(crate) const CASES: &[Case] = &[
    case(
        "beyond the limit of requests the answer is 503 UO at once",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters:
  a: {hosts: [1], circuit_breakers: {thresholds: [{max_requests: 2}]}}
",
        |s| {
            let backend = s.backend_that(1, Reply::Hang)?;
            let held = [start(s, "/held")?, start(s, "/held")?];
            wait_for_requests(&backend, 2)?;
            let begin = Instant::now();
            expect_overflow(s, "/over")?;
            assert!(begin.elapsed() < Duration::from_secs(1));
            assert_eq!(backend.recorded().len(), 2);
            drop(held);
            backend.set_reply(Reply::status(200, "free"));
            let answer = || {
                let answer = s.answer("/after")?;
                anyhow::ensure!(answer == "200 free", "{answer}");
                Ok(())
            };
            remora_testkit::wait::until("the limit to be free again", Duration::from_secs(5), answer)
        },
    ),
    case(
        "with one connection allowed, one request waits for it and the next is refused",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters:
  a: {hosts: [1], circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 1}]}}
",
        |s| {
            let late = Reply::delayed(200, "late", Duration::from_millis(700));
            let backend = s.backend_that(1, late)?;
            let mut first = start(s, "/first")?;
            wait_for_requests(&backend, 1)?;
            let mut second = start(s, "/second")?;
            remora_testkit::wait::rest(Duration::from_millis(200));
            expect_overflow(s, "/third")?;
            assert_eq!(first.read_response("GET")?.text(), "late");
            assert_eq!(second.read_response("GET")?.text(), "late");
            assert_eq!(backend.accepted(), 1, "one connection");
            Ok(())
        },
    ),
    case(
        "retries beyond their limit do not happen",
        "
routes:
- match: {prefix: /}
  route: {cluster: $a, retry_policy: {retry_on: 5xx, num_retries: 3}}
clusters:
  a: {hosts: [1], circuit_breakers: {thresholds: [{max_retries: 0}]}}
",
        |s| {
            let backend = s.backend_that(1, Reply::status(503, "no"))?;
            assert_eq!(s.answer("/")?, "503 no");
            assert_eq!(backend.recorded().len(), 1);
            Ok(())
        },
    ),
    case(
        "priorities have limits of their own",
        "
routes:
- {match: {path: /high}, route: {cluster: $a, priority: HIGH}}
- {match: {prefix: /}, route: {cluster: $a}}
clusters:
  a: {hosts: [1], circuit_breakers: {thresholds: [{max_requests: 1}, {priority: HIGH, max_requests: 1}]}}
",
        |s| {
            let backend = s.backend_that(1, Reply::Hang)?;
            let _held = start(s, "/held")?;
            wait_for_requests(&backend, 1)?;
            expect_overflow(s, "/over")?;
            backend.set_reply(Reply::status(200, "through"));
            assert_eq!(s.answer("/high")?, "200 through");
            Ok(())
        },
    ),
    case(
        "a connection serves no more requests than allowed",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters:
  a: {hosts: [1], max_requests_per_connection: 5}
",
        |s| {
            let backend = s.backend(1)?;
            let mut connection = s.connect()?;
            for _ in 0..20 {
                assert_eq!(connection.send(&s.request("/"))?.status, 200);
            }
            assert_eq!(backend.accepted(), 4);
            Ok(())
        },
    ),
];

/// Sends a GET whose answer is read later, if ever.
fn start(s: &Scene, path: &str) -> anyhow::Result<remora_testkit::client::Connection> {
    let mut connection = s.connect()?;
    connection.write(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", s.host()).as_bytes())?;
    Ok(connection)
}

fn expect_overflow(s: &Scene, path: &str) -> anyhow::Result<()> {
    let answer: Response = s.get(path)?;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: overflow"
    );
    assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
    assert_eq!(flags(s, path)?, "UO");
    Ok(())
}
