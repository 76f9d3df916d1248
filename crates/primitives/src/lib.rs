// SPDX-License-Identifier: Apache-2.0
//! Validated atoms that both halves of the mesh share: names, ports, shares and time.
//!
//! Every value here is checked once, when it is made; whoever holds one needs no check of its
//! own. The crate knows no protocol, no configuration format and no other crate of ours, and it
//! reads no clock: [`Instant`] is a value that the edges make and pass inwards.

mod host;
mod share;
mod time;

pub use host::{DomainPattern, HostName, NameError};
pub use share::{Fraction, Percent, ShareError, Weight};
pub use time::Instant;

/// A TCP or UDP port that can be dialled or bound by name; zero is never one.
pub type Port = std::num::NonZeroU16;
