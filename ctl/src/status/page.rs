// SPDX-License-Identifier: Apache-2.0
//! The form of `GET /status`, as it is read here.
//!
//! The control plane writes it and may be older or newer than this program: what is missing reads
//! as nothing, what is unknown is passed over. A test holds it against what the library writes.

use serde::Deserialize;

/// The whole page.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    pub(super) version: String,
    pub(super) source: Source,
    #[serde(default)]
    pub(super) nodes: Vec<Node>,
}

/// What was read, and what is wrong with it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Source {
    pub(super) revision: u64,
    pub(super) services: usize,
    pub(super) endpoints: usize,
    pub(super) routes: usize,
    pub(super) policies: usize,
    pub(super) errors: usize,
    pub(super) warnings: usize,
    pub(super) findings: Vec<Finding>,
}

/// One fault of one object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Finding {
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) severity: String,
    pub(super) object: String,
    pub(super) field: String,
    pub(super) reason: String,
}

/// One connected proxy.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) agent: String,
    pub(super) peer: Option<String>,
    pub(super) variant: String,
    /// Unit: seconds.
    pub(super) connected_for: f64,
    /// Unit: seconds.
    pub(super) last_push_ago: Option<f64>,
    pub(super) revision: u64,
    pub(super) is_synced: bool,
    pub(super) last_refusal: Option<String>,
    /// Unit: seconds.
    pub(super) last_refusal_ago: Option<f64>,
    pub(super) kinds: Vec<Kind>,
}

/// How one kind of resource is doing on one stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Kind {
    pub(super) kind: String,
    pub(super) held: usize,
    pub(super) accepted_version: String,
    pub(super) in_flight: usize,
    pub(super) refusal: Option<String>,
}
