// SPDX-License-Identifier: Apache-2.0
//! Endpoints: which instances serve a service, and on which of their ports.
//!
//! The endpoints of a `Service` come from its slices if it has any, else from the pods that it
//! selects; those of a `ServiceEntry` are written in it, or are the workload entries and pods
//! that it selects. They are sorted by address, so that the order of files does not show.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use remora_model::{
    Endpoint, EndpointAddress, Health, Host, Labels, Locality, Namespace, PortTarget, Resolution,
    ServicePort, TargetPort, Workload,
};
use remora_primitives::{Port, Weight};

use crate::source::finding::{Finding, Severity};
use crate::source::manifest::Object;
use crate::source::manifest::object::{
    ClusterIp, ClusterService, EndpointSlice, EntryEndpoint, Pod, ServiceEntry, SliceEndpoint,
    WorkloadEntry, is_carried,
};

/// The instances of all objects, by what services find them by.
pub(super) struct Instances<'a> {
    slices: HashMap<(&'a Namespace, &'a str), Vec<&'a EndpointSlice>>,
    pods: HashMap<&'a Namespace, Vec<&'a Pod>>,
    pods_by_name: HashMap<(&'a Namespace, &'a str), &'a Pod>,
    pods_by_address: HashMap<IpAddr, &'a Pod>,
    entries: HashMap<&'a Namespace, Vec<&'a WorkloadEntry>>,
}

impl<'a> Instances<'a> {
    pub(super) fn new(objects: &[&'a Object]) -> Self {
        let mut all = Self {
            slices: HashMap::new(),
            pods: HashMap::new(),
            pods_by_name: HashMap::new(),
            pods_by_address: HashMap::new(),
            entries: HashMap::new(),
        };
        for object in objects {
            match object {
                Object::EndpointSlice(slice) if !slice.service.is_empty() => {
                    let key = (slice.meta.namespace(), &*slice.service);
                    all.slices.entry(key).or_default().push(slice);
                }
                Object::Pod(pod) => all.add_pod(pod),
                Object::WorkloadEntry(entry) => {
                    all.entries
                        .entry(entry.meta.namespace())
                        .or_default()
                        .push(entry);
                }
                _ => {}
            }
        }
        all
    }

    fn add_pod(&mut self, pod: &'a Pod) {
        self.pods.entry(pod.meta.namespace()).or_default().push(pod);
        self.pods_by_name
            .insert((pod.meta.namespace(), &**pod.meta.name()), pod);
        for ip in &pod.addresses {
            self.pods_by_address.entry(*ip).or_insert(pod);
        }
    }

    /// The endpoints of a `Service`.
    pub(super) fn of_service(&self, service: &ClusterService) -> Vec<Endpoint> {
        if let ClusterIp::External(name) = &service.cluster_ip {
            let address = EndpointAddress::Name(name.clone());
            return vec![plain_endpoint(address, same_ports(&service.ports))];
        }
        let namespace = service.meta.namespace();
        let slices = self.slices.get(&(namespace, &**service.meta.name()));
        let found = match slices {
            Some(slices) => slices
                .iter()
                .flat_map(|s| self.of_slice(service, s))
                .collect(),
            None if service.selector.is_empty() => Vec::new(),
            None => {
                let pods = self.selected_pods(namespace, &service.selector);
                pods.filter_map(|pod| pod_endpoint(service, pod)).collect()
            }
        };
        sorted(found)
    }

    fn of_slice(&self, service: &ClusterService, slice: &EndpointSlice) -> Vec<Endpoint> {
        let target = |port: &ServicePort| {
            let found = slice.ports.iter().find(|(name, _)| *name == port.name)?;
            Some(PortTarget {
                service: port.number,
                target: found.1,
            })
        };
        let carried = service
            .ports
            .iter()
            .filter(|port| is_carried(port.protocol));
        let ports: Vec<_> = carried.filter_map(target).collect();
        let namespace = slice.meta.namespace();
        let endpoint = |written: &SliceEndpoint| {
            let pod = self.pod_behind(namespace, written);
            let zone = Locality {
                zone: Arc::clone(&written.zone),
                ..Locality::default()
            };
            let locality = pod
                .map(|pod| pod.locality.clone())
                .filter(|l| !l.is_empty());
            Endpoint {
                labels: pod.map(|pod| pod.meta.labels.clone()).unwrap_or_default(),
                locality: locality.unwrap_or(zone),
                health: written.health,
                service_account: pod.map_or_else(Arc::default, |p| Arc::clone(&p.service_account)),
                workload: written.pod.clone().unwrap_or_default(),
                hostname: written.hostname.clone(),
                ..plain_endpoint(written.address.clone(), ports.clone())
            }
        };
        slice.endpoints.iter().map(endpoint).collect()
    }

    fn pod_behind(&self, namespace: &Namespace, written: &SliceEndpoint) -> Option<&'a Pod> {
        let named = written.pod.as_ref();
        let named = named.and_then(|name| self.pods_by_name.get(&(namespace, &**name)));
        named.copied().or_else(|| match written.address {
            EndpointAddress::Ip(ip) => self.pods_by_address.get(&ip).copied(),
            _ => None,
        })
    }

    fn selected_pods(&self, namespace: &Namespace, by: &Labels) -> impl Iterator<Item = &'a Pod> {
        let pods = self.pods.get(namespace).map_or(&[][..], Vec::as_slice);
        pods.iter()
            .copied()
            .filter(|pod| by.select(&pod.meta.labels))
    }

    /// The endpoints of one host of a `ServiceEntry`.
    pub(super) fn of_entry(
        &self,
        entry: &ServiceEntry,
        host: &Host,
        findings: &mut Vec<Finding>,
    ) -> Vec<Endpoint> {
        let ports = &entry.ports;
        if let Some(selector) = &entry.selector {
            return sorted(self.selected(entry, selector, findings));
        }
        if !entry.endpoints.is_empty() {
            let written = entry.endpoints.iter();
            return sorted(written.map(|e| entry_endpoint(ports, e, "")).collect());
        }
        match (entry.resolution, host.name()) {
            (Resolution::Dns | Resolution::DnsRoundRobin, Some(name)) => {
                let target = |port: &ServicePort| match port.target {
                    TargetPort::Number(target) => Some((port.number, target)),
                    TargetPort::Name(_) => None,
                };
                let carried = ports.iter().filter(|port| is_carried(port.protocol));
                let ports = carried.filter_map(target);
                let ports = ports
                    .map(|(service, target)| PortTarget { service, target })
                    .collect();
                vec![plain_endpoint(EndpointAddress::Name(name.clone()), ports)]
            }
            _ => Vec::new(),
        }
    }

    fn selected(
        &self,
        entry: &ServiceEntry,
        selector: &Labels,
        findings: &mut Vec<Finding>,
    ) -> Vec<Endpoint> {
        let namespace = entry.meta.namespace();
        let mut found = Vec::new();
        for workload in self.entries.get(namespace).into_iter().flatten() {
            if !selector.select(&workload.endpoint.labels) {
                continue;
            }
            let named = matches!(workload.endpoint.address, EndpointAddress::Name(_));
            if named && entry.resolution == Resolution::Static {
                let reason = format!(
                    "its address is a name, but {} selects it with resolution STATIC: \
                     it is left out there",
                    entry.meta.origin
                );
                findings.push(super::about(
                    Severity::Warning,
                    &workload.meta.origin,
                    None,
                    reason,
                ));
                continue;
            }
            let name = workload.meta.name();
            found.push(entry_endpoint(&entry.ports, &workload.endpoint, name));
        }
        for pod in self.selected_pods(namespace, selector) {
            let Some(ip) = pod.addresses.first() else {
                continue;
            };
            found.push(Endpoint {
                health: pod.health,
                ..instance(pod, *ip, pod_ports(&entry.ports, pod))
            });
        }
        found
    }
}

fn pod_endpoint(service: &ClusterService, pod: &Pod) -> Option<Endpoint> {
    let ip = pod.addresses.first()?;
    let hostname = pod.hostname.as_ref();
    let own = hostname.filter(|(_, subdomain)| subdomain == service.meta.name());
    let health = if service.publish_not_ready {
        Health::Healthy
    } else {
        pod.health
    };
    Some(Endpoint {
        health,
        hostname: own.map(|(name, _)| Arc::clone(name)),
        ..instance(pod, *ip, pod_ports(&service.ports, pod))
    })
}

fn instance(pod: &Pod, ip: IpAddr, ports: Vec<PortTarget>) -> Endpoint {
    Endpoint {
        labels: pod.meta.labels.clone(),
        locality: pod.locality.clone(),
        service_account: Arc::clone(&pod.service_account),
        workload: Arc::clone(pod.meta.name()),
        ..plain_endpoint(EndpointAddress::Ip(ip), ports)
    }
}

/// A port by name is the container port of that name; a pod without one does not serve it.
fn pod_ports(ports: &[ServicePort], pod: &Pod) -> Vec<PortTarget> {
    let named = |wanted: &Arc<str>| pod.ports.iter().find(|(name, _)| name == wanted);
    let target = |port: &ServicePort| {
        let target = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(name) => named(name)?.1,
        };
        Some(PortTarget {
            service: port.number,
            target,
        })
    };
    ports
        .iter()
        .filter(|port| is_carried(port.protocol))
        .filter_map(target)
        .collect()
}

fn same_ports(ports: &[ServicePort]) -> Vec<PortTarget> {
    let same = |port: &ServicePort| PortTarget {
        service: port.number,
        target: port.number,
    };
    ports
        .iter()
        .filter(|port| is_carried(port.protocol))
        .map(same)
        .collect()
}

fn entry_endpoint(ports: &[ServicePort], written: &EntryEndpoint, workload: &str) -> Endpoint {
    let own = |port: &ServicePort| -> Option<Port> {
        let found = written.ports.iter().find(|(name, _)| *name == port.name);
        match (&port.target, found) {
            (_, Some((_, number))) | (TargetPort::Number(number), None) => Some(*number),
            (TargetPort::Name(_), None) => None,
        }
    };
    let target = |port: &ServicePort| {
        Some(PortTarget {
            service: port.number,
            target: own(port)?,
        })
    };
    let carried = ports.iter().filter(|port| is_carried(port.protocol));
    Endpoint {
        labels: written.labels.clone(),
        locality: written.locality.clone(),
        weight: written.weight,
        service_account: Arc::clone(&written.service_account),
        workload: workload.into(),
        ..plain_endpoint(
            written.address.clone(),
            carried.filter_map(target).collect(),
        )
    }
}

fn plain_endpoint(address: EndpointAddress, ports: Vec<PortTarget>) -> Endpoint {
    Endpoint {
        address,
        ports,
        labels: Labels::default(),
        locality: Locality::default(),
        weight: Weight::ONE,
        health: Health::Healthy,
        service_account: Arc::default(),
        workload: Arc::default(),
        hostname: None,
    }
}

/// Sorts by address; of two endpoints with the same address and ports the first stays.
fn sorted(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut seen = HashSet::new();
    endpoints.retain(|e| seen.insert((e.address.clone(), e.ports.clone())));
    endpoints.sort_by(|a, b| (&a.address, &a.ports).cmp(&(&b.address, &b.ports)));
    endpoints
}

/// Every instance that has an address, whether or not a service selects it.
pub(super) fn workloads(objects: &[&Object]) -> Vec<Arc<Workload>> {
    let workload = |object: &&Object| match object {
        Object::Pod(pod) if !pod.addresses.is_empty() => Some(Workload {
            namespace: pod.meta.namespace().clone(),
            name: Arc::clone(pod.meta.name()),
            addresses: pod.addresses.clone(),
            labels: pod.meta.labels.clone(),
            service_account: Arc::clone(&pod.service_account),
            locality: pod.locality.clone(),
            origin: pod.meta.origin.clone(),
        }),
        Object::WorkloadEntry(entry) => match entry.endpoint.address {
            EndpointAddress::Ip(ip) => Some(Workload {
                namespace: entry.meta.namespace().clone(),
                name: Arc::clone(entry.meta.name()),
                addresses: vec![ip],
                labels: entry.endpoint.labels.clone(),
                service_account: Arc::clone(&entry.endpoint.service_account),
                locality: entry.endpoint.locality.clone(),
                origin: entry.meta.origin.clone(),
            }),
            _ => None,
        },
        _ => None,
    };
    objects.iter().filter_map(workload).map(Arc::new).collect()
}
