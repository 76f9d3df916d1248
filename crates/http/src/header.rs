// SPDX-License-Identifier: Apache-2.0
//! Header fields: interned names, checked values, and the ordered list that messages carry.
//!
//! `known` is the table of names that are compared by number; `name` and `value` are the checked
//! atoms; `map` is the list. Nothing here knows what a field means: see [`crate::h1`] for framing
//! and [`crate::strip_hop_by_hop`] for connection fields.

mod known;
mod map;
mod name;
mod value;

pub use map::HeaderMap;
pub use name::{BadName, HeaderName};
pub use value::{BadValue, HeaderValue};

pub(crate) use known::Known;
pub(crate) use map::{Field, Spelling};
