// SPDX-License-Identifier: Apache-2.0
//! Where a peer wanted to go before its connection was redirected.
//!
//! REDIRECT leaves the address in the kernel's connection table (`SO_ORIGINAL_DST`), TPROXY
//! leaves it on the socket itself. Addresses of IPv4 that an IPv6 socket shows as mapped are
//! given as IPv4, so that they match what is configured. Called once for each connection.
//!
//! Invariant: a redirected connection whose destination is unknown, or is a listener that takes
//! redirected connections, is refused: passing it on would be a guess or a loop.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use remora_ir::listener::Interception;
use socket2::SockRef;

/// A connection's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    /// Where the peer wanted to go.
    pub(super) address: SocketAddr,
    /// Whether it was redirected to get here.
    pub(super) is_original: bool,
}

/// Why a connection has no destination.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoDestination {
    /// The kernel does not know it, as when the port was dialled without any redirection.
    #[error("no original destination (is the connection redirected?)")]
    Unknown(#[source] io::Error),
    /// It is this proxy itself.
    #[error("original destination {0} is this proxy itself")]
    Loop(SocketAddr),
    /// The connection is gone.
    #[error("no local address")]
    Gone(#[source] io::Error),
}

/// Finds the destination of an accepted connection. `listeners` are the addresses where this
/// proxy takes redirected connections. One system call.
///
/// # Errors
/// If it is to be refused.
pub(super) fn find(
    socket: &impl AsFd,
    interception: Interception,
    listeners: &[SocketAddr],
) -> Result<Destination, NoDestination> {
    let socket = SockRef::from(socket);
    let address = match interception {
        Interception::None => local(&socket).map_err(NoDestination::Gone)?,
        Interception::Transparent => local(&socket).map_err(NoDestination::Unknown)?,
        Interception::Redirect => redirected(&socket).map_err(NoDestination::Unknown)?,
    };
    decide(address, interception, listeners)
}

fn decide(
    address: SocketAddr,
    interception: Interception,
    listeners: &[SocketAddr],
) -> Result<Destination, NoDestination> {
    let address = canonical(address);
    let is_original = interception != Interception::None;
    if is_original && is_own(listeners, address) {
        return Err(NoDestination::Loop(address));
    }
    Ok(Destination {
        address,
        is_original,
    })
}

fn local(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(no_address)
}

/// The kernel's table of the socket's own family first: an IPv6 socket may hold a connection of
/// either.
fn redirected(socket: &SockRef<'_>) -> io::Result<SocketAddr> {
    let found = socket
        .original_dst_v4()
        .or_else(|_| socket.original_dst_v6())?;
    found.as_socket().ok_or_else(no_address)
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "no internet address")
}

/// An address with IPv4 as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
        address => address,
    }
}

/// Whether a destination is one of these listeners. A listener on a wildcard address takes every
/// address of this machine on its port.
fn is_own(listeners: &[SocketAddr], destination: SocketAddr) -> bool {
    let same_port = |own: &&SocketAddr| own.port() == destination.port();
    listeners.iter().filter(same_port).any(|own| {
        own.ip().to_canonical() == destination.ip()
            || (own.ip().is_unspecified() && is_local(destination.ip()))
    })
}

/// Whether an address is this machine's: only those can be bound. Asked only if the port is a
/// listener's, so it costs ordinary connections nothing.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn socket(address: &str) -> SocketAddr {
        address.parse().expect("address")
    }

    #[test]
    fn a_destination_that_is_the_proxy_itself_is_refused() {
        let listeners = ["0.0.0.0:15001", "[::]:15006", "192.0.2.1:15007"].map(socket);
        let table = [
            ("10.0.0.1:80", true),
            ("198.51.100.7:15001", true),
            ("127.0.0.1:15001", false),
            ("[::ffff:127.0.0.1]:15001", false),
            ("127.0.0.6:15006", false),
            ("[::1]:15006", false),
            ("192.0.2.1:15007", false),
            ("192.0.2.2:15007", true),
            ("127.0.0.1:15002", true),
        ];
        for (address, is_fine) in table {
            for interception in [Interception::Redirect, Interception::Transparent] {
                let decided = decide(socket(address), interception, &listeners);
                match decided {
                    Ok(found) => assert!(is_fine && found.is_original, "{address}"),
                    Err(NoDestination::Loop(_)) => assert!(!is_fine, "{address}"),
                    Err(other) => panic!("{address}: {other}"),
                }
            }
            let plain = decide(socket(address), Interception::None, &listeners).expect("plain");
            assert!(!plain.is_original);
        }
    }

    #[test]
    fn mapped_addresses_are_given_as_ipv4() {
        let found = decide(socket("[::ffff:10.0.0.1]:80"), Interception::Redirect, &[]);
        assert_eq!(found.expect("fine").address, socket("10.0.0.1:80"));
        assert_eq!(canonical(socket("[fd00::1]:80")), socket("[fd00::1]:80"));
    }

    /// Whether the kernel tracks loopback connections or not, a port dialled directly is refused:
    /// either it knows no original destination, or that is the listener itself.
    #[test]
    fn a_connection_that_was_not_redirected_fails_closed() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let own = listener.local_addr().expect("bound");
            let _client = TcpStream::connect(own).expect("connect");
            let (accepted, _) = listener.accept().expect("accept");
            assert!(
                find(&accepted, Interception::Redirect, &[own]).is_err(),
                "{address}"
            );
            assert!(
                find(&accepted, Interception::Transparent, &[own]).is_err(),
                "{address}"
            );
            let plain = find(&accepted, Interception::None, &[own]).expect("plain");
            assert_eq!(
                plain,
                Destination {
                    address: own,
                    is_original: false
                }
            );
        }
    }
}
