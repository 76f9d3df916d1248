// SPDX-License-Identifier: Apache-2.0
//! Asks the model everything that a scope's resources depend on, and writes it down as recipes.
//!
//! * [`world`]: the model with the caller's eyes: visible services, rules, policies, what a
//!   destination means;
//! * [`places`]: at which addresses services are dialled, and who shares one;
//! * [`clusters`], [`outbound`], [`tables`], [`inbound`]: the recipes by kind;
//! * [`rules`]: which routes of a rule concern a port and a caller.
//!
//! Ties (two services at one address and port, two names for one thing) go to the service that
//! stands first in the model.

mod clusters;
mod inbound;
mod outbound;
mod places;
mod rules;
mod tables;
mod world;

use remora_model::{Model, Resolution, Service};

use crate::name_table::NameTablePlan;
use crate::recipe::{Body, ById, Recipe};
use crate::scope::Scope;

use places::Places;
use world::World;

/// The recipes of all resources of a scope.
pub(crate) fn plan(model: &Model, scope: &Scope) -> Vec<Recipe> {
    let world = World::new(model, scope);
    let places = Places::of(&world);
    let mut recipes = Vec::new();
    clusters::plan(&world, &mut recipes);
    outbound::plan(&world, &places, &mut recipes);
    tables::plan(&world, &places, &mut recipes);
    inbound::plan(&world, &mut recipes);
    if scope.capabilities.name_table {
        recipes.push(name_table(&world));
    }
    recipes
}

fn name_table(world: &World<'_>) -> Recipe {
    let mut services = world.services.clone();
    services.sort_by_key(|service| service.key());
    let endpoints = |service: &Service| {
        let list = world.model.endpoint_list(&service.key());
        list.filter(|_| service.resolution == Resolution::Headless)
            .map(ById::new)
    };
    let entries = services
        .iter()
        .map(|service| (ById::new(service), endpoints(service)))
        .collect();
    let inputs = services.iter().map(|service| service.origin.clone());
    Recipe::new(Body::NameTable(NameTablePlan { entries }), inputs)
}
