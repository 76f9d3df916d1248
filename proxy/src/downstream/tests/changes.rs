// SPDX-License-Identifier: Apache-2.0
//! Configurations that change under connections, limits, and the end of the process.

use std::process::Command;

use remora_rt::drain::Outcome;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

async fn echo(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.expect("write");
    reads(stream, b"ping").await;
}

#[test]
fn a_listener_that_changes_keeps_its_socket_and_its_connections() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (one, _) = server("one").await;
        let (two, _) = server("two").await;
        proxy.cluster("one", Some(one), |_| {});
        proxy.cluster("two", Some(two), |_| {});
        let before = proxy.listener("l", vec![proxy.chain("one", ChainMatch::default())]);
        let address = before.address;
        proxy.publish([Arc::new(before)]).await;
        let mut old = connect(address).await;
        reads(&mut old, b"one").await;
        let after = proxy.listener_at(
            "l",
            address,
            vec![proxy.chain("two", ChainMatch::default())],
        );
        proxy.publish([Arc::new(after)]).await;
        let mut new = connect(address).await;
        reads(&mut new, b"two").await;
        echo(&mut old).await;
        echo(&mut new).await;
        let stem = format!("listener.127.0.0.1_{}", address.port());
        assert_eq!(proxy.stat(&format!("{stem}.downstream_cx_total")), "2");
        assert_eq!(proxy.stat(&format!("{stem}.downstream_cx_active")), "2");
    });
}

#[test]
fn a_listener_that_goes_refuses_new_connections_and_lets_old_ones_finish() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (address, _) = server("hello").await;
        proxy.cluster("a", Some(address), |_| {});
        let listener = proxy.listener("l", vec![proxy.chain("a", ChainMatch::default())]);
        let at = listener.address;
        proxy.publish([Arc::new(listener)]).await;
        let mut old = connect(at).await;
        reads(&mut old, b"hello").await;
        // One that the kernel has taken but nobody has accepted is served as well.
        let waiting = std::net::TcpStream::connect(at).expect("connect");
        proxy.sockets.clear();
        proxy.publish([]).await;
        waiting.set_nonblocking(true).expect("non-blocking");
        reads(&mut TcpStream::from_std(waiting).expect("stream"), b"hello").await;
        while TcpStream::connect(at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        echo(&mut old).await;
        drop(old);
        assert_eq!(proxy.log(2).await, ["- 0 5 a 1 -", "- 4 9 a 1 -"]);
    });
}

#[test]
fn connections_beyond_a_limit_are_closed_at_once() {
    run_test(async {
        let mut proxy = Proxy::new(3);
        let (address, _) = server("hello").await;
        proxy.cluster("a", Some(address), |_| {});
        let chain = proxy.chain("a", ChainMatch::default());
        let small = Listener {
            max_connections: NonZeroU32::new(1),
            ..proxy.listener("small", vec![Arc::clone(&chain)])
        };
        let large = proxy.listener("large", vec![chain]);
        let (at_small, at_large) = (small.address, large.address);
        proxy.publish([Arc::new(small), Arc::new(large)]).await;
        let mut kept = connect(at_small).await;
        reads(&mut kept, b"hello").await;
        is_closed(&mut connect(at_small).await).await;
        let (mut second, mut third) = (connect(at_large).await, connect(at_large).await);
        reads(&mut second, b"hello").await;
        reads(&mut third, b"hello").await;
        is_closed(&mut connect(at_large).await).await;
        let stat = |port: u16, name| proxy.stat(&format!("listener.127.0.0.1_{port}.{name}"));
        assert_eq!(stat(at_small.port(), "downstream_cx_overflow"), "1");
        assert_eq!(stat(at_large.port(), "downstream_global_cx_overflow"), "1");
        // What ends gives its place back.
        drop(kept);
        while proxy.shared.connections.open() > 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        reads(&mut connect(at_small).await, b"hello").await;
    });
}

#[test]
fn a_drain_waits_for_connections_and_then_the_worker_ends() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (address, _) = server("hello").await;
        proxy.cluster("a", Some(address), |_| {});
        let listener = proxy.listener("l", vec![proxy.chain("a", ChainMatch::default())]);
        let at = listener.address;
        proxy.publish([Arc::new(listener)]).await;
        let mut client = connect(at).await;
        reads(&mut client, b"hello").await;
        let drains = &proxy.shared.drains;
        assert_eq!(drains.inbound.complete(PATIENCE).await, Outcome::Finished);
        drains.outbound.graceful(PATIENCE);
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(!proxy.running.is_finished());
        echo(&mut client).await;
        drop(client);
        assert_eq!(drains.outbound.complete(PATIENCE).await, Outcome::Finished);
        proxy.running.await.expect("the worker");
    });
}

#[test]
fn a_forced_drain_cuts_connections_and_they_are_logged() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (address, _) = server("hello").await;
        proxy.cluster("a", Some(address), |_| {});
        let listener = proxy.listener("l", vec![proxy.chain("a", ChainMatch::default())]);
        let at = listener.address;
        proxy.publish([Arc::new(listener)]).await;
        let mut client = connect(at).await;
        reads(&mut client, b"hello").await;
        let drains = &proxy.shared.drains;
        drains.inbound.force();
        assert_eq!(
            drains.outbound.complete(Duration::ZERO).await,
            Outcome::Cut { ended: 1 }
        );
        is_closed(&mut client).await;
        assert_eq!(proxy.log(1).await, ["- 0 5 a 1 -"]);
        proxy.running.await.expect("the worker");
    });
}

/// Runs only as the child process of the test below: it takes all descriptors of its process.
#[test]
#[ignore = "takes the process' descriptors; run by a_process_without_descriptors_accepts_again"]
fn child_without_descriptors() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let (address, _) = server("hello").await;
        proxy.cluster("a", Some(address), |_| {});
        let listener = proxy.listener("l", vec![proxy.chain("a", ChainMatch::default())]);
        let at = listener.address;
        proxy.publish([Arc::new(listener)]).await;
        let before = getrlimit(Resource::Nofile);
        let mut clients = Vec::new();
        let open = std::fs::read_dir("/proc/self/fd").expect("listed").count() as u64;
        let few = Rlimit {
            current: Some(open + 1),
            ..before
        };
        setrlimit(Resource::Nofile, few).expect("fewer");
        while let Ok(client) = std::net::TcpStream::connect(at) {
            clients.push(client);
        }
        // The accept loop meets the limit again and again.
        tokio::time::sleep(Duration::from_millis(200)).await;
        setrlimit(Resource::Nofile, before).expect("as before");
        assert!(!clients.is_empty());
        for client in clients {
            client.set_nonblocking(true).expect("non-blocking");
            reads(&mut TcpStream::from_std(client).expect("stream"), b"hello").await;
        }
    });
}

#[test]
fn a_process_without_descriptors_accepts_again_when_it_has_some() {
    let output = Command::new(std::env::current_exe().expect("own path"))
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(
            concat!(module_path!(), "::child_without_descriptors")
                .split_once("::")
                .expect("crate")
                .1,
        )
        .output()
        .expect("child");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[test]
fn an_idle_connection_costs_little_memory() {
    run_test(async {
        let mut proxy = Proxy::new(100);
        let listener = Arc::new(proxy.listener("l", Vec::new()));
        let front = Rc::new(Front::new(Rc::clone(&proxy.worker)));
        let (client, near) = (
            connect(listener.address).await,
            proxy.shared.connections.try_take(),
        );
        let accepted = connection::Accepted {
            stream: client,
            peer: listener.address,
            life: front.life_of(&listener),
            place: near.expect("a place"),
        };
        let future = connection::serve(Rc::clone(&front), accepted);
        let size = size_of_val(&future);
        assert!(size <= 6 * 1024, "{size} bytes");
    });
}
