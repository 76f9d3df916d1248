// SPDX-License-Identifier: Apache-2.0
//! What a compilation gives: encoded resources with versions, by kind and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use remora_model::ObjectRef;
use remora_xds_types::protobuf::Any;
use remora_xds_types::{ResourceType, canonical};
use xxhash_rust::xxh64::Xxh64;

/// One encoded resource. Shared by every node whose scope asks for the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// What it is.
    pub kind: ResourceType,
    /// Its name, unique within its kind.
    pub name: String,
    /// The hash of its body: equal in every process for equal contents.
    pub version: String,
    /// The message in canonical form: the value of the `Any` on the wire.
    pub body: Bytes,
    /// The objects it was made from, sorted; the mesh's settings and the node are not among them.
    pub inputs: Vec<ObjectRef>,
}

impl Resource {
    /// Seals a message that is already in canonical form.
    pub(crate) fn new(kind: ResourceType, name: String, body: Vec<u8>) -> Self {
        Self {
            kind,
            name,
            version: canonical::version_hash(&body),
            body: body.into(),
            inputs: Vec::new(),
        }
    }

    /// The `Any` that travels.
    #[must_use]
    pub fn to_any(&self) -> Any {
        Any {
            type_url: self.kind.url().to_owned(),
            value: self.body.to_vec(),
        }
    }
}

/// All resources of one scope at one revision of the model.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResourceSet {
    kinds: BTreeMap<ResourceType, BTreeMap<String, Arc<Resource>>>,
}

impl ResourceSet {
    /// Adds a resource; one of the same kind and name that is there already stays.
    pub(crate) fn insert(&mut self, resource: Arc<Resource>) {
        let named = self.kinds.entry(resource.kind).or_default();
        named.entry(resource.name.clone()).or_insert(resource);
    }

    /// The resources of a kind by name, in order of their names.
    #[must_use]
    pub fn of(&self, kind: ResourceType) -> &BTreeMap<String, Arc<Resource>> {
        static NONE: BTreeMap<String, Arc<Resource>> = BTreeMap::new();
        self.kinds.get(&kind).unwrap_or(&NONE)
    }

    /// One resource.
    #[must_use]
    pub fn find(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.of(kind).get(name)
    }

    /// All resources, in push order and within a kind by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.kinds.values().flat_map(BTreeMap::values)
    }

    /// The version of a whole kind, for the state-of-the-world protocol: it changes exactly when
    /// a resource comes, goes or changes.
    #[must_use]
    pub fn version(&self, kind: ResourceType) -> String {
        let mut hash = Xxh64::new(0);
        for (name, resource) in self.of(kind) {
            for part in [name, &resource.version] {
                hash.update(part.as_bytes());
                hash.update(&[0]);
            }
        }
        format!("{:016x}", hash.digest())
    }
}
