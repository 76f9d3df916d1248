// SPDX-License-Identifier: Apache-2.0
//! Exchanges over HTTP/1.

use std::task::Poll;

use remora_testkit::upstream::http::{HttpUpstream, Reply};

use super::*;

#[test]
fn a_connection_serves_again_after_a_whole_exchange() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "hello")).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        for round in 0..5 {
            let mut lease = world.lease().await.expect("a connection");
            assert_eq!(lease.reused(), round > 0);
            send(&mut lease, &get()).await.expect("sent");
            let (status, body, _) = receive(&mut lease).await.expect("an answer");
            assert_eq!((status, &body[..]), (200, &b"hello"[..]));
            assert!(lease.finish());
        }
        assert_eq!(upstream.accepted(), 1);
        assert_eq!(
            (
                world.stat("upstream_cx_total"),
                world.stat("upstream_rq_total")
            ),
            (1, 5)
        );
        world.is_at_rest().await;
    });
}

#[test]
fn an_exchange_that_is_given_up_takes_its_connection_with_it() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "hello")).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        let mut lease = world.lease().await.expect("a connection");
        send(&mut lease, &get()).await.expect("sent");
        drop(lease);
        assert_eq!(world.local.pools().open(), 0);
        assert_eq!(world.stat("upstream_rq_tx_reset"), 1);
        assert_eq!(world.stat("upstream_cx_destroy_with_active_rq"), 1);
        let mut half = world.lease().await.expect("a connection");
        send(&mut half, &get()).await.expect("sent");
        let (_, mut reader) = half.split();
        final_head(&mut reader).await.expect("a head");
        assert!(!half.finish(), "its body was not read");
        world.is_at_rest().await;
    });
}

#[test]
fn connections_that_the_upstream_closed_are_not_used() {
    run(async {
        let close = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let address = server(move |stream, _| async move { script(stream, &[close]).await }).await;
        let world = World::new(address, |_| {});
        for reuse in [Reuse::IfVerified, Reuse::IfNotStale] {
            exchange(&world).await.expect("an answer");
            // The second connection ends by itself too, some time after the answer.
            let closed = || world.stat("upstream_cx_destroy_remote");
            let before = closed();
            until("the close is seen", || {
                world.local.sweep(clock::now());
                closed() > before || world.local.pools().idle() == 0
            })
            .await;
            let lease = world.lease_with(Protocol::Http1, |r| r.reuse = reuse).await;
            assert!(!lease.expect("a connection").reused());
        }
        world.is_at_rest().await;
    });
}

#[test]
fn a_close_between_look_and_write_is_told_as_a_race() {
    run(async {
        let address = server(|mut stream, _| async move {
            script_one(&mut stream).await;
            // The next request is met by a close without a word.
            read_head(&mut stream).await;
        })
        .await;
        let world = World::new(address, |_| {});
        exchange(&world).await.expect("an answer");
        let mut lease = world.lease().await.expect("a connection");
        assert!(lease.reused());
        send(&mut lease, &get()).await.expect("sent");
        let error = receive(&mut lease).await.expect_err("closed");
        assert!(error.is_keep_alive_race(), "{error:?}");
        assert_eq!(error.retry_class(), RetryClass::Reset);
        assert_eq!(error.sent, Sent::Head);
        drop(lease);
        assert_eq!(world.stat("upstream_rq_rx_reset"), 1);
        world.is_at_rest().await;
    });
}

async fn script_one(stream: &mut TcpStream) {
    read_head(stream).await;
    stream.write_all(OK.as_bytes()).await.expect("it is open");
}

#[test]
fn bodies_go_up_as_announced_and_come_down_with_trailers() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::Echo).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        let large = Bytes::from(vec![b'x'; 300_000]);
        for framing in [BodyFraming::Chunked, BodyFraming::Length(300_007)] {
            let mut lease = world.lease().await.expect("a connection");
            let (mut writer, _) = lease.split();
            let start = RequestStart {
                framing,
                upgrade: None,
            };
            writer.send_head(&post(), &start).await.expect("encoded");
            writer
                .data(Bytes::from_static(b"small, "))
                .await
                .expect("sent");
            writer.data(large.clone()).await.expect("sent");
            writer.finish(None).await.expect("sent");
            let (status, ..) = receive(&mut lease).await.expect("an answer");
            assert_eq!(status, 200);
            assert!(lease.finish());
            let recorded = upstream.recorded().pop().expect("a request");
            assert_eq!(recorded.body.len(), 300_007);
            assert!(recorded.body.starts_with(b"small, x"));
        }
        let trailing = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                        2\r\nab\r\n1\r\nc\r\n0\r\nx-sum: 3\r\n\r\n";
        let address = server(move |s, _| async move { script(s, &[trailing, OK]).await }).await;
        let second = World::new(address, |_| {});
        let (_, body, trailers) = exchange(&second).await.expect("an answer");
        assert_eq!(&body[..], b"abc");
        assert_eq!(trailers.expect("trailers").len(), 1);
        exchange(&second).await.expect("an answer");
        assert_eq!(second.stat("upstream_cx_total"), 1);
        world.is_at_rest().await;
        second.is_at_rest().await;
    });
}

#[test]
fn a_body_that_does_not_match_its_length_is_refused_here() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::Echo).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        let start = RequestStart {
            framing: BodyFraming::Length(3),
            upgrade: None,
        };
        let mut lease = world.lease().await.expect("a connection");
        let (mut writer, _) = lease.split();
        writer.send_head(&post(), &start).await.expect("encoded");
        let error = writer
            .data(Bytes::from_static(b"four"))
            .await
            .expect_err("too long");
        assert_eq!(error.kind, Failure::Request(BadRequest::Length));
        writer.data(Bytes::from_static(b"12")).await.expect("sent");
        let error = writer.finish(None).await.expect_err("too short");
        assert_eq!(error.origin(), Origin::Downstream);
        drop(lease);
        world.is_at_rest().await;
    });
}

#[test]
fn an_answer_before_the_requests_end_is_read_and_the_connection_closed() {
    run(async {
        let early = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n";
        let address = server(move |mut stream, _| async move {
            read_head(&mut stream).await;
            stream
                .write_all(early.as_bytes())
                .await
                .expect("it is open");
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let world = World::new(address, |_| {});
        let mut lease = world.lease().await.expect("a connection");
        let (mut writer, mut reader) = lease.split();
        writer.send_head(&post(), &CHUNKED).await.expect("encoded");
        writer.flush().await.expect("sent");
        let upload = async {
            loop {
                writer
                    .data(Bytes::from(vec![0; 50_000]))
                    .await
                    .expect("sent");
                tokio::task::yield_now().await;
            }
        };
        let head = tokio::select! {
            () = upload => unreachable!("it never ends"),
            head = final_head(&mut reader) => head.expect("an early answer"),
        };
        assert_eq!(head.head.status.get(), 413);
        assert!(!lease.finish());
        world.is_at_rest().await;
    });
}

#[test]
fn a_body_until_close_ends_there_and_the_connection_is_not_kept() {
    run(async {
        let upstream =
            HttpUpstream::on_loopback(Reply::Raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()))
                .expect("a port");
        let world = World::new(upstream.address(), |_| {});
        let mut lease = world.lease().await.expect("a connection");
        send(&mut lease, &get()).await.expect("sent");
        let (_, body, _) = receive(&mut lease).await.expect("an answer");
        assert_eq!(&body[..], b"until the end");
        assert!(!lease.finish());
        assert_eq!(world.stat("upstream_cx_destroy_remote"), 1);
        upstream.set_reply(Reply::CloseInBody);
        let mut lease = world.lease().await.expect("a connection");
        send(&mut lease, &get()).await.expect("sent");
        let error = receive(&mut lease).await.expect_err("the body is cut");
        assert_eq!(error.flag().to_string(), "UPE");
        drop(lease);
        world.is_at_rest().await;
    });
}

#[test]
fn informational_heads_come_before_the_final_one() {
    run(async {
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
                     HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let address = server(move |s, _| async move { script(s, &[hints, OK]).await }).await;
        let world = World::new(address, |_| {});
        let mut lease = world.lease().await.expect("a connection");
        send(&mut lease, &get()).await.expect("sent");
        let (_, mut reader) = lease.split();
        let first = reader.head().await.expect("a head");
        assert!(matches!(first, ResponseEvent::Informational(h) if h.status.get() == 103));
        assert!(matches!(
            reader.head().await.expect("a head"),
            ResponseEvent::Final(_)
        ));
        assert_eq!(reader.try_frame().map(Result::ok), Poll::Ready(Some(None)));
        assert!(lease.finish());
        world.is_at_rest().await;
    });
}

#[test]
fn an_upgrade_hands_out_the_stream_with_what_was_read_behind_the_head() {
    run(async {
        let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                      upgrade: echo\r\n\r\nfirst";
        let address = server(move |mut stream, _| async move {
            read_head(&mut stream).await;
            stream
                .write_all(switch.as_bytes())
                .await
                .expect("it is open");
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.expect("a word");
            stream.write_all(&word).await.expect("it is open");
        })
        .await;
        let world = World::new(address, |_| {});
        let mut lease = world.lease().await.expect("a connection");
        let upgrade = Bytes::from_static(b"echo");
        let start = RequestStart {
            framing: BodyFraming::Empty,
            upgrade: Some(&upgrade),
        };
        let (mut writer, mut reader) = lease.split();
        writer.send_head(&get(), &start).await.expect("encoded");
        writer.finish(None).await.expect("sent");
        let head = reader.head().await.expect("a head");
        assert!(matches!(head, ResponseEvent::Upgraded(_)));
        let (tunnel, mut bytes) = lease.into_tunnel().expect("HTTP/1 has tunnels");
        while bytes.len() < 5 {
            tunnel
                .stream
                .read_buf(&mut bytes)
                .await
                .expect("it is open");
        }
        assert_eq!(&bytes[..], b"first");
        tunnel.stream.write_all(b"ping").await.expect("it is open");
        bytes.clear();
        while bytes.len() < 4 {
            tunnel
                .stream
                .read_buf(&mut bytes)
                .await
                .expect("it is open");
        }
        assert_eq!(&bytes[..], b"ping");
        assert_eq!(world.stat("upstream_cx_active"), 1);
        assert_eq!(world.local.pools().open(), 0, "the pool has let it go");
        drop(tunnel);
        world.is_at_rest().await;
    });
}

#[test]
fn what_is_no_http_is_a_protocol_error() {
    run(async {
        let upstream =
            HttpUpstream::on_loopback(Reply::Raw(b"220 smtp ready\r\n".to_vec())).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        let error = exchange(&world).await.expect_err("not HTTP");
        assert_eq!(error.flag().to_string(), "UPE");
        assert_eq!(error.retry_class(), RetryClass::Protocol);
        assert!(error.received);
        assert_eq!(world.stat("upstream_cx_protocol_error"), 1);
        world.is_at_rest().await;
    });
}

#[test]
fn a_write_that_is_dropped_half_way_goes_on_where_it_was() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::Echo).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        let mut lease = world.lease().await.expect("a connection");
        let (mut writer, _) = lease.split();
        writer.send_head(&post(), &CHUNKED).await.expect("encoded");
        for piece in 0..20_u8 {
            let body = Bytes::from(vec![piece; 1_000_000]);
            let hurry = tokio::time::timeout(Duration::ZERO, writer.data(body));
            if let Ok(result) = hurry.await {
                result.expect("sent");
            }
        }
        writer.finish(None).await.expect("sent");
        receive(&mut lease).await.expect("an answer");
        let body = upstream.recorded().pop().expect("a request").body;
        assert_eq!(body.len(), 20_000_000);
        assert!(body.is_sorted(), "all pieces whole and in order");
        assert!(lease.finish());
        world.is_at_rest().await;
    });
}
