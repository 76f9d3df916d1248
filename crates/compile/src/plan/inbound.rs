// SPDX-License-Identifier: Apache-2.0
//! Inbound: the listener that redirected connections reach, with chains for each port that the
//! workload serves, and a cluster for each.
//!
//! Ports that no service has are passed on unseen: a server there may well speak first.

use std::collections::BTreeMap;
use std::sync::Arc;

use remora_model::{ObjectRef, Protocol, Service, ServicePort};
use remora_primitives::Port;

use super::clusters;
use super::outbound::loop_guard;
use super::world::World;
use crate::cluster::Role as ClusterRole;
use crate::listener::{ChainMatch, ChainPlan, ListenerPlan, Role, Spoken, any_address};
use crate::names;
use crate::network::{HttpTarget, HttpVersion, Routes, Target, TcpTarget};
use crate::recipe::{Body, ById, Recipe};

/// Where redirected inbound connections arrive.
const INBOUND_PORT: Port = match Port::new(15006) {
    Some(port) => port,
    None => unreachable!(),
};

pub(super) fn plan(world: &World<'_>, recipes: &mut Vec<Recipe>) {
    let ports = local_ports(world);
    let mut chains = vec![loop_guard(names::VIRTUAL_INBOUND, INBOUND_PORT)];
    for (local, (service, port)) in &ports {
        chains.extend(port_chains(*local, port));
        let role = ClusterRole::Inbound {
            service: ById::new(service),
            port: port.number,
            dual_stack: world.dual_stack,
        };
        let inputs = [service.origin.clone()];
        let name = names::inbound_cluster(*local);
        recipes.push(clusters::recipe(world, name, role, inputs));
    }
    let plan = ListenerPlan {
        name: names::VIRTUAL_INBOUND.to_owned(),
        addresses: any_address(world.dual_stack),
        port: INBOUND_PORT,
        role: Role::RedirectedInbound,
        chains,
        fallback: Some(ChainPlan {
            name: names::VIRTUAL_INBOUND.to_owned(),
            matches: ChainMatch::default(),
            target: Target::Tcp(TcpTarget::to_cluster(names::INBOUND_PASSTHROUGH)),
        }),
        settings: Arc::clone(&world.scope.settings),
    };
    let inputs: Vec<ObjectRef> = ports.values().map(|(s, _)| s.origin.clone()).collect();
    recipes.push(Recipe::new(Body::Listener(plan), inputs));
}

/// The workload's ports with what is spoken there. If services disagree, the first counts.
fn local_ports<'a>(world: &World<'a>) -> BTreeMap<Port, (&'a Arc<Service>, &'a ServicePort)> {
    let mut ports = BTreeMap::new();
    for ip in &world.scope.addresses {
        for (service, endpoint) in world.model.services_at(*ip) {
            for port in &service.ports {
                let served = endpoint.target(port.number);
                let local = served.filter(|_| port.protocol != Protocol::Udp);
                // Only connections to other ports can have been redirected.
                if let Some(local) = local.filter(|local| !World::is_own_port(*local)) {
                    ports.entry(local).or_insert((service, port));
                }
            }
        }
    }
    ports
}

fn port_chains(local: Port, port: &ServicePort) -> Vec<ChainPlan> {
    let chain = |name: &str, spoken: Option<Spoken>, target: Target| ChainPlan {
        name: format!("{local}|{name}"),
        matches: ChainMatch {
            port: Some(local),
            spoken,
            ..ChainMatch::default()
        },
        target,
    };
    let version = if port.protocol.is_http2() {
        HttpVersion::Http2
    } else {
        HttpVersion::Http1
    };
    let http = || {
        Target::Http(HttpTarget {
            stat_prefix: format!("inbound_0.0.0.0_{local}"),
            routes: Routes::Inbound(local, version),
        })
    };
    let tcp = || Target::Tcp(TcpTarget::to_cluster(names::inbound_cluster(local)));
    if port.protocol.is_http() {
        vec![chain("http", None, http())]
    } else if port.protocol == Protocol::Auto {
        vec![
            chain("http", Some(Spoken::Http), http()),
            chain("tcp", Some(Spoken::Clear), tcp()),
            chain("tls", Some(Spoken::Tls), tcp()),
        ]
    } else {
        vec![chain("tcp", None, tcp())]
    }
}
