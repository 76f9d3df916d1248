// SPDX-License-Identifier: Apache-2.0
//! Exchanges over HTTP/2, against the server half of the `h2` crate.

use h2::RecvStream;
use h2::server::SendResponse;
use remora_ir::cluster::{Http2Keepalive, Http2Options};

use super::*;

type Request = (http::Request<RecvStream>, SendResponse<Bytes>);

/// A server that serves each request in a task.
async fn h2_server<F, Fut>(serve: F) -> (SocketAddr, Rc<Cell<usize>>)
where
    F: Fn(Request, usize) -> Fut + Clone + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let accepted = Rc::new(Cell::new(0));
    let count = Rc::clone(&accepted);
    let address = server(move |stream, connection| {
        let (serve, count) = (serve.clone(), Rc::clone(&count));
        async move {
            count.set(count.get() + 1);
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(3);
            let Ok(mut server) = builder.handshake::<_, Bytes>(stream).await else {
                return;
            };
            while let Some(Ok(request)) = server.accept().await {
                tokio::task::spawn_local(serve(request, connection));
            }
        }
    })
    .await;
    (address, accepted)
}

/// Returns the body, then a trailer with its length.
async fn echo((request, mut respond): Request, _: usize) {
    assert_eq!(request.uri().to_string(), "http://shop/");
    let mut body = request.into_body();
    let early = http::Response::builder()
        .status(103)
        .body(())
        .expect("a head");
    let _ = respond.send_informational(early);
    let Ok(mut send) = respond.send_response(http::Response::new(()), false) else {
        return;
    };
    let mut total = 0;
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        total += data.len();
        send.reserve_capacity(data.len());
        if send.send_data(data, false).is_err() {
            return;
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-total", total.into());
    if let Ok(Some(sent)) = body.trailers().await {
        trailers.extend(sent);
    }
    let _ = send.send_trailers(trailers);
}

fn http2(policy: &mut Policy) {
    policy.protocol = UpstreamProtocol::Http2(Http2Options::DEFAULT);
}

async fn exchange2(world: &World) -> Result<(u16, Vec<u8>, Option<HeaderMap>), UpstreamError> {
    let mut lease = world.lease_with(Protocol::Http2, |_| {}).await?;
    send(&mut lease, &get()).await?;
    let answer = receive(&mut lease).await?;
    lease.finish();
    Ok(answer)
}

#[test]
fn bodies_and_trailers_go_both_ways_on_one_connection() {
    run(async {
        let (address, accepted) = h2_server(echo).await;
        let world = World::new(address, http2);
        for round in 0..3 {
            let mut lease = world
                .lease_with(Protocol::Http2, |_| {})
                .await
                .expect("a stream");
            assert_eq!(lease.reused(), round > 0);
            let (mut writer, mut reader) = lease.split();
            let up = async {
                writer.send_head(&post(), &CHUNKED).await?;
                for _ in 0..20 {
                    writer.data(Bytes::from(vec![b'x'; 100_000])).await?;
                }
                let name = "x-up".parse().expect("a token");
                let value = remora_http::HeaderValue::from_static("1");
                writer
                    .finish(Some(HeaderMap::from_iter([(name, value)])))
                    .await
            };
            let down = async {
                let hints = reader.head().await?;
                assert!(matches!(hints, ResponseEvent::Informational(h) if h.status.get() == 103));
                let head = final_head(&mut reader).await?;
                assert_eq!(head.framing, BodyFraming::Chunked);
                let (mut total, mut trailers) = (0, None);
                while let Some(frame) = reader.frame().await? {
                    match frame {
                        Frame::Data(bytes) => total += bytes.len(),
                        Frame::Trailers(fields) => trailers = Some(fields),
                    }
                }
                Ok::<_, UpstreamError>((total, trailers))
            };
            let (up, down) = tokio::join!(up, down);
            up.expect("sent");
            let (total, trailers) = down.expect("an answer");
            assert_eq!(total, 2_000_000);
            let trailers: Vec<_> = trailers
                .expect("trailers")
                .iter()
                .map(|(n, _, v)| (n.as_str().to_owned(), v.clone()))
                .collect();
            let expected = [("x-total", "2000000"), ("x-up", "1")];
            assert_eq!(
                trailers,
                expected.map(|(n, v)| (n.to_owned(), Bytes::from(v)))
            );
            assert!(lease.finish());
        }
        assert_eq!(accepted.get(), 1);
        world.is_at_rest().await;
    });
}

#[test]
fn requests_join_a_dial_and_spill_over_when_a_connection_is_full() {
    run(async {
        let (address, accepted) = h2_server(echo).await;
        let world = World::new(address, |p| {
            p.protocol = UpstreamProtocol::Http2(Http2Options {
                max_concurrent_streams: 3,
                ..Http2Options::DEFAULT
            });
        });
        let lease = || world.lease_with(Protocol::Http2, |_| {});
        let three = tokio::join!(lease(), lease(), lease());
        assert_eq!((accepted.get(), world.stat("upstream_cx_total")), (1, 1));
        let fourth = lease().await.expect("another connection");
        until("it is accepted", || accepted.get() == 2).await;
        drop((three, fourth));
        assert_eq!(
            world.local.pools().idle(),
            2,
            "streams that never began cost nothing"
        );
        world.is_at_rest().await;
    });
}

#[test]
fn those_who_joined_a_failed_dial_fail_with_it() {
    run(async {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let world = World::new(address, http2);
        let lease = || world.lease_with(Protocol::Http2, |_| {});
        let results = tokio::join!(lease(), lease(), lease());
        for result in [results.0, results.1, results.2] {
            let error = result.expect_err("nobody listens");
            assert_eq!(error.retry_class(), RetryClass::ConnectFailure);
        }
        assert_eq!(world.stat("upstream_cx_total"), 1, "one dial for all");
        world.is_at_rest().await;
    });
}

#[test]
fn resets_are_told_apart_from_refusals() {
    run(async {
        let reset = |(_, mut respond): Request, connection: usize| async move {
            respond.send_reset(if connection == 0 {
                h2::Reason::REFUSED_STREAM
            } else {
                h2::Reason::INTERNAL_ERROR
            });
        };
        let (address, _) = h2_server(reset).await;
        let world = World::new(address, http2);
        let error = exchange2(&world).await.expect_err("refused");
        assert_eq!(error.retry_class(), RetryClass::RefusedStream);
        let mut lease = world
            .lease_with(Protocol::Http2, |r| r.reuse = Reuse::Never)
            .await
            .expect("a fresh connection");
        send(&mut lease, &get()).await.expect("sent");
        let error = receive(&mut lease).await.expect_err("reset");
        assert_eq!(error.kind, Failure::Reset(2));
        assert_eq!(error.flag().to_string(), "UR");
        drop(lease);
        assert_eq!(world.stat("upstream_rq_rx_reset"), 2);
        world.is_at_rest().await;
    });
}

#[test]
fn after_goaway_new_streams_go_to_another_connection_and_old_ones_end_well() {
    run(async {
        let address = server(|stream, number| async move {
            let mut server = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok(request)) = server.accept().await {
                tokio::task::spawn_local(echo(request, number));
                if number == 0 {
                    server.graceful_shutdown();
                }
            }
        })
        .await;
        let world = World::new(address, http2);
        let mut old = world
            .lease_with(Protocol::Http2, |_| {})
            .await
            .expect("a stream");
        let (mut writer, mut reader) = old.split();
        writer.send_head(&post(), &CHUNKED).await.expect("sent");
        final_head(&mut reader).await.expect("a head");
        let fresh = async {
            loop {
                let mut lease = world
                    .lease_with(Protocol::Http2, |_| {})
                    .await
                    .expect("a stream");
                if !lease.reused() {
                    send(&mut lease, &get()).await.expect("sent");
                    receive(&mut lease).await.expect("an answer");
                    return lease.finish();
                }
                drop(lease);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(
            tokio::time::timeout(PATIENCE, fresh)
                .await
                .expect("another connection")
        );
        let (mut writer, _) = old.split();
        writer
            .data(Bytes::from_static(b"late"))
            .await
            .expect("sent");
        writer.finish(None).await.expect("sent");
        let (_, mut reader) = old.split();
        let frame = reader.frame().await.expect("an answer");
        assert_eq!(frame, Some(Frame::Data(Bytes::from_static(b"late"))));
        while reader.frame().await.expect("an answer").is_some() {}
        assert!(!old.finish(), "its connection takes no more");
        world.is_at_rest().await;
    });
}

#[test]
fn a_closed_connection_leaves_the_pool_at_once() {
    run(async {
        let address = server(|stream, _| async move {
            let mut server = h2::server::handshake(stream).await.expect("HTTP/2");
            if let Some(Ok((_, mut respond))) = server.accept().await {
                let _ = respond.send_response(http::Response::new(()), true);
            }
            server.graceful_shutdown();
            while server.accept().await.is_some() {}
        })
        .await;
        let world = World::new(address, http2);
        assert_eq!(exchange2(&world).await.expect("an answer").0, 200);
        until("it is gone", || world.local.pools().open() == 0).await;
        assert_eq!(world.stat("upstream_cx_destroy_remote"), 1);
        exchange2(&world).await.expect("an answer");
        world.is_at_rest().await;
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    run(async {
        let address = server(|mut stream, _| async move {
            // Reads and says nothing.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let brief = Duration::from_millis(20);
        let world = World::new(address, |p| {
            p.protocol = UpstreamProtocol::Http2(Http2Options {
                keepalive: Some(Http2Keepalive {
                    interval: brief,
                    timeout: brief,
                }),
                ..Http2Options::DEFAULT
            });
        });
        let error = exchange2(&world).await.expect_err("no answer");
        assert!(matches!(error.kind, Failure::Terminated(_)), "{error:?}");
        assert_eq!(error.flag().to_string(), "UC");
        world.is_at_rest().await;
    });
}

#[test]
fn upgrades_and_what_http2_cannot_write_are_refused_here() {
    run(async {
        let (address, _) = h2_server(echo).await;
        let world = World::new(address, http2);
        let upgrade = Bytes::from_static(b"websocket");
        let start = RequestStart {
            framing: BodyFraming::Empty,
            upgrade: Some(&upgrade),
        };
        let mut lease = world
            .lease_with(Protocol::Http2, |_| {})
            .await
            .expect("a stream");
        let (mut writer, _) = lease.split();
        let error = writer
            .send_head(&get(), &start)
            .await
            .expect_err("no upgrades");
        assert_eq!(error.kind, Failure::Request(BadRequest::Upgrade));
        assert_eq!(error.retry_class(), RetryClass::Never);
        drop(lease);
        assert_eq!(exchange2(&world).await.expect("an answer").0, 200);
        world.is_at_rest().await;
    });
}
