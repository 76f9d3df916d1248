// SPDX-License-Identifier: Apache-2.0
//! The process' budget of downstream connections.
//!
//! One atomic that all workers share: beyond the bound a connection is refused, never queued.
//! Source: `envoy.resource_monitors.global_downstream_max_connections`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use remora_ir::listener::Listener;

/// Counts connections against a bound.
#[derive(Clone, Debug)]
pub struct ConnectionBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: AtomicUsize,
    refused: AtomicUsize,
    most: usize,
    /// Budgets of listeners that have a bound of their own. Asked when a worker first meets a
    /// listener, never for a connection.
    listeners: Mutex<Vec<(Weak<Listener>, ConnectionBudget)>>,
}

/// One connection of the budget; it ends when dropped.
#[derive(Debug)]
#[must_use = "the connection is given back as soon as the guard is dropped"]
pub struct ConnectionGuard {
    shared: Arc<Shared>,
}

impl ConnectionBudget {
    /// A budget of `most` connections.
    pub fn new(most: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                open: AtomicUsize::new(0),
                refused: AtomicUsize::new(0),
                most,
                listeners: Mutex::default(),
            }),
        }
    }

    /// The budget of a listener that has a bound of its own; all workers get the same one.
    /// Source: `envoy.config.listener.v3.Listener` connection limits.
    pub fn of_listener(&self, listener: &Arc<Listener>) -> Option<Self> {
        let most = usize::try_from(listener.max_connections?.get()).unwrap_or(usize::MAX);
        let mut known = self
            .shared
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.retain(|(listener, _)| listener.strong_count() > 0);
        let is_it = |other: &Weak<Listener>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(listener));
        if let Some((_, budget)) = known.iter().find(|(other, _)| is_it(other)) {
            return Some(budget.clone());
        }
        let fresh = Self::new(most);
        known.push((Arc::downgrade(listener), fresh.clone()));
        Some(fresh)
    }

    /// Takes one, or says that there is none left; that is counted.
    pub fn try_take(&self) -> Option<ConnectionGuard> {
        let open = self.shared.open.fetch_add(1, Ordering::AcqRel);
        // The guard gives back what was added, also when it was one too many.
        let guard = ConnectionGuard {
            shared: Arc::clone(&self.shared),
        };
        if open < self.shared.most {
            return Some(guard);
        }
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Connections refused since the start.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_never_exceeded_and_what_ends_is_given_back() {
        let budget = ConnectionBudget::new(2);
        let (first, second) = (budget.try_take(), budget.try_take());
        assert!(first.is_some() && second.is_some());
        assert!(budget.try_take().is_none());
        assert_eq!((budget.open(), budget.refused()), (2, 1));
        drop(first);
        assert!(budget.try_take().is_some());
        drop(second);
        assert_eq!(budget.open(), 0);
    }
}
