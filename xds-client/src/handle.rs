// SPDX-License-Identifier: Apache-2.0
//! The consumer's end: what is wanted, and how it goes.
//!
//! Interest is kept as the state that is wanted, not as a queue of wishes, so that it costs the
//! same however long the control plane is away.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::session::Interest;
use crate::status::Status;

/// Says what is wanted. Clones speak for the same client; it ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    wanted: Arc<Wanted>,
    status: watch::Receiver<Status>,
    /// Its clones are counted to notice the end of the last handle.
    _alive: Arc<Alive>,
}

impl Handle {
    pub(crate) fn new(wanted: Arc<Wanted>, status: watch::Receiver<Status>) -> Self {
        let alive = Arc::new(Alive(Arc::clone(&wanted)));
        Self {
            wanted,
            status,
            _alive: alive,
        }
    }

    /// Adds to what is wanted of a type. Types are asked for in the order in which they are first
    /// named here; clusters should come first, then endpoints, listeners, routes.
    pub fn subscribe<N: Into<String>>(&self, type_url: &str, names: impl IntoIterator<Item = N>) {
        let names = names.into_iter().map(Into::into);
        self.wanted.change(type_url, |interest| interest.add(names));
    }

    /// Takes away from what is wanted of a type.
    pub fn unsubscribe<N: Into<String>>(&self, type_url: &str, names: impl IntoIterator<Item = N>) {
        let names = names.into_iter().map(Into::into);
        self.wanted
            .change(type_url, |interest| interest.remove(names));
    }

    /// Replaces what is wanted of a type.
    pub fn set_interest(&self, type_url: &str, interest: Interest) {
        self.wanted.change(type_url, |wanted| *wanted = interest);
    }

    /// How the connection is doing; changes are noticed by waiting on the receiver.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

/// The wanted interest of all types, shared with the driver.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    state: Mutex<WantedState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct WantedState {
    types: Vec<(String, Interest)>,
    /// Types that the driver has not seen in their present form.
    unseen: BTreeSet<usize>,
    is_abandoned: bool,
}

/// What the driver finds when it looks.
pub(crate) enum Wish {
    /// These types changed, in order of their first subscription.
    Changed(Vec<(String, Interest)>),
    /// All handles are gone.
    Abandoned,
}

impl Wanted {
    /// Waits for a change since the last look.
    ///
    /// *Cancel safety*: safe; nothing is taken before it is returned.
    pub(crate) async fn next(&self) -> Wish {
        loop {
            let changed = self.changed.notified();
            if let Some(wish) = self.take() {
                return wish;
            }
            changed.await;
        }
    }

    /// Waits until all handles are gone.
    ///
    /// *Cancel safety*: safe.
    pub(crate) async fn abandoned(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.lock().is_abandoned {
                return;
            }
            changed.await;
        }
    }

    /// What changed since the last look.
    pub(crate) fn take(&self) -> Option<Wish> {
        let mut state = self.lock();
        if state.is_abandoned {
            return Some(Wish::Abandoned);
        }
        if state.unseen.is_empty() {
            return None;
        }
        let unseen = std::mem::take(&mut state.unseen);
        let changed = unseen
            .iter()
            .filter_map(|index| state.types.get(*index).cloned());
        Some(Wish::Changed(changed.collect()))
    }

    fn change(&self, type_url: &str, edit: impl FnOnce(&mut Interest)) {
        let mut state = self.lock();
        let position = state.types.iter().position(|(known, _)| known == type_url);
        let index = position.unwrap_or(state.types.len());
        if position.is_none() {
            state.types.push((type_url.to_owned(), Interest::default()));
        }
        let Some((_, interest)) = state.types.get_mut(index) else {
            return;
        };
        let before = interest.clone();
        edit(interest);
        if *interest == before {
            return;
        }
        state.unseen.insert(index);
        drop(state);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, WantedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks the client as abandoned when the last handle goes.
#[derive(Debug)]
struct Alive(Arc<Wanted>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.lock().is_abandoned = true;
        self.0.changed.notify_waiters();
    }
}
