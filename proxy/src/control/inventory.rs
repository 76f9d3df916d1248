// SPDX-License-Identifier: Apache-2.0
//! What was accepted and what was refused, as raw resources.
//!
//! The inventory is the memory behind four things: recognising a resource that came again
//! unchanged, the last good configuration on disk, the versions that are told to the control
//! plane after a boot, and the admin's dump. It gives no resource a meaning.
//!
//! Invariant: an accepted resource stays until it is replaced by an accepted one or withdrawn; a
//! refusal stands beside it and never in its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use remora_xds_client::RawResource;
use remora_xds_types::ResourceType;

use super::last_good::KeptResource;

/// An accepted resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The version that the control plane gave it.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
    /// When it was accepted.
    pub at: SystemTime,
}

/// A refused resource, with what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The version that the control plane gave it.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
    /// All faults.
    pub reasons: Vec<String>,
    /// When.
    pub at: SystemTime,
}

/// What is known of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What is in use, or warming.
    pub accepted: Option<Accepted>,
    /// The last refusal, if nothing newer was accepted.
    pub refused: Option<Refused>,
}

/// All raw resources, by kind and name.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    kinds: BTreeMap<ResourceType, BTreeMap<Arc<str>, Entry>>,
}

impl Inventory {
    /// Accepts a resource; a refusal of the same name is forgotten.
    pub fn accept(&mut self, kind: ResourceType, name: &str, accepted: Accepted) {
        *self.entry(kind, name) = Entry {
            accepted: Some(accepted),
            refused: None,
        };
    }

    /// Remembers a refusal.
    pub fn refuse(&mut self, kind: ResourceType, name: &str, refused: Refused) {
        self.entry(kind, name).refused = Some(refused);
    }

    /// Recognises a resource that is accepted already: equal bytes mean equal work done. Its new
    /// version is taken over. Says whether that was the case.
    pub fn renew(&mut self, kind: ResourceType, resource: &RawResource) -> bool {
        let Some(entry) = self.find_mut(kind, &resource.name) else {
            return false;
        };
        match &mut entry.accepted {
            Some(accepted) if accepted.body == resource.body => {
                if *accepted.version != *resource.version {
                    accepted.version = resource.version.as_str().into();
                }
                entry.refused = None;
                true
            }
            _ => false,
        }
    }

    /// Forgets a name. Says whether something accepted went with it.
    pub fn remove(&mut self, kind: ResourceType, name: &str) -> bool {
        let removed = self
            .kinds
            .get_mut(&kind)
            .and_then(|names| names.remove(name));
        removed.is_some_and(|entry| entry.accepted.is_some())
    }

    /// Forgets all names of a kind that are not `wanted`, and returns them.
    pub fn retain(&mut self, kind: ResourceType, wanted: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let Some(names) = self.kinds.get_mut(&kind) else {
            return Vec::new();
        };
        let gone: Vec<_> = names.keys().filter(|name| !wanted(name)).cloned().collect();
        for name in &gone {
            names.remove(name);
        }
        gone
    }

    /// What is known of a name.
    pub fn find(&self, kind: ResourceType, name: &str) -> Option<&Entry> {
        self.kinds.get(&kind)?.get(name)
    }

    /// All names of a kind, in order.
    pub fn iter(&self, kind: ResourceType) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.kinds.get(&kind).into_iter().flatten()
    }

    /// All accepted resources, in push order: what may be kept on disk.
    pub fn keepable(&self) -> Arc<[KeptResource]> {
        let accepted = self.kinds.iter().flat_map(|(kind, names)| {
            names.iter().filter_map(|(name, entry)| {
                let accepted = entry.accepted.as_ref()?;
                Some(KeptResource {
                    kind: *kind,
                    name: Arc::clone(name),
                    version: Arc::clone(&accepted.version),
                    body: accepted.body.clone(),
                })
            })
        });
        accepted.collect()
    }

    /// Versions of the accepted resources by type URL and name, as a client tells them.
    pub fn versions(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut versions = BTreeMap::<String, BTreeMap<String, String>>::new();
        for kept in self.keepable().iter() {
            versions
                .entry(kept.kind.url().to_owned())
                .or_default()
                .insert(kept.name.to_string(), kept.version.to_string());
        }
        versions
    }

    fn entry(&mut self, kind: ResourceType, name: &str) -> &mut Entry {
        let names = self.kinds.entry(kind).or_default();
        names.entry(name.into()).or_default()
    }

    fn find_mut(&mut self, kind: ResourceType, name: &str) -> Option<&mut Entry> {
        self.kinds.get_mut(&kind)?.get_mut(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ResourceType = ResourceType::Cluster;

    fn accepted(version: &str, body: &'static [u8]) -> Accepted {
        Accepted {
            version: version.into(),
            body: Bytes::from_static(body),
            at: SystemTime::UNIX_EPOCH,
        }
    }

    fn raw(version: &str, body: &'static [u8]) -> RawResource {
        RawResource {
            name: "a".to_owned(),
            version: version.to_owned(),
            body: Bytes::from_static(body),
        }
    }

    fn refused() -> Refused {
        Refused {
            version: "2".into(),
            body: Bytes::from_static(b"bad"),
            reasons: vec!["bad".to_owned()],
            at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_refusal_stands_beside_what_is_accepted() {
        let mut inventory = Inventory::default();
        inventory.accept(KIND, "a", accepted("1", b"good"));
        inventory.refuse(KIND, "a", refused());
        let entry = inventory.find(KIND, "a").expect("known");
        assert_eq!(entry.accepted.as_ref().map(|a| &*a.version), Some("1"));
        assert!(entry.refused.is_some());
        assert!(
            inventory.renew(KIND, &raw("1", b"good")),
            "the good one again"
        );
        assert_eq!(inventory.find(KIND, "a").expect("known").refused, None);
    }

    #[test]
    fn equal_bytes_take_over_the_new_version_and_others_do_not() {
        let mut inventory = Inventory::default();
        assert!(!inventory.renew(KIND, &raw("1", b"x")));
        inventory.accept(KIND, "a", accepted("1", b"x"));
        assert!(!inventory.renew(KIND, &raw("2", b"y")));
        assert!(inventory.renew(KIND, &raw("2", b"x")));
        assert_eq!(inventory.versions()[KIND.url()]["a"], "2");
    }

    #[test]
    fn only_accepted_resources_are_kept() {
        let mut inventory = Inventory::default();
        inventory.accept(ResourceType::Listener, "l", accepted("1", b""));
        inventory.accept(KIND, "a", accepted("1", b""));
        inventory.refuse(KIND, "never-good", refused());
        let kept = inventory.keepable();
        let names: Vec<_> = kept.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["a", "l"], "clusters come before listeners");
        assert!(!inventory.remove(KIND, "never-good"), "nothing was in use");
        assert!(inventory.remove(KIND, "a"));
        let gone = inventory.retain(ResourceType::Listener, |_| false);
        assert_eq!(gone, [Arc::from("l")]);
    }
}
