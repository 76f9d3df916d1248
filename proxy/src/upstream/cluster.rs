// SPDX-License-Identifier: Apache-2.0
//! A cluster as it runs: its policy, bound to what outlives the policy.
//!
//! ```text
//!   Cluster (one per configuration) ── policy, limits, age of the connection settings
//!      └── Core (one per name) ── host records, the cell with the host set, gauges
//! ```
//!
//! The control thread binds, gives endpoints and sweeps; workers read. Replacing the policy keeps
//! the core, so nothing that is known about hosts is lost, and connections are kept unless the
//! settings they were made with have changed.
//!
//! Invariant: the host set in the cell belongs to the core's own record, and its balancing policy
//! is that of the newest binding.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use remora_balance::{
    Answer, ClusterLimits, ClusterRecord, Ejection, HostRecord, HostRegistry, HostSet, Outcome,
    OutlierCounts,
};
use remora_ir::ClusterName;
use remora_ir::cluster::{self, Discovery, Limit, Priority};
use remora_ir::endpoint::EndpointSet;
use remora_primitives::Instant;
use remora_rt::publish::{Publisher, Subscription};
use remora_telemetry::{Registry, Scope, ScopeKind};

use super::local::Local;
use super::stats::ClusterGauges;
use crate::state::Shared;

/// A live cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The policy, as configured.
    pub policy: Arc<cluster::Cluster>,
    limits: ClusterLimits,
    /// Connections that were made under an older number are retired.
    settings: u64,
    core: Arc<Core>,
}

/// What all bindings of a cluster share.
#[derive(Debug)]
pub(super) struct Core {
    record: Arc<ClusterRecord>,
    hosts: Publisher<HostSet>,
    /// The newest binding's.
    settings: AtomicU64,
    is_open_ended: AtomicBool,
    registry: Registry,
    gauges: ClusterGauges,
    control: Mutex<Control>,
}

/// What only the control thread reads and writes.
#[derive(Debug, Default)]
struct Control {
    endpoints: EndpointSet,
    swept: Instant,
    shown: OutlierCounts,
}

/// Whether connections are bounded now that were not before. Without a bound nothing is counted,
/// so what was opened then would escape the bound for as long as it lives.
fn begins_to_count(before: &cluster::Cluster, now: &cluster::Cluster) -> bool {
    [Priority::Default, Priority::High]
        .into_iter()
        .any(|priority| {
            let limit = |of: &cluster::Cluster| of.limits.of(priority).connections;
            limit(before) == Limit::Unlimited && limit(now) != Limit::Unlimited
        })
}

impl Cluster {
    /// Binds a policy. With `previous`, the binding that it replaces, hosts, connections and
    /// counts go on; else the cluster starts with the endpoints that the policy itself has.
    #[must_use]
    pub fn bind(
        policy: Arc<cluster::Cluster>,
        previous: Option<&Arc<Self>>,
        shared: &Shared,
    ) -> Arc<Self> {
        Self::bind_in(policy, previous, &shared.hosts, &shared.metrics)
    }

    /// As [`Self::bind`], with just what it needs.
    pub(super) fn bind_in(
        policy: Arc<cluster::Cluster>,
        previous: Option<&Arc<Self>>,
        hosts: &HostRegistry,
        metrics: &Registry,
    ) -> Arc<Self> {
        match previous {
            Some(previous) => Self::rebind(policy, previous),
            None => {
                let record = hosts.cluster(policy.slot.name());
                Self::first(policy, record, metrics.clone())
            }
        }
    }

    fn first(
        policy: Arc<cluster::Cluster>,
        record: Arc<ClusterRecord>,
        registry: Registry,
    ) -> Arc<Self> {
        let endpoints = match &policy.discovery {
            Discovery::Static(endpoints) => endpoints.clone(),
            _ => EndpointSet::default(),
        };
        let hosts = HostSet::build(&record, &policy.balancing, &endpoints);
        let gauges = ClusterGauges::bind(&scope_of(&registry, &policy));
        gauges.show_membership(hosts.membership());
        let limits = ClusterLimits::new(&record, &policy.limits);
        gauges.show_circuits(&limits);
        let core = Core {
            hosts: Publisher::new(Arc::new(hosts)),
            settings: AtomicU64::new(0),
            is_open_ended: AtomicBool::new(is_open_ended(&policy)),
            registry,
            gauges,
            control: Mutex::new(Control {
                endpoints,
                ..Control::default()
            }),
            record,
        };
        Arc::new(Self {
            policy,
            limits,
            settings: 0,
            core: Arc::new(core),
        })
    }

    fn rebind(policy: Arc<cluster::Cluster>, previous: &Arc<Self>) -> Arc<Self> {
        let core = Arc::clone(&previous.core);
        let same_connections = policy.connection == previous.policy.connection
            && policy.protocol == previous.policy.protocol
            && !begins_to_count(&previous.policy, &policy);
        let settings = core.settings.load(Relaxed) + u64::from(!same_connections);
        core.settings.store(settings, Relaxed);
        core.is_open_ended.store(is_open_ended(&policy), Relaxed);
        let limits = ClusterLimits::new(&core.record, &policy.limits);
        let cluster = Self {
            policy,
            limits,
            settings,
            core,
        };
        let mut control = cluster.core.lock();
        if let Discovery::Static(endpoints) = &cluster.policy.discovery {
            control.endpoints.clone_from(endpoints);
        }
        cluster.publish_hosts(&control.endpoints);
        drop(control);
        Arc::new(cluster)
    }

    /// Takes new endpoints into use; workers see them with their next pick. What equals the
    /// present endpoints changes nothing. Called by the control thread.
    pub fn set_endpoints(&self, endpoints: &EndpointSet) {
        let mut control = self.core.lock();
        if control.endpoints == *endpoints {
            return;
        }
        control.endpoints.clone_from(endpoints);
        self.publish_hosts(&control.endpoints);
    }

    fn publish_hosts(&self, endpoints: &EndpointSet) {
        let core = &*self.core;
        let hosts = HostSet::build(&core.record, &self.policy.balancing, endpoints);
        core.gauges.show_membership(hosts.membership());
        core.hosts.publish(Arc::new(hosts));
    }

    /// Lets ejected hosts return whose time is over (at each interval of the outlier policy, or
    /// at once if there is none any more), and shows the cluster's gauges. Called by the control
    /// thread about once a second.
    pub fn sweep(&self, now: Instant) {
        let core = &*self.core;
        let mut control = core.lock();
        let policy = self.policy.outlier.as_ref();
        let is_due = policy.is_none_or(|policy| now - control.swept >= policy.interval);
        if is_due && (policy.is_some() || core.record.outlier().counts().active > 0) {
            control.swept = now;
            for host in core.record.sweep(policy, now) {
                tracing::info!(cluster = %self.name(), host = %host.address(), "host returned");
            }
        }
        let counts = core.record.outlier().counts();
        core.gauges.show_ejections(&counts, &control.shown);
        control.shown = counts;
        core.gauges
            .show_membership(core.hosts.current().membership());
        core.gauges.show_circuits(&self.limits);
    }

    /// Takes the end of an attempt into account: totals, and outlier detection.
    pub fn on_outcome(&self, local: &Local, host: &HostRecord, outcome: Outcome) {
        let is_error = match outcome {
            Outcome::Status(status) => status >= 500,
            Outcome::Connected => false,
            Outcome::LocalOriginFailure(_) => true,
        };
        host.count_answer(if is_error {
            Answer::Error
        } else {
            Answer::Success
        });
        let Some(policy) = &self.policy.outlier else {
            return;
        };
        let now = remora_rt::clock::now();
        let ejection = local.with_rng(|rng| host.on_result(outcome, policy, now, rng));
        if let Some(Ejection { kind, duration, .. }) = ejection {
            tracing::warn!(
                cluster = %self.name(), host = %host.address(), reason = kind.stat_suffix(),
                seconds = duration.as_secs_f64(), "host ejected"
            );
        }
    }

    /// The policy, as configured.
    #[must_use]
    pub const fn policy(&self) -> &Arc<cluster::Cluster> {
        &self.policy
    }

    /// Bounds on what is under way.
    #[must_use]
    pub const fn limits(&self) -> &ClusterLimits {
        &self.limits
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &ClusterName {
        self.policy.slot.name()
    }

    /// The hosts as of now. Workers on the road use their own subscription instead.
    #[must_use]
    pub fn hosts(&self) -> Arc<HostSet> {
        self.core.hosts.current()
    }

    /// The live state that the hosts share.
    #[must_use]
    pub fn record(&self) -> &Arc<ClusterRecord> {
        &self.core.record
    }

    /// A handle on the host set for one thread.
    pub(super) fn subscribe(&self) -> Subscription<HostSet> {
        self.core.hosts.subscribe()
    }

    /// Where this cluster's statistics are.
    pub(super) fn scope(&self) -> Scope {
        scope_of(&self.core.registry, &self.policy)
    }

    pub(super) const fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) const fn settings(&self) -> u64 {
        self.settings
    }
}

impl Core {
    /// The newest binding's connection settings.
    pub(super) fn settings(&self) -> u64 {
        self.settings.load(Relaxed)
    }

    /// Counts publications of the host set.
    pub(super) fn generation(&self) -> u64 {
        self.hosts.generation()
    }

    /// Whether hosts come from the traffic itself (original destinations), not from endpoints.
    pub(super) fn is_open_ended(&self) -> bool {
        self.is_open_ended.load(Relaxed)
    }

    /// Whether a host is among the present ones.
    pub(super) fn has_host(&self, host: &Arc<HostRecord>) -> bool {
        let set = self.hosts.current();
        set.hosts().iter().any(|one| Arc::ptr_eq(&one.record, host))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn is_open_ended(policy: &cluster::Cluster) -> bool {
    matches!(policy.discovery, Discovery::OriginalDst { .. })
}

fn scope_of(registry: &Registry, policy: &cluster::Cluster) -> Scope {
    let own = policy.slot.name().as_str();
    registry.scope(
        ScopeKind::Cluster,
        policy.stat_name.as_deref().unwrap_or(own),
    )
}
