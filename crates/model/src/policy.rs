// SPDX-License-Identifier: Apache-2.0
//! How a destination is called: balancing, pools, ejection, subsets.
//!
//! A [`DestinationPolicy`] is one written rule (a `DestinationRule`). What applies to a cluster is
//! asked of [`DestinationPolicy::effective`]; the layers are laid over each other there and only
//! there.

use std::sync::Arc;
use std::time::Duration;

use remora_primitives::{Percent, Port};

use crate::endpoint::Labels;
use crate::name::{Host, Namespace, Visibility};
use crate::origin::ObjectRef;

/// The policy of a host, or of all hosts below a wildcard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationPolicy {
    /// Where it was written.
    pub origin: ObjectRef,
    /// The namespace it was written in.
    pub namespace: Namespace,
    /// Whom it is about.
    pub host: Host,
    /// Who is subject to it.
    pub visibility: Visibility,
    /// Only callers with these labels are subject to it; empty: all.
    pub workload_selector: Labels,
    /// The policy of the host.
    pub policy: TrafficPolicy,
    /// Named parts of the host.
    pub subsets: Vec<Subset>,
}

impl DestinationPolicy {
    /// The subset with this name.
    #[must_use]
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| &*subset.name == name)
    }

    /// What applies to one port of the host, or of a subset of it.
    ///
    /// The host's policy for the port (which replaces the host's general one as a whole) is laid
    /// under the subset's general one section by section; the subset's own policy for the port
    /// replaces all of it. A subset that is not defined adds nothing.
    #[must_use]
    pub fn effective(&self, subset: Option<&str>, port: Port) -> EffectivePolicy {
        let base = match self.policy.for_port(port) {
            Some(own) => own.clone(),
            None => self.policy.general.clone(),
        };
        let layer = subset
            .and_then(|name| self.subset(name))
            .and_then(|s| s.policy.as_ref());
        let Some(layer) = layer else {
            return base;
        };
        if let Some(own) = layer.for_port(port) {
            return EffectivePolicy {
                retry_budget: base.retry_budget,
                ..own.clone()
            };
        }
        layer.general.clone().over(base)
    }
}

/// A named part of a host. Source: `Subset`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Its name, unique within the policy.
    pub name: Arc<str>,
    /// Which endpoints belong to it; empty: all.
    pub labels: Labels,
    /// What it does otherwise than the host.
    pub policy: Option<TrafficPolicy>,
}

/// Sections for all ports, and for single ones. Source: `TrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// For ports without a policy of their own.
    pub general: EffectivePolicy,
    /// For single ports: these replace the general one as a whole.
    pub ports: Vec<PortPolicy>,
}

impl TrafficPolicy {
    fn for_port(&self, port: Port) -> Option<&EffectivePolicy> {
        self.ports
            .iter()
            .find(|own| own.port == port)
            .map(|own| &own.policy)
    }
}

/// The policy of one port. Source: `TrafficPolicy.PortTrafficPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPolicy {
    /// The service's port.
    pub port: Port,
    /// What applies to it.
    pub policy: EffectivePolicy,
}

/// The sections of a policy; what is `None` is left to the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectivePolicy {
    /// How a host is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits of connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// When a host is left out for a while.
    pub outlier_detection: Option<OutlierDetection>,
    /// Whether the connection is encrypted.
    pub tls: Option<UpstreamTls>,
    /// How many retries may be under way.
    pub retry_budget: Option<RetryBudget>,
}

impl EffectivePolicy {
    /// Lays these sections over those of `base`.
    #[must_use]
    fn over(self, base: Self) -> Self {
        Self {
            load_balancer: self.load_balancer.or(base.load_balancer),
            connection_pool: self.connection_pool.or(base.connection_pool),
            outlier_detection: self.outlier_detection.or(base.outlier_detection),
            tls: self.tls.or(base.tls),
            retry_budget: self.retry_budget.or(base.retry_budget),
        }
    }
}

/// How a host is chosen. Source: `LoadBalancerSettings`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancer {
    /// The policy; `None`: the mesh's default (least request).
    pub simple: Option<SimpleBalancer>,
    /// Whether near hosts are preferred; `None`: the mesh's default (on, where outlier detection
    /// is set).
    pub locality: Option<LocalityBalancing>,
    /// How new hosts are eased in.
    pub warmup: Option<Warmup>,
}

/// The policies that need no parameters. Source: `LoadBalancerSettings.SimpleLB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimpleBalancer {
    /// The one of two with fewer requests (`LEAST_REQUEST`, and `LEAST_CONN` of old).
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// Whatever address the caller dialled.
    Passthrough,
}

/// Whether near hosts are preferred. Source: `LocalityLoadBalancerSetting.enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalityBalancing {
    /// Nearer localities first.
    Enabled,
    /// All localities alike.
    Disabled,
}

/// How new hosts are eased in. Source: `WarmupConfiguration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// How long it takes.
    pub duration: Duration,
    /// The share to start with; `None`: 10 %.
    pub minimum: Option<Percent>,
    /// The curve, in thousandths (1000 is linear, and the default).
    pub aggression_thousandths: u32,
}

/// Limits of connections and requests; `None` is no limit. Source: `ConnectionPoolSettings`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPool {
    /// Connections to the cluster (`tcp.maxConnections`).
    pub max_connections: Option<u32>,
    /// The time for a connection to stand; `None`: 10 s (`tcp.connectTimeout`).
    pub connect_timeout: Option<Duration>,
    /// Probes on idle connections (`tcp.tcpKeepalive`).
    pub keep_alive: Option<KeepAlive>,
    /// The longest life of a connection (`tcp.maxConnectionDuration`).
    pub max_connection_duration: Option<Duration>,
    /// How long a TCP session may be silent (`tcp.idleTimeout`).
    pub tcp_idle_timeout: Option<Duration>,
    /// Requests that wait for a connection (`http.http1MaxPendingRequests`).
    pub max_pending_requests: Option<u32>,
    /// Requests under way (`http.http2MaxRequests`).
    pub max_requests: Option<u32>,
    /// Requests on one connection; 0 is no limit (`http.maxRequestsPerConnection`).
    pub max_requests_per_connection: Option<u32>,
    /// Retries under way (`http.maxRetries`).
    pub max_retries: Option<u32>,
    /// How long a connection may be without a request (`http.idleTimeout`).
    pub http_idle_timeout: Option<Duration>,
    /// Whether HTTP/1 is upgraded to HTTP/2 (`http.h2UpgradePolicy`).
    pub h2_upgrade: H2Upgrade,
    /// Whether the upstream is spoken to as the caller spoke (`http.useClientProtocol`).
    pub use_client_protocol: bool,
    /// Streams on one HTTP/2 connection (`http.maxConcurrentStreams`).
    pub max_concurrent_streams: Option<u32>,
}

/// Whether HTTP/1 is upgraded to HTTP/2 towards the upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum H2Upgrade {
    /// As the mesh says: no.
    #[default]
    Default,
    /// No.
    Never,
    /// Yes.
    Always,
}

/// Probes on idle connections; `None` is the system's default. Source: `TcpKeepalive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// Probes without an answer after which the connection is dead.
    pub probes: Option<u32>,
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// When a host is left out for a while. Source: `OutlierDetection`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 5xx in a row; 0 turns it off; `None`: 5.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503 and 504 in a row; 0 or `None` turns it off.
    pub consecutive_gateway_errors: Option<u32>,
    /// Whether failures to reach the host are counted apart.
    pub split_local_origin: bool,
    /// Failures to reach the host in a row (only if counted apart); `None`: 5.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Time between sweeps; `None`: 10 s.
    pub interval: Option<Duration>,
    /// The shortest ejection; `None`: 30 s.
    pub base_ejection_time: Option<Duration>,
    /// The largest share of hosts that may be out; `None`: 10 %.
    pub max_ejection: Option<Percent>,
    /// The share of healthy hosts below which health is ignored; `None`: 0 %, never.
    pub min_health: Option<Percent>,
}

/// Whether the connection to an upstream is encrypted. Source: `ClientTLSSettings.mode`.
///
/// Modes that would need certificates are refused where they are read: a policy that has none
/// of them is not applied at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamTls {
    /// In the clear.
    Disabled,
}

/// How many retries may be under way. Source: `TrafficPolicy.RetryBudget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Share of the active requests; `None`: 20 %.
    pub share: Option<Percent>,
    /// Always allowed; `None`: 3.
    pub min_concurrency: Option<u32>,
}
