// SPDX-License-Identifier: Apache-2.0
//! Dials a host: socket, source address, options, time limit.
//!
//! The pools and the TCP proxy call it with a [`ConnectionGuard`] in hand; it neither picks hosts
//! nor counts connections against limits, but counts how dials end. A dial that is given up
//! (dropped) closes its socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use remora_ir::cluster::{ConnectionPolicy, SourceAddress, TcpKeepalive};
use remora_ir::endpoint::EndpointAddress;
use remora_primitives::Instant;
use remora_rt::clock;
use socket2::{SockRef, TcpKeepalive as KeepaliveOptions};
use tokio::net::{TcpSocket, UnixStream};

use super::error::{Failure, Fault};
use super::guard::ConnectionGuard;
use crate::stream::Stream;

/// Connects to the guard's host.
///
/// `peer` is the downstream's address, for clusters that dial from it. The cluster's connect
/// timeout bounds the wait, and so does `deadline`.
///
/// *Cancel safety*: safe; the connection is given up.
///
/// # Errors
/// [`Failure::Connect`], [`Failure::ConnectTimeout`], or [`Failure::Deadline`] if the caller's own
/// deadline came first.
pub(super) async fn dial(
    guard: &ConnectionGuard,
    policy: &ConnectionPolicy,
    peer: Option<SocketAddr>,
    deadline: Instant,
) -> Result<Stream, Failure> {
    let start = clock::now();
    let timeout_at = start + policy.connect_timeout;
    let until = clock::to_tokio(timeout_at.min(deadline));
    let attempt = open(guard.host().address(), policy, peer);
    let stats = guard.stats();
    match tokio::time::timeout_at(until, attempt).await {
        Ok(Ok(stream)) => {
            stats.cx_connect_time.record(clock::now() - start);
            guard.on_open();
            Ok(stream)
        }
        Ok(Err(error)) => {
            stats.cx_connect_fail.increment();
            guard.host().count_connect_failure();
            Err(Failure::Connect(Fault::new(&error)))
        }
        Err(_) if deadline < timeout_at => Err(Failure::Deadline),
        Err(_) => {
            stats.cx_connect_fail.increment();
            stats.cx_connect_timeout.increment();
            guard.host().count_connect_failure();
            Err(Failure::ConnectTimeout)
        }
    }
}

async fn open(
    address: &EndpointAddress,
    policy: &ConnectionPolicy,
    peer: Option<SocketAddr>,
) -> io::Result<Stream> {
    match address {
        EndpointAddress::Socket(address) => {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            if let Some(source) = source(policy.source, *address, peer)? {
                if policy.source == SourceAddress::Downstream {
                    set_transparent(&socket, source)?;
                }
                socket.bind(source)?;
            }
            if let Some(keepalive) = &policy.keepalive {
                SockRef::from(&socket).set_tcp_keepalive(&keepalive_options(keepalive))?;
            }
            Ok(Stream::tcp(socket.connect(*address).await?))
        }
        EndpointAddress::Pipe(path) => Ok(Stream::unix(UnixStream::connect(&**path).await?)),
    }
}

/// The address to bind before connecting, if any.
fn source(
    source: SourceAddress,
    destination: SocketAddr,
    peer: Option<SocketAddr>,
) -> io::Result<Option<SocketAddr>> {
    if source != SourceAddress::Downstream {
        return Ok(source.for_destination(destination.ip()));
    }
    match peer {
        // The peer's own port is in use by the connection that it made.
        Some(peer) if peer.is_ipv4() == destination.is_ipv4() => {
            Ok(Some(SocketAddr::new(peer.ip(), 0)))
        }
        Some(_) => Ok(None),
        None => Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the downstream has no address to connect from",
        )),
    }
}

fn set_transparent(socket: &TcpSocket, source: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let result = match source {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    };
    result.map_err(|error| {
        let hint = format!("connect from {}: {error} (CAP_NET_ADMIN?)", source.ip());
        io::Error::new(error.kind(), hint)
    })
}

fn keepalive_options(keepalive: &TcpKeepalive) -> KeepaliveOptions {
    // The kernel counts in seconds.
    let at_least_a_second = |time: Duration| time.max(Duration::from_secs(1));
    let mut options = KeepaliveOptions::new();
    if let Some(time) = keepalive.time {
        options = options.with_time(at_least_a_second(time));
    }
    if let Some(interval) = keepalive.interval {
        options = options.with_interval(at_least_a_second(interval));
    }
    if let Some(probes) = keepalive.probes {
        options = options.with_retries(probes.get());
    }
    options
}
