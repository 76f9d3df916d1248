// SPDX-License-Identifier: Apache-2.0
//! A worker's connections, kept for the next request.
//!
//! ```text
//!   Pools ── Key (host record, protocol, priority, source) ── Entry
//!                                                              ├── idle HTTP/1, last used first
//!                                                              ├── HTTP/2, shared by streams
//!                                                              └── requests that wait
//! ```
//!
//! An entry knows how many connections it has open, idle or not, by its guards. A request takes an
//! idle connection, else opens one within the cluster's limit, else waits: the end or return of
//! any connection of the entry wakes the one that has waited longest. Since the first connection
//! of an entry is always allowed, who waits has somebody to wait for.
//!
//! Invariant: what is in `idle` can carry a request as far as is known; a connection that was not
//! used to its proper end is dropped, never put back.

pub(super) mod h1;
pub(super) mod h2;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use remora_balance::{Connection as Claim, HostRecord, Overflow};
use remora_ir::cluster::{ConnectionPolicy, Priority};
use remora_primitives::Instant;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::cluster::{Cluster, Core};
use super::error::Failure;
use super::guard::ConnectionGuard;
use super::stats::ClusterStats;
use h1::H1Connection;
use h2::H2Connection;

/// All pools of a worker.
#[derive(Debug, Default)]
pub struct Pools {
    entries: RefCell<FxHashMap<Place, Rc<Entry>>>,
    is_draining: Rc<Cell<bool>>,
}

/// What connections must have in common to stand for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) protocol: Wire,
    pub(super) priority: Priority,
    /// Set where connections come from the downstream's address.
    pub(super) source: Option<IpAddr>,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wire {
    Tcp,
    Http1,
    Http2,
}

/// The connections of one key.
#[derive(Debug)]
pub(super) struct Entry {
    host: Arc<HostRecord>,
    core: Weak<Core>,
    /// The host set's generation in which the host was last seen to be a member.
    member_in: Cell<u64>,
    is_draining: Rc<Cell<bool>>,
    open: Cell<usize>,
    #[allow(
        clippy::vec_box,
        reason = "the box moves to the lease and back, the content stays"
    )]
    pub(super) idle: RefCell<Vec<Box<H1Connection>>>,
    pub(super) h2: RefCell<Vec<Rc<H2Connection>>>,
    pub(super) dials: Dials,
    pub(super) freed: Notify,
}

/// Dials under way for connections that several requests will share.
#[derive(Debug, Default)]
pub(super) struct Dials {
    under_way: Cell<usize>,
    /// Requests that have joined them.
    queued: Cell<u32>,
    failures: Cell<u64>,
    last_failure: RefCell<Option<Failure>>,
}

/// What every kept connection remembers.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) guard: ConnectionGuard,
    pub(super) policy: ConnectionPolicy,
    settings: u64,
    opened: Instant,
    requests: Cell<u64>,
    idle_since: Cell<Instant>,
}

/// Why a kept connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retire {
    Idle,
    Age,
    Requests,
    Unwanted,
}

impl Pools {
    /// The entry of a key, new if there is none.
    pub(super) fn entry(&self, cluster: &Cluster, host: &Arc<HostRecord>, key: Key) -> Rc<Entry> {
        let place = Place {
            host: Arc::as_ptr(host).addr(),
            key,
        };
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(place).or_insert_with(|| {
            Rc::new(Entry {
                host: Arc::clone(host),
                core: Arc::downgrade(cluster.core()),
                member_in: Cell::new(0),
                is_draining: Rc::clone(&self.is_draining),
                open: Cell::new(0),
                idle: RefCell::default(),
                h2: RefCell::default(),
                dials: Dials::default(),
                freed: Notify::new(),
            })
        });
        Rc::clone(entry)
    }

    /// Closes connections that are not wanted any more or were closed by the upstream, and
    /// forgets entries without connections. Called once a second.
    pub fn sweep(&self, now: Instant) {
        let entries: Vec<_> = self.entries.borrow().values().map(Rc::clone).collect();
        for entry in entries {
            entry.sweep(now);
        }
        // One count is the table's; any other is a request on its way to a connection.
        let is_used = |entry: &Rc<Entry>| entry.open.get() > 0 || Rc::strong_count(entry) > 1;
        self.entries.borrow_mut().retain(|_, entry| is_used(entry));
    }

    /// Keeps no connection from now on: idle ones are closed, the others after their exchange.
    pub fn drain(&self) {
        self.is_draining.set(true);
        let entries: Vec<_> = self.entries.borrow().values().map(Rc::clone).collect();
        for entry in entries {
            entry.sweep(Instant::ORIGIN);
        }
    }

    /// Connections open, idle or not.
    #[must_use]
    pub fn open(&self) -> usize {
        self.entries
            .borrow()
            .values()
            .map(|entry| entry.open.get())
            .sum()
    }

    /// Connections that wait for a request, those of HTTP/2 without streams included.
    #[must_use]
    pub fn idle(&self) -> usize {
        let idle = |entry: &Rc<Entry>| {
            let h2 = entry.h2.borrow();
            entry.idle.borrow().len() + h2.iter().filter(|one| one.streams() == 0).count()
        };
        self.entries.borrow().values().map(idle).sum()
    }

    /// Entries in the table.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.entries.borrow().len()
    }
}

impl Entry {
    /// Claims the right to open a connection.
    pub(super) fn claim(
        self: &Rc<Self>,
        cluster: &Cluster,
        priority: Priority,
        stats: &Rc<ClusterStats>,
    ) -> Result<ConnectionGuard, Overflow> {
        let claim = if self.open.get() == 0 {
            Claim::FirstOfWorkerToHost
        } else {
            Claim::Another
        };
        let permit = cluster.limits().of(priority).try_connection(claim)?;
        Ok(ConnectionGuard::new(
            &self.host,
            Rc::clone(stats),
            self,
            permit,
        ))
    }

    pub(super) fn on_claim(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// A connection is gone: somebody who waits may open another one.
    pub(super) fn on_release(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.freed.notify_one();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Whether a connection made under these settings may be used or kept.
    pub(super) fn wants(&self, settings: u64) -> bool {
        !self.is_draining()
            && self
                .core
                .upgrade()
                .is_some_and(|core| core.settings() == settings)
    }

    fn sweep(&self, now: Instant) {
        let is_member = self.is_member();
        let mut gone = Vec::new();
        self.idle.borrow_mut().retain_mut(|connection| {
            let reason = match self.verdict(&connection.kept, now, is_member) {
                None if connection.is_stale() => {
                    connection.kept.guard.on_remote_close();
                    Some(Retire::Unwanted)
                }
                verdict => verdict,
            };
            if let Some(reason) = reason {
                connection.kept.count(reason);
                return false;
            }
            connection.trim();
            true
        });
        self.h2.borrow_mut().retain(|connection| {
            let reason = match self.verdict(&connection.kept, now, is_member) {
                // Silence is only looked at where no stream is under way.
                Some(Retire::Idle) if connection.streams() > 0 => None,
                verdict => verdict,
            };
            let stays = reason.is_none() && !connection.is_closed();
            if !stays {
                if let Some(reason) = reason {
                    connection.kept.count(reason);
                }
                gone.push(Rc::clone(connection));
            }
            stays
        });
        // Outside the borrow: the end of a connection wakes those who look for one.
        drop(gone);
    }

    fn verdict(&self, kept: &Kept, now: Instant, is_member: bool) -> Option<Retire> {
        if !is_member || !self.wants(kept.settings) {
            return Some(Retire::Unwanted);
        }
        kept.verdict(now)
    }

    /// Whether the host still belongs to the cluster. Original destinations belong to none.
    fn is_member(&self) -> bool {
        let Some(core) = self.core.upgrade() else {
            return false;
        };
        let generation = core.generation();
        if self.member_in.get() == generation {
            return true;
        }
        let is_member = core.is_open_ended() || core.has_host(&self.host);
        if is_member {
            self.member_in.set(generation);
        }
        is_member
    }
}

impl Kept {
    pub(super) fn new(guard: ConnectionGuard, cluster: &Cluster, now: Instant) -> Self {
        Self {
            guard,
            policy: cluster.policy.connection.clone(),
            settings: cluster.settings(),
            opened: now,
            requests: Cell::new(0),
            idle_since: Cell::new(now),
        }
    }

    pub(super) const fn settings(&self) -> u64 {
        self.settings
    }

    /// Counts a request; says whether the connection must end with it.
    pub(super) fn on_request(&self) -> bool {
        let requests = self.requests.get() + 1;
        self.requests.set(requests);
        self.policy
            .max_requests
            .is_some_and(|most| requests >= most.get())
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.get()
    }

    pub(super) fn on_idle(&self, now: Instant) {
        self.idle_since.set(now);
    }

    /// Whether the connection should not be used again, by its own measures.
    fn verdict(&self, now: Instant) -> Option<Retire> {
        let is_over = |since: Instant, limit: Option<std::time::Duration>| {
            limit.is_some_and(|limit| now - since >= limit)
        };
        let requests = self.requests.get();
        if self
            .policy
            .max_requests
            .is_some_and(|most| requests >= most.get())
        {
            Some(Retire::Requests)
        } else if is_over(self.opened, self.policy.max_duration) {
            Some(Retire::Age)
        } else if is_over(self.idle_since.get(), self.policy.idle_timeout) {
            Some(Retire::Idle)
        } else {
            None
        }
    }

    /// Whether it may go back, or on, now; counts why not. Silence does not matter here.
    pub(super) fn may_stay(&self, now: Instant) -> bool {
        self.on_idle(now);
        match self.verdict(now) {
            None | Some(Retire::Idle) => true,
            Some(reason) => {
                self.count(reason);
                false
            }
        }
    }

    fn count(&self, reason: Retire) {
        let stats = self.guard.stats();
        match reason {
            Retire::Idle => stats.cx_idle_timeout.increment(),
            Retire::Age => stats.cx_max_duration_reached.increment(),
            Retire::Requests => stats.cx_max_requests.increment(),
            Retire::Unwanted => {}
        }
    }
}

/// Where an entry is: the host by its record's address, which the entry keeps alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    host: usize,
    key: Key,
}
