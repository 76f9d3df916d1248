// SPDX-License-Identifier: Apache-2.0
//! Documents to objects: YAML or JSON text in, vendor objects with findings out.
//!
//! * [`yaml`]: text to trees of values with lines, within budgets;
//! * [`fields`]: typed access to such a tree, which reports what is wrong and what was never asked
//!   for;
//! * [`document`]: which kind of object a document is;
//! * [`kubernetes`], [`virtual_service`], [`destination_rule`], [`service_entry`]: the kinds;
//! * [`object`], [`values`]: what they are read into, and the small values they share.
//!
//! **Invariant:** nothing is dropped in silence: a field that no reader asks for is reported as
//! unknown, and one that is known but not implemented says so.

pub mod destination_rule;
pub mod document;
pub mod fields;
pub mod kubernetes;
pub mod object;
pub mod service_entry;
pub mod values;
pub mod virtual_service;
pub mod yaml;

pub use document::{FileContent, read_text};
pub use object::Object;
