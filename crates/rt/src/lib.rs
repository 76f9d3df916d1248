// SPDX-License-Identifier: Apache-2.0
//! What every program of the mesh needs from the machine below it: time, threads, sockets and
//! the means to change or end things while they are in use.
//!
//! The crate knows no protocol and no configuration. Its modules do not know each other, but for
//! [`clock`], which is the only reader of time in the project: the pure crates are handed the
//! instants that it makes.
//!
//! * [`clock`]: the present as a [`remora_primitives::Instant`], and back to runtime deadlines.
//! * [`backoff`]: exponential delays with full jitter.
//! * [`drain`]: two-stage shutdown, graceful then forced, with one deadline.
//! * [`publish`]: one atomic swap of an `Arc<T>` that each worker notices by itself.
//! * [`worker`]: threads with a runtime each, and how many the CPU quota allows.
//! * [`sockets`]: the owner of every listening descriptor.

pub mod backoff;
pub mod clock;
pub mod drain;
pub mod publish;
pub mod sockets;
pub mod worker;
