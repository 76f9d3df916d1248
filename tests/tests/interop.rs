// SPDX-License-Identifier: Apache-2.0
//! The control plane drives Envoy and Remora alike.
//!
//! Given the same control plane, the same bootstrap and the same redirection, Envoy by delta and by
//! state-of-the-world ADS and Remora by both send a table of requests to the same programs with the same
//! status; and neither refuses anything that it is sent.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use remora_testkit::client::Request;
use remora_testkit::lab;
use remora_testkit::upstream::http::Reply;
use remora_testkit::wait;
use remora_tests::subject::Subject;
use remora_tests::town::{Ads, Sidecar, Town};

#[test]
fn envoy_by_delta_accepts_everything_and_routes_as_told() {
    drive(Subject::Envoy, Ads::Delta);
}

#[test]
fn envoy_by_state_of_the_world_accepts_everything_and_routes_as_told() {
    drive(Subject::Envoy, Ads::StateOfTheWorld);
}

#[test]
fn remora_by_delta_accepts_everything_and_routes_as_told() {
    drive(Subject::Remora, Ads::Delta);
}

#[test]
fn remora_by_state_of_the_world_accepts_everything_and_routes_as_told() {
    drive(Subject::Remora, Ads::StateOfTheWorld);
}

fn drive(subject: Subject, ads: Ads) {
    if !subject.is_wanted().expect("SUBJECT is well-formed") {
        return;
    }
    lab::test(|lab| {
        let town = Town::start(lab)?;
        let sidecar = town.add_sidecar("php", 10, subject, ads)?;
        for step in STEPS {
            prepare(&town, step)?;
            for row in step.rows {
                let what = format!("{}: {}", step.file, row.what);
                // What was edited is in force when the whole row holds.
                let holds = || expect(&town, &sidecar, row);
                wait::until(&what, wait::PATIENCE, holds)?;
                // And stays so.
                expect(&town, &sidecar, row).context(what)?;
            }
        }
        expect_nothing_refused(subject, &sidecar)
    });
}

/// A file of `examples/php-shop/steps`, or YAML, and what must hold under it.
struct Step {
    file: &'static str,
    yaml: Option<&'static str>,
    /// Programs that answer 503 meanwhile.
    broken: &'static [&'static str],
    rows: &'static [Row],
}

/// Twenty requests, and what becomes of them.
struct Row {
    what: &'static str,
    service: &'static str,
    host: &'static str,
    path: &'static str,
    header: Option<(&'static str, &'static str)>,
    status: u16,
    /// The programs that must be reached, and no others.
    reached: &'static [&'static str],
}

const SMS: Row = Row {
    what: "sms",
    service: "sms",
    host: "sms",
    path: "/send?to=rui",
    header: None,
    status: 200,
    reached: &["sms-v1-a", "sms-v1-b"],
};

const STEPS: &[Step] = &[
    Step {
        file: "01-all-to-v1",
        yaml: None,
        broken: &[],
        rows: &[
            SMS,
            Row {
                what: "sms by its full name",
                host: "sms.shop.svc.cluster.local",
                ..SMS
            },
            Row {
                what: "sms with a port",
                host: "sms:80",
                ..SMS
            },
            Row {
                what: "message",
                service: "message",
                host: "message",
                reached: &["message"],
                ..SMS
            },
            Row {
                what: "search",
                service: "search",
                host: "search.shop",
                reached: &["search"],
                ..SMS
            },
            Row {
                what: "front",
                service: "front",
                host: "front",
                reached: &["front"],
                ..SMS
            },
        ],
    },
    Step {
        file: "03-canary-50-50",
        yaml: None,
        broken: &[],
        rows: &[Row {
            reached: &["sms-v1-a", "sms-v1-b", "sms-v2"],
            ..SMS
        }],
    },
    Step {
        file: "04-user-rui-to-v2",
        yaml: None,
        broken: &[],
        rows: &[
            Row {
                what: "rui",
                header: Some(("user", "rui")),
                reached: &["sms-v2"],
                ..SMS
            },
            Row {
                what: "somebody else",
                header: Some(("user", "ana")),
                ..SMS
            },
            SMS,
        ],
    },
    Step {
        file: "06-mirror",
        yaml: None,
        broken: &[],
        rows: &[Row {
            what: "mirrored",
            reached: &["sms-v1-a", "sms-v1-b", "sms-v2"],
            ..SMS
        }],
    },
    Step {
        file: "05-retries-and-ejection",
        yaml: None,
        broken: &["sms-v2"],
        rows: &[Row {
            what: "one instance fails unseen",
            reached: &["sms-v1-a", "sms-v1-b"],
            ..SMS
        }],
    },
    Step {
        file: "a route to nowhere, a redirect, a rewrite",
        yaml: Some(ODD),
        broken: &[],
        rows: &[
            Row {
                what: "a service that does not exist",
                path: "/nowhere",
                status: 503,
                reached: &[],
                ..SMS
            },
            Row {
                what: "a redirect",
                path: "/moved",
                status: 302,
                reached: &[],
                ..SMS
            },
            Row {
                what: "no route",
                path: "/none",
                status: 404,
                reached: &[],
                ..SMS
            },
            Row {
                what: "a regex",
                path: "/v7/x",
                reached: &["message"],
                ..SMS
            },
            Row {
                what: "a query",
                path: "/q?kind=2",
                reached: &["sms-v2"],
                ..SMS
            },
        ],
    },
];

const ODD: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sms, namespace: shop}
spec:
  hosts: [sms]
  http:
  - match: [{uri: {prefix: /nowhere}}]
    route: [{destination: {host: does-not-exist}}]
  - match: [{uri: {exact: /moved}}]
    redirect: {uri: /there, redirectCode: 302}
  - match: [{uri: {regex: '/v[0-9]+/.*'}}]
    rewrite: {uri: /rewritten}
    route: [{destination: {host: message}}]
  - match: [{uri: {prefix: /q}, queryParams: {kind: {exact: '2'}}}]
    route: [{destination: {host: sms, subset: v2}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: sms, namespace: shop}
spec:
  host: sms
  subsets: [{name: v2, labels: {version: v2}}]
";

fn prepare(town: &Town, step: &Step) -> anyhow::Result<()> {
    for name in town.counts().keys() {
        let reply = if step.broken.contains(name) { 503 } else { 200 };
        town.backend(name)?.set_reply(Reply::status(reply, name));
    }
    match step.yaml {
        Some(yaml) => town.write("routing.yaml", yaml),
        None => town.set_step(step.file),
    }
}

/// Sends a row's requests and compares statuses and programs.
fn expect(town: &Town, sidecar: &Sidecar, row: &Row) -> anyhow::Result<()> {
    let before = town.counts();
    let mut statuses = BTreeSet::new();
    let mut request = Request::get(row.host, row.path);
    if let Some((name, value)) = row.header {
        request = request.header(name, value);
    }
    for _ in 0..20 {
        statuses.insert(sidecar.ask(row.service, &request)?.status);
    }
    if statuses != BTreeSet::from([row.status]) {
        bail!("statuses are {statuses:?}, expected {}", row.status);
    }
    let reached = || {
        let reached = difference(&before, &town.counts());
        // A program that is broken is reached before it is left out; its answers are not.
        let reached: Vec<_> = reached
            .into_iter()
            .filter(|name| !is_broken(town, name))
            .collect();
        if reached != row.reached {
            bail!("{reached:?} were reached, expected {:?}", row.reached);
        }
        Ok(())
    };
    // Mirrored requests are on their way.
    wait::until(
        "the programs",
        std::time::Duration::from_millis(300),
        reached,
    )
}

fn difference(
    before: &BTreeMap<&'static str, usize>,
    after: &BTreeMap<&'static str, usize>,
) -> Vec<&'static str> {
    let more = after
        .iter()
        .filter(|(name, count)| before.get(*name) != Some(*count));
    more.map(|(name, _)| *name).collect()
}

fn is_broken(town: &Town, name: &str) -> bool {
    town.backend(name)
        .is_ok_and(|backend| matches!(backend.reply(), Reply::Answer { status: 503, .. }))
}

/// Neither has refused an update, and both have had some.
fn expect_nothing_refused(subject: Subject, sidecar: &Sidecar) -> anyhow::Result<()> {
    let stats = sidecar.admin("/stats")?;
    let counters = stats.lines().filter_map(|line| line.split_once(": "));
    let of = |word: &str| -> Vec<(&str, &str)> {
        counters
            .clone()
            .filter(|(name, _)| name.ends_with(word))
            .collect()
    };
    let refused = of("update_rejected");
    let taken = of("update_success");
    if refused.is_empty() || refused.iter().any(|(_, count)| *count != "0") {
        bail!("{subject:?} refused updates: {refused:?}");
    }
    if taken.iter().filter(|(_, count)| *count != "0").count() < 3 {
        bail!("{subject:?} took hardly anything: {taken:?}");
    }
    Ok(())
}
