// SPDX-License-Identifier: Apache-2.0
//! What a routed request is to undergo: its route, its cluster, its edits.
//!
//! Values only. The exchange makes a plan out of the route that it found; the attempts carry it
//! out. Nothing in a plan changes while the request runs.

use std::sync::Arc;

use remora_ir::ClusterSlot;
use remora_ir::action::{Forward, RetryPolicy, Target, WeightedCluster};
use remora_ir::header_edit::{HeaderEdits, MessageEdits};
use remora_ir::route::{PathMatch, Route, RouteTable, VirtualHost};

use crate::upstream::Cluster;

/// Where a request belongs.
#[derive(Clone, Debug)]
pub(super) struct Routed {
    pub(super) table: Arc<RouteTable>,
    pub(super) host: Arc<VirtualHost>,
    pub(super) route: Arc<Route>,
}

impl Routed {
    /// The edits of a request that goes to no cluster, or to the one that was chosen.
    pub(super) fn edits<'p>(&'p self, choice: Option<&'p MessageEdits>) -> Edits<'p> {
        Edits {
            table: &self.table,
            host: &self.host,
            route: &self.route,
            choice,
        }
    }
}

/// Everything the attempts need to know.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'p> {
    /// What the route asks.
    pub forward: &'p Forward,
    /// Where it goes.
    pub cluster: &'p Arc<Cluster>,
    /// The virtual host.
    pub host: &'p VirtualHost,
    /// What is tried again.
    pub retry: Option<&'p Arc<RetryPolicy>>,
    /// What is edited.
    pub edits: Edits<'p>,
}

/// The edits that hold for a request, at their four levels.
#[derive(Clone, Copy, Debug)]
pub struct Edits<'p> {
    table: &'p RouteTable,
    host: &'p VirtualHost,
    route: &'p Route,
    choice: Option<&'p MessageEdits>,
}

impl Edits<'_> {
    /// What the route's path rewrite replaces.
    pub(super) fn path(&self) -> &PathMatch {
        &self.route.matches.path
    }

    /// Visits the levels in the order in which they are applied: the most specific first, so that
    /// wider ones have the last word, or the other way round if the table says so.
    pub(super) fn each(
        &self,
        side: impl Fn(&MessageEdits) -> &HeaderEdits,
        mut apply: impl FnMut(&HeaderEdits),
    ) {
        let levels = [
            self.choice,
            Some(&self.route.edits),
            Some(&self.host.edits),
            Some(&self.table.edits),
        ];
        let mut visit = |level: &Option<&MessageEdits>| {
            if let Some(level) = level {
                apply(side(level));
            }
        };
        if self.table.most_specific_wins {
            levels.iter().rev().for_each(&mut visit);
        } else {
            levels.iter().for_each(&mut visit);
        }
    }
}

/// The cluster that a target chose for this request.
#[derive(Debug)]
pub(super) enum Choice<'t> {
    Only(&'t Arc<ClusterSlot>),
    Weighted(&'t WeightedCluster),
}

pub(super) fn choose(target: &Target, random: u64) -> Choice<'_> {
    match target {
        Target::Cluster(slot) => Choice::Only(slot),
        Target::Weighted(clusters) => match clusters.pick(random) {
            Some(cluster) => Choice::Weighted(cluster),
            // Not reached: the weights sum to more than zero, so every number picks one.
            None => Choice::Weighted(clusters.first()),
        },
    }
}

impl<'t> Choice<'t> {
    pub(super) const fn slot(&self) -> &'t Arc<ClusterSlot> {
        match self {
            Self::Only(slot) => slot,
            Self::Weighted(cluster) => &cluster.slot,
        }
    }

    pub(super) const fn edits(&self) -> Option<&'t MessageEdits> {
        match self {
            Self::Only(_) => None,
            Self::Weighted(cluster) => Some(&cluster.edits),
        }
    }
}
