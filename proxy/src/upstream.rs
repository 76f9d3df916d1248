// SPDX-License-Identifier: Apache-2.0
//! The road to an upstream: cluster, host, connection, exchange.
//!
//! ```text
//!   cluster (live policy and hosts) ──pick──▶ host ──lease──▶ Lease (HTTP)
//!                                                └──connect──▶ stream and guard (TCP)
//! ```
//!
//! Everything runs on a worker's thread with the worker's own [`Local`]; workers share host
//! records and limits, which are atomics. Mirrors and probes travel the same road as requests.
//! What a request means, whether it is tried again and how a failure is answered is decided in
//! `http` and `network`.
//!
//! Invariant: whatever is taken on this road is a guard; when nothing is under way and no
//! connection is open, every count is zero.

mod cluster;
mod connect;
mod error;
mod guard;
mod lease;
mod local;
mod pick;
mod pool;
mod stats;
mod waiting;

pub use cluster::Cluster;
pub use error::{BadRequest, Failure, Fault, Origin, RetryClass, Sent, UpstreamError};
pub use guard::ConnectionGuard;
pub use lease::{
    Lease, LeaseRequest, Protocol, Reader, RequestStart, Reuse, Tunnelled, Writer, adopt, connect,
    lease,
};
pub use local::Local;
pub use pick::{PickRequest, hostname, pick};
pub use pool::Pools;
pub use stats::ClusterStats;

#[cfg(test)]
mod tests;
