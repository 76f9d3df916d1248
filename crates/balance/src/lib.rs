// SPDX-License-Identifier: Apache-2.0
//! Which host a request goes to, and whether it may go at all.
//!
//! Load balancing over priorities and localities, panic, outlier ejection and circuit limits. The
//! crate does no I/O, reads no clock and draws no randomness of its own: the present and the
//! generator are arguments.
//!
//! Who does what:
//! * the **control thread** owns the [`HostRegistry`], builds a [`HostSet`] whenever endpoints or
//!   the policy change, publishes it, and calls [`ClusterRecord::sweep`] at each interval;
//! * each **worker** keeps a [`PickState`] per cluster, calls [`pick()`], holds an
//!   [`ActiveRequest`] and the [`Permit`]s of an attempt, and reports its end with [`HostRecord::on_result`].
//!
//! **Invariant:** workers share nothing but the atomics of [`HostRecord`], [`ClusterOutlier`] and
//! the counts behind [`ClusterLimits`]; an ejection by one worker is seen by the next pick of all.

#[cfg(test)]
mod fixture;
mod host;
mod hosts;
mod limits;
mod outlier;
mod pick;
mod registry;

pub use host::{ActiveConnection, ActiveRequest, Answer, HostCounts, HostRecord};
pub use hosts::{Host, HostSet, Membership};
pub use limits::{ClusterLimits, Connection, Overflow, Permit, PriorityLimits, Resource};
pub use outlier::{
    ClusterOutlier, Ejection, EjectionKind, LocalOriginFailure, Outcome, OutlierCounts,
};
pub use pick::{Pick, PickContext, PickState, pick};
pub use registry::{ClusterRecord, HostRegistry};
