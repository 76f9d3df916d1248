// SPDX-License-Identifier: Apache-2.0
//! The project's only clock.
//!
//! Answers for turning the runtime's time into the plain [`Instant`] that the pure crates take
//! as an argument, and for turning a computed deadline back into something a timer can wait for.
//! It follows the runtime's clock, so a test that pauses time moves every machine that is fed
//! from here. Called by the edges: workers once per wake-up, the control thread at will.
//!
//! Invariant: the origin is fixed at first use and lies an hour before it, so that a runtime
//! whose clock was paused earlier than that use still counts forward.

use std::sync::OnceLock;
use std::time::Duration;

pub use remora_primitives::Instant;

/// Reads the clock of the current runtime (the system's monotonic clock outside of one).
#[must_use]
pub fn now() -> Instant {
    from_tokio(tokio::time::Instant::now())
}

/// Turns a runtime instant into a plain one; saturates at the origin.
#[must_use]
pub fn from_tokio(at: tokio::time::Instant) -> Instant {
    let since_origin = at.saturating_duration_since(origin());
    Instant::from_nanos(u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX))
}

/// Turns a plain instant into one that a timer can wait for. [`Instant::FAR_FUTURE`] becomes a
/// deadline that no process lives to see.
#[must_use]
pub fn to_tokio(at: Instant) -> tokio::time::Instant {
    let origin = origin();
    origin
        .checked_add(Duration::from_nanos(at.as_nanos()))
        .unwrap_or(origin + DISTANT)
}

/// Waits until `deadline`.
///
/// *Cancel safety*: safe.
pub async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(to_tokio(deadline)).await;
}

/// The clock's zero. It is taken from the system's clock and not the runtime's: a paused clock
/// may have been wound far ahead of the clocks that other runtimes of the process will show.
fn origin() -> tokio::time::Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let origin = ORIGIN.get_or_init(|| {
        let first_use = std::time::Instant::now();
        first_use.checked_sub(HEAD_START).unwrap_or(first_use)
    });
    tokio::time::Instant::from_std(*origin)
}

/// How far the origin lies before the first use; longer than any test runtime lives beforehand.
const HEAD_START: Duration = Duration::from_secs(3600);

/// Thirty years: beyond any deadline that will be met, well within every platform's range.
const DISTANT: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_paused_time() {
        let before = now();
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(now() - before, Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_survives_the_way_out_and_back() {
        let deadline = now() + Duration::from_millis(1500);
        assert_eq!(from_tokio(to_tokio(deadline)), deadline);
        sleep_until(deadline).await;
        assert!(now() >= deadline);
        assert!(now() - deadline < Duration::from_millis(2));
    }

    #[test]
    fn the_far_future_can_be_waited_for() {
        assert!(to_tokio(Instant::FAR_FUTURE) > tokio::time::Instant::now() + DISTANT / 2);
    }
}
