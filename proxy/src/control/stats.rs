// SPDX-License-Identifier: Apache-2.0
//! What the control thread counts, under Envoy's names where Envoy has one.
//!
//! Differs from Envoy: endpoints, routes and names are counted by kind (`remora.eds.…`), not for
//! each cluster or route table.

use std::collections::BTreeMap;

use remora_ir::Snapshot;
use remora_telemetry::{Gauge, Registry, ScopeKind, SharedCounter};
use remora_translate::Pending;
use remora_xds_types::ResourceType;
use xxhash_rust::xxh64::Xxh64;

use super::inventory::Inventory;

/// The control thread's counters.
#[derive(Debug)]
pub(super) struct ControlStats {
    kinds: BTreeMap<ResourceType, KindStats>,
    generation: Gauge,
    clusters: Gauge,
    warming_clusters: Gauge,
    listeners: Gauge,
    warming_listeners: Gauge,
    routes: Gauge,
}

#[derive(Debug)]
struct KindStats {
    attempt: SharedCounter,
    success: SharedCounter,
    rejected: SharedCounter,
    version: Gauge,
}

impl ControlStats {
    /// Registers them.
    pub(super) fn bind(registry: &Registry) -> Self {
        let plain = |name| registry.scope(ScopeKind::Plain, name);
        let (clusters, listeners) = (plain("cluster_manager"), plain("listener_manager"));
        let own = plain("remora");
        let kinds = ResourceType::PUSH_ORDER.into_iter().map(|kind| {
            let scope = match kind {
                ResourceType::Cluster => &clusters,
                ResourceType::Listener => &listeners,
                _ => &own,
            };
            let name = |what: &str| format!("{}.{what}", kind.short());
            let stats = KindStats {
                attempt: scope.shared_counter(name("update_attempt")),
                success: scope.shared_counter(name("update_success")),
                rejected: scope.shared_counter(name("update_rejected")),
                version: scope.gauge(name("version")),
            };
            (kind, stats)
        });
        Self {
            kinds: kinds.collect(),
            generation: own.gauge("generation"),
            clusters: clusters.gauge("active_clusters"),
            warming_clusters: clusters.gauge("warming_clusters"),
            listeners: listeners.gauge("total_listeners_active"),
            warming_listeners: listeners.gauge("total_listeners_warming"),
            routes: own.gauge("route_tables"),
        }
    }

    /// An update came.
    pub(super) fn on_attempt(&self, kind: ResourceType) {
        if let Some(stats) = self.kinds.get(&kind) {
            stats.attempt.increment();
        }
    }

    /// An update was judged.
    pub(super) fn on_verdict(&self, kind: ResourceType, is_good: bool, inventory: &Inventory) {
        let Some(stats) = self.kinds.get(&kind) else {
            return;
        };
        if is_good {
            stats.success.increment();
        } else {
            stats.rejected.increment();
        }
        stats.version.set(version(kind, inventory));
    }

    /// A configuration was published.
    pub(super) fn on_published(&self, snapshot: &Snapshot, pending: &[Pending]) {
        let waiting = |kind| pending.iter().filter(|one| one.key.kind == kind).count();
        self.generation.set(gauge(snapshot.generation));
        self.clusters.set(gauge(snapshot.clusters.iter().count()));
        self.listeners.set(gauge(snapshot.listeners.len()));
        self.routes.set(gauge(snapshot.routes.len()));
        self.warming_clusters
            .set(gauge(waiting(ResourceType::Cluster)));
        self.warming_listeners
            .set(gauge(waiting(ResourceType::Listener)));
    }
}

/// A number that is the same if all versions of a kind are.
fn version(kind: ResourceType, inventory: &Inventory) -> i64 {
    let mut hash = Xxh64::new(0);
    for (name, entry) in inventory.iter(kind) {
        if let Some(accepted) = &entry.accepted {
            hash.update(name.as_bytes());
            hash.update(accepted.version.as_bytes());
        }
    }
    // One bit less than the hash has, so that every gauge can show it.
    gauge(hash.digest() >> 1)
}

fn gauge(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
