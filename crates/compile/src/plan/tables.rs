// SPDX-License-Identifier: Apache-2.0
//! Route tables: one for each service's port, small, so that an edit resends little; and, for
//! nodes that route by host, one for each port that holds the virtual hosts of all services there.

use std::collections::BTreeSet;
use std::sync::Arc;

use remora_model::{Host, Model, ObjectRef, Protocol, Resolution, RouteRule, Service};
use remora_primitives::Port;

use super::places::{Member, Place, Places, Spoken};
use super::rules;
use super::world::World;
use crate::names;
use crate::recipe::{Body, Recipe};
use crate::route::{HostPlan, TablePlan};
use crate::scope::OutboundPolicy;

/// The only port on which rules count whose hosts no service has, as under Istio.
const UNREGISTERED_PORT: Port = match Port::new(80) {
    Some(port) => port,
    None => unreachable!(),
};

/// The table of a place: the service's own, unless several share the place.
pub(super) fn name(place: Place, members: &[Member<'_>]) -> String {
    match members {
        [only] => names::host_and_port(&only.service.host, only.port.number),
        _ => match members.first() {
            Some(first) => names::address_and_port(place, first.port.number),
            None => String::new(),
        },
    }
}

/// The table that tells services of a port apart by host.
pub(super) fn by_host_name(port: Port) -> String {
    port.to_string()
}

/// The ports on which requests to any address are routed by their host.
pub(super) fn ports_by_host(world: &World<'_>, places: &Places<'_>) -> BTreeSet<Port> {
    let mut ports = BTreeSet::new();
    for (port, members) in &places.unplaced {
        let may_be_http = |member: &Member<'_>| !member.port.protocol.is_opaque();
        if members.iter().any(may_be_http) {
            ports.insert(*port);
        }
    }
    if world.scope.capabilities.route_by_host {
        let all = world.services.iter().flat_map(|service| &service.ports);
        let declared = all.filter(|port| port.protocol.is_http());
        ports.extend(declared.map(|port| port.number));
        if unregistered(world).next().is_some() {
            ports.insert(UNREGISTERED_PORT);
        }
    }
    ports.retain(|port| !World::is_own_port(*port));
    ports
}

pub(super) fn plan(world: &World<'_>, places: &Places<'_>, recipes: &mut Vec<Recipe>) {
    for ((place, _), members) in &places.placed {
        if Spoken::by(members) != Spoken::Opaque {
            recipes.push(of_place(world, *place, members));
        }
    }
    for port in ports_by_host(world, places) {
        recipes.push(by_host(world, port));
    }
}

/// The address decides: whatever the host is, it is the service there. If several share the
/// address their hosts tell them apart, and the first takes the rest.
fn of_place(world: &World<'_>, place: Place, members: &[Member<'_>]) -> Recipe {
    let mut table = Table::new(world, name(place, members));
    let speaking: Vec<_> = members
        .iter()
        .filter(|m| !m.port.protocol.is_opaque())
        .collect();
    let Some((first, others)) = speaking.split_first() else {
        return table.recipe(None);
    };
    table.domains.insert("*".to_owned());
    table.add(first.service, first.port.number, vec!["*".to_owned()]);
    for other in others {
        table.add_by_names(other.service, other.port.number);
    }
    table.recipe(None)
}

fn by_host(world: &World<'_>, port: Port) -> Recipe {
    let mut table = Table::new(world, by_host_name(port));
    let carried = |service: &&Arc<Service>| {
        let port = service.port(port);
        port.is_some_and(|port| !port.protocol.is_opaque() && port.protocol != Protocol::Udp)
    };
    let services: Vec<_> = world.services.iter().copied().filter(carried).collect();
    // A service's own name is its own, whatever short names others derive from theirs.
    let own: BTreeSet<_> = services
        .iter()
        .map(|service| service.host.to_string())
        .collect();
    for service in services {
        let names = domains(world, service);
        let host = service.host.to_string();
        let names = names
            .into_iter()
            .filter(|name| *name == host || !own.contains(name));
        table.add_new(service, port, names.collect());
    }
    if port == UNREGISTERED_PORT {
        for (rule, host) in unregistered(world) {
            table.add_rule(rule, host, port);
        }
    }
    let others = (!table.domains.contains("*")).then_some(world.scope.settings.outbound);
    table.recipe(others)
}

/// The hosts of visible rules that no visible service has. `*` is not one: it would take what
/// nobody declared.
fn unregistered<'a>(world: &World<'a>) -> impl Iterator<Item = (&'a Arc<RouteRule>, &'a Host)> {
    let namespace = &world.scope.namespace;
    let model: &'a Model = world.model;
    let visible =
        |rule: &&Arc<RouteRule>| rule.visibility.includes(namespace) && !rule.http.is_empty();
    model
        .routes()
        .iter()
        .filter(visible)
        .flat_map(|rule| rule.hosts.iter().map(move |host| (rule, host)))
        .filter(move |(rule, host)| {
            let chosen = model.route(host, namespace);
            host.to_string() != "*"
                && model.service(host, namespace).is_none()
                && chosen.is_some_and(|chosen| Arc::ptr_eq(chosen, rule))
        })
}

/// The authorities that mean a service, its host first.
fn domains(world: &World<'_>, service: &Service) -> Vec<String> {
    let host = service.host.to_string();
    let mut names = vec![host.clone()];
    if !service.host.is_wildcard() {
        names.push(format!("{host}."));
        if service.resolution == Resolution::Headless {
            names.push(format!("*.{host}"));
        }
    }
    names.extend(service.short_names(&world.scope.namespace));
    let mut ips: Vec<_> = service.vips().collect();
    ips.sort_unstable();
    names.extend(ips.iter().map(|ip| match ip {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }));
    names
}

/// A table in the making: no domain twice, and the objects it is made from.
struct Table<'a> {
    world: &'a World<'a>,
    name: String,
    hosts: Vec<HostPlan>,
    domains: BTreeSet<String>,
    inputs: Vec<ObjectRef>,
}

impl<'a> Table<'a> {
    fn new(world: &'a World<'a>, name: String) -> Self {
        Self {
            world,
            name,
            hosts: Vec::new(),
            domains: BTreeSet::new(),
            inputs: Vec::new(),
        }
    }

    fn add_by_names(&mut self, service: &Service, port: Port) {
        let names = domains(self.world, service);
        self.add_new(service, port, names);
    }

    /// Adds a service under those of the names that are still free.
    fn add_new(&mut self, service: &Service, port: Port, names: Vec<String>) {
        let free = |name: &String| self.domains.insert(name.clone());
        let names: Vec<_> = names.into_iter().filter(free).collect();
        if !names.is_empty() {
            self.add(service, port, names);
        }
    }

    fn add(&mut self, service: &Service, port: Port, domains: Vec<String>) {
        let rule = self.world.rule(&service.host);
        let applied = rule.and_then(|rule| rules::for_requests(self.world, rule, port));
        self.inputs.push(service.origin.clone());
        if let Some(rule) = rule.filter(|_| applied.is_some()) {
            self.inputs.push(rule.origin.clone());
        }
        self.hosts.push(HostPlan {
            name: names::host_and_port(&service.host, port),
            domains,
            rule: applied,
            default_cluster: Some(World::default_cluster(service, port)),
        });
    }

    fn add_rule(&mut self, rule: &Arc<RouteRule>, host: &Host, port: Port) {
        let name = host.to_string();
        let Some(applied) = rules::for_requests(self.world, rule, port) else {
            return;
        };
        if !self.domains.insert(name.clone()) {
            return;
        }
        self.inputs.push(rule.origin.clone());
        self.hosts.push(HostPlan {
            name: names::host_and_port(&name, port),
            domains: vec![name],
            rule: Some(applied),
            default_cluster: None,
        });
    }

    fn recipe(mut self, others: Option<OutboundPolicy>) -> Recipe {
        self.hosts.sort_by(|a, b| a.name.cmp(&b.name));
        let plan = TablePlan {
            name: self.name,
            hosts: self.hosts,
            others,
        };
        Recipe::new(Body::Table(plan), self.inputs)
    }
}
