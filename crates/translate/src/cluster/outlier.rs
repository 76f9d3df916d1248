// SPDX-License-Identifier: Apache-2.0
//! Outlier ejection: when a host is put aside.

use std::num::NonZeroU32;
use std::time::Duration;

use remora_ir::cluster::{ErrorsInARow, OutlierPolicy};
use remora_xds_types::cluster;
use remora_xds_types::protobuf::UInt32Value;

use crate::fault::Scope;
use crate::value;

/// Envoy's defaults.
const INTERVAL: Duration = Duration::from_secs(10);
const BASE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);
const MAX_EJECTED: u32 = 10;
const THRESHOLD: u32 = 5;

/// Translates a policy.
pub(super) fn policy(
    scope: &Scope<'_>,
    message: cluster::OutlierDetection,
) -> Option<OutlierPolicy> {
    fields! { scope, message: cluster::OutlierDetection {
        honoured {
            consecutive_5xx: "5 if absent", interval: "10 s if absent", base_ejection_time: "30 s if absent",
            max_ejection_percent: "10 % if absent", enforcing_consecutive_5xx: "100 % if absent", enforcing_success_rate: "0 is off, anything else is ignored and reported",
            consecutive_gateway_failure: "5 if absent", enforcing_consecutive_gateway_failure: "0 % if absent",
            split_external_local_origin_errors, consecutive_local_origin_failure: "5 if absent",
            enforcing_consecutive_local_origin_failure: "100 % if absent", enforcing_local_origin_success_rate: "0 is off, anything else is ignored and reported",
            enforcing_failure_percentage: "0 is off, anything else is ignored and reported",
            enforcing_failure_percentage_local_origin: "0 is off, anything else is ignored and reported",
            max_ejection_time: "300 s if absent, or `base_ejection_time` if that is longer", max_ejection_time_jitter, always_eject_one_host
        }
        ignored {
            success_rate_minimum_hosts: "hosts are not compared by their success rates",
            success_rate_request_volume: "hosts are not compared by their success rates",
            success_rate_stdev_factor: "hosts are not compared by their success rates",
            failure_percentage_threshold: "hosts are not judged by their failure percentages",
            failure_percentage_minimum_hosts: "hosts are not judged by their failure percentages",
            failure_percentage_request_volume: "hosts are not judged by their failure percentages",
            successful_active_health_check_uneject_host: "there are no active health checks",
            detect_degraded_hosts: "answers do not degrade hosts"
        }
        refused { monitors: "custom monitors" }
    }}
    let rates = [
        ("enforcing_success_rate", enforcing_success_rate),
        (
            "enforcing_local_origin_success_rate",
            enforcing_local_origin_success_rate,
        ),
        ("enforcing_failure_percentage", enforcing_failure_percentage),
        (
            "enforcing_failure_percentage_local_origin",
            enforcing_failure_percentage_local_origin,
        ),
    ];
    for (field, said) in rates {
        if value::number(said).is_some_and(|enforcing| enforcing > 0) {
            scope.field(field).notice(
                &format!("envoy.config.cluster.v3.OutlierDetection.{field}"),
                "hosts are judged by errors in a row only",
            );
        }
    }
    let ejected_at = scope.field("max_ejection_percent");
    let ejected = value::number(max_ejection_percent).unwrap_or(MAX_EJECTED);
    let base = value::positive_or(&scope.field("base_ejection_time"), base_ejection_time, BASE);
    let longest_at = scope.field("max_ejection_time");
    let longest = value::duration_or(&longest_at, max_ejection_time, LONGEST);
    let jitter_at = scope.field("max_ejection_time_jitter");
    let five = Detector::new("5xx", consecutive_5xx, enforcing_consecutive_5xx, 100);
    let gateway = Detector::new(
        "gateway_failure",
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        0,
    );
    let local = Detector::new(
        "local_origin_failure",
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        100,
    );
    let (five, gateway, local) = (five.read(scope), gateway.read(scope), local.read(scope));
    Some(OutlierPolicy {
        interval: value::positive_or(&scope.field("interval"), interval, INTERVAL),
        base_ejection: base,
        max_ejection: longest.max(base),
        ejection_jitter: value::duration_or(&jitter_at, max_ejection_time_jitter, Duration::ZERO),
        max_ejected: value::percent(&ejected_at, ejected.into())?,
        always_one: value::flag(always_eject_one_host, false),
        consecutive_5xx: five?,
        consecutive_gateway: gateway?,
        consecutive_local_origin: local?.filter(|_| split_external_local_origin_errors),
        split_external: split_external_local_origin_errors,
    })
}

/// What is said of one detector.
struct Detector {
    name: &'static str,
    threshold: Option<UInt32Value>,
    enforcing: Option<UInt32Value>,
    enforcing_default: u32,
}

impl Detector {
    const fn new(
        name: &'static str,
        threshold: Option<UInt32Value>,
        enforcing: Option<UInt32Value>,
        enforcing_default: u32,
    ) -> Self {
        Self {
            name,
            threshold,
            enforcing,
            enforcing_default,
        }
    }

    /// The detector; off if it is not enforced or has no threshold.
    fn read(self, scope: &Scope<'_>) -> Option<Option<ErrorsInARow>> {
        let enforcing = value::number(self.enforcing).unwrap_or(self.enforcing_default);
        let Some(enforcing) = u8::try_from(enforcing)
            .ok()
            .filter(|percent| *percent <= 100)
        else {
            let field = format!("enforcing_consecutive_{}", self.name);
            scope
                .field(&field)
                .fault(format!("{enforcing} (expected 0 to 100)"));
            return None;
        };
        let threshold = NonZeroU32::new(value::number(self.threshold).unwrap_or(THRESHOLD));
        let detector = threshold.map(|threshold| ErrorsInARow {
            threshold,
            enforcing,
        });
        Some(detector.filter(|_| enforcing > 0))
    }
}
