// SPDX-License-Identifier: Apache-2.0
//! One worker: everything that a thread of the data path owns.
//!
//! A worker has its own handle on the configuration, its own pools and random numbers, and
//! touches other threads only through the atomics of host records and limits. It is held by `Rc`
//! by every task of its thread. Nothing here decides; the roads through `downstream`, `network`,
//! `http` and `upstream` do.
//!
//! Invariant: no borrow of a worker's cell is held across an await.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use remora_ir::{ClusterSlot, Lookup};
use remora_primitives::Instant;
use remora_rt::publish::Subscription;
use rustc_hash::FxHashMap;

use crate::access_log::LogBuffers;
use crate::http::stats::HttpStats;
use crate::state::{Live, Shared};
use crate::upstream::{self, Cluster};

/// A worker's own state.
#[derive(Debug)]
pub struct Worker {
    /// Which worker, from zero; indexes per-worker statistics.
    pub id: usize,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Pools and balancing state.
    pub upstream: upstream::Local,
    /// Access logs on their way to the writer.
    pub logs: LogBuffers,
    live: RefCell<Subscription<Live>>,
    http_stats: RefCell<FxHashMap<Arc<str>, Rc<HttpStats>>>,
    mirrors: Cell<usize>,
}

/// Mirrored requests under way on one worker beyond which further ones are dropped and counted.
/// A mirror holds a task and at most the replay limit of body bytes; the cluster's own circuit
/// limits are usually met first.
pub const MAX_MIRRORS: usize = 512;

/// Statistics prefixes kept without a connection: more than the listeners of a large mesh, and a
/// bound for a control plane that makes up new ones without end.
pub const MAX_IDLE_PREFIXES: usize = 4096;

impl Worker {
    /// Makes a worker out of the seat it was given.
    pub fn new(id: usize, shared: Arc<Shared>, live: Subscription<Live>, logs: LogBuffers) -> Self {
        let seed = fastrand::u64(..);
        Self {
            id,
            shared,
            upstream: upstream::Local::new(id, seed),
            logs,
            live: RefCell::new(live),
            http_stats: RefCell::default(),
            mirrors: Cell::new(0),
        }
    }

    /// Looks at the newest configuration. One relaxed load if nothing changed.
    pub fn with_live<T>(&self, look: impl FnOnce(&Arc<Live>) -> T) -> T {
        look(self.live.borrow_mut().current())
    }

    /// Another handle on the configuration, to wait for the next one.
    pub fn subscribe(&self) -> Subscription<Live> {
        self.live.borrow().clone()
    }

    /// The live cluster of a slot.
    pub fn cluster(&self, slot: &ClusterSlot) -> Lookup<Arc<Cluster>> {
        self.with_live(|live| match live.cluster(slot) {
            Lookup::Found(cluster) => Lookup::Found(Arc::clone(cluster)),
            Lookup::Missing => Lookup::Missing,
            Lookup::Unresolved => Lookup::Unresolved,
        })
    }

    /// The statistics of a connection manager's prefix. They are kept when the last connection
    /// ends, so that counters never fall; prefixes that no connection uses are let go of only
    /// once there are more than [`MAX_IDLE_PREFIXES`].
    pub fn http_stats(&self, prefix: &Arc<str>) -> Rc<HttpStats> {
        let mut table = self.http_stats.borrow_mut();
        if let Some(stats) = table.get(prefix) {
            return Rc::clone(stats);
        }
        if table.len() >= MAX_IDLE_PREFIXES {
            table.retain(|_, stats| Rc::strong_count(stats) > 1);
        }
        let stats = Rc::new(HttpStats::bind(&self.shared.metrics, prefix));
        table.insert(Arc::clone(prefix), Rc::clone(&stats));
        stats
    }

    /// The present, for this wake-up.
    pub fn now(&self) -> Instant {
        remora_rt::clock::now()
    }

    /// A uniformly random number.
    pub fn random(&self) -> u64 {
        self.upstream.random()
    }

    /// Takes one of the places for mirrored requests; `None` if all are taken.
    pub fn mirror_place(self: &Rc<Self>) -> Option<MirrorPlace> {
        if self.mirrors.get() >= MAX_MIRRORS {
            return None;
        }
        self.mirrors.set(self.mirrors.get() + 1);
        Some(MirrorPlace(Rc::clone(self)))
    }
}

/// The right to run one mirrored request; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct MirrorPlace(Rc<Worker>);

impl Drop for MirrorPlace {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get().saturating_sub(1));
    }
}
