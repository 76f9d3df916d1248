// SPDX-License-Identifier: Apache-2.0
//! All of it together: an immutable, indexed world with a revision.
//!
//! `control-plane/store` builds one from what the sources read and publishes it; `compile` and
//! `status` ask it. Look-ups take the namespace of the caller, since what a host means depends on
//! who asks: own namespace first, then the first that is visible, in the order of the parts.
//!
//! **Invariant:** a model never changes. An object that is equal to the one of the model before
//! keeps that one's `Arc`, so that pointer equality means "did not change".

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use remora_primitives::Port;

use crate::endpoint::{Endpoint, EndpointAddress, Health, Labels, Workload};
use crate::name::{Host, Namespace};
use crate::policy::DestinationPolicy;
use crate::route::RouteRule;
use crate::service::{Service, ServiceKey};

/// What a model is made of, in the order in which ties are decided: the first wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelParts {
    /// Services; of two with one key the first counts.
    pub services: Vec<Arc<Service>>,
    /// The endpoints of each service.
    pub endpoints: BTreeMap<ServiceKey, Arc<[Endpoint]>>,
    /// Route rules.
    pub routes: Vec<Arc<RouteRule>>,
    /// Destination policies.
    pub policies: Vec<Arc<DestinationPolicy>>,
    /// Instances.
    pub workloads: Vec<Arc<Workload>>,
}

impl ModelParts {
    /// Whether the two differ in endpoints and workloads at most.
    #[must_use]
    pub fn same_but_endpoints(&self, other: &Self) -> bool {
        self.services == other.services
            && self.routes == other.routes
            && self.policies == other.policies
    }

    /// Replaces what is equal to a part of `previous` by that very `Arc`.
    fn share_with(&mut self, previous: &Self) {
        share(&mut self.services, &previous.services, |s| s.key());
        share(&mut self.routes, &previous.routes, |r| r.origin.clone());
        share(&mut self.policies, &previous.policies, |p| p.origin.clone());
        share(&mut self.workloads, &previous.workloads, |w| {
            w.origin.clone()
        });
        for (key, list) in &mut self.endpoints {
            if let Some(old) = previous.endpoints.get(key).filter(|old| *old == list) {
                *list = Arc::clone(old);
            }
        }
    }
}

fn share<T, K>(new: &mut [Arc<T>], old: &[Arc<T>], key: impl Fn(&T) -> K)
where
    T: PartialEq,
    K: std::hash::Hash + Eq,
{
    let known: HashMap<K, &Arc<T>> = old.iter().map(|item| (key(item), item)).collect();
    for item in new {
        if let Some(same) = known.get(&key(item)).filter(|same| ***same == *item) {
            *item = Arc::clone(same);
        }
    }
}

/// The control plane's world at one revision.
#[derive(Debug)]
pub struct Model {
    revision: u64,
    parts: ModelParts,
    services: HostIndex,
    routes: HostIndex,
    policies: HostIndex,
    instances: HashMap<IpAddr, Vec<(usize, usize)>>,
    workloads: HashMap<IpAddr, usize>,
}

impl Default for Model {
    fn default() -> Self {
        Self::new(0, ModelParts::default(), None)
    }
}

impl Model {
    /// Indexes the parts; what did not change since `previous` keeps its `Arc`.
    #[must_use]
    pub fn new(revision: u64, mut parts: ModelParts, previous: Option<&Self>) -> Self {
        if let Some(previous) = previous {
            parts.share_with(&previous.parts);
        }
        let mut services = HostIndex::default();
        let mut instances: HashMap<IpAddr, Vec<(usize, usize)>> = HashMap::new();
        for (at, service) in parts.services.iter().enumerate() {
            services.insert(&service.host, at);
            let endpoints = parts.endpoints.get(&service.key());
            for (nth, endpoint) in endpoints.into_iter().flat_map(|l| l.iter()).enumerate() {
                if let EndpointAddress::Ip(ip) = endpoint.address {
                    instances.entry(ip).or_default().push((at, nth));
                }
            }
        }
        let mut routes = HostIndex::default();
        for (at, rule) in parts.routes.iter().enumerate() {
            rule.hosts.iter().for_each(|host| routes.insert(host, at));
        }
        let mut policies = HostIndex::default();
        for (at, policy) in parts.policies.iter().enumerate() {
            policies.insert(&policy.host, at);
        }
        let mut workloads = HashMap::new();
        for (at, workload) in parts.workloads.iter().enumerate() {
            for ip in &workload.addresses {
                workloads.entry(*ip).or_insert(at);
            }
        }
        Self {
            revision,
            parts,
            services,
            routes,
            policies,
            instances,
            workloads,
        }
    }

    /// Counts up with every change.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What it is made of.
    #[must_use]
    pub const fn parts(&self) -> &ModelParts {
        &self.parts
    }

    /// All services.
    #[must_use]
    pub fn services(&self) -> &[Arc<Service>] {
        &self.parts.services
    }

    /// All route rules.
    #[must_use]
    pub fn routes(&self) -> &[Arc<RouteRule>] {
        &self.parts.routes
    }

    /// All destination policies.
    #[must_use]
    pub fn policies(&self) -> &[Arc<DestinationPolicy>] {
        &self.parts.policies
    }

    /// The services that a caller sees: one per host, its own namespace's first.
    #[must_use]
    pub fn services_visible_to(&self, caller: &Namespace) -> Vec<&Arc<Service>> {
        let visible = |s: &&Arc<Service>| {
            let chosen = self.exact_service(&s.host, caller);
            chosen.is_some_and(|c| Arc::ptr_eq(c, s))
        };
        self.parts.services.iter().filter(visible).collect()
    }

    /// The service that a caller means by a host: that very host, or the narrowest wildcard
    /// service that covers it.
    #[must_use]
    pub fn service(&self, host: &Host, caller: &Namespace) -> Option<&Arc<Service>> {
        self.services
            .covering(host)
            .find_map(|at| self.choose_service(at, caller))
    }

    fn exact_service(&self, host: &Host, caller: &Namespace) -> Option<&Arc<Service>> {
        self.services
            .exactly(host)
            .and_then(|at| self.choose_service(at, caller))
    }

    fn choose_service(&self, at: &[usize], caller: &Namespace) -> Option<&Arc<Service>> {
        let visible = || {
            let all = at.iter().filter_map(|at| self.parts.services.get(*at));
            all.filter(|s| s.visibility.includes(caller))
        };
        visible()
            .find(|s| s.namespace == *caller)
            .or_else(|| visible().next())
    }

    /// The endpoints of a service, all of them.
    #[must_use]
    pub fn all_endpoints(&self, service: &ServiceKey) -> &[Endpoint] {
        self.parts.endpoints.get(service).map_or(&[], |list| list)
    }

    /// The list of endpoints as the shared value, to compare by pointer.
    #[must_use]
    pub fn endpoint_list(&self, service: &ServiceKey) -> Option<&Arc<[Endpoint]>> {
        self.parts.endpoints.get(service)
    }

    /// The endpoints that serve a port of a service and have a subset's labels, each with the
    /// instance's port; those that are not ready are left out.
    pub fn endpoints(
        &self,
        service: &ServiceKey,
        port: Port,
        subset: &Labels,
    ) -> impl Iterator<Item = (&Endpoint, Port)> {
        self.all_endpoints(service)
            .iter()
            .filter(|endpoint| {
                endpoint.health != Health::Unready && subset.select(&endpoint.labels)
            })
            .filter_map(move |endpoint| Some((endpoint, endpoint.target(port)?)))
    }

    /// The rule that routes what a caller sends to a host: the narrowest host wins, then the
    /// first rule that is visible.
    #[must_use]
    pub fn route(&self, host: &Host, caller: &Namespace) -> Option<&Arc<RouteRule>> {
        let visible = |at: &usize| {
            self.parts
                .routes
                .get(*at)
                .filter(|rule| rule.visibility.includes(caller))
        };
        self.routes
            .covering(host)
            .find_map(|at| at.iter().find_map(visible))
    }

    /// The policy by which a caller calls a service's host: the caller's namespace is asked
    /// first, then the service's; within a namespace the narrowest host wins, and a policy for
    /// workloads with certain labels outranks one for all.
    #[must_use]
    pub fn policy(
        &self,
        host: &Host,
        service_namespace: &Namespace,
        caller: (&Namespace, &Labels),
    ) -> Option<&Arc<DestinationPolicy>> {
        let (caller, labels) = caller;
        [caller, service_namespace]
            .into_iter()
            .find_map(|namespace| {
                self.policies.covering(host).find_map(|at| {
                    let fits = |p: &&Arc<DestinationPolicy>| {
                        p.namespace == *namespace
                            && p.visibility.includes(caller)
                            && p.workload_selector.select(labels)
                    };
                    let own = || {
                        at.iter()
                            .filter_map(|at| self.parts.policies.get(*at))
                            .filter(fits)
                    };
                    own()
                        .find(|p| !p.workload_selector.is_empty())
                        .or_else(|| own().next())
                })
            })
    }

    /// Every policy whose host is this one or covers it, the narrowest hosts first.
    pub fn policies_covering<'a>(
        &'a self,
        host: &'a Host,
    ) -> impl Iterator<Item = &'a Arc<DestinationPolicy>> {
        let at = self.policies.covering(host).flatten();
        at.filter_map(|at| self.parts.policies.get(*at))
    }

    /// The services that an instance with this address belongs to, with its endpoint there.
    pub fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = (&Arc<Service>, &Endpoint)> {
        let places = self.instances.get(&ip).map_or(&[][..], Vec::as_slice);
        places.iter().filter_map(|(at, nth)| {
            let service = self.parts.services.get(*at)?;
            let endpoint = self.all_endpoints(&service.key()).get(*nth)?;
            Some((service, endpoint))
        })
    }

    /// The instance with this address.
    #[must_use]
    pub fn workload_at(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads
            .get(&ip)
            .and_then(|at| self.parts.workloads.get(*at))
    }
}

/// Positions by host: exact ones in a map, wildcards from the narrowest to the widest.
#[derive(Debug, Default)]
struct HostIndex {
    exact: HashMap<Host, Vec<usize>>,
    wildcards: Vec<Host>,
}

impl HostIndex {
    fn insert(&mut self, host: &Host, at: usize) {
        let places = self.exact.entry(host.clone()).or_default();
        if places.is_empty() && host.is_wildcard() {
            let wider = |other: &Host| other.to_string().len() < host.to_string().len();
            let place = self
                .wildcards
                .iter()
                .position(wider)
                .unwrap_or(self.wildcards.len());
            self.wildcards.insert(place, host.clone());
        }
        places.push(at);
    }

    fn exactly(&self, host: &Host) -> Option<&[usize]> {
        self.exact.get(host).map(Vec::as_slice)
    }

    /// The positions under each host that covers this one, narrowest first.
    fn covering<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = &'a [usize]> {
        let wider = self
            .wildcards
            .iter()
            .filter(move |w| *w != host && w.covers(host));
        self.exactly(host)
            .into_iter()
            .chain(wider.filter_map(|w| self.exactly(w)))
    }
}

#[cfg(test)]
mod tests;
