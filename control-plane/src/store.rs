// SPDX-License-Identifier: Apache-2.0
//! The store: the one writer of the model.
//!
//! It takes snapshots from the source, builds an immutable [`Model`] with a revision and publishes
//! it to all who hold a [`StoreReader`]. Called by the control plane's start-up; read by the ADS
//! server and by `remora status`.
//!
//! ```text
//!   snapshot ──► same as published ──────► findings only, no new revision
//!            ──► first, or endpoints only ► published at once
//!            ──► anything else ──► waits for QUIET without news, at most LONGEST ──► published
//! ```
//!
//! **Invariants:** revisions rise by one with each published model; nothing is published before
//! the source was read once, and nothing if nothing changed; endpoint changes wait for nobody.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use remora_model::Model;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::source::{Finding, Severity, SourceSnapshot};

/// How long there must be no news before rules and services are published: an editor that saves
/// several files, a checkout, an unpacked archive.
const QUIET: Duration = Duration::from_millis(10);
/// How long they wait at most, when news never ends.
const LONGEST: Duration = Duration::from_millis(100);

/// What the store holds, for `remora status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// The revision that is served; 0 before the source was read.
    pub revision: u64,
    /// How many services are served.
    pub services: usize,
    /// How many endpoints they have together.
    pub endpoints: usize,
    /// How many route rules are served.
    pub routes: usize,
    /// How many destination policies are served.
    pub policies: usize,
    /// How many findings are errors.
    pub errors: usize,
    /// How many findings are warnings.
    pub warnings: usize,
    /// What is wrong with the source's objects now, whether or not it is served.
    pub findings: Vec<Finding>,
}

/// The writing side: a task's worth of state.
#[derive(Debug)]
pub struct Store {
    snapshots: mpsc::Receiver<SourceSnapshot>,
    models: watch::Sender<Arc<Model>>,
    status: watch::Sender<Arc<StoreStatus>>,
    waiting: Option<Waiting>,
}

/// A snapshot that is held back.
#[derive(Debug)]
struct Waiting {
    snapshot: SourceSnapshot,
    since: Instant,
    latest: Instant,
}

impl Waiting {
    fn due(&self) -> Instant {
        (self.latest + QUIET).min(self.since + LONGEST)
    }
}

/// The reading side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StoreReader {
    models: watch::Receiver<Arc<Model>>,
    status: watch::Receiver<Arc<StoreStatus>>,
}

impl Store {
    /// Makes a store: the end that a source sends to, the store to be run, and a reader.
    #[must_use]
    pub fn new() -> (mpsc::Sender<SourceSnapshot>, Self, StoreReader) {
        let (sender, snapshots) = mpsc::channel(4);
        let (models, model_reader) = watch::channel(Arc::default());
        let (status, status_reader) = watch::channel(Arc::default());
        let reader = StoreReader {
            models: model_reader,
            status: status_reader,
        };
        (
            sender,
            Self {
                snapshots,
                models,
                status,
                waiting: None,
            },
            reader,
        )
    }

    /// Takes snapshots and publishes models until the source's end is dropped; what was held
    /// back then is published.
    ///
    /// Cancel safety: may be dropped at any await; what was held back is lost.
    pub async fn run(mut self) {
        loop {
            let due = self.waiting.as_ref().map(Waiting::due);
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The timer first: a source that never rests must not put it off for ever.
                biased;
                () = timer => self.publish_waiting(),
                snapshot = self.snapshots.recv() => match snapshot {
                    Some(snapshot) => self.take(snapshot, Instant::now()),
                    None => {
                        self.publish_waiting();
                        return;
                    }
                },
            }
        }
    }

    fn take(&mut self, snapshot: SourceSnapshot, now: Instant) {
        let model = Arc::clone(&self.models.borrow());
        let urgent = model.revision() == 0 || model.parts().same_but_endpoints(&snapshot.parts);
        if urgent {
            self.waiting = None;
            self.publish(snapshot);
            return;
        }
        let since = self.waiting.as_ref().map_or(now, |waiting| waiting.since);
        self.waiting = Some(Waiting {
            snapshot,
            since,
            latest: now,
        });
    }

    fn publish_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.publish(waiting.snapshot);
        }
    }

    fn publish(&self, snapshot: SourceSnapshot) {
        let SourceSnapshot { parts, findings } = snapshot;
        let current = Arc::clone(&self.models.borrow());
        if current.revision() == 0 || *current.parts() != parts {
            let model = Arc::new(Model::new(current.revision() + 1, parts, Some(&current)));
            tracing::info!(revision = model.revision(), "model published");
            self.models.send_replace(model);
        }
        self.publish_status(findings);
    }

    fn publish_status(&self, findings: Vec<Finding>) {
        let status = Arc::clone(&self.status.borrow());
        let known: HashSet<_> = status.findings.iter().collect();
        for finding in findings.iter().filter(|finding| !known.contains(finding)) {
            match finding.severity {
                Severity::Error => tracing::error!("{finding}"),
                Severity::Warning => tracing::warn!("{finding}"),
            }
        }
        let status = StoreStatus::new(&self.models.borrow(), findings);
        self.status.send_if_modified(|old| {
            let differs = **old != status;
            *old = Arc::new(status);
            differs
        });
    }
}

impl StoreStatus {
    fn new(model: &Model, findings: Vec<Finding>) -> Self {
        let errors = findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .count();
        Self {
            revision: model.revision(),
            services: model.services().len(),
            endpoints: model
                .parts()
                .endpoints
                .values()
                .map(|list| list.len())
                .sum(),
            routes: model.routes().len(),
            policies: model.policies().len(),
            errors,
            warnings: findings.len() - errors,
            findings,
        }
    }
}

impl StoreReader {
    /// The model that is served; revision 0 (empty) before the source was read.
    #[must_use]
    pub fn model(&self) -> Arc<Model> {
        Arc::clone(&self.models.borrow())
    }

    /// The findings and counts as they are now.
    #[must_use]
    pub fn status(&self) -> Arc<StoreStatus> {
        Arc::clone(&self.status.borrow())
    }

    /// Waits for a model that this reader has not seen; `None` if the store is gone.
    ///
    /// Cancel safe: a model that was not returned counts as not seen.
    pub async fn changed(&mut self) -> Option<Arc<Model>> {
        self.models.changed().await.ok()?;
        Some(Arc::clone(&self.models.borrow_and_update()))
    }

    /// Waits until the source was read once; `None` if the store is gone before.
    pub async fn ready(&mut self) -> Option<Arc<Model>> {
        let ready = self
            .models
            .wait_for(|model| model.revision() > 0)
            .await
            .ok()?;
        Some(Arc::clone(&ready))
    }
}

#[cfg(test)]
mod tests;
