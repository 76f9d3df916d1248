// SPDX-License-Identifier: Apache-2.0
//! Clusters: how endpoints are found and chosen, how connections are made, when to stop.

mod balancing;
mod connection;
mod discovery;
mod limits;
mod outlier;

use remora_ir::cluster::{Cluster, Discovery, Policy};
use remora_xds_types::cluster;
use remora_xds_types::core;
use remora_xds_types::core::transport_socket::ConfigType;

use crate::extension::{self, Need};
use crate::fault::Scope;
use crate::resource::{Context, named};
use crate::verdict::Verdict;

/// Translates a cluster.
#[allow(clippy::too_many_lines, reason = "most of it is the table of verdicts")]
pub(crate) fn cluster(
    scope: &Scope<'_>,
    message: cluster::Cluster,
    ctx: &Context,
) -> Option<Cluster> {
    fields! { scope, message: cluster::Cluster {
        honoured {
            transport_socket_matches: "`raw_buffer` only", name: "required", alt_stat_name, eds_cluster_config,
            connect_timeout: "5 s if absent", lb_policy: "`ROUND_ROBIN`, `LEAST_REQUEST`, `RANDOM`, `CLUSTER_PROVIDED`, `LOAD_BALANCING_POLICY_CONFIG`",
            load_assignment, max_requests_per_connection, circuit_breakers, common_http_protocol_options: "older than the typed options",
            http_protocol_options: "older than the typed options", http2_protocol_options: "older than the typed options",
            typed_extension_protocol_options: "`HttpProtocolOptions`", dns_refresh_rate: "5 s if absent",
            dns_lookup_family, outlier_detection, upstream_bind_config, lb_subset_config: "without selectors only", common_lb_config,
            transport_socket: "`raw_buffer` only", protocol_selection: "older than the typed options", upstream_connection_options,
            filters: "see cluster filters", load_balancing_policy: "see load balancing policies",
            cluster_discovery_type: "`STATIC`, `STRICT_DNS`, `LOGICAL_DNS` (as `STRICT_DNS`), `EDS`, `ORIGINAL_DST`", lb_config
        }
        ignored {
            stats_matcher: "statistics have names of their own",
            per_connection_buffer_limit_bytes: "buffers are small and bounded",
            per_connection_buffer_high_watermark_timeout: "buffers are small and bounded",
            upstream_http_protocol_options: "of TLS only",
            respect_dns_ttl: "the refresh rate decides: the system's resolver tells no time to live",
            dns_jitter: "workers do not resolve in step",
            dns_failure_refresh_rate: "failures are tried again with back-off",
            use_tcp_for_dns_lookups: "the resolver chooses",
            typed_dns_resolver_config: "there is one resolver",
            wait_for_warm_on_init: "nothing waits for a cluster that is not used",
            cleanup_interval: "hosts without connections are forgotten",
            metadata: "nothing reads it",
            close_connections_on_host_health_failure: "connections in use finish",
            ignore_health_on_host_removal: "removed hosts finish what they have",
            lrs_server: "load is not reported",
            lrs_report_endpoint_metrics: "load is not reported",
            track_timeout_budgets: "statistics only",
            track_cluster_stats: "statistics only",
            preconnect_policy: "connections are made when they are needed",
            queuing_policies: "waiting requests are bounded by circuit limits"
        }
        refused {
            transport_socket_matcher: "transport sockets by matching tree",
            health_checks: "active health checks",
            dns_resolvers: "other resolvers than the machine's",
            dns_resolution_config: "other resolvers than the machine's",
            upstream_config: "custom upstreams",
            connection_pool_per_downstream_connection: "pools of their own"
        }
    }}
    named(scope, &name);
    plain_text(&scope.field("transport_socket"), transport_socket);
    for (at, matches) in transport_socket_matches.into_iter().enumerate() {
        socket_match(&scope.item("transport_socket_matches", at), matches);
    }
    for (at, message) in filters.into_iter().enumerate() {
        filter(&scope.item("filters", at), message);
    }
    if lb_subset_config.is_some_and(|subsets| !subsets.subset_selectors.is_empty()) {
        scope
            .field("lb_subset_config")
            .fault("not supported: subsets of clusters");
    }
    let discovery = discovery::discovery(
        scope,
        discovery::Said {
            name: &name,
            kind: cluster_discovery_type,
            eds: eds_cluster_config,
            assignment: load_assignment,
            dns_refresh: dns_refresh_rate,
            families: dns_lookup_family,
            lb_config: lb_config.as_ref(),
        },
    );
    let balancing = balancing::balancing(
        scope,
        balancing::Said {
            policy: lb_policy,
            config: lb_config,
            typed: load_balancing_policy,
            common: common_lb_config,
        },
    );
    let http = connection::http(
        scope,
        connection::SaidHttp {
            typed: typed_extension_protocol_options,
            common: common_http_protocol_options,
            http1: http_protocol_options,
            http2: http2_protocol_options,
            selection: protocol_selection,
        },
    );
    let connection = connection::connection(
        scope,
        connection::Said {
            connect_timeout,
            max_requests: max_requests_per_connection,
            bind: upstream_bind_config,
            options: upstream_connection_options,
        },
        http.as_ref(),
    );
    let limits = limits::limits(scope, circuit_breakers);
    let outlier =
        outlier_detection.map(|said| outlier::policy(&scope.field("outlier_detection"), said));
    let (discovery, balancing) = (discovery?, balancing?);
    let is_provided = balancing.policy == Policy::ClusterProvided;
    if matches!(discovery, Discovery::OriginalDst { .. }) != is_provided {
        scope
            .field("lb_policy")
            .fault("`CLUSTER_PROVIDED` and `ORIGINAL_DST` go with each other only");
    }
    Some(Cluster {
        slot: ctx.slots.slot(&name),
        stat_name: (!alt_stat_name.is_empty()).then(|| alt_stat_name.into()),
        discovery,
        balancing,
        connection: connection?,
        protocol: http?.protocol,
        limits: limits?,
        outlier: match outlier {
            None => None,
            Some(policy) => Some(policy?),
        },
    })
}

/// A transport socket must be none or the raw one.
pub(crate) fn plain_text(scope: &Scope<'_>, socket: Option<core::TransportSocket>) {
    let Some(message) = socket else { return };
    fields! { scope, message: core::TransportSocket {
        honoured { name: "`envoy.transport_sockets.raw_buffer` says the type if none is given", config_type }
        ignored {}
        refused {}
    }}
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        if name != "envoy.transport_sockets.raw_buffer" {
            scope.field("typed_config").fault("is missing");
        }
        return;
    };
    let at = scope.field("typed_config");
    let Some(kind) = extension::name_of(&at, &any) else {
        return;
    };
    let row = extension::row(extension::TRANSPORT_SOCKETS, &kind);
    if !matches!(row, Some((_, Verdict::Honoured, _))) {
        extension::judge(&at, extension::TRANSPORT_SOCKETS, &kind, Need::Required);
    }
}

/// All that could be chosen is the raw socket, so which endpoints choose it does not matter.
fn socket_match(scope: &Scope<'_>, message: cluster::cluster::TransportSocketMatch) {
    use cluster::cluster;
    fields! { scope, message: cluster::TransportSocketMatch {
        honoured { name: "a label; the type says what it is", transport_socket: "`raw_buffer` only" }
        ignored {
            r#match: "all sockets that could be chosen are the same"
        }
        refused {}
    }}
    let _: String = name;
    plain_text(&scope.field("transport_socket"), transport_socket);
}

fn filter(scope: &Scope<'_>, message: cluster::Filter) {
    fields! { scope, message: cluster::Filter {
        honoured { name: "a label; the type says what it is", typed_config: "see cluster filters" }
        ignored {}
        refused { config_discovery: "filters by discovery" }
    }}
    let _: String = name;
    let at = scope.field("typed_config");
    let Some(any) = typed_config else {
        return at.fault("is missing");
    };
    if let Some(name) = extension::name_of(&at, &any) {
        extension::judge(&at, extension::CLUSTER_FILTERS, &name, Need::Required);
    }
}
