// SPDX-License-Identifier: Apache-2.0
//! Who speaks first at which destination, as far as a worker has seen.
//!
//! Only a hint: it decides how soon a connection is dialled ahead of the verdict, never the
//! verdict.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

/// Who spoke first, the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// The client.
    ClientFirst,
    /// The server.
    ServerFirst,
}

/// A bounded memory of destinations. What was neither seen nor asked for while as many others
/// as [`GENERATION`] were is forgotten.
#[derive(Debug, Default)]
pub(super) struct Habits {
    young: FxHashMap<SocketAddr, Habit>,
    old: FxHashMap<SocketAddr, Habit>,
}

/// Destinations of one generation; two are kept. 2,048 destinations are 100 KiB.
const GENERATION: usize = 1024;

impl Habits {
    /// What is known of a destination.
    pub(super) fn of(&mut self, destination: SocketAddr) -> Option<Habit> {
        if let Some(habit) = self.young.get(&destination) {
            return Some(*habit);
        }
        let habit = self.old.remove(&destination)?;
        self.learn(destination, habit);
        Some(habit)
    }

    /// Remembers who spoke first.
    pub(super) fn learn(&mut self, destination: SocketAddr, habit: Habit) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&destination) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(destination, habit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: usize) -> SocketAddr {
        let [.., a, b, c] = n.to_be_bytes();
        SocketAddr::from(([10, a, b, c], 80))
    }

    #[test]
    fn what_is_asked_for_is_kept_and_the_rest_is_bounded() {
        let mut habits = Habits::default();
        habits.learn(at(0), Habit::ServerFirst);
        for n in 1..10 * GENERATION {
            habits.learn(at(n), Habit::ClientFirst);
            if n % (GENERATION / 2) == 0 {
                assert_eq!(habits.of(at(0)), Some(Habit::ServerFirst), "{n}");
            }
            assert!(habits.young.len() + habits.old.len() <= 2 * GENERATION);
        }
        assert_eq!(habits.of(at(1)), None);
        habits.learn(at(0), Habit::ClientFirst);
        assert_eq!(habits.of(at(0)), Some(Habit::ClientFirst));
    }
}
