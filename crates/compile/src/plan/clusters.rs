// SPDX-License-Identifier: Apache-2.0
//! Clusters and their load assignments: one for each port of each visible service, and for each
//! subset there, whether or not a rule names it today.

use std::sync::Arc;

use remora_model::{
    DestinationPolicy, Labels, Locality, LocalityBalancing, ObjectRef, Protocol, Resolution,
    Service,
};
use remora_primitives::Port;

use super::world::World;
use crate::cluster::{self, ClusterPlan, Discovery, OutboundPlan, Role};
use crate::endpoint::AssignmentPlan;
use crate::names;
use crate::recipe::{Body, ById, Recipe};

pub(super) fn plan(world: &World<'_>, recipes: &mut Vec<Recipe>) {
    for (name, role) in cluster::fixed(world.dual_stack) {
        recipes.push(recipe(world, name.to_owned(), role, []));
    }
    for service in &world.services {
        let policy = world.policy(service);
        let subsets = policy.map(|policy| policy.subsets.iter());
        let subsets: Vec<_> = subsets.into_iter().flatten().map(|s| &s.name).collect();
        for port in &service.ports {
            if port.protocol == Protocol::Udp {
                continue;
            }
            let all = std::iter::once(None);
            for subset in all.chain(subsets.iter().copied().map(Some)) {
                of_port(
                    world,
                    &Choice {
                        service,
                        port: port.number,
                        subset,
                        policy,
                    },
                    recipes,
                );
            }
        }
    }
}

/// One cluster among those of a service.
struct Choice<'a> {
    service: &'a Arc<Service>,
    port: Port,
    subset: Option<&'a Arc<str>>,
    policy: Option<&'a Arc<DestinationPolicy>>,
}

impl Choice<'_> {
    fn inputs(&self) -> Vec<ObjectRef> {
        let policy = self.policy.map(|policy| policy.origin.clone());
        policy
            .into_iter()
            .chain([self.service.origin.clone()])
            .collect()
    }

    fn outbound(&self, discovery: Discovery) -> Role {
        Role::Outbound(OutboundPlan {
            service: ById::new(self.service),
            port: self.port,
            subset: self.subset.cloned(),
            policy: self.policy.map(ById::new),
            discovery,
        })
    }
}

fn of_port(world: &World<'_>, choice: &Choice<'_>, recipes: &mut Vec<Recipe>) {
    let subset = choice.subset.map(|subset| &**subset);
    let effective = World::effective(choice.policy, subset, choice.port);
    let discovery = world.discovery(choice.service, &effective);
    let host = &choice.service.host;
    let name = names::outbound_cluster(choice.port, subset.unwrap_or_default(), host);
    if choice.service.resolution == Resolution::Headless && subset.is_none() {
        let direct = choice.outbound(Discovery::OriginalDestination);
        let name = names::direct_cluster(choice.port, host);
        recipes.push(recipe(world, name, direct, choice.inputs()));
    }
    if discovery == Discovery::Assigned {
        let labels = choice
            .policy
            .zip(subset)
            .and_then(|(p, name)| p.subset(name));
        let balancing = effective.load_balancer.as_ref().and_then(|b| b.locality);
        let detects = effective.outlier_detection.is_some();
        let plan = AssignmentPlan {
            name: name.clone(),
            endpoints: world
                .model
                .endpoint_list(&choice.service.key())
                .map(ById::new),
            port: choice.port,
            subset: labels.map_or_else(Labels::default, |subset| subset.labels.clone()),
            failover_from: failover_from(world, balancing, detects),
        };
        recipes.push(Recipe::new(Body::Assignment(plan), choice.inputs()));
    }
    recipes.push(recipe(
        world,
        name,
        choice.outbound(discovery),
        choice.inputs(),
    ));
}

/// Nearer endpoints are preferred only where those that fail are found out: otherwise traffic
/// would stay with a dead neighbour. The same condition as Istio's.
fn failover_from(
    world: &World<'_>,
    balancing: Option<LocalityBalancing>,
    detects: bool,
) -> Option<Locality> {
    let wanted = match balancing {
        Some(LocalityBalancing::Enabled) => true,
        Some(LocalityBalancing::Disabled) => false,
        None => world.scope.settings.locality_failover,
    };
    (wanted && detects && !world.locality.is_empty()).then(|| world.locality.clone())
}

pub(super) fn recipe(
    world: &World<'_>,
    name: String,
    role: Role,
    inputs: impl IntoIterator<Item = ObjectRef>,
) -> Recipe {
    let settings = Arc::clone(&world.scope.settings);
    let plan = ClusterPlan {
        name,
        role,
        settings,
    };
    Recipe::new(Body::Cluster(plan), inputs)
}
