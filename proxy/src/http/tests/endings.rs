// SPDX-License-Identifier: Apache-2.0
//! However a request ends, it is counted and logged once, and gives back what it took.

use super::*;

#[test]
fn a_downstream_that_leaves_cancels_the_upstream() {
    run(async {
        let upstream = Upstream::new(&[&[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        proxy.until("cluster.shop.upstream_rq_active", 1).await;
        drop(client);
        let gone = "0 DC 0 0 downstream_remote_disconnect";
        assert_eq!(proxy.log(1).await, [gone]);
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_tx_reset"), 1);
        assert_eq!(proxy.stat("http.in.downstream_rq_rx_reset"), 1);
        proxy.until("cluster.shop.upstream_cx_active", 0).await;
        proxy.is_at_rest().await;
    });
}

#[test]
fn it_is_seen_to_leave_after_a_body_in_pieces() {
    run(async {
        let upstream = Upstream::new(&[&[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        say(
            &mut client,
            "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\n",
        )
        .await;
        proxy.until("cluster.shop.upstream_rq_active", 1).await;
        for byte in ["a", "b"] {
            say(&mut client, byte).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(client);
        let gone = "0 DC 2 0 downstream_remote_disconnect";
        assert_eq!(proxy.log(1).await, [gone]);
        proxy.is_at_rest().await;
    });
}

#[test]
fn it_is_seen_to_leave_right_behind_its_body() {
    run(async {
        let upstream = Upstream::new(&[&[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\n";
        say(&mut client, head).await;
        proxy.until("cluster.shop.upstream_rq_active", 1).await;
        say(&mut client, "ab").await;
        drop(client);
        let gone = "0 DC 2 0 downstream_remote_disconnect";
        assert_eq!(proxy.log(1).await, [gone]);
        proxy.is_at_rest().await;
    });
}

#[test]
fn it_is_seen_to_leave_while_a_connection_is_awaited() {
    run(async {
        let upstream = Upstream::new(&[&[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.policy.limits.default.connections = remora_ir::cluster::Limit::AtMost(1);
        });
        let (mut first, _) = proxy.connect().await;
        say(&mut first, GET).await;
        proxy.until("cluster.shop.upstream_rq_active", 1).await;
        let (mut second, _) = proxy.connect().await;
        say(&mut second, GET).await;
        proxy
            .until("cluster.shop.upstream_rq_pending_active", 1)
            .await;
        drop(second);
        proxy
            .until("cluster.shop.upstream_rq_pending_active", 0)
            .await;
        proxy.log(1).await;
        drop(first);
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_forced_end_is_logged_too() {
    run(async {
        let upstream = Upstream::new(&[&[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, serving) = proxy.connect().await;
        say(&mut client, GET).await;
        proxy.until("cluster.shop.upstream_rq_active", 1).await;
        proxy.drain.force();
        serving.await.expect("it ends");
        assert_eq!(proxy.log(1).await, ["0 DC 0 0 downstream_local_disconnect"]);
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_drain_is_announced_with_the_answer_under_way() {
    run(async {
        let upstream = Upstream::new(&[&[("body", OK)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        say(
            &mut client,
            "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\n",
        )
        .await;
        proxy.until("cluster.shop.upstream_rq_active", 1).await;
        proxy.drain.graceful(PATIENCE);
        say(&mut client, "body").await;
        let text = hear_all(&mut client).await;
        assert!(text.contains("connection: close"), "{text}");
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_silent_upstream_is_answered_for_in_time() {
    run(async {
        let upstream = Upstream::new(&[&[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.forward.timeouts.overall = Some(Duration::from_millis(30));
        });
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        let text = hear(&mut client, "upstream request timeout").await;
        assert!(text.starts_with("HTTP/1.1 504 "), "{text}");
        assert_eq!(proxy.log(1).await, ["504 UT 0 24 response_timeout"]);
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_timeout"), 1);
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_tx_reset"), 1);
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_504"), 1);
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_stalled_request_is_not_the_upstreams_fault_and_a_slow_one_is_no_stalled_one() {
    run(async {
        let upstream = Upstream::new(&[&[("abcd", OK)], &[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.manager.timeouts.stream_idle = Some(Duration::from_millis(500));
        });
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\n";
        let (mut slow, _) = proxy.connect().await;
        say(&mut slow, head).await;
        for byte in ["a", "b", "c", "d"] {
            tokio::time::sleep(Duration::from_millis(150)).await;
            say(&mut slow, byte).await;
        }
        assert!(hear(&mut slow, "ok").await.contains(" 200 "));
        let (mut stalled, _) = proxy.connect().await;
        say(&mut stalled, head).await;
        let text = hear(&mut stalled, "stream timeout").await;
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_timeout"), 0);
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_request_has_to_end_in_time_if_told_so() {
    run(async {
        let upstream = Upstream::new(&[&[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.manager.timeouts.request = Some(Duration::from_millis(30));
        });
        let (mut client, _) = proxy.connect().await;
        say(
            &mut client,
            "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\n",
        )
        .await;
        let text = hear(&mut client, "request timeout").await;
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
        assert_eq!(proxy.log(1).await, ["408 - 0 15 request_overall_timeout"]);
    });
}

#[test]
fn an_upstream_that_breaks_off_cuts_the_answer() {
    run(async {
        const SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort";
        let upstream = Upstream::new(&[&[(END, SHORT), ("", "")]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        let text = hear_all(&mut client).await;
        assert!(text.ends_with("short"), "{text}");
        assert!(proxy.log(1).await[0].starts_with("200 UPE 0 5 "));
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_kept_connection_that_was_closing_is_no_error_for_what_may_be_repeated() {
    run(async {
        // It closes when the second request comes.
        let upstream = Upstream::new(&[&[(END, OK), (END, "")], &[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.host.attempt_count_in_request = true;
        });
        let (mut client, _) = proxy.connect().await;
        for _ in 0..2 {
            say(&mut client, GET).await;
            assert!(hear(&mut client, "ok").await.contains(" 200 "));
        }
        let heard = upstream.heard();
        assert!(heard[1].contains("x-envoy-attempt-count: 1"), "{heard:?}");
        assert_eq!(proxy.stat("cluster.shop.upstream_rq_retry"), 0);
    });
}

#[test]
fn a_post_is_not_repeated_after_it_was_sent() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK), ("body", "")], &[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        hear(&mut client, "ok").await;
        let post = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody";
        say(&mut client, post).await;
        let text = hear(&mut client, "termination").await;
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        assert_eq!(upstream.heard().len(), 1);
    });
}

#[test]
fn every_copy_is_sent_or_counted() {
    run(async {
        let copies = Upstream::new(&[&[(END, OK), (END, OK), (END, OK)]]).await;
        let upstream = Upstream::new(&[&[(END, OK)], &[("never", "")]]).await;
        let proxy = Proxy::with_mirror(upstream.address, Some(copies.address), |setting| {
            setting.forward.mirrors = std::mem::take(&mut setting.copies);
        });
        // One that is answered, one that is given up before its body is there.
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        hear(&mut client, "ok").await;
        proxy.until("cluster.copy.mirror_rq_total", 1).await;
        assert!(copies.heard().concat().contains("Host: shop-shadow"));
        let (mut client, _) = proxy.connect().await;
        say(
            &mut client,
            "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\n",
        )
        .await;
        proxy.until("http.in.downstream_rq_active", 1).await;
        drop(client);
        proxy.until("cluster.copy.mirror_rq_dropped", 1).await;
        assert_eq!(proxy.stat("cluster.copy.mirror_rq_total"), 1);
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_copy_without_a_cluster_is_counted() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)]]).await;
        let proxy = Proxy::with_mirror(upstream.address, None, |setting| {
            setting.forward.mirrors = std::mem::take(&mut setting.copies);
        });
        let (mut client, _) = proxy.connect().await;
        say(&mut client, GET).await;
        hear(&mut client, "ok").await;
        assert_eq!(proxy.stat("http.in.mirror_rq_no_cluster"), 1);
    });
}

#[test]
fn an_http2_stream_is_answered_and_a_lost_connection_is_logged() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)], &[("never", "")]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (client, _) = proxy.connect().await;
        let (send, connection) = h2::client::handshake(client).await.expect("handshake");
        let driving = tokio::task::spawn_local(connection);
        let mut send = send.ready().await.expect("ready");
        let get = || {
            let request = http::Request::get("http://shop/");
            request.body(()).expect("request")
        };
        let (answer, _) = send.send_request(get(), true).expect("sent");
        let answer = answer.await.expect("answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-length"], "2");
        let mut body = answer.into_body();
        assert_eq!(&body.data().await.expect("data").expect("whole")[..], b"ok");
        assert_eq!(proxy.log(1).await, ["200 - 0 2 via_upstream"]);
        let (_answer, _) = send.send_request(get(), true).expect("sent");
        proxy.until("http.in.downstream_rq_active", 1).await;
        driving.abort();
        let lines = proxy.log(2).await;
        assert_eq!(lines[1], "0 DC 0 0 downstream_remote_disconnect");
        proxy.is_at_rest().await;
    });
}

#[test]
fn an_answer_of_the_proxy_to_head_has_no_body_over_http2() {
    run(async {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = nobody.local_addr().expect("bound");
        drop(nobody);
        let proxy = Proxy::new(address, |_| {});
        let (client, _) = proxy.connect().await;
        let (send, connection) = h2::client::handshake(client).await.expect("handshake");
        tokio::task::spawn_local(connection);
        let mut send = send.ready().await.expect("ready");
        let head = http::Request::head("http://shop/")
            .body(())
            .expect("request");
        let (answer, _) = send.send_request(head, true).expect("sent");
        let answer = answer.await.expect("answer");
        assert_eq!(answer.status(), 503);
        assert!(answer.body().is_end_stream());
    });
}

#[test]
fn the_future_of_an_exchange_is_small() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let (client, _) = proxy.connect().await;
        let cx = Context {
            worker: Rc::clone(&proxy.worker),
            hcm: Arc::clone(&proxy.manager),
            connection: ConnectionRecord {
                peer: client.peer_addr().expect("open"),
                local: client.local_addr().expect("open"),
                server_name: None,
            },
            server: headers::server_of(&proxy.manager.headers),
            is_inbound: false,
            original_dst: None,
            dialled: RefCell::new(None),
            stats: proxy.worker.http_stats(&proxy.manager.stat_prefix),
            drain: proxy.drain.watch(),
        };
        let stream = Stream::tcp(client);
        let serving = serve_h1::serve(&cx, &stream, BytesMut::new());
        let size = size_of_val(&serving);
        assert!(
            size <= MOST,
            "{size} bytes for a connection and its exchange"
        );
    });
}

/// What serves a connection, the exchange and the opening of an upstream connection included: each
/// downstream connection pays for it as long as it lives. Unit: bytes.
const MOST: usize = 7 * 1024 + 512;
