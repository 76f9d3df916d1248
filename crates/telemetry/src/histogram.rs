// SPDX-License-Identifier: Apache-2.0
//! Distributions of durations in log-linear buckets.
//!
//! Up to 16 us each microsecond has a bucket; above, each doubling is cut into 16, so a value is
//! known within 1/16 and a quantile, given as the middle of its bucket, within 1/32 (3.2 %).
//! Buckets of a doubling are allocated when first met: an idle histogram is a few hundred bytes.
//!
//! **Invariant:** a cell is written by one thread; readers may see a value's bucket before its sum.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::registry::{OneThread, Owned};

/// Records durations; one per worker and name, merged when read. Not shareable between threads.
#[derive(Debug)]
pub struct Histogram {
    pub(crate) owned: Owned<Cell>,
    pub(crate) one_thread: OneThread,
}

impl Histogram {
    /// Records a duration. Beyond 12 days it counts as 12 days.
    pub fn record(&self, elapsed: Duration) {
        self.owned
            .cell
            .record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    }
}

/// The buckets of one writer. Unit: microseconds.
#[derive(Debug)]
pub(crate) struct Cell {
    segments: [OnceLock<Box<Segment>>; SEGMENTS],
    sum: AtomicU64,
}

type Segment = [AtomicU64; WIDTH];

/// Buckets in each doubling.
const WIDTH: usize = 16;
/// Its logarithm.
const BITS: u32 = 4;
/// The values below `WIDTH`, and the doublings up to 2^40 us.
const SEGMENTS: usize = 37;
const LARGEST: u64 = (1 << 40) - 1;

impl Default for Cell {
    fn default() -> Self {
        Self {
            segments: std::array::from_fn(|_| OnceLock::new()),
            sum: AtomicU64::new(0),
        }
    }
}

impl Cell {
    fn record(&self, micros: u64) {
        let value = micros.min(LARGEST);
        let (segment, bucket) = place(value);
        let counter = self
            .segments
            .get(segment)
            .and_then(|segment| segment.get_or_init(Box::default).get(bucket));
        if let Some(counter) = counter {
            add(counter, 1);
            add(&self.sum, value);
        }
    }
}

/// Adds to a counter that only this thread writes: no locked instruction.
pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Segment and bucket of a value up to `LARGEST`.
fn place(value: u64) -> (usize, usize) {
    let doubling = (value | (1 << (BITS - 1))).ilog2() + 1 - BITS;
    let shift = doubling.saturating_sub(1);
    let bucket = (value >> shift) & (WIDTH as u64 - 1);
    (
        doubling as usize,
        usize::try_from(bucket).unwrap_or(WIDTH - 1),
    )
}

/// Lowest and highest value of a bucket.
fn bounds(segment: usize, bucket: usize) -> (u64, u64) {
    let (segment, bucket) = (segment as u64, bucket as u64);
    if segment == 0 {
        return (bucket, bucket);
    }
    let shift = segment - 1;
    let low = (WIDTH as u64 + bucket) << shift;
    (low, low + (1 << shift) - 1)
}

/// What was recorded, over all workers, until now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Middle of a bucket in half microseconds, and how many fell into it; ascending, none empty.
    buckets: Vec<(u64, u64)>,
    sum_micros: u64,
}

impl Distribution {
    pub(crate) fn merge<'c>(cells: impl IntoIterator<Item = &'c Arc<Cell>>) -> Self {
        let mut counts = vec![0_u64; SEGMENTS * WIDTH];
        let mut sum_micros = 0_u64;
        for cell in cells {
            sum_micros = sum_micros.wrapping_add(cell.sum.load(Relaxed));
            for (segment, counts) in cell.segments.iter().zip(counts.chunks_mut(WIDTH)) {
                let Some(buckets) = segment.get() else {
                    continue;
                };
                for (bucket, count) in buckets.iter().zip(counts) {
                    *count += bucket.load(Relaxed);
                }
            }
        }
        let filled = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let buckets = filled.map(|(index, count)| {
            let (low, high) = bounds(index / WIDTH, index % WIDTH);
            (low + high, *count)
        });
        Self {
            buckets: buckets.collect(),
            sum_micros,
        }
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// Their sum.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// The duration that a share of 0 to 1 of what was recorded did not exceed, within 3.2 % and
    /// never more than half a microsecond off below 32 us. `None` if nothing was recorded.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = rank(share, self.count());
        let mut seen = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map(|(twice, _)| Duration::from_nanos(twice * 500))
    }

    /// How many did not exceed a bound. A bucket that the bound cuts counts where its middle lies.
    #[must_use]
    pub fn count_up_to(&self, bound: Duration) -> u64 {
        let twice = bound.as_nanos() / 500;
        let within = self
            .buckets
            .iter()
            .take_while(|(middle, _)| u128::from(*middle) <= twice);
        within.map(|(_, count)| count).sum()
    }
}

/// The rank of a quantile, 1 to `count`.
fn rank(share: f64, count: u64) -> u64 {
    // Exact below 2^53 records; beyond, off by less than a billionth. Not negative: the range is
    // clamped.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let rank = (share.clamp(0.0, 1.0) * count as f64).ceil() as u64;
    rank.clamp(1, count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(values: impl IntoIterator<Item = u64>) -> Distribution {
        let cell = Arc::new(Cell::default());
        values.into_iter().for_each(|value| cell.record(value));
        Distribution::merge([&cell])
    }

    #[test]
    fn each_value_lies_within_its_bucket_and_buckets_touch() {
        let mut next = 0;
        for segment in 0..SEGMENTS {
            for bucket in 0..WIDTH {
                let (low, high) = bounds(segment, bucket);
                assert_eq!(low, next, "segment {segment}, bucket {bucket}");
                assert_eq!(
                    (place(low), place(high)),
                    ((segment, bucket), (segment, bucket))
                );
                next = high + 1;
            }
        }
        assert_eq!(next, LARGEST + 1);
    }

    #[test]
    fn quantiles_are_within_their_bound_whatever_the_scale() {
        for scale in [1, 37, 1_000, 54_321, 10_000_000] {
            let recorded = distribution((1..=10_000).map(|n| n * scale));
            assert_eq!(recorded.count(), 10_000);
            for share in [0.0, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0] {
                let exact = (share * 10_000.0_f64).ceil().max(1.0) * scale as f64;
                let found = recorded.quantile(share).expect("not empty").as_nanos() as f64 / 1e3;
                assert!(
                    (found - exact).abs() <= exact * 0.032,
                    "{share}: {found} for {exact}"
                );
            }
        }
    }

    #[test]
    fn small_values_and_counts_are_exact() {
        let recorded = distribution([0, 1, 1, 15, 3]);
        assert_eq!(recorded.sum(), Duration::from_micros(20));
        assert_eq!(recorded.quantile(0.0), Some(Duration::ZERO));
        assert_eq!(recorded.quantile(0.5), Some(Duration::from_micros(1)));
        assert_eq!(recorded.quantile(1.0), Some(Duration::from_micros(15)));
        let up_to = [0, 1, 2, 3, 14, 15].map(|us| recorded.count_up_to(Duration::from_micros(us)));
        assert_eq!(up_to, [1, 3, 3, 4, 4, 5]);
        assert_eq!(distribution([]).quantile(0.5), None);
        assert_eq!(distribution([u64::MAX]).count(), 1);
    }

    #[test]
    fn workers_are_merged() {
        let cells = [(); 3].map(|()| Arc::new(Cell::default()));
        for (factor, cell) in (1..).zip(&cells) {
            (0..100).for_each(|_| cell.record(factor * 1000));
        }
        let merged = Distribution::merge(&cells);
        assert_eq!(
            (merged.count(), merged.sum()),
            (300, Duration::from_millis(600))
        );
        let millis = |share| merged.quantile(share).expect("not empty").as_secs_f64() * 1e3;
        for (share, expected) in [(0.33, 1.0), (0.66, 2.0), (0.99, 3.0)] {
            assert!(
                (millis(share) - expected).abs() <= expected * 0.032,
                "{}",
                millis(share)
            );
        }
    }
}
