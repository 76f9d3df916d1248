// SPDX-License-Identifier: Apache-2.0
//! Load assignments: the endpoints of one cluster, by locality and priority.
//!
//! With failover the caller's own locality comes first, then its zone, its region, the rest; the
//! steps that nobody is at are left out, so that priorities have no gaps. Order within is by
//! locality, address and port, whatever the order of the model's list.

use std::collections::BTreeMap;

use remora_model::{Endpoint, EndpointAddress, Health, Labels, Locality};
use remora_primitives::Port;
use remora_xds_types::core::{
    Address, HealthStatus, Locality as ProtoLocality, Pipe, address as addresses,
};
use remora_xds_types::endpoint::lb_endpoint::HostIdentifier;
use remora_xds_types::endpoint::{
    ClusterLoadAssignment, Endpoint as ProtoEndpoint, LbEndpoint, LocalityLbEndpoints,
};

use crate::recipe::ById;
use crate::wire;

/// Whose endpoints, and how they are ranked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AssignmentPlan {
    /// The cluster's name.
    pub name: String,
    /// The service's endpoints; `None`: it has none.
    pub endpoints: Option<ById<[Endpoint]>>,
    /// The service's port.
    pub port: Port,
    /// What a subset selects by; empty: all.
    pub subset: Labels,
    /// The caller's locality, if nearer endpoints are preferred.
    pub failover_from: Option<Locality>,
}

impl AssignmentPlan {
    pub(crate) fn build(&self) -> ClusterLoadAssignment {
        let wanted = |endpoint: &&Endpoint| {
            endpoint.health != Health::Unready
                && !matches!(endpoint.address, EndpointAddress::Name(_))
                && self.subset.select(&endpoint.labels)
        };
        let list = self.endpoints.as_ref().map_or(&[][..], ById::get).iter();
        let hosts = list
            .filter(wanted)
            .filter_map(|endpoint| Some((endpoint, endpoint.target(self.port)?)));
        assignment(&self.name, hosts.collect(), |locality| {
            self.distance(locality)
        })
    }

    /// How many parts of the locality, counted from the end, are not the caller's: 0 to 3.
    fn distance(&self, other: &Locality) -> usize {
        let Some(own) = &self.failover_from else {
            return 0;
        };
        let parts = [
            own.region == other.region,
            own.zone == other.zone,
            own.sub_zone == other.sub_zone,
        ];
        parts.len() - parts.iter().take_while(|same| **same).count()
    }
}

fn of_locality(locality: &Locality, priority: usize, group: &[Host<'_>]) -> LocalityLbEndpoints {
    LocalityLbEndpoints {
        locality: (!locality.is_empty()).then(|| ProtoLocality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            sub_zone: locality.sub_zone.to_string(),
        }),
        lb_endpoints: group.iter().map(host).collect(),
        load_balancing_weight: wire::number(group.iter().map(|host| host.weight).sum()),
        priority: u32::try_from(priority).unwrap_or(u32::MAX),
        ..LocalityLbEndpoints::default()
    }
}

fn host(host: &Host<'_>) -> LbEndpoint {
    let (endpoint, port) = (host.endpoint, host.port);
    let address = match &endpoint.address {
        EndpointAddress::Ip(ip) => wire::address(*ip, port),
        EndpointAddress::Name(name) => wire::named_address(name, port),
        EndpointAddress::Unix(path) => Some(Address {
            address: Some(addresses::Address::Pipe(Pipe {
                path: path.to_string(),
                mode: 0,
            })),
        }),
    };
    let health = match endpoint.health {
        Health::Healthy => HealthStatus::Unknown,
        Health::Draining => HealthStatus::Draining,
        Health::Unready => HealthStatus::Unhealthy,
    };
    LbEndpoint {
        health_status: health.into(),
        load_balancing_weight: wire::number(host.weight),
        host_identifier: Some(HostIdentifier::Endpoint(ProtoEndpoint {
            address,
            ..ProtoEndpoint::default()
        })),
        ..LbEndpoint::default()
    }
}

/// The endpoints of a cluster that asks DNS, within the cluster itself.
pub(crate) fn of_names(name: &str, hosts: Vec<(&Endpoint, Port)>) -> ClusterLoadAssignment {
    assignment(name, hosts, |_| 0)
}

/// An endpoint with the port and the weight that are sent for it.
struct Host<'a> {
    endpoint: &'a Endpoint,
    port: Port,
    weight: u32,
}

fn assignment(
    name: &str,
    mut hosts: Vec<(&Endpoint, Port)>,
    distance: impl Fn(&Locality) -> usize,
) -> ClusterLoadAssignment {
    hosts.sort_by(|(a, p), (b, q)| (&a.locality, &a.address, p).cmp(&(&b.locality, &b.address, q)));
    // An instance that is listed twice would get twice its share.
    hosts.dedup_by(|(a, p), (b, q)| (&a.address, p) == (&b.address, q));
    let weights = wire::scaled(hosts.iter().map(|(endpoint, _)| endpoint.weight.get()));
    let mut groups: BTreeMap<(usize, &Locality), Vec<Host<'_>>> = BTreeMap::new();
    for ((endpoint, port), weight) in hosts.into_iter().zip(weights) {
        let key = (distance(&endpoint.locality), &endpoint.locality);
        let host = Host {
            endpoint,
            port,
            weight,
        };
        groups.entry(key).or_default().push(host);
    }
    let mut steps: Vec<usize> = groups.keys().map(|(distance, _)| *distance).collect();
    steps.dedup();
    let priority = |distance: usize| steps.partition_point(|step| *step < distance);
    let groups = groups.iter();
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: groups
            .map(|((distance, locality), group)| of_locality(locality, priority(*distance), group))
            .collect(),
        ..ClusterLoadAssignment::default()
    }
}
