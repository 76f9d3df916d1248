// SPDX-License-Identifier: Apache-2.0
//! Addresses and networks.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use remora_primitives::{HostName, Port};
use remora_xds_types::core;
use remora_xds_types::core::socket_address::{PortSpecifier, Protocol};

use crate::fault::Scope;
use crate::value;

/// A socket address as configured: perhaps still a name.
pub(crate) enum Place {
    /// An IP address; the port may be zero.
    Socket(SocketAddr),
    /// A name to resolve.
    Name(HostName, Port),
    /// A socket in the file system.
    Pipe(String),
}

/// Any address of a host.
pub(crate) fn place(scope: &Scope<'_>, address: Option<core::Address>) -> Option<Place> {
    match address.and_then(|address| address.address) {
        None => {
            scope.fault("is missing");
            None
        }
        Some(core::address::Address::SocketAddress(socket)) => {
            socket_place(&scope.field("socket_address"), socket)
        }
        Some(core::address::Address::Pipe(pipe)) => {
            let scope = scope.field("pipe");
            fields! { &scope, pipe: core::Pipe {
                honoured { path }
                ignored { mode: "only used when a socket is made" }
                refused {}
            }}
            if path.is_empty() {
                scope.fault("path is empty");
            }
            Some(Place::Pipe(path))
        }
        Some(core::address::Address::EnvoyInternalAddress(_)) => {
            let scope = scope.field("envoy_internal_address");
            scope.fault("not supported: internal listeners do not exist");
            None
        }
    }
}

/// An address that a socket is bound to or that a listener stands for.
pub(crate) fn ip_place(scope: &Scope<'_>, address: Option<core::Address>) -> Option<SocketAddr> {
    match place(scope, address)? {
        Place::Socket(address) => Some(address),
        Place::Name(name, _) => {
            scope.fault(format!("`{name}` is not an IP address"));
            None
        }
        Place::Pipe(_) => {
            scope.fault("not supported: sockets in the file system");
            None
        }
    }
}

/// A TCP address that must be an IP address.
pub(crate) fn ip_socket(scope: &Scope<'_>, socket: core::SocketAddress) -> Option<SocketAddr> {
    match socket_place(scope, socket)? {
        Place::Socket(address) => Some(address),
        Place::Name(name, _) => {
            scope.fault(format!("`{name}` is not an IP address"));
            None
        }
        Place::Pipe(_) => None,
    }
}

fn socket_place(scope: &Scope<'_>, socket: core::SocketAddress) -> Option<Place> {
    fields! { scope, socket: core::SocketAddress {
        honoured { protocol: "TCP only", address, port_specifier: "`port_value` only" }
        ignored { ipv4_compat: "an IPv6 socket for any address takes IPv4 only if the machine says so" }
        refused {
            resolver_name: "there are no custom resolvers",
            network_namespace_filepath: "the proxy stays in its own network namespace",
        }
    }}
    if value::word::<Protocol>(&scope.field("protocol"), protocol)? == Protocol::Udp {
        scope.field("protocol").fault("not supported: UDP");
    }
    let number = match port_specifier {
        Some(PortSpecifier::PortValue(number)) => number,
        Some(PortSpecifier::NamedPort(_)) => {
            scope
                .field("named_port")
                .fault("not supported: named ports");
            return None;
        }
        None => 0,
    };
    let at = scope.field("port_value");
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Some(Place::Socket(SocketAddr::new(
            ip,
            value::any_port(&at, number)?,
        )));
    }
    let name = scope.field("address").take(HostName::try_new(&address));
    let port = value::port(&at, number);
    Some(Place::Name(name?, port?))
}

/// A network; host bits are dropped, as Envoy does.
pub(crate) fn network(scope: &Scope<'_>, range: core::CidrRange) -> Option<IpNet> {
    fields! { scope, range: core::CidrRange {
        honoured { address_prefix, prefix_len: "absent means 0" }
        ignored {}
        refused {}
    }}
    let Ok(ip) = address_prefix.parse::<IpAddr>() else {
        scope.fault(format!("`{address_prefix}` is not an IP address"));
        return None;
    };
    let len = value::number(prefix_len).unwrap_or(0);
    let network = u8::try_from(len)
        .ok()
        .and_then(|len| IpNet::new(ip, len).ok());
    if network.is_none() {
        scope.fault(format!("prefix length {len} is too long for `{ip}`"));
    }
    network.map(|network| network.trunc())
}

/// Networks of a repeated field.
pub(crate) fn networks(
    scope: &Scope<'_>,
    field: &'static str,
    ranges: Vec<core::CidrRange>,
) -> Vec<IpNet> {
    let numbered = ranges.into_iter().enumerate();
    numbered
        .filter_map(|(at, range)| network(&scope.item(field, at), range))
        .collect()
}
