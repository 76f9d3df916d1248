// SPDX-License-Identifier: Apache-2.0
//! The proxy's whole configuration as immutable, indexed values, and pure look-ups on it.
//!
//! `translate` makes these values out of xDS resources; the proxy binds live state to them and
//! asks them on the request's road: which filter chain, which virtual host, which route, which
//! cluster. Everything that can be parsed, compiled or indexed is so when a value is made:
//! regexes are anchored, domains hashed, header names interned, clusters are slots.
//!
//! The crate does no I/O and reads no clock. **Invariant:** a look-up never fails for want of
//! validation; it answers *found*, *missing* or *unresolved* ([`Lookup`]).

pub mod access_log;
pub mod action;
pub mod cluster;
pub mod endpoint;
pub mod header_edit;
pub mod listener;
pub mod matcher;
mod name;
pub mod names;
pub mod route;
pub mod snapshot;

// Heads are made of these; whoever makes matchers, edits and formats needs no other crate.
pub use remora_http::{HeaderName, HeaderValue, StatusCode};

pub use name::{ClusterName, ClusterSlot, ListenerName, RouteName, SlotTable};
pub use snapshot::Snapshot;

/// The answer of a look-up by name or slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is here.
    Found(T),
    /// It does not exist; the caller answers at once (`NR`, `NC`).
    Missing,
    /// It is known to be fetchable and not here yet; the caller waits with a deadline. Nothing
    /// answers this today: on-demand configuration will.
    Unresolved,
}

impl<T> Lookup<T> {
    /// Turns an option into found or missing.
    pub fn from_option(found: Option<T>) -> Self {
        found.map_or(Self::Missing, Self::Found)
    }

    /// What was found, if anything was.
    pub fn found(self) -> Option<T> {
        match self {
            Self::Found(found) => Some(found),
            Self::Missing | Self::Unresolved => None,
        }
    }
}
