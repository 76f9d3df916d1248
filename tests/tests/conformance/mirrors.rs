// SPDX-License-Identifier: Apache-2.0
//! Copies of requests: sent to another cluster, and never a matter of the client's answer.

use std::time::{Duration, Instant};

use remora_testkit::upstream::http::Reply;

use super::case::{Case, case};
use super::replies::wait_for_requests;

pub(crate) const CASES: &[Case] = &[
    case(
        "each request is copied, with its body and a marked host",
        MIRRORED,
        |s| {
            let (first, copy) = (
                s.backend(1)?,
                s.backend_that(2, Reply::status(500, "copy"))?,
            );
            for n in 0..10 {
                let request = s
                    .request(&format!("/{n}"))
                    .with_body("POST", format!("body {n}"));
                assert_eq!(s.answer_to(&request)?, "200 1");
            }
            wait_for_requests(&copy, 10)?;
            let mut seen = copy.recorded();
            seen.sort_by(|a, b| a.line.cmp(&b.line));
            for (n, request) in seen.iter().enumerate() {
                assert_eq!(request.line, format!("POST /{n} HTTP/1.1"));
                assert_eq!(request.body, format!("body {n}").as_bytes());
                assert_eq!(
                    request.header("host"),
                    Some(format!("{}-shadow", s.host()).as_str())
                );
            }
            assert_eq!(first.recorded().len(), 10);
            Ok(())
        },
    ),
    case("a slow copy does not slow the request", MIRRORED, |s| {
        let (_first, copy) = (s.backend(1)?, s.backend_that(2, Reply::Hang)?);
        let start = Instant::now();
        assert_eq!(s.answer("/")?, "200 1");
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        wait_for_requests(&copy, 1)
    }),
    case("a dead copy does not harm the request", MIRRORED, |s| {
        let _first = s.backend(1)?;
        for _ in 0..10 {
            assert_eq!(s.answer("/")?, "200 1");
        }
        Ok(())
    }),
    case(
        "a share of the requests is copied",
        "
routes:
- match: {prefix: /}
  route:
    cluster: $a
    request_mirror_policies: [{cluster: $copy, runtime_fraction: {default_value: {numerator: 25}}}]
clusters: {a: {hosts: [1]}, copy: {hosts: [2]}}
",
        |s| {
            let (_first, copy) = (s.backend(1)?, s.backend(2)?);
            let mut connection = s.connect()?;
            for _ in 0..400 {
                assert_eq!(connection.send(&s.request("/"))?.status, 200);
            }
            wait_for_requests(&copy, 57)?;
            remora_testkit::wait::rest(Duration::from_millis(200));
            let copies = copy.recorded().len();
            // Five standard deviations around 100.
            assert!((57..=143).contains(&copies), "{copies} copies of 400");
            Ok(())
        },
    ),
];

const MIRRORED: &str = "
routes:
- match: {prefix: /}
  route: {cluster: $a, request_mirror_policies: [{cluster: $copy}]}
clusters: {a: {hosts: [1]}, copy: {hosts: [2]}}
";
