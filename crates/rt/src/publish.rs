// SPDX-License-Identifier: Apache-2.0
//! Atomic publication of an immutable value to many readers.
//!
//! A [`Publisher`] replaces an `Arc<T>` by one swap and counts generations. A [`Subscription`]
//! is one reader's handle (one per worker and value): it keeps its own clone of the `Arc`, and
//! asks with a single relaxed load whether a newer one exists, so a reader pays neither a lock
//! nor a shared reference count per use. Used for the proxy's snapshot, for each cluster's
//! endpoint cell, and for the control plane's model.
//!
//! Invariant: a reader sees whole values, in the order of publication, possibly skipping some;
//! the generation it reports is always that of the value it returns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

/// The writing end. Publishing from two threads is safe but has no order; each value is meant to
/// have one writer.
#[derive(Debug)]
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
}

/// The reading end, local to one thread. Clones start from the value this one last saw.
#[derive(Debug)]
pub struct Subscription<T> {
    shared: Arc<Shared<T>>,
    seen: Arc<Published<T>>,
}

/// The publisher is gone: the value that was seen last stays valid, no other will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the publisher of this value is gone")]
pub struct Closed;

impl<T> Publisher<T> {
    /// Publishes `initial` as generation 1.
    #[must_use]
    pub fn new(initial: Arc<T>) -> Self {
        let first = Published {
            generation: 1,
            value: initial,
        };
        let shared = Shared {
            generation: AtomicU64::new(first.generation),
            current: ArcSwap::from_pointee(first),
            writing: Mutex::new(()),
            changed: Notify::new(),
            is_closed: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Replaces the value and returns its generation.
    pub fn publish(&self, value: Arc<T>) -> u64 {
        let guard = self
            .shared
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let generation = self.shared.generation.load(Ordering::Relaxed) + 1;
        let replaced = self
            .shared
            .current
            .swap(Arc::new(Published { generation, value }));
        self.shared.generation.store(generation, Ordering::Release);
        drop(guard);
        self.shared.changed.notify_waiters();
        // The old value may be large; nobody waits for the lock while it is taken down.
        drop(replaced);
        generation
    }

    /// The value as of now.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.shared.current.load().value)
    }

    /// The generation as of now; grows by one with each publication.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// A new reader, which has already seen the present value.
    #[must_use]
    pub fn subscribe(&self) -> Subscription<T> {
        Subscription {
            shared: Arc::clone(&self.shared),
            seen: self.shared.current.load_full(),
        }
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.changed.notify_waiters();
    }
}

impl<T> Subscription<T> {
    /// The newest value. One relaxed load if nothing changed.
    pub fn current(&mut self) -> &Arc<T> {
        self.refresh();
        &self.seen.value
    }

    /// Adopts the newest value and says whether it is another one than before.
    pub fn refresh(&mut self) -> bool {
        if self.shared.generation.load(Ordering::Relaxed) <= self.seen.generation {
            return false;
        }
        // Pairs with the release store in `publish`: whoever saw the new count sees the value.
        fence(Ordering::Acquire);
        self.seen = self.shared.current.load_full();
        true
    }

    /// The value that was adopted last, without looking for a newer one.
    #[must_use]
    pub fn seen(&self) -> &Arc<T> {
        &self.seen.value
    }

    /// The generation of [`seen`](Self::seen).
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.seen.generation
    }

    /// Waits until there is a newer value than the one seen, and adopts it.
    ///
    /// *Cancel safety*: safe; a change that was not returned is found by the next call.
    ///
    /// # Errors
    /// [`Closed`] if the publisher is gone and no newer value is left.
    pub async fn changed(&mut self) -> Result<&Arc<T>, Closed> {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut notified = std::pin::pin!(shared.changed.notified());
            notified.as_mut().enable();
            let is_closed = shared.is_closed.load(Ordering::Acquire);
            if self.refresh() {
                return Ok(&self.seen.value);
            }
            if is_closed {
                return Err(Closed);
            }
            notified.await;
        }
    }
}

impl<T> Clone for Subscription<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            seen: Arc::clone(&self.seen),
        }
    }
}

#[derive(Debug)]
struct Published<T> {
    generation: u64,
    value: Arc<T>,
}

#[derive(Debug)]
struct Shared<T> {
    /// Equal to the generation of `current`, or one behind it for a moment.
    generation: AtomicU64,
    current: ArcSwap<Published<T>>,
    /// Serialises writers; readers never take it.
    writing: Mutex<()>,
    changed: Notify,
    is_closed: AtomicBool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_adopts_the_newest_value_and_its_generation() {
        let publisher = Publisher::new(Arc::new(10));
        let mut reader = publisher.subscribe();
        assert_eq!((**reader.current(), reader.generation()), (10, 1));
        publisher.publish(Arc::new(20));
        assert_eq!(publisher.publish(Arc::new(30)), 3);
        assert_eq!((**reader.seen(), reader.generation()), (10, 1));
        assert_eq!((**reader.current(), reader.generation()), (30, 3));
        assert!(!reader.refresh());
    }

    #[test]
    fn an_unchanged_value_is_the_same_allocation() {
        let publisher = Publisher::new(Arc::new(String::from("snapshot")));
        let mut reader = publisher.subscribe();
        let first = Arc::clone(reader.current());
        assert!(Arc::ptr_eq(&first, reader.current()));
        assert!(Arc::ptr_eq(&first, &publisher.current()));
    }

    #[tokio::test]
    async fn changed_returns_for_a_publication_made_before_the_wait() {
        let publisher = Publisher::new(Arc::new(1));
        let mut reader = publisher.subscribe();
        publisher.publish(Arc::new(2));
        assert_eq!(reader.changed().await.map(|value| **value), Ok(2));
        drop(publisher);
        assert_eq!(reader.changed().await.map(|value| **value), Err(Closed));
        assert_eq!(**reader.current(), 2);
    }

    #[tokio::test]
    async fn the_last_value_before_the_end_is_still_delivered() {
        let publisher = Publisher::new(Arc::new(1));
        let mut reader = publisher.subscribe();
        publisher.publish(Arc::new(2));
        drop(publisher);
        assert_eq!(reader.changed().await.map(|value| **value), Ok(2));
        assert_eq!(reader.changed().await.map(|value| **value), Err(Closed));
    }

    #[test]
    fn readers_on_other_threads_see_generations_in_order() {
        let publisher = Publisher::new(Arc::new(1_u64));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let mut reader = publisher.subscribe();
                scope.spawn(move || {
                    let mut last = 0;
                    while last < 20_000 {
                        let value = **reader.current();
                        assert!(value >= last, "went back from {last} to {value}");
                        assert_eq!(value, reader.generation());
                        last = value;
                    }
                });
            }
            for value in 2..=20_000 {
                assert_eq!(publisher.publish(Arc::new(value)), value);
            }
        });
    }
}
