// SPDX-License-Identifier: Apache-2.0
//! What is known about one address of one cluster while the proxy runs.
//!
//! A record holds only atomics and is shared by all workers; it outlives endpoint updates, because
//! [`crate::registry`] hands out the same one again. What is configured about the address (weight,
//! health, place) is not here but in [`crate::hosts::Host`], which is replaced with each update.
//! Its judge is [`crate::outlier`].
//!
//! **Invariant:** `active_requests` and `cx_active` change only through guards, so they return to
//! zero when nothing is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use remora_ir::endpoint::EndpointAddress;
use remora_primitives::Instant;

use crate::outlier::ClusterOutlier;

/// The live state of an address within a cluster.
#[derive(Debug)]
pub struct HostRecord {
    address: EndpointAddress,
    outlier: Arc<ClusterOutlier>,
    active_requests: AtomicU32,
    pub(crate) in_a_row: InARow,
    /// Nanoseconds; 0 is "not ejected".
    pub(crate) ejected_until: AtomicU64,
    /// How many times `base_ejection` the last ejection was; decays at each sweep.
    pub(crate) multiplier: AtomicU32,
    pub(crate) ejections: AtomicU64,
    rq_total: AtomicU64,
    rq_success: AtomicU64,
    rq_error: AtomicU64,
    cx_active: AtomicU32,
    cx_total: AtomicU64,
    cx_connect_fail: AtomicU64,
}

/// Errors in a row since the last success, by detector.
#[derive(Debug, Default)]
pub(crate) struct InARow {
    pub(crate) any_5xx: AtomicU32,
    pub(crate) gateway: AtomicU32,
    pub(crate) local_origin: AtomicU32,
}

impl InARow {
    pub(crate) fn reset(&self) {
        for counter in [&self.any_5xx, &self.gateway, &self.local_origin] {
            reset(counter);
        }
    }
}

/// Zeroes a counter without dirtying its cache line when there is nothing to do, as on every
/// success.
pub(crate) fn reset(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

/// How an upstream's answer counts for the host's totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Any status below 500.
    Success,
    /// A 5xx, or no answer.
    Error,
}

/// A host's totals at one moment, as the admin's `/clusters` prints them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// Connections open.
    pub cx_active: u32,
    /// Connections ever opened or tried.
    pub cx_total: u64,
    /// Connections that could not be established.
    pub cx_connect_fail: u64,
    /// Requests under way.
    pub rq_active: u32,
    /// Requests ever sent.
    pub rq_total: u64,
    /// Answers below 500.
    pub rq_success: u64,
    /// 5xx answers and failures.
    pub rq_error: u64,
    /// How often the host was ejected.
    pub ejections: u64,
}

impl HostRecord {
    /// A record of its own, for an address that belongs to no [`crate::hosts::HostSet`] (an
    /// original destination). Records that workers shall share come from the registry.
    #[must_use]
    pub fn new(address: EndpointAddress, outlier: Arc<ClusterOutlier>) -> Self {
        Self {
            address,
            outlier,
            active_requests: AtomicU32::new(0),
            in_a_row: InARow::default(),
            ejected_until: AtomicU64::new(0),
            multiplier: AtomicU32::new(0),
            ejections: AtomicU64::new(0),
            rq_total: AtomicU64::new(0),
            rq_success: AtomicU64::new(0),
            rq_error: AtomicU64::new(0),
            cx_active: AtomicU32::new(0),
            cx_total: AtomicU64::new(0),
            cx_connect_fail: AtomicU64::new(0),
        }
    }

    /// Counts an answer; call it once per attempt, beside [`HostRecord::on_result`].
    pub fn count_answer(&self, answer: Answer) {
        match answer {
            Answer::Success => self.rq_success.fetch_add(1, Relaxed),
            Answer::Error => self.rq_error.fetch_add(1, Relaxed),
        };
    }

    /// Counts a connection that could not be established.
    pub fn count_connect_failure(&self) {
        self.cx_connect_fail.fetch_add(1, Relaxed);
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> &EndpointAddress {
        &self.address
    }

    /// The ejection state of the cluster that the host belongs to.
    #[must_use]
    pub const fn outlier(&self) -> &Arc<ClusterOutlier> {
        &self.outlier
    }

    /// Requests under way, over all workers.
    #[must_use]
    pub fn active_requests(&self) -> u32 {
        self.active_requests.load(Relaxed)
    }

    /// Until when the host is ejected at least; it returns at the first sweep after that.
    #[must_use]
    pub fn ejected_until(&self) -> Option<Instant> {
        match self.ejected_until.load(Relaxed) {
            0 => None,
            nanos => Some(Instant::from_nanos(nanos)),
        }
    }

    /// Whether the host is ejected.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected_until.load(Relaxed) != 0
    }

    /// The totals.
    #[must_use]
    pub fn counts(&self) -> HostCounts {
        HostCounts {
            cx_active: self.cx_active.load(Relaxed),
            cx_total: self.cx_total.load(Relaxed),
            cx_connect_fail: self.cx_connect_fail.load(Relaxed),
            rq_active: self.active_requests(),
            rq_total: self.rq_total.load(Relaxed),
            rq_success: self.rq_success.load(Relaxed),
            rq_error: self.rq_error.load(Relaxed),
            ejections: self.ejections.load(Relaxed),
        }
    }
}

impl Drop for HostRecord {
    /// A record that goes while ejected gives its place in the ejected share back.
    fn drop(&mut self) {
        if *self.ejected_until.get_mut() != 0 {
            self.outlier.forget_ejected();
        }
    }
}

/// One request under way to a host; ends when dropped.
#[derive(Debug)]
#[must_use = "the request counts as ended when this is dropped"]
pub struct ActiveRequest(Arc<HostRecord>);

impl ActiveRequest {
    /// Counts a request.
    pub fn start(host: &Arc<HostRecord>) -> Self {
        host.active_requests.fetch_add(1, Relaxed);
        host.rq_total.fetch_add(1, Relaxed);
        Self(Arc::clone(host))
    }

    /// The host it goes to.
    #[must_use]
    pub const fn host(&self) -> &Arc<HostRecord> {
        &self.0
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active_requests.fetch_sub(1, Relaxed);
    }
}

/// One connection to a host, from the dial on; ends when dropped.
#[derive(Debug)]
#[must_use = "the connection counts as closed when this is dropped"]
pub struct ActiveConnection(Arc<HostRecord>);

impl ActiveConnection {
    /// Counts a connection.
    pub fn open(host: &Arc<HostRecord>) -> Self {
        host.cx_active.fetch_add(1, Relaxed);
        host.cx_total.fetch_add(1, Relaxed);
        Self(Arc::clone(host))
    }

    /// The host it leads to.
    #[must_use]
    pub const fn host(&self) -> &Arc<HostRecord> {
        &self.0
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.cx_active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_give_back_what_they_took() {
        let address = EndpointAddress::Pipe("/run/a.sock".into());
        let host = Arc::new(HostRecord::new(address, Arc::default()));
        let requests: Vec<_> = (0..3).map(|_| ActiveRequest::start(&host)).collect();
        let connection = ActiveConnection::open(&host);
        host.count_answer(Answer::Success);
        host.count_answer(Answer::Error);
        host.count_connect_failure();
        assert_eq!((host.counts().rq_active, host.counts().cx_active), (3, 1));
        drop((requests, connection));
        let expected = HostCounts {
            cx_total: 1,
            cx_connect_fail: 1,
            rq_total: 3,
            rq_success: 1,
            rq_error: 1,
            ..HostCounts::default()
        };
        assert_eq!(host.counts(), expected);
    }
}
