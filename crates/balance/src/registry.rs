// SPDX-License-Identifier: Apache-2.0
//! Live state that outlives configuration: one record per cluster, one per address in it.
//!
//! The registry refers to records weakly. Whoever uses a cluster or a host (a host set, a
//! connection, a request under way) keeps its record alive; a name or address that comes back
//! while anyone still does finds its state again, and what nobody holds is forgotten, so churn
//! grows nothing. Called by the control thread; the locks are never taken on a request's road.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use remora_ir::ClusterName;
use remora_ir::cluster::Priority;
use remora_ir::endpoint::EndpointAddress;

use crate::host::HostRecord;
use crate::limits::LimitCounts;
use crate::outlier::ClusterOutlier;

/// The live state of a cluster: its hosts' records, its ejections, its circuit counts.
#[derive(Debug)]
pub struct ClusterRecord {
    name: ClusterName,
    outlier: Arc<ClusterOutlier>,
    default_counts: Arc<LimitCounts>,
    high_counts: Arc<LimitCounts>,
    hosts: Mutex<WeakMap<EndpointAddress, HostRecord>>,
    set_ids: Arc<AtomicU64>,
}

impl ClusterRecord {
    /// The record of an address, new if nobody holds it.
    #[must_use]
    pub fn host(&self, address: &EndpointAddress) -> Arc<HostRecord> {
        let make = || HostRecord::new(address.clone(), Arc::clone(&self.outlier));
        self.lock().find_or_insert(address, make)
    }

    /// The cluster's name.
    #[must_use]
    pub const fn name(&self) -> &ClusterName {
        &self.name
    }

    /// Ejections and their counters.
    #[must_use]
    pub const fn outlier(&self) -> &Arc<ClusterOutlier> {
        &self.outlier
    }

    /// All host records that anyone holds, those of removed endpoints included.
    #[must_use]
    pub fn hosts(&self) -> Vec<Arc<HostRecord>> {
        self.lock().live()
    }

    pub(crate) const fn counts(&self, priority: Priority) -> &Arc<LimitCounts> {
        match priority {
            Priority::Default => &self.default_counts,
            Priority::High => &self.high_counts,
        }
    }

    /// A number no other host set of this registry has.
    pub(crate) fn next_set_id(&self) -> u64 {
        self.set_ids.fetch_add(1, Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, WeakMap<EndpointAddress, HostRecord>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All clusters' records; one for a proxy. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct HostRegistry {
    clusters: Arc<Mutex<WeakMap<ClusterName, ClusterRecord>>>,
    set_ids: Arc<AtomicU64>,
}

impl HostRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The record of a cluster, new if nobody holds it.
    #[must_use]
    pub fn cluster(&self, name: &ClusterName) -> Arc<ClusterRecord> {
        let make = || ClusterRecord {
            name: name.clone(),
            outlier: Arc::default(),
            default_counts: Arc::default(),
            high_counts: Arc::default(),
            hosts: Mutex::default(),
            set_ids: Arc::clone(&self.set_ids),
        };
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.find_or_insert(name, make)
    }

    /// The record of an address in a cluster, new if nobody holds it. The caller needs no hold on
    /// the cluster: its ejection state comes with the host.
    #[must_use]
    pub fn host(&self, cluster: &ClusterName, address: &EndpointAddress) -> Arc<HostRecord> {
        self.cluster(cluster).host(address)
    }
}

/// A map to values that others own. Dead entries are swept when the map has doubled since the
/// last sweep, so insertion stays cheap and the map at most twice its living content.
#[derive(Debug)]
struct WeakMap<K, V> {
    entries: HashMap<K, Weak<V>>,
    sweep_at: usize,
}

impl<K, V> Default for WeakMap<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            sweep_at: SMALLEST_SWEEP,
        }
    }
}

impl<K: Clone + Eq + std::hash::Hash, V> WeakMap<K, V> {
    fn find_or_insert(&mut self, key: &K, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(found) = self.entries.get(key).and_then(Weak::upgrade) {
            return found;
        }
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, value| value.strong_count() > 0);
            self.sweep_at = (self.entries.len() * 2).max(SMALLEST_SWEEP);
        }
        let made = Arc::new(make());
        self.entries.insert(key.clone(), Arc::downgrade(&made));
        made
    }

    fn live(&self) -> Vec<Arc<V>> {
        self.entries.values().filter_map(Weak::upgrade).collect()
    }
}

/// Below this many entries a sweep is not worth its walk.
const SMALLEST_SWEEP: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> EndpointAddress {
        EndpointAddress::Socket(([10, 0, 0, 1], n).into())
    }

    #[test]
    fn a_record_is_found_again_while_anyone_holds_it() {
        let registry = HostRegistry::new();
        let cluster = registry.cluster(&ClusterName::new("a"));
        let host = cluster.host(&address(1));
        assert!(Arc::ptr_eq(
            &host,
            &registry.host(&ClusterName::new("a"), &address(1))
        ));
        assert!(!Arc::ptr_eq(
            &host,
            &registry.host(&ClusterName::new("b"), &address(1))
        ));
        assert!(!Arc::ptr_eq(&host, &cluster.host(&address(2))));
    }

    #[test]
    fn churn_grows_nothing() {
        let registry = HostRegistry::new();
        let cluster = registry.cluster(&ClusterName::new("kept"));
        let kept = cluster.host(&address(0));
        for n in 1..2000 {
            drop(registry.cluster(&ClusterName::new(&n.to_string())));
            drop(cluster.host(&address(n)));
        }
        assert!(
            registry
                .clusters
                .lock()
                .expect("not poisoned")
                .entries
                .len()
                <= SMALLEST_SWEEP
        );
        assert!(cluster.lock().entries.len() <= SMALLEST_SWEEP);
        assert!(Arc::ptr_eq(&kept, &cluster.host(&address(0))));
        assert_eq!(cluster.hosts().len(), 1);
    }
}
