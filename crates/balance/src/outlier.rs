// SPDX-License-Identifier: Apache-2.0
//! Outlier detection: hosts that fail in a row are put aside for a while.
//!
//! Each worker reports each attempt's end; whichever report decides ejects at once, by
//! compare-and-swap against the cluster's ejected count, so that workers together never eject more
//! than allowed. A host returns at the first sweep after its time, as in Envoy, and each sweep
//! that finds it in place shortens its next ejection. Source:
//! `envoy.config.cluster.v3.OutlierDetection`.
//!
//! ```text
//!            threshold met, share allows          sweep, time is over
//!  in place ---------------------------> ejected -------------------> in place
//!      |  sweep: multiplier - 1             removed from endpoints: in place
//! ```
//!
//! **Invariants:** `ejected` is the number of living records that are ejected; each change of a
//! host's state is followed by a new epoch, by which workers know that what they cached is old.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use remora_ir::cluster::{ErrorsInARow, OutlierPolicy};
use remora_ir::endpoint::EndpointAddress;
use remora_primitives::Instant;

use crate::host::{HostRecord, reset};
use crate::registry::ClusterRecord;

/// How an attempt ended, as far as the host is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered: an HTTP status, or for gRPC the status it stands for.
    Status(u16),
    /// A connection was established and served what is no HTTP (a TCP relay).
    Connected,
    /// It did not answer.
    LocalOriginFailure(LocalOriginFailure),
}

/// Failures that this proxy saw rather than the host said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalOriginFailure {
    /// The connection could not be established. Stands for 503.
    ConnectFailed,
    /// It broke before the answer. Stands for 503.
    Reset,
    /// No answer in time. Stands for 504.
    Timeout,
}

/// Which detector tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EjectionKind {
    /// 5xx in a row.
    Consecutive5xx,
    /// 502, 503, 504 in a row.
    ConsecutiveGateway,
    /// Local failures in a row.
    ConsecutiveLocalOrigin,
}

impl EjectionKind {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGateway,
        Self::ConsecutiveLocalOrigin,
    ];

    /// The end of its counters' names: `outlier_detection.ejections_enforced_<suffix>`.
    #[must_use]
    pub const fn stat_suffix(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGateway => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOrigin => "consecutive_local_origin_failure",
        }
    }
}

/// A host was put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an ejection is worth a log line"]
pub struct Ejection {
    /// By which detector.
    pub kind: EjectionKind,
    /// Until when at least.
    pub until: Instant,
    /// For how long, jitter included.
    pub duration: Duration,
}

/// A cluster's ejections: the shared count, the epoch of its hosts' health, and the counters.
#[derive(Debug, Default)]
pub struct ClusterOutlier {
    epoch: AtomicU64,
    members: AtomicU32,
    ejected: AtomicU32,
    overflow: AtomicU64,
    by_kind: [KindCounts; 3],
}

#[derive(Debug, Default)]
struct KindCounts {
    detected: AtomicU64,
    enforced: AtomicU64,
}

/// The counters of one moment. Stats `outlier_detection.ejections_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutlierCounts {
    /// `ejections_active`.
    pub active: u32,
    /// `ejections_overflow`: detected, but the share was used up.
    pub overflow: u64,
    /// `ejections_detected_*`, in the order of [`EjectionKind::ALL`].
    pub detected: [u64; 3],
    /// `ejections_enforced_*`, likewise; their sum is `ejections_enforced_total`.
    pub enforced: [u64; 3],
}

impl ClusterOutlier {
    /// Changes whenever a host of the cluster is ejected or returns.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// The counters.
    #[must_use]
    pub fn counts(&self) -> OutlierCounts {
        OutlierCounts {
            active: self.ejected.load(Relaxed),
            overflow: self.overflow.load(Relaxed),
            detected: self
                .by_kind
                .each_ref()
                .map(|kind| kind.detected.load(Relaxed)),
            enforced: self
                .by_kind
                .each_ref()
                .map(|kind| kind.enforced.load(Relaxed)),
        }
    }

    /// A record was dropped while ejected.
    pub(crate) fn forget_ejected(&self) {
        self.ejected.fetch_sub(1, Relaxed);
    }

    /// Takes a place in the ejected share, if there is one.
    fn reserve(&self, policy: &OutlierPolicy) -> bool {
        let members = self.members.load(Relaxed);
        let allowed = |ejected| may_eject_another(ejected, members, policy);
        self.ejected
            .fetch_update(AcqRel, Acquire, |n| allowed(n).then_some(n + 1))
            .is_ok()
    }

    const fn counts_of(&self, kind: EjectionKind) -> &KindCounts {
        let [any, gateway, local] = &self.by_kind;
        match kind {
            EjectionKind::Consecutive5xx => any,
            EjectionKind::ConsecutiveGateway => gateway,
            EjectionKind::ConsecutiveLocalOrigin => local,
        }
    }
}

/// The share counts the host that is about to go, so 3 hosts at 10 % eject nothing.
fn may_eject_another(ejected: u32, members: u32, policy: &OutlierPolicy) -> bool {
    let after = 100.0 * (f64::from(ejected) + 1.0);
    let within_share = after <= policy.max_ejected.get() * f64::from(members);
    members > 0 && (within_share || policy.always_one && ejected == 0)
}

impl HostRecord {
    /// Judges an attempt's end; tells if it was the one that ejected the host.
    pub fn on_result(
        &self,
        outcome: Outcome,
        policy: &OutlierPolicy,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Ejection> {
        let judge = Judge {
            host: self,
            policy,
            now,
        };
        match outcome {
            Outcome::Connected => {
                reset(&self.in_a_row.local_origin);
                if policy.split_external {
                    None
                } else {
                    judge.on_status(200, rng)
                }
            }
            Outcome::Status(status) => {
                reset(&self.in_a_row.local_origin);
                judge.on_status(status, rng)
            }
            Outcome::LocalOriginFailure(_) if policy.split_external => {
                let counter = &self.in_a_row.local_origin;
                let detector = policy.consecutive_local_origin;
                judge.count(counter, detector, EjectionKind::ConsecutiveLocalOrigin, rng)
            }
            Outcome::LocalOriginFailure(failure) => judge.on_status(failure.status(), rng),
        }
    }

    /// Puts the host back in place, if it was ejected.
    fn return_to_place(&self) -> bool {
        let until = self.ejected_until.load(Relaxed);
        // A fresh start: counters close to their trigger would throw the host out again at once.
        self.in_a_row.reset();
        if until == 0
            || self
                .ejected_until
                .compare_exchange(until, 0, AcqRel, Relaxed)
                .is_err()
        {
            return false;
        }
        self.outlier().ejected.fetch_sub(1, AcqRel);
        self.outlier().epoch.fetch_add(1, Release);
        true
    }
}

impl LocalOriginFailure {
    const fn status(self) -> u16 {
        match self {
            Self::ConnectFailed | Self::Reset => 503,
            Self::Timeout => 504,
        }
    }
}

/// One report with what it is judged by.
#[derive(Clone, Copy)]
struct Judge<'a> {
    host: &'a HostRecord,
    policy: &'a OutlierPolicy,
    now: Instant,
}

impl Judge<'_> {
    /// Gateway failures first, as in Envoy: when both detectors are due, that one is named.
    fn on_status(self, status: u16, rng: &mut fastrand::Rng) -> Option<Ejection> {
        let in_a_row = &self.host.in_a_row;
        if !(500..600).contains(&status) {
            reset(&in_a_row.any_5xx);
            reset(&in_a_row.gateway);
            return None;
        }
        let by_gateway = if matches!(status, 502..=504) {
            let detector = self.policy.consecutive_gateway;
            self.count(
                &in_a_row.gateway,
                detector,
                EjectionKind::ConsecutiveGateway,
                rng,
            )
        } else {
            reset(&in_a_row.gateway);
            None
        };
        let detector = self.policy.consecutive_5xx;
        let by_5xx = self.count(
            &in_a_row.any_5xx,
            detector,
            EjectionKind::Consecutive5xx,
            rng,
        );
        by_gateway.or(by_5xx)
    }

    /// Counts an error. A run that reaches the threshold starts over, whatever comes of it, so
    /// that each further run is detected, too.
    fn count(
        self,
        counter: &AtomicU32,
        detector: Option<ErrorsInARow>,
        kind: EjectionKind,
        rng: &mut fastrand::Rng,
    ) -> Option<Ejection> {
        let detector = detector?;
        let errors = counter.fetch_add(1, Relaxed).saturating_add(1);
        if errors < detector.threshold.get() || self.host.is_ejected() {
            return None;
        }
        reset(counter);
        let outlier = self.host.outlier();
        outlier.counts_of(kind).detected.fetch_add(1, Relaxed);
        let members = outlier.members.load(Relaxed);
        if !may_eject_another(outlier.ejected.load(Relaxed), members, self.policy) {
            outlier.overflow.fetch_add(1, Relaxed);
            return None;
        }
        if detector.enforcing < 100 && rng.u8(..100) >= detector.enforcing {
            return None;
        }
        self.eject(kind, rng)
    }

    /// First a place in the share, then the host: the share is never exceeded, not for a moment.
    fn eject(self, kind: EjectionKind, rng: &mut fastrand::Rng) -> Option<Ejection> {
        let Self { host, policy, now } = self;
        let outlier = host.outlier();
        if !outlier.reserve(policy) {
            outlier.overflow.fetch_add(1, Relaxed);
            return None;
        }
        let multiplier = next_multiplier(host.multiplier.load(Relaxed), policy);
        let length = policy
            .base_ejection
            .saturating_mul(multiplier)
            .min(policy.max_ejection);
        let duration = length.saturating_add(jitter(policy.ejection_jitter, rng));
        let until = now + duration;
        let nanos = until.as_nanos().max(1);
        if host
            .ejected_until
            .compare_exchange(0, nanos, AcqRel, Relaxed)
            .is_err()
        {
            outlier.forget_ejected();
            return None;
        }
        host.multiplier.store(multiplier, Relaxed);
        host.ejections.fetch_add(1, Relaxed);
        outlier.epoch.fetch_add(1, Release);
        outlier.counts_of(kind).enforced.fetch_add(1, Relaxed);
        Some(Ejection {
            kind,
            until,
            duration,
        })
    }
}

/// One more than before, until one ejection would be longer than the longest: from there on only
/// decay would take longer.
fn next_multiplier(before: u32, policy: &OutlierPolicy) -> u32 {
    let length = policy.base_ejection.saturating_mul(before);
    let longest = policy.max_ejection.saturating_add(policy.base_ejection);
    if length < longest {
        before.saturating_add(1)
    } else {
        before
    }
}

fn jitter(up_to: Duration, rng: &mut fastrand::Rng) -> Duration {
    match u64::try_from(up_to.as_nanos()).unwrap_or(u64::MAX) {
        0 => Duration::ZERO,
        nanos => Duration::from_nanos(rng.u64(..=nanos)),
    }
}

impl ClusterRecord {
    /// Lets hosts return whose time is over, and shortens the next ejection of those in place.
    /// Called by the control thread each `policy.interval`; without a policy (outlier detection
    /// was switched off) all return. Answers with those that did.
    pub fn sweep(&self, policy: Option<&OutlierPolicy>, now: Instant) -> Vec<Arc<HostRecord>> {
        let mut hosts = self.hosts();
        hosts.retain(|host| match host.ejected_until() {
            Some(until) if policy.is_none() || until <= now => host.return_to_place(),
            Some(_) => false,
            None => {
                let shorter = |multiplier: u32| multiplier.checked_sub(1);
                // The error is a multiplier of zero, which stays.
                let _ = host.multiplier.fetch_update(Relaxed, Relaxed, shorter);
                false
            }
        });
        hosts
    }

    /// Takes note of the cluster's present hosts: their number bounds ejections, and those that
    /// left no longer count as ejected.
    pub(crate) fn adopt_members(&self, members: &HashSet<&EndpointAddress>) {
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        self.outlier().members.store(count, Relaxed);
        for host in self.hosts() {
            if !members.contains(host.address()) {
                host.return_to_place();
            }
        }
    }
}

#[cfg(test)]
mod tests;
