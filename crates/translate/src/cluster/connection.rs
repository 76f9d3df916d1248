// SPDX-License-Identifier: Apache-2.0
//! How connections are made, and which HTTP is spoken on them.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use remora_ir::cluster::{ConnectionPolicy, SourceAddress, TcpKeepalive, UpstreamProtocol};
use remora_xds_types::cluster;
use remora_xds_types::cluster::cluster::ClusterProtocolSelection;
use remora_xds_types::core;
use remora_xds_types::http_protocol_options as options;
use remora_xds_types::http_protocol_options::http_protocol_options::explicit_http_config::ProtocolConfig;
use remora_xds_types::http_protocol_options::http_protocol_options::{
    UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use remora_xds_types::protobuf::{self, Any, UInt32Value};

use crate::fault::Scope;
use crate::http::protocol::{self, Common};
use crate::{address, extension, value};

/// Envoy's bounds.
const CONNECT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(3600);

/// What is spoken, and what the options say of all connections.
pub(super) struct Http {
    pub(super) protocol: UpstreamProtocol,
    common: Common,
}

/// What the cluster says of HTTP.
pub(super) struct SaidHttp {
    pub(super) typed: HashMap<String, Any>,
    pub(super) common: Option<core::HttpProtocolOptions>,
    pub(super) http1: Option<core::Http1ProtocolOptions>,
    pub(super) http2: Option<core::Http2ProtocolOptions>,
    pub(super) selection: i32,
}

/// Translates it; the typed options outrank the older fields.
pub(super) fn http(scope: &Scope<'_>, said: SaidHttp) -> Option<Http> {
    let mut typed: Vec<_> = said.typed.into_iter().collect();
    typed.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut found = None;
    for (key, any) in typed {
        let scope = scope.entry("typed_extension_protocol_options", &key);
        match extension::name_of(&scope, &any)?.as_str() {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" => {
                found = Some(http_options(&scope, &any)?);
            }
            "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions" => scope.notice(
                "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions",
                "the TCP proxy's own idle bound holds",
            ),
            other => scope.fault(format!("not supported: unknown type `{other}`")),
        }
    }
    if found.is_some() {
        return found;
    }
    let common_at = scope.field("common_http_protocol_options");
    let common = protocol::common(&common_at, said.common.unwrap_or_default());
    protocol::http1(&scope.field("http_protocol_options"), said.http1);
    let has_http2 = said.http2.is_some();
    let http2 = protocol::http2(&scope.field("http2_protocol_options"), said.http2);
    let selection = value::word(&scope.field("protocol_selection"), said.selection)?;
    let protocol = match (selection, has_http2) {
        (ClusterProtocolSelection::UseDownstreamProtocol, _) => {
            UpstreamProtocol::Downstream(http2?)
        }
        (ClusterProtocolSelection::UseConfiguredProtocol, true) => UpstreamProtocol::Http2(http2?),
        (ClusterProtocolSelection::UseConfiguredProtocol, false) => UpstreamProtocol::Http1,
    };
    Some(Http {
        protocol,
        common: common?,
    })
}

fn http_options(scope: &Scope<'_>, any: &Any) -> Option<Http> {
    let message: options::HttpProtocolOptions = extension::decode(scope, any)?;
    fields! { scope, message: options::HttpProtocolOptions {
        honoured { common_http_protocol_options, upstream_protocol_options: "required; `auto_config` is refused" }
        ignored {
            upstream_http_protocol_options: "of TLS only",
            hash_policy: "policies that hash are refused"
        }
        refused {
            http_filters: "filters of upstreams",
            header_validation_config: "custom header validation",
            outlier_detection: "other errors than 5xx",
            request_mirror_policies: "mirrors of clusters",
            retry_policy: "retry policies of clusters"
        }
    }}
    let common_at = scope.field("common_http_protocol_options");
    let common = protocol::common(&common_at, common_http_protocol_options.unwrap_or_default());
    let protocol = match upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => explicit_protocol(
            &scope.field("explicit_http_config"),
            explicit.protocol_config,
        ),
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
            downstream_protocol(&scope.field("use_downstream_protocol_config"), config)
        }
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            let at = scope.field("auto_config");
            at.fault("not supported: choosing HTTP by ALPN, without TLS");
            None
        }
        None => {
            scope.fault("has no protocol options");
            None
        }
    };
    Some(Http {
        protocol: protocol?,
        common: common?,
    })
}

fn explicit_protocol(
    scope: &Scope<'_>,
    config: Option<ProtocolConfig>,
) -> Option<UpstreamProtocol> {
    match config {
        Some(ProtocolConfig::HttpProtocolOptions(http1)) => {
            protocol::http1(&scope.field("http_protocol_options"), Some(http1));
            Some(UpstreamProtocol::Http1)
        }
        Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
            let at = scope.field("http2_protocol_options");
            protocol::http2(&at, Some(http2)).map(UpstreamProtocol::Http2)
        }
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            scope
                .field("http3_protocol_options")
                .fault("not supported: HTTP/3");
            None
        }
        None => {
            scope.fault("has no protocol");
            None
        }
    }
}

fn downstream_protocol(
    scope: &Scope<'_>,
    message: UseDownstreamHttpConfig,
) -> Option<UpstreamProtocol> {
    fields! { scope, message: UseDownstreamHttpConfig {
        honoured { http_protocol_options, http2_protocol_options }
        ignored {}
        refused { http3_protocol_options: "HTTP/3" }
    }}
    protocol::http1(&scope.field("http_protocol_options"), http_protocol_options);
    let at = scope.field("http2_protocol_options");
    protocol::http2(&at, http2_protocol_options).map(UpstreamProtocol::Downstream)
}

/// What the cluster says of connections.
pub(super) struct Said {
    pub(super) connect_timeout: Option<protobuf::Duration>,
    pub(super) max_requests: Option<UInt32Value>,
    pub(super) bind: Option<core::BindConfig>,
    pub(super) options: Option<cluster::UpstreamConnectionOptions>,
}

/// Translates it.
pub(super) fn connection(
    scope: &Scope<'_>,
    said: Said,
    http: Option<&Http>,
) -> Option<ConnectionPolicy> {
    let timeout_at = scope.field("connect_timeout");
    let connect_timeout = value::positive_or(&timeout_at, said.connect_timeout, CONNECT);
    let source = match said.bind {
        None => Some(SourceAddress::Own),
        Some(bind) => source(&scope.field("upstream_bind_config"), bind),
    };
    let keepalive = said.options.and_then(|options| {
        connection_options(&scope.field("upstream_connection_options"), options)
    });
    let common = &http?.common;
    let max_requests = match common.max_requests {
        0 => value::number(said.max_requests).unwrap_or(0),
        max => max,
    };
    Some(ConnectionPolicy {
        connect_timeout,
        source: source?,
        keepalive,
        idle_timeout: common.idle.unwrap_or(Some(IDLE)),
        max_requests: NonZeroU64::new(max_requests.into()),
        max_duration: common.max_duration,
    })
}

fn source(scope: &Scope<'_>, message: core::BindConfig) -> Option<SourceAddress> {
    fields! { scope, message: core::BindConfig {
        honoured { source_address }
        ignored {
            freebind: "the machine decides what may be bound",
            socket_options: "the proxy knows which options its sockets need",
            extra_source_addresses: "destinations of the other family are dialled from the machine's own address",
            additional_source_addresses: "destinations of the other family are dialled from the machine's own address",
            validate_network_namespaces: "the proxy stays in its own network namespace"
        }
        refused { local_address_selector: "custom selection of source addresses" }
    }}
    let Some(socket) = source_address else {
        return Some(SourceAddress::Own);
    };
    let address = address::ip_socket(&scope.field("source_address"), socket)?;
    Some(if address.ip().is_unspecified() && address.port() == 0 {
        SourceAddress::Own
    } else {
        SourceAddress::Fixed(address)
    })
}

fn connection_options(
    scope: &Scope<'_>,
    message: cluster::UpstreamConnectionOptions,
) -> Option<TcpKeepalive> {
    fields! { scope, message: cluster::UpstreamConnectionOptions {
        honoured { tcp_keepalive }
        ignored {
            set_local_interface_name_on_upstream_connections: "nothing reads it",
            happy_eyeballs_config: "an endpoint has one address"
        }
        refused {}
    }}
    let message = tcp_keepalive?;
    let scope = scope.field("tcp_keepalive");
    fields! { &scope, message: core::TcpKeepalive {
        honoured { keepalive_probes: "0 is the machine's own", keepalive_time: "likewise", keepalive_interval: "likewise" }
        ignored {}
        refused {}
    }}
    let seconds = |said: Option<UInt32Value>| {
        let seconds = value::number(said).filter(|seconds| *seconds > 0);
        seconds.map(|seconds| Duration::from_secs(seconds.into()))
    };
    Some(TcpKeepalive {
        probes: value::number(keepalive_probes).and_then(NonZeroU32::new),
        time: seconds(keepalive_time),
        interval: seconds(keepalive_interval),
    })
}
