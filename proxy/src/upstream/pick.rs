// SPDX-License-Identifier: Apache-2.0
//! Chooses the host of an attempt.
//!
//! The choice itself is `balance`'s; here it gets the worker's state of the cluster, and the hosts
//! of original-destination clusters are made, which come from no endpoint set. The exchange and
//! the TCP proxy call it anew for each attempt, so that each sees the newest endpoints.
//!
//! Invariant: a destination that is this proxy's own listener is never a host.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Weak};

use remora_balance::{HostRecord, Pick, PickContext};
use remora_ir::cluster::Discovery;
use remora_ir::endpoint::EndpointAddress;
use remora_primitives::Port;

use super::cluster::Cluster;
use super::error::Failure;
use super::local::Local;

/// What an attempt asks of its host.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    /// Where the connection wanted to go, for clusters that go there.
    pub original_dst: Option<SocketAddr>,
    /// Whether it is a first attempt, which the drop share applies to, or which hosts were tried.
    pub context: PickContext<'a>,
}

/// Chooses a host of a cluster.
///
/// # Errors
/// [`Failure::NoHealthyHost`], [`Failure::Dropped`]; for original destinations
/// [`Failure::NoOriginalDestination`] and [`Failure::Loop`].
pub fn pick(
    local: &Local,
    cluster: &Cluster,
    request: &PickRequest<'_>,
) -> Result<Arc<HostRecord>, Failure> {
    if let Discovery::OriginalDst { port } = cluster.policy.discovery {
        let destination = request.original_dst.ok_or(Failure::NoOriginalDestination)?;
        return original(local, cluster, with_port(destination, port));
    }
    let known = local.cluster(cluster);
    let balancing = &mut *known.balancing.borrow_mut();
    let set = balancing.hosts.current();
    let state = &mut balancing.state;
    let picked = local.with_rng(|rng| remora_balance::pick(set, state, &request.context, rng));
    match picked {
        Pick::Host(host) => {
            if state.in_panic() {
                known.stats.lb_healthy_panic.increment();
            }
            Ok(Arc::clone(&host.record))
        }
        Pick::NoHealthyUpstream => {
            known.stats.cx_none_healthy.increment();
            Err(Failure::NoHealthyHost)
        }
        Pick::Dropped => {
            known.stats.rq_dropped.increment();
            Err(Failure::Dropped)
        }
    }
}

/// The name of a host as its endpoint gives it, for rewriting `Host` to it.
#[must_use]
pub fn hostname(local: &Local, cluster: &Cluster, host: &Arc<HostRecord>) -> Option<Arc<str>> {
    let known = local.cluster(cluster);
    let balancing = &mut *known.balancing.borrow_mut();
    let hosts = balancing.hosts.current().hosts();
    let found = hosts.iter().find(|one| Arc::ptr_eq(&one.record, host))?;
    found.hostname.clone()
}

/// The host of an original destination: one record for all workers while anyone uses it.
fn original(
    local: &Local,
    cluster: &Cluster,
    destination: SocketAddr,
) -> Result<Arc<HostRecord>, Failure> {
    if is_own(&local.own_listeners(), destination) {
        return Err(Failure::Loop(destination));
    }
    let known = local.cluster(cluster);
    let mut destinations = known.destinations.borrow_mut();
    if let Some(host) = destinations.get(&destination).and_then(Weak::upgrade) {
        return Ok(host);
    }
    let host = cluster.record().host(&EndpointAddress::Socket(destination));
    destinations.insert(destination, Arc::downgrade(&host));
    Ok(host)
}

fn with_port(mut destination: SocketAddr, port: Option<Port>) -> SocketAddr {
    if let Some(port) = port {
        destination.set_port(port.get());
    }
    destination
}

/// Whether a destination is one of these listeners. A wildcard listener takes every address of
/// the machine on its port.
fn is_own(listeners: &[SocketAddr], destination: SocketAddr) -> bool {
    let same_port = |own: &&SocketAddr| own.port() == destination.port();
    listeners.iter().filter(same_port).any(|own| {
        own.ip().to_canonical() == destination.ip().to_canonical()
            || own.ip().is_unspecified() && is_local(destination.ip())
    })
}

/// Whether an address is this machine's, as only those can be bound. Asked only when the port is
/// a listener's.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listener_owns_its_port_on_the_addresses_of_the_machine_only() {
        let listeners = ["0.0.0.0:15001", "192.0.2.7:80"].map(|a| a.parse().expect("an address"));
        let table = [
            ("127.0.0.1:15001", true),
            ("127.0.0.6:15001", true),
            ("[::ffff:127.0.0.1]:15001", true),
            ("198.51.100.9:15001", false),
            ("127.0.0.1:15002", false),
            ("192.0.2.7:80", true),
            ("192.0.2.8:80", false),
        ];
        for (destination, own) in table {
            let destination = destination.parse().expect("an address");
            assert_eq!(is_own(&listeners, destination), own, "{destination}");
        }
    }
}
