// SPDX-License-Identifier: Apache-2.0
//! The DNS table: every visible service's names with the addresses that the mesh knows them by.
//!
//! Short names are not spelled out: the resolver derives them from short name and namespace, as
//! Istio's does, since what they mean depends on who asks.

use std::collections::BTreeSet;

use remora_model::{
    AddressOrigin, Endpoint, EndpointAddress, Health, Registry, Resolution, Service,
};
use remora_xds_types::{NameInfo, NameTable};

use crate::recipe::ById;

/// The services of the table, and the endpoints of those that have no address of their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NameTablePlan {
    pub entries: Vec<Entry>,
}

/// A service; its endpoints if they are what its name stands for.
pub(crate) type Entry = (ById<Service>, Option<ById<[Endpoint]>>);

impl NameTablePlan {
    pub(crate) fn build(&self) -> NameTable {
        let mut table = NameTable::default();
        for (service, endpoints) in &self.entries {
            let service = service.get();
            let endpoints = endpoints.as_ref().map_or(&[][..], ById::get);
            let ips = match service.resolution {
                Resolution::Headless => instance_ips(endpoints.iter()),
                _ => virtual_ips(service),
            };
            if ips.is_empty() {
                continue;
            }
            let host = service.host.to_string();
            table
                .table
                .entry(host)
                .or_insert_with(|| info(service, &service.name, ips));
            if service.resolution == Resolution::Headless {
                add_instances(&mut table, service, endpoints);
            }
        }
        table
    }
}

/// An instance of a headless service with a name of its own is found by that name too.
fn add_instances(table: &mut NameTable, service: &Service, endpoints: &[Endpoint]) {
    for endpoint in endpoints {
        let Some(hostname) = &endpoint.hostname else {
            continue;
        };
        let same = |other: &&Endpoint| other.hostname.as_ref() == Some(hostname);
        let ips = instance_ips(endpoints.iter().filter(same));
        if ips.is_empty() {
            continue;
        }
        let short = format!("{hostname}.{}", service.name);
        table
            .table
            .entry(format!("{hostname}.{}", service.host))
            .or_insert_with(|| info(service, &short, ips));
    }
}

fn info(service: &Service, shortname: &str, ips: Vec<String>) -> NameInfo {
    let cluster = service.registry == Registry::Cluster;
    NameInfo {
        ips,
        registry: if cluster { "Kubernetes" } else { "External" }.to_owned(),
        shortname: if cluster { shortname } else { "" }.to_owned(),
        namespace: if cluster {
            service.namespace.to_string()
        } else {
            String::new()
        },
        alt_hosts: Vec::new(),
    }
}

/// A service that goes wherever it was dialled must not be dialled at an address made up here.
fn virtual_ips(service: &Service) -> Vec<String> {
    let real = service.resolution != Resolution::Passthrough;
    let usable = service
        .addresses
        .iter()
        .filter(|a| real || a.origin == AddressOrigin::Declared);
    let ips: BTreeSet<_> = usable.filter_map(|a| a.single()).collect();
    ips.iter().map(ToString::to_string).collect()
}

fn instance_ips<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<String> {
    let ips: BTreeSet<_> = endpoints
        .filter(|e| e.health == Health::Healthy)
        .filter_map(|e| match e.address {
            EndpointAddress::Ip(ip) => Some(ip),
            _ => None,
        })
        .collect();
    ips.iter().map(ToString::to_string).collect()
}
