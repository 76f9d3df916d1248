// SPDX-License-Identifier: Apache-2.0
//! Weighted turns: earliest deadline first, in exact arithmetic.
//!
//! The k-th turn of an item of weight w is due at k / w; the item that is due first goes next. So
//! weights 1:2:5 are met exactly in each eight turns, spread out rather than in bursts. Deadlines
//! are compared as fractions: nothing drifts, however long it runs.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A schedule over the positions of a list.
#[derive(Debug)]
pub(super) struct Schedule(BinaryHeap<Reverse<Turn>>);

#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Turns taken, the next included.
    taken: u64,
    weight: u64,
    position: usize,
}

impl Schedule {
    /// A schedule by weight, `start` turns from its beginning (modulo the number of items). A
    /// weight of 0 counts as 1.
    pub(super) fn new(weights: impl Iterator<Item = u64>, start: usize) -> Self {
        let turn = |(position, weight): (usize, u64)| {
            Reverse(Turn {
                taken: 1,
                weight: weight.max(1),
                position,
            })
        };
        let mut schedule = Self(weights.enumerate().map(turn).collect());
        for _ in 0..start.checked_rem(schedule.0.len()).unwrap_or(0) {
            schedule.next(|_| 1);
        }
        schedule
    }

    /// The position whose turn it is. `cost` says how many turns this one counts for: 1 keeps to
    /// the weights, more makes an item come later.
    pub(super) fn next(&mut self, cost: impl FnOnce(usize) -> u64) -> Option<usize> {
        let Reverse(turn) = &mut *self.0.peek_mut()?;
        turn.taken = turn.taken.saturating_add(cost(turn.position));
        Some(turn.position)
    }
}

impl Ord for Turn {
    /// By deadline, then by place in the list.
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = u128::from(self.taken) * u128::from(other.weight);
        let theirs = u128::from(other.taken) * u128::from(self.weight);
        mine.cmp(&theirs).then(self.position.cmp(&other.position))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_of_the_weights_sum_is_exact_from_any_start() {
        for weights in [
            vec![1, 2, 5],
            vec![3, 7, 11, 13],
            vec![1, 99],
            vec![4, 4, 4],
        ] {
            let sum = weights.iter().sum::<u64>();
            for start in 0..weights.len() {
                let mut schedule = Schedule::new(weights.iter().copied(), start);
                for _ in 0..50 {
                    let mut seen = vec![0; weights.len()];
                    for _ in 0..sum {
                        seen[schedule.next(|_| 1).expect("not empty")] += 1;
                    }
                    assert_eq!(seen, weights, "start {start}");
                }
            }
        }
    }

    #[test]
    fn an_empty_schedule_has_no_turn() {
        assert_eq!(Schedule::new(std::iter::empty(), 7).next(|_| 1), None);
    }
}
