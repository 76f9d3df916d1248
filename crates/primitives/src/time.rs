// SPDX-License-Identifier: Apache-2.0
//! A monotonic point in time as a plain value.
//!
//! The pure crates (`ir`, `balance`, `xds` sessions) take the present as an argument, so that a
//! test can move time as it likes. The origin is arbitrary but one for the whole process; the
//! edges make the value from the runtime's clock (`rt::clock`).

use std::ops::{Add, Sub};
use std::time::Duration;

/// A monotonic point in time. Unit: nanoseconds since the origin of the process' clock.
///
/// Arithmetic saturates: a deadline that cannot be represented lies at the end of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock.
    pub const ORIGIN: Self = Self(0);
    /// Later than any instant that will be met (about 584 years after the origin).
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// Makes an instant from nanoseconds since the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin, as kept in atomics.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time that has passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Self> for Instant {
    type Output = Duration;

    fn sub(self, rhs: Self) -> Duration {
        self.saturating_since(rhs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(
            Instant::FAR_FUTURE + Duration::from_secs(1),
            Instant::FAR_FUTURE
        );
        assert_eq!(Instant::ORIGIN + Duration::MAX, Instant::FAR_FUTURE);
        assert_eq!(Instant::ORIGIN - Instant::FAR_FUTURE, Duration::ZERO);
        let later = Instant::ORIGIN + Duration::from_millis(3);
        assert_eq!(later - Instant::ORIGIN, Duration::from_millis(3));
    }
}
