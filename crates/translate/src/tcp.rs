// SPDX-License-Identifier: Apache-2.0
//! The TCP proxy: bytes to a cluster.

use std::num::NonZeroU32;
use std::time::Duration;

use remora_ir::action::{Target, WeightedCluster, WeightedClusters};
use remora_ir::header_edit::MessageEdits;
use remora_ir::listener::TcpProxy;
use remora_primitives::Weight;
use remora_xds_types::protobuf::Any;
use remora_xds_types::tcp_proxy;
use remora_xds_types::tcp_proxy::UpstreamConnectMode;
use remora_xds_types::tcp_proxy::tcp_proxy::ClusterSpecifier;

use crate::fault::Scope;
use crate::resource::Context;
use crate::{access_log, extension, value};

/// Envoy's bound on a silent connection.
const IDLE: Duration = Duration::from_secs(3600);

/// Translates a TCP proxy.
pub(crate) fn proxy(scope: &Scope<'_>, any: &Any, ctx: &Context) -> Option<TcpProxy> {
    let message: tcp_proxy::TcpProxy = extension::decode(scope, any)?;
    fields! { scope, message: tcp_proxy::TcpProxy {
        honoured {
            stat_prefix, idle_timeout, access_log, max_connect_attempts, max_downstream_connection_duration,
            upstream_connect_mode: "`IMMEDIATE` only", cluster_specifier: "required"
        }
        ignored {
            downstream_idle_timeout: "`idle_timeout` bounds both sides",
            upstream_idle_timeout: "`idle_timeout` bounds both sides",
            backoff_options: "the next attempt follows at once",
            hash_policy: "no policy here hashes",
            max_downstream_connection_duration_jitter_percentage: "the duration holds as it is",
            access_log_flush_interval: "connections are logged when they end",
            flush_access_log_on_connected: "connections are logged when they end",
            access_log_options: "connections are logged when they end",
            max_early_data_bytes: "of other connect modes only",
            check_drain_close: "connections are closed at the end of the grace"
        }
        refused {
            on_demand: "clusters on demand",
            metadata_match: "subsets of clusters",
            tunneling_config: "tunnels",
            proxy_protocol_tlvs: "the PROXY protocol",
            proxy_protocol_tlv_merge_policy: "the PROXY protocol"
        }
    }}
    let mode_at = scope.field("upstream_connect_mode");
    if value::word::<UpstreamConnectMode>(&mode_at, upstream_connect_mode)?
        != UpstreamConnectMode::Immediate
    {
        mode_at.fault("not supported: only `IMMEDIATE`");
    }
    let attempts = value::number(max_connect_attempts).unwrap_or(1);
    let connect_attempts = NonZeroU32::new(attempts);
    if connect_attempts.is_none() {
        scope
            .field("max_connect_attempts")
            .fault("is zero (expected 1 or more)");
    }
    let duration_at = scope.field("max_downstream_connection_duration");
    let target = target(scope, cluster_specifier, ctx);
    Some(TcpProxy {
        stat_prefix: stat_prefix.into(),
        target: target?,
        idle_timeout: value::bound_or(&scope.field("idle_timeout"), idle_timeout, Some(IDLE)),
        max_duration: value::bound_or(&duration_at, max_downstream_connection_duration, None),
        connect_attempts: connect_attempts?,
        access_logs: access_log::logs(scope, access_log),
    })
}

fn target(scope: &Scope<'_>, specifier: Option<ClusterSpecifier>, ctx: &Context) -> Option<Target> {
    match specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => {
            Some(Target::Cluster(ctx.slots.slot(&name)))
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let at = scope.field("weighted_clusters");
            let numbered = weighted.clusters.into_iter().enumerate();
            let clusters = numbered
                .filter_map(|(n, cluster)| share(&at.item("clusters", n), cluster, ctx))
                .collect();
            let choice = WeightedClusters::new(clusters);
            if choice.is_none() {
                at.fault("has no cluster");
            }
            choice.map(Target::Weighted)
        }
        Some(ClusterSpecifier::Cluster(_)) | None => {
            scope.field("cluster").fault("is missing");
            None
        }
    }
}

fn share(
    scope: &Scope<'_>,
    message: tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight,
    ctx: &Context,
) -> Option<WeightedCluster> {
    use tcp_proxy::tcp_proxy::weighted_cluster;
    fields! { scope, message: weighted_cluster::ClusterWeight {
        honoured { name: "required", weight: "1 or more" }
        ignored {}
        refused { metadata_match: "subsets of clusters" }
    }}
    if name.is_empty() {
        scope.field("name").fault("is empty");
    }
    Some(WeightedCluster {
        slot: ctx.slots.slot(&name),
        weight: scope.field("weight").take(Weight::try_new(weight))?,
        edits: MessageEdits::default(),
        host_rewrite: None,
    })
}
