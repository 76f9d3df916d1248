// SPDX-License-Identifier: Apache-2.0
//! From accepted resources to snapshots: what is held, what waits for what, what is served.
//!
//! The proxy's control side feeds accepted resources and withdrawals to [`Assembler::apply`] and
//! publishes [`Assembler::snapshot`]. A cluster waits for its endpoints, a listener for its route
//! tables; meanwhile the version before it is served, if there was one. How long to wait is the
//! caller's to say: it ends the wait with [`Assembler::force`].
//!
//! ```text
//!            put, all it needs is here ─────────────► ready ──► in the snapshot
//! put ──►  waiting ── what it needs comes, or force ──► ready (the one before is gone)
//!            │
//!            └─ put again: the newer version waits in its place
//! ```
//!
//! Withdrawn endpoints and route tables keep their last value, as with Envoy: they are dropped by
//! [`Assembler::sweep`] once nothing refers to them. Withdrawn listeners and clusters are gone at
//! once. **Invariant:** a part that did not change is the same `Arc` in every snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use remora_ir::cluster::{Cluster, Discovery};
use remora_ir::endpoint::EndpointSet;
use remora_ir::listener::{Listener, Network, Routes};
use remora_ir::names::NameTable;
use remora_ir::route::RouteTable;
use remora_ir::snapshot::{ClusterTable, ListenerTable};
use remora_ir::{RouteName, Snapshot};
use remora_xds_types::ResourceType;

use crate::resource::Resource;

/// A resource by type and name. Endpoints have their service's name, names none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The type.
    pub kind: ResourceType,
    /// The name.
    pub name: String,
}

impl Key {
    /// A key.
    #[must_use]
    pub fn new(kind: ResourceType, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
        }
    }
}

/// Something to apply.
#[derive(Clone, Debug)]
pub enum Update {
    /// A new or changed resource, with the mark of its bytes ([`crate::content_hash`]).
    Put {
        /// The resource.
        resource: Resource,
        /// Equal marks are equal resources.
        hash: String,
    },
    /// A resource of the bootstrap file: never replaced, never withdrawn.
    Fix(Resource),
    /// A withdrawal.
    Remove(Key),
}

/// What an [`Assembler::apply`] or [`Assembler::force`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What the next snapshot has differently: new, changed or gone. Without endpoints.
    pub changed: BTreeSet<Key>,
    /// Services whose endpoints changed; their cells are to be set.
    pub endpoints: BTreeSet<String>,
    /// Resources that came again as they were.
    pub unchanged: usize,
    /// Updates of names that the bootstrap file has; they are not taken.
    pub fixed: BTreeSet<Key>,
}

impl Applied {
    /// Whether a new snapshot is due.
    #[must_use]
    pub fn needs_snapshot(&self) -> bool {
        !self.changed.is_empty()
    }
}

/// A version that is accepted and not served yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Which.
    pub key: Key,
    /// What it waits for.
    pub missing: Vec<Key>,
    /// Whether a version before it is served meanwhile.
    pub serves_older: bool,
}

/// Holds the latest accepted resources. Pure: no clock, no I/O.
#[derive(Debug, Default)]
pub struct Assembler {
    listeners: BTreeMap<String, Held<Listener>>,
    clusters: BTreeMap<String, Held<Cluster>>,
    routes: BTreeMap<String, Last<RouteTable>>,
    endpoints: BTreeMap<String, Last<EndpointSet>>,
    names: Option<Last<NameTable>>,
}

/// A resource with a version that is served and perhaps one that waits.
#[derive(Debug)]
struct Held<T> {
    ready: Option<Arc<T>>,
    waiting: Option<Arc<T>>,
    hash: String,
    is_fixed: bool,
}

/// A resource that waits for nothing.
#[derive(Debug)]
struct Last<T> {
    value: Arc<T>,
    hash: String,
}

/// What a resource needs before it can be served.
trait Needs {
    const KIND: ResourceType;
    fn needs(&self) -> Vec<Key>;
}

impl Needs for Listener {
    const KIND: ResourceType = ResourceType::Listener;

    fn needs(&self) -> Vec<Key> {
        let tables: BTreeSet<_> = route_tables(self).map(RouteName::as_str).collect();
        let key = |name| Key::new(ResourceType::Route, name);
        tables.into_iter().map(key).collect()
    }
}

impl Needs for Cluster {
    const KIND: ResourceType = ResourceType::Cluster;

    fn needs(&self) -> Vec<Key> {
        let key = |name: &Arc<str>| Key::new(ResourceType::Endpoint, name);
        endpoint_service(self).map(key).into_iter().collect()
    }
}

/// The route tables that a listener looks up by name.
pub(crate) fn route_tables(listener: &Listener) -> impl Iterator<Item = &RouteName> {
    listener
        .chains
        .iter()
        .filter_map(|chain| match &chain.network {
            Network::Http(http) => match &http.routes {
                Routes::Named(name) => Some(name),
                Routes::Inline(_) => None,
            },
            Network::Tcp(_) => None,
        })
}

/// The service whose endpoints a cluster has.
pub(crate) const fn endpoint_service(cluster: &Cluster) -> Option<&Arc<str>> {
    match &cluster.discovery {
        Discovery::Eds { service_name } => Some(service_name),
        Discovery::Static(_) | Discovery::StrictDns(_) | Discovery::OriginalDst { .. } => None,
    }
}

impl Assembler {
    /// Holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes updates, in order, and moves on whatever waited for them.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) -> Applied {
        let mut applied = Applied::default();
        for update in updates {
            match update {
                Update::Put { resource, hash } => self.put(resource, hash, &mut applied),
                Update::Fix(resource) => self.fix(resource, &mut applied),
                Update::Remove(key) => self.remove(key, &mut applied),
            }
        }
        self.promote(&mut applied);
        applied
    }

    /// Serves the waiting version of a resource without what it waits for: clusters without
    /// endpoints answer `UH`, listeners without a route table `NR`.
    pub fn force(&mut self, key: &Key) -> Applied {
        let mut applied = Applied::default();
        let is_forced = match key.kind {
            ResourceType::Listener => self.listeners.get_mut(&key.name).is_some_and(Held::advance),
            ResourceType::Cluster => self.clusters.get_mut(&key.name).is_some_and(Held::advance),
            _ => false,
        };
        if is_forced {
            applied.changed.insert(key.clone());
        }
        applied
    }

    /// Drops endpoints and route tables that no listener or cluster refers to.
    pub fn sweep(&mut self) -> Applied {
        let mut applied = Applied::default();
        let services = self.wanted(ResourceType::Endpoint);
        let tables = self.wanted(ResourceType::Route);
        self.endpoints.retain(|name, _| services.contains(name));
        self.routes.retain(|name, _| {
            let is_wanted = tables.contains(name);
            if !is_wanted {
                applied.changed.insert(Key::new(ResourceType::Route, name));
            }
            is_wanted
        });
        applied
    }

    /// The snapshot of everything that is ready.
    #[must_use]
    pub fn snapshot(&self, generation: u64) -> Snapshot {
        let names = self.names.as_ref();
        Snapshot {
            generation,
            listeners: ListenerTable::new(ready(&self.listeners)),
            routes: self
                .routes
                .values()
                .map(|last| (last.value.name().clone(), Arc::clone(&last.value)))
                .collect(),
            clusters: ClusterTable::new(ready(&self.clusters)),
            names: names
                .map(|last| Arc::clone(&last.value))
                .unwrap_or_default(),
        }
    }

    /// What is accepted and not served yet.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        let mut pending = Vec::new();
        self.collect_pending(&self.clusters, &mut pending);
        self.collect_pending(&self.listeners, &mut pending);
        pending
    }

    /// Names of endpoints or route tables that anything held, ready or waiting, refers to: what
    /// is to be subscribed to.
    #[must_use]
    pub fn wanted(&self, kind: ResourceType) -> BTreeSet<String> {
        let of_listeners = self.listeners.values().flat_map(Held::all_needs);
        let of_clusters = self.clusters.values().flat_map(Held::all_needs);
        of_listeners
            .chain(of_clusters)
            .filter(|key| key.kind == kind)
            .map(|key| key.name)
            .collect()
    }

    /// Whether this very version of a resource is held, so that it need not be translated again.
    #[must_use]
    pub fn holds(&self, key: &Key, hash: &str) -> bool {
        let held = match key.kind {
            ResourceType::Listener => self.listeners.get(&key.name).map(|held| &held.hash),
            ResourceType::Cluster => self.clusters.get(&key.name).map(|held| &held.hash),
            ResourceType::Route => self.routes.get(&key.name).map(|last| &last.hash),
            ResourceType::Endpoint => self.endpoints.get(&key.name).map(|last| &last.hash),
            ResourceType::NameTable => self.names.as_ref().map(|last| &last.hash),
            ResourceType::Secret => None,
        };
        held.is_some_and(|held| held == hash)
    }

    /// The endpoints of a service, if they have come.
    #[must_use]
    pub fn endpoints(&self, service: &str) -> Option<&Arc<EndpointSet>> {
        self.endpoints.get(service).map(|last| &last.value)
    }

    fn put(&mut self, resource: Resource, hash: String, applied: &mut Applied) {
        match resource {
            Resource::Listener(listener) => {
                let name = listener.name.as_str().to_owned();
                put_held(&mut self.listeners, name, listener, hash, applied);
            }
            Resource::Cluster(cluster) => {
                let name = cluster.slot.name().as_str().to_owned();
                put_held(&mut self.clusters, name, cluster, hash, applied);
            }
            Resource::Route(table) => {
                let key = Key::new(ResourceType::Route, table.name().as_str());
                let last = Last { value: table, hash };
                if put_last(&mut self.routes, &key.name, last, applied) {
                    applied.changed.insert(key);
                }
            }
            Resource::Endpoints(service, set) => {
                let last = Last { value: set, hash };
                if put_last(&mut self.endpoints, &service, last, applied) {
                    applied.endpoints.insert(service.as_ref().to_owned());
                }
            }
            Resource::Names(names) => {
                if self.names.as_ref().is_some_and(|last| last.hash == hash) {
                    applied.unchanged += 1;
                    return;
                }
                self.names = Some(Last { value: names, hash });
                let key = Key::new(ResourceType::NameTable, "");
                applied.changed.insert(key);
            }
        }
    }

    fn fix(&mut self, resource: Resource, applied: &mut Applied) {
        // Of the kinds that the bootstrap file has, only these two can be withdrawn.
        let name = match &resource {
            Resource::Listener(listener) => Some(listener.name.as_str().to_owned()),
            Resource::Cluster(cluster) => Some(cluster.slot.name().as_str().to_owned()),
            Resource::Route(_) | Resource::Endpoints(..) | Resource::Names(_) => None,
        };
        let is_listener = matches!(resource, Resource::Listener(_));
        self.put(resource, String::new(), applied);
        let Some(name) = name else { return };
        if is_listener {
            if let Some(held) = self.listeners.get_mut(&name) {
                held.is_fixed = true;
            }
        } else if let Some(held) = self.clusters.get_mut(&name) {
            held.is_fixed = true;
        }
    }

    fn remove(&mut self, key: Key, applied: &mut Applied) {
        match key.kind {
            ResourceType::Listener => remove_held(&mut self.listeners, key, applied),
            ResourceType::Cluster => remove_held(&mut self.clusters, key, applied),
            // The last value stays: Envoy's behaviour, and the safe one.
            ResourceType::Route
            | ResourceType::Endpoint
            | ResourceType::NameTable
            | ResourceType::Secret => {}
        }
    }

    /// Serves what has all it needs.
    fn promote(&mut self, applied: &mut Applied) {
        let endpoints = &self.endpoints;
        promote_held(&mut self.clusters, applied, |key| {
            endpoints.contains_key(&key.name)
        });
        let routes = &self.routes;
        promote_held(&mut self.listeners, applied, |key| {
            routes.contains_key(&key.name)
        });
    }

    fn collect_pending<T: Needs>(
        &self,
        held: &BTreeMap<String, Held<T>>,
        pending: &mut Vec<Pending>,
    ) {
        for (name, held) in held {
            let Some(waiting) = &held.waiting else {
                continue;
            };
            let mut missing = waiting.needs();
            missing.retain(|key| !self.has(key));
            pending.push(Pending {
                key: Key::new(T::KIND, name),
                missing,
                serves_older: held.ready.is_some(),
            });
        }
    }

    fn has(&self, key: &Key) -> bool {
        match key.kind {
            ResourceType::Route => self.routes.contains_key(&key.name),
            ResourceType::Endpoint => self.endpoints.contains_key(&key.name),
            _ => false,
        }
    }
}

impl<T: Needs> Held<T> {
    /// Serves the waiting version, if there is one.
    fn advance(&mut self) -> bool {
        match self.waiting.take() {
            Some(waiting) => {
                self.ready = Some(waiting);
                true
            }
            None => false,
        }
    }

    fn all_needs(&self) -> impl Iterator<Item = Key> {
        let versions = self.ready.iter().chain(&self.waiting);
        versions.flat_map(|version| version.needs())
    }
}

fn ready<T>(held: &BTreeMap<String, Held<T>>) -> impl Iterator<Item = Arc<T>> {
    held.values().filter_map(|held| held.ready.clone())
}

fn put_held<T: Needs>(
    all: &mut BTreeMap<String, Held<T>>,
    name: String,
    value: Arc<T>,
    hash: String,
    applied: &mut Applied,
) {
    let held = all.entry(name.clone()).or_insert_with(|| Held {
        ready: None,
        waiting: None,
        hash: String::new(),
        is_fixed: false,
    });
    let is_new = held.ready.is_none() && held.waiting.is_none();
    if held.is_fixed {
        applied.fixed.insert(Key::new(T::KIND, &name));
    } else if !is_new && held.hash == hash {
        applied.unchanged += 1;
    } else {
        held.waiting = Some(value);
        held.hash = hash;
    }
}

fn put_last<T>(
    all: &mut BTreeMap<String, Last<T>>,
    name: &str,
    last: Last<T>,
    applied: &mut Applied,
) -> bool {
    if all.get(name).is_some_and(|held| held.hash == last.hash) {
        applied.unchanged += 1;
        return false;
    }
    all.insert(name.to_owned(), last);
    true
}

fn remove_held<T>(all: &mut BTreeMap<String, Held<T>>, key: Key, applied: &mut Applied) {
    match all.get(&key.name) {
        None => {}
        Some(held) if held.is_fixed => {
            applied.fixed.insert(key);
        }
        Some(held) => {
            let was_served = held.ready.is_some();
            all.remove(&key.name);
            if was_served {
                applied.changed.insert(key);
            }
        }
    }
}

fn promote_held<T: Needs>(
    all: &mut BTreeMap<String, Held<T>>,
    applied: &mut Applied,
    is_here: impl Fn(&Key) -> bool,
) {
    for (name, held) in all {
        let is_ready = held
            .waiting
            .as_ref()
            .is_some_and(|waiting| waiting.needs().iter().all(&is_here));
        if is_ready && held.advance() {
            applied.changed.insert(Key::new(T::KIND, name));
        }
    }
}

#[cfg(test)]
mod tests;
