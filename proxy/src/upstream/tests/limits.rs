// SPDX-License-Identifier: Apache-2.0
//! Limits, waiting, and when connections end.

use std::num::NonZeroU64;

use remora_ir::cluster::{Limit, Thresholds};
use remora_testkit::upstream::http::{HttpUpstream, Reply};

use super::*;

fn limited(connections: u32, pending: u32) -> CircuitLimits {
    CircuitLimits {
        default: Thresholds {
            connections: Limit::AtMost(connections),
            pending: Limit::AtMost(pending),
            ..Thresholds::default()
        },
        ..CircuitLimits::default()
    }
}

#[test]
fn beyond_the_limit_requests_wait_and_beyond_that_they_are_refused() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let world = World::new(upstream.address(), |p| p.limits = limited(1, 1));
        let world = Rc::new(world);
        let mut first = world.lease().await.expect("the first is always allowed");
        let waiter = tokio::task::spawn_local({
            let world = Rc::clone(&world);
            async move { exchange(&world).await }
        });
        until("it waits", || world.stat("upstream_rq_pending_active") == 1).await;
        let error = world.lease().await.expect_err("one waits already");
        assert_eq!(
            (error.flag().to_string(), error.origin()),
            ("UO".to_owned(), Origin::Local)
        );
        assert_eq!(error.details(false), "overflow");
        send(&mut first, &get()).await.expect("sent");
        receive(&mut first).await.expect("an answer");
        assert!(!waiter.is_finished());
        first.finish();
        assert_eq!(waiter.await.expect("it ended").expect("an answer").0, 200);
        assert_eq!(upstream.accepted(), 1);
        assert_eq!(world.stat("upstream_rq_pending_overflow"), 1);
        assert_eq!(world.stat("upstream_cx_overflow"), 1);
        world.is_at_rest().await;
    });
}

#[test]
fn connections_made_before_a_limit_do_not_escape_it() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let mut world = World::new(upstream.address(), |p| {
            p.limits.default.connections = Limit::Unlimited;
        });
        let mut unlimited = Vec::new();
        for _ in 0..3 {
            let mut lease = world.lease().await.expect("there is no limit");
            send(&mut lease, &get()).await.expect("sent");
            receive(&mut lease).await.expect("an answer");
            unlimited.push(lease);
        }
        assert!(unlimited.into_iter().all(Lease::finish), "they are kept");
        world.rebind(|p| p.limits = limited(1, 1));
        let only = world.lease().await.expect("the first is always allowed");
        // The upstream's own thread counts, and nothing was said on this connection yet.
        remora_testkit::wait::until_true("a fourth connection", Duration::from_secs(5), || {
            upstream.accepted() == 4
        })
        .expect("a new connection was opened");
        let another = tokio::time::timeout(Duration::from_millis(20), world.lease()).await;
        assert!(
            another.is_err(),
            "it waits, although three connections were idle"
        );
        drop(only);
        world.is_at_rest().await;
    });
}

#[test]
fn who_waits_opens_a_connection_when_one_is_closed() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let world = Rc::new(World::new(upstream.address(), |p| p.limits = limited(1, 9)));
        let first = world.lease().await.expect("the first is always allowed");
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let world = Rc::clone(&world);
                tokio::task::spawn_local(async move { exchange(&world).await })
            })
            .collect();
        until("they wait", || {
            world.stat("upstream_rq_pending_active") == 3
        })
        .await;
        drop(first);
        for waiter in waiters {
            waiter.await.expect("it ended").expect("an answer");
        }
        assert_eq!(upstream.accepted(), 2);
        world.is_at_rest().await;
    });
}

#[test]
fn a_tunnel_leaves_its_place_in_the_pool_to_those_who_wait() {
    run(async {
        let address = server(|mut stream, number| async move {
            if number == 0 {
                read_head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            } else {
                script(stream, &[OK]).await;
            }
        })
        .await;
        let world = World::new(address, |p| p.limits = limited(1, 9));
        let mut lease = world.lease().await.expect("a connection");
        let connect = RequestHead {
            method: Method::Connect,
            path: Bytes::new(),
            ..get()
        };
        send(&mut lease, &connect).await.expect("sent");
        let (_, mut reader) = lease.split();
        assert!(matches!(
            reader.head().await,
            Ok(ResponseEvent::Upgraded(_))
        ));
        let (tunnel, _) = lease.into_tunnel().expect("HTTP/1 has tunnels");
        exchange(&world)
            .await
            .expect("the pool's first connection is allowed again");
        drop(tunnel);
        world.is_at_rest().await;
    });
}

#[test]
fn a_wait_ends_at_the_deadline_and_counts_no_longer() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::Hang).expect("a port");
        let world = World::new(upstream.address(), |p| p.limits = limited(1, 1));
        let first = world.lease().await.expect("the first is always allowed");
        let soon = clock::now() + Duration::from_millis(20);
        let error = world
            .lease_with(Protocol::Http1, |r| r.deadline = soon)
            .await;
        assert_eq!(error.expect_err("none is free").kind, Failure::Deadline);
        let given_up = tokio::time::timeout(Duration::from_millis(20), world.lease()).await;
        assert!(given_up.is_err());
        assert_eq!(world.stat("upstream_rq_cancelled"), 1);
        drop(first);
        world.is_at_rest().await;
    });
}

#[test]
fn connections_retire_after_as_many_requests_as_allowed() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let world = World::new(upstream.address(), |p| {
            p.connection.max_requests = NonZeroU64::new(2);
        });
        for _ in 0..4 {
            exchange(&world).await.expect("an answer");
        }
        assert_eq!(upstream.accepted(), 2);
        assert_eq!(world.stat("upstream_cx_max_requests"), 2);
        let said = |r: &remora_testkit::upstream::http::Recorded| r.header("connection").is_some();
        let closes: Vec<_> = upstream.recorded().iter().map(said).collect();
        assert_eq!(closes, [false, true, false, true]);
        world.is_at_rest().await;
    });
}

#[test]
fn sweeps_close_what_is_old_or_silent_and_forget_what_is_empty() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let second = Duration::from_secs(1);
        let world = World::new(upstream.address(), |p| {
            p.connection.idle_timeout = Some(10 * second);
            p.connection.max_duration = Some(60 * second);
        });
        exchange(&world).await.expect("an answer");
        let now = clock::now();
        world.local.sweep(now + 9 * second);
        assert_eq!(world.local.pools().idle(), 1);
        world.local.sweep(now + 11 * second);
        assert_eq!(
            (world.local.pools().idle(), world.local.pools().entries()),
            (0, 0)
        );
        exchange(&world).await.expect("an answer");
        world.local.sweep(now + 61 * second);
        assert_eq!(world.stat("upstream_cx_idle_timeout"), 1);
        assert_eq!(world.stat("upstream_cx_max_duration_reached"), 1);
        world.is_at_rest().await;
    });
}

#[test]
fn connections_survive_a_new_policy_unless_their_settings_changed() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let mut world = World::new(upstream.address(), |_| {});
        exchange(&world).await.expect("an answer");
        world.rebind(|p| p.limits = limited(5, 5));
        exchange(&world).await.expect("an answer");
        assert_eq!(upstream.accepted(), 1);
        let lease = world.lease().await.expect("a connection");
        world.rebind(|p| p.connection.connect_timeout = Duration::from_secs(1));
        drop(lease);
        exchange(&world).await.expect("an answer");
        assert_eq!(upstream.accepted(), 2);
        world.rebind(|p| p.connection.connect_timeout = Duration::from_secs(2));
        world.local.sweep(clock::now());
        assert_eq!(world.local.pools().idle(), 0);
        world.is_at_rest().await;
    });
}

#[test]
fn connections_of_a_removed_host_go_with_it() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        exchange(&world).await.expect("an answer");
        let mut lease = world.lease().await.expect("a connection");
        world.cluster.set_endpoints(&endpoints([]));
        assert_eq!(world.stat("membership_total"), 0);
        send(&mut lease, &get()).await.expect("sent");
        receive(&mut lease).await.expect("what runs may end");
        lease.finish();
        world.local.sweep(clock::now());
        assert_eq!(world.local.pools().idle(), 0);
        let context = PickContext::first();
        let request = PickRequest {
            original_dst: None,
            context,
        };
        let failure = pick(&world.local, &world.cluster, &request).expect_err("nobody is left");
        assert_eq!(failure, Failure::NoHealthyHost);
        world.is_at_rest().await;
    });
}

#[test]
fn a_draining_worker_keeps_nothing() {
    run(async {
        let upstream = HttpUpstream::on_loopback(Reply::status(200, "ok")).expect("a port");
        let world = World::new(upstream.address(), |_| {});
        exchange(&world).await.expect("an answer");
        let mut lease = world.lease().await.expect("a connection");
        world.local.drain();
        send(&mut lease, &get()).await.expect("sent");
        receive(&mut lease).await.expect("what runs may end");
        assert!(!lease.finish());
        world.is_at_rest().await;
    });
}
