// SPDX-License-Identifier: Apache-2.0
//! Endpoints: addresses with weight, health, place and priority; for DNS clusters, names.

use std::collections::BTreeSet;

use remora_ir::cluster::DnsEndpoint;
use remora_ir::endpoint::{
    ConfiguredHealth, Endpoint, EndpointAddress, EndpointSet, Locality, LocalityEndpoints,
    Overprovisioning,
};
use remora_primitives::{HostName, Percent, Weight};
use remora_xds_types::core;
use remora_xds_types::core::HealthStatus;
use remora_xds_types::endpoint;
use remora_xds_types::endpoint::cluster_load_assignment;
use remora_xds_types::endpoint::lb_endpoint::HostIdentifier;
use remora_xds_types::protobuf::UInt32Value;

use crate::address::{self, Place};
use crate::fault::Scope;
use crate::value;

/// An endpoint whose address may still be a name.
struct Found {
    place: Place,
    hostname: String,
    weight: Weight,
    health: ConfiguredHealth,
}

/// Translates endpoints with addresses.
pub(crate) fn assignment(
    scope: &Scope<'_>,
    message: endpoint::ClusterLoadAssignment,
) -> Option<EndpointSet> {
    let (places, overprovisioning, drop) = read(scope, message)?;
    let mut localities = Vec::with_capacity(places.len());
    for (at, (mut place, found)) in places.into_iter().enumerate() {
        let scope = scope.item("endpoints", at);
        for (n, found) in found {
            if let Some(endpoint) = resolved(&scope.item("lb_endpoints", n), found) {
                place.endpoints.push(endpoint);
            }
        }
        localities.push(place);
    }
    Some(EndpointSet {
        localities,
        overprovisioning,
        drop,
    })
}

fn resolved(scope: &Scope<'_>, found: Found) -> Option<Endpoint> {
    let address = match found.place {
        Place::Socket(socket) if socket.port() != 0 => EndpointAddress::Socket(socket),
        Place::Socket(_) => {
            scope.fault("port 0 (expected 1 to 65535)");
            return None;
        }
        Place::Pipe(path) => EndpointAddress::Pipe(path.into()),
        Place::Name(name, _) => {
            scope.fault(format!("`{name}` is not an IP address"));
            return None;
        }
    };
    Some(Endpoint {
        address,
        hostname: (!found.hostname.is_empty()).then(|| found.hostname.into()),
        weight: found.weight,
        health: found.health,
    })
}

/// Translates endpoints with names, for clusters that resolve them.
pub(crate) fn names(
    scope: &Scope<'_>,
    message: endpoint::ClusterLoadAssignment,
) -> Option<Vec<DnsEndpoint>> {
    let (places, _, _) = read(scope, message)?;
    let mut names = Vec::new();
    for (at, (place, found)) in places.into_iter().enumerate() {
        let scope = scope.item("endpoints", at);
        for (n, found) in found {
            let scope = scope.item("lb_endpoints", n);
            let name_and_port = match found.place {
                Place::Name(name, port) => Some((name, port)),
                Place::Socket(socket) => {
                    let name = scope.take(HostName::try_new(&socket.ip().to_string()));
                    name.zip(value::port(&scope, socket.port().into()))
                }
                Place::Pipe(_) => {
                    scope.fault("a socket in the file system has no name to resolve");
                    None
                }
            };
            names.extend(name_and_port.map(|(name, port)| DnsEndpoint {
                name,
                port,
                place: place.clone(),
                weight: found.weight,
            }));
        }
    }
    Some(names)
}

type Places = Vec<(LocalityEndpoints, Vec<(usize, Found)>)>;

fn read(
    scope: &Scope<'_>,
    message: endpoint::ClusterLoadAssignment,
) -> Option<(Places, Overprovisioning, Option<Percent>)> {
    fields! { scope, message: endpoint::ClusterLoadAssignment {
        honoured { cluster_name: "the service's name", endpoints, policy }
        ignored {}
        refused { named_endpoints: "endpoints by name" }
    }}
    let _ = cluster_name;
    let (overprovisioning, drop) = match policy {
        None => (Overprovisioning::default(), None),
        Some(said) => read_policy(&scope.field("policy"), said),
    };
    let numbered = endpoints.into_iter().enumerate();
    let places: Places = numbered
        .filter_map(|(at, place)| locality(&scope.item("endpoints", at), place))
        .collect();
    let priorities: BTreeSet<u32> = places.iter().map(|(place, _)| place.priority).collect();
    for (expected, found) in (0..).zip(priorities) {
        if expected != found {
            let at = scope.field("endpoints");
            at.fault(format!("priority {found} without priority {expected}"));
            return None;
        }
    }
    Some((places, overprovisioning, drop))
}

fn read_policy(
    scope: &Scope<'_>,
    message: cluster_load_assignment::Policy,
) -> (Overprovisioning, Option<Percent>) {
    fields! { scope, message: cluster_load_assignment::Policy {
        honoured { drop_overloads: "each of what the ones before leave", overprovisioning_factor: "140 if absent" }
        ignored { endpoint_stale_after: "the last endpoints stay, as everything does while the control plane is away" }
        refused { weighted_priority_health: "health by weight" }
    }}
    let factor = value::number(overprovisioning_factor).unwrap_or(140);
    if factor == 0 {
        scope
            .field("overprovisioning_factor")
            .fault("is zero (expected 1 or more)");
    }
    let mut kept = 1.0;
    for (at, overload) in drop_overloads.into_iter().enumerate() {
        let scope = scope.item("drop_overloads", at);
        let at = scope.field("drop_percentage");
        if let Some(share) = overload
            .drop_percentage
            .and_then(|p| value::fraction(&at, p))
        {
            let ratio = f64::from(share.numerator) / f64::from(share.denominator.get());
            kept *= 1.0 - ratio.min(1.0);
        }
    }
    let dropped = Percent::try_new((1.0 - kept) * 100.0).ok();
    (
        Overprovisioning(factor),
        dropped.filter(|percent| *percent > Percent::ZERO),
    )
}

fn locality(
    scope: &Scope<'_>,
    message: endpoint::LocalityLbEndpoints,
) -> Option<(LocalityEndpoints, Vec<(usize, Found)>)> {
    fields! { scope, message: endpoint::LocalityLbEndpoints {
        honoured { locality, lb_endpoints, load_balancing_weight: "1 or more", priority: "0 to 128, without gaps" }
        ignored {
            metadata: "nothing reads it",
            proximity: "Envoy does not read it either"
        }
        refused { lb_config: "endpoints by further discovery" }
    }}
    if priority > 128 {
        scope
            .field("priority")
            .fault(format!("{priority} (expected 0 to 128)"));
    }
    let weight = weight(&scope.field("load_balancing_weight"), load_balancing_weight);
    let numbered = lb_endpoints.into_iter().enumerate();
    let found = numbered
        .filter_map(|(at, message)| {
            Some((at, lb_endpoint(&scope.item("lb_endpoints", at), message)?))
        })
        .collect();
    Some((
        LocalityEndpoints {
            locality: place_of(scope, locality.unwrap_or_default()),
            priority,
            weight: weight?,
            endpoints: Vec::new(),
        },
        found,
    ))
}

fn place_of(scope: &Scope<'_>, message: core::Locality) -> Locality {
    fields! { scope, message: core::Locality {
        honoured { region, zone, sub_zone }
        ignored {}
        refused {}
    }}
    Locality {
        region: region.into(),
        zone: zone.into(),
        sub_zone: sub_zone.into(),
    }
}

/// A weight, if one is said; zero is a fault.
fn weight(scope: &Scope<'_>, said: Option<UInt32Value>) -> Option<Option<Weight>> {
    match value::number(said) {
        None => Some(None),
        Some(weight) => scope.take(Weight::try_new(weight)).map(Some),
    }
}

fn lb_endpoint(scope: &Scope<'_>, message: endpoint::LbEndpoint) -> Option<Found> {
    fields! { scope, message: endpoint::LbEndpoint {
        honoured { health_status, load_balancing_weight: "1 if absent", host_identifier: "`endpoint` only" }
        ignored { metadata: "subsets and transport socket matches are refused where they are asked for" }
        refused {}
    }}
    let health = match value::word(&scope.field("health_status"), health_status) {
        Some(HealthStatus::Unknown | HealthStatus::Healthy) => Some(ConfiguredHealth::Healthy),
        Some(HealthStatus::Degraded) => Some(ConfiguredHealth::Degraded),
        Some(HealthStatus::Unhealthy | HealthStatus::Timeout) => Some(ConfiguredHealth::Unhealthy),
        Some(HealthStatus::Draining) => Some(ConfiguredHealth::Draining),
        None => None,
    };
    let weight = weight(&scope.field("load_balancing_weight"), load_balancing_weight);
    let at = scope.field("endpoint");
    let message = match host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => {
            scope
                .field("endpoint_name")
                .fault("not supported: endpoints by name");
            return None;
        }
        None => {
            at.fault("is missing");
            return None;
        }
    };
    fields! { &at, message: endpoint::Endpoint {
        honoured { address: "TCP addresses and sockets in the file system", hostname }
        ignored {
            health_check_config: "there are no active health checks",
            additional_addresses: "the first address is used",
            observability_name: "statistics have names of their own"
        }
        refused {}
    }}
    Some(Found {
        place: address::place(&at.field("address"), address)?,
        hostname,
        weight: weight?.unwrap_or(Weight::ONE),
        health: health?,
    })
}
