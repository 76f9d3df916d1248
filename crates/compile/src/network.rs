// SPDX-License-Identifier: Apache-2.0
//! What a filter chain does with its bytes: HTTP, or TCP to clusters; and where that is logged.

use std::time::Duration;

use remora_primitives::Port;
use remora_xds_types::accesslog::access_log_filter::FilterSpecifier;
use remora_xds_types::accesslog::{
    AccessLog as ProtoAccessLog, AccessLogFilter, ResponseFlagFilter, access_log,
};
use remora_xds_types::core::substitution_format_string::Format;
use remora_xds_types::core::{
    DataSource, Http1ProtocolOptions, SubstitutionFormatString, data_source,
};
use remora_xds_types::file_access_log::FileAccessLog;
use remora_xds_types::file_access_log::file_access_log::AccessLogFormat;
use remora_xds_types::hcm::http_connection_manager::{
    RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use remora_xds_types::hcm::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use remora_xds_types::listener::{Filter, filter};
use remora_xds_types::protobuf::Any;
use remora_xds_types::router::Router;
use remora_xds_types::tcp_proxy::TcpProxy;
use remora_xds_types::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use remora_xds_types::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};

use crate::scope::{AccessLog, MeshSettings};
use crate::{route, wire};

const HCM: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

/// What a filter chain does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Http(HttpTarget),
    Tcp(TcpTarget),
}

/// Requests, routed by a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpTarget {
    /// What its figures are counted under.
    pub stat_prefix: String,
    /// Where the table comes from.
    pub routes: Routes,
}

/// Where a route table comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Routes {
    /// A resource of its own.
    Named(String),
    /// All to a local port, in the listener itself.
    Inbound(Port, HttpVersion),
}

/// Whether a local port is spoken to in HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

/// Connections, shared out among clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpTarget {
    /// What its figures are counted under.
    pub stat_prefix: String,
    /// At least one cluster with its weight; a lone one's weight does not count.
    pub clusters: Vec<(String, u32)>,
    /// How long both sides may be silent.
    pub idle_timeout: Option<Duration>,
    /// How long a connection may live.
    pub max_duration: Option<Duration>,
}

impl TcpTarget {
    /// All to one cluster.
    pub(crate) fn to_cluster(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            stat_prefix: name.clone(),
            clusters: vec![(name, 1)],
            idle_timeout: None,
            max_duration: None,
        }
    }
}

impl Target {
    /// The network filter that does it.
    pub(crate) fn filter(&self, settings: &MeshSettings) -> Filter {
        let (name, config) = match self {
            Self::Http(target) => (HCM, wire::any(&target.manager(settings))),
            Self::Tcp(target) => (TCP_PROXY, wire::any(&target.proxy(settings))),
        };
        Filter {
            name: name.to_owned(),
            config_type: config.map(filter::ConfigType::TypedConfig),
        }
    }
}

impl HttpTarget {
    fn manager(&self, settings: &MeshSettings) -> HttpConnectionManager {
        HttpConnectionManager {
            stat_prefix: self.stat_prefix.clone(),
            route_specifier: Some(match &self.routes {
                Routes::Named(name) => RouteSpecifier::Rds(Rds {
                    config_source: wire::ads(),
                    route_config_name: name.clone(),
                }),
                Routes::Inbound(port, version) => {
                    RouteSpecifier::RouteConfig(route::inbound_table(*port, *version))
                }
            }),
            http_filters: vec![HttpFilter {
                name: "envoy.filters.http.router".to_owned(),
                config_type: wire::any(&Router::default())
                    .map(http_filter::ConfigType::TypedConfig),
                ..HttpFilter::default()
            }],
            http_protocol_options: Some(Http1ProtocolOptions {
                accept_http_10: true,
                ..Http1ProtocolOptions::default()
            }),
            // What a workload says of itself, or does not say, is its own affair.
            server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
            // A peer in the mesh is a workload, not an edge: what it says of its caller stands.
            use_remote_address: wire::flag(false),
            proxy_100_continue: true,
            upgrade_configs: vec![UpgradeConfig {
                upgrade_type: "websocket".to_owned(),
                ..UpgradeConfig::default()
            }],
            // Streams may be silent as long as they like: an upgraded one often is.
            stream_idle_timeout: wire::duration(Duration::ZERO),
            normalize_path: wire::flag(true),
            access_log: access_log(settings, None),
            ..HttpConnectionManager::default()
        }
    }
}

impl TcpTarget {
    fn proxy(&self, settings: &MeshSettings) -> TcpProxy {
        let specifier = match self.clusters.as_slice() {
            [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
            several => ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: several
                    .iter()
                    .map(|(name, weight)| ClusterWeight {
                        name: name.clone(),
                        weight: *weight,
                        ..ClusterWeight::default()
                    })
                    .collect(),
            }),
        };
        TcpProxy {
            stat_prefix: self.stat_prefix.clone(),
            cluster_specifier: Some(specifier),
            idle_timeout: self.idle_timeout.and_then(wire::duration),
            max_downstream_connection_duration: self.max_duration.and_then(wire::positive),
            access_log: access_log(settings, None),
            ..TcpProxy::default()
        }
    }
}

/// The log of a listener: connections for which there was no filter chain.
pub(crate) fn unmatched_log(settings: &MeshSettings) -> Vec<ProtoAccessLog> {
    let no_route = AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: vec!["NR".to_owned()],
        })),
    };
    access_log(settings, Some(no_route))
}

fn access_log(settings: &MeshSettings, filter: Option<AccessLogFilter>) -> Vec<ProtoAccessLog> {
    let of = |log: &AccessLog| ProtoAccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter,
        config_type: file_log(log).map(access_log::ConfigType::TypedConfig),
    };
    settings.access_log.as_ref().map(of).into_iter().collect()
}

fn file_log(log: &AccessLog) -> Option<Any> {
    let format = log.format.as_ref().map(|format| {
        let text = data_source::Specifier::InlineString(format.to_string());
        AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(text),
                ..DataSource::default()
            })),
            ..SubstitutionFormatString::default()
        })
    });
    wire::any(&FileAccessLog {
        path: log.path.to_string(),
        access_log_format: format,
    })
}
