// SPDX-License-Identifier: Apache-2.0
//! Passive health: hosts that fail are left out for a while, and come back.

use std::time::{Duration, Instant};

use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;

use super::case::{Case, Scene, case};
use super::replies::flags;

pub(crate) const CASES: &[Case] = &[
    case(
        "a host that fails in a row is left out, and comes back after its time",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters:
  a:
    hosts: [1, 2]
    outlier_detection: {consecutive_5xx: 3, interval: 0.1s, base_ejection_time: 2s, max_ejection_percent: 100}
",
        |s| {
            let (bad, good) = (s.backend_that(1, Reply::status(500, "bad"))?, s.backend(2)?);
            ask_until(s, "host 1 is left out", || bad.recorded().len() >= 3)?;
            let ejected = Instant::now();
            bad.set_reply(Reply::status(200, "well"));
            // An ejection may take a moment to reach the balancer.
            wait::rest(Duration::from_millis(300));
            let (bad_before, good_before) = (bad.recorded().len(), good.recorded().len());
            for _ in 0..20 {
                assert_eq!(s.answer("/")?, "200 2");
            }
            assert_eq!(bad.recorded().len(), bad_before);
            assert_eq!(good.recorded().len(), good_before + 20);
            ask_until(s, "host 1 is back", || bad.recorded().len() > bad_before)?;
            let time = ejected.elapsed();
            assert!(time >= Duration::from_millis(1700), "back after {time:?}");
            Ok(())
        },
    ),
    case(
        "when all hosts are left out and panic is off, the answer is 503 UH",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters:
  a:
    hosts: [1]
    common_lb_config: {healthy_panic_threshold: {value: 0}}
    outlier_detection: {consecutive_5xx: 2, interval: 0.1s, base_ejection_time: 30s, max_ejection_percent: 100}
",
        |s| {
            let backend = s.backend_that(1, Reply::status(500, "bad"))?;
            for _ in 0..2 {
                assert_eq!(s.answer("/")?, "500 bad");
            }
            let out = || {
                let answer = s.answer("/uh")?;
                anyhow::ensure!(answer == "503 no healthy upstream", "{answer}");
                Ok(())
            };
            wait::until("the host to be left out", wait::PATIENCE, out)?;
            assert_eq!(flags(s, "/uh")?, "UH");
            let before = backend.recorded().len();
            assert_eq!(s.answer("/uh")?, "503 no healthy upstream");
            assert_eq!(backend.recorded().len(), before);
            Ok(())
        },
    ),
    case(
        "when too few hosts are left, panic sends traffic to all of them",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters:
  a:
    hosts: [1]
    outlier_detection: {consecutive_5xx: 2, interval: 0.1s, base_ejection_time: 30s, max_ejection_percent: 100}
",
        |s| {
            let _backend = s.backend_that(1, Reply::status(500, "bad"))?;
            for _ in 0..10 {
                assert_eq!(s.answer("/")?, "500 bad");
                wait::rest(Duration::from_millis(30));
            }
            Ok(())
        },
    ),
    case(
        "no more hosts are left out than the maximum allows",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters:
  a:
    hosts: [1, 2, 3]
    common_lb_config: {healthy_panic_threshold: {value: 0}}
    outlier_detection: {consecutive_5xx: 2, interval: 0.1s, base_ejection_time: 30s, max_ejection_percent: 10}
",
        |s| {
            let bad: Vec<_> = (1..=3)
                .map(|k| s.backend_that(k, Reply::status(500, "bad")))
                .collect::<anyhow::Result<_>>()?;
            for _ in 0..30 {
                assert_eq!(s.answer("/")?, "500 bad", "one third is more than a tenth");
                wait::rest(Duration::from_millis(10));
            }
            assert!(bad.iter().all(|backend| backend.recorded().len() >= 8));
            Ok(())
        },
    ),
    case(
        "gateway failures in a row are counted apart from other failures",
        "
routes: [{match: {prefix: /}, route: {cluster: $a}}]
clusters:
  a:
    hosts: [1]
    common_lb_config: {healthy_panic_threshold: {value: 0}}
    outlier_detection:
      consecutive_5xx: 100
      consecutive_gateway_failure: 3
      enforcing_consecutive_gateway_failure: 100
      interval: 0.1s
      base_ejection_time: 30s
      max_ejection_percent: 100
",
        |s| {
            let backend = s.backend_that(1, Reply::status(500, "bad"))?;
            for _ in 0..8 {
                assert_eq!(s.answer("/")?, "500 bad", "500 is no gateway failure");
            }
            backend.set_reply(Reply::status(502, "bad"));
            for _ in 0..3 {
                assert_eq!(s.answer("/")?, "502 bad");
            }
            let out = || {
                let answer = s.answer("/")?;
                anyhow::ensure!(answer == "503 no healthy upstream", "{answer}");
                Ok(())
            };
            wait::until("the host to be left out", wait::PATIENCE, out)
        },
    ),
];

/// Asks again and again until a condition holds.
fn ask_until(s: &Scene, what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
    wait::until_true(what, wait::PATIENCE, || s.get("/").is_ok() && holds())
}
