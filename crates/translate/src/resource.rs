// SPDX-License-Identifier: Apache-2.0
//! From a resource's bytes to its value: the doors of the crate.

use std::sync::Arc;

use remora_ir::cluster::Cluster;
use remora_ir::endpoint::EndpointSet;
use remora_ir::listener::Listener;
use remora_ir::names::NameTable;
use remora_ir::route::RouteTable;
use remora_ir::{RouteName, SlotTable};
use remora_xds_types::{self as xds, Message, ResourceType};

use crate::fault::{Fault, Faults, Scope, Translated, gather};

/// What translation needs beside the resource.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Gives cluster names their slots; the same table for the life of the proxy.
    pub slots: SlotTable,
    /// The proxy's namespace: names of its services get their short forms. Empty if it has none.
    pub namespace: Arc<str>,
    /// The proxy's DNS domain, such as `shop.svc.cluster.local`. Empty if it has none.
    pub dns_domain: Arc<str>,
}

impl Context {
    /// Reads namespace and domain from a node id `kind~address~name.namespace~domain`; other ids
    /// have neither.
    #[must_use]
    pub fn for_node(slots: SlotTable, node_id: &str) -> Self {
        let mut parts = node_id.split('~').skip(2);
        let workload = parts.next().unwrap_or_default();
        let namespace = workload
            .rsplit_once('.')
            .map_or("", |(_, namespace)| namespace);
        Self {
            slots,
            namespace: namespace.into(),
            dns_domain: parts.next().unwrap_or_default().into(),
        }
    }
}

/// A translated resource of any kind.
#[derive(Clone, Debug)]
pub enum Resource {
    /// LDS.
    Listener(Arc<Listener>),
    /// RDS.
    Route(Arc<RouteTable>),
    /// CDS.
    Cluster(Arc<Cluster>),
    /// EDS: the service's name and its endpoints.
    Endpoints(Arc<str>, Arc<EndpointSet>),
    /// NDS.
    Names(Arc<NameTable>),
}

impl Translated<Listener> {
    /// The route tables that the listener needs before it can be used.
    #[must_use]
    pub fn depends(&self) -> Vec<RouteName> {
        crate::assemble::route_tables(&self.value)
            .cloned()
            .collect()
    }
}

impl Translated<Cluster> {
    /// The name of the endpoints that the cluster needs before it can be used.
    #[must_use]
    pub fn depends(&self) -> Option<Arc<str>> {
        crate::assemble::endpoint_service(&self.value).cloned()
    }
}

/// Translates a listener. Source: `envoy.config.listener.v3.Listener`.
///
/// # Errors
/// With every fault of the resource.
pub fn listener(bytes: &[u8], ctx: &Context) -> Result<Translated<Listener>, Faults> {
    let message: xds::listener::Listener = decode("listener", bytes)?;
    let name = message.name.clone();
    gather("listener", &name, |scope| {
        crate::listener::listener(scope, message, ctx)
    })
}

/// Translates a route table. Source: `envoy.config.route.v3.RouteConfiguration`.
///
/// # Errors
/// With every fault of the resource.
pub fn route(bytes: &[u8], ctx: &Context) -> Result<Translated<Arc<RouteTable>>, Faults> {
    let message: xds::route::RouteConfiguration = decode("route", bytes)?;
    let name = message.name.clone();
    gather("route", &name, |scope| {
        named(scope, &name);
        crate::route::table(scope, message, ctx).map(Arc::new)
    })
}

/// Translates a cluster. Source: `envoy.config.cluster.v3.Cluster`.
///
/// # Errors
/// With every fault of the resource.
pub fn cluster(bytes: &[u8], ctx: &Context) -> Result<Translated<Cluster>, Faults> {
    let message: xds::cluster::Cluster = decode("cluster", bytes)?;
    let name = message.name.clone();
    gather("cluster", &name, |scope| {
        crate::cluster::cluster(scope, message, ctx)
    })
}

/// Translates endpoints, with the name of the service they are of.
/// Source: `envoy.config.endpoint.v3.ClusterLoadAssignment`.
///
/// # Errors
/// With every fault of the resource.
pub fn endpoints(
    bytes: &[u8],
    _ctx: &Context,
) -> Result<Translated<(Arc<str>, EndpointSet)>, Faults> {
    let message: xds::endpoint::ClusterLoadAssignment = decode("endpoints", bytes)?;
    let name: Arc<str> = message.cluster_name.as_str().into();
    gather("endpoints", &name, |scope| {
        if name.is_empty() {
            scope.field("cluster_name").fault("is empty");
        }
        crate::endpoint::assignment(scope, message).map(|set| (Arc::clone(&name), set))
    })
}

/// Translates the names that DNS answers. Source: `istio.networking.nds.v1.NameTable`.
///
/// # Errors
/// With every fault of the resource.
pub fn names(bytes: &[u8], ctx: &Context) -> Result<Translated<NameTable>, Faults> {
    let message: xds::NameTable = decode("names", bytes)?;
    gather("names", "", |scope| {
        Some(crate::names::table(scope, message, ctx))
    })
}

/// Translates a resource of any kind that a snapshot has.
///
/// # Errors
/// With every fault of the resource; kinds without a translation are one.
pub fn resource(
    kind: ResourceType,
    bytes: &[u8],
    ctx: &Context,
) -> Result<Translated<Resource>, Faults> {
    match kind {
        ResourceType::Listener => {
            listener(bytes, ctx).map(|t| t.map(|v| Resource::Listener(Arc::new(v))))
        }
        ResourceType::Route => route(bytes, ctx).map(|t| t.map(Resource::Route)),
        ResourceType::Cluster => {
            cluster(bytes, ctx).map(|t| t.map(|v| Resource::Cluster(Arc::new(v))))
        }
        ResourceType::Endpoint => endpoints(bytes, ctx)
            .map(|t| t.map(|(name, set)| Resource::Endpoints(name, Arc::new(set)))),
        ResourceType::NameTable => {
            names(bytes, ctx).map(|t| t.map(|v| Resource::Names(Arc::new(v))))
        }
        ResourceType::Secret => Err(one_fault("secret", "not supported: TLS is not terminated")),
    }
}

/// The mark of a resource's bytes: equal bytes have equal marks.
#[must_use]
pub fn content_hash(bytes: &[u8]) -> String {
    xds::canonical::version_hash(bytes)
}

/// A resource that others refer to by name must have one.
pub(crate) fn named(scope: &Scope<'_>, name: &str) {
    if name.is_empty() {
        scope.field("name").fault("is empty");
    }
}

fn decode<M: Message + Default>(kind: &'static str, bytes: &[u8]) -> Result<M, Faults> {
    M::decode(bytes).map_err(|error| one_fault(kind, &format!("decode: {error}")))
}

fn one_fault(kind: &'static str, found: &str) -> Faults {
    Faults {
        kind,
        name: String::new(),
        faults: vec![Fault {
            path: String::new(),
            found: found.to_owned(),
        }],
        more: 0,
    }
}
