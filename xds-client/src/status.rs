// SPDX-License-Identifier: Apache-2.0
//! How the connection to the control plane is doing, for logs and the admin page.

use std::sync::Arc;

use remora_rt::clock::Instant;

/// The state of the client and what it has counted since its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why the last stream or attempt ended; kept until the next one ends.
    pub last_error: Option<Arc<str>>,
    /// What was counted.
    pub counters: Counters,
}

/// What the client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A connection is being made.
    Connecting,
    /// The last attempt failed; the next one is made at `until`.
    Waiting {
        /// When the next attempt is made.
        until: Instant,
    },
    /// A stream is open.
    Connected,
}

/// Counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams that were opened.
    pub streams: u64,
    /// Attempts and streams that ended.
    pub failures: u64,
    /// Updates handed to the consumer.
    pub updates: u64,
    /// Updates that were refused, wholly or in part.
    pub rejected: u64,
    /// Responses about types that nobody asked for.
    pub ignored: u64,
}
