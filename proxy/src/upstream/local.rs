// SPDX-License-Identifier: Apache-2.0
//! What one worker keeps for its upstreams: pools, balancing state, statistics, random numbers.
//!
//! The worker embeds it and lends it to every call here. State that belongs to a cluster is kept
//! by the cluster's slot: an index and a comparison of pointers, no hash. When a slot is given to
//! another cluster, or a cluster is gone, its state goes with the next use or sweep.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use remora_balance::{HostRecord, HostSet, PickState};
use remora_primitives::Instant;
use remora_rt::publish::Subscription;

use super::cluster::{Cluster, Core};
use super::pool::Pools;
use super::stats::ClusterStats;

/// A worker's upstream side.
pub struct Local {
    id: usize,
    pools: Rc<Pools>,
    clusters: RefCell<Vec<Option<Rc<ClusterLocal>>>>,
    rng: RefCell<fastrand::Rng>,
    listeners: RefCell<Rc<[SocketAddr]>>,
}

/// A worker's state of one cluster.
pub(super) struct ClusterLocal {
    core: Weak<Core>,
    pub(super) stats: Rc<ClusterStats>,
    pub(super) balancing: RefCell<Balancing>,
    /// Hosts made for original destinations; whoever uses one keeps it alive.
    pub(super) destinations: RefCell<HashMap<SocketAddr, Weak<HostRecord>>>,
}

pub(super) struct Balancing {
    pub(super) hosts: Subscription<HostSet>,
    pub(super) state: PickState,
}

impl Local {
    /// The upstream side of worker `id`, with a seed for its random choices.
    #[must_use]
    pub fn new(id: usize, seed: u64) -> Self {
        Self {
            id,
            pools: Rc::new(Pools::default()),
            clusters: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            listeners: RefCell::new(Rc::default()),
        }
    }

    /// Which worker, from zero.
    #[must_use]
    pub const fn id(&self) -> usize {
        self.id
    }

    /// The worker's connections.
    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// A uniformly random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().u64(..)
    }

    /// Lends the generator of random numbers.
    pub fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    /// Says where this proxy takes redirected traffic: nothing that goes to its original
    /// destination is ever connected there. Called whenever a configuration is taken into use.
    pub fn set_own_listeners(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        *self.listeners.borrow_mut() = addresses.into_iter().collect();
    }

    /// The addresses given by [`Self::set_own_listeners`].
    pub(super) fn own_listeners(&self) -> Rc<[SocketAddr]> {
        Rc::clone(&self.listeners.borrow())
    }

    /// This worker's statistics of a cluster.
    #[must_use]
    pub fn stats(&self, cluster: &Cluster) -> Rc<ClusterStats> {
        Rc::clone(&self.cluster(cluster).stats)
    }

    /// This worker's state of a cluster, made at the first use.
    pub(super) fn cluster(&self, cluster: &Cluster) -> Rc<ClusterLocal> {
        let mut table = self.clusters.borrow_mut();
        let index = cluster.policy.slot.index();
        if index >= table.len() {
            table.resize_with(index + 1, || None);
        }
        let place = table.get_mut(index);
        if let Some(Some(known)) = &place
            && std::ptr::eq(known.core.as_ptr(), Arc::as_ptr(cluster.core()))
        {
            return Rc::clone(known);
        }
        let fresh = Rc::new(ClusterLocal {
            core: Arc::downgrade(cluster.core()),
            stats: Rc::new(ClusterStats::bind(cluster.scope())),
            balancing: RefCell::new(Balancing {
                hosts: cluster.subscribe(),
                state: PickState::new(),
            }),
            destinations: RefCell::default(),
        });
        if let Some(place) = place {
            *place = Some(Rc::clone(&fresh));
        }
        fresh
    }

    /// Closes what should not be kept and forgets what is gone. Called once a second.
    pub fn sweep(&self, now: Instant) {
        self.pools.sweep(now);
        for place in &mut *self.clusters.borrow_mut() {
            if let Some(known) = place {
                if known.core.strong_count() == 0 {
                    *place = None;
                } else {
                    let is_used = |host: &Weak<HostRecord>| host.strong_count() > 0;
                    known
                        .destinations
                        .borrow_mut()
                        .retain(|_, host| is_used(host));
                }
            }
        }
    }

    /// Keeps no connection from now on: idle ones are closed, the others after their exchange.
    pub fn drain(&self) {
        self.pools.drain();
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("id", &self.id)
            .field("pools", &self.pools)
            .finish_non_exhaustive()
    }
}
