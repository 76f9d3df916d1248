// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 on one side or both: gRPC, trailers, lengths that are not known.

use bytes::Bytes;
use h2::client::SendRequest;
use remora_ir::cluster::{ErrorsInARow, OutlierPolicy};

use super::*;

/// Answers each stream with a status, some data and trailers; without data it is trailers-only.
async fn grpc_server(data: &'static str, status: &'static str) -> SocketAddr {
    let socket = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = socket.local_addr().expect("bound");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::task::spawn_local(async move {
                let mut connection = h2::server::handshake(stream).await.expect("handshake");
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::task::spawn_local(grpc_answer(request, respond, data, status));
                }
            });
        }
    });
    address
}

async fn grpc_answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    data: &str,
    status: &str,
) {
    assert_eq!(request.headers()["te"], "trailers");
    let mut body = request.into_body();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
    }
    let mut fields = http::HeaderMap::new();
    fields.insert("grpc-status", status.parse().expect("a value"));
    let mut answer = http::Response::new(());
    let kind = http::HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert("content-type", kind);
    if data.is_empty() {
        answer.headers_mut().extend(fields);
        respond.send_response(answer, true).expect("sent");
        return;
    }
    let mut stream = respond.send_response(answer, false).expect("sent");
    stream
        .send_data(Bytes::copy_from_slice(data.as_bytes()), false)
        .expect("sent");
    stream.send_trailers(fields).expect("sent");
}

async fn client(proxy: &Proxy) -> SendRequest<Bytes> {
    let (client, _) = proxy.connect().await;
    let (send, connection) = h2::client::handshake(client).await.expect("handshake");
    tokio::task::spawn_local(connection);
    send.ready().await.expect("ready")
}

/// Calls; gives the head's status and gRPC status, the data, and the trailers' gRPC status.
async fn call(send: &mut SendRequest<Bytes>) -> (u16, Option<String>, Vec<u8>, Option<String>) {
    let request = http::Request::post("http://shop/Sms/Send")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let request = request.body(()).expect("request");
    let (answer, mut body) = send.send_request(request, false).expect("sent");
    body.send_data(Bytes::from_static(b"hello"), true)
        .expect("sent");
    let answer = answer.await.expect("answer");
    let status_in = |fields: &http::HeaderMap| {
        let value = fields.get("grpc-status");
        value.map(|value| value.to_str().expect("text").to_owned())
    };
    let (status, in_head) = (answer.status().as_u16(), status_in(answer.headers()));
    let (mut stream, mut data) = (answer.into_body(), Vec::new());
    while let Some(piece) = stream.data().await {
        data.extend_from_slice(&piece.expect("whole"));
    }
    let trailers = stream.trailers().await.expect("whole");
    (status, in_head, data, trailers.as_ref().and_then(status_in))
}

fn speaks_http2(setting: &mut Setting) {
    setting.policy.protocol = UpstreamProtocol::Http2(Http2Options::DEFAULT);
}

#[test]
fn grpc_passes_with_its_trailers_and_without_a_body() {
    run(async {
        let proxy = Proxy::new(grpc_server("answer", "0").await, speaks_http2);
        let got = call(&mut client(&proxy).await).await;
        assert_eq!(got, (200, None, b"answer".to_vec(), Some("0".into())));
        proxy.is_at_rest().await;
        let proxy = Proxy::new(grpc_server("", "5").await, speaks_http2);
        let got = call(&mut client(&proxy).await).await;
        assert_eq!(got, (200, Some("5".into()), Vec::new(), None));
        proxy.is_at_rest().await;
    });
}

#[test]
fn grpc_failures_in_trailers_count_against_the_host() {
    run(async {
        let address = grpc_server("answer", "14").await;
        let proxy = Proxy::new(address, |setting| {
            speaks_http2(setting);
            setting.policy.outlier = Some(OutlierPolicy {
                interval: PATIENCE,
                base_ejection: PATIENCE,
                max_ejection: PATIENCE,
                ejection_jitter: Duration::ZERO,
                max_ejected: Percent::HUNDRED,
                always_one: true,
                consecutive_5xx: Some(ErrorsInARow {
                    threshold: std::num::NonZeroU32::new(2).expect("not zero"),
                    enforcing: 100,
                }),
                consecutive_gateway: None,
                consecutive_local_origin: None,
                split_external: false,
            });
        });
        let mut send = client(&proxy).await;
        for _ in 0..2 {
            assert_eq!(call(&mut send).await.3.as_deref(), Some("14"));
        }
        // Ejected: answered here, in gRPC's terms.
        let (status, in_head, data, _) = call(&mut send).await;
        assert_eq!(
            (status, in_head.as_deref(), data.len()),
            (200, Some("14"), 0)
        );
        assert_eq!(proxy.log(3).await[2], "200 UH 5 0 no_healthy_upstream");
    });
}

#[test]
fn a_length_that_is_not_known_becomes_chunks_and_back() {
    run(async {
        const ANSWER: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                              2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
        let upstream = Upstream::new(&[&[("0\r\n\r\n", ANSWER)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let mut send = client(&proxy).await;
        let request = http::Request::post("http://shop/")
            .body(())
            .expect("request");
        let (answer, mut body) = send.send_request(request, false).expect("sent");
        body.send_data(Bytes::from_static(b"abc"), false)
            .expect("sent");
        body.send_data(Bytes::new(), true).expect("sent");
        let answer = answer.await.expect("answer");
        assert!(!answer.headers().contains_key("transfer-encoding"));
        let mut body = answer.into_body();
        assert_eq!(&body.data().await.expect("data").expect("whole")[..], b"ok");
        let trailers = body.trailers().await.expect("whole").expect("some");
        assert_eq!(trailers["x-sum"], "7");
        let heard = upstream.heard().concat();
        assert!(heard.contains("transfer-encoding: chunked"), "{heard}");
        assert!(heard.contains("3\r\nabc\r\n0\r\n\r\n"), "{heard}");
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_stream_that_is_reset_cancels_its_request_alone() {
    run(async {
        let upstream = Upstream::new(&[&[("never", "")], &[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |_| {});
        let mut send = client(&proxy).await;
        let get = || {
            http::Request::get("http://shop/")
                .body(())
                .expect("request")
        };
        let (answer, mut stream) = send.send_request(get(), true).expect("sent");
        proxy.until("cluster.shop.upstream_rq_active", 1).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        let gone = "0 DC 0 0 downstream_remote_disconnect";
        assert_eq!(proxy.log(1).await, [gone]);
        let (answer, _) = send.send_request(get(), true).expect("sent");
        assert_eq!(answer.await.expect("answer").status(), 200);
        proxy.is_at_rest().await;
    });
}

#[test]
fn a_request_that_breaks_a_rule_is_answered_and_logged() {
    run(async {
        let upstream = Upstream::new(&[&[(END, OK)]]).await;
        let proxy = Proxy::new(upstream.address, |setting| {
            setting.manager.limits.max_fields = 3;
        });
        let mut send = client(&proxy).await;
        let many = (0..4).fold(http::Request::get("http://shop/"), |request, n| {
            request.header(format!("x-{n}"), "1")
        });
        let (answer, _) = send
            .send_request(many.body(()).expect("request"), true)
            .expect("sent");
        assert_eq!(answer.await.expect("answer").status(), 431);
        assert_eq!(proxy.log(1).await, ["431 DPE 0 22 http2.invalid_request"]);
        proxy.is_at_rest().await;
    });
}
