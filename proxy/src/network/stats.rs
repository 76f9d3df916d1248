// SPDX-License-Identifier: Apache-2.0
//! Statistics of a TCP proxy, under Envoy's names (`tcp.<prefix>.…`); one worker's cells.

use remora_telemetry::{Counter, Gauge, Registry, ScopeKind};

use super::relay::{Ended, RelayEnd};

/// One worker's counters of one prefix.
#[derive(Debug)]
pub struct TcpStats {
    /// `downstream_cx_total`: sessions.
    pub cx_total: Counter,
    /// `downstream_cx_active`: sessions now.
    pub cx_active: Gauge,
    /// `downstream_cx_no_route`: sessions whose cluster did not exist.
    pub cx_no_route: Counter,
    rx_bytes: Counter,
    tx_bytes: Counter,
    idle_timeout: Counter,
    max_duration: Counter,
}

impl TcpStats {
    /// Binds the cells; called on the thread that will write them.
    pub fn bind(metrics: &Registry, prefix: &str) -> Self {
        let scope = metrics.scope(ScopeKind::Tcp, prefix);
        Self {
            cx_total: scope.counter("downstream_cx_total"),
            cx_active: scope.gauge("downstream_cx_active"),
            cx_no_route: scope.counter("downstream_cx_no_route"),
            rx_bytes: scope.counter("downstream_cx_rx_bytes_total"),
            tx_bytes: scope.counter("downstream_cx_tx_bytes_total"),
            idle_timeout: scope.counter("idle_timeout"),
            max_duration: scope.counter("max_downstream_connection_duration"),
        }
    }

    /// Counts what a relay moved and how it ended.
    pub fn on_end(&self, end: &RelayEnd) {
        self.rx_bytes.add(end.received);
        self.tx_bytes.add(end.sent);
        match end.why {
            Ended::Idle => self.idle_timeout.increment(),
            Ended::TooOld => self.max_duration.increment(),
            _ => {}
        }
    }
}
