// SPDX-License-Identifier: Apache-2.0
//! Exponential back-off with full jitter.
//!
//! Answers for how long to wait before trying again; it does not wait, and it does not decide
//! whether to try. Each delay is drawn evenly from zero up to a ceiling that doubles with every
//! attempt, so that many callers who failed together do not return together. Called by the xDS
//! client between streams, by name resolution, and by whoever re-dials.
//!
//! Invariant: a [`Policy`] that exists is valid, and a delay never exceeds its `max`.

use std::time::Duration;

/// The bounds of a back-off: validated, immutable, cheap to copy.
///
/// *Source*: `envoy.config.core.v3.BackoffStrategy` (`base_interval`, `max_interval`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    base: Duration,
    max: Duration,
}

/// Why a pair of intervals makes no back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The base interval is zero: the delays would never grow.
    #[error("back-off base interval is zero, expected at least 1ms")]
    ZeroBase,
    /// The maximum lies below the base.
    #[error("back-off maximum {max:?} is below the base interval {base:?}")]
    MaxBelowBase {
        /// The base interval as given.
        base: Duration,
        /// The maximum as given.
        max: Duration,
    },
}

impl Policy {
    /// Checks the intervals. The first delay is at most `base`, no delay is above `max`.
    ///
    /// # Errors
    /// A base below one millisecond (timers have no finer grain), or a maximum below the base.
    pub fn try_new(base: Duration, max: Duration) -> Result<Self, PolicyError> {
        if base < Duration::from_millis(1) {
            return Err(PolicyError::ZeroBase);
        }
        if max < base {
            return Err(PolicyError::MaxBelowBase { base, max });
        }
        Ok(Self { base, max })
    }

    /// The greatest delay that attempt `attempt` (counted from zero) may wait.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }
}

/// A running back-off: a policy, the attempts made, and the source of its jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: Policy,
    attempts: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Starts a back-off. Equal seeds give equal delays, which is what tests want; programs pass
    /// a seed of their own drawing.
    #[must_use]
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            attempts: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// The delay before the next attempt. Each call counts as one failed attempt.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.policy.ceiling(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.u64(0..=nanos))
    }

    /// Starts again from the base: something has succeeded.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How many delays were handed out since the start or the last reset.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn intervals_that_cannot_grow_are_refused() {
        assert_eq!(
            Policy::try_new(Duration::ZERO, MS),
            Err(PolicyError::ZeroBase)
        );
        assert_eq!(
            Policy::try_new(2 * MS, MS),
            Err(PolicyError::MaxBelowBase {
                base: 2 * MS,
                max: MS
            })
        );
        assert!(Policy::try_new(MS, MS).is_ok());
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum_and_stays_there() {
        let policy = Policy::try_new(250 * MS, 30_000 * MS).expect("valid");
        let ceilings: Vec<_> = (0..9)
            .map(|attempt| policy.ceiling(attempt).as_millis())
            .collect();
        assert_eq!(
            ceilings,
            [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
        assert_eq!(policy.ceiling(u32::MAX), 30_000 * MS);
    }

    #[test]
    fn delays_stay_below_the_ceiling_and_use_its_whole_width() {
        let policy = Policy::try_new(100 * MS, 100 * MS).expect("valid");
        let mut backoff = Backoff::new(policy, 7);
        let delays: Vec<_> = (0..1000).map(|_| backoff.next_delay()).collect();
        assert!(delays.iter().all(|delay| *delay <= 100 * MS));
        assert!(delays.iter().any(|delay| *delay < 10 * MS));
        assert!(delays.iter().any(|delay| *delay > 90 * MS));
    }

    #[test]
    fn a_reset_starts_from_the_base_and_equal_seeds_agree() {
        let policy = Policy::try_new(MS, 1000 * MS).expect("valid");
        let (mut one, mut other) = (Backoff::new(policy, 3), Backoff::new(policy, 3));
        for _ in 0..12 {
            assert_eq!(one.next_delay(), other.next_delay());
        }
        assert_eq!(one.attempts(), 12);
        one.reset();
        assert!(one.next_delay() <= MS);
    }
}
