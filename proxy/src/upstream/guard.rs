// SPDX-License-Identifier: Apache-2.0
//! What lives exactly as long as an upstream connection.
//!
//! A [`ConnectionGuard`] is made before the dial and travels with the stream: into a pool, a
//! lease, a relay, a tunnel. Whatever happens to them, its end gives everything back: the permit,
//! the host's count, the gauge, the pool's claim, and a waiting request its wake-up.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use remora_balance::{ActiveConnection, HostRecord, Permit};

use super::pool::Entry;
use super::stats::ClusterStats;

/// One connection, from the dial on; ends when dropped.
#[derive(Debug)]
#[must_use = "the connection counts as closed when this is dropped"]
pub struct ConnectionGuard {
    active: ActiveConnection,
    stats: Rc<ClusterStats>,
    /// The pool that counts it among its own.
    claim: Weak<Entry>,
    end: Cell<End>,
    is_busy: Cell<bool>,
    _permit: Permit,
}

/// How a connection ends, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// It was never established.
    #[default]
    NotOpened,
    /// It is open; if it ends now, it is closed here.
    Open,
    /// The upstream closed it, or broke it.
    Remote,
}

impl ConnectionGuard {
    /// Counts a connection that is about to be dialled.
    pub(super) fn new(
        host: &Arc<HostRecord>,
        stats: Rc<ClusterStats>,
        claim: &Rc<Entry>,
        permit: Permit,
    ) -> Self {
        stats.cx_total.increment();
        stats.cx_active.add(1);
        claim.on_claim();
        Self {
            active: ActiveConnection::open(host),
            stats,
            claim: Rc::downgrade(claim),
            end: Cell::default(),
            is_busy: Cell::new(false),
            _permit: permit,
        }
    }

    /// The host it leads to.
    pub const fn host(&self) -> &Arc<HostRecord> {
        self.active.host()
    }

    /// Says that the upstream ended the connection, for the statistics.
    pub fn on_remote_close(&self) {
        self.end.set(End::Remote);
    }

    /// Says that the connection is established.
    pub(super) fn on_open(&self) {
        self.end.set(End::Open);
    }

    /// Says whether a request is under way on it, for the statistics.
    pub(super) fn set_busy(&self, is_busy: bool) {
        self.is_busy.set(is_busy);
    }

    /// Counts among another pool's connections from now on.
    pub(super) fn join_pool(&mut self, entry: &Rc<Entry>) {
        self.leave_pool();
        entry.on_claim();
        self.claim = Rc::downgrade(entry);
    }

    pub(super) const fn stats(&self) -> &Rc<ClusterStats> {
        &self.stats
    }

    /// Leaves the pool: the connection is not coming back, so that the pool may open another one
    /// in its place, within the limits.
    pub(super) fn leave_pool(&mut self) {
        if let Some(entry) = std::mem::take(&mut self.claim).upgrade() {
            entry.on_release();
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let stats = &self.stats;
        stats.cx_active.subtract(1);
        match self.end.get() {
            End::NotOpened => {}
            End::Open => {
                stats.cx_destroy.increment();
                stats.cx_destroy_local.increment();
            }
            End::Remote => {
                stats.cx_destroy.increment();
                stats.cx_destroy_remote.increment();
            }
        }
        if self.is_busy.get() {
            stats.cx_destroy_with_active_rq.increment();
        }
        self.leave_pool();
    }
}
