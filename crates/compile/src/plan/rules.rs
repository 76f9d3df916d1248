// SPDX-License-Identifier: Apache-2.0
//! Which parts of a rule concern a port and a caller, and what their destinations mean.

use std::sync::Arc;

use remora_model::{
    Host, HttpAction, HttpMatch, L4Match, RouteRule, StringMatch, WeightedDestination,
};
use remora_primitives::Port;

use super::places::{Member, Place};
use super::world::World;
use crate::network::TcpTarget;
use crate::recipe::ById;
use crate::route::RulePlan;
use crate::wire;

/// What of a rule applies to requests on a port; `None` if nothing does: then the rule has
/// nothing to say about the port.
pub(super) fn for_requests(
    world: &World<'_>,
    rule: &Arc<RouteRule>,
    port: Port,
) -> Option<RulePlan> {
    let scope = world.scope;
    let applies = |test: &HttpMatch| {
        test.port.is_none_or(|wanted| wanted == port)
            && test.source.includes(&scope.namespace, &scope.labels)
    };
    let mut chosen = Vec::new();
    for (at, route) in rule.http.iter().enumerate() {
        let tests = route.matches.iter().enumerate();
        let concerned: Vec<_> = tests.filter(|(_, test)| applies(test)).collect();
        if concerned.is_empty() && !route.matches.is_empty() {
            continue;
        }
        let always = route.matches.is_empty() || concerned.iter().any(|(_, test)| is_always(test));
        chosen.push((at, concerned.iter().map(|(at, _)| *at).collect::<Vec<_>>()));
        // Whatever follows would never be reached.
        if always {
            break;
        }
    }
    if chosen.is_empty() {
        return None;
    }
    let routes = chosen.iter().filter_map(|(at, _)| rule.http.get(*at));
    let forwards = routes.filter_map(|route| match &route.action {
        HttpAction::Forward(forward) => Some(forward),
        HttpAction::Redirect(_) | HttpAction::Respond(_) => None,
    });
    let clusters = forwards
        .flat_map(|forward| {
            let destinations = forward.destinations.iter().map(|to| &to.destination);
            destinations.chain(forward.mirrors.iter().map(|mirror| &mirror.destination))
        })
        .map(|to| (to.clone(), world.cluster(to, port)))
        .collect();
    Some(RulePlan {
        rule: ById::new(rule),
        port,
        chosen,
        clusters,
        retry_priorities: scope.capabilities.retry_priorities,
    })
}

/// Whether a test whose port and caller are decided already holds for every request.
fn is_always(test: &HttpMatch) -> bool {
    let any_path = test
        .path
        .as_ref()
        .is_none_or(|path| matches!(&path.path, StringMatch::Prefix(prefix) if &**prefix == "/"));
    any_path
        && test.scheme.is_none()
        && test.method.is_none()
        && test.authority.is_none()
        && test.headers.is_empty()
        && test.query.is_empty()
}

/// Where connections to a member go at a place (`None`: it has none).
pub(super) fn for_connections(
    world: &World<'_>,
    member: Member<'_>,
    place: Option<Place>,
) -> TcpTarget {
    let port = member.port.number;
    let rule = world.rule(&member.service.host);
    let route = rule.and_then(|rule| {
        rule.tcp.iter().find(|route| {
            let mut tests = route.matches.iter();
            route.matches.is_empty() || tests.any(|test| concerns(world, test, port, place))
        })
    });
    match route {
        Some(route) => tcp_target(world, member, &route.destinations),
        None => {
            let cluster = World::default_cluster(member.service, port);
            with_pool(world, member, TcpTarget::to_cluster(cluster))
        }
    }
}

/// Where TLS connections of a member go by the server name in their ClientHello: the rule's
/// routes in order. A name that occurs twice belongs to the first.
pub(super) fn for_server_names(
    world: &World<'_>,
    member: Member<'_>,
    place: Option<Place>,
) -> Vec<(Host, TcpTarget)> {
    let port = member.port.number;
    let mut targets: Vec<(Host, TcpTarget)> = Vec::new();
    let Some(rule) = world.rule(&member.service.host) else {
        return targets;
    };
    for route in &rule.tls {
        let concerned = route.matches.iter();
        let names = concerned
            .filter(|test| concerns(world, &test.l4, port, place))
            .flat_map(|test| &test.sni);
        for name in names {
            if targets.iter().all(|(known, _)| known != name) {
                let target = tcp_target(world, member, &route.destinations);
                targets.push((name.clone(), target));
            }
        }
    }
    targets
}

fn concerns(world: &World<'_>, test: &L4Match, port: Port, place: Option<Place>) -> bool {
    let scope = world.scope;
    let there = |place: Place| test.destination.iter().any(|net| place.is_within(net));
    test.port.is_none_or(|wanted| wanted == port)
        && test.source.includes(&scope.namespace, &scope.labels)
        && (test.destination.is_empty() || place.is_some_and(there))
}

fn tcp_target(
    world: &World<'_>,
    member: Member<'_>,
    destinations: &[WeightedDestination],
) -> TcpTarget {
    let port = member.port.number;
    let mut target = TcpTarget::to_cluster(World::default_cluster(member.service, port));
    let weights = wire::scaled(destinations.iter().map(|to| to.weight.get()));
    let clusters = destinations
        .iter()
        .map(|to| world.cluster(&to.destination, port));
    target.clusters = clusters.zip(weights).collect();
    with_pool(world, member, target)
}

/// The limits on a TCP session are the addressed service's.
fn with_pool(world: &World<'_>, member: Member<'_>, target: TcpTarget) -> TcpTarget {
    let policy = world.policy(member.service);
    let effective = World::effective(policy, None, member.port.number);
    let Some(pool) = effective.connection_pool else {
        return target;
    };
    TcpTarget {
        idle_timeout: pool.tcp_idle_timeout,
        max_duration: pool.max_connection_duration,
        ..target
    }
}
