// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;
use std::time::Duration;

use remora_model::{
    Forward, HttpAction, HttpRoute, PathRewrite, RedirectPort, RetryPolicy, RouteRule, StringMatch,
};

use super::super::{Object, read_text};

fn read(spec: &str) -> (Option<RouteRule>, Vec<String>) {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                metadata: {name: r, namespace: shop}\nspec:\n  hosts: [sms]\n";
    let text = format!("{head}{spec}");
    let content = read_text(&Arc::from("f"), &text, &Arc::from("cluster.local"));
    let findings = content
        .findings
        .iter()
        .map(|f| format!("{}: {}", f.field, f.reason))
        .collect();
    let rule = content.objects.into_iter().find_map(|object| match object {
        Object::VirtualService(written) => Some(written.rule),
        _ => None,
    });
    (rule, findings)
}

fn route(http: &str) -> (HttpRoute, Vec<String>) {
    let (rule, findings) = read(&format!("  http:\n  - {http}\n"));
    let rule = rule.unwrap_or_else(|| panic!("{http}: {findings:?}"));
    let route = rule
        .http
        .into_iter()
        .next()
        .unwrap_or_else(|| panic!("{http}: {findings:?}"));
    (route, findings)
}

fn forward(more: &str) -> Forward {
    let (route, findings) = route(&format!(
        "{{route: [{{destination: {{host: sms}}}}], {more}}}"
    ));
    assert_eq!(findings, Vec::<String>::new(), "{more}");
    match route.action {
        HttpAction::Forward(forward) => *forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn retries_follow_istios_rules() {
    let words = |policy: &RetryPolicy| {
        let words: Vec<_> = policy.on.iter().map(|on| on.as_str()).collect();
        (
            policy.attempts.get(),
            words.join(","),
            policy.status_codes.clone(),
        )
    };
    let default = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    type Expected = Option<(u32, &'static str, &'static [u16])>;
    let table: &[(&str, Expected)] = &[
        ("", Some((2, default, &[]))),
        ("retries: {attempts: 0}", None),
        ("retries: {attempts: 3}", Some((3, default, &[]))),
        (
            "retries: {attempts: 3, retryOn: '5xx,reset'}",
            Some((3, "5xx,reset", &[])),
        ),
        (
            "retries: {attempts: 1, retryOn: 'reset, 503,409'}",
            Some((1, "reset,retriable-status-codes", &[503, 409])),
        ),
        (
            "retries: {attempts: 1, retryOn: 503}",
            Some((1, "retriable-status-codes", &[503])),
        ),
    ];
    for (text, expected) in table {
        let found = forward(text).retries.as_ref().map(words);
        let expected = expected.map(|(n, words, codes)| (n, words.to_owned(), codes.to_vec()));
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn weights_may_be_any_and_zero_leaves_a_destination_out() {
    let table: &[(&str, &[(&str, u32)])] = &[
        ("{destination: {host: a}, weight: 0}", &[("a", 1)]),
        ("{destination: {host: a}}", &[("a", 1)]),
        (
            "{destination: {host: a}, weight: 3}, {destination: {host: b}, weight: 1}",
            &[("a", 3), ("b", 1)],
        ),
        (
            "{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 7}",
            &[("b", 7)],
        ),
    ];
    for (text, expected) in table {
        let (route, findings) = route(&format!("{{route: [{text}]}}"));
        assert_eq!(findings, Vec::<String>::new());
        let HttpAction::Forward(forward) = route.action else {
            panic!("{text}")
        };
        let name = |host: &str| host.split('.').next().unwrap_or_default().to_owned();
        let found: Vec<_> = forward
            .destinations
            .iter()
            .map(|d| (name(d.destination.host.as_str()), d.weight.get()))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(n, w)| ((*n).to_owned(), *w))
            .collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn timeouts_mirrors_and_rewrites_are_read() {
    assert_eq!(
        forward("timeout: 1.5s").timeout,
        Some(Duration::from_millis(1500))
    );
    assert_eq!(forward("timeout: 0s").timeout, None);
    let shares = |text| {
        forward(text)
            .mirrors
            .iter()
            .map(|m| m.share.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(shares("mirror: {host: b, subset: v2}"), [100.0]);
    assert_eq!(
        shares("mirror: {host: b}, mirrorPercentage: {value: 12.5}"),
        [12.5]
    );
    assert_eq!(shares("mirror: {host: b}, mirrorPercent: 30"), [30.0]);
    let several =
        "mirrors: [{destination: {host: b}}, {destination: {host: c}, percentage: {value: 1}}]";
    assert_eq!(shares(several), [100.0, 1.0]);
    let rewrite = forward("rewrite: {uri: /v2, authority: other}").rewrite;
    assert_eq!(rewrite.path, Some(PathRewrite::Matched("/v2".into())));
    assert_eq!(rewrite.authority.as_deref(), Some("other"));
}

#[test]
fn matches_are_read_and_those_for_other_gateways_left_out() {
    let text = "
  http:
  - match:
    - gateways: [edge]
      uri: {prefix: /edge}
    - gateways: [edge, mesh]
      uri: {prefix: /API}
      ignoreUriCase: true
      headers: {User: {exact: rui}, x-any: {}}
      withoutHeaders: {x-no: {regex: 'a+'}}
      queryParams: {debug: {exact: '1'}}
      method: {exact: GET}
      port: 80
      sourceNamespace: web
      sourceLabels: {app: php}
    route: [{destination: {host: sms, port: {number: 8080}}}]
  - match: [{gateways: [edge]}]
    route: [{destination: {host: gone}}]
  - redirect: {authority: new.example.com, redirectCode: 308, derivePort: FROM_REQUEST_PORT}
  - directResponse: {status: 503, body: {string: closed}}
";
    let (rule, findings) = read(text);
    assert_eq!(findings, Vec::<String>::new());
    let rule = rule.expect("rule is sound");
    let [first, redirect, respond] = &rule.http[..] else {
        panic!("{:?}", rule.http)
    };
    let [found] = &first.matches[..] else {
        panic!("{:?}", first.matches)
    };
    let path = found.path.as_ref().expect("path is tested");
    assert_eq!(
        (&path.path, path.ignore_case),
        (&StringMatch::Prefix("/API".into()), true)
    );
    let headers: Vec<_> = found
        .headers
        .iter()
        .map(|h| (&*h.name, h.value.is_some(), h.inverted))
        .collect();
    assert_eq!(
        headers,
        [
            ("user", true, false),
            ("x-any", false, false),
            ("x-no", true, true)
        ]
    );
    assert_eq!(found.query.len(), 1);
    assert_eq!(found.port.map(|port| port.get()), Some(80));
    assert_eq!(found.source.labels.value("app"), Some("php"));
    let HttpAction::Redirect(redirect) = &redirect.action else {
        panic!("{redirect:?}")
    };
    assert_eq!(
        (redirect.code, redirect.port),
        (308, Some(RedirectPort::FromRequest))
    );
    let HttpAction::Respond(respond) = &respond.action else {
        panic!("{respond:?}")
    };
    assert_eq!((respond.status, &*respond.body), (503, &b"closed"[..]));
}

#[test]
fn header_edits_are_lower_cased_and_sorted() {
    let (route, findings) = route(
        "{route: [{destination: {host: sms}, headers: {response: {remove: [X-B, x-a]}}}], \
         headers: {request: {set: {X-V: '2', X-N: 7}, add: {x-w: w}}}}",
    );
    assert_eq!(findings, Vec::<String>::new());
    let set: Vec<_> = route
        .headers
        .request
        .set
        .iter()
        .map(|(n, v)| (&**n, &**v))
        .collect();
    assert_eq!(set, [("x-n", "7"), ("x-v", "2")]);
    let HttpAction::Forward(forward) = route.action else {
        panic!()
    };
    let remove: Vec<_> = forward.destinations[0]
        .headers
        .response
        .remove
        .iter()
        .map(|n| &**n)
        .collect();
    assert_eq!(remove, ["x-a", "x-b"]);
}

#[test]
fn connections_are_routed_by_sni_address_and_port() {
    let (rule, findings) = read(
        "
  tls:
  - match: [{sniHosts: ['*.example.com', db], port: 443}]
    route: [{destination: {host: db}}]
  tcp:
  - match: [{port: 3306, destinationSubnets: [10.0.0.0/8, 10.1.1.1]}]
    route: [{destination: {host: db, subset: a}, weight: 1}, {destination: {host: db}, weight: 1}]
  - route: [{destination: {host: db}}]
",
    );
    assert_eq!(findings, Vec::<String>::new());
    let rule = rule.expect("rule is sound");
    let sni: Vec<_> = rule.tls[0].matches[0]
        .sni
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(sni, ["*.example.com", "db.shop.svc.cluster.local"]);
    assert_eq!(rule.tcp[0].matches[0].destination.len(), 2);
    assert_eq!(
        (rule.tcp[0].destinations.len(), rule.tcp[1].matches.len()),
        (2, 0)
    );
}
