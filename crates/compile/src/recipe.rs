// SPDX-License-Identifier: Apache-2.0
//! Recipes: everything that a resource's contents depend on, as comparable values.
//!
//! **Invariant:** the builders of messages take a recipe and nothing else, so recipes that are
//! equal have equal resources. Objects of the model are compared by identity: the model keeps the
//! `Arc` of what did not change, and a recipe holds it, so an address is never used again.

use std::sync::Arc;

use remora_model::ObjectRef;
use remora_xds_types::canonical;
use remora_xds_types::{Message, Name, ResourceType};

use crate::cluster::ClusterPlan;
use crate::endpoint::AssignmentPlan;
use crate::listener::ListenerPlan;
use crate::name_table::NameTablePlan;
use crate::resource::Resource;
use crate::route::TablePlan;

/// One resource to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recipe {
    /// What it is made from.
    pub body: Body,
    /// The objects it is made from, for those who ask why.
    pub inputs: Vec<ObjectRef>,
}

/// The kinds of recipe.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Cluster(ClusterPlan),
    Assignment(AssignmentPlan),
    Listener(ListenerPlan),
    Table(TablePlan),
    NameTable(NameTablePlan),
}

impl Recipe {
    /// A recipe; the inputs are brought into order.
    pub(crate) fn new(body: Body, inputs: impl IntoIterator<Item = ObjectRef>) -> Self {
        let mut inputs: Vec<_> = inputs.into_iter().collect();
        inputs.sort();
        inputs.dedup();
        Self { body, inputs }
    }

    pub(crate) const fn kind(&self) -> ResourceType {
        match self.body {
            Body::Cluster(_) => ResourceType::Cluster,
            Body::Assignment(_) => ResourceType::Endpoint,
            Body::Listener(_) => ResourceType::Listener,
            Body::Table(_) => ResourceType::Route,
            Body::NameTable(_) => ResourceType::NameTable,
        }
    }

    pub(crate) fn name(&self) -> &str {
        match &self.body {
            Body::Cluster(plan) => &plan.name,
            Body::Assignment(plan) => &plan.name,
            Body::Listener(plan) => &plan.name,
            Body::Table(plan) => &plan.name,
            Body::NameTable(_) => crate::names::NAME_TABLE,
        }
    }

    /// Makes the resource.
    pub(crate) fn encode(&self) -> Resource {
        let body = match &self.body {
            Body::Cluster(plan) => canonical_body(&plan.build()),
            Body::Assignment(plan) => canonical_body(&plan.build()),
            Body::Listener(plan) => canonical_body(&plan.build()),
            Body::Table(plan) => canonical_body(&plan.build()),
            Body::NameTable(plan) => canonical_body(&plan.build()),
        };
        let mut resource = Resource::new(self.kind(), self.name().to_owned(), body);
        resource.inputs.clone_from(&self.inputs);
        resource
    }
}

fn canonical_body<T: Message + Name>(message: &T) -> Vec<u8> {
    canonical::pack(message).value
}

/// An object of the model, equal only to itself.
#[derive(Debug)]
pub(crate) struct ById<T: ?Sized>(Arc<T>);

impl<T: ?Sized> ById<T> {
    pub(crate) fn new(object: &Arc<T>) -> Self {
        Self(Arc::clone(object))
    }

    pub(crate) fn get(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Clone for ById<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> PartialEq for ById<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
