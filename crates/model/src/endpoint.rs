// SPDX-License-Identifier: Apache-2.0
//! Instances: workloads, and the endpoints by which services reach them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use remora_primitives::{HostName, Port, Weight};

use crate::name::Namespace;
use crate::origin::ObjectRef;

/// Labels of an instance, or a selector over them. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl Labels {
    /// The value of a label.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// As a selector: whether `labels` has all of these. An empty selector selects everything.
    #[must_use]
    pub fn select(&self, labels: &Self) -> bool {
        self.iter()
            .all(|(name, value)| labels.value(name) == Some(value))
    }
}

impl<N: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(Arc::new(
            pairs
                .into_iter()
                .map(|(n, v)| (n.into(), v.into()))
                .collect(),
        ))
    }
}

/// Where an instance runs. Parts that are not known are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone of the region.
    pub zone: Arc<str>,
    /// Part of the zone.
    pub sub_zone: Arc<str>,
}

impl Locality {
    /// Reads `region/zone/subzone`, of which later parts may be missing.
    #[must_use]
    pub fn from_path(path: &str) -> Self {
        let mut parts = path.splitn(3, '/').map(Arc::from);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            region: next(),
            zone: next(),
            sub_zone: next(),
        }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.zone, self.sub_zone)
    }
}

/// A running instance, whether or not a service selects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Where it lives.
    pub namespace: Namespace,
    /// `metadata.name` of its pod or entry.
    pub name: Arc<str>,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// The account it runs as; empty if not known.
    pub service_account: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// Where it was written.
    pub origin: ObjectRef,
}

/// An instance as one service reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// Which port of the instance serves which port of the service; a service port that is
    /// missing here is not served by this instance.
    pub ports: Vec<PortTarget>,
    /// Labels that subsets select by.
    pub labels: Labels,
    /// Where it runs.
    pub locality: Locality,
    /// Its share among its peers.
    pub weight: Weight,
    /// Whether it should receive requests.
    pub health: Health,
    /// The account it runs as; empty if not known.
    pub service_account: Arc<str>,
    /// The workload's name; empty if not known.
    pub workload: Arc<str>,
    /// The instance's own name below a headless service (`hostname.service…`), if it has one.
    pub hostname: Option<Arc<str>>,
}

impl Endpoint {
    /// The instance's port that serves this port of the service.
    #[must_use]
    pub fn target(&self, service_port: Port) -> Option<Port> {
        self.ports
            .iter()
            .find(|p| p.service == service_port)
            .map(|p| p.target)
    }
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A name to be resolved (only below [`crate::Resolution::Dns`] and its variant).
    Name(HostName),
    /// A Unix socket's path; ports do not count.
    Unix(Arc<str>),
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

/// A service's port and the instance's port behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortTarget {
    /// [`crate::ServicePort::number`].
    pub service: Port,
    /// The port the instance listens on.
    pub target: Port,
}

/// Whether an endpoint should receive requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Ready.
    Healthy,
    /// Going away, still serving: only what is under way.
    Draining,
    /// Not ready: kept for those who ask why, never called.
    Unready,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_needs_all_of_its_labels() {
        let labels: Labels = [("app", "sms"), ("version", "v1")].into_iter().collect();
        let select =
            |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Labels>().select(&labels);
        assert!(select(&[]));
        assert!(select(&[("app", "sms")]));
        assert!(select(&[("app", "sms"), ("version", "v1")]));
        assert!(!select(&[("app", "sms"), ("version", "v2")]));
        assert!(!select(&[("tier", "web")]));
    }

    #[test]
    fn locality_paths_may_lack_their_end() {
        assert_eq!(Locality::from_path("eu/a/1").to_string(), "eu/a/1");
        assert_eq!(Locality::from_path("eu").to_string(), "eu//");
        assert!(Locality::from_path("").is_empty());
    }
}
