// SPDX-License-Identifier: Apache-2.0
//! A connection manager's statistics on one worker, under Envoy's names (`http.<prefix>.…`).
//!
//! Bound once for each connection manager and worker, so that a request increments cells and
//! hashes nothing.

use std::time::Duration;

use remora_http::Version;
use remora_telemetry::{Counter, Gauge, Histogram, Registry, ScopeKind};

use super::flags::Flags;
use super::record::Summary;

/// The cells.
#[derive(Debug)]
pub struct HttpStats {
    cx_total: Counter,
    cx_active: Gauge,
    cx_protocol_error: Counter,
    rq_total: Counter,
    rq_http1: Counter,
    rq_http2: Counter,
    rq_active: Gauge,
    rq_completed: Counter,
    rq_rx_reset: Counter,
    rq_idle_timeout: Counter,
    rq_classes: [Counter; 5],
    rq_time: Histogram,
    mirror_no_cluster: Counter,
}

impl HttpStats {
    /// Binds the cells of a statistics prefix.
    pub fn bind(registry: &Registry, prefix: &str) -> Self {
        let scope = registry.scope(ScopeKind::Http, prefix);
        let class = |n: u8| scope.counter(format!("downstream_rq_{n}xx"));
        Self {
            cx_total: scope.counter("downstream_cx_total"),
            cx_active: scope.gauge("downstream_cx_active"),
            cx_protocol_error: scope.counter("downstream_cx_protocol_error"),
            rq_total: scope.counter("downstream_rq_total"),
            rq_http1: scope.counter("downstream_rq_http1_total"),
            rq_http2: scope.counter("downstream_rq_http2_total"),
            rq_active: scope.gauge("downstream_rq_active"),
            rq_completed: scope.counter("downstream_rq_completed"),
            rq_rx_reset: scope.counter("downstream_rq_rx_reset"),
            rq_idle_timeout: scope.counter("downstream_rq_idle_timeout"),
            rq_classes: [class(1), class(2), class(3), class(4), class(5)],
            rq_time: scope.histogram("downstream_rq_time"),
            mirror_no_cluster: scope.counter("mirror_rq_no_cluster"),
        }
    }

    /// A connection is there; the guard counts it as active.
    pub fn on_connection(&self) -> remora_telemetry::GaugeHold {
        self.cx_total.increment();
        self.cx_active.hold()
    }

    /// A peer broke its protocol.
    pub fn on_protocol_error(&self) {
        self.cx_protocol_error.increment();
    }

    /// A copy was dropped since its target does not exist, and has no statistics of its own.
    pub fn on_mirror_without_cluster(&self) {
        self.mirror_no_cluster.increment();
    }

    /// A request begins.
    pub fn on_request(&self, version: Version) -> remora_telemetry::GaugeHold {
        self.rq_total.increment();
        match version {
            Version::Http10 | Version::Http11 => self.rq_http1.increment(),
            Version::Http2 => self.rq_http2.increment(),
        }
        self.rq_active.hold()
    }

    /// A request has ended, as its summary tells.
    pub fn on_end(&self, summary: &Summary, took: Duration) {
        self.rq_completed.increment();
        if summary.flags.has_any(Flags::DOWNSTREAM_CLOSED) {
            self.rq_rx_reset.increment();
        }
        if summary.flags.has_any(Flags::STREAM_IDLE) {
            self.rq_idle_timeout.increment();
        }
        let class = summary
            .status
            .and_then(|status| usize::from(status / 100).checked_sub(1));
        if let Some(counter) = class.and_then(|class| self.rq_classes.get(class)) {
            counter.increment();
        }
        self.rq_time.record(took);
    }
}
