// SPDX-License-Identifier: Apache-2.0
//! Limits, ejection, balancing: a destination policy's sections as a cluster's fields.

use remora_model::{
    ConnectionPool, EffectivePolicy, KeepAlive, OutlierDetection, RetryBudget, SimpleBalancer,
    Warmup,
};
use remora_primitives::Percent;
use remora_xds_types::cluster::circuit_breakers::{Thresholds, thresholds};
use remora_xds_types::cluster::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use remora_xds_types::cluster::{
    CircuitBreakers, Cluster, OutlierDetection as ProtoOutlierDetection, UpstreamConnectionOptions,
};
use remora_xds_types::core::{RuntimeDouble, TcpKeepalive};

use crate::scope::MeshSettings;
use crate::wire;

/// "No limit", in the API's words.
const UNLIMITED: u32 = u32::MAX;

/// Fills in what the policy says; sections that are missing get the mesh's defaults.
pub(super) fn apply(cluster: &mut Cluster, policy: &EffectivePolicy, settings: &MeshSettings) {
    let pool = policy.connection_pool.clone().unwrap_or_default();
    let written = pool.connect_timeout.and_then(wire::positive);
    cluster.connect_timeout = written.or_else(|| wire::positive(settings.connect_timeout));
    cluster.circuit_breakers = Some(limits(&pool, policy.retry_budget));
    cluster.upstream_connection_options = pool.keep_alive.map(keep_alive);
    // An address that the caller chose can be neither balanced nor left out.
    if cluster.lb_policy == i32::from(LbPolicy::ClusterProvided) {
        return;
    }
    if let Some(balancer) = &policy.load_balancer {
        balance(cluster, balancer.simple, balancer.warmup.as_ref());
    }
    if let Some(detection) = &policy.outlier_detection {
        cluster.outlier_detection = Some(outlier_detection(detection));
        cluster.common_lb_config = Some(CommonLbConfig {
            healthy_panic_threshold: wire::percent(detection.min_health.unwrap_or(Percent::ZERO)),
            ..cluster.common_lb_config.take().unwrap_or_default()
        });
    }
}

fn limits(pool: &ConnectionPool, budget: Option<RetryBudget>) -> CircuitBreakers {
    let or_unlimited = |limit: Option<u32>| wire::number(limit.unwrap_or(UNLIMITED));
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: or_unlimited(pool.max_connections),
            max_pending_requests: or_unlimited(pool.max_pending_requests),
            max_requests: or_unlimited(pool.max_requests),
            max_retries: or_unlimited(pool.max_retries),
            retry_budget: budget.map(|budget| thresholds::RetryBudget {
                budget_percent: budget.share.and_then(wire::percent),
                min_retry_concurrency: budget.min_concurrency.and_then(wire::number),
                ..thresholds::RetryBudget::default()
            }),
            ..Thresholds::default()
        }],
        ..CircuitBreakers::default()
    }
}

fn keep_alive(probes: KeepAlive) -> UpstreamConnectionOptions {
    let seconds = |time: std::time::Duration| {
        // The system counts whole seconds, at least one.
        wire::number(u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1))
    };
    UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: probes.probes.and_then(wire::number),
            keepalive_time: probes.time.and_then(seconds),
            keepalive_interval: probes.interval.and_then(seconds),
        }),
        ..UpstreamConnectionOptions::default()
    }
}

fn balance(cluster: &mut Cluster, simple: Option<SimpleBalancer>, warmup: Option<&Warmup>) {
    let slow_start_config = warmup.map(slow_start);
    let (policy, config) = match simple.unwrap_or(SimpleBalancer::LeastRequest) {
        SimpleBalancer::LeastRequest => (
            LbPolicy::LeastRequest,
            slow_start_config.map(|slow| {
                LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                    slow_start_config: Some(slow),
                    ..LeastRequestLbConfig::default()
                })
            }),
        ),
        SimpleBalancer::RoundRobin => (
            LbPolicy::RoundRobin,
            slow_start_config.map(|slow| {
                LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
                    slow_start_config: Some(slow),
                })
            }),
        ),
        SimpleBalancer::Random => (LbPolicy::Random, None),
        SimpleBalancer::Passthrough => (LbPolicy::ClusterProvided, None),
    };
    cluster.lb_policy = policy.into();
    cluster.lb_config = config;
}

fn slow_start(warmup: &Warmup) -> SlowStartConfig {
    const LINEAR: u32 = 1000;
    SlowStartConfig {
        slow_start_window: wire::duration(warmup.duration),
        aggression: (warmup.aggression_thousandths != LINEAR).then(|| RuntimeDouble {
            default_value: f64::from(warmup.aggression_thousandths) / f64::from(LINEAR),
            ..RuntimeDouble::default()
        }),
        min_weight_percent: warmup.minimum.and_then(wire::percent),
    }
}

/// Ejection happens for what is counted and for nothing else: the API's success-rate analysis,
/// which is on by default, is switched off as under Istio.
fn outlier_detection(detection: &OutlierDetection) -> ProtoOutlierDetection {
    let enforcing = |count: Option<u32>| {
        let on = count.is_some_and(|count| count > 0);
        wire::number(if on { 100 } else { 0 })
    };
    let counted = |count: Option<u32>| count.filter(|count| *count > 0).and_then(wire::number);
    const DEFAULT_5XX: u32 = 5;
    let consecutive_5xx = Some(detection.consecutive_5xx.unwrap_or(DEFAULT_5XX));
    let local = detection.split_local_origin.then(|| {
        detection
            .consecutive_local_origin_failures
            .unwrap_or(DEFAULT_5XX)
    });
    ProtoOutlierDetection {
        consecutive_5xx: counted(consecutive_5xx),
        enforcing_consecutive_5xx: enforcing(consecutive_5xx),
        consecutive_gateway_failure: counted(detection.consecutive_gateway_errors),
        enforcing_consecutive_gateway_failure: enforcing(detection.consecutive_gateway_errors),
        split_external_local_origin_errors: detection.split_local_origin,
        consecutive_local_origin_failure: counted(local),
        enforcing_consecutive_local_origin_failure: local.and_then(|n| enforcing(Some(n))),
        interval: detection.interval.and_then(wire::positive),
        base_ejection_time: detection.base_ejection_time.and_then(wire::positive),
        max_ejection_percent: detection
            .max_ejection
            .and_then(|share| wire::number(wire::whole_percent(share))),
        enforcing_success_rate: wire::number(0),
        ..ProtoOutlierDetection::default()
    }
}
