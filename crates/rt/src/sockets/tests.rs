// SPDX-License-Identifier: Apache-2.0
use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::{Duration, Instant};

use super::*;

fn count(workers: usize) -> NonZeroUsize {
    NonZeroUsize::new(workers).expect("not zero")
}

fn loopback() -> ListenSpec {
    ListenSpec::new((Ipv4Addr::LOCALHOST, 0).into())
}

fn tcp(addr: SocketAddr) -> SocketKey {
    SocketKey {
        transport: Transport::Tcp,
        addr,
    }
}

/// Accepts from a non-blocking listener until `deadline`.
fn accept_any(listeners: &[TcpListener]) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        for listener in listeners {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("blocking");
                return stream;
            }
        }
        std::thread::yield_now();
    }
    panic!("nothing was accepted");
}

#[test]
fn workers_share_one_port_with_a_socket_each() {
    let mut sockets = Sockets::new();
    let listeners = sockets.listen_tcp(&loopback(), count(3)).expect("listen");
    let addrs: Vec<_> = listeners
        .iter()
        .map(|one| one.local_addr().expect("addr"))
        .collect();
    assert_eq!(addrs.len(), 3);
    assert!(
        addrs
            .iter()
            .all(|addr| *addr == addrs[0] && addr.port() != 0)
    );

    let mut dialled = TcpStream::connect(addrs[0]).expect("connect");
    dialled.write_all(b"x").expect("write");
    let mut byte = [0];
    accept_any(&listeners).read_exact(&mut byte).expect("read");
    assert_eq!(&byte, b"x");
}

#[test]
fn an_address_refuses_only_after_release_and_the_end_of_its_listeners() {
    let mut sockets = Sockets::new();
    let listeners = sockets.listen_tcp(&loopback(), count(2)).expect("listen");
    let addr = listeners[0].local_addr().expect("addr");
    drop(listeners);
    assert!(
        TcpStream::connect(addr).is_ok(),
        "the registry keeps the address open"
    );
    let again = sockets
        .listen_tcp(&ListenSpec::new(addr), count(2))
        .expect("again");
    drop(accept_any(&again));
    drop(again);
    assert!(sockets.release(tcp(addr)));
    assert!(!sockets.release(tcp(addr)));
    let refused = TcpStream::connect(addr).expect_err("closed");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_successor_adopts_descriptors_without_losing_a_waiting_connection() {
    let mut old = Sockets::new();
    let listeners = old.listen_tcp(&loopback(), count(2)).expect("listen");
    let addr = listeners[0].local_addr().expect("addr");
    let mut dialled = TcpStream::connect(addr).expect("connect");
    dialled.write_all(b"waiting").expect("write");

    let mut new = Sockets::new();
    for (key, descriptor) in old.descriptors() {
        let handed = descriptor.try_clone_to_owned().expect("dup");
        assert_eq!(new.adopt(handed).expect("adopt"), key);
    }
    drop((old, listeners));
    let listeners = new
        .listen_tcp(&ListenSpec::new(addr), count(1))
        .expect("listen");
    assert_eq!(listeners.len(), 2, "each inherited queue is served");
    let mut read = [0; 7];
    accept_any(&listeners).read_exact(&mut read).expect("read");
    assert_eq!(&read, b"waiting");
    assert!(new.release_unclaimed().is_empty());
}

#[test]
fn an_inherited_socket_without_reuseport_is_shared_by_all_workers() {
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let addr = plain.local_addr().expect("addr");
    let mut sockets = Sockets::new();
    sockets.adopt(plain.into()).expect("adopt");
    let listeners = sockets
        .listen_tcp(&ListenSpec::new(addr), count(2))
        .expect("listen");
    assert_eq!(listeners.len(), 2);
    let _dialled = TcpStream::connect(addr).expect("connect");
    drop(accept_any(&listeners));
}

#[test]
fn adopted_sockets_that_nobody_asks_for_are_closed() {
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let addr = plain.local_addr().expect("addr");
    let mut sockets = Sockets::new();
    sockets.adopt(plain.into()).expect("adopt");
    assert_eq!(sockets.release_unclaimed(), [tcp(addr)]);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn what_does_not_listen_is_not_adopted() {
    let mut sockets = Sockets::new();
    let file = std::fs::File::open("/proc/self/stat").expect("file");
    assert!(matches!(
        sockets.adopt(file.into()),
        Err(AdoptError::NotASocket(_))
    ));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let dialled = TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
    assert!(matches!(
        sockets.adopt(dialled.into()),
        Err(AdoptError::NotListening(_))
    ));

    let open = sockets.listen_tcp(&loopback(), count(1)).expect("listen");
    let twin = open[0].try_clone().expect("dup");
    assert!(matches!(
        sockets.adopt(twin.into()),
        Err(AdoptError::AlreadyOpen(_))
    ));
}

#[test]
fn both_families_can_be_bound_side_by_side_or_by_one_socket() {
    let mut sockets = Sockets::new();
    let v6 = match sockets.listen_tcp(
        &ListenSpec::new((Ipv6Addr::UNSPECIFIED, 0).into()),
        count(1),
    ) {
        Ok(listeners) => listeners,
        Err(error) => {
            assert_eq!(
                error.source.raw_os_error(),
                Some(97),
                "no IPv6 on this machine: {error}"
            );
            return;
        }
    };
    let port = v6[0].local_addr().expect("addr").port();
    sockets
        .listen_tcp(
            &ListenSpec::new((Ipv4Addr::UNSPECIFIED, port).into()),
            count(1),
        )
        .expect("the other family is free");

    let spec = ListenSpec {
        families: Families::Both,
        ..ListenSpec::new((Ipv6Addr::UNSPECIFIED, 0).into())
    };
    let both = sockets.listen_tcp(&spec, count(1)).expect("dual");
    let port = both[0].local_addr().expect("addr").port();
    let _dialled = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("v4 peer");
    assert!(accept_any(&both).peer_addr().expect("peer").is_ipv6());
}

#[test]
fn an_error_names_the_address_the_step_and_a_hint() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let addr = taken.local_addr().expect("addr");
    let error = Sockets::new()
        .listen_tcp(&ListenSpec::new(addr), count(1))
        .expect_err("the port is taken without sharing");
    let expected =
        format!("listen on tcp {addr}: cannot bind (does another process use this port?)");
    assert_eq!(error.to_string(), expected);
    assert!(error.source().is_some());
}

#[test]
fn udp_sockets_are_shared_too() {
    let mut sockets = Sockets::new();
    let bound = sockets.bind_udp(&loopback(), count(2)).expect("bind");
    let addr = bound[0].local_addr().expect("addr");
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("peer");
    peer.send_to(b"question", addr).expect("send");
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; 16];
    let read = loop {
        assert!(Instant::now() < deadline, "the datagram did not arrive");
        if let Some(read) = bound.iter().find_map(|one| one.recv(&mut buffer).ok()) {
            break read;
        }
    };
    assert_eq!(&buffer[..read], b"question");
}
