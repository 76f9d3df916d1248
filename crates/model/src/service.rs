// SPDX-License-Identifier: Apache-2.0
//! Services: names with ports, and how their instances are found.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use remora_primitives::Port;

use crate::name::{Host, Namespace, Visibility};
use crate::origin::ObjectRef;

/// What identifies a service: two namespaces may each define the same external host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Its host.
    pub host: Host,
    /// The namespace that defines it.
    pub namespace: Namespace,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.host, self.namespace)
    }
}

/// A name with ports. Its endpoints are kept beside it, since they change far more often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Fully qualified host; a wildcard only for external services.
    pub host: Host,
    /// The namespace that defines it.
    pub namespace: Namespace,
    /// The short name (`metadata.name`).
    pub name: Arc<str>,
    /// Which registry it stands in.
    pub registry: Registry,
    /// Its ports, in the order written; numbers are unique.
    pub ports: Vec<ServicePort>,
    /// Virtual addresses, v4 and v6; empty for a headless service and for wildcards.
    pub addresses: Vec<ServiceAddress>,
    /// How its instances are found.
    pub resolution: Resolution,
    /// Inside or outside the mesh.
    pub placement: Placement,
    /// Who sees it.
    pub visibility: Visibility,
    /// Where it was written.
    pub origin: ObjectRef,
}

impl Service {
    /// What identifies it.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        ServiceKey {
            host: self.host.clone(),
            namespace: self.namespace.clone(),
        }
    }

    /// The port with this number.
    #[must_use]
    pub fn port(&self, number: Port) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The virtual addresses that stand for one address (not for a range).
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter_map(ServiceAddress::single)
    }

    /// The names besides the host by which a workload of `from` may call the service.
    ///
    /// A service of the cluster is `name.namespace` and `name.namespace.svc` to all, and plain
    /// `name` to its own namespace. The host itself, the trailing-dot form and the addresses are
    /// not among them.
    #[must_use]
    pub fn short_names(&self, from: &Namespace) -> Vec<String> {
        if self.registry != Registry::Cluster {
            return Vec::new();
        }
        let (name, namespace) = (&self.name, &self.namespace);
        let mut names = vec![
            format!("{name}.{namespace}"),
            format!("{name}.{namespace}.svc"),
        ];
        if namespace == from {
            names.insert(0, name.to_string());
        }
        names
    }
}

/// Which registry a service stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Registry {
    /// A Kubernetes `Service`: it has short names.
    Cluster,
    /// An Istio `ServiceEntry`: it has its hosts only.
    Entry,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port that callers name.
    pub number: Port,
    /// Its name; empty if it has none.
    pub name: Arc<str>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The port of the instances, where an instance says nothing else.
    pub target: TargetPort,
}

/// The port of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// This number.
    Number(Port),
    /// The container port of this name, per instance.
    Name(Arc<str>),
}

/// What is spoken on a port. Source: `appProtocol`, the port's name, `ports[].protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not declared: found out per connection.
    Auto,
    /// HTTP/1.0 or 1.1 (an HTTP/2 preface is recognised too).
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC.
    Grpc,
    /// gRPC-Web over HTTP/1.1.
    GrpcWeb,
    /// HTTP within TLS, opaque to the proxy.
    Https,
    /// TLS, opaque to the proxy.
    Tls,
    /// Bytes.
    Tcp,
    /// MongoDB's protocol, carried as bytes.
    Mongo,
    /// MySQL's protocol (the server speaks first), carried as bytes.
    MySql,
    /// Redis' protocol, carried as bytes.
    Redis,
    /// UDP: known by name, not carried by the proxy.
    Udp,
}

impl Protocol {
    /// Whether requests are visible on it: routes apply.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether upstreams are spoken to in HTTP/2.
    #[must_use]
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// Whether connections start with a ClientHello that the proxy passes on.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether it is carried as bytes of a TCP connection, TLS included.
    #[must_use]
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Mongo | Self::MySql | Self::Redis) || self.is_tls()
    }
}

/// A virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddress {
    /// The address, or the range, that callers dial.
    pub net: IpNet,
    /// Who chose it.
    pub origin: AddressOrigin,
}

impl ServiceAddress {
    /// The address, if it is one and not a range.
    #[must_use]
    pub fn single(&self) -> Option<IpAddr> {
        (self.net.prefix_len() == self.net.max_prefix_len()).then(|| self.net.addr())
    }
}

/// Who chose a virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressOrigin {
    /// The object says it.
    Declared,
    /// Derived from the service's name: no network but the mesh knows it.
    Allocated,
}

/// How the instances of a service are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// The endpoints listed in the model.
    Static,
    /// The endpoints listed in the model; callers dial them directly, there is no virtual address.
    Headless,
    /// Whatever address the caller dialled.
    Passthrough,
    /// The endpoints' names, asked of DNS; all answers are used.
    Dns,
    /// The endpoints' names, asked of DNS; one answer is used per new connection.
    DnsRoundRobin,
}

/// Inside or outside the mesh. Source: `ServiceEntry.location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Its instances have sidecars.
    Internal,
    /// It is reached beyond the mesh.
    External,
}
