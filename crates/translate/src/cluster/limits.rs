// SPDX-License-Identifier: Apache-2.0
//! Circuit limits.

use remora_ir::cluster::{CircuitLimits, Limit, RetryLimit, Thresholds};
use remora_primitives::Percent;
use remora_xds_types::cluster;
use remora_xds_types::cluster::circuit_breakers;
use remora_xds_types::cluster::circuit_breakers::thresholds;
use remora_xds_types::core::RoutingPriority;
use remora_xds_types::protobuf::UInt32Value;

use crate::fault::Scope;
use crate::value;

/// Envoy's share of requests that may be retries at once. Unit: percent.
const BUDGET: f64 = 20.0;
/// Envoy's number of retries that are always allowed.
const MIN_CONCURRENCY: u32 = 3;

/// Translates the limits of both priorities.
pub(super) fn limits(
    scope: &Scope<'_>,
    said: Option<cluster::CircuitBreakers>,
) -> Option<CircuitLimits> {
    let mut limits = CircuitLimits::default();
    let Some(message) = said else {
        return Some(limits);
    };
    let scope = scope.field("circuit_breakers");
    fields! { &scope, message: cluster::CircuitBreakers {
        honoured { thresholds: "the first of a priority" }
        ignored {}
        refused { per_host_thresholds: "limits by host" }
    }}
    let mut seen = [false; 2];
    let mut is_good = true;
    for (at, message) in thresholds.into_iter().enumerate() {
        let scope = scope.item("thresholds", at);
        let Some((priority, thresholds)) = one(&scope, message) else {
            is_good = false;
            continue;
        };
        let (place, seen) = match priority {
            RoutingPriority::Default => (&mut limits.default, &mut seen[0]),
            RoutingPriority::High => (&mut limits.high, &mut seen[1]),
        };
        if !std::mem::replace(seen, true) {
            *place = thresholds;
        }
    }
    is_good.then_some(limits)
}

fn one(
    scope: &Scope<'_>,
    message: circuit_breakers::Thresholds,
) -> Option<(RoutingPriority, Thresholds)> {
    fields! { scope, message: circuit_breakers::Thresholds {
        honoured {
            priority, max_connections: "1024 if absent; 2^32-1 is no limit", max_pending_requests: "likewise",
            max_requests: "likewise", max_retries: "3 if absent; likewise", retry_budget
        }
        ignored {
            track_remaining: "statistics only",
            max_connection_pools: "a host has one pool in each worker"
        }
        refused {}
    }}
    let default = Thresholds::default();
    let limit = |said: Option<UInt32Value>, default: Limit| match value::number(said) {
        None => default,
        Some(u32::MAX) => Limit::Unlimited,
        Some(most) => Limit::AtMost(most),
    };
    let retries = match retry_budget {
        Some(message) => budget(&scope.field("retry_budget"), message)?,
        None => match max_retries {
            None => default.retries,
            said => RetryLimit::Fixed(limit(said, Limit::Unlimited)),
        },
    };
    let priority = value::word(&scope.field("priority"), priority)?;
    Some((
        priority,
        Thresholds {
            connections: limit(max_connections, default.connections),
            pending: limit(max_pending_requests, default.pending),
            requests: limit(max_requests, default.requests),
            retries,
        },
    ))
}

fn budget(scope: &Scope<'_>, message: thresholds::RetryBudget) -> Option<RetryLimit> {
    fields! { scope, message: thresholds::RetryBudget {
        honoured { budget_percent: "20 % if absent", min_retry_concurrency: "3 if absent" }
        ignored { budget_interval: "what is under way is counted" }
        refused {}
    }}
    let percent: Percent = value::percent(
        &scope.field("budget_percent"),
        budget_percent.map_or(BUDGET, |percent| percent.value),
    )?;
    Some(RetryLimit::Budget {
        percent,
        min_concurrency: value::number(min_retry_concurrency).unwrap_or(MIN_CONCURRENCY),
    })
}
