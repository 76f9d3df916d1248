// SPDX-License-Identifier: Apache-2.0
//! Circuit limits: how much may be under way to a cluster at once.
//!
//! Counts are atomics that all workers share, so a limit holds for the proxy as a whole; they
//! belong to the [`ClusterRecord`] and survive a change of the limits. Thresholds are plain values,
//! bound once per published cluster. What is unlimited is not counted at all, unless a retry
//! budget needs the number. Source: `envoy.config.cluster.v3.CircuitBreakers`.
//!
//! **Invariant:** a count is the number of living [`Permit`]s of its kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use remora_ir::cluster::{CircuitLimits, Limit, Priority, RetryLimit, Thresholds};

use crate::registry::ClusterRecord;

/// The limits of a cluster, by routing priority.
#[derive(Clone, Debug)]
pub struct ClusterLimits {
    default: PriorityLimits,
    high: PriorityLimits,
}

impl ClusterLimits {
    /// Binds thresholds to the cluster's counts.
    #[must_use]
    pub fn new(cluster: &ClusterRecord, limits: &CircuitLimits) -> Self {
        let bind = |priority| PriorityLimits {
            thresholds: *limits.of(priority),
            counts: Arc::clone(cluster.counts(priority)),
        };
        Self {
            default: bind(Priority::Default),
            high: bind(Priority::High),
        }
    }

    /// The limits for a request of this priority.
    #[must_use]
    pub const fn of(&self, priority: Priority) -> &PriorityLimits {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }
}

/// The limits for requests of one priority.
#[derive(Clone, Debug)]
pub struct PriorityLimits {
    thresholds: Thresholds,
    counts: Arc<LimitCounts>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests under way.
    Requests,
    /// Retries under way.
    Retries,
}

/// A new connection's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The first of this worker to this host: always allowed, so that a busy worker cannot lock
    /// an idle one out; counted nevertheless.
    FirstOfWorkerToHost,
    /// One more: within the limit only.
    Another,
}

/// A limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("circuit limit reached: {limit} {resource} under way")]
pub struct Overflow {
    /// Of what.
    pub resource: Resource,
    /// The limit.
    pub limit: u32,
}

impl Overflow {
    /// The cluster's counter that the refusal adds to. Requests over their limit are counted as
    /// pending overflow, as in Envoy.
    #[must_use]
    pub const fn stat_name(&self) -> &'static str {
        match self.resource {
            Resource::Connections => "upstream_cx_overflow",
            Resource::Pending | Resource::Requests => "upstream_rq_pending_overflow",
            Resource::Retries => "upstream_rq_retry_overflow",
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections",
            Self::Pending => "pending requests",
            Self::Requests => "requests",
            Self::Retries => "retries",
        })
    }
}

impl PriorityLimits {
    /// The right to have a request under way.
    ///
    /// # Errors
    /// If as many as allowed are.
    pub fn try_request(&self) -> Result<Permit, Overflow> {
        self.acquire(Resource::Requests)
    }

    /// The right to wait for a connection.
    ///
    /// # Errors
    /// If as many as allowed do.
    pub fn try_pending(&self) -> Result<Permit, Overflow> {
        self.acquire(Resource::Pending)
    }

    /// The right to open and keep a connection.
    ///
    /// # Errors
    /// If as many as allowed are open and this is not the worker's first one to its host.
    pub fn try_connection(&self, connection: Connection) -> Result<Permit, Overflow> {
        match connection {
            Connection::Another => self.acquire(Resource::Connections),
            Connection::FirstOfWorkerToHost if self.is_counted(Resource::Connections) => {
                self.counts.of(Resource::Connections).fetch_add(1, Relaxed);
                Ok(self.counted(Resource::Connections))
            }
            Connection::FirstOfWorkerToHost => Ok(Permit::uncounted(Resource::Connections)),
        }
    }

    /// The right to have a retry under way. With a budget the bound moves with the requests
    /// active and pending at this moment.
    ///
    /// # Errors
    /// If as many as allowed are.
    pub fn try_retry(&self) -> Result<Permit, Overflow> {
        self.acquire(Resource::Retries)
    }

    /// How many are under way. What is unlimited reads 0, as it is not counted.
    #[must_use]
    pub fn active(&self, resource: Resource) -> u32 {
        self.counts.of(resource).load(Relaxed)
    }

    /// How many more would be allowed now; `None` without a limit. Stats `remaining_*`.
    #[must_use]
    pub fn remaining(&self, resource: Resource) -> Option<u32> {
        match self.limit(resource) {
            Limit::AtMost(limit) => Some(limit.saturating_sub(self.active(resource))),
            Limit::Unlimited => None,
        }
    }

    /// Whether the next one would be refused. Stats `cx_open`, `rq_open`, `rq_pending_open`,
    /// `rq_retry_open`.
    #[must_use]
    pub fn is_open(&self, resource: Resource) -> bool {
        self.remaining(resource) == Some(0)
    }

    fn acquire(&self, resource: Resource) -> Result<Permit, Overflow> {
        let count = self.counts.of(resource);
        match self.limit(resource) {
            Limit::AtMost(limit) => count
                .fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1))
                .map(|_| self.counted(resource))
                .map_err(|_| Overflow { resource, limit }),
            Limit::Unlimited if self.is_counted(resource) => {
                count.fetch_add(1, Relaxed);
                Ok(self.counted(resource))
            }
            Limit::Unlimited => Ok(Permit::uncounted(resource)),
        }
    }

    fn limit(&self, resource: Resource) -> Limit {
        match resource {
            Resource::Connections => self.thresholds.connections,
            Resource::Pending => self.thresholds.pending,
            Resource::Requests => self.thresholds.requests,
            Resource::Retries => match self.thresholds.retries {
                RetryLimit::Fixed(limit) => limit,
                RetryLimit::Budget {
                    percent,
                    min_concurrency,
                } => {
                    let requests = u64::from(self.active(Resource::Requests))
                        + u64::from(self.active(Resource::Pending));
                    Limit::AtMost(share(requests, percent).max(min_concurrency))
                }
            },
        }
    }

    /// Whether permits of this kind are counted: if there is a limit, or if the retry budget is a
    /// share of them.
    fn is_counted(&self, resource: Resource) -> bool {
        let budget = matches!(self.thresholds.retries, RetryLimit::Budget { .. });
        match resource {
            Resource::Connections => self.thresholds.connections != Limit::Unlimited,
            Resource::Pending => self.thresholds.pending != Limit::Unlimited || budget,
            Resource::Requests => self.thresholds.requests != Limit::Unlimited || budget,
            Resource::Retries => self.thresholds.retries != RetryLimit::Fixed(Limit::Unlimited),
        }
    }

    fn counted(&self, resource: Resource) -> Permit {
        Permit {
            counts: Some(Arc::clone(&self.counts)),
            resource,
        }
    }
}

/// So many percent of a number, rounded down.
fn share(of: u64, percent: remora_primitives::Percent) -> u32 {
    // Percent has at most six significant decimals in the API; millionths lose none of them.
    let millionths = percent_millionths(percent);
    u32::try_from(u128::from(of) * u128::from(millionths) / 100_000_000).unwrap_or(u32::MAX)
}

/// Percent in millionths of a percent, 0 to 100,000,000.
fn percent_millionths(percent: remora_primitives::Percent) -> u64 {
    let scaled = (percent.get() * 1e6).round();
    // Within 0 to 1e8 by the type's own bounds, so the cast loses only the sign it cannot have.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = scaled as u64;
    whole
}

/// The right to have one more under way; given back when dropped.
#[derive(Debug)]
#[must_use = "the permit is given back when this is dropped"]
pub struct Permit {
    /// `None` where nothing is counted.
    counts: Option<Arc<LimitCounts>>,
    resource: Resource,
}

impl Permit {
    const fn uncounted(resource: Resource) -> Self {
        Self {
            counts: None,
            resource,
        }
    }

    /// What it is a permit for.
    #[must_use]
    pub const fn resource(&self) -> Resource {
        self.resource
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(counts) = &self.counts {
            counts.of(self.resource).fetch_sub(1, Relaxed);
        }
    }
}

/// What is under way in one priority of a cluster.
#[derive(Debug, Default)]
pub(crate) struct LimitCounts {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

impl LimitCounts {
    const fn of(&self, resource: Resource) -> &AtomicU32 {
        match resource {
            Resource::Connections => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
        }
    }
}

#[cfg(test)]
mod tests;
