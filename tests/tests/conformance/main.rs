// SPDX-License-Identifier: Apache-2.0
//! Conformance: scenarios that know no implementation, played to Remora's proxy and to Envoy.
//!
//! Every case names itself in a sentence, brings its own routes, clusters and listeners, and asserts
//! what the client saw and what reached the backend. All cases' configuration makes one bootstrap
//! file ([`bootstrap`]); one proxy process per subject serves them all, several at a time, in one
//! network namespace ([`scene`]). Where Remora is meant to differ, the case says so by
//! [`case::Scene::differs`] or is Remora's alone, and `docs/differences-from-envoy.md` gives the
//! reason.
//!
//! `SUBJECT=remora` or `SUBJECT=envoy` narrows a run to one subject, `CASE=words` to cases whose names
//! contain these words.

mod bodies;
mod bootstrap;
mod case;
mod headers;
mod http2;
mod limits;
mod logs;
mod mirrors;
mod outliers;
mod replies;
mod retries;
mod rewrites;
mod routing;
mod scene;
mod streams;
mod timeouts;

use remora_tests::subject::Subject;

use case::Case;

#[test]
fn envoy_meets_every_expectation() {
    scene::play(Subject::Envoy, &cases());
}

#[test]
fn remora_meets_every_expectation() {
    scene::play(Subject::Remora, &cases());
}

fn cases() -> Vec<&'static Case> {
    let topics = [
        routing::CASES,
        rewrites::CASES,
        headers::CASES,
        replies::CASES,
        timeouts::CASES,
        retries::CASES,
        limits::CASES,
        outliers::CASES,
        mirrors::CASES,
        bodies::CASES,
        streams::CASES,
        http2::CASES,
        logs::CASES,
    ];
    topics.into_iter().flatten().collect()
}
