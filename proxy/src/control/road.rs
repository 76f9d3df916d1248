// SPDX-License-Identifier: Apache-2.0
//! The road of an update, from raw resources to what is to be published, without I/O.
//!
//! ```text
//!   Batch ──triage──▶ what changed ──translate (any thread)──▶ Translation ──accept──▶ verdict
//!                                                                  │
//!                                           Assembler: held, waiting, ready ──▶ snapshot
//! ```
//!
//! The control thread carries a batch from station to station; it may hand the translation to a
//! helper thread, since [`translate`] touches nothing of the road.
//!
//! Invariant: a refused resource changes nothing but its own entry in the inventory; what came
//! again as it was changes nothing at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use remora_ir::Snapshot;
use remora_ir::cluster::Cluster;
use remora_ir::endpoint::EndpointSet;
use remora_ir::listener::Listener;
use remora_translate::{
    Applied, Assembler, Context, Faults, Key, Pending, Resource, Translated, Update, content_hash,
};
use remora_xds_client::{RawResource, Rejection};
use remora_xds_types::ResourceType;

use super::inventory::{Accepted, Inventory, Refused};
use super::last_good::KeptResource;

/// Resources of one kind that came together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The kind.
    pub kind: ResourceType,
    /// New and changed.
    pub added: Vec<RawResource>,
    /// Names that are no more, or never were.
    pub removed: Vec<String>,
}

/// A batch with each resource translated or refused.
#[derive(Debug)]
pub struct Translation {
    kind: ResourceType,
    outcomes: Vec<(RawResource, Result<Translated<Resource>, Faults>)>,
    removed: Vec<String>,
}

/// What is to be done after something changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Whether a new snapshot is due.
    pub snapshot: bool,
    /// Services whose endpoints are to be set anew.
    pub endpoints: BTreeSet<String>,
    /// Whether the inventory differs from what is kept on disk.
    pub kept: bool,
}

impl Effect {
    /// Adds what another change asks for.
    pub fn merge(&mut self, other: Self) {
        self.snapshot |= other.snapshot;
        self.endpoints.extend(other.endpoints);
        self.kept |= other.kept;
    }

    fn of(applied: Applied) -> Self {
        Self {
            snapshot: applied.needs_snapshot(),
            endpoints: applied.endpoints,
            kept: false,
        }
    }
}

/// Everything that was accepted, and what follows from it.
#[derive(Debug)]
pub struct Road {
    context: Context,
    assembler: Assembler,
    inventory: Inventory,
    /// Fields and types that were reported once.
    noticed: BTreeSet<String>,
}

impl Road {
    /// A road with what the bootstrap file has.
    pub fn new(context: Context, clusters: &[Arc<Cluster>], listeners: &[Arc<Listener>]) -> Self {
        let mut assembler = Assembler::new();
        let clusters = clusters.iter().cloned().map(Resource::Cluster);
        let listeners = listeners.iter().cloned().map(Resource::Listener);
        assembler.apply(clusters.chain(listeners).map(Update::Fix));
        Self {
            context,
            assembler,
            inventory: Inventory::default(),
            noticed: BTreeSet::new(),
        }
    }

    /// What translation needs.
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Leaves out of a batch what is held already as it came; its versions are taken over. Says
    /// whether one of them is a new one.
    pub fn triage(&mut self, batch: &mut Batch) -> Effect {
        let (kind, inventory) = (batch.kind, &mut self.inventory);
        let mut effect = Effect::default();
        batch.added.retain(|resource| {
            let before = inventory.find(kind, &resource.name);
            let is_newer = before
                .and_then(|entry| entry.accepted.as_ref())
                .is_some_and(|accepted| *accepted.version != *resource.version);
            let is_known = inventory.renew(kind, resource);
            effect.kept |= is_known && is_newer;
            !is_known
        });
        effect
    }

    /// Takes what could be translated into use and remembers what could not. The rejections are
    /// the verdict; there are none if all was good.
    pub fn accept(&mut self, translation: Translation, at: SystemTime) -> (Vec<Rejection>, Effect) {
        let kind = translation.kind;
        let mut rejections = Vec::new();
        let mut updates = Vec::new();
        let mut is_kept_changed = false;
        for (raw, outcome) in translation.outcomes {
            let checked = outcome
                .map_err(|faults| reasons(&faults))
                .and_then(|translated| match misnamed(&translated.value, &raw.name) {
                    Some(reason) => Err(vec![reason]),
                    None => Ok(translated),
                });
            match checked {
                Ok(translated) => {
                    self.report(&raw.name, &translated);
                    let hash = content_hash(&raw.body);
                    let resource = translated.value;
                    updates.push(Update::Put { resource, hash });
                    self.inventory.accept(kind, &raw.name, accepted(&raw, at));
                    is_kept_changed = true;
                }
                Err(reasons) => {
                    rejections.extend(reasons.iter().map(|reason| Rejection {
                        name: raw.name.clone(),
                        reason: reason.clone(),
                    }));
                    self.refuse(kind, raw, reasons, at);
                }
            }
        }
        is_kept_changed |= self.withdraw(kind, &translation.removed, &mut updates);
        let applied = self.assembler.apply(updates);
        for key in &applied.fixed {
            tracing::debug!(
                name = key.name,
                "resource of the bootstrap file: not replaced"
            );
        }
        let mut effect = Effect::of(applied);
        effect.kept = is_kept_changed;
        effect.merge(self.release());
        (rejections, effect)
    }

    /// Serves the waiting versions of all that wait for `missing`, which does not exist, and of
    /// what has waited too long.
    pub fn force<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) -> Effect {
        let mut effect = Effect::default();
        for key in keys {
            effect.merge(Effect::of(self.assembler.force(key)));
        }
        effect
    }

    /// What is accepted and waits for something.
    pub fn pending(&self) -> Vec<Pending> {
        self.assembler.pending()
    }

    /// Which endpoints or route tables are to be asked for.
    pub fn wanted(&self, kind: ResourceType) -> BTreeSet<String> {
        self.assembler.wanted(kind)
    }

    /// The snapshot of all that is ready.
    pub fn snapshot(&self, generation: u64) -> Snapshot {
        self.assembler.snapshot(generation)
    }

    /// The endpoints of a service.
    pub fn endpoints(&self, service: &str) -> Option<&Arc<EndpointSet>> {
        self.assembler.endpoints(service)
    }

    /// All raw resources.
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Names of a kind that were withdrawn or never existed and are waited for: whoever waits for
    /// one of them waits in vain.
    pub fn waiting_in_vain(&self, kind: ResourceType, removed: &[String]) -> Vec<Key> {
        let is_gone = |missing: &Key| missing.kind == kind && removed.contains(&missing.name);
        self.pending()
            .into_iter()
            .filter(|pending| pending.missing.iter().all(is_gone))
            .map(|pending| pending.key)
            .collect()
    }

    /// Clusters and listeners go when they are withdrawn. Endpoints, routes and names keep their
    /// last value, as in Envoy; they go when nothing refers to them.
    fn withdraw(
        &mut self,
        kind: ResourceType,
        removed: &[String],
        updates: &mut Vec<Update>,
    ) -> bool {
        if !matches!(kind, ResourceType::Cluster | ResourceType::Listener) {
            return false;
        }
        let mut is_changed = false;
        for name in removed {
            is_changed |= self.inventory.remove(kind, name);
            updates.push(Update::Remove(Key::new(kind, name)));
        }
        is_changed
    }

    /// Forgets endpoints and routes that nothing refers to any more.
    fn release(&mut self) -> Effect {
        let mut effect = Effect::of(self.assembler.sweep());
        for kind in [ResourceType::Endpoint, ResourceType::Route] {
            let wanted = self.assembler.wanted(kind);
            let gone = self.inventory.retain(kind, |name| wanted.contains(name));
            effect.kept |= !gone.is_empty();
        }
        effect
    }

    fn refuse(
        &mut self,
        kind: ResourceType,
        raw: RawResource,
        reasons: Vec<String>,
        at: SystemTime,
    ) {
        tracing::warn!(
            type_url = kind.url(),
            name = raw.name,
            version = raw.version,
            reason = reasons.join("; "),
            "resource refused; the last good one stays"
        );
        let refused = Refused {
            version: raw.version.into(),
            body: raw.body,
            reasons,
            at,
        };
        self.inventory.refuse(kind, &raw.name, refused);
    }

    /// Logs what was not honoured, once for each field or type.
    fn report(&mut self, name: &str, translated: &Translated<Resource>) {
        for notice in &translated.notices {
            if self.noticed.len() < MAX_NOTICED && self.noticed.insert(notice.subject.clone()) {
                tracing::info!(name, %notice, "configuration");
            }
        }
    }
}

/// Translates a batch. Pure: it may run on any thread.
pub fn translate(context: &Context, batch: Batch) -> Translation {
    let kind = batch.kind;
    let outcome = |raw: RawResource| {
        let outcome = remora_translate::resource(kind, &raw.body, context);
        (raw, outcome)
    };
    Translation {
        kind,
        outcomes: batch.added.into_iter().map(outcome).collect(),
        removed: batch.removed,
    }
}

/// Batches of what was kept, one for each kind, in push order.
pub fn batches(kept: Vec<KeptResource>) -> Vec<Batch> {
    let mut by_kind = BTreeMap::<ResourceType, Vec<RawResource>>::new();
    for one in kept {
        by_kind.entry(one.kind).or_default().push(RawResource {
            name: one.name.to_string(),
            version: one.version.to_string(),
            body: one.body,
        });
    }
    let batch = |(kind, added)| Batch {
        kind,
        added,
        removed: Vec::new(),
    };
    by_kind.into_iter().map(batch).collect()
}

fn accepted(raw: &RawResource, at: SystemTime) -> Accepted {
    Accepted {
        version: raw.version.as_str().into(),
        body: raw.body.clone(),
        at,
    }
}

fn reasons(faults: &Faults) -> Vec<String> {
    let mut reasons: Vec<_> = faults.faults.iter().map(ToString::to_string).collect();
    if faults.more > 0 {
        reasons.push(format!("and {} more", faults.more));
    }
    reasons
}

/// A resource whose own name is another than the one it travelled under would be found by nobody
/// who asked for it. Name tables have none of their own.
fn misnamed(resource: &Resource, travelled_as: &str) -> Option<String> {
    let own = match resource {
        Resource::Listener(listener) => listener.name.as_str(),
        Resource::Route(table) => table.name().as_str(),
        Resource::Cluster(cluster) => cluster.slot.name().as_str(),
        Resource::Endpoints(service, _) => service,
        Resource::Names(_) => return None,
    };
    (own != travelled_as).then(|| format!("is named `{own}` in itself"))
}

/// Fields that are reported; a control plane cannot make up more than the API has, but may try.
const MAX_NOTICED: usize = 1024;

#[cfg(test)]
pub(crate) mod tests;
