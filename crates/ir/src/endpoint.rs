// SPDX-License-Identifier: Apache-2.0
//! Endpoints as configured: addresses with weight, priority and place.
//!
//! What the proxy learns about an address while it runs (health, load, ejection) is not here:
//! that is a `HostRecord` of `balance`. Source: `envoy.config.endpoint.v3.ClusterLoadAssignment`.

use std::net::SocketAddr;
use std::sync::Arc;

use remora_primitives::{Percent, Weight};

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    /// A TCP address.
    Socket(SocketAddr),
    /// A stream socket in the file system.
    Pipe(Arc<str>),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}

/// Health as the control plane says it. Source: `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfiguredHealth {
    /// HEALTHY or UNKNOWN: may be picked.
    #[default]
    Healthy,
    /// DEGRADED: picked when the healthy do not suffice.
    Degraded,
    /// UNHEALTHY, TIMEOUT: not picked but in panic.
    Unhealthy,
    /// DRAINING: finishes what it has, gets nothing new, not even in panic.
    Draining,
}

/// One address of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: EndpointAddress,
    /// Its name for logs and `Host` rewriting by name; the DNS name for resolved clusters.
    pub hostname: Option<Arc<str>>,
    /// Its share within its locality.
    pub weight: Weight,
    /// Health as configured.
    pub health: ConfiguredHealth,
}

/// Source: `envoy.config.core.v3.Locality`. Empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone within the region.
    pub zone: Arc<str>,
    /// Rack, host or the like within the zone.
    pub sub_zone: Arc<str>,
}

/// Endpoints of one place and priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityEndpoints {
    /// The place.
    pub locality: Locality,
    /// 0 is the most wanted; without gaps over the whole set.
    pub priority: u32,
    /// Share among the localities of the same priority; used only by locality-weighted balancing.
    pub weight: Option<Weight>,
    /// The endpoints; may be empty.
    pub endpoints: Vec<Endpoint>,
}

/// All endpoints of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// In the order they were configured.
    pub localities: Vec<LocalityEndpoints>,
    /// How much health above need a priority keeps before it spills to the next.
    pub overprovisioning: Overprovisioning,
    /// Share of requests dropped on purpose. Source: `policy.drop_overloads`, each of what the
    /// ones before leave.
    pub drop: Option<Percent>,
}

/// Unit: percent; 140 means that a priority with 72 % healthy hosts still takes everything.
/// Source: `ClusterLoadAssignment.Policy.overprovisioning_factor`; default Envoy's 140.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overprovisioning(pub u32);

impl Default for Overprovisioning {
    fn default() -> Self {
        Self(140)
    }
}

impl EndpointSet {
    /// All endpoints with their localities.
    pub fn iter(&self) -> impl Iterator<Item = (&LocalityEndpoints, &Endpoint)> {
        self.localities
            .iter()
            .flat_map(|place| place.endpoints.iter().map(move |e| (place, e)))
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.localities
            .iter()
            .map(|place| place.endpoints.len())
            .sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
