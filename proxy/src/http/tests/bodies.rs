// SPDX-License-Identifier: Apache-2.0
//! Bodies, framings and heads on their way through.

use super::*;

#[test]
fn a_kept_connection_carries_one_request_after_the_other() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK), (END, OK), (END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        assert!(hear(&mut client, "ok").await.starts_with("HTTP/1.1 200 OK"));
        // Two at once: answered in order.
        say(&mut client, &[GET, GET].concat()).await;
        hear(&mut client, "ok").await;
        hear(&mut client, "ok").await;
        assert_eq!(upstream.heard().len(), 1, "one connection");
        assert_eq!(proxy.log(3).await, ["200 - 0 2 via_upstream"; 3]);
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_total"), 3);
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_200"), 3);
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_tx_reset"), 0);
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_body_goes_up_again_with_a_retry() {
    run(async {
        const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        let upstream = Upstream::new(&[&[("0\r\n\r\n", BUSY), ("0\r\n\r\n", OK)]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.forward.retry = Some(retries(2));
        });
        let (mut client, _) = proxy.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
        say(&mut client, head).await;
        say(&mut client, "3\r\nabc\r\n").await;
        say(&mut client, "3\r\ndef\r\n0\r\n\r\n").await;
        assert!(hear(&mut client, "ok").await.contains(" 200 "));
        let heard = upstream.heard().concat();
        assert_eq!(heard.matches("abc").count(), 2, "{heard}");
        assert_eq!(heard.matches("def").count(), 2, "{heard}");
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_retry"), 1);
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_retry_success"), 1);
        assert_eq!(proxy.log(1).await, ["200 - 6 2 via_upstream"]);
        proxy.is_at_rest().await;
    });
}

#[test]
fn the_length_of_an_answer_to_head_is_the_origins() {
    run(async {
        const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n";
        let upstream = Upstream::new(&[&[(END, HEAD), (END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        say(&mut client, "HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        assert!(hear(&mut client, END).await.contains("content-length: 77"));
        say(&mut client, GET).await;
        assert!(hear(&mut client, "ok").await.contains("content-length: 2"));
        assert_eq!(upstream.heard().len(), 1, "both connections stay");
    });
}

#[test]
fn an_answer_until_close_is_chunked_for_1_1_and_closed_for_1_0() {
    run(async {
        let script: &[(&str, &str)] = &[(END, "HTTP/1.1 200 OK\r\n\r\nendless"), ("", "")];
        let upstream = Upstream::new(Box::leak(Box::new([script]))).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        let text = hear(&mut client, "0\r\n\r\n").await;
        assert!(text.contains("transfer-encoding: chunked"), "{text}");
        let (mut client, _) = proxy.connect().await;
        say(&mut client, "GET / HTTP/1.0\r\nHost: shop\r\n\r\n").await;
        let text = hear_all(&mut client).await;
        assert!(text.ends_with("\r\n\r\nendless"), "{text}");
        assert!(text.contains("connection: close"), "{text}");
    });
}

#[test]
fn trailers_pass_both_ways() {
    run(async {
        const ANSWER: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                              2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
        let upstream = Upstream::new(&[&[("x-in: 1\r\n\r\n", ANSWER)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        let request = "POST / HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\n\
                       Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-in: 1\r\n\r\n";
        say(&mut client, request).await;
        hear(&mut client, "0\r\nx-sum: 7\r\n\r\n").await;
    });
}

#[test]
fn the_proxy_itself_says_go_on() {
    run(async {
        // A server that says it too, unasked: nobody hears it.
        const ANSWERS: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\
                               link: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let upstream = Upstream::new(&[&[("body", ANSWERS)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\n\
                    Content-Length: 4\r\n\r\n";
        say(&mut client, head).await;
        assert_eq!(
            hear(&mut client, END).await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        say(&mut client, "body").await;
        let text = hear(&mut client, "ok").await;
        assert!(text.starts_with("HTTP/1.1 103 "), "{text}");
        assert!(!text.contains(" 100 "), "{text}");
        let heard = upstream.heard().concat().to_ascii_lowercase();
        assert!(!heard.contains("expect:"), "{heard}");
    });
}

#[test]
fn an_early_answer_ends_both_connections() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)], &[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nhalf";
        say(&mut client, head).await;
        let text = hear(&mut client, "ok").await;
        assert!(text.contains("connection: close"), "{text}");
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        hear(&mut client, "ok").await;
        assert_eq!(
            upstream.heard().len(),
            2,
            "the first one was not used again"
        );
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_request_that_is_refused_keeps_its_connection_if_its_body_is_there() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.policy.limits.default.requests = remora_ir::cluster::Limit::AtMost(0);
        });
        let (mut client, _) = proxy.connect().await;
        let post = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody";
        say(&mut client, post).await;
        let text = hear(&mut client, "overflow").await;
        assert!(!text.contains("connection: close"), "{text}");
        assert!(text.contains("x-envoy-overloaded: true"), "{text}");
        say(&mut client, GET).await;
        hear(&mut client, "overflow").await;
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_503"), 2);
    });
}

#[test]
fn a_refused_upgrade_ends_both_connections() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)], &[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        let offer = "GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\n\
                     Upgrade: websocket\r\n\r\n";
        say(
            &mut client,
            &[offer, "GET /smuggled HTTP/1.1\r\n\r\n"].concat(),
        )
        .await;
        let text = hear_all(&mut client).await;
        assert!(text.contains("connection: close"), "{text}");
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        hear(&mut client, "ok").await;
        let heard = upstream.heard();
        assert_eq!(heard.len(), 2, "not pooled");
        assert!(!heard.concat().contains("smuggled"), "{heard:?}");
        proxy.is_at_rest().await;
    });
}

#[test]
fn an_upgrade_becomes_a_tunnel_that_is_logged_once() {
    run(async {
        const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                              upgrade: chat\r\n\r\nhello";
        let upstream = Upstream::new(&[&[(END, SWITCH), ("early", "bye"), ("", "")]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        let offer = "GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\n\
                     Upgrade: chat, talk\r\n\r\nearly";
        say(&mut client, offer).await;
        let text = hear(&mut client, "hellobye").await;
        assert!(text.contains("upgrade: chat\r\n"), "{text}");
        drop(client);
        assert_eq!(proxy.log(1).await, ["101 - 5 8 via_upstream"]);
        proxy.is_at_rest().await;
    });
}

#[test]
fn what_sidecars_tell_each_other_ends_at_the_workload() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.direction = Direction::Inbound;
        });
        let (mut client, _) = proxy.connect().await;
        let request = "GET / HTTP/1.1\r\nHost: shop\r\nx-envoy-peer-metadata: a\r\n\
                       x-envoy-peer-metadata-id: b\r\nx-envoy-other: c\r\n\r\n";
        say(&mut client, request).await;
        hear(&mut client, "ok").await;
        let heard = upstream.heard().concat();
        assert!(!heard.contains("peer-metadata"), "{heard}");
        assert!(heard.contains("x-envoy-other: c"), "{heard}");
    });
}

/// One field, set to what a format gives.
fn sets(name: &str, value: Segment) -> remora_ir::header_edit::HeaderEdits {
    let set = remora_ir::header_edit::HeaderSet {
        name: name.parse().expect("a token"),
        value: Format(vec![value]),
        action: remora_ir::header_edit::AppendAction::OverwriteOrAdd,
        keep_empty: false,
    };
    remora_ir::header_edit::HeaderEdits {
        remove: Vec::new(),
        set: vec![set],
    }
}

#[test]
fn answers_of_routes_get_the_routes_edits() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            let direct = remora_ir::action::DirectResponse {
                status: remora_http::StatusCode::OK,
                body: bytes::Bytes::from_static(b"direct"),
            };
            setting.host.routes = vec![route(Action::Direct(direct))];
            setting.host.edits.response = sets("x-own", Segment::Text("1".into()));
        });
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        let text = hear(&mut client, "direct").await;
        assert!(text.contains("x-own: 1"), "{text}");
    });
}

#[test]
fn edits_see_the_request_as_it_was_before_rewrites() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            let to = remora_http::HeaderValue::from_static("other");
            setting.forward.rewrite.host = Some(remora_ir::action::HostRewrite::Literal(to));
            let asked = Segment::Operator {
                operator: Operator::Request(remora_ir::access_log::FieldRef {
                    first: remora_ir::access_log::FieldName::Authority,
                    otherwise: None,
                }),
                max: None,
            };
            setting.host.edits.request = sets("x-asked", asked);
        });
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        hear(&mut client, "ok").await;
        let heard = upstream.heard().concat();
        assert!(heard.contains("Host: other"), "{heard}");
        assert!(heard.contains("x-asked: shop"), "{heard}");
    });
}

#[test]
fn the_host_that_was_asked_for_survives_retries() {
    run(async {
        const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
        let upstream = Upstream::new(&[&[(END, BUSY), (END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.forward.retry = Some(retries(1));
            setting.forward.rewrite.host = Some(remora_ir::action::HostRewrite::EndpointName);
            setting.forward.rewrite.append_forwarded_host = true;
        });
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        hear(&mut client, "ok").await;
        let heard = upstream.heard().concat();
        assert_eq!(heard.matches("Host: named").count(), 2, "{heard}");
        assert_eq!(
            heard.matches("x-envoy-original-host: shop\r\n").count(),
            2,
            "{heard}"
        );
        assert_eq!(
            heard.matches("x-forwarded-host: shop\r\n").count(),
            2,
            "{heard}"
        );
    });
}
