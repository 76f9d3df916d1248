// SPDX-License-Identifier: Apache-2.0
//! Speaks the aggregated discovery service, delta and state of the world, and knows no resource's
//! meaning.
//!
//! It answers for subscriptions, versions, nonces, ACK and NACK, for reconnecting, and for never
//! growing or spinning whatever the control plane does. Resources pass through it as named,
//! versioned bytes; their consumer (the proxy's control thread) judges them and answers each
//! [`Update`] with a [`Verdict`].
//!
//! ```text
//!   Handle ──interest──▶ Driver ──Update──▶ Updates ──▶ consumer
//!                          ▲                               │
//!                          └───────────Verdict─────────────┘
//! ```
//!
//! [`session`] decides what to send and is free of I/O; the driver only moves messages between it
//! and a stream, and opens the next stream when one ends.
//!
//! Invariant: the version of a resource is remembered only when its consumer has accepted it, so
//! that after a reconnect the control plane resends exactly what is missing here.

mod client;
mod config;
mod handle;
mod nack;
pub mod session;
mod status;
mod update;
mod wire;

pub use client::{Driver, new};
pub use config::{AddressError, Config, Keepalive, Mode};
pub use handle::Handle;
pub use session::{Interest, RawResource, Rejection, Verdict};
pub use status::{Counters, State, Status};
pub use update::{Update, UpdateToken, Updates};
