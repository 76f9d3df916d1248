// SPDX-License-Identifier: Apache-2.0
//! What the control thread gives the workers, and what all threads of the process share.
//!
//! [`Live`] is the configuration in use: an immutable snapshot with the live clusters and the
//! listening sockets bound to it, published whole, with one swap. [`Shared`] is made once, at the
//! start, and outlives every configuration. A [`Seat`] is what a worker thread is started with.
//! Nobody here decides anything: `control` writes, the workers read.
//!
//! Invariant: in a published [`Live`], every cluster of the snapshot has its live half, at the
//! index of its slot, and every address that a listener binds has its sockets or was reported as
//! impossible to bind.

mod connections;
mod readiness;
mod sockets;

use std::sync::Arc;
use std::time::SystemTime;

use remora_balance::HostRegistry;
use remora_ir::listener::Direction;
use remora_ir::{ClusterSlot, Lookup, Snapshot};
use remora_primitives::Instant;
use remora_rt::drain::{Drain, Watch};
use remora_rt::publish::Subscription;
use remora_telemetry::Registry;
use remora_telemetry::log::LogControl;

use crate::upstream::Cluster;

pub use connections::{ConnectionBudget, ConnectionGuard};
pub use readiness::{Phase, Readiness};
pub(crate) use sockets::share_out;
pub use sockets::{AcceptSockets, DnsSockets, SocketTable};

/// The configuration in use.
#[derive(Debug, Default)]
pub struct Live {
    /// The configuration itself; its generation is that of the publication.
    pub snapshot: Arc<Snapshot>,
    clusters: Box<[Option<Arc<Cluster>>]>,
    sockets: SocketTable,
}

impl Live {
    /// Binds live clusters and sockets to a snapshot. Clusters that the snapshot does not have
    /// are dropped.
    pub fn new(
        snapshot: Arc<Snapshot>,
        clusters: impl IntoIterator<Item = Arc<Cluster>>,
        sockets: SocketTable,
    ) -> Self {
        let mut table = vec![None; snapshot.clusters.slots()];
        for cluster in clusters {
            if let Some(place) = table.get_mut(cluster.policy().slot.index()) {
                *place = Some(cluster);
            }
        }
        Self {
            snapshot,
            clusters: table.into_boxed_slice(),
            sockets,
        }
    }

    /// The live cluster of a slot. One index, no hash.
    pub fn cluster(&self, slot: &ClusterSlot) -> Lookup<&Arc<Cluster>> {
        Lookup::from_option(self.clusters.get(slot.index()).and_then(Option::as_ref))
    }

    /// All live clusters, by slot.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter().flatten()
    }

    /// The sockets of the addresses that listeners bind.
    pub const fn sockets(&self) -> &SocketTable {
        &self.sockets
    }
}

/// One for the process: what outlives every configuration.
#[derive(Debug)]
pub struct Shared {
    /// Who this proxy is.
    pub identity: Identity,
    /// All metrics.
    pub metrics: Arc<Registry>,
    /// Live state of clusters and hosts, kept over updates.
    pub hosts: HostRegistry,
    /// The two drains of the process.
    pub drains: Drains,
    /// Whether traffic should be sent here.
    pub readiness: Readiness,
    /// Bounds the downstream connections of the process.
    pub connections: ConnectionBudget,
    /// Changes the log levels; none where a test runs without logs.
    pub log: Option<LogControl>,
    /// Where requests and connections are logged.
    pub access_log: AccessLogRule,
    /// When the process started.
    pub started: Started,
}

#[cfg(test)]
impl Shared {
    /// A process of its own, without logs.
    pub(crate) fn for_tests() -> Arc<Self> {
        Arc::new(Self {
            identity: Identity::default(),
            metrics: Arc::new(Registry::new()),
            hosts: HostRegistry::new(),
            drains: Drains::new(),
            readiness: Readiness::default(),
            connections: ConnectionBudget::new(1000),
            log: None,
            access_log: AccessLogRule::AsConfigured,
            started: Started {
                at: remora_rt::clock::now(),
                wall: SystemTime::now(),
            },
        })
    }
}

/// Who this proxy is, as the control plane and the logs see it. Source: `bootstrap.node`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `node.id`.
    pub node_id: Arc<str>,
    /// `node.cluster`.
    pub cluster: Arc<str>,
    /// The namespace of the workload; empty if unknown. Source: `node.metadata.NAMESPACE`, or
    /// the third part of a sidecar's node id.
    pub namespace: Arc<str>,
}

/// What the command line says about access logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogRule {
    /// Nothing: each listener logs as its configuration says.
    #[default]
    AsConfigured,
    /// Nothing is logged.
    Off,
    /// What the configuration logs goes to this path, whichever it names.
    To(Arc<str>),
}

/// One moment on two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// For durations.
    pub at: Instant,
    /// For people.
    pub wall: SystemTime,
}

/// The drains of the process. Inbound ends first: while requests of others finish, the workload
/// still needs its own way out.
#[derive(Debug)]
pub struct Drains {
    /// Traffic to the workload.
    pub inbound: Drain,
    /// Everything else.
    pub outbound: Drain,
}

impl Drains {
    /// Both in their open stage.
    pub fn new() -> Self {
        Self {
            inbound: Drain::new().0,
            outbound: Drain::new().0,
        }
    }

    /// A watch on the drain that ends the connections of a direction.
    pub fn watch(&self, direction: Direction) -> Watch {
        match direction {
            Direction::Inbound => self.inbound.watch(),
            Direction::Outbound | Direction::Unspecified => self.outbound.watch(),
        }
    }
}

impl Default for Drains {
    fn default() -> Self {
        Self::new()
    }
}

/// What a worker thread is started with.
#[derive(Debug)]
pub struct Seat {
    /// Which worker, from zero.
    pub index: usize,
    /// The configuration in use.
    pub live: Subscription<Live>,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// This worker's share of the DNS sockets, if DNS is served.
    pub dns: Option<DnsSockets>,
    /// Its forced stage ends the worker.
    pub stop: Watch,
}
