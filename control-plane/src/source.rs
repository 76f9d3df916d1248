// SPDX-License-Identifier: Apache-2.0
//! Sources: where the mesh's objects are written, and how they become the model's values.
//!
//! * [`finding`]: what is wrong with an object, said to the person who wrote it;
//! * [`manifest`]: one document (YAML or JSON) to one object, with lines and field paths;
//! * [`assemble`]: all objects together to the parts of a model: endpoints found, addresses
//!   given, references checked;
//! * [`mod@file`]: a folder that is read and watched.
//!
//! Vendor formats end here: the store sees [`SourceSnapshot`]s only. **Invariant:** a source
//! answers for its whole content in every snapshot, and what it cannot read leaves its last good
//! content in place.

pub mod assemble;
pub mod file;
pub mod finding;
pub mod manifest;

pub use finding::{Finding, Severity};

use remora_model::ModelParts;

/// All that a source has at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceSnapshot {
    /// What is to be served.
    pub parts: ModelParts,
    /// What is wrong, sorted by place.
    pub findings: Vec<Finding>,
}
