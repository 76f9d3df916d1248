// SPDX-License-Identifier: Apache-2.0
//! HTTP connection managers, and the protocol options that clusters share with them.

pub(crate) mod filters;
mod policy;
pub(crate) mod protocol;

use remora_ir::RouteName;
use remora_ir::action::Upgrade;
use remora_ir::listener::{Codec, HttpConnectionManager, HttpLimits, Routes};
use remora_xds_types::core;
use remora_xds_types::core::config_source::ConfigSourceSpecifier;
use remora_xds_types::hcm;
use remora_xds_types::hcm::http_connection_manager as manager;
use remora_xds_types::protobuf::Any;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::fault::Scope;
use crate::listener::ChainContext;
use crate::resource::Context;
use crate::{access_log, extension, route, value};

/// Translates a connection manager.
#[allow(clippy::too_many_lines, reason = "most of it is the table of verdicts")]
pub(crate) fn manager(
    scope: &Scope<'_>,
    any: &Any,
    chain: &ChainContext<'_>,
) -> Option<HttpConnectionManager> {
    let message: hcm::HttpConnectionManager = extension::decode(scope, any)?;
    fields! { scope, message: hcm::HttpConnectionManager {
        honoured {
            codec_type: "`HTTP3` is refused", stat_prefix, http_filters: "see HTTP filters", common_http_protocol_options,
            http_protocol_options, http2_protocol_options, server_name: "`envoy` if empty", server_header_transformation,
            max_request_headers_kb: "60 KiB if absent", stream_idle_timeout, request_timeout, request_headers_timeout,
            delayed_close_timeout, access_log, use_remote_address, xff_num_trusted_hops, skip_xff_append,
            via, generate_request_id, preserve_external_request_id, always_set_request_id_in_response,
            forward_client_cert_details: "`x-forwarded-client-cert` is always removed, as Envoy does without a client certificate; `ALWAYS_FORWARD_ONLY` is refused",
            upgrade_configs, normalize_path, merge_slashes, path_with_escaped_slashes_action,
            strip_matching_host_port, route_specifier: "`rds` over ADS, or inline", strip_port_mode
        }
        ignored {
            add_user_agent: "`user-agent` is passed on as it is",
            tracing: "spans are not reported; trace headers are passed on",
            http1_safe_max_connection_duration: "connections that are too old finish their request",
            stream_flush_timeout: "the stream's idle bound holds",
            drain_timeout: "connections that drain end after what they do now",
            drain_timeout_jitter: "there is no drain timeout",
            proxy_100_continue: "`100 Continue` is always the proxy's own",
            access_log_flush_interval: "requests are logged when they end",
            flush_access_log_on_new_request: "requests are logged when they end",
            access_log_options: "requests are logged when they end",
            internal_address_config: "no peer is trusted as internal",
            set_current_client_cert_details: "there is no client certificate",
            request_id_extension: "ids are random UUIDs",
            stream_error_on_invalid_http_message: "a malformed message ends its HTTP/1 connection or its HTTP/2 stream",
            proxy_status_config: "`proxy-status` is not added",
            append_local_overload: "there is no overload manager",
            add_proxy_protocol_connection_state: "there is no PROXY protocol"
        }
        refused {
            http3_protocol_options: "HTTP/3",
            scheme_header_transformation: "another scheme than the peer's",
            original_ip_detection_extensions: "other ways to the client's address",
            early_header_mutation_extensions: "changes before routing",
            forward_client_cert_matcher: "client certificates",
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6: "mapped addresses",
            local_reply_config: "rewritten local replies",
            path_normalization_options: "custom path normalisation",
            strip_trailing_host_dot: "it would change which virtual host is found",
            typed_header_validation_config: "custom header validation",
            append_x_forwarded_port: "`x-forwarded-port`",
            forward_proto_config: "`x-forwarded-proto` by port"
        }
    }}
    let _: bool = proxy_100_continue;
    let codec = codec(&scope.field("codec_type"), codec_type);
    let routed = routes(scope, route_specifier, chain.ctx);
    let router = filters::http_filters(scope, http_filters);
    let common = protocol::common(
        &scope.field("common_http_protocol_options"),
        common_http_protocol_options.unwrap_or_default(),
    );
    protocol::http1(&scope.field("http_protocol_options"), http_protocol_options);
    let http2 = protocol::http2(
        &scope.field("http2_protocol_options"),
        http2_protocol_options,
    );
    let timeouts = policy::timeouts(
        scope,
        policy::SaidTimeouts {
            common: common.as_ref(),
            stream_idle: stream_idle_timeout,
            request: request_timeout,
            request_head: request_headers_timeout,
            delayed_close: delayed_close_timeout,
        },
    );
    let headers = policy::headers(
        scope,
        policy::SaidHeaders {
            use_remote_address: value::flag(use_remote_address, false),
            skip_xff_append,
            trusted_hops: xff_num_trusted_hops,
            generate_request_id: value::flag(generate_request_id, true),
            preserve_request_id: preserve_external_request_id,
            request_id_in_response: always_set_request_id_in_response,
            server_name,
            server_header: server_header_transformation,
            via,
            strip_matching: strip_matching_host_port,
            strip_any: strip_port_mode,
            client_cert: forward_client_cert_details,
            suppress_envoy_headers: router.is_some_and(|router| router.suppress_envoy_headers),
        },
    );
    let path = policy::path(
        scope,
        value::flag(normalize_path, false),
        merge_slashes,
        path_with_escaped_slashes_action,
    );
    let common = common?;
    let head_kb = value::number(max_request_headers_kb).unwrap_or(60);
    if !(1..=8192).contains(&head_kb) {
        let at = scope.field("max_request_headers_kb");
        at.fault(format!("{head_kb} (expected 1 to 8192)"));
    }
    Some(HttpConnectionManager {
        stat_prefix: stat_prefix.into(),
        codec: codec?,
        routes: routed?,
        limits: HttpLimits {
            max_head: usize::try_from(head_kb).ok()?.saturating_mul(1024),
            max_fields: common.max_fields,
            max_requests: NonZeroU64::new(common.max_requests.into()),
            max_replay: chain.max_replay,
        },
        timeouts: timeouts?,
        headers: headers?,
        path: path?,
        upgrades: upgrades(scope, upgrade_configs),
        http2: http2?,
        access_logs: access_log::logs(scope, access_log),
    })
}

fn codec(scope: &Scope<'_>, codec: i32) -> Option<Codec> {
    match value::word(scope, codec)? {
        manager::CodecType::Auto => Some(Codec::Auto),
        manager::CodecType::Http1 => Some(Codec::Http1),
        manager::CodecType::Http2 => Some(Codec::Http2),
        manager::CodecType::Http3 => {
            scope.fault("not supported: HTTP/3");
            None
        }
    }
}

fn routes(
    scope: &Scope<'_>,
    specifier: Option<manager::RouteSpecifier>,
    ctx: &Context,
) -> Option<Routes> {
    match specifier {
        Some(manager::RouteSpecifier::Rds(message)) => {
            let scope = scope.field("rds");
            fields! { &scope, message: hcm::Rds {
                honoured { config_source: "ADS only", route_config_name: "required" }
                ignored {}
                refused {}
            }}
            over_ads(&scope.field("config_source"), config_source);
            if route_config_name.is_empty() {
                scope.field("route_config_name").fault("is empty");
            }
            Some(Routes::Named(RouteName::new(&route_config_name)))
        }
        Some(manager::RouteSpecifier::RouteConfig(inline)) => {
            let table = route::table(&scope.field("route_config"), inline, ctx)?;
            Some(Routes::Inline(Arc::new(table)))
        }
        Some(manager::RouteSpecifier::ScopedRoutes(_)) => {
            let at = scope.field("scoped_routes");
            at.fault("not supported: scoped routes");
            None
        }
        None => {
            scope.fault("has neither `rds` nor `route_config`");
            None
        }
    }
}

/// A configuration source must be the aggregated stream.
pub(crate) fn over_ads(scope: &Scope<'_>, source: Option<core::ConfigSource>) {
    let Some(message) = source else {
        return scope.fault("is missing");
    };
    fields! { scope, message: core::ConfigSource {
        honoured { resource_api_version: "`V3`, or not said", config_source_specifier: "`ads` only" }
        ignored { initial_fetch_timeout: "what is missing is waited for, with the proxy's own deadline" }
        refused { authorities: "resources of other authorities" }
    }}
    let version: Option<core::ApiVersion> =
        value::word(&scope.field("resource_api_version"), resource_api_version);
    if version.is_some_and(|v| !matches!(v, core::ApiVersion::Auto | core::ApiVersion::V3)) {
        scope
            .field("resource_api_version")
            .fault("not supported: only `V3`");
    }
    if !matches!(
        config_source_specifier,
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_))
    ) {
        scope.fault("not supported: a source other than `ads`");
    }
}

fn upgrades(scope: &Scope<'_>, configs: Vec<manager::UpgradeConfig>) -> Vec<Upgrade> {
    let translate = |(at, message): (usize, manager::UpgradeConfig)| {
        let scope = scope.item("upgrade_configs", at);
        fields! { &scope, message: manager::UpgradeConfig {
            honoured { upgrade_type: "required", enabled }
            ignored {}
            refused { filters: "other filters for upgraded requests" }
        }}
        upgrade(&scope, &upgrade_type, value::flag(enabled, true))
    };
    configs
        .into_iter()
        .enumerate()
        .filter_map(translate)
        .collect()
}

/// An upgrade that is allowed or not.
pub(crate) fn upgrade(scope: &Scope<'_>, protocol: &str, enabled: bool) -> Option<Upgrade> {
    if protocol.is_empty() {
        scope.field("upgrade_type").fault("is empty");
        return None;
    }
    Some(Upgrade {
        protocol: protocol.to_ascii_lowercase().into(),
        enabled,
    })
}
