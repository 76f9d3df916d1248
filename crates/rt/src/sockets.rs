// SPDX-License-Identifier: Apache-2.0
//! The owner of every descriptor that listens.
//!
//! Answers for making listening sockets (one per worker, sharing the address by `SO_REUSEPORT`),
//! for adopting ones that another process opened, and for handing its own on. It accepts and
//! reads nothing: callers get duplicates of the descriptors it keeps. Because the originals
//! outlive every listener built on them, configuration may come and go without the kernel ever
//! refusing a connection, and a successor process may be given them while they are in use; for
//! the same reason a socket only closes after [`Sockets::release`].
//!
//! Invariant: per transport and address there is one group, and each of its sockets listens (TCP)
//! or is bound (UDP) with the options that its [`ListenSpec`] asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// What travels over a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A listening stream socket.
    Tcp,
    /// A bound datagram socket.
    Udp,
}

/// Which peers an IPv6 wildcard address takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// The address' own family only, so that `0.0.0.0` and `[::]` can be bound side by side.
    Own,
    /// IPv4 peers too, seen as mapped addresses (`envoy…SocketAddress.ipv4_compat`).
    Both,
}

/// How redirected traffic reaches a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interception {
    /// Plainly, or by an address rewrite that the kernel remembers (REDIRECT).
    None,
    /// With the original destination as local address (TPROXY, `IP_TRANSPARENT`); needs
    /// `CAP_NET_ADMIN`.
    Transparent,
}

/// A socket as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    /// The address; port zero asks the kernel for one, which all workers then share.
    pub addr: SocketAddr,
    /// Which families an IPv6 address takes.
    pub families: Families,
    /// Whether `IP_TRANSPARENT` is set.
    pub interception: Interception,
    /// Connections that may wait to be accepted, per worker; the kernel caps it at `somaxconn`.
    pub backlog: u32,
}

impl ListenSpec {
    /// A plain socket on `addr` with the usual backlog.
    #[must_use]
    pub const fn new(addr: SocketAddr) -> Self {
        let (families, interception) = (Families::Own, Interception::None);
        Self {
            addr,
            families,
            interception,
            backlog: DEFAULT_BACKLOG,
        }
    }
}

/// Connections that wait per worker. Peers of a sidecar come in bursts (every PHP request dials
/// anew); 1024 such dials are 100 ms of work for one worker.
pub const DEFAULT_BACKLOG: u32 = 1024;

/// The name of a group of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey {
    /// What travels over it.
    pub transport: Transport,
    /// The bound address, with the real port.
    pub addr: SocketAddr,
}

impl fmt::Display for SocketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{transport} {}", self.addr)
    }
}

/// Why a socket is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("listen on {key}: cannot {step}{hint}")]
pub struct ListenError {
    /// What was asked for.
    pub key: SocketKey,
    /// The step that failed, as a verb phrase.
    pub step: &'static str,
    /// What an operator may look at, in brackets; may be empty.
    hint: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Why an inherited descriptor is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The descriptor is no bound internet socket.
    #[error("inherited descriptor is no bound TCP or UDP socket")]
    NotASocket(#[source] io::Error),
    /// A stream socket that is not listening.
    #[error("inherited descriptor {0} does not listen")]
    NotListening(SocketKey),
    /// The group of this address was already opened here; mixing the two would split its peers.
    #[error("inherited descriptor {0} belongs to an address that is already open")]
    AlreadyOpen(SocketKey),
}

/// The registry of listening sockets.
#[derive(Debug, Default)]
pub struct Sockets {
    groups: BTreeMap<SocketKey, Group>,
}

#[derive(Debug, Default)]
struct Group {
    sockets: Vec<Socket>,
    /// How many at the front of `sockets` came from another process and wait for a first use.
    adopted: usize,
}

impl Sockets {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens for TCP on `spec.addr`, with at least one socket for each of `workers`.
    ///
    /// Asking again for an open address returns duplicates of the same sockets. If more were
    /// inherited than there are workers, all are returned (each holds connections of its own):
    /// worker *i* takes those whose index modulo the worker count is *i*.
    ///
    /// # Errors
    /// The step that failed, with the address; nothing stays half open.
    pub fn listen_tcp(
        &mut self,
        spec: &ListenSpec,
        workers: NonZeroUsize,
    ) -> Result<Vec<TcpListener>, ListenError> {
        let sockets = self.open(Transport::Tcp, spec, workers)?;
        Ok(sockets.into_iter().map(TcpListener::from).collect())
    }

    /// Binds UDP sockets to `spec.addr`; otherwise as [`listen_tcp`](Self::listen_tcp).
    ///
    /// # Errors
    /// The step that failed, with the address; nothing stays half open.
    pub fn bind_udp(
        &mut self,
        spec: &ListenSpec,
        workers: NonZeroUsize,
    ) -> Result<Vec<UdpSocket>, ListenError> {
        let sockets = self.open(Transport::Udp, spec, workers)?;
        Ok(sockets.into_iter().map(UdpSocket::from).collect())
    }

    /// Takes over a socket that another process opened (a predecessor, a supervisor). What it is
    /// and where it is bound is read from the descriptor itself.
    ///
    /// # Errors
    /// The descriptor is of no use here; it is closed.
    pub fn adopt(&mut self, descriptor: OwnedFd) -> Result<SocketKey, AdoptError> {
        let socket = Socket::from(descriptor);
        let key = key_of(&socket).map_err(AdoptError::NotASocket)?;
        if key.transport == Transport::Tcp && !socket.is_listener().unwrap_or(false) {
            return Err(AdoptError::NotListening(key));
        }
        socket
            .set_nonblocking(true)
            .map_err(AdoptError::NotASocket)?;
        socket.set_cloexec(true).map_err(AdoptError::NotASocket)?;
        let group = self.groups.entry(key).or_default();
        if group.adopted < group.sockets.len() {
            return Err(AdoptError::AlreadyOpen(key));
        }
        group.sockets.push(socket);
        group.adopted += 1;
        Ok(key)
    }

    /// Lends all descriptors, to be handed to a successor process.
    pub fn descriptors(&self) -> impl Iterator<Item = (SocketKey, BorrowedFd<'_>)> {
        self.groups
            .iter()
            .flat_map(|(key, group)| group.sockets.iter().map(|socket| (*key, socket.as_fd())))
    }

    /// Closes the registry's descriptors of a retired address; says whether it had any. The
    /// address refuses new connections once the listeners made from them are dropped too.
    pub fn release(&mut self, key: SocketKey) -> bool {
        self.groups.remove(&key).is_some()
    }

    /// Closes adopted sockets that nobody asked for (a listener that the new configuration does
    /// not have), and names them. Called once the first configuration is in use.
    pub fn release_unclaimed(&mut self) -> Vec<SocketKey> {
        let unclaimed = |group: &Group| group.adopted > 0;
        let keys: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| unclaimed(group))
            .map(|(key, _)| *key)
            .collect();
        self.groups.retain(|_, group| !unclaimed(group));
        keys
    }

    /// Completes the group of an address and duplicates it.
    fn open(
        &mut self,
        transport: Transport,
        spec: &ListenSpec,
        workers: NonZeroUsize,
    ) -> Result<Vec<Socket>, ListenError> {
        let mut key = SocketKey {
            transport,
            addr: spec.addr,
        };
        let failed = |step| move |source| ListenError::new(key, step, source);
        let existing = self
            .groups
            .get(&key)
            .map_or(&[][..], |group| &group.sockets);
        let mut sockets = duplicates(existing).map_err(failed("duplicate a descriptor"))?;
        for socket in &sockets {
            align(socket, spec).map_err(failed("set the options of an inherited socket"))?;
        }
        let is_shareable = sockets
            .first()
            .is_none_or(|first| first.reuse_port().unwrap_or(false));
        let mut fresh = Vec::new();
        let mut addr = spec.addr;
        while sockets.len() < workers.get() {
            // An inherited socket without SO_REUSEPORT has one queue for all workers.
            let socket = match sockets.first() {
                Some(first) if !is_shareable => first
                    .try_clone()
                    .map_err(failed("duplicate a descriptor"))?,
                _ => make(transport, spec, addr)?,
            };
            if addr.port() == 0 {
                addr = local_addr(&socket).map_err(failed("read the bound address"))?;
            }
            fresh.push(
                socket
                    .try_clone()
                    .map_err(failed("duplicate a descriptor"))?,
            );
            sockets.push(socket);
        }
        key.addr = if addr.port() == 0 { spec.addr } else { addr };
        let group = self.groups.entry(key).or_default();
        group.adopted = 0;
        group.sockets.extend(fresh);
        Ok(sockets)
    }
}

impl ListenError {
    fn new(key: SocketKey, step: &'static str, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => " (does another process use this port?)",
            io::ErrorKind::AddrNotAvailable => " (does this machine have the address?)",
            io::ErrorKind::PermissionDenied if step == MAKE_TRANSPARENT => {
                " (does the process have CAP_NET_ADMIN?)"
            }
            io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
            _ => "",
        };
        Self {
            key,
            step,
            hint,
            source,
        }
    }
}

/// Makes one socket and sets what has to be set before it is bound.
fn make(transport: Transport, spec: &ListenSpec, addr: SocketAddr) -> Result<Socket, ListenError> {
    let key = SocketKey { transport, addr };
    let failed = |step| move |source| ListenError::new(key, step, source);
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(
        Domain::for_address(addr),
        kind.nonblocking(),
        Some(protocol),
    )
    .map_err(failed("make a socket"))?;
    if addr.is_ipv6() {
        socket
            .set_only_v6(spec.families == Families::Own)
            .map_err(failed("choose the address families"))?;
    }
    if transport == Transport::Tcp {
        // A restart must not wait for the connections of the past to time out.
        socket
            .set_reuse_address(true)
            .map_err(failed("reuse the address"))?;
    }
    socket
        .set_reuse_port(true)
        .map_err(failed("share the port"))?;
    if spec.interception == Interception::Transparent {
        set_transparent(&socket, addr).map_err(failed(MAKE_TRANSPARENT))?;
    }
    socket.bind(&addr.into()).map_err(failed("bind"))?;
    if transport == Transport::Tcp {
        let backlog = i32::try_from(spec.backlog).unwrap_or(i32::MAX);
        socket.listen(backlog).map_err(failed("listen"))?;
    }
    Ok(socket)
}

/// Brings an existing socket to what is asked for, or says why it cannot be.
fn align(socket: &Socket, spec: &ListenSpec) -> io::Result<()> {
    if spec.addr.is_ipv6() && socket.only_v6()? != (spec.families == Families::Own) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "its address families are fixed and differ from those asked for",
        ));
    }
    if spec.interception == Interception::Transparent {
        set_transparent(socket, spec.addr)?;
    }
    Ok(())
}

fn set_transparent(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    match addr {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
}

fn duplicates(sockets: &[Socket]) -> io::Result<Vec<Socket>> {
    sockets.iter().map(Socket::try_clone).collect()
}

fn key_of(socket: &Socket) -> io::Result<SocketKey> {
    let transport = match socket.r#type()? {
        Type::STREAM => Transport::Tcp,
        Type::DGRAM => Transport::Udp,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let addr = local_addr(socket)?;
    if addr.port() == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket is not bound",
        ));
    }
    Ok(SocketKey { transport, addr })
}

fn local_addr(socket: &Socket) -> io::Result<SocketAddr> {
    let addr = socket.local_addr()?.as_socket();
    addr.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no internet address"))
}

const MAKE_TRANSPARENT: &str = "make the socket transparent";

#[cfg(test)]
mod tests;
