// SPDX-License-Identifier: Apache-2.0
//! Serves each node the resources of its scope over the aggregated discovery service.
//!
//! * [`snapshot`]: what the control plane serves to one node, immutable;
//! * [`session`]: what to send next on one stream; free of I/O;
//! * [`node`]: who asks, and the scope that follows from it;
//! * [`scopes`]: one compilation for all nodes of a scope;
//! * [`server`]: the gRPC shell, both variants of the protocol;
//! * [`registry`], [`status_page`]: who is connected and how well, for `remora status`.
//!
//! Invariant: a stream holds the newest snapshot and the difference to what its peer has, never a
//! queue of messages; so a slow node costs what a quick one costs and skips what it slept through.

pub mod node;
pub mod registry;
pub mod scopes;
pub mod server;
pub mod session;
pub mod snapshot;
pub mod status_page;
mod stream;
