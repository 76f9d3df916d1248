// SPDX-License-Identifier: Apache-2.0
//! Where connections go, and how dials end.

use std::io::ErrorKind;

use remora_balance::Outcome;
use remora_ir::cluster::{ErrorsInARow, OutlierPolicy};
use remora_testkit::upstream::http::{HttpUpstream, Reply};

use super::*;

/// An address that refuses connections: it was free a moment ago.
async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a free port");
    listener.local_addr().expect("it is bound")
}

#[test]
fn a_refused_connection_is_told_in_envoys_words_and_may_be_tried_elsewhere() {
    run(async {
        let world = World::new(refusing().await, |_| {});
        let error = world.lease().await.expect_err("nobody listens");
        assert!(
            matches!(&error.kind, Failure::Connect(f) if f.kind == ErrorKind::ConnectionRefused)
        );
        assert!(
            error
                .body_text()
                .ends_with("delayed connect error: Connection refused")
        );
        assert_eq!(error.retry_class(), RetryClass::ConnectFailure);
        let host = world.host();
        let tcp = connect(
            &world.local,
            &world.cluster,
            &host,
            None,
            Instant::FAR_FUTURE,
        )
        .await;
        assert_eq!(tcp.expect_err("nobody listens").flag().to_string(), "UF");
        assert_eq!(world.stat("upstream_cx_connect_fail"), 2);
        assert_eq!(world.stat("upstream_rq_pending_failure_eject"), 1);
        assert_eq!(host.counts().cx_connect_fail, 2);
        drop(host);
        world.is_at_rest().await;
    });
}

#[test]
fn a_dial_without_an_answer_ends_with_the_clusters_time_or_the_callers() {
    run(async {
        // The queue of a listener that never accepts fills up; then dials are left unanswered.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .expect("a free port");
        socket.listen(0).expect("it listens");
        let bound = socket.local_addr().expect("it is bound");
        let address = bound.as_socket().expect("an internet address");
        let mut waiting = Vec::new();
        loop {
            let dial = TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(100), dial).await {
                Ok(stream) => waiting.push(stream.expect("queued")),
                Err(_) => break,
            }
        }
        let brief = Duration::from_millis(30);
        let world = World::new(address, |p| p.connection.connect_timeout = brief);
        let error = world.lease().await.expect_err("no answer");
        assert_eq!(error.kind, Failure::ConnectTimeout);
        assert_eq!(error.reset_reason(), "connection timeout");
        assert_eq!(world.stat("upstream_cx_connect_timeout"), 1);
        let patient = World::new(address, |_| {});
        let soon = clock::now() + brief;
        let error = patient
            .lease_with(Protocol::Http2, |r| r.deadline = soon)
            .await;
        assert_eq!(error.expect_err("no answer").kind, Failure::Deadline);
        assert_eq!(patient.stat("upstream_cx_connect_fail"), 0);
        world.is_at_rest().await;
        patient.is_at_rest().await;
    });
}

#[test]
fn original_destinations_are_hosts_but_never_this_proxy_itself() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let own = refusing().await;
        let world = World::with(Discovery::OriginalDst { port: None }, |_| {});
        world
            .local
            .set_own_listeners([SocketAddr::from(([0, 0, 0, 0], own.port()))]);
        let ask = |original_dst| {
            let context = PickContext::first();
            let request = PickRequest {
                original_dst,
                context,
            };
            pick(&world.local, &world.cluster, &request)
        };
        assert_eq!(
            ask(None).expect_err("none given"),
            Failure::NoOriginalDestination
        );
        assert_eq!(ask(Some(own)).expect_err("a loop"), Failure::Loop(own));
        let host = ask(Some(upstream.address())).expect("a host");
        let again = ask(Some(upstream.address())).expect("a host");
        assert!(Arc::ptr_eq(&host, &again));
        let request = LeaseRequest {
            protocol: Protocol::Http1,
            priority: Priority::Default,
            peer: None,
            deadline: clock::now() + PATIENCE,
            reuse: Reuse::IfNotStale,
        };
        for reused in [false, true] {
            let leased = lease(&world.local, &world.cluster, &host, &request).await;
            let mut lease = leased.expect("a connection");
            assert_eq!(lease.reused(), reused);
            send(&mut lease, &get()).await.expect("sent");
            receive(&mut lease).await.expect("an answer");
            assert!(lease.finish());
            world.local.sweep(clock::now());
        }
        drop((host, again));
        world.is_at_rest().await;
        assert!(
            world.cluster.record().hosts().is_empty(),
            "unused destinations are forgotten"
        );
    });
}

#[test]
fn pipes_are_hosts_and_fixed_source_addresses_are_used() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("php.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut byte = [0];
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
                seen.push(byte[0]);
            }
            stream.write_all(OK.as_bytes()).await.expect("it is open");
        });
        let name: Arc<str> = path.to_str().expect("text").into();
        let hosts = endpoints([EndpointAddress::Pipe(name)]);
        let world = World::with(Discovery::Static(hosts), |_| {});
        assert_eq!(exchange(&world).await.expect("an answer").0, 200);
        world.is_at_rest().await;

        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let world = World::new(upstream.address(), |p| {
            p.connection.source = SourceAddress::Fixed(([127, 0, 0, 6], 0).into());
        });
        exchange(&world).await.expect("an answer");
        let peer = upstream.recorded().pop().expect("a request").peer;
        assert_eq!(peer.ip().to_string(), "127.0.0.6");
        world.is_at_rest().await;
    });
}

#[test]
fn a_connection_dialled_before_the_protocol_was_known_becomes_a_lease() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        let host = world.host();
        let dialled = connect(
            &world.local,
            &world.cluster,
            &host,
            None,
            Instant::FAR_FUTURE,
        )
        .await;
        let request = LeaseRequest {
            protocol: Protocol::Http1,
            priority: Priority::Default,
            peer: None,
            deadline: Instant::FAR_FUTURE,
            reuse: Reuse::IfNotStale,
        };
        let dialled = dialled.expect("a connection");
        let adopted = adopt(&world.local, &world.cluster, dialled, &request).await;
        let mut lease = adopted.expect("a lease");
        send(&mut lease, &get()).await.expect("sent");
        receive(&mut lease).await.expect("an answer");
        assert!(lease.finish());
        exchange(&world).await.expect("an answer");
        assert_eq!(upstream.accepted(), 1);
        drop(host);
        world.is_at_rest().await;
    });
}

#[test]
fn failures_in_a_row_eject_a_host_and_its_name_is_known() {
    run(async {
        let (dead, alive) = (refusing().await, refusing().await);
        let hosts = endpoints([dead, alive].map(EndpointAddress::Socket));
        let second = Duration::from_secs(1);
        let world = World::with(Discovery::Static(hosts), |p| {
            p.outlier = Some(OutlierPolicy {
                interval: second,
                base_ejection: second,
                max_ejection: second,
                ejection_jitter: Duration::ZERO,
                max_ejected: Percent::HUNDRED,
                always_one: false,
                consecutive_5xx: Some(ErrorsInARow {
                    threshold: std::num::NonZeroU32::MIN,
                    enforcing: 100,
                }),
                consecutive_gateway: None,
                consecutive_local_origin: None,
                split_external: false,
            });
        });
        let host = world.host();
        assert_eq!(
            hostname(&world.local, &world.cluster, &host).as_deref(),
            Some("named")
        );
        world
            .cluster
            .on_outcome(&world.local, &host, Outcome::Status(503));
        for _ in 0..4 {
            assert!(!Arc::ptr_eq(&world.host(), &host));
        }
        world.cluster.sweep(clock::now());
        assert_eq!(world.stat("outlier_detection.ejections_active"), 1);
        assert_eq!(world.stat("outlier_detection.ejections_enforced_total"), 1);
        assert_eq!(
            (
                world.stat("membership_total"),
                world.stat("membership_healthy")
            ),
            (2, 1)
        );
        world.cluster.sweep(clock::now() + 3 * second);
        assert_eq!(world.stat("outlier_detection.ejections_active"), 0);
        let picked: Vec<_> = (0..2).map(|_| world.host()).collect();
        assert!(picked.iter().any(|one| Arc::ptr_eq(one, &host)));
        drop((host, picked));
        world.is_at_rest().await;
    });
}
