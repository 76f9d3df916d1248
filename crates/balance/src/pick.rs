// SPDX-License-Identifier: Apache-2.0
//! Chooses a host for an attempt.
//!
//! A worker keeps a [`PickState`] per cluster: turns and schedules, and the lists of hosts that are
//! well, made for one host set and one epoch of its health (`plan`). While neither changes, a
//! pick reads one atomic (the epoch), allocates nothing and takes constant time (logarithmic with
//! unequal weights). No lock, no other worker's state.
//!
//! **Invariant:** a host that is ejected, unhealthy or draining is never chosen, unless its
//! priority is in panic; a draining one not even then.

mod plan;
mod schedule;

use std::sync::Arc;

use crate::host::HostRecord;
use crate::hosts::{Host, HostSet};
use plan::Plan;

/// A worker's state of one cluster's balancing. Made once, kept over changes of the host set.
#[derive(Debug, Default)]
pub struct PickState {
    /// The host set and the epoch that `plan` was made for.
    made_for: Option<(u64, u64)>,
    plan: Plan,
    /// Turns taken: where a new plan starts, so that a change of one host does not send
    /// everybody back to the first.
    turns: usize,
    in_panic: bool,
}

/// What an attempt asks of its host.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickContext<'a> {
    /// Hosts that were tried already and should not be again. Source: retry host predicate
    /// `envoy.retry_host_predicates.previous_hosts`.
    pub exclude: &'a [Arc<HostRecord>],
    /// How often to choose anew if an excluded host comes up; then it is taken after all.
    /// Source: `RetryPolicy.host_selection_retry_max_attempts`.
    pub repicks: u32,
    /// Whether the cluster's drop share applies: to a request's first attempt only.
    pub may_drop: bool,
}

impl<'a> PickContext<'a> {
    /// For a request's first attempt.
    #[must_use]
    pub const fn first() -> Self {
        Self {
            exclude: &[],
            repicks: 0,
            may_drop: true,
        }
    }

    /// For a retry.
    #[must_use]
    pub const fn retry(exclude: &'a [Arc<HostRecord>], repicks: u32) -> Self {
        Self {
            exclude,
            repicks,
            may_drop: false,
        }
    }

    fn excludes(&self, host: &Host) -> bool {
        self.exclude
            .iter()
            .any(|tried| Arc::ptr_eq(tried, &host.record))
    }
}

/// The answer.
#[derive(Clone, Copy, Debug)]
pub enum Pick<'s> {
    /// Go there.
    Host(&'s Host),
    /// No host may be picked: 503 `UH`.
    NoHealthyUpstream,
    /// The control plane asked to drop this share of requests: 503 `DO`.
    Dropped,
}

impl<'s> Pick<'s> {
    /// The host, if there is one.
    #[must_use]
    pub const fn host(self) -> Option<&'s Host> {
        match self {
            Self::Host(host) => Some(host),
            Self::NoHealthyUpstream | Self::Dropped => None,
        }
    }
}

/// Chooses a host of `set`.
pub fn pick<'s>(
    set: &'s HostSet,
    state: &mut PickState,
    context: &PickContext<'_>,
    rng: &mut fastrand::Rng,
) -> Pick<'s> {
    if context.may_drop && set.drop.is_some_and(|share| rng.f64() < share.ratio()) {
        return Pick::Dropped;
    }
    state.refresh(set, rng);
    let mut chosen = None;
    for _ in 0..=context.repicks {
        let Some(next) = state.choose(set, rng) else {
            break;
        };
        chosen = Some(next);
        if !context.excludes(next) {
            break;
        }
    }
    chosen.map_or(Pick::NoHealthyUpstream, Pick::Host)
}

impl PickState {
    /// A fresh state; workers start at different turns, as their generators differ.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the last pick ignored health. Stat `lb_healthy_panic`.
    #[must_use]
    pub const fn in_panic(&self) -> bool {
        self.in_panic
    }

    /// Makes the plan anew if the host set or a host's health changed. The epoch is read before
    /// the hosts: a change in between is seen as a newer epoch by the next pick.
    fn refresh(&mut self, set: &HostSet, rng: &mut fastrand::Rng) {
        let wanted = (set.id(), set.cluster().outlier().epoch());
        if self.made_for == Some(wanted) {
            return;
        }
        if self.made_for.is_none() {
            self.turns = rng.usize(..=usize::from(u16::MAX));
        }
        self.plan = Plan::new(set, self.turns);
        self.made_for = Some(wanted);
    }

    fn choose<'s>(&mut self, set: &'s HostSet, rng: &mut fastrand::Rng) -> Option<&'s Host> {
        self.turns = self.turns.wrapping_add(1);
        let chosen = self.plan.choose(set, rng)?;
        self.in_panic = chosen.in_panic;
        set.hosts().get(chosen.index)
    }
}

#[cfg(test)]
mod tests;
