// SPDX-License-Identifier: Apache-2.0
//! All objects together to the parts of a model.
//!
//! Here is what no object can know alone: which pods serve a service (`endpoints`), which
//! address a service gets ([`addresses`]), which of two rules for one host counts and whether
//! what a rule names exists (`rules`). Pure: the same objects in the same order give the same
//! parts on every replica.
//!
//! **Invariant:** where two objects claim the same thing the first in order wins, and the other
//! one's finding names both places.

pub mod addresses;
mod endpoints;
mod rules;
mod services;

use std::collections::HashMap;
use std::sync::Arc;

use remora_model::{ModelParts, ObjectRef};

use super::SourceSnapshot;
use super::finding::{Finding, Severity};
use super::manifest::Object;
use super::manifest::object::Place;

/// Puts objects together, in the order in which ties are decided.
#[must_use]
pub fn assemble(objects: &[Arc<Object>], domain: &str) -> SourceSnapshot {
    let mut findings = Vec::new();
    let objects = without_duplicates(objects, &mut findings);
    let drafts = services::draft(&objects, &mut findings);
    let (services, endpoints) = services::finish(drafts, &mut findings);
    let mut parts = ModelParts {
        services,
        endpoints,
        routes: rules::routes(&objects, &mut findings),
        policies: rules::policies(&objects, &mut findings),
        workloads: endpoints::workloads(&objects),
    };
    rules::check_references(&mut parts, &objects, domain, &mut findings);
    SourceSnapshot { parts, findings }
}

/// Keeps the first of the objects of each kind, namespace and name.
fn without_duplicates<'a>(
    objects: &'a [Arc<Object>],
    findings: &mut Vec<Finding>,
) -> Vec<&'a Object> {
    let mut first: HashMap<&ObjectRef, &ObjectRef> = HashMap::new();
    let mut kept = Vec::with_capacity(objects.len());
    for object in objects {
        let origin = object.origin();
        match first.get(origin) {
            None => {
                first.insert(origin, origin);
                kept.push(&**object);
            }
            Some(other) => findings.push(about(
                Severity::Error,
                origin,
                None,
                format!(
                    "defined already at {}:{}: this one has no effect",
                    other.file, other.line
                ),
            )),
        }
    }
    kept
}

/// A finding about an object, at a place of it or as a whole.
fn about(severity: Severity, origin: &ObjectRef, at: Option<&Place>, reason: String) -> Finding {
    Finding {
        file: origin.file.to_string(),
        line: at.map_or(origin.line, |place| place.line),
        severity,
        object: origin.to_string(),
        field: at.map_or_else(String::new, |place| place.path.clone()),
        reason,
    }
}

#[cfg(test)]
mod tests;
