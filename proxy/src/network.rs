// SPDX-License-Identifier: Apache-2.0
//! Network filters: what is done with a connection's bytes when they are not read as HTTP.
//!
//! [`dial`] finds and connects to a host within the limits; [`tcp`] is the TCP proxy, from the
//! chosen chain to the log line; [`relay`] moves bytes between two streams, for it and for
//! upgraded HTTP connections.

pub mod dial;
pub mod relay;
mod stats;
pub mod tcp;

pub use stats::TcpStats;
