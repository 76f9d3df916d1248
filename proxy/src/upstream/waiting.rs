// SPDX-License-Identifier: Apache-2.0
//! A request on its way to a connection: the pending permit and its statistics.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use remora_balance::Permit;
use remora_ir::cluster::Priority;
use remora_primitives::Instant;
use remora_rt::clock;
use remora_telemetry::GaugeHold;

use super::cluster::Cluster;
use super::error::Failure;
use super::stats::ClusterStats;

/// Counts as pending while it lives.
#[derive(Debug)]
pub(super) struct Waiting {
    stats: Rc<ClusterStats>,
    has_ended: Cell<bool>,
    _permit: Permit,
    _active: GaugeHold,
}

impl Waiting {
    /// Takes the right to wait.
    pub(super) fn start(
        cluster: &Cluster,
        priority: Priority,
        stats: &Rc<ClusterStats>,
    ) -> Result<Self, Failure> {
        let permit = cluster.limits().of(priority).try_pending();
        let permit = permit.inspect_err(|_| stats.rq_pending_overflow.increment())?;
        stats.rq_pending_total.increment();
        Ok(Self {
            has_ended: Cell::new(false),
            _permit: permit,
            _active: stats.rq_pending_active.hold(),
            stats: Rc::clone(stats),
        })
    }

    /// Waits for `event`, at most until the deadline.
    pub(super) async fn until(
        &self,
        event: impl Future<Output = ()>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let waited = tokio::time::timeout_at(clock::to_tokio(deadline), event).await;
        waited.map_err(|_| {
            self.end();
            Failure::Deadline
        })
    }

    /// The connection came, or the time was over.
    pub(super) fn end(&self) {
        self.has_ended.set(true);
    }

    /// The connection could not be established.
    pub(super) fn on_failure(&self) {
        self.end();
        self.stats.rq_pending_failure_eject.increment();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.has_ended.get() {
            self.stats.rq_cancelled.increment();
        }
    }
}
