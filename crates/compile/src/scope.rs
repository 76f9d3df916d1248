// SPDX-License-Identifier: Apache-2.0
//! What of a node decides its resources. Nodes with equal scopes get the very same set.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use remora_model::{Labels, Locality, Namespace};

/// A sidecar as far as its configuration depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Where its workload lives: decides what is visible and what short names mean.
    pub namespace: Namespace,
    /// Its workload's labels: some rules and policies concern only certain callers.
    pub labels: Labels,
    /// Its own addresses: endpoints with one of them are the services it serves inbound.
    pub addresses: BTreeSet<IpAddr>,
    /// Where it runs; if nothing is known, that of the model's workload with its address.
    pub locality: Locality,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What the mesh wants of all.
    pub settings: Arc<MeshSettings>,
}

impl Scope {
    /// A sidecar of a namespace of which nothing else is known.
    #[must_use]
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            labels: Labels::default(),
            addresses: BTreeSet::new(),
            locality: Locality::default(),
            capabilities: Capabilities::default(),
            settings: Arc::default(),
        }
    }
}

/// What a node can do or wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// It answers DNS from the name table.
    pub name_table: bool,
    /// Requests to addresses that the mesh does not know are routed by their `Host`: for machines
    /// that resolve the mesh's names elsewhere. Costs one route table a port that holds the
    /// virtual hosts of all services on it.
    pub route_by_host: bool,
    /// It understands that retries go to other localities at once (`retry_priority`). Off by
    /// default: a proxy that does not would refuse every table with such a rule in it.
    pub retry_priorities: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            name_table: true,
            route_by_host: true,
            retry_priorities: false,
        }
    }
}

/// What the mesh wants of all sidecars. Source: Istio's `MeshConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeshSettings {
    /// What happens to destinations that no service has. Source: `outboundTrafficPolicy`.
    pub outbound: OutboundPolicy,
    /// Where requests and connections are logged; `None`: nowhere. Source: `accessLogFile`.
    pub access_log: Option<AccessLog>,
    /// The time for a connection to stand where no policy says. Default: 10 s, as in Istio.
    pub connect_timeout: Duration,
    /// How long an undeclared protocol is waited for before the connection is opaque TCP; zero:
    /// without limit. Source: `protocolDetectionTimeout`. Default: zero, as in Istio, since an
    /// idle HTTP connection must not lose its routes.
    pub detection_timeout: Duration,
    /// Whether nearer localities are preferred where a policy detects outliers and says nothing
    /// else. Source: `localityLbSetting.enabled`. Default: yes.
    pub locality_failover: bool,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            outbound: OutboundPolicy::AllowAny,
            access_log: None,
            connect_timeout: Duration::from_secs(10),
            detection_timeout: Duration::ZERO,
            locality_failover: true,
        }
    }
}

/// What happens to destinations that no service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutboundPolicy {
    /// They are reached as dialled.
    #[default]
    AllowAny,
    /// They are refused: connections end, requests are answered 502.
    RegistryOnly,
}

/// Where and how requests are logged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccessLog {
    /// The file, such as `/dev/stdout`.
    pub path: Arc<str>,
    /// A format string with the proxy's `%COMMAND%`s; `None`: Envoy's default format.
    pub format: Option<Arc<str>>,
}
