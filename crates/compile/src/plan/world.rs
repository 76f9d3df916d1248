// SPDX-License-Identifier: Apache-2.0
//! The model with the eyes of one caller.

use std::sync::Arc;

use remora_model::{
    Destination, DestinationPolicy, EffectivePolicy, Host, Locality, Model, Resolution, RouteRule,
    Service, SimpleBalancer,
};
use remora_primitives::Port;

use crate::cluster::Discovery;
use crate::names;
use crate::recipe::ById;
use crate::scope::Scope;

/// Ports that the sidecar itself listens on: no listener may stand for all addresses of one.
/// Admin, outbound, inbound, readiness, DNS, Prometheus.
const OWN_PORTS: [u16; 6] = [15000, 15001, 15006, 15021, 15053, 15090];

/// The model with the eyes of one caller.
pub(super) struct World<'a> {
    pub(super) model: &'a Model,
    pub(super) scope: &'a Scope,
    /// The visible services, in the model's order.
    pub(super) services: Vec<&'a Arc<Service>>,
    /// Where the caller runs; empty if nobody knows.
    pub(super) locality: Locality,
    /// Whether the caller has an IPv6 address.
    pub(super) dual_stack: bool,
}

impl<'a> World<'a> {
    pub(super) fn new(model: &'a Model, scope: &'a Scope) -> Self {
        let known = || {
            let mut workloads = scope
                .addresses
                .iter()
                .filter_map(|ip| model.workload_at(*ip));
            workloads.next().map(|workload| workload.locality.clone())
        };
        let given = (!scope.locality.is_empty()).then(|| scope.locality.clone());
        Self {
            model,
            scope,
            services: model.services_visible_to(&scope.namespace),
            locality: given.or_else(known).unwrap_or_default(),
            dual_stack: scope.addresses.iter().any(std::net::IpAddr::is_ipv6),
        }
    }

    /// Whether the sidecar itself listens on a port.
    pub(super) fn is_own_port(port: Port) -> bool {
        OWN_PORTS.contains(&port.get())
    }

    /// The policy by which the caller calls a service.
    pub(super) fn policy(&self, service: &Service) -> Option<&'a Arc<DestinationPolicy>> {
        let caller = (&self.scope.namespace, &self.scope.labels);
        self.model.policy(&service.host, &service.namespace, caller)
    }

    /// What of a policy applies to a port, or to a subset there.
    pub(super) fn effective(
        policy: Option<&Arc<DestinationPolicy>>,
        subset: Option<&str>,
        port: Port,
    ) -> EffectivePolicy {
        policy
            .map(|policy| policy.effective(subset, port))
            .unwrap_or_default()
    }

    /// The rule for what the caller sends to a host.
    pub(super) fn rule(&self, host: &Host) -> Option<&'a Arc<RouteRule>> {
        self.model.route(host, &self.scope.namespace)
    }

    /// Where the hosts of a service's cluster come from.
    pub(super) fn discovery(&self, service: &Service, policy: &EffectivePolicy) -> Discovery {
        let balancer = policy.load_balancer.as_ref().and_then(|b| b.simple);
        if balancer == Some(SimpleBalancer::Passthrough) {
            return Discovery::OriginalDestination;
        }
        match service.resolution {
            Resolution::Static | Resolution::Headless => Discovery::Assigned,
            Resolution::Passthrough => Discovery::OriginalDestination,
            // One answer per connection is what a new connection to several does as well.
            Resolution::Dns | Resolution::DnsRoundRobin => {
                let list = self.model.endpoint_list(&service.key());
                Discovery::Dns(list.filter(|list| !list.is_empty()).map(ById::new))
            }
        }
    }

    /// The cluster that a rule's destination means to a caller who addressed a port.
    ///
    /// A service that does not exist gets the name that its cluster would have.
    pub(super) fn cluster(&self, destination: &Destination, addressed: Port) -> String {
        let host = Host::Name(destination.host.clone());
        let subset = destination.subset.as_deref().unwrap_or_default();
        let Some(service) = self.model.service(&host, &self.scope.namespace) else {
            return names::outbound_cluster(destination.port.unwrap_or(addressed), subset, &host);
        };
        let only = match service.ports.as_slice() {
            [only] => Some(only.number),
            _ => None,
        };
        let port = destination.port.or(only).unwrap_or(addressed);
        names::outbound_cluster(port, subset, &service.host)
    }

    /// The cluster of a service where no rule says otherwise: callers of a headless service have
    /// chosen their instance.
    pub(super) fn default_cluster(service: &Service, port: Port) -> String {
        match service.resolution {
            Resolution::Headless => names::direct_cluster(port, &service.host),
            _ => names::outbound_cluster(port, "", &service.host),
        }
    }
}
