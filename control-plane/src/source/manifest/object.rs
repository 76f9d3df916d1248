// SPDX-License-Identifier: Apache-2.0
//! Objects as they were written, before they are put together.
//!
//! Rules and policies are already values of the model; services and instances are not, since what
//! they mean depends on other objects (a service's endpoints are pods).

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use remora_model::{
    DestinationPolicy, EndpointAddress, Health, Host, Labels, Locality, Namespace, ObjectRef,
    Placement, Protocol, Resolution, RouteRule, ServicePort, Visibility,
};
use remora_primitives::{HostName, Port, Weight};

/// One object.
#[derive(Clone, Debug)]
pub enum Object {
    /// Kubernetes `Service`.
    Service(ClusterService),
    /// Kubernetes `EndpointSlice`.
    EndpointSlice(EndpointSlice),
    /// Kubernetes `Pod`.
    Pod(Pod),
    /// Kubernetes `Namespace`.
    Namespace(ObjectRef),
    /// Istio `VirtualService`.
    VirtualService(Box<VirtualService>),
    /// Istio `DestinationRule`.
    DestinationRule(Box<DestinationRule>),
    /// Istio `ServiceEntry`.
    ServiceEntry(Box<ServiceEntry>),
    /// Istio `WorkloadEntry`.
    WorkloadEntry(Box<WorkloadEntry>),
}

impl Object {
    /// Which object it is, and where it was written.
    #[must_use]
    pub const fn origin(&self) -> &ObjectRef {
        match self {
            Self::Service(service) => &service.meta.origin,
            Self::EndpointSlice(slice) => &slice.meta.origin,
            Self::Pod(pod) => &pod.meta.origin,
            Self::Namespace(origin) => origin,
            Self::VirtualService(service) => &service.rule.origin,
            Self::DestinationRule(rule) => &rule.policy.origin,
            Self::ServiceEntry(entry) => &entry.meta.origin,
            Self::WorkloadEntry(entry) => &entry.meta.origin,
        }
    }
}

/// What every object says about itself.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Kind, namespace, name and place.
    pub origin: ObjectRef,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: Labels,
}

impl Meta {
    /// Its namespace.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.origin.namespace
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.origin.name
    }
}

/// A place of an object that findings made later point to.
#[derive(Clone, Debug)]
pub struct Place {
    /// The line, counted from 1.
    pub line: u32,
    /// The field's path.
    pub path: String,
}

/// A Kubernetes `Service`.
#[derive(Clone, Debug)]
pub struct ClusterService {
    /// Who it is.
    pub meta: Meta,
    /// Its full name.
    pub host: HostName,
    /// Its addresses, as far as it says.
    pub cluster_ip: ClusterIp,
    /// Which pods serve it; empty: none.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Whether pods that are not ready serve it too.
    pub publish_not_ready: bool,
    /// Who sees it.
    pub visibility: Visibility,
}

/// What a `Service` says about its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterIp {
    /// Nothing: the mesh gives it one.
    Unset,
    /// `None`: its instances are dialled directly.
    Headless,
    /// These.
    Addresses(Vec<IpAddr>),
    /// It is another name for this one (`type: ExternalName`).
    External(HostName),
}

/// A Kubernetes `EndpointSlice`.
#[derive(Clone, Debug)]
pub struct EndpointSlice {
    /// Who it is.
    pub meta: Meta,
    /// Which service it belongs to; empty if it says none.
    pub service: Arc<str>,
    /// Port names (empty for none) and numbers.
    pub ports: Vec<(Arc<str>, Port)>,
    /// Its instances.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An instance of a slice.
#[derive(Clone, Debug)]
pub struct SliceEndpoint {
    /// Its address: the first one, the others are interchangeable by contract.
    pub address: EndpointAddress,
    /// Ready, draining or not ready.
    pub health: Health,
    /// Its zone; empty if not known.
    pub zone: Arc<str>,
    /// Its own name below a headless service.
    pub hostname: Option<Arc<str>>,
    /// The pod behind it.
    pub pod: Option<Arc<str>>,
}

/// A Kubernetes `Pod`.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Who it is.
    pub meta: Meta,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Whether it is ready.
    pub health: Health,
    /// Named container ports.
    pub ports: Vec<(Arc<str>, Port)>,
    /// The account it runs as.
    pub service_account: Arc<str>,
    /// Its own name below a headless service (`spec.hostname`, where `spec.subdomain` names one).
    pub hostname: Option<(Arc<str>, Arc<str>)>,
    /// Where it runs.
    pub locality: Locality,
}

/// An Istio `VirtualService`.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// The rule.
    pub rule: RouteRule,
    /// Where each of its hosts is written, in the rule's order.
    pub hosts: Vec<Place>,
    /// The destinations it names.
    pub references: Vec<Reference>,
}

/// A destination that a rule names.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Where it is named.
    pub place: Place,
    /// The service.
    pub host: HostName,
    /// Its subset.
    pub subset: Option<Arc<str>>,
    /// Its port.
    pub port: Option<Port>,
    /// What it is named for.
    pub purpose: Purpose,
}

/// What a destination is named for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To answer.
    Answer,
    /// To get copies.
    Copy,
}

/// An Istio `DestinationRule`.
#[derive(Clone, Debug)]
pub struct DestinationRule {
    /// The policy.
    pub policy: DestinationPolicy,
    /// Where its host is written.
    pub host: Place,
    /// Where its subsets are written, in the policy's order.
    pub subsets: Vec<Place>,
}

/// An Istio `ServiceEntry`.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// Who it is.
    pub meta: Meta,
    /// Its hosts.
    pub hosts: Vec<(Host, Place)>,
    /// Its addresses and ranges.
    pub addresses: Vec<IpNet>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Inside or outside the mesh.
    pub placement: Placement,
    /// How its instances are found.
    pub resolution: Resolution,
    /// The instances written in it.
    pub endpoints: Vec<EntryEndpoint>,
    /// Which workload entries and pods of its namespace serve it.
    pub selector: Option<Labels>,
    /// Who sees it.
    pub visibility: Visibility,
}

/// An Istio `WorkloadEntry` that stands alone.
#[derive(Clone, Debug)]
pub struct WorkloadEntry {
    /// Who it is.
    pub meta: Meta,
    /// The instance.
    pub endpoint: EntryEndpoint,
}

/// An instance as a `ServiceEntry` or `WorkloadEntry` writes it.
#[derive(Clone, Debug)]
pub struct EntryEndpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// Its ports by the names of the service's ports.
    pub ports: Vec<(Arc<str>, Port)>,
    /// Its labels.
    pub labels: Labels,
    /// Where it runs.
    pub locality: Locality,
    /// Its share among its peers.
    pub weight: Weight,
    /// The account it runs as.
    pub service_account: Arc<str>,
}

/// Whether a port is one that the proxy carries.
#[must_use]
pub fn is_carried(protocol: Protocol) -> bool {
    protocol != Protocol::Udp
}
