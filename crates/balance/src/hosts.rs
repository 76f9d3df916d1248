// SPDX-License-Identifier: Apache-2.0
//! A cluster's hosts as configured at one moment, bound to their live records.
//!
//! The control thread builds a [`HostSet`] when endpoints or the policy change and publishes it;
//! it is immutable afterwards. Which of its hosts are well is not in it: [`crate::pick()`]
//! reads that from the records. Source: `envoy.config.endpoint.v3.ClusterLoadAssignment`.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use remora_ir::cluster::{Balancing, Policy};
use remora_ir::endpoint::{ConfiguredHealth, Endpoint, EndpointSet, Locality, LocalityEndpoints};
use remora_primitives::{Percent, Weight};

use crate::host::HostRecord;
use crate::registry::ClusterRecord;

/// One host: what is configured about it, and its record.
#[derive(Clone, Debug)]
pub struct Host {
    /// The live state, shared by all workers and all sets.
    pub record: Arc<HostRecord>,
    /// Its name for logs and `Host` rewriting.
    pub hostname: Option<Arc<str>>,
    /// Its share within its locality.
    pub weight: Weight,
    /// Health as configured.
    pub health: ConfiguredHealth,
    /// Where it is.
    pub locality: Arc<Locality>,
    /// 0 is the most wanted.
    pub priority: u32,
}

impl Host {
    /// What the host may be picked for now.
    pub(crate) fn availability(&self) -> Availability {
        match self.health {
            ConfiguredHealth::Draining => Availability::Never,
            ConfiguredHealth::Unhealthy => Availability::InPanic,
            ConfiguredHealth::Healthy | ConfiguredHealth::Degraded if self.record.is_ejected() => {
                Availability::InPanic
            }
            ConfiguredHealth::Healthy => Availability::Healthy,
            ConfiguredHealth::Degraded => Availability::Degraded,
        }
    }
}

/// What a host may be picked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Everything.
    Healthy,
    /// When the healthy do not suffice.
    Degraded,
    /// Only when health is ignored.
    InPanic,
    /// Nothing new.
    Never,
}

/// How many hosts a set has, by health. Stats `membership_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// All of them.
    pub total: usize,
    /// Those that may be picked.
    pub healthy: usize,
    /// Those that may be picked when the healthy do not suffice.
    pub degraded: usize,
    /// Those that are draining.
    pub excluded: usize,
}

/// All hosts of a cluster with the policy that chooses among them.
#[derive(Debug)]
pub struct HostSet {
    id: u64,
    cluster: Arc<ClusterRecord>,
    hosts: Vec<Host>,
    priorities: Vec<PriorityHosts>,
    pub(crate) policy: Policy,
    pub(crate) panic_threshold: Percent,
    pub(crate) locality_weighted: bool,
    pub(crate) overprovisioning: u64,
    pub(crate) drop: Option<Percent>,
}

/// The hosts of one priority: adjacent in `HostSet::hosts`, as are those of each locality.
#[derive(Debug)]
pub(crate) struct PriorityHosts {
    pub(crate) hosts: Range<usize>,
    pub(crate) localities: Vec<LocalityHosts>,
}

#[derive(Debug)]
pub(crate) struct LocalityHosts {
    pub(crate) hosts: Range<usize>,
    /// 0 if none is configured: no share in locality-weighted balancing.
    pub(crate) weight: u32,
}

impl HostSet {
    /// Binds endpoints to their records.
    ///
    /// An address that comes twice is taken once, where it comes first. Ejected hosts that are no
    /// longer among the endpoints stop counting as ejected.
    #[must_use]
    pub fn build(
        cluster: &Arc<ClusterRecord>,
        balancing: &Balancing,
        endpoints: &EndpointSet,
    ) -> Self {
        let mut set = Self {
            id: cluster.next_set_id(),
            cluster: Arc::clone(cluster),
            hosts: Vec::with_capacity(endpoints.len()),
            priorities: Vec::new(),
            policy: balancing.policy,
            panic_threshold: balancing.panic_threshold,
            locality_weighted: balancing.locality_weighted,
            overprovisioning: u64::from(endpoints.overprovisioning.0),
            drop: endpoints.drop.filter(|share| *share > Percent::ZERO),
        };
        let mut by_priority = BTreeMap::<u32, Vec<&LocalityEndpoints>>::new();
        for place in &endpoints.localities {
            by_priority.entry(place.priority).or_default().push(place);
        }
        let mut seen = HashSet::new();
        for places in by_priority.into_values() {
            let start = set.hosts.len();
            let localities = places
                .into_iter()
                .map(|place| {
                    let fresh = place.endpoints.iter().filter(|e| seen.insert(&e.address));
                    set.add_locality(place, fresh)
                })
                .collect();
            let hosts = start..set.hosts.len();
            set.priorities.push(PriorityHosts { hosts, localities });
        }
        cluster.adopt_members(&seen);
        set
    }

    fn add_locality<'e>(
        &mut self,
        place: &LocalityEndpoints,
        endpoints: impl Iterator<Item = &'e Endpoint>,
    ) -> LocalityHosts {
        let start = self.hosts.len();
        let locality = Arc::new(place.locality.clone());
        let cluster = &self.cluster;
        self.hosts.extend(endpoints.map(|endpoint| Host {
            record: cluster.host(&endpoint.address),
            hostname: endpoint.hostname.clone(),
            weight: endpoint.weight,
            health: endpoint.health,
            locality: Arc::clone(&locality),
            priority: place.priority,
        }));
        LocalityHosts {
            hosts: start..self.hosts.len(),
            weight: place.weight.map_or(0, Weight::get),
        }
    }

    /// The epoch of the set: a number no other set has.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The cluster's live state.
    #[must_use]
    pub const fn cluster(&self) -> &Arc<ClusterRecord> {
        &self.cluster
    }

    /// All hosts, by priority, then locality, then as configured.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Counts the hosts by health.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let mut membership = Membership {
            total: self.hosts.len(),
            ..Membership::default()
        };
        for host in &self.hosts {
            match host.availability() {
                Availability::Healthy => membership.healthy += 1,
                Availability::Degraded => membership.degraded += 1,
                Availability::Never => membership.excluded += 1,
                Availability::InPanic => {}
            }
        }
        membership
    }

    pub(crate) fn priorities(&self) -> &[PriorityHosts] {
        &self.priorities
    }
}
