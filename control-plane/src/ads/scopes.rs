// SPDX-License-Identifier: Apache-2.0
//! One compilation for all nodes of a scope.
//!
//! A keeper task owns the compiler and takes one thing at a time: a node that joins (its scope is
//! compiled if nobody else uses it), or a new model (every scope in use is compiled again). The
//! work itself runs on a blocking thread, so streams go on meanwhile. Each scope has a publisher;
//! its streams subscribe and skip whatever they were too slow for.
//!
//! Invariant: whoever joins sees a snapshot of the newest model, and every later one.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use remora_compile::{Compiler, ResourceSet, Scope};
use remora_model::Model;
use remora_rt::publish::{Publisher, Subscription};
use tokio::sync::{mpsc, oneshot};

use super::snapshot::ResourceSnapshot;
use crate::store::StoreReader;

/// Where streams join their scopes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scopes {
    joins: mpsc::Sender<Join>,
}

/// A stream's share in its scope: the snapshots, and the proof that somebody reads them.
#[derive(Debug)]
pub struct Membership {
    /// The snapshots of the scope.
    pub snapshots: Subscription<ResourceSnapshot>,
    _use: Arc<()>,
}

/// The keeper has ended: the control plane is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is shutting down")]
pub struct ShuttingDown;

impl Scopes {
    /// Makes the scopes of the store's models, and their keeper.
    pub fn new(store: StoreReader) -> (Self, Keeper) {
        let (joins, joining) = mpsc::channel(MAX_WAITING);
        let keeper = Keeper {
            model: store.model(),
            store,
            joining,
            compiler: Some(Compiler::default()),
            entries: HashMap::new(),
        };
        (Self { joins }, keeper)
    }

    /// Joins a scope. Waits for its compilation if it is the first of its kind.
    ///
    /// *Cancel safety*: safe; a membership that nobody receives is dropped.
    ///
    /// # Errors
    /// [`ShuttingDown`].
    pub async fn join(&self, scope: Scope) -> Result<Membership, ShuttingDown> {
        let (answer, joined) = oneshot::channel();
        self.joins
            .send(Join { scope, answer })
            .await
            .map_err(|_| ShuttingDown)?;
        joined.await.map_err(|_| ShuttingDown)
    }
}

/// The keeper's work, to be spawned by its owner.
#[derive(Debug)]
#[must_use = "nobody can join a scope unless the keeper runs"]
pub struct Keeper {
    store: StoreReader,
    /// What is served now.
    model: Arc<Model>,
    joining: mpsc::Receiver<Join>,
    /// Away while it works on a blocking thread.
    compiler: Option<Compiler>,
    entries: HashMap<Scope, Entry>,
}

#[derive(Debug)]
struct Join {
    scope: Scope,
    answer: oneshot::Sender<Membership>,
}

#[derive(Debug)]
struct Entry {
    publisher: Publisher<ResourceSnapshot>,
    /// Kept so that the compiler's memo knows what is in use.
    set: Arc<ResourceSet>,
    in_use: Weak<()>,
}

impl Keeper {
    /// Keeps the scopes until all [`Scopes`] are dropped or the store is gone. Nobody joins
    /// before the source was read once: an empty model would take everything from a node.
    pub async fn run(mut self) {
        let Some(model) = self.store.ready().await else {
            return;
        };
        self.model = model;
        loop {
            tokio::select! {
                biased; // a node that joins while a model waits is compiled once, not twice
                changed = self.store.changed() => {
                    let Some(model) = changed else { return };
                    self.model = model;
                    self.compile_all().await;
                }
                join = self.joining.recv() => {
                    let Some(Join { scope, answer }) = join else { return };
                    let membership = self.member(scope).await;
                    // The node may have left while it was compiled for.
                    let _ = answer.send(membership);
                }
            }
        }
    }

    async fn compile_all(&mut self) {
        self.entries
            .retain(|_, entry| entry.in_use.strong_count() > 0);
        let scopes: Vec<Scope> = self.entries.keys().cloned().collect();
        let revision = self.model.revision();
        for scope in scopes {
            let is_current = |entry: &Entry| entry.publisher.current().revision() == revision;
            if self.entries.get(&scope).is_some_and(is_current) {
                continue;
            }
            let set = self.compile(scope.clone()).await;
            let Some(entry) = self.entries.get_mut(&scope) else {
                continue;
            };
            let previous = entry.publisher.current();
            let snapshot = ResourceSnapshot::new(revision, &set, Some(&previous));
            entry.set = set;
            entry.publisher.publish(Arc::new(snapshot));
        }
        tracing::debug!(revision, scopes = self.entries.len(), "compiled");
    }

    async fn member(&mut self, scope: Scope) -> Membership {
        if let Some(entry) = self.entries.get_mut(&scope) {
            let in_use = entry.in_use.upgrade().unwrap_or_default();
            entry.in_use = Arc::downgrade(&in_use);
            return Membership {
                snapshots: entry.publisher.subscribe(),
                _use: in_use,
            };
        }
        let set = self.compile(scope.clone()).await;
        let revision = self.model.revision();
        let snapshot = Arc::new(ResourceSnapshot::new(revision, &set, None));
        let publisher = Publisher::new(snapshot);
        let in_use = Arc::new(());
        let membership = Membership {
            snapshots: publisher.subscribe(),
            _use: Arc::clone(&in_use),
        };
        self.entries.insert(
            scope,
            Entry {
                publisher,
                set,
                in_use: Arc::downgrade(&in_use),
            },
        );
        membership
    }

    async fn compile(&mut self, scope: Scope) -> Arc<ResourceSet> {
        let model = Arc::clone(&self.model);
        let mut compiler = self.compiler.take().unwrap_or_default();
        let work = tokio::task::spawn_blocking(move || {
            let set = compiler.compile(&model, &scope);
            (compiler, set)
        });
        match work.await {
            Ok((compiler, set)) => {
                self.compiler = Some(compiler);
                set
            }
            // The runtime is going down (the work never ran), or the compiler panicked: that is
            // a bug which must not be papered over by an empty configuration.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Nodes that may wait to join. More are held by their streams: a mesh that starts at once sends
/// all its nodes at once.
const MAX_WAITING: usize = 1024;
