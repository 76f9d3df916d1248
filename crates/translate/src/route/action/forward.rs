// SPDX-License-Identifier: Apache-2.0
//! Forwarding: target, rewrites, deadlines, retries, mirrors.

use std::sync::Arc;

use bytes::Bytes;
use remora_ir::action::{
    Forward, HostRewrite, Mirror, PathRewrite, Rewrite, RouteTimeouts, Target, Upgrade,
    WeightedCluster, WeightedClusters,
};
use remora_ir::cluster::Priority;
use remora_ir::{HeaderValue, StatusCode};
use remora_primitives::{Fraction, Weight};
use remora_xds_types::core::RoutingPriority;
use remora_xds_types::protobuf::Duration as ProtoDuration;
use remora_xds_types::route;
use remora_xds_types::route::route_action::{
    self, ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
    InternalRedirectAction,
};
use remora_xds_types::route::weighted_cluster;

use super::super::{Above, per_filter, retry};
use super::plain_text;
use crate::fault::Scope;
use crate::header_edit::{self, Said};
use crate::resource::Context;
use crate::{http, matcher, value};

/// Translates forwarding.
pub(crate) fn forward(
    scope: &Scope<'_>,
    message: route::RouteAction,
    above: Above<'_>,
) -> Option<Forward> {
    fields! { scope, message: route::RouteAction {
        honoured {
            cluster_not_found_response_code, prefix_rewrite, regex_rewrite, append_x_forwarded_host,
            timeout: "15 s if absent", idle_timeout, retry_policy, request_mirror_policies, priority,
            max_grpc_timeout: "the older form of `grpc_timeout_header_max`", grpc_timeout_offset: "the older form of `grpc_timeout_header_offset`",
            upgrade_configs, internal_redirect_action: "`PASS_THROUGH_INTERNAL_REDIRECT` only", max_stream_duration,
            cluster_specifier: "`cluster` or `weighted_clusters`", host_rewrite_specifier: "`host_rewrite_literal` or `auto_host_rewrite`"
        }
        ignored {
            flush_timeout: "the stream's idle bound holds",
            early_data_policy: "there is no early data",
            rate_limits: "read by rate limit filters, which are refused",
            include_vh_rate_limits: "read by rate limit filters, which are refused",
            hash_policy: "clusters with a policy that hashes are refused",
            max_internal_redirects: "redirects are passed on"
        }
        refused {
            metadata_match: "subsets of clusters",
            path_rewrite_policy: "path templates",
            path_rewrite: "formatted paths",
            retry_policy_typed_config: "retry plug-ins",
            cors: "cross-origin rules are not enforced, so they are not accepted",
            internal_redirect_policy: "redirects that the proxy follows",
            hedge_policy: "hedged requests"
        }
    }}
    let redirect_at = scope.field("internal_redirect_action");
    let redirects: Option<InternalRedirectAction> =
        value::word(&redirect_at, internal_redirect_action);
    if redirects == Some(InternalRedirectAction::HandleInternalRedirect) {
        redirect_at.fault("not supported: redirects that the proxy follows");
    }
    let target = target(scope, cluster_specifier, above.ctx);
    let rewrite = Rewrite {
        path: path_rewrite_of(scope, prefix_rewrite, regex_rewrite),
        host: host_rewrite(scope, host_rewrite_specifier),
        append_forwarded_host: append_x_forwarded_host,
    };
    let retry = retry_policy
        .and_then(|policy| retry::policy(&scope.field("retry_policy"), policy))
        .map(Arc::new);
    let own = mirrors(scope, request_mirror_policies, above.ctx);
    let timeouts = timeouts(
        scope,
        SaidTimeouts {
            timeout,
            idle: idle_timeout,
            stream: max_stream_duration,
            grpc_max: max_grpc_timeout,
            grpc_offset: grpc_timeout_offset,
        },
    );
    let upgrades = upgrades(scope, upgrade_configs);
    Some(Forward {
        target: target?,
        cluster_not_found: not_found(scope, cluster_not_found_response_code)?,
        rewrite,
        timeouts,
        retry,
        mirrors: if own.is_empty() {
            above.mirrors.to_vec()
        } else {
            own
        },
        priority: match value::word(&scope.field("priority"), priority)? {
            RoutingPriority::Default => Priority::Default,
            RoutingPriority::High => Priority::High,
        },
        upgrades,
    })
}

fn not_found(scope: &Scope<'_>, code: i32) -> Option<StatusCode> {
    let at = scope.field("cluster_not_found_response_code");
    let status = match value::word(&at, code)? {
        ClusterNotFoundResponseCode::ServiceUnavailable => 503,
        ClusterNotFoundResponseCode::NotFound => 404,
        ClusterNotFoundResponseCode::InternalServerError => 500,
    };
    at.take(StatusCode::try_new(status))
}

fn target(scope: &Scope<'_>, specifier: Option<ClusterSpecifier>, ctx: &Context) -> Option<Target> {
    match specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => {
            Some(Target::Cluster(ctx.slots.slot(&name)))
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(&scope.field("weighted_clusters"), weighted, ctx)
                .map(Target::Weighted)
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => {
            let at = scope.field("cluster_header");
            at.fault("not supported: clusters that the peer names");
            None
        }
        Some(
            ClusterSpecifier::ClusterSpecifierPlugin(_)
            | ClusterSpecifier::InlineClusterSpecifierPlugin(_),
        ) => {
            scope.fault("not supported: cluster plug-ins");
            None
        }
        Some(ClusterSpecifier::Cluster(_)) | None => {
            scope.field("cluster").fault("is missing");
            None
        }
    }
}

fn weighted_clusters(
    scope: &Scope<'_>,
    message: route::WeightedCluster,
    ctx: &Context,
) -> Option<WeightedClusters> {
    fields! { scope, message: route::WeightedCluster {
        honoured { clusters: "weights must not sum to zero" }
        ignored {
            total_weight: "the sum of the weights is the total",
            runtime_key_prefix: "there is no runtime"
        }
        refused { random_value_specifier: "a share that the peer chooses" }
    }}
    let numbered = clusters.into_iter().enumerate();
    let shares = numbered
        .filter_map(|(at, cluster)| share(&scope.item("clusters", at), cluster, ctx))
        .collect();
    let choice = WeightedClusters::new(shares);
    if choice.is_none() {
        scope.fault("weights sum to zero");
    }
    choice
}

/// One of several clusters; none for a weight of zero, which is legal and gets no requests.
fn share(
    scope: &Scope<'_>,
    message: weighted_cluster::ClusterWeight,
    ctx: &Context,
) -> Option<WeightedCluster> {
    fields! { scope, message: weighted_cluster::ClusterWeight {
        honoured {
            name: "required", weight: "0 gets nothing", request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, typed_per_filter_config: "see filter configuration of routes",
            host_rewrite_specifier
        }
        ignored {}
        refused {
            cluster_header: "clusters that the peer names",
            metadata_match: "subsets of clusters"
        }
    }}
    if name.is_empty() {
        scope.field("name").fault("is empty");
    }
    per_filter(scope, typed_per_filter_config);
    let said = Said {
        request_add: request_headers_to_add,
        request_remove: request_headers_to_remove,
        response_add: response_headers_to_add,
        response_remove: response_headers_to_remove,
    };
    let edits = header_edit::edits(scope, said);
    let host_rewrite = host_rewrite_specifier.and_then(|specifier| {
        let weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host) =
            specifier;
        literal_host(&scope.field("host_rewrite_literal"), &host)
    });
    Some(WeightedCluster {
        slot: ctx.slots.slot(&name),
        weight: Weight::try_new(value::number(weight).unwrap_or(0)).ok()?,
        edits,
        host_rewrite,
    })
}

fn path_rewrite_of(
    scope: &Scope<'_>,
    prefix: String,
    regex: Option<remora_xds_types::matcher::RegexMatchAndSubstitute>,
) -> Option<PathRewrite> {
    match (prefix.is_empty(), regex) {
        (true, None) => None,
        (false, None) => {
            plain_text(&scope.field("prefix_rewrite"), &prefix);
            Some(PathRewrite::Prefix(Bytes::from(prefix)))
        }
        (true, Some(rewrite)) => {
            let at = scope.field("regex_rewrite");
            matcher::regex_rewrite(&at, rewrite).map(PathRewrite::Regex)
        }
        (false, Some(_)) => {
            scope.fault("`prefix_rewrite` and `regex_rewrite` exclude each other");
            None
        }
    }
}

fn host_rewrite(scope: &Scope<'_>, specifier: Option<HostRewriteSpecifier>) -> Option<HostRewrite> {
    let unsupported = |field| {
        let at = scope.field(field);
        at.fault("not supported: only `host_rewrite_literal` and `auto_host_rewrite`");
        None
    };
    match specifier? {
        HostRewriteSpecifier::HostRewriteLiteral(host) => {
            literal_host(&scope.field("host_rewrite_literal"), &host).map(HostRewrite::Literal)
        }
        HostRewriteSpecifier::AutoHostRewrite(auto) => {
            auto.value.then_some(HostRewrite::EndpointName)
        }
        HostRewriteSpecifier::HostRewriteHeader(_) => unsupported("host_rewrite_header"),
        HostRewriteSpecifier::HostRewritePathRegex(_) => unsupported("host_rewrite_path_regex"),
        HostRewriteSpecifier::HostRewrite(_) => unsupported("host_rewrite"),
    }
}

fn literal_host(scope: &Scope<'_>, host: &str) -> Option<HeaderValue> {
    // What no header value can be is told here.
    plain_text(scope, host);
    HeaderValue::copy_from(host.as_bytes()).ok()
}

/// What was said of deadlines.
struct SaidTimeouts {
    timeout: Option<ProtoDuration>,
    idle: Option<ProtoDuration>,
    stream: Option<route_action::MaxStreamDuration>,
    grpc_max: Option<ProtoDuration>,
    grpc_offset: Option<ProtoDuration>,
}

/// Deadlines; `max_stream_duration` outranks the older gRPC fields, as in Envoy.
fn timeouts(scope: &Scope<'_>, said: SaidTimeouts) -> RouteTimeouts {
    let default = RouteTimeouts::DEFAULT;
    let timeout_at = scope.field("timeout");
    let idle_at = scope.field("idle_timeout");
    let mut timeouts = RouteTimeouts {
        overall: value::bound_or(&timeout_at, said.timeout, default.overall),
        idle: said
            .idle
            .map(|idle| value::bound_or(&idle_at, Some(idle), None)),
        ..default
    };
    let (mut grpc_max, mut grpc_offset) = (said.grpc_max, said.grpc_offset);
    if let Some(message) = said.stream {
        let scope = scope.field("max_stream_duration");
        fields! { &scope, message: route_action::MaxStreamDuration {
            honoured { max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset }
            ignored {}
            refused {}
        }}
        let at = scope.field("max_stream_duration");
        timeouts.max_stream = value::bound_or(&at, max_stream_duration, None);
        grpc_max = grpc_timeout_header_max.or(grpc_max);
        grpc_offset = grpc_timeout_header_offset.or(grpc_offset);
    }
    let max_at = scope.field("grpc_timeout_header_max");
    let offset_at = scope.field("grpc_timeout_header_offset");
    timeouts.grpc_max = grpc_max.map(|max| value::bound_or(&max_at, Some(max), None));
    timeouts.grpc_offset = value::bound_or(&offset_at, grpc_offset, None);
    timeouts
}

fn upgrades(scope: &Scope<'_>, configs: Vec<route_action::UpgradeConfig>) -> Vec<Upgrade> {
    let translate = |(at, message): (usize, route_action::UpgradeConfig)| {
        let scope = scope.item("upgrade_configs", at);
        fields! { &scope, message: route_action::UpgradeConfig {
            honoured { upgrade_type: "required", enabled }
            ignored {}
            refused { connect_config: "tunnels that end here" }
        }}
        http::upgrade(&scope, &upgrade_type, value::flag(enabled, true))
    };
    configs
        .into_iter()
        .enumerate()
        .filter_map(translate)
        .collect()
}

/// Translates mirrors.
pub(crate) fn mirrors(
    scope: &Scope<'_>,
    policies: Vec<route_action::RequestMirrorPolicy>,
    ctx: &Context,
) -> Vec<Mirror> {
    let numbered = policies.into_iter().enumerate();
    numbered
        .filter_map(|(at, policy)| mirror(&scope.item("request_mirror_policies", at), policy, ctx))
        .collect()
}

fn mirror(
    scope: &Scope<'_>,
    message: route_action::RequestMirrorPolicy,
    ctx: &Context,
) -> Option<Mirror> {
    fields! { scope, message: route_action::RequestMirrorPolicy {
        honoured { cluster: "required", runtime_fraction: "all requests if absent" }
        ignored {
            trace_sampled: "spans are not reported",
            disable_shadow_host_suffix_append: "the copy's host always ends in `-shadow`"
        }
        refused {
            cluster_header: "clusters that the peer names",
            request_headers_mutations: "edits of copies",
            host_rewrite_literal: "edits of copies"
        }
    }}
    if cluster.is_empty() {
        scope.field("cluster").fault("is empty");
    }
    let share = match runtime_fraction {
        None => Fraction::ALWAYS,
        Some(said) => value::runtime_fraction(&scope.field("runtime_fraction"), said)?,
    };
    Some(Mirror {
        slot: ctx.slots.slot(&cluster),
        share,
    })
}
