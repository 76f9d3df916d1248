// SPDX-License-Identifier: Apache-2.0
//! Bad input and what is said about it: each class of fault with its place and reason.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// Two services that rules may name: `sms` with ports 80 and 81, and `far` of another namespace.
const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: sms, namespace: shop}
spec: {ports: [{port: 80}, {name: b, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: other}
spec: {ports: [{port: 80}]}
";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().expect("folder can be made");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("folder can be made");
        fs::write(path, text).expect("file can be written");
    }
    folder
}

/// The findings, with the folder's own path taken away.
fn findings(folder: &TempDir) -> Vec<String> {
    let root = format!("{}/", folder.path().display());
    let report = analyze(folder.path(), FileOptions::default());
    report
        .findings
        .iter()
        .map(|finding| finding.to_string().replace(&root, ""))
        .collect()
}

fn check(files: &[(&str, &str)], expected: &[&str]) {
    let found = findings(&folder(files));
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

fn virtual_service(spec: &str) -> String {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                metadata: {name: sms, namespace: shop}\n";
    format!("{head}spec:\n{spec}")
}

/// Checks one rule beside the services; `expected` starts after `vs.yaml:`.
fn check_rule(spec: &str, expected: &[&str]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|line| format!("vs.yaml:{line}"))
        .collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    check(
        &[("a.yaml", SERVICES), ("vs.yaml", &virtual_service(spec))],
        &expected,
    );
}

#[test]
fn a_sound_folder_has_no_findings() {
    let folder = folder(&[
        ("a.yaml", SERVICES),
        (
            "sub/vs.yml",
            &virtual_service("  hosts: [sms]\n  http: [{route: [{destination: {host: sms}}]}]\n"),
        ),
        ("empty.yaml", "# nothing\n---\n"),
        ("README.md", ": ]["),
        (".hidden.yaml", ": ]["),
    ]);
    let report = analyze(folder.path(), FileOptions::default());
    assert_eq!(
        (report.to_text().as_str(), report.exit_code()),
        ("0 errors, 0 warnings\n", 0)
    );
}

#[test]
fn malformed_text_names_file_and_line() {
    let found = findings(&folder(&[("x.yaml", "a: 1\nb: [1, 2\nc: 3\n")]));
    let [finding] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(finding.starts_with("x.yaml:3: error: "), "{finding}");
    let found = findings(&folder(&[("x.yaml", "kind: Pod\nkind: Pod\n")]));
    let [finding] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(
        finding.starts_with("x.yaml:2: error: ") && finding.contains("kind"),
        "{finding}"
    );
}

#[test]
fn what_cannot_be_an_object_says_why() {
    let table: &[(&str, &[&str])] = &[
        ("- 1\n", &["x.yaml:1: error: expected a map, found a list"]),
        (
            "a: 1\n",
            &[
                "x.yaml:1: error: `apiVersion` is missing",
                "x.yaml:1: error: `kind` is missing",
            ],
        ),
        (
            "apiVersion: v1\nkind: Pod\n",
            &["x.yaml:1: error: `metadata` is missing"],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: A_B}\nspec: {}\n",
            &[
                "x.yaml:3: error: Service A_B/a: metadata.namespace: host name `A_B`: character 'A' is not allowed",
            ],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
            &["x.yaml:1: error: Service default/a: `spec` is missing"],
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List}\n",
            &["x.yaml:4: error: items[0].kind: a list within a list is not read"],
        ),
    ];
    for (text, expected) in table {
        check(&[("x.yaml", text)], expected);
    }
}

#[test]
fn unknown_kinds_and_versions_are_reported() {
    let table = [
        (
            "v1",
            "ConfigMap",
            "warning: kind: unknown kind `ConfigMap`: has no effect",
        ),
        (
            "apps/v1",
            "Deployment",
            "warning: kind: unknown kind `Deployment` of `apps`: has no effect",
        ),
        (
            "networking.istio.io/v2",
            "VirtualService",
            "error: kind: unknown version `v2` of `VirtualService` (expected v1, v1beta1, v1alpha3)",
        ),
        (
            "security.istio.io/v1",
            "AuthorizationPolicy",
            "error: kind: `AuthorizationPolicy` is not supported yet: it is not enforced",
        ),
    ];
    for (version, kind, expected) in table {
        let text =
            format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{a: 1}}\n");
        check(
            &[("x.yaml", &text)],
            &[&format!(
                "x.yaml:2: {}",
                expected.replacen(": ", &format!(": {kind} default/x: "), 1)
            )],
        );
    }
}

#[test]
fn unknown_and_unsupported_fields_are_warned_about() {
    check_rule(
        "  hosts: [sms]\n  made: up\n  http:\n  - fault: {abort: {httpStatus: 500}}\n    corsPolicy: {}\n    \
         websocketUpgrade: true\n    match: [{statPrefix: x, uri: {glob: a}}]\n    \
         route: [{destination: {host: sms, name: x}}]\n",
        &[
            "6: warning: VirtualService shop/sms: spec.made: unknown field: has no effect",
            "8: warning: VirtualService shop/sms: spec.http[0].fault: not supported yet: has no effect",
            "9: warning: VirtualService shop/sms: spec.http[0].corsPolicy: not supported yet: has no effect",
            "10: warning: VirtualService shop/sms: spec.http[0].websocketUpgrade: not supported yet: has no effect",
            "11: warning: VirtualService shop/sms: spec.http[0].match[0].statPrefix: not supported yet: has no effect",
            "11: warning: VirtualService shop/sms: spec.http[0].match[0].uri.glob: unknown field: has no effect",
            "12: warning: VirtualService shop/sms: spec.http[0].route[0].destination.name: unknown field: has no effect",
        ],
    );
}

#[test]
fn wrong_values_of_rules_are_errors_at_their_field() {
    let table: &[(&str, &str)] = &[
        (
            "route: [{destination: {host: sms}, weight: 0}, {destination: {host: sms}, weight: 0}]",
            ".route: the weights sum to zero (expected at least one above zero)",
        ),
        (
            "route: [{destination: {host: sms}, weight: -1}]",
            ".route[0].weight: number out of range: -1 (expected 0 to 4294967295)",
        ),
        (
            "{route: [{destination: {host: sms}}], timeout: 5 seconds}",
            ".timeout: `5 seconds` is no duration (expected a number with h, m, s, ms or us)",
        ),
        (
            "{route: [{destination: {host: sms}}], retries: {attempts: 2, retryOn: 'reset,bogus'}}",
            ".retries.retryOn: `bogus` is no retry condition and no status code",
        ),
        (
            "{route: [{destination: {host: sms}}], match: [{uri: {regex: '('}}]}",
            ".match[0].uri.regex: regular expression `(`: unclosed group",
        ),
        (
            "{route: [{destination: {host: sms}}], match: [{uri: {exact: a, prefix: b}}]}",
            ".match[0].uri: more than one of `exact`, `prefix` and `regex`",
        ),
        (
            "{route: [{destination: {host: sms}}], mirror: {host: sms}, mirrorPercentage: {value: 101}}",
            ".mirrorPercentage.value: percentage out of range: 101 (expected 0 to 100)",
        ),
        (
            "{route: [{destination: {host: sms}}], redirect: {uri: /x}}",
            ": more than one of `route`, `redirect` and `directResponse`",
        ),
        (
            "{route: [{destination: {host: sms}}], rewrite: {authority: \"a\\nb\"}}",
            ".rewrite.authority: control characters are not allowed here",
        ),
        (
            "{match: [{port: 80}]}",
            ": none of `route`, `redirect` and `directResponse`",
        ),
        (
            "{route: [{destination: {host: sms}}], delegate: {name: x}}",
            ".delegate: not supported yet: requests would go elsewhere than written; \
             the object is not applied",
        ),
        (
            "{route: [{destination: {host: sms}, headers: {request: {set: {'a b': x}}}}]}",
            ".route[0].headers.request.set.a b: `a b` is no header name",
        ),
        (
            "{route: [{destination: {host: sms, port: {number: 0}}}]}",
            ".route[0].destination.port.number: port out of range: 0 (expected 1 to 65535)",
        ),
    ];
    for (http, expected) in table {
        let expected = format!("7: error: VirtualService shop/sms: spec.http[0]{expected}");
        check_rule(
            &format!("  hosts: [sms]\n  http:\n  - {http}\n"),
            &[&expected],
        );
    }
}

#[test]
fn references_to_what_does_not_exist_are_warned_about() {
    check_rule(
        "  hosts: [sms]\n  http:\n  - route:\n    - destination: {host: nobody}\n      weight: 1\n    \
         - destination: {host: far.other}\n      weight: 1\n    \
         - destination: {host: sms, subset: v9}\n      weight: 1\n    \
         - destination: {host: sms, port: {number: 82}}\n      weight: 1\n",
        &[
            "8: warning: VirtualService shop/sms: spec.http[0].route[0].destination.host: there is \
             no service `nobody.shop.svc.cluster.local`: calls are answered with 503",
            "10: warning: VirtualService shop/sms: spec.http[0].route[1].destination.host: there is \
             no service `far.other` (is `far.other.svc.cluster.local` meant?): calls are answered \
             with 503",
            "12: warning: VirtualService shop/sms: spec.http[0].route[2].destination.host: \
             `sms.shop.svc.cluster.local` has no subset `v9`: calls are answered with 503",
            "14: warning: VirtualService shop/sms: spec.http[0].route[3].destination.host: \
             `sms.shop.svc.cluster.local` has no port 82: calls are answered with 503",
        ],
    );
    check_rule(
        "  hosts: [sms]\n  http:\n  - route: [{destination: {host: sms}}]\n    mirror: {host: gone}\n",
        &[
            "8: warning: VirtualService shop/sms: spec.http[0].mirror.host: there is no service \
             `gone.shop.svc.cluster.local`: no copies are sent",
        ],
    );
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r}\n\
                spec:\n  host: gone\n";
    check(
        &[("dr.yaml", rule)],
        &[
            "dr.yaml:5: warning: DestinationRule default/r: spec.host: there is no service \
           `gone.default.svc.cluster.local`: it has no effect",
        ],
    );
}

#[test]
fn of_two_objects_with_one_name_the_first_file_wins() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n";
    let folder = folder(&[
        ("b.yaml", &format!("# second\n{service}")),
        ("a.yaml", service),
    ]);
    let root = folder.path().display().to_string();
    let expected = format!(
        "b.yaml:2: error: Service default/a: defined already at {root}/a.yaml:1: this one has no effect"
    );
    let found = findings(&folder);
    assert_eq!(found, [expected.replace(&format!("{root}/"), "")]);
}

#[test]
fn overlapping_hosts_of_rules_are_errors_of_the_later_one() {
    let rule = |name: &str, more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  hosts: [sms]\n{more}  http: [{{route: [{{destination: {{host: sms}}}}]}}]\n"
        )
    };
    check(
        &[
            ("a.yaml", SERVICES),
            ("b.yaml", &rule("one", "")),
            ("c.yaml", &rule("two", "")),
        ],
        &[
            "c.yaml:5: error: VirtualService shop/two: spec.hosts[0]: host \
           `sms.shop.svc.cluster.local` is routed already by VirtualService shop/one at \
           b.yaml:1: for this host the rule has no effect",
        ],
    );
    let private = rule("one", "  exportTo: [web]\n");
    let other = rule("two", "  exportTo: ['.']\n");
    check(
        &[
            ("a.yaml", SERVICES),
            ("b.yaml", &private),
            ("c.yaml", &other),
        ],
        &[],
    );
}

#[test]
fn what_is_asked_for_and_cannot_be_given_is_refused() {
    let rule = |policy: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: r, namespace: shop}}\nspec:\n  host: sms\n  trafficPolicy:\n    {policy}\n"
        )
    };
    let tls = |mode: &str, path: &str| {
        format!(
            "b.yaml:7: error: DestinationRule shop/r: spec.trafficPolicy{path}: TLS mode {mode} is \
             not supported yet: calls would be sent in the clear; the object is not applied"
        )
    };
    let table = [
        ("tls: {mode: SIMPLE, sni: x}", vec![tls("SIMPLE", ".tls.mode")]),
        ("tls: {mode: ISTIO_MUTUAL}", vec![tls("ISTIO_MUTUAL", ".tls.mode")]),
        (
            "portLevelSettings: [{port: {number: 80}, tls: {mode: MUTUAL}}]",
            vec![tls("MUTUAL", ".portLevelSettings[0].tls.mode")],
        ),
        ("tls: {mode: DISABLE}", vec![]),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true}}",
            vec!["b.yaml:7: warning: DestinationRule shop/r: \
                  spec.trafficPolicy.loadBalancer.consistentHash: not supported yet: has no effect"
                .to_owned()],
        ),
        (
            "outlierDetection: {consecutiveErrors: 3}",
            vec!["b.yaml:7: warning: DestinationRule shop/r: \
                  spec.trafficPolicy.outlierDetection.consecutiveErrors: no longer part of the API: \
                  read as `consecutiveGatewayErrors`"
                .to_owned()],
        ),
    ];
    for (policy, expected) in table {
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        check(
            &[("a.yaml", SERVICES), ("b.yaml", &rule(policy))],
            &expected,
        );
    }
}

#[test]
fn links_that_lead_back_or_nowhere_are_reported_and_end() {
    let folder = folder(&[("a.yaml", SERVICES), ("sub/b.yaml", "")]);
    symlink("..", folder.path().join("sub/up")).expect("link can be made");
    symlink("loop.yaml", folder.path().join("loop.yaml")).expect("link can be made");
    symlink("nowhere", folder.path().join("lost.yaml")).expect("link can be made");
    let found = findings(&folder);
    let starts = [
        "loop.yaml: error: link leads nowhere: Too many levels of symbolic links",
        "lost.yaml: error: link leads nowhere: No such file",
        "sub/up: error: link leads back to a folder above it: not followed",
    ];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}");
    }
}

#[test]
fn what_is_no_readable_file_is_refused() {
    let folder = folder(&[("big.yaml", &format!("# {}\n", "x".repeat(10 * 1024 * 1024)))]);
    fs::write(folder.path().join("latin.yaml"), b"a: 1\nb: \xe9\n").expect("file can be written");
    let pipe = folder.path().join("pipe.yaml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("pipe can be made");
    assert_eq!(
        findings(&folder),
        [
            "big.yaml: error: file is 10485763 bytes large (at most 10485760): not read",
            "latin.yaml:2: error: not UTF-8 text",
            "pipe.yaml: error: not a regular file: not read",
        ]
    );
}

#[test]
fn thousands_of_documents_in_one_file_are_read() {
    let pod =
        "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec: {ports: [{port: 80}]}\n---\n";
    let text: String = (0..2000)
        .map(|n| pod.replace("NAME", &format!("s{n}")))
        .collect();
    let folder = folder(&[("many.yaml", &text)]);
    assert_eq!(findings(&folder), Vec::<String>::new());
}

#[test]
fn a_flood_of_findings_is_counted_and_not_kept() {
    let object = |name: usize| {
        let fields: String = (0..150).map(|n| format!("  made-up-{n}: 1\n")).collect();
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s{name}}}\nspec:\n{fields}---\n")
    };
    let mut text: String = (0..20).map(object).collect();
    text.push_str("apiVersion: v1\nkind: Pod\n");
    let found = findings(&folder(&[("x.yaml", &text)]));
    assert_eq!(found.len(), 1002);
    assert!(
        found
            .iter()
            .any(|line| line.contains("error: `metadata` is missing")),
        "{found:?}"
    );
    let rest = found
        .iter()
        .find(|line| line.starts_with("x.yaml: "))
        .expect("the rest is counted");
    assert!(rest.ends_with("more findings are not shown"), "{rest}");
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let folder = folder(&[]);
    let report = analyze(&folder.path().join("no"), FileOptions::default());
    assert_eq!((report.errors, report.exit_code()), (1, 1));
    assert!(
        report
            .to_text()
            .contains("/no: error: cannot be read: No such file"),
        "{report:?}"
    );
}

#[test]
fn the_report_is_text_or_json_and_warnings_alone_exit_with_zero() {
    let folder = folder(&[("x.yaml", "apiVersion: v1\nkind: Secret\n")]);
    let report = analyze(folder.path(), FileOptions::default());
    assert_eq!(report.exit_code(), 0);
    assert!(
        report.to_text().ends_with("0 errors, 1 warning\n"),
        "{}",
        report.to_text()
    );
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("is JSON");
    assert_eq!(json["findings"][0]["severity"], "warning");
    assert_eq!(json["findings"][0]["line"], 2);
}
