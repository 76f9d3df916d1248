// SPDX-License-Identifier: Apache-2.0
//! Clusters: what stands behind a name, and with what care it is called.
//!
//! This file says which cluster there is; `policy` fills in limits, ejection and balancing,
//! `protocol` how HTTP is spoken. Limits that nobody wrote are "unlimited" in so many words:
//! the API's own default would be 1024 connections and three retries.

mod policy;
mod protocol;

use std::collections::BTreeMap;
use std::sync::Arc;

use remora_model::{DestinationPolicy, Endpoint, EndpointAddress, Placement, Service};
use remora_model::{EffectivePolicy, TargetPort};
use remora_primitives::Port;
use remora_xds_types::cluster::Cluster;
use remora_xds_types::cluster::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, DnsLookupFamily, EdsClusterConfig,
    LbPolicy,
};
use remora_xds_types::core::BindConfig;
use remora_xds_types::endpoint::ClusterLoadAssignment;
use remora_xds_types::types;

use crate::names;
use crate::recipe::ById;
use crate::scope::MeshSettings;
use crate::{endpoint, wire};

/// The address from which a workload's own proxy speaks to it: redirection lets it pass.
const INBOUND_SOURCE_V4: &str = "127.0.0.6";
/// The same for IPv6.
const INBOUND_SOURCE_V6: &str = "::6";

/// One cluster to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClusterPlan {
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub role: Role,
    /// What the mesh wants of all.
    pub settings: Arc<MeshSettings>,
}

/// What a cluster stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Role {
    /// A service's port, or a subset of it.
    Outbound(OutboundPlan),
    /// A port of this workload.
    Inbound {
        /// The service that it belongs to.
        service: ById<Service>,
        /// The service's port.
        port: Port,
        /// Whether the workload has an IPv6 address too.
        dual_stack: bool,
    },
    /// Wherever the caller dialled.
    Passthrough,
    /// Wherever the peer dialled, on this workload.
    InboundPassthrough {
        /// Whether the workload has an IPv6 address too.
        dual_stack: bool,
    },
    /// Nowhere.
    BlackHole,
}

/// A service's port as a caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutboundPlan {
    pub service: ById<Service>,
    pub port: Port,
    pub subset: Option<Arc<str>>,
    pub policy: Option<ById<DestinationPolicy>>,
    pub discovery: Discovery,
}

/// Where a cluster's hosts come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Discovery {
    /// Its load assignment, over the same stream.
    Assigned,
    /// DNS, asked for these endpoints' names; `None`: for the service's own host.
    Dns(Option<ById<[Endpoint]>>),
    /// The address that the caller dialled.
    OriginalDestination,
}

impl ClusterPlan {
    pub(crate) fn build(&self) -> Cluster {
        match &self.role {
            Role::Outbound(plan) => self.outbound(plan),
            Role::Inbound {
                service,
                port,
                dual_stack,
            } => {
                let declared = service.get().port(*port);
                Cluster {
                    typed_extension_protocol_options: declared
                        .and_then(|port| protocol::options(port.protocol, None))
                        .into_iter()
                        .collect(),
                    metadata: wire::metadata(BTreeMap::from([services(service.get())])),
                    upstream_bind_config: inbound_source(*dual_stack),
                    ..self.original_destination()
                }
            }
            Role::Passthrough => Cluster {
                typed_extension_protocol_options: protocol::as_downstream().into_iter().collect(),
                ..self.original_destination()
            },
            Role::InboundPassthrough { dual_stack } => Cluster {
                typed_extension_protocol_options: protocol::as_downstream().into_iter().collect(),
                upstream_bind_config: inbound_source(*dual_stack),
                ..self.original_destination()
            },
            Role::BlackHole => Cluster {
                load_assignment: Some(ClusterLoadAssignment {
                    cluster_name: self.name.clone(),
                    ..ClusterLoadAssignment::default()
                }),
                ..self.bare(DiscoveryType::Static)
            },
        }
    }

    fn outbound(&self, plan: &OutboundPlan) -> Cluster {
        let effective = plan
            .policy
            .as_ref()
            .map(|policy| policy.get().effective(plan.subset.as_deref(), plan.port))
            .unwrap_or_default();
        let mut cluster = match &plan.discovery {
            Discovery::Assigned => Cluster {
                eds_cluster_config: Some(EdsClusterConfig {
                    eds_config: wire::ads(),
                    service_name: self.name.clone(),
                }),
                ..self.bare(DiscoveryType::Eds)
            },
            Discovery::Dns(endpoints) => Cluster {
                load_assignment: Some(plan.dns_hosts(&self.name, endpoints.as_ref())),
                dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
                ..self.bare(DiscoveryType::StrictDns)
            },
            Discovery::OriginalDestination => self.original_destination(),
        };
        policy::apply(&mut cluster, &effective, &self.settings);
        let declared = plan.service.get().port(plan.port);
        cluster.typed_extension_protocol_options = declared
            .and_then(|port| protocol::options(port.protocol, effective.connection_pool.as_ref()))
            .into_iter()
            .collect();
        cluster.metadata = wire::metadata(plan.facts());
        cluster
    }

    /// A cluster with the mesh's defaults and no hosts yet.
    fn bare(&self, discovery: DiscoveryType) -> Cluster {
        let mut cluster = Cluster {
            name: self.name.clone(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
            connect_timeout: wire::duration(self.settings.connect_timeout),
            lb_policy: LbPolicy::LeastRequest.into(),
            // Never ignore health because too few are well, unless a policy says so.
            common_lb_config: Some(CommonLbConfig {
                healthy_panic_threshold: Some(types::Percent { value: 0.0 }),
                ..CommonLbConfig::default()
            }),
            ..Cluster::default()
        };
        policy::apply(&mut cluster, &EffectivePolicy::default(), &self.settings);
        cluster
    }

    fn original_destination(&self) -> Cluster {
        Cluster {
            lb_policy: LbPolicy::ClusterProvided.into(),
            common_lb_config: None,
            ..self.bare(DiscoveryType::OriginalDst)
        }
    }
}

impl OutboundPlan {
    fn facts(&self) -> BTreeMap<String, remora_xds_types::protobuf::Value> {
        let mut facts = BTreeMap::from([services(self.service.get())]);
        if let Some(policy) = &self.policy {
            let path = wire::origin_path(&policy.get().origin);
            facts.insert("config".to_owned(), path);
        }
        if let Some(subset) = &self.subset {
            facts.insert("subset".to_owned(), wire::text(&**subset));
        }
        if self.service.get().placement == Placement::External {
            facts.insert("external".to_owned(), wire::truth());
        }
        facts
    }

    fn dns_hosts(&self, name: &str, list: Option<&ById<[Endpoint]>>) -> ClusterLoadAssignment {
        let subset = self.policy.as_ref().zip(self.subset.as_ref());
        let labels = subset
            .and_then(|(policy, subset)| policy.get().subset(subset))
            .map(|subset| subset.labels.clone())
            .unwrap_or_default();
        let Some(list) = list else {
            return self.own_name(name);
        };
        let hosts = list
            .get()
            .iter()
            .filter(|endpoint| {
                labels.select(&endpoint.labels)
                    && !matches!(endpoint.address, EndpointAddress::Unix(_))
            })
            .filter_map(|endpoint| Some((endpoint, endpoint.target(self.port)?)))
            .collect();
        endpoint::of_names(name, hosts)
    }

    /// No endpoints are listed: the service's own host is what DNS is asked for.
    fn own_name(&self, name: &str) -> ClusterLoadAssignment {
        let service = self.service.get();
        let port = match service.port(self.port).map(|port| &port.target) {
            Some(TargetPort::Number(number)) => *number,
            _ => self.port,
        };
        let host = service.host.name().map(|host| Endpoint {
            address: EndpointAddress::Name(host.clone()),
            ports: Vec::new(),
            labels: remora_model::Labels::default(),
            locality: remora_model::Locality::default(),
            weight: remora_primitives::Weight::ONE,
            health: remora_model::Health::Healthy,
            service_account: "".into(),
            workload: "".into(),
            hostname: None,
        });
        let hosts = host.iter().map(|endpoint| (endpoint, port)).collect();
        endpoint::of_names(name, hosts)
    }
}

/// The names of the four clusters that every sidecar has beside its services'.
pub(crate) fn fixed(dual_stack: bool) -> [(&'static str, Role); 3] {
    [
        (names::PASSTHROUGH, Role::Passthrough),
        (
            names::INBOUND_PASSTHROUGH,
            Role::InboundPassthrough { dual_stack },
        ),
        (names::BLACK_HOLE, Role::BlackHole),
    ]
}

fn services(service: &Service) -> (String, remora_xds_types::protobuf::Value) {
    let of = wire::object([
        ("host", wire::text(service.host.to_string())),
        ("name", wire::text(&*service.name)),
        ("namespace", wire::text(service.namespace.as_str())),
    ]);
    ("services".to_owned(), wire::list(vec![of]))
}

fn inbound_source(dual_stack: bool) -> Option<BindConfig> {
    let more = dual_stack.then(|| wire::socket(INBOUND_SOURCE_V6, 0));
    Some(BindConfig {
        source_address: Some(wire::socket(INBOUND_SOURCE_V4, 0)),
        extra_source_addresses: more
            .map(|address| remora_xds_types::core::ExtraSourceAddress {
                address: Some(address),
                ..Default::default()
            })
            .into_iter()
            .collect(),
        ..BindConfig::default()
    })
}
