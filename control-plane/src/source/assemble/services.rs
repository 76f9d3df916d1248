// SPDX-License-Identifier: Apache-2.0
//! Services: from `Service` and `ServiceEntry`, with their addresses and endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use remora_model::{
    AddressOrigin, Endpoint, Host, ObjectRef, Placement, Registry, Resolution, Service,
    ServiceAddress, ServiceKey,
};

use super::addresses::{self, CAPACITY};
use super::endpoints::Instances;
use crate::source::finding::{Finding, Severity};
use crate::source::manifest::Object;
use crate::source::manifest::object::{ClusterIp, ClusterService, Place, ServiceEntry};

/// A service that may still lack its address.
pub(super) struct Draft {
    service: Service,
    endpoints: Vec<Endpoint>,
    wants_address: bool,
}

/// Makes services of objects, those of the cluster first.
pub(super) fn draft(objects: &[&Object], findings: &mut Vec<Finding>) -> Vec<Draft> {
    let instances = Instances::new(objects);
    let mut drafts = Drafts {
        known: HashMap::new(),
        list: Vec::new(),
    };
    for object in objects {
        if let Object::Service(service) = object {
            drafts.add(from_cluster(service, &instances), None, findings);
        }
    }
    for object in objects {
        if let Object::ServiceEntry(entry) = object {
            for (host, place) in &entry.hosts {
                let draft = from_entry(entry, host, &instances, findings);
                drafts.add(draft, Some(place), findings);
            }
        }
    }
    drafts.list
}

struct Drafts {
    known: HashMap<ServiceKey, ObjectRef>,
    list: Vec<Draft>,
}

impl Drafts {
    fn add(&mut self, draft: Draft, place: Option<&Place>, findings: &mut Vec<Finding>) {
        let (key, origin) = (draft.service.key(), &draft.service.origin);
        let Some(first) = self.known.get(&key) else {
            self.known.insert(key, origin.clone());
            self.list.push(draft);
            return;
        };
        let reason = format!(
            "host `{}` is defined already by {first} at {}:{}: this one has no effect",
            key.host, first.file, first.line
        );
        findings.push(super::about(Severity::Error, origin, place, reason));
    }
}

fn from_cluster(written: &ClusterService, instances: &Instances<'_>) -> Draft {
    let declared = match &written.cluster_ip {
        ClusterIp::Addresses(list) => list.iter().copied().map(declared_address).collect(),
        _ => Vec::new(),
    };
    let (resolution, wants_address) = match written.cluster_ip {
        ClusterIp::Unset => (Resolution::Static, true),
        ClusterIp::Addresses(_) => (Resolution::Static, false),
        ClusterIp::Headless => (Resolution::Headless, false),
        ClusterIp::External(_) => (Resolution::Dns, true),
    };
    let placement = match written.cluster_ip {
        ClusterIp::External(_) => Placement::External,
        _ => Placement::Internal,
    };
    let service = Service {
        host: Host::Name(written.host.clone()),
        namespace: written.meta.namespace().clone(),
        name: Arc::clone(written.meta.name()),
        registry: Registry::Cluster,
        ports: written.ports.clone(),
        addresses: declared,
        resolution,
        placement,
        visibility: written.visibility.clone(),
        origin: written.meta.origin.clone(),
    };
    let endpoints = instances.of_service(written);
    Draft {
        service,
        endpoints,
        wants_address,
    }
}

fn declared_address(ip: IpAddr) -> ServiceAddress {
    ServiceAddress {
        net: ip.into(),
        origin: AddressOrigin::Declared,
    }
}

fn from_entry(
    written: &ServiceEntry,
    host: &Host,
    instances: &Instances<'_>,
    findings: &mut Vec<Finding>,
) -> Draft {
    let declared = |net: &IpNet| ServiceAddress {
        net: *net,
        origin: AddressOrigin::Declared,
    };
    let service = Service {
        host: host.clone(),
        namespace: written.meta.namespace().clone(),
        name: Arc::clone(written.meta.name()),
        registry: Registry::Entry,
        ports: written.ports.clone(),
        addresses: written.addresses.iter().map(declared).collect(),
        resolution: written.resolution,
        placement: written.placement,
        visibility: written.visibility.clone(),
        origin: written.meta.origin.clone(),
    };
    // A wildcard has no name that could be looked up, and a pass-through must keep the address
    // that the caller dialled.
    let wants_address = service.addresses.is_empty()
        && !host.is_wildcard()
        && written.resolution != Resolution::Passthrough;
    let endpoints = instances.of_entry(written, host, findings);
    Draft {
        service,
        endpoints,
        wants_address,
    }
}

/// Services with their addresses, and the endpoints of each.
type Finished = (Vec<Arc<Service>>, BTreeMap<ServiceKey, Arc<[Endpoint]>>);

/// Gives addresses to the services that lack one.
pub(super) fn finish(drafts: Vec<Draft>, findings: &mut Vec<Finding>) -> Finished {
    let lacking = |draft: &&Draft| draft.wants_address;
    let wanted: BTreeSet<_> = drafts
        .iter()
        .filter(lacking)
        .map(|d| d.service.key())
        .collect();
    let given = addresses::allocate(&wanted, &taken(&drafts));
    let mut services = Vec::with_capacity(drafts.len());
    let mut endpoints = BTreeMap::new();
    for Draft {
        mut service,
        endpoints: own,
        wants_address,
    } in drafts
    {
        let key = service.key();
        match given.get(&key) {
            Some(ip) => service.addresses.push(ServiceAddress {
                net: IpAddr::from(*ip).into(),
                origin: AddressOrigin::Allocated,
            }),
            None if wants_address => {
                let reason = format!("all {CAPACITY} addresses are in use: it gets none");
                findings.push(super::about(Severity::Error, &service.origin, None, reason));
            }
            None => {}
        }
        endpoints.insert(key, own.into());
        services.push(Arc::new(service));
    }
    (services, endpoints)
}

fn taken(drafts: &[Draft]) -> HashSet<Ipv4Addr> {
    let vips = drafts.iter().flat_map(|draft| draft.service.vips());
    vips.filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    })
    .collect()
}
