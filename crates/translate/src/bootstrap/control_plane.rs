// SPDX-License-Identifier: Apache-2.0
//! Dynamic resources: one aggregated stream to a static cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use remora_ir::ClusterName;
use remora_ir::cluster::{AddressFamilies, Cluster, Discovery};
use remora_ir::endpoint::EndpointAddress;
use remora_primitives::{HostName, Port};
use remora_xds_types::bootstrap as message;
use remora_xds_types::core;
use remora_xds_types::core::api_config_source::ApiType;
use remora_xds_types::core::config_source::ConfigSourceSpecifier;
use remora_xds_types::core::grpc_service::TargetSpecifier;

use crate::fault::Scope;
use crate::value;

/// Who steers the proxy.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// The static cluster it is behind.
    pub cluster: ClusterName,
    /// Where it is, in the order to try.
    pub targets: Vec<Target>,
    /// Which addresses of names are wanted.
    pub families: AddressFamilies,
    /// Which variant of the protocol is spoken.
    pub protocol: Protocol,
    /// How long an attempt to connect may take.
    pub connect_timeout: Duration,
    /// The `:authority` of the stream; the target's own if `None`.
    pub authority: Option<Arc<str>>,
    /// Sent with the stream, such as a token.
    pub initial_metadata: Vec<(String, String)>,
    /// Whether listeners come over it (`lds_config`).
    pub listeners: bool,
    /// Whether clusters come over it (`cds_config`).
    pub clusters: bool,
}

/// An address of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An IP address.
    Socket(SocketAddr),
    /// A name, resolved when a stream is opened.
    Name(HostName, Port),
    /// A socket in the file system.
    Pipe(Arc<str>),
}

/// The variant of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// DELTA_GRPC.
    Delta,
    /// GRPC.
    StateOfTheWorld,
}

/// Translates dynamic resources; `None` without `ads_config` and sources.
pub(super) fn control_plane(
    scope: &Scope<'_>,
    said: message::bootstrap::DynamicResources,
    clusters: &[Arc<Cluster>],
) -> Option<ControlPlane> {
    use message::bootstrap;
    fields! { scope, said: bootstrap::DynamicResources {
        honoured { lds_config: "ADS only", cds_config: "ADS only", ads_config }
        ignored {}
        refused {
            lds_resources_locator: "collections by locator",
            cds_resources_locator: "collections by locator"
        }
    }}
    let has_listeners = source(&scope.field("lds_config"), lds_config);
    let has_clusters = source(&scope.field("cds_config"), cds_config);
    let ads_at = scope.field("ads_config");
    let Some(ads) = ads_config else {
        if has_listeners || has_clusters {
            ads_at.fault("is missing");
        }
        return None;
    };
    let (protocol, grpc) = stream(&ads_at, ads)?;
    let grpc_at = ads_at.item("grpc_services", 0);
    let service = service(&grpc_at, grpc)?;
    let envoy_at = grpc_at.field("envoy_grpc");
    let name_at = envoy_at.field("cluster_name");
    let found = clusters
        .iter()
        .find(|cluster| cluster.slot.name().as_str() == service.cluster);
    let Some(cluster) = found else {
        name_at.fault(format!(
            "no static cluster `{}` was accepted",
            service.cluster
        ));
        return None;
    };
    let (targets, families) = targets(cluster);
    if targets.is_empty() {
        name_at.fault(format!(
            "cluster `{}` has no static or DNS endpoint",
            service.cluster
        ));
    }
    Some(ControlPlane {
        cluster: cluster.slot.name().clone(),
        targets,
        families,
        protocol,
        connect_timeout: cluster.connection.connect_timeout,
        authority: service.authority,
        initial_metadata: service.initial_metadata,
        listeners: has_listeners,
        clusters: has_clusters,
    })
}

/// Whether resources come over the stream.
fn source(scope: &Scope<'_>, source: Option<core::ConfigSource>) -> bool {
    let Some(source) = source else { return false };
    if matches!(
        source.config_source_specifier,
        Some(ConfigSourceSpecifier::Self_(_))
    ) {
        scope.fault("not supported: `self` outside of a resource");
    }
    crate::http::over_ads(scope, Some(source));
    true
}

fn stream(
    scope: &Scope<'_>,
    message: core::ApiConfigSource,
) -> Option<(Protocol, core::GrpcService)> {
    fields! { scope, message: core::ApiConfigSource {
        honoured { api_type: "`GRPC` or `DELTA_GRPC`", transport_api_version: "`V3`", grpc_services: "exactly one" }
        ignored {
            refresh_delay: "of REST only",
            request_timeout: "of REST only",
            rate_limit_settings: "reconnecting backs off by itself",
            set_node_on_first_message_only: "the node is sent with the first message of a stream"
        }
        refused {
            cluster_names: "REST",
            config_validators: "custom validation"
        }
    }}
    let protocol = match value::word(&scope.field("api_type"), api_type)? {
        ApiType::Grpc | ApiType::AggregatedGrpc => Some(Protocol::StateOfTheWorld),
        ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => Some(Protocol::Delta),
        _ => {
            scope
                .field("api_type")
                .fault("not supported: only `GRPC` and `DELTA_GRPC`");
            None
        }
    };
    let version: Option<core::ApiVersion> =
        value::word(&scope.field("transport_api_version"), transport_api_version);
    if version != Some(core::ApiVersion::V3) {
        let at = scope.field("transport_api_version");
        at.fault("not supported: only `V3`");
    }
    let count = grpc_services.len();
    let mut services = grpc_services.into_iter();
    match (services.next(), count) {
        (Some(service), 1) => Some((protocol?, service)),
        _ => {
            scope
                .field("grpc_services")
                .fault(format!("has {count} services (expected 1)"));
            None
        }
    }
}

struct Service {
    cluster: String,
    authority: Option<Arc<str>>,
    initial_metadata: Vec<(String, String)>,
}

fn service(scope: &Scope<'_>, message: core::GrpcService) -> Option<Service> {
    use core::grpc_service;
    fields! { scope, message: core::GrpcService {
        honoured { initial_metadata: "text only", target_specifier: "`envoy_grpc` only" }
        ignored {
            timeout: "the stream has no end",
            retry_policy: "reconnecting backs off by itself"
        }
        refused {}
    }}
    let at = scope.field("envoy_grpc");
    let Some(TargetSpecifier::EnvoyGrpc(message)) = target_specifier else {
        scope.fault("not supported: only `envoy_grpc`");
        return None;
    };
    fields! { &at, message: grpc_service::EnvoyGrpc {
        honoured { cluster_name: "a static cluster", authority }
        ignored {
            retry_policy: "reconnecting backs off by itself",
            max_receive_message_length: "the client has a bound of its own",
            skip_envoy_headers: "no such headers are sent"
        }
        refused {}
    }}
    let metadata = initial_metadata.into_iter();
    Some(Service {
        cluster: cluster_name,
        authority: (!authority.is_empty()).then(|| authority.into()),
        initial_metadata: metadata.map(|header| (header.key, header.value)).collect(),
    })
}

fn targets(cluster: &Cluster) -> (Vec<Target>, AddressFamilies) {
    match &cluster.discovery {
        Discovery::Static(set) => {
            let target = |address: &EndpointAddress| match address {
                EndpointAddress::Socket(socket) => Target::Socket(*socket),
                EndpointAddress::Pipe(path) => Target::Pipe(Arc::clone(path)),
            };
            let targets = set.iter().map(|(_, endpoint)| target(&endpoint.address));
            (targets.collect(), AddressFamilies::default())
        }
        Discovery::StrictDns(dns) => {
            let names = dns.names.iter();
            let targets = names.map(|dns| match dns.name.as_str().parse() {
                Ok(ip) => Target::Socket(SocketAddr::new(ip, dns.port.get())),
                Err(_) => Target::Name(dns.name.clone(), dns.port),
            });
            (targets.collect(), dns.families)
        }
        Discovery::Eds { .. } | Discovery::OriginalDst { .. } => {
            (Vec::new(), AddressFamilies::default())
        }
    }
}
