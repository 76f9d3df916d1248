// SPDX-License-Identifier: Apache-2.0
//! Outbound listeners: the one that redirected connections reach, one for each address and port
//! that a service is dialled at, and one for all addresses of a port where a name, a range or a
//! server name decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use remora_model::{Host, Protocol, Resolution};
use remora_primitives::Port;

use super::places::{Member, Place, Places, Spoken as SpokenBy};
use super::rules;
use super::tables;
use super::world::World;
use crate::listener::{ChainMatch, ChainPlan, ListenerPlan, Role, Spoken, any_address};
use crate::names;
use crate::network::{HttpTarget, Routes, Target, TcpTarget};
use crate::recipe::{Body, Recipe};
use crate::scope::OutboundPolicy;

/// Where redirected outbound connections arrive.
const OUTBOUND_PORT: Port = match Port::new(15001) {
    Some(port) => port,
    None => unreachable!(),
};

pub(super) fn plan(world: &World<'_>, places: &Places<'_>, recipes: &mut Vec<Recipe>) {
    recipes.push(Recipe::new(Body::Listener(redirected(world)), []));
    let mut ranges: BTreeMap<Port, Vec<ChainPlan>> = BTreeMap::new();
    for ((place, port), members) in &places.placed {
        let split = Split::of(world, *place, members);
        match place {
            Place::Single(ip) => {
                let (chains, fallback) = split.alone();
                let plan = ListenerPlan {
                    name: names::address_and_port(ip, *port),
                    addresses: vec![*ip],
                    port: *port,
                    role: Role::Destination,
                    chains,
                    fallback,
                    settings: Arc::clone(&world.scope.settings),
                };
                recipes.push(Recipe::new(Body::Listener(plan), origins(members)));
            }
            Place::Range(_) => {
                let chains = split.within(*place);
                ranges.entry(*port).or_default().extend(chains);
            }
        }
    }
    let mut ports: BTreeSet<Port> = ranges
        .keys()
        .chain(places.unplaced.keys())
        .copied()
        .collect();
    let by_host = tables::ports_by_host(world, places);
    ports.extend(&by_host);
    for port in ports {
        if World::is_own_port(port) {
            continue;
        }
        let unplaced = places.unplaced.get(&port).map_or(&[][..], Vec::as_slice);
        let mut chains = ranges.remove(&port).unwrap_or_default();
        chains.extend(server_name_chains(world, None, unplaced));
        if by_host.contains(&port) {
            chains.push(by_host_chain(port));
        }
        recipes.push(any_destination(world, port, unplaced, chains));
    }
}

fn origins(members: &[Member<'_>]) -> Vec<remora_model::ObjectRef> {
    let origins = members.iter().map(|member| member.service.origin.clone());
    origins.collect()
}

/// What connections get that nothing else claims.
pub(super) fn unknown(world: &World<'_>) -> TcpTarget {
    TcpTarget::to_cluster(match world.scope.settings.outbound {
        OutboundPolicy::AllowAny => names::PASSTHROUGH,
        OutboundPolicy::RegistryOnly => names::BLACK_HOLE,
    })
}

/// A chain that ends connections to the listener's own port: they would come back for ever.
pub(super) fn loop_guard(listener: &str, port: Port) -> ChainPlan {
    ChainPlan {
        name: format!("{listener}-blackhole"),
        matches: ChainMatch {
            port: Some(port),
            ..ChainMatch::default()
        },
        target: Target::Tcp(TcpTarget::to_cluster(names::BLACK_HOLE)),
    }
}

/// A chain that ends connections to allocated addresses on ports that nobody declared. The
/// addresses exist nowhere, so passing the connections through would leave the caller waiting.
fn nowhere(listener: &str) -> ChainPlan {
    const ALLOCATED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16);
    ChainPlan {
        name: format!("{listener}-allocated"),
        matches: ChainMatch {
            range: Some(IpNet::V4(ALLOCATED)),
            ..ChainMatch::default()
        },
        target: Target::Tcp(TcpTarget::to_cluster(names::BLACK_HOLE)),
    }
}

fn redirected(world: &World<'_>) -> ListenerPlan {
    let name = names::VIRTUAL_OUTBOUND;
    ListenerPlan {
        name: name.to_owned(),
        addresses: any_address(world.dual_stack),
        port: OUTBOUND_PORT,
        role: Role::RedirectedOutbound,
        chains: vec![loop_guard(name, OUTBOUND_PORT), nowhere(name)],
        fallback: Some(ChainPlan {
            name: format!("{name}-catchall-tcp"),
            matches: ChainMatch::default(),
            target: Target::Tcp(unknown(world)),
        }),
        settings: Arc::clone(&world.scope.settings),
    }
}

/// How a place's connections are told apart: chains for what is recognised, and the rest.
struct Split {
    special: Vec<ChainPlan>,
    rest: ChainPlan,
}

impl Split {
    fn of(world: &World<'_>, place: Place, members: &[Member<'_>]) -> Self {
        let spoken = SpokenBy::by(members);
        let http = Target::Http(http_target(place, members));
        let mut special = Vec::new();
        if spoken != SpokenBy::Http {
            special = server_name_chains(world, Some(place), members);
        }
        if spoken == SpokenBy::Either {
            special.push(chain("http", Some(Spoken::Http), http.clone()));
        }
        let rest = match spoken {
            SpokenBy::Http => chain("http", None, http),
            SpokenBy::Opaque | SpokenBy::Either => {
                let opaque = members.iter().find(|m| !m.port.protocol.is_http());
                let member = opaque.or_else(|| members.first()).copied();
                let target = member.map(|m| rules::for_connections(world, m, Some(place)));
                let target = target.unwrap_or_else(|| unknown(world));
                chain("tcp", None, Target::Tcp(target))
            }
        };
        Self { special, rest }
    }

    /// Chains and fallback of a listener that is the place's own.
    fn alone(self) -> (Vec<ChainPlan>, Option<ChainPlan>) {
        if self.special.is_empty() {
            (vec![self.rest], None)
        } else {
            (self.special, Some(self.rest))
        }
    }

    /// Chains for a range within a listener for all addresses. A proxy that has chosen a range
    /// looks for a chain nowhere else, so the rest is spelled out for each transport.
    fn within(self, place: Place) -> Vec<ChainPlan> {
        let Place::Range(net) = place else {
            return Vec::new();
        };
        let mut chains = self.special;
        if chains.is_empty() {
            chains.push(self.rest);
        } else {
            for spoken in [Spoken::Clear, Spoken::Tls] {
                let mut rest = self.rest.clone();
                rest.matches.spoken = Some(spoken);
                if spoken == Spoken::Tls {
                    rest.name = "tls".to_owned();
                }
                let taken = |c: &ChainPlan| c.matches == rest.matches;
                if !chains.iter().any(taken) {
                    chains.push(rest);
                }
            }
        }
        for chain in &mut chains {
            chain.matches.range = Some(net);
            chain.name = format!("{net}|{}", chain.name);
        }
        chains
    }
}

fn chain(name: &str, spoken: Option<Spoken>, target: Target) -> ChainPlan {
    ChainPlan {
        name: name.to_owned(),
        matches: ChainMatch {
            spoken,
            ..ChainMatch::default()
        },
        target,
    }
}

fn http_target(place: Place, members: &[Member<'_>]) -> HttpTarget {
    let port = members.first().map(|member| member.port.number);
    HttpTarget {
        stat_prefix: match port {
            Some(port) => format!("outbound_{place}_{port}"),
            None => format!("outbound_{place}"),
        },
        routes: Routes::Named(tables::name(place, members)),
    }
}

/// Chains by server name, for those of whom TLS may be spoken: where a rule routes by it, and
/// where several share a place and only the name tells them apart.
fn server_name_chains(
    world: &World<'_>,
    place: Option<Place>,
    members: &[Member<'_>],
) -> Vec<ChainPlan> {
    let mut targets: Vec<(Host, TcpTarget)> = Vec::new();
    let shared = place.is_none() || members.len() > 1;
    for member in members {
        let protocol = member.port.protocol;
        if !protocol.is_tls() && protocol != Protocol::Auto {
            continue;
        }
        targets.extend(rules::for_server_names(world, *member, place));
        if shared {
            let target = rules::for_connections(world, *member, place);
            targets.push((member.service.host.clone(), target));
        }
    }
    let mut chains: Vec<ChainPlan> = Vec::new();
    for (host, target) in targets {
        // `*` is every name: no name is asked for.
        let name = host.to_string();
        let matches = ChainMatch {
            server_name: (name != "*").then(|| name.clone()),
            spoken: Some(Spoken::Tls),
            ..ChainMatch::default()
        };
        if chains.iter().all(|chain| chain.matches != matches) {
            chains.push(ChainPlan {
                name: format!("sni:{name}"),
                matches,
                target: Target::Tcp(target),
            });
        }
    }
    chains
}

/// Requests to any destination of a port, told apart by host.
fn by_host_chain(port: Port) -> ChainPlan {
    let target = HttpTarget {
        stat_prefix: format!("outbound_0.0.0.0_{port}"),
        routes: Routes::Named(tables::by_host_name(port)),
    };
    chain("http", Some(Spoken::Http), Target::Http(target))
}

/// The listener for all destinations of a port that have none of their own.
fn any_destination(
    world: &World<'_>,
    port: Port,
    unplaced: &[Member<'_>],
    chains: Vec<ChainPlan>,
) -> Recipe {
    // Bytes to a service that goes where it was dialled, and of which no address is known.
    let opaque = unplaced.iter().find(|member| {
        let protocol = member.port.protocol;
        member.service.resolution == Resolution::Passthrough
            && protocol.is_opaque()
            && !protocol.is_tls()
    });
    let rest = match opaque {
        Some(member) => rules::for_connections(world, *member, None),
        None => unknown(world),
    };
    let rest = chain("PassthroughFilterChain", None, Target::Tcp(rest));
    let (chains, fallback) = if chains.is_empty() {
        (vec![rest], None)
    } else {
        (chains, Some(rest))
    };
    let plan = ListenerPlan {
        name: names::address_and_port("0.0.0.0", port),
        addresses: any_address(world.dual_stack),
        port,
        role: Role::Destination,
        chains,
        fallback,
        settings: Arc::clone(&world.scope.settings),
    };
    Recipe::new(Body::Listener(plan), origins(unplaced))
}
