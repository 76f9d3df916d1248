// SPDX-License-Identifier: Apache-2.0
//! How many retries a request may still make, and the cluster's say in it.
//!
//! The policy's words are judged by [`super::retry`]; here a wanted retry is checked against what
//! is left: the number of retries, the cluster's circuit limit, and whether the body can be sent
//! again.

use remora_balance::{Permit, PriorityLimits};
use remora_http::ResponseHead;
use remora_ir::action::RetryPolicy;

use super::flags::Flags;
use super::retry;
use crate::upstream::{ClusterStats, RetryClass};

/// What is left for one request.
#[derive(Debug)]
pub(super) struct Budget<'a> {
    policy: Option<&'a RetryPolicy>,
    limits: &'a PriorityLimits,
    stats: &'a ClusterStats,
    left: u32,
    made: u32,
    /// Held from the decision to the end of the retry it allowed.
    permit: Option<Permit>,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try again.
    Retry,
    /// Pass on what there is, with these flags beside its own.
    Pass(Flags),
}

/// Whether the body can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// From its beginning.
    Replayable,
    /// Parts of it were not kept.
    Lost,
}

impl<'a> Budget<'a> {
    /// The whole budget of a policy.
    pub(super) fn new(
        policy: Option<&'a RetryPolicy>,
        limits: &'a PriorityLimits,
        stats: &'a ClusterStats,
    ) -> Self {
        let left = policy.map_or(0, |policy| policy.retries);
        Self {
            policy,
            limits,
            stats,
            left,
            made: 0,
            permit: None,
        }
    }

    /// Judges an answer.
    pub(super) fn on_answer(&mut self, head: &ResponseHead, body: Body) -> Verdict {
        let wanted = self
            .policy
            .is_some_and(|policy| retry::is_answer_retriable(policy, head));
        if !wanted && self.made > 0 && head.status.get() < 500 {
            self.stats.rq_retry_success.increment();
        }
        self.claim(wanted, body)
    }

    /// Judges a failure.
    pub(super) fn on_failure(&mut self, class: RetryClass, body: Body) -> Verdict {
        let wanted = self
            .policy
            .is_some_and(|policy| retry::is_failure_retriable(policy, class));
        self.claim(wanted, body)
    }

    /// The retry that comes next, from one.
    pub(super) const fn made(&self) -> u32 {
        self.made
    }

    fn claim(&mut self, wanted: bool, body: Body) -> Verdict {
        // The retry that just ended no longer counts.
        self.permit = None;
        if !wanted || body == Body::Lost {
            return Verdict::Pass(Flags::none());
        }
        if self.left == 0 {
            self.stats.rq_retry_limit_exceeded.increment();
            return Verdict::Pass(Flags::RETRY_LIMIT_EXCEEDED);
        }
        match self.limits.try_retry() {
            Ok(permit) => {
                self.permit = Some(permit);
                self.left -= 1;
                self.made += 1;
                self.stats.rq_retry.increment();
                Verdict::Retry
            }
            Err(_) => {
                self.stats.rq_retry_overflow.increment();
                Verdict::Pass(Flags::UPSTREAM_OVERFLOW)
            }
        }
    }
}
