// SPDX-License-Identifier: Apache-2.0
//! Clusters: a named set of upstream hosts with one policy.
//!
//! A cluster value says how endpoints are found, how one is chosen, how connections are made and
//! when to stop. Endpoints come apart from it ([`crate::endpoint`]), because they change far more
//! often. Source: `envoy.config.cluster.v3.Cluster`.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use remora_primitives::{HostName, Percent, Port};

use crate::endpoint::EndpointSet;
use crate::name::ClusterSlot;

/// A cluster's whole policy.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Name and place in the snapshot.
    pub slot: Arc<ClusterSlot>,
    /// Name in statistics, if another than its own (`alt_stat_name`).
    pub stat_name: Option<Arc<str>>,
    /// How its endpoints are found.
    pub discovery: Discovery,
    /// How one of them is chosen.
    pub balancing: Balancing,
    /// How connections are made.
    pub connection: ConnectionPolicy,
    /// Which HTTP is spoken on them.
    pub protocol: UpstreamProtocol,
    /// Bounds on what is under way.
    pub limits: CircuitLimits,
    /// When a host is put aside.
    pub outlier: Option<OutlierPolicy>,
}

/// How endpoints are found. Source: `Cluster.type`.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// Endpoints are part of the cluster.
    Static(EndpointSet),
    /// Endpoints come from the control plane under this name.
    Eds {
        /// `eds_cluster_config.service_name`, or the cluster's name.
        service_name: Arc<str>,
    },
    /// Names are resolved again and again; all addresses are endpoints.
    StrictDns(DnsDiscovery),
    /// Each connection goes to its own original destination.
    OriginalDst {
        /// Replaces the destination's port.
        port: Option<Port>,
    },
}

/// DNS discovery. Source: `Cluster.dns_*`, `load_assignment` with names.
#[derive(Clone, Debug)]
pub struct DnsDiscovery {
    /// What to resolve; each name's addresses take the place of the endpoint.
    pub names: Vec<DnsEndpoint>,
    /// How often. Default 5 s.
    pub refresh: Duration,
    /// Which addresses are wanted.
    pub families: AddressFamilies,
}

/// One name to resolve with what its endpoints inherit.
#[derive(Clone, Debug)]
pub struct DnsEndpoint {
    /// The name.
    pub name: HostName,
    /// The port of the resulting endpoints.
    pub port: Port,
    /// Locality and priority: `endpoints` is empty and filled with what was resolved.
    pub place: crate::endpoint::LocalityEndpoints,
    /// Weight of each resulting endpoint.
    pub weight: remora_primitives::Weight,
}

/// Source: `Cluster.dns_lookup_family`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressFamilies {
    /// V4_ONLY.
    V4,
    /// V6_ONLY.
    V6,
    /// AUTO: IPv6 if there is any, else IPv4.
    #[default]
    PreferV6,
    /// V4_PREFERRED.
    PreferV4,
    /// ALL.
    All,
}

/// How one host is chosen. Source: `Cluster.lb_policy`, `common_lb_config`.
#[derive(Clone, Debug)]
pub struct Balancing {
    /// The policy.
    pub policy: Policy,
    /// Below this share of healthy hosts health is ignored. Default 50 %; 0 never panics.
    pub panic_threshold: Percent,
    /// Whether localities are chosen by their weights first.
    pub locality_weighted: bool,
}

/// Source: `Cluster.lb_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// Any, by weight.
    Random,
    /// The least busy of `choices` picked at random. Default 2.
    LeastRequest {
        /// How many are compared, 2 or more.
        choices: NonZeroU32,
    },
    /// CLUSTER_PROVIDED: the discovery itself says where (original destination).
    ClusterProvided,
}

/// How connections are made. Source: `Cluster.connect_timeout` and its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionPolicy {
    /// Default 5 s.
    pub connect_timeout: Duration,
    /// Which source address to dial from.
    pub source: SourceAddress,
    /// Keep-alive probes, if asked for.
    pub keepalive: Option<TcpKeepalive>,
    /// Idle time after which a pooled connection is closed; `None`: never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// Requests after which a connection is retired.
    pub max_requests: Option<NonZeroU64>,
    /// Age after which a connection is retired.
    pub max_duration: Option<Duration>,
}

/// Where an upstream connection comes from. Source: `Cluster.upstream_bind_config`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceAddress {
    /// The machine's own choice.
    #[default]
    Own,
    /// A fixed address such as 127.0.0.6; the port is the machine's choice if 0.
    Fixed(SocketAddr),
    /// The downstream peer's (`original_src`); needs transparent sockets.
    Downstream,
}

impl SourceAddress {
    /// The fixed address, if it is of the same family as a destination.
    #[must_use]
    pub fn for_destination(self, destination: IpAddr) -> Option<SocketAddr> {
        match self {
            Self::Fixed(source) if source.is_ipv4() == destination.is_ipv4() => Some(source),
            Self::Fixed(_) | Self::Own | Self::Downstream => None,
        }
    }
}

/// Source: `envoy.config.core.v3.TcpKeepalive`; `None` leaves the machine's own value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<NonZeroU32>,
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Which HTTP is spoken upstream. Source: `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, the default.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2(Http2Options),
    /// What the downstream speaks.
    Downstream(Http2Options),
}

/// Source: `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams at once on a connection.
    pub max_concurrent_streams: u32,
    /// Unit: bytes.
    pub initial_stream_window: u32,
    /// Unit: bytes.
    pub initial_connection_window: u32,
    /// Pings that find a dead peer.
    pub keepalive: Option<Http2Keepalive>,
}

impl Http2Options {
    /// A light sidecar's defaults: 100 streams bound what a connection can hold; windows of
    /// 256 KiB and 1 MiB, where Envoy has 16 and 24 MiB, since two sidecars share a machine.
    pub const DEFAULT: Self = Self {
        max_concurrent_streams: 100,
        initial_stream_window: 256 * 1024,
        initial_connection_window: 1024 * 1024,
        keepalive: None,
    };
}

/// Source: `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Time between pings.
    pub interval: Duration,
    /// Time to wait for the answer.
    pub timeout: Duration,
}

/// Routing priority: each has limits of its own. Source: `envoy.config.core.v3.RoutingPriority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// DEFAULT.
    #[default]
    Default,
    /// HIGH.
    High,
}

/// Limits by priority. Source: `Cluster.circuit_breakers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitLimits {
    /// For ordinary requests.
    pub default: Thresholds,
    /// For high-priority requests.
    pub high: Thresholds,
}

impl CircuitLimits {
    /// The limits of a priority.
    #[must_use]
    pub const fn of(&self, priority: Priority) -> &Thresholds {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }
}

/// A bound, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// At most so many; 0 refuses everything.
    AtMost(u32),
    /// No bound, and nothing is counted for it.
    Unlimited,
}

/// Source: `CircuitBreakers.Thresholds`. Istio's 2^32-1 is translated to [`Limit::Unlimited`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections to the cluster. A worker may always open its first one to a host.
    pub connections: Limit,
    /// Requests waiting for a connection.
    pub pending: Limit,
    /// Requests under way.
    pub requests: Limit,
    /// Retries under way, or a budget in their place.
    pub retries: RetryLimit,
}

/// How many retries may be under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryLimit {
    /// A fixed number (`max_retries`).
    Fixed(Limit),
    /// A share of the requests under way. Source: `Thresholds.retry_budget`.
    Budget {
        /// Of active and pending requests. Default 20 %.
        percent: Percent,
        /// But always this many. Default 3.
        min_concurrency: u32,
    },
}

impl Default for Thresholds {
    /// Envoy's: 1,024 connections, pending and requests; 3 retries.
    fn default() -> Self {
        Self {
            connections: Limit::AtMost(1024),
            pending: Limit::AtMost(1024),
            requests: Limit::AtMost(1024),
            retries: RetryLimit::Fixed(Limit::AtMost(3)),
        }
    }
}

/// When a host is put aside. Source: `envoy.config.cluster.v3.OutlierDetection`. A detector that
/// is off is `None`; `enforcing_*` of 0 is translated to off, of 100 to on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierPolicy {
    /// Time between sweeps, which let hosts return. Default 10 s.
    pub interval: Duration,
    /// First ejection; each further one in a row is longer by as much. Default 30 s.
    pub base_ejection: Duration,
    /// Longest ejection. Default 300 s, or `base_ejection` if that is longer.
    pub max_ejection: Duration,
    /// Added at random, up to this. Default 0.
    pub ejection_jitter: Duration,
    /// Share of the cluster's hosts that may be ejected at once. Default 10 %.
    pub max_ejected: Percent,
    /// Whether one host may be ejected even if `max_ejected` allows none.
    pub always_one: bool,
    /// 5xx in a row (gateway failures included). Default 5.
    pub consecutive_5xx: Option<ErrorsInARow>,
    /// 502, 503, 504 in a row. Off by default (`enforcing_consecutive_gateway_failure` 0).
    pub consecutive_gateway: Option<ErrorsInARow>,
    /// Connect failures, resets and timeouts in a row; counted apart only if `split_external`.
    pub consecutive_local_origin: Option<ErrorsInARow>,
    /// Whether local failures count apart from answers (`split_external_local_origin_errors`).
    pub split_external: bool,
}

/// A detector of consecutive errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorsInARow {
    /// How many trip it.
    pub threshold: NonZeroU32,
    /// Chance that a trip ejects. Unit: percent, 1 to 100.
    pub enforcing: u8,
}
