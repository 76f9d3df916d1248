// SPDX-License-Identifier: Apache-2.0
//! A cluster's statistics, under Envoy's names (`cluster.<name>.…`).
//!
//! Two halves. [`ClusterStats`] is one worker's: counted on the road, each cell written by that
//! thread alone, bound when the worker first touches the cluster, so that no name is looked up
//! later. [`ClusterGauges`] is the control thread's: what can be told from live state (membership,
//! ejections, open circuits) is not counted on the road but read there and set here.

use std::cell::RefCell;

use remora_balance::{ClusterLimits, EjectionKind, Membership, OutlierCounts, Resource};
use remora_http::StatusCode;
use remora_ir::cluster::Priority;
use remora_telemetry::{Counter, Gauge, Histogram, Scope, SharedCounter};

macro_rules! cluster_stats {
    ($($field:ident $name:literal $doc:literal)*) => {
        /// One worker's counters of one cluster.
        #[derive(Debug)]
        pub struct ClusterStats {
            $(#[doc = concat!("`", $name, "`: ", $doc, ".")]
            pub $field: Counter,)*
            /// `upstream_cx_active`: connections open.
            pub cx_active: Gauge,
            /// `upstream_rq_active`: requests under way.
            pub rq_active: Gauge,
            /// `upstream_rq_pending_active`: requests waiting for a connection.
            pub rq_pending_active: Gauge,
            /// `upstream_rq_time`: from the request to the end of the response.
            pub rq_time: Histogram,
            /// `upstream_cx_connect_ms`: how long connections took to establish.
            pub cx_connect_time: Histogram,
            classes: [Counter; 5],
            codes: RefCell<Vec<(StatusCode, Counter)>>,
            scope: Scope,
        }

        impl ClusterStats {
            /// Binds a worker's cells; called on its thread.
            pub(super) fn bind(scope: Scope) -> Self {
                let class = |n: u8| scope.counter(format!("upstream_rq_{n}xx"));
                Self {
                    $($field: scope.counter($name),)*
                    cx_active: scope.gauge("upstream_cx_active"),
                    rq_active: scope.gauge("upstream_rq_active"),
                    rq_pending_active: scope.gauge("upstream_rq_pending_active"),
                    rq_time: scope.histogram("upstream_rq_time"),
                    cx_connect_time: scope.histogram("upstream_cx_connect_ms"),
                    classes: [class(1), class(2), class(3), class(4), class(5)],
                    codes: RefCell::default(),
                    scope,
                }
            }
        }
    };
}

cluster_stats! {
    cx_total "upstream_cx_total" "connections opened or tried"
    cx_http1_total "upstream_cx_http1_total" "HTTP/1 connections"
    cx_http2_total "upstream_cx_http2_total" "HTTP/2 connections"
    cx_connect_fail "upstream_cx_connect_fail" "connections that could not be established"
    cx_connect_timeout "upstream_cx_connect_timeout" "of these, for want of an answer"
    cx_connect_attempts_exceeded "upstream_cx_connect_attempts_exceeded"
        "TCP sessions given up after all their attempts"
    cx_overflow "upstream_cx_overflow" "times that the limit allowed no further connection"
    cx_destroy "upstream_cx_destroy" "connections closed"
    cx_destroy_local "upstream_cx_destroy_local" "by this proxy"
    cx_destroy_remote "upstream_cx_destroy_remote" "by the upstream"
    cx_destroy_with_active_rq "upstream_cx_destroy_with_active_rq"
        "connections closed with a request under way"
    cx_close_notify "upstream_cx_close_notify" "connections whose upstream announced their end"
    cx_idle_timeout "upstream_cx_idle_timeout" "connections closed after long silence"
    cx_max_requests "upstream_cx_max_requests" "connections that served as many as allowed"
    cx_max_duration_reached "upstream_cx_max_duration_reached" "connections closed for their age"
    cx_none_healthy "upstream_cx_none_healthy" "times that no host could be picked"
    cx_protocol_error "upstream_cx_protocol_error" "upstreams that broke the protocol"
    rq_total "upstream_rq_total" "requests sent"
    rq_completed "upstream_rq_completed" "requests answered, by the upstream or in its place"
    rq_pending_total "upstream_rq_pending_total" "requests that had to wait for a connection"
    rq_pending_overflow "upstream_rq_pending_overflow" "requests that a limit refused"
    rq_pending_failure_eject "upstream_rq_pending_failure_eject"
        "waiting requests whose connection failed"
    rq_cancelled "upstream_rq_cancelled" "requests given up while waiting"
    rq_dropped "upstream_rq_drop_overload" "requests dropped at the control plane's wish"
    rq_timeout "upstream_rq_timeout" "requests without an answer in time"
    rq_max_duration_reached "upstream_rq_max_duration_reached" "requests older than allowed"
    rq_per_try_timeout "upstream_rq_per_try_timeout" "attempts without an answer in time"
    rq_rx_reset "upstream_rq_rx_reset" "requests that the upstream broke off"
    rq_tx_reset "upstream_rq_tx_reset" "requests broken off here"
    rq_retry "upstream_rq_retry" "retries"
    rq_retry_success "upstream_rq_retry_success" "retries that succeeded"
    rq_retry_overflow "upstream_rq_retry_overflow" "retries that the limit refused"
    rq_retry_limit_exceeded "upstream_rq_retry_limit_exceeded" "requests with all retries used up"
    lb_healthy_panic "lb_healthy_panic" "picks that ignored health"
    mirror_total "mirror_rq_total" "requests mirrored to this cluster"
    mirror_dropped "mirror_rq_dropped" "mirrored requests that found no place"
}

impl ClusterStats {
    /// Counts a response by class and code, and as completed. Codes without a registered meaning
    /// count by class only: what upstreams make up bounds nothing.
    pub fn count_status(&self, status: StatusCode) {
        let class = usize::from(status.get() / 100).saturating_sub(1);
        if let Some(counter) = self.classes.get(class) {
            counter.increment();
        }
        self.rq_completed.increment();
        if status.canonical_reason().is_empty() {
            return;
        }
        // A cluster answers with a handful of codes; the first comparison mostly hits.
        let mut codes = self.codes.borrow_mut();
        if let Some((_, counter)) = codes.iter().find(|(code, _)| *code == status) {
            counter.increment();
            return;
        }
        let counter = self.scope.counter(format!("upstream_rq_{status}"));
        counter.increment();
        codes.push((status, counter));
    }
}

/// What the control thread knows of a cluster.
#[derive(Debug)]
pub(super) struct ClusterGauges {
    membership: [Gauge; 4],
    ejections_active: Gauge,
    ejections_total: SharedCounter,
    overflow: SharedCounter,
    detected: [SharedCounter; 3],
    enforced: [SharedCounter; 3],
    open: [Gauge; 8],
    remaining: [Gauge; 8],
}

const RESOURCES: [(Resource, &str); 4] = [
    (Resource::Connections, "cx"),
    (Resource::Pending, "rq_pending"),
    (Resource::Requests, "rq"),
    (Resource::Retries, "retries"),
];

const PRIORITIES: [(Priority, &str); 2] =
    [(Priority::Default, "default"), (Priority::High, "high")];

impl ClusterGauges {
    /// Registers them.
    pub(super) fn bind(scope: &Scope) -> Self {
        let by_kind = |stem: &str| {
            EjectionKind::ALL.map(|kind| {
                scope.shared_counter(format!(
                    "outlier_detection.ejections_{stem}_{}",
                    kind.stat_suffix()
                ))
            })
        };
        let circuit = |ends: &dyn Fn(&str) -> String| {
            std::array::from_fn(|place| {
                let (_, priority) = PRIORITIES[place / RESOURCES.len()];
                let (_, resource) = RESOURCES[place % RESOURCES.len()];
                scope.gauge(format!("circuit_breakers.{priority}.{}", ends(resource)))
            })
        };
        let open = |resource: &str| match resource {
            "retries" => "rq_retry_open".to_owned(),
            resource => format!("{resource}_open"),
        };
        Self {
            membership: [
                scope.gauge("membership_total"),
                scope.gauge("membership_healthy"),
                scope.gauge("membership_degraded"),
                scope.gauge("membership_excluded"),
            ],
            ejections_active: scope.gauge("outlier_detection.ejections_active"),
            ejections_total: scope.shared_counter("outlier_detection.ejections_enforced_total"),
            overflow: scope.shared_counter("outlier_detection.ejections_overflow"),
            detected: by_kind("detected"),
            enforced: by_kind("enforced"),
            open: circuit(&open),
            remaining: circuit(&|resource| format!("remaining_{resource}")),
        }
    }

    /// Shows the hosts.
    pub(super) fn show_membership(&self, hosts: Membership) {
        let counts = [hosts.total, hosts.healthy, hosts.degraded, hosts.excluded];
        for (gauge, count) in self.membership.iter().zip(counts) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Shows the ejections; what was shown before says how much is new.
    pub(super) fn show_ejections(&self, now: &OutlierCounts, before: &OutlierCounts) {
        self.ejections_active.set(i64::from(now.active));
        self.overflow
            .add(now.overflow.wrapping_sub(before.overflow));
        for place in 0..EjectionKind::ALL.len() {
            let new = |now: &[u64; 3], before: &[u64; 3]| now[place].wrapping_sub(before[place]);
            self.detected[place].add(new(&now.detected, &before.detected));
            let enforced = new(&now.enforced, &before.enforced);
            self.enforced[place].add(enforced);
            self.ejections_total.add(enforced);
        }
    }

    /// Shows which circuits are open, and what is left of the others.
    pub(super) fn show_circuits(&self, limits: &ClusterLimits) {
        let circuits = PRIORITIES.iter().flat_map(|(priority, _)| {
            let limits = limits.of(*priority);
            RESOURCES
                .iter()
                .map(move |(resource, _)| limits.remaining(*resource))
        });
        for ((open, remaining), left) in self.open.iter().zip(&self.remaining).zip(circuits) {
            open.set(i64::from(left == Some(0)));
            remaining.set(left.map_or(i64::MAX, i64::from));
        }
    }
}
