// SPDX-License-Identifier: Apache-2.0
//! How a cluster's endpoints are found.

use std::time::Duration;

use remora_ir::cluster::{AddressFamilies, Discovery, DnsDiscovery};
use remora_ir::endpoint::EndpointSet;
use remora_xds_types::cluster;
use remora_xds_types::cluster::cluster::{
    ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbConfig,
};
use remora_xds_types::endpoint::ClusterLoadAssignment;
use remora_xds_types::protobuf;

use crate::fault::Scope;
use crate::{endpoint, http, value};

/// Envoy's interval between resolutions.
const DNS_REFRESH: Duration = Duration::from_secs(5);

/// What the cluster says of it.
pub(super) struct Said<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Option<ClusterDiscoveryType>,
    pub(super) eds: Option<cluster::cluster::EdsClusterConfig>,
    pub(super) assignment: Option<ClusterLoadAssignment>,
    pub(super) dns_refresh: Option<protobuf::Duration>,
    pub(super) families: i32,
    pub(super) lb_config: Option<&'a LbConfig>,
}

/// Translates it.
pub(super) fn discovery(scope: &Scope<'_>, said: Said<'_>) -> Option<Discovery> {
    let kind = match said.kind {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => value::word(&scope.field("type"), kind)?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            let at = scope.field("cluster_type");
            at.fault(format!("not supported: cluster type `{}`", custom.name));
            return None;
        }
    };
    if said.eds.is_some() && kind != DiscoveryType::Eds {
        scope
            .field("eds_cluster_config")
            .fault("belongs to clusters of type `EDS` only");
    }
    let has_assignment = said.assignment.is_some();
    if has_assignment && matches!(kind, DiscoveryType::Eds | DiscoveryType::OriginalDst) {
        scope
            .field("load_assignment")
            .fault("belongs to clusters of type `STATIC` and `STRICT_DNS` only");
    }
    match kind {
        DiscoveryType::Static => match said.assignment {
            None => Some(Discovery::Static(EndpointSet::default())),
            Some(assignment) => endpoint::assignment(&scope.field("load_assignment"), assignment)
                .map(Discovery::Static),
        },
        DiscoveryType::Eds => eds(scope, said.name, said.eds),
        DiscoveryType::StrictDns => dns(scope, said),
        DiscoveryType::LogicalDns => {
            scope.field("type").notice(
                "envoy.config.cluster.v3.Cluster.type LOGICAL_DNS",
                "treated as `STRICT_DNS`: all addresses are used, not the first alone",
            );
            dns(scope, said)
        }
        DiscoveryType::OriginalDst => original_dst(scope, said.lb_config),
    }
}

fn eds(
    scope: &Scope<'_>,
    name: &str,
    config: Option<cluster::cluster::EdsClusterConfig>,
) -> Option<Discovery> {
    use cluster::cluster;
    let scope = scope.field("eds_cluster_config");
    let Some(message) = config else {
        scope.fault("is missing");
        return None;
    };
    fields! { &scope, message: cluster::EdsClusterConfig {
        honoured { eds_config: "ADS only", service_name: "the cluster's name if empty" }
        ignored {}
        refused {}
    }}
    http::over_ads(&scope.field("eds_config"), eds_config);
    let service_name = match service_name.as_str() {
        "" => name.into(),
        service_name => service_name.into(),
    };
    Some(Discovery::Eds { service_name })
}

fn dns(scope: &Scope<'_>, said: Said<'_>) -> Option<Discovery> {
    let refresh_at = scope.field("dns_refresh_rate");
    let refresh = value::positive_or(&refresh_at, said.dns_refresh, DNS_REFRESH);
    let families = match value::word(&scope.field("dns_lookup_family"), said.families)? {
        DnsLookupFamily::Auto => AddressFamilies::PreferV6,
        DnsLookupFamily::V4Only => AddressFamilies::V4,
        DnsLookupFamily::V6Only => AddressFamilies::V6,
        DnsLookupFamily::V4Preferred => AddressFamilies::PreferV4,
        DnsLookupFamily::All => AddressFamilies::All,
    };
    let names = match said.assignment {
        None => Vec::new(),
        Some(assignment) => endpoint::names(&scope.field("load_assignment"), assignment)?,
    };
    Some(Discovery::StrictDns(DnsDiscovery {
        names,
        refresh,
        families,
    }))
}

fn original_dst(scope: &Scope<'_>, config: Option<&LbConfig>) -> Option<Discovery> {
    use cluster::cluster;
    let scope = scope.field("original_dst_lb_config");
    let Some(LbConfig::OriginalDstLbConfig(config)) = config else {
        return Some(Discovery::OriginalDst { port: None });
    };
    let message = config.clone();
    fields! { &scope, message: cluster::OriginalDstLbConfig {
        honoured { upstream_port_override }
        ignored { http_header_name: "of `use_http_header` only" }
        refused {
            use_http_header: "destinations that the peer names",
            metadata_key: "destinations that filters name"
        }
    }}
    let port = match value::number(upstream_port_override) {
        None | Some(0) => None,
        Some(port) => Some(value::port(&scope.field("upstream_port_override"), port)?),
    };
    Some(Discovery::OriginalDst { port })
}
