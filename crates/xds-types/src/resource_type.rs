// SPDX-License-Identifier: Apache-2.0
//! The kinds of resources that travel by name over the aggregated discovery service.

/// What every type URL on the wire starts with.
pub const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// A kind of xDS resource.
///
/// The order of the variants is the order in which a control plane pushes them, so that what a
/// resource refers to is there before it: clusters, endpoints, listeners, routes, then the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster` (CDS).
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment` (EDS).
    Endpoint,
    /// `envoy.config.listener.v3.Listener` (LDS).
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration` (RDS).
    Route,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret` (SDS).
    Secret,
    /// `istio.networking.nds.v1.NameTable` (NDS).
    NameTable,
}

impl ResourceType {
    /// All kinds, in push order.
    pub const PUSH_ORDER: [Self; 6] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Listener,
        Self::Route,
        Self::Secret,
        Self::NameTable,
    ];

    /// The type URL on the wire.
    #[must_use]
    pub const fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::NameTable => "type.googleapis.com/istio.networking.nds.v1.NameTable",
        }
    }

    /// The kind that a type URL names, if it is one of ours.
    #[must_use]
    pub fn from_url(url: &str) -> Option<Self> {
        Self::PUSH_ORDER.into_iter().find(|kind| kind.url() == url)
    }

    /// The short name for logs and metrics: `cds`, `eds`, `lds`, `rds`, `sds`, `nds`.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
            Self::Secret => "sds",
            Self::NameTable => "nds",
        }
    }

    /// Whether a response of this kind in the state-of-the-world protocol is the whole world:
    /// what is not in it is gone. Endpoints and routes stay until they are no longer referred to.
    #[must_use]
    pub const fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

#[cfg(test)]
mod tests {
    use prost::Name;

    use super::*;
    use crate::{cluster, endpoint, listener, route, tls};

    #[test]
    fn urls_are_those_of_the_generated_messages() {
        let table = [
            (ResourceType::Cluster, cluster::Cluster::type_url()),
            (
                ResourceType::Endpoint,
                endpoint::ClusterLoadAssignment::type_url(),
            ),
            (ResourceType::Listener, listener::Listener::type_url()),
            (ResourceType::Route, route::RouteConfiguration::type_url()),
            (ResourceType::Secret, tls::Secret::type_url()),
            (ResourceType::NameTable, crate::NameTable::type_url()),
        ];
        assert_eq!(table.len(), ResourceType::PUSH_ORDER.len());
        for (kind, url) in table {
            assert_eq!(kind.url(), url);
            assert_eq!(ResourceType::from_url(&url), Some(kind));
        }
        assert_eq!(ResourceType::from_url("type.googleapis.com/nothing"), None);
    }

    #[test]
    fn push_order_is_the_order_of_the_type() {
        assert!(ResourceType::PUSH_ORDER.is_sorted());
    }
}
