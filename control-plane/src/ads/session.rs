// SPDX-License-Identifier: Apache-2.0
//! One stream's side of the protocol, as a machine without I/O.
//!
//! It answers for what is sent next, given what the node asked for, what it holds, and the newest
//! snapshot. The stream calls it in three ways: a request came ([`Session::on_delta`],
//! [`Session::on_sotw`]), the world changed ([`Session::set_snapshot`]), there is room to send
//! ([`Session::next_push`], until it gives `None`).
//!
//! The order of pushes: what is new or changed, in the order clusters, endpoints, listeners,
//! routes; then what is gone, in the reverse order. Listeners and routes wait until the node has
//! answered the clusters: by then it has asked for the endpoints of new ones, and traffic moves to
//! a cluster only once it has some. What is gone is taken away only when the node has answered
//! everything before, and clusters and endpoints only while it does not refuse its routes or
//! listeners: those it still uses may refer to them.
//!
//! Invariants: every push is a difference between what the node holds and the newest snapshot, so
//! a session that is left alone falls silent; what a node refused is not sent again until it
//! changes; a node whose versions agree with the snapshot is sent nothing.

mod delta;
mod kind;
mod sotw;

use std::collections::BTreeMap;
use std::sync::Arc;

use remora_compile::Resource;
use remora_xds_types::ResourceType;

use super::snapshot::ResourceSnapshot;
pub use kind::KindStatus;
use kind::{Answer, KindState};

/// Which variant of the protocol a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `DeltaAggregatedResources`.
    Delta,
    /// `StreamAggregatedResources`.
    Sotw,
}

/// A response to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The kind of its resources.
    pub kind: ResourceType,
    /// Its mark, unique on the stream.
    pub nonce: String,
    /// The version of what the node holds of the kind once it has accepted this.
    pub version: String,
    /// New and changed resources; in the state-of-the-world variant all that are to be held,
    /// where the kind asks for that.
    pub resources: Vec<Arc<Resource>>,
    /// Names that are no more, or that were asked for and do not exist (delta only).
    pub removed: Vec<String>,
}

/// What a request meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The node told what it wants.
    Subscribed(ResourceType),
    /// The node accepted a push.
    Accepted(ResourceType),
    /// The node refused a push, wholly or in part.
    Refused(ResourceType, String),
    /// An answer to a push that is not, or no longer, waited for.
    Stale,
    /// A type that is not served here.
    UnknownType,
}

/// The node wants more names than one stream may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_NAMES} names are subscribed on one stream")]
pub struct TooManyNames;

/// The machine of one stream.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    snapshot: Arc<ResourceSnapshot>,
    /// The kinds that were asked for.
    kinds: BTreeMap<ResourceType, KindState>,
    nonces: u64,
}

impl Session {
    /// A new stream, to be served `snapshot`.
    #[must_use]
    pub const fn new(variant: Variant, snapshot: Arc<ResourceSnapshot>) -> Self {
        Self {
            variant,
            snapshot,
            kinds: BTreeMap::new(),
            nonces: 0,
        }
    }

    /// Replaces what is served. Snapshots that come between two pushes are skipped.
    pub fn set_snapshot(&mut self, snapshot: Arc<ResourceSnapshot>) {
        self.snapshot = snapshot;
    }

    /// The next response, if anything is to be sent and the node is not too far behind.
    pub fn next_push(&mut self) -> Option<Push> {
        if self.in_flight() >= MAX_IN_FLIGHT {
            return None;
        }
        for kind in ResourceType::PUSH_ORDER {
            if kind > ResourceType::Endpoint && self.awaits_answer(ResourceType::Cluster) {
                return None;
            }
            if let Some(push) = self.additions(kind) {
                return Some(push);
            }
        }
        if self.in_flight() > 0 {
            return None;
        }
        ResourceType::PUSH_ORDER
            .into_iter()
            .rev()
            .find_map(|kind| self.removals(kind))
    }

    fn awaits_answer(&self, kind: ResourceType) -> bool {
        self.kinds
            .get(&kind)
            .is_some_and(|state| state.in_flight() > 0)
    }

    /// Pushes that the node has not answered.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.kinds.values().map(KindState::in_flight).sum()
    }

    /// How each kind is doing, in push order.
    #[must_use]
    pub fn status(&self) -> Vec<KindStatus> {
        self.kinds
            .iter()
            .map(|(kind, state)| state.status(*kind, &self.snapshot.of(*kind)))
            .collect()
    }

    fn additions(&mut self, kind: ResourceType) -> Option<Push> {
        let named = self.snapshot.of(kind);
        let state = self.kinds.get_mut(&kind)?;
        let additions = state.additions(self.variant, kind, &named)?;
        for cluster in &additions.replaced {
            if kind == ResourceType::Cluster
                && let Some(endpoints) = self.kinds.get_mut(&ResourceType::Endpoint)
            {
                endpoints.forget(cluster);
            }
        }
        Some(self.push(kind, additions.resources, additions.absent))
    }

    fn removals(&mut self, kind: ResourceType) -> Option<Push> {
        let is_refused = |kind| {
            self.kinds
                .get(&kind)
                .is_some_and(|state: &KindState| state.is_refused())
        };
        let is_referred_to = matches!(kind, ResourceType::Cluster | ResourceType::Endpoint);
        if is_referred_to && (is_refused(ResourceType::Listener) || is_refused(ResourceType::Route))
        {
            return None;
        }
        let named = self.snapshot.of(kind);
        let state = self.kinds.get_mut(&kind)?;
        let removed = state.removals(&named);
        if removed.is_empty() {
            return None;
        }
        match self.variant {
            Variant::Delta => Some(self.push(kind, Vec::new(), removed)),
            Variant::Sotw if kind.is_full_state() => {
                let resources = state.wanted(&named).cloned().collect();
                Some(self.push(kind, resources, Vec::new()))
            }
            // Not being mentioned takes nothing away from the other kinds.
            Variant::Sotw => None,
        }
    }

    fn push(
        &mut self,
        kind: ResourceType,
        resources: Vec<Arc<Resource>>,
        removed: Vec<String>,
    ) -> Push {
        self.nonces += 1;
        let nonce = format!("{:x}", self.nonces);
        let mut version = String::new();
        if let Some(state) = self.kinds.get_mut(&kind) {
            version = state.held_version();
            state.sent(&nonce, &version);
        }
        Push {
            kind,
            nonce,
            version,
            resources,
            removed,
        }
    }

    /// The bound on what a node may make this side remember.
    fn check_size(&self) -> Result<(), TooManyNames> {
        let names: usize = self.kinds.values().map(KindState::names).sum();
        if names > MAX_NAMES {
            Err(TooManyNames)
        } else {
            Ok(())
        }
    }
}

/// What an answer meant.
fn heard(kind: ResourceType, answer: Answer) -> Heard {
    match answer {
        Answer::Accepted => Heard::Accepted(kind),
        Answer::Refused(reason) => Heard::Refused(kind, reason),
        Answer::Stale => Heard::Stale,
    }
}

/// Pushes that may be unanswered on one stream. A node that answers none of this many is stuck,
/// and would gain nothing from another.
const MAX_IN_FLIGHT: usize = 16;

/// Names that may be subscribed on one stream. Unit: count. A mesh of 10,000 services with three
/// subsets each stays below it.
pub const MAX_NAMES: usize = 50_000;

#[cfg(test)]
mod tests;
