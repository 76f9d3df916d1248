// SPDX-License-Identifier: Apache-2.0
//! At which addresses services are dialled, and which of them share one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use remora_model::{
    AddressOrigin, EndpointAddress, Health, Protocol, Resolution, Service, ServicePort,
};
use remora_primitives::Port;

use super::world::World;

/// An address, or a range of them, that callers dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Single(IpAddr),
    Range(IpNet),
}

impl Place {
    /// Whether all of it lies within a range.
    pub(super) fn is_within(&self, net: &IpNet) -> bool {
        match self {
            Self::Single(ip) => net.contains(ip),
            Self::Range(own) => net.contains(own),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(ip) => ip.fmt(f),
            Self::Range(net) => net.fmt(f),
        }
    }
}

/// A service's port, as a member of those that share a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) service: &'a Arc<Service>,
    pub(super) port: &'a ServicePort,
}

/// Everybody by place and port, the first of the model first.
#[derive(Debug, Default)]
pub(super) struct Places<'a> {
    /// Those that are dialled at an address.
    pub(super) placed: BTreeMap<(Place, Port), Vec<Member<'a>>>,
    /// Those of which only the name is known.
    pub(super) unplaced: BTreeMap<Port, Vec<Member<'a>>>,
}

impl<'a> Places<'a> {
    pub(super) fn of(world: &World<'a>) -> Self {
        let mut places = Self::default();
        for &service in &world.services {
            let addresses = addresses(world, service);
            for port in &service.ports {
                if port.protocol == Protocol::Udp {
                    continue;
                }
                let member = Member { service, port };
                for place in &addresses {
                    let key = (*place, port.number);
                    places.placed.entry(key).or_default().push(member);
                }
                if addresses.is_empty() && service.resolution != Resolution::Headless {
                    let shared = places.unplaced.entry(port.number).or_default();
                    shared.push(member);
                }
            }
        }
        places
    }
}

fn addresses(world: &World<'_>, service: &Service) -> BTreeSet<Place> {
    if service.resolution == Resolution::Headless {
        let endpoints = world.model.all_endpoints(&service.key()).iter();
        return endpoints
            .filter(|endpoint| endpoint.health != Health::Unready)
            .filter_map(|endpoint| match endpoint.address {
                EndpointAddress::Ip(ip) => Some(Place::Single(ip)),
                _ => None,
            })
            .collect();
    }
    // An address made up by the mesh leads nowhere for a service that goes where it was dialled.
    let real = service.resolution != Resolution::Passthrough;
    service
        .addresses
        .iter()
        .filter(|address| real || address.origin == AddressOrigin::Declared)
        .map(|address| match address.single() {
            Some(ip) => Place::Single(ip),
            None => Place::Range(address.net),
        })
        // `0.0.0.0` is no address that anybody dials: it says "any".
        .filter(|place| !matches!(place, Place::Single(ip) if ip.is_unspecified()))
        .collect()
}

/// What is spoken at a place by all who share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP, everybody says so.
    Http,
    /// Nobody speaks HTTP.
    Opaque,
    /// To be found out per connection.
    Either,
}

impl Spoken {
    pub(super) fn by(members: &[Member<'_>]) -> Self {
        let mut all = members.iter().map(|member| member.port.protocol);
        if all.clone().all(Protocol::is_http) {
            Self::Http
        } else if all.all(Protocol::is_opaque) {
            Self::Opaque
        } else {
            Self::Either
        }
    }
}
