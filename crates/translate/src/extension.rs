// SPDX-License-Identifier: Apache-2.0
//! Extension types that have no code here: which are tolerated and which are refused, and why.
//!
//! A type is looked up by its full name, with the wrapper taken off. Types that decide who may
//! pass are refused, optional or not: they are enforced or they are not accepted.

use remora_xds_types::protobuf::Any;
use remora_xds_types::{Message, Name, Payload};

use crate::fault::Scope;
use crate::verdict::{Row, Verdict};

use Verdict::{Honoured, Ignored, Refused};

/// HTTP filters.
pub(crate) const HTTP_FILTERS: &[Row] = &[
    (
        "envoy.extensions.filters.http.router.v3.Router",
        Honoured,
        "last of the list",
    ),
    (
        "envoy.extensions.filters.http.cors.v3.Cors",
        Ignored,
        "does nothing without a policy on a route, which is refused",
    ),
    (
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        Ignored,
        "does nothing while it is empty; refused with a delay, an abort or a rate",
    ),
    (
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        Ignored,
        "statistics only",
    ),
    (
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
        Ignored,
        "chooses the ALPN of upstream TLS, of which there is none",
    ),
    ("stats.PluginConfig", Ignored, "statistics only"),
    (
        "io.istio.http.peer_metadata.Config",
        Ignored,
        "labels of statistics only",
    ),
    (
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        Refused,
        "authorization is not enforced, so it is not accepted",
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        Refused,
        "token checks are not enforced, so they are not accepted",
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        Refused,
        "external authorization is not enforced, so it is not accepted",
    ),
    (
        "envoy.extensions.filters.http.oauth2.v3.OAuth2",
        Refused,
        "authentication is not enforced, so it is not accepted",
    ),
    (
        "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
        Refused,
        "authentication is not enforced, so it is not accepted",
    ),
    (
        "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
        Refused,
        "origin checks are not enforced, so they are not accepted",
    ),
    (
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        Refused,
        "may decide who passes, and is not called",
    ),
    (
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        Refused,
        "limits are not enforced, so they are not accepted",
    ),
    (
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        Refused,
        "limits are not enforced, so they are not accepted",
    ),
];

/// Network filters.
pub(crate) const NETWORK_FILTERS: &[Row] = &[
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        Honoured,
        "last of the list",
    ),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        Honoured,
        "last of the list",
    ),
    (
        "envoy.tcp.metadataexchange.config.MetadataExchange",
        Ignored,
        "negotiated by ALPN of TLS, of which there is none",
    ),
    ("stats.PluginConfig", Ignored, "statistics only"),
    (
        "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy",
        Ignored,
        "statistics only",
    ),
    (
        "envoy.extensions.filters.network.mysql_proxy.v3.MySQLProxy",
        Ignored,
        "statistics only",
    ),
    (
        "envoy.extensions.filters.network.rbac.v3.RBAC",
        Refused,
        "authorization is not enforced, so it is not accepted",
    ),
    (
        "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
        Refused,
        "external authorization is not enforced, so it is not accepted",
    ),
    (
        "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
        Refused,
        "it would take the place of the TCP proxy",
    ),
    (
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
        Refused,
        "limits are not enforced, so they are not accepted",
    ),
    (
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
        Refused,
        "limits are not enforced, so they are not accepted",
    ),
];

/// Listener filters.
pub(crate) const LISTENER_FILTERS: &[Row] = &[
    (
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
        Refused,
        "upstream connections come from the proxy's own addresses",
    ),
    (
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        Refused,
        "the peer's address would be wrong without it",
    ),
];

/// Transport sockets.
pub(crate) const TRANSPORT_SOCKETS: &[Row] = &[
    (
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        Refused,
        "TLS is not terminated, only passed through by server name",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        Refused,
        "TLS is not originated, only passed through",
    ),
];

/// Filters of clusters.
pub(crate) const CLUSTER_FILTERS: &[Row] = &[(
    "envoy.tcp.metadataexchange.config.MetadataExchange",
    Ignored,
    "negotiated by ALPN of TLS, of which there is none",
)];

/// Access logs.
pub(crate) const ACCESS_LOGS: &[Row] = &[
    (
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        Ignored,
        "logs are written to files only",
    ),
    (
        "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
        Ignored,
        "logs are written to files only",
    ),
    (
        "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        Ignored,
        "logs are written to files only",
    ),
];

/// Configuration of filters on routes, virtual hosts and weighted clusters.
pub(crate) const PER_ROUTE: &[Row] = &[
    (
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        Ignored,
        "does nothing while it is empty; refused with a delay, an abort or a rate",
    ),
    (
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        Refused,
        "cross-origin rules are not enforced, so they are not accepted",
    ),
    (
        "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
        Refused,
        "authorization is not enforced, so it is not accepted",
    ),
    (
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
        Refused,
        "token checks are not enforced, so they are not accepted",
    ),
    (
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        Refused,
        "external authorization is not enforced, so it is not accepted",
    ),
];

/// Load balancing policies of `load_balancing_policy`.
pub(crate) const BALANCING: &[Row] = &[
    (
        "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.load_balancing_policies.random.v3.Random",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
        Honoured,
        "",
    ),
    (
        "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
        Honoured,
        "with a policy of this list inside",
    ),
    (
        "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
        Refused,
        "consistent hashing is not supported",
    ),
    (
        "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
        Refused,
        "consistent hashing is not supported",
    ),
];

/// All groups, for the compatibility page.
pub(crate) const GROUPS: &[(&str, &[Row])] = &[
    ("Listener filters", LISTENER_FILTERS),
    ("Network filters", NETWORK_FILTERS),
    ("HTTP filters", HTTP_FILTERS),
    ("Filter configuration of routes", PER_ROUTE),
    ("Transport sockets", TRANSPORT_SOCKETS),
    ("Cluster filters", CLUSTER_FILTERS),
    ("Load balancing policies", BALANCING),
    ("Access logs", ACCESS_LOGS),
];

/// The full message name of a type URL.
pub(crate) fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// The full name of what an `Any` holds, wrapper off; a broken wrapper is a fault.
pub(crate) fn name_of(scope: &Scope<'_>, any: &Any) -> Option<String> {
    let payload = scope.take(Payload::of(any))?;
    Some(type_name(payload.type_url()).to_owned())
}

/// The row of a type.
pub(crate) fn row(rows: &'static [Row], name: &str) -> Option<&'static Row> {
    rows.iter().find(|(known, _, _)| *known == name)
}

/// Whether the receiver may do without an unknown type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// `is_optional`.
    Optional,
    /// It may not.
    Required,
}

/// Judges a type that is not honoured by code of its own: tells the notice or the fault.
pub(crate) fn judge(scope: &Scope<'_>, rows: &'static [Row], name: &str, need: Need) {
    match row(rows, name) {
        Some((_, Ignored, note)) => scope.notice(name, note),
        Some((_, Refused, note)) => scope.fault(format!("not supported: `{name}`: {note}")),
        // Honoured types are decoded by who asks; here it stands where it does not belong.
        Some((_, Honoured, _)) => scope.fault(format!("`{name}` cannot stand here")),
        None if need == Need::Optional => scope.notice(name, "unknown, and marked optional"),
        None => scope.fault(format!("not supported: unknown type `{name}`")),
    }
}

/// Decodes what an `Any` holds as a message; another type, a wrapper, or broken bytes are faults.
pub(crate) fn decode<M: Message + Name + Default>(scope: &Scope<'_>, any: &Any) -> Option<M> {
    match scope.take(Payload::of(any))? {
        Payload::Message { .. } => scope.take(remora_xds_types::unpack(any)),
        Payload::Fields { type_url, fields } => {
            let json = remora_xds_types::struct_to_json(&fields);
            let bytes = scope.take(remora_xds_types::json::from_json(&type_url, &json))?;
            let any = Any {
                type_url,
                value: bytes,
            };
            scope.take(remora_xds_types::unpack(&any))
        }
    }
}
