// SPDX-License-Identifier: Apache-2.0
//! What the mesh tells about itself: metrics, logs, and the names of trace headers.
//!
//! [`Registry`] holds metrics that are described once and rendered twice, under Envoy's dotted
//! names and as Prometheus families; [`log`] sets up structured logs whose levels can change while
//! the process runs; [`trace_context`] names the headers that carry a trace. What is measured is
//! the business of the crates that measure it.
//!
//! **Invariant:** labels come from configuration, never from traffic, so the number of series is
//! bounded by the configuration that is alive.

mod histogram;
pub mod log;
mod name;
mod registry;
mod render;
pub mod trace_context;

pub use histogram::{Distribution, Histogram};
pub use name::ScopeKind;
pub use registry::{Counter, Gauge, GaugeHold, Registry, Scope, SharedCounter};
pub use render::{Sample, Used, Value};
