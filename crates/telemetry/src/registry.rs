// SPDX-License-Identifier: Apache-2.0
//! Where metrics are registered and found for reading.
//!
//! A name has one family; each registration gives a handle with a cell of its own, written by one
//! thread without locked instructions. Reading sums the cells. A handle that goes leaves its cell
//! to the family: the count stays, and the next handle counts on in it, so that replacing a
//! cluster's handles (new ones first, then the old ones go) never makes a counter fall. A family
//! whose last handle is gone is forgotten, so that clusters may come and go for years.
//!
//! Register on the thread that will write: cells of one thread then lie together in memory, and
//! apart from those of others.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::histogram::{self, Distribution, Histogram, add};
use crate::name::{MetricName, ScopeKind, scope_name};

/// All metrics of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Tables>>);

#[derive(Debug, Default)]
struct Tables {
    counters: Table<Family<AtomicU64>>,
    gauges: Table<AtomicI64>,
    histograms: Table<Family<histogram::Cell>>,
}

/// Present values by name.
#[derive(Debug)]
pub(crate) struct Readings {
    pub(crate) counters: Vec<(MetricName, u64)>,
    pub(crate) gauges: Vec<(MetricName, i64)>,
    pub(crate) histograms: Vec<(MetricName, Distribution)>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where metrics of one thing are registered, such as of one cluster.
    #[must_use]
    pub fn scope(&self, kind: ScopeKind, name: &str) -> Scope {
        Scope {
            registry: self.clone(),
            kind,
            name: scope_name(name),
        }
    }

    /// All metrics with their present values, by name.
    pub(crate) fn read(&self) -> Readings {
        let mut tables = self.lock();
        let (counters, gauges) = (tables.counters.live(), tables.gauges.live());
        let histograms = tables.histograms.live();
        drop(tables);
        let sum = |family: &Family<AtomicU64>| {
            family
                .lock()
                .cells
                .iter()
                .map(|cell| cell.load(Relaxed))
                .fold(0, u64::wrapping_add)
        };
        Readings {
            counters: counters
                .into_iter()
                .map(|(name, family)| (name, sum(&family)))
                .collect(),
            gauges: gauges
                .into_iter()
                .map(|(name, value)| (name, value.load(Relaxed)))
                .collect(),
            histograms: histograms
                .into_iter()
                .map(|(name, family)| (name, Distribution::merge(&family.lock().cells)))
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name's first part with its registry.
#[derive(Clone, Debug)]
pub struct Scope {
    registry: Registry,
    kind: ScopeKind,
    name: Arc<str>,
}

impl Scope {
    /// A counter for one thread to write.
    #[must_use]
    pub fn counter(&self, name: impl Into<Cow<'static, str>>) -> Counter {
        let name = self.metric(name);
        let family = self.registry.lock().counters.find_or_insert(name);
        Counter {
            owned: Owned::new(family),
            one_thread: PhantomData,
        }
    }

    /// A counter for many threads.
    #[must_use]
    pub fn shared_counter(&self, name: impl Into<Cow<'static, str>>) -> SharedCounter {
        let name = self.metric(name);
        let family = self.registry.lock().counters.find_or_insert(name);
        SharedCounter(Arc::new(Owned::new(family)))
    }

    /// A gauge; all handles of a name share one value.
    #[must_use]
    pub fn gauge(&self, name: impl Into<Cow<'static, str>>) -> Gauge {
        let name = self.metric(name);
        Gauge(self.registry.lock().gauges.find_or_insert(name))
    }

    /// A histogram of durations for one thread to write.
    #[must_use]
    pub fn histogram(&self, name: impl Into<Cow<'static, str>>) -> Histogram {
        let name = self.metric(name);
        let family = self.registry.lock().histograms.find_or_insert(name);
        Histogram {
            owned: Owned::new(family),
            one_thread: PhantomData,
        }
    }

    fn metric(&self, own: impl Into<Cow<'static, str>>) -> MetricName {
        MetricName {
            kind: self.kind,
            scope: Arc::clone(&self.name),
            own: own.into(),
        }
    }
}

/// A counter that one thread writes: it can be sent to a thread, not shared between two.
///
/// ```compile_fail,E0277
/// fn shared_between_threads<T: Sync>() {}
/// shared_between_threads::<remora_telemetry::Counter>();
/// ```
#[derive(Debug)]
pub struct Counter {
    owned: Owned<AtomicU64>,
    one_thread: OneThread,
}

/// Makes a handle `!Sync`: its cell is written without locked instructions.
pub(crate) type OneThread = PhantomData<Cell<()>>;

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds a number.
    pub fn add(&self, by: u64) {
        add(&self.owned.cell, by);
    }
}

/// A counter that any thread may write. Clones count together.
#[derive(Clone, Debug)]
pub struct SharedCounter(Arc<Owned<AtomicU64>>);

impl SharedCounter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds a number.
    pub fn add(&self, by: u64) {
        self.0.cell.fetch_add(by, Relaxed);
    }
}

/// A value that goes up and down, for any thread.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Adds a number.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Relaxed);
    }

    /// Takes a number away.
    pub fn subtract(&self, by: i64) {
        self.0.fetch_sub(by, Relaxed);
    }

    /// Sets the value; for gauges that one place computes.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Adds one until the guard is dropped.
    pub fn hold(&self) -> GaugeHold {
        self.add(1);
        GaugeHold(self.clone())
    }
}

/// One unit of a gauge, taken away when dropped.
#[derive(Debug)]
#[must_use = "the gauge falls when this is dropped"]
pub struct GaugeHold(Gauge);

impl Drop for GaugeHold {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

/// All cells of one name.
#[derive(Debug)]
pub(crate) struct Family<C>(Mutex<Cells<C>>);

#[derive(Debug)]
struct Cells<C> {
    cells: Vec<Arc<C>>,
    /// Those that no handle writes now.
    free: Vec<Arc<C>>,
}

impl<C> Default for Family<C> {
    fn default() -> Self {
        Self(Mutex::new(Cells {
            cells: Vec::new(),
            free: Vec::new(),
        }))
    }
}

impl<C> Family<C> {
    fn lock(&self) -> MutexGuard<'_, Cells<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sole right to write a cell; given back when dropped.
#[derive(Debug)]
pub(crate) struct Owned<C> {
    pub(crate) cell: Arc<C>,
    family: Arc<Family<C>>,
}

impl<C: Default> Owned<C> {
    fn new(family: Arc<Family<C>>) -> Self {
        let mut cells = family.lock();
        let cell = cells.free.pop().unwrap_or_else(|| {
            let fresh = Arc::<C>::default();
            cells.cells.push(Arc::clone(&fresh));
            fresh
        });
        drop(cells);
        Self { cell, family }
    }
}

impl<C> Drop for Owned<C> {
    fn drop(&mut self) {
        self.family.lock().free.push(Arc::clone(&self.cell));
    }
}

/// Families by name, held by their handles. Dead entries are swept when the table has doubled
/// since the last sweep, and whenever it is read.
#[derive(Debug)]
struct Table<F> {
    by_name: BTreeMap<MetricName, Weak<F>>,
    sweep_at: usize,
}

impl<F> Default for Table<F> {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            sweep_at: SMALLEST_SWEEP,
        }
    }
}

impl<F: Default> Table<F> {
    fn find_or_insert(&mut self, name: MetricName) -> Arc<F> {
        if let Some(found) = self.by_name.get(&name).and_then(Weak::upgrade) {
            return found;
        }
        if self.by_name.len() >= self.sweep_at {
            self.sweep();
        }
        let made = Arc::<F>::default();
        self.by_name.insert(name, Arc::downgrade(&made));
        made
    }

    fn live(&mut self) -> Vec<(MetricName, Arc<F>)> {
        self.sweep();
        let upgraded = |(name, family): (&MetricName, &Weak<F>)| {
            family.upgrade().map(|family| (name.clone(), family))
        };
        self.by_name.iter().filter_map(upgraded).collect()
    }

    fn sweep(&mut self) {
        self.by_name.retain(|_, family| family.strong_count() > 0);
        self.sweep_at = (self.by_name.len() * 2).max(SMALLEST_SWEEP);
    }
}

/// Below this many names a sweep is not worth its walk.
const SMALLEST_SWEEP: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn value(registry: &Registry, stat: &str) -> Option<u64> {
        let counters = registry.read().counters;
        counters
            .into_iter()
            .find(|(name, _)| name.stat() == stat)
            .map(|(_, value)| value)
    }

    #[test]
    fn handles_of_one_name_are_summed_over_threads() {
        let registry = Registry::new();
        let scope = registry.scope(ScopeKind::Cluster, "a");
        let shared = scope.shared_counter("rq");
        std::thread::scope(|threads| {
            for _ in 0..3 {
                let (scope, shared) = (scope.clone(), shared.clone());
                threads.spawn(move || {
                    let counter = scope.counter("rq");
                    (0..1000).for_each(|_| counter.increment());
                    shared.add(10);
                });
            }
        });
        assert_eq!(value(&registry, "cluster.a.rq"), Some(3030));
    }

    #[test]
    fn replacing_a_handle_never_makes_its_counter_fall() {
        let registry = Registry::new();
        let scope = registry.scope(ScopeKind::Plain, "server");
        let mut handle = scope.counter("events");
        for round in 1..=100 {
            handle.add(2);
            handle = scope.counter("events");
            assert_eq!(value(&registry, "server.events"), Some(2 * round));
        }
        assert!(
            handle.owned.family.lock().cells.len() <= 2,
            "cells are used again"
        );
    }

    #[test]
    fn a_name_goes_with_its_last_handle() {
        let registry = Registry::new();
        let scope = registry.scope(ScopeKind::Cluster, "a");
        let (counter, other) = (scope.counter("rq"), scope.counter("rq"));
        let (gauge, histogram) = (scope.gauge("g"), scope.histogram("h"));
        counter.increment();
        drop(counter);
        assert_eq!(value(&registry, "cluster.a.rq"), Some(1));
        drop((other, gauge, histogram));
        let left = registry.read();
        assert!(left.counters.is_empty() && left.gauges.is_empty() && left.histograms.is_empty());
        assert_eq!(registry.lock().counters.by_name.len(), 0);
    }

    #[test]
    fn churn_grows_nothing() {
        let registry = Registry::new();
        let kept = registry.scope(ScopeKind::Cluster, "kept").counter("rq");
        for n in 0..5000 {
            drop(
                registry
                    .scope(ScopeKind::Cluster, &n.to_string())
                    .counter("rq"),
            );
        }
        assert!(registry.lock().counters.by_name.len() <= SMALLEST_SWEEP);
        kept.increment();
        assert_eq!(value(&registry, "cluster.kept.rq"), Some(1));
    }

    #[test]
    fn gauges_go_up_and_down_and_holds_give_back() {
        let registry = Registry::new();
        let scope = registry.scope(ScopeKind::Plain, "server");
        let (one, same) = (scope.gauge("cx"), scope.gauge("cx"));
        let read = || registry.read().gauges.first().map(|(_, value)| *value);
        one.add(3);
        same.subtract(1);
        let hold = one.hold();
        assert_eq!(read(), Some(3));
        drop(hold);
        assert_eq!(read(), Some(2));
        same.set(7);
        assert_eq!(read(), Some(7));
    }
}
