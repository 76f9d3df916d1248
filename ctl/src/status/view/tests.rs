// SPDX-License-Identifier: Apache-2.0
//! The text, made from what the library itself writes.

use remora_control_plane::ads::registry::NodeStatus;
use remora_control_plane::ads::session::KindStatus;
use remora_control_plane::ads::status_page::ControlPlaneStatus;
use remora_control_plane::source::{Finding, Severity};
use remora_control_plane::store::StoreStatus;

use super::super::page::Page;

fn kind(kind: &'static str, refusal: Option<&str>) -> KindStatus {
    KindStatus {
        kind,
        held: 6,
        accepted_version: "0123456789abcdef".to_owned(),
        pushes: 3,
        in_flight: 0,
        is_synced: refusal.is_none(),
        refusal: refusal.map(str::to_owned),
    }
}

fn node(name: &str, kinds: Vec<KindStatus>) -> NodeStatus {
    NodeStatus {
        id: format!("sidecar~10.0.0.1~{name}~shop.svc.cluster.local"),
        cluster: String::new(),
        agent: "remora".to_owned(),
        namespace: "shop".to_owned(),
        peer: Some(([10, 0, 0, 1], 4321).into()),
        variant: "delta",
        connected_for: 184.2,
        last_push_ago: Some(2.9),
        revision: 7,
        is_synced: kinds.iter().all(|kind| kind.is_synced),
        last_refusal: None,
        last_refusal_ago: None,
        kinds,
    }
}

fn render(status: &ControlPlaneStatus) -> String {
    let json = serde_json::to_string(status).expect("serializes");
    let page: Page = serde_json::from_str(&json).expect("what is written can be read");
    super::render(&page, "127.0.0.1:15014")
}

fn status(nodes: Vec<NodeStatus>, findings: Vec<Finding>) -> ControlPlaneStatus {
    ControlPlaneStatus {
        version: "remora/0.1.0",
        source: StoreStatus {
            revision: 7,
            services: 3,
            endpoints: 6,
            routes: 1,
            policies: 2,
            errors: findings.len(),
            warnings: 0,
            findings,
        },
        nodes,
    }
}

#[test]
fn a_mesh_that_is_well_is_a_head_and_a_table() {
    let mut late = node(
        "sms-v1.shop",
        vec![KindStatus {
            is_synced: false,
            in_flight: 1,
            accepted_version: String::new(),
            ..kind("cds", None)
        }],
    );
    late.last_push_ago = None;
    let well = node("page.shop", vec![kind("cds", None), kind("nds", None)]);
    let expected = "\
remora/0.1.0 at 127.0.0.1:15014: revision 7, 3 services, 6 endpoints, 1 route rule, 2 destination policies

PROXY        ADDRESS        AGENT   STREAM  STATE       REVISION  LAST PUSH  CONNECTED  ACCEPTED
page.shop    10.0.0.1:4321  remora  delta   synced      7         2s ago     3m4s       cds 6 @01234567, nds 6 @01234567
sms-v1.shop  10.0.0.1:4321  remora  delta   unanswered  7         -          3m4s       cds 6 @-
";
    assert_eq!(render(&status(vec![well, late], Vec::new())), expected);
}

#[test]
fn refusals_and_findings_follow() {
    let refusing = node(
        "a.shop",
        vec![kind("rds", Some("regex `(`:\nunclosed group"))],
    );
    let mut mended = node("b.shop", vec![kind("rds", None)]);
    mended.last_refusal = Some("rds: once".to_owned());
    mended.last_refusal_ago = Some(61.0);
    let finding = Finding {
        file: "mesh/sms.yaml".to_owned(),
        line: 12,
        severity: Severity::Error,
        object: "VirtualService shop/sms".to_owned(),
        field: "spec.http[0]".to_owned(),
        reason: "all weights are zero".to_owned(),
    };
    let text = render(&status(vec![refusing, mended], vec![finding.clone()]));
    let tail = format!(
        "
refused by proxies
  a.shop: rds: regex `(`:\\nunclosed group
  b.shop: rds: once (made good since, 1m1s ago)

in the folder: 1 error, 0 warnings
  {finding}
"
    );
    assert!(text.ends_with(&tail), "{text}");
    assert!(text.contains("delta   refused "), "{text}");
}

#[test]
fn nothing_read_and_nobody_there_are_said_so() {
    let mut empty = status(Vec::new(), Vec::new());
    empty.source = StoreStatus::default();
    let expected = "remora/0.1.0 at 127.0.0.1:15014: the folder was not read yet\n\n\
                    no proxy is connected\n";
    assert_eq!(render(&empty), expected);
}

#[test]
fn ids_of_other_forms_are_shown_whole() {
    for (id, expected) in [
        ("sidecar~10.0.0.1~page.shop~x", "page.shop"),
        ("sidecar~10.0.0.1~~x", "sidecar~10.0.0.1~~x"),
        ("envoy-1", "envoy-1"),
        ("", ""),
    ] {
        assert_eq!(super::name(id), expected);
    }
}
