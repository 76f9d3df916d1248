// SPDX-License-Identifier: Apache-2.0
//! What the control plane serves to the nodes of one scope at one revision of its model.
//!
//! A snapshot shares whatever did not change with the one before it: resources by the compiler's
//! doing, whole kinds by [`ResourceSnapshot::new`]. So a session compares a pointer to learn that
//! nothing of a kind is left to send.

use std::collections::BTreeMap;
use std::sync::Arc;

use remora_compile::{Resource, ResourceSet};
use remora_xds_types::ResourceType;
use xxhash_rust::xxh64::Xxh64;

/// The resources of a scope, by kind and name.
#[derive(Clone, Debug, Default)]
pub struct ResourceSnapshot {
    revision: u64,
    kinds: BTreeMap<ResourceType, Arc<KindSnapshot>>,
}

/// The resources of one kind by name.
pub type KindSnapshot = BTreeMap<String, Arc<Resource>>;

impl ResourceSnapshot {
    /// The snapshot of a compiled set; kinds that are as they were in `previous` are shared.
    #[must_use]
    pub fn new(revision: u64, set: &ResourceSet, previous: Option<&Self>) -> Self {
        let kinds = ResourceType::PUSH_ORDER
            .into_iter()
            .map(|kind| (kind, set.of(kind).clone()));
        Self::share(revision, kinds.collect(), previous)
    }

    /// A snapshot of single resources.
    #[must_use]
    pub fn of_resources(
        revision: u64,
        resources: impl IntoIterator<Item = Arc<Resource>>,
        previous: Option<&Self>,
    ) -> Self {
        let mut kinds: BTreeMap<ResourceType, KindSnapshot> = BTreeMap::new();
        for resource in resources {
            let named = kinds.entry(resource.kind).or_default();
            named.insert(resource.name.clone(), resource);
        }
        Self::share(revision, kinds, previous)
    }

    /// The revision of the model it was compiled from.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The resources of a kind.
    #[must_use]
    pub fn of(&self, kind: ResourceType) -> Arc<KindSnapshot> {
        self.kinds.get(&kind).cloned().unwrap_or_default()
    }

    /// How many resources there are of a kind.
    #[must_use]
    pub fn count(&self, kind: ResourceType) -> usize {
        self.kinds.get(&kind).map_or(0, |named| named.len())
    }

    fn share(
        revision: u64,
        kinds: BTreeMap<ResourceType, KindSnapshot>,
        previous: Option<&Self>,
    ) -> Self {
        let shared = |(kind, named)| {
            let known = previous.and_then(|one| one.kinds.get(&kind));
            let same = known.filter(|known| is_same(known, &named));
            (kind, same.map_or_else(|| Arc::new(named), Arc::clone))
        };
        Self {
            revision,
            kinds: kinds.into_iter().map(shared).collect(),
        }
    }
}

/// A version for any set of resources: equal in every process for equal names and versions.
#[must_use]
pub fn version_of<'a>(resources: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut hash = Xxh64::new(0);
    for (name, version) in resources {
        for part in [name, version] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
    }
    format!("{:016x}", hash.digest())
}

fn is_same(one: &KindSnapshot, other: &KindSnapshot) -> bool {
    let mut pairs = one.iter().zip(other);
    one.len() == other.len()
        && pairs.all(|((name, resource), (other_name, other))| {
            name == other_name && resource.version == other.version
        })
}
