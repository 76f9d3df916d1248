// SPDX-License-Identifier: Apache-2.0
//! Compiles scopes and remembers what it encoded.
//!
//! The memo is by recipe, not by node: two scopes that need the same resource share one, and a
//! new revision of the model re-encodes only resources of which a recipe changed. What no living
//! [`ResourceSet`] holds any more is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use remora_model::Model;
use remora_xds_types::ResourceType;

use crate::plan;
use crate::recipe::Recipe;
use crate::resource::{Resource, ResourceSet};
use crate::scope::Scope;

/// Compiles one scope with nothing to reuse.
#[must_use]
pub fn compile(model: &Model, scope: &Scope) -> Arc<ResourceSet> {
    Compiler::default().compile(model, scope)
}

/// Compiles scopes; keep one for the life of the control plane.
#[derive(Debug, Default)]
pub struct Compiler {
    memo: HashMap<(ResourceType, String), Known>,
    sets: HashMap<Scope, (u64, Weak<ResourceSet>)>,
    encoded: u64,
    entries: usize,
    sweep_at: usize,
    sweep_sets_at: usize,
}

/// The recipes under one name, one for each group of scopes that need another, and their outcome.
type Known = Vec<(Recipe, Arc<Resource>)>;

impl Compiler {
    /// Below this many entries a sweep is not worth its walk.
    const SMALLEST_SWEEP: usize = 256;

    /// The resources of a scope at the model's revision.
    ///
    /// For a revision and scope that were compiled before, this is the same set if somebody still
    /// holds it. Keep the last set of each scope in use: what nobody holds is encoded anew.
    pub fn compile(&mut self, model: &Model, scope: &Scope) -> Arc<ResourceSet> {
        if let Some((revision, set)) = self.sets.get(scope)
            && *revision == model.revision()
            && let Some(set) = set.upgrade()
        {
            return set;
        }
        let mut set = ResourceSet::default();
        for recipe in plan::plan(model, scope) {
            set.insert(self.resource(recipe));
        }
        let set = Arc::new(set);
        let entry = (model.revision(), Arc::downgrade(&set));
        self.sets.insert(scope.clone(), entry);
        self.sweep_if_due();
        set
    }

    /// How many resources were encoded so far: a figure for metrics and tests.
    #[must_use]
    pub const fn encoded(&self) -> u64 {
        self.encoded
    }

    /// How many resources are remembered: a figure for metrics and tests.
    #[must_use]
    pub const fn remembered(&self) -> usize {
        self.entries
    }

    fn resource(&mut self, recipe: Recipe) -> Arc<Resource> {
        let known = self
            .memo
            .entry((recipe.kind(), recipe.name().to_owned()))
            .or_default();
        if let Some((_, resource)) = known.iter().find(|(other, _)| *other == recipe) {
            return Arc::clone(resource);
        }
        self.encoded += 1;
        self.entries += 1;
        let mut resource = recipe.encode();
        // Another recipe with the same outcome: one body, so that sessions can compare pointers.
        if let Some((_, same)) = known.iter().find(|(_, other)| **other == resource) {
            resource.body = same.body.clone();
        }
        let resource = Arc::new(resource);
        known.push((recipe, Arc::clone(&resource)));
        resource
    }

    /// Forgets what only this compiler knows of, once it has doubled since the last time.
    fn sweep_if_due(&mut self) {
        if self.sets.len() >= self.sweep_sets_at.max(Self::SMALLEST_SWEEP) {
            self.sets.retain(|_, (_, set)| set.strong_count() > 0);
            self.sweep_sets_at = self.sets.len() * 2;
        }
        if self.entries < self.sweep_at.max(Self::SMALLEST_SWEEP) {
            return;
        }
        self.memo.retain(|_, known| {
            known.retain(|(_, resource)| Arc::strong_count(resource) > 1);
            !known.is_empty()
        });
        self.entries = self.memo.values().map(Vec::len).sum();
        self.sweep_at = self.entries * 2;
    }
}
