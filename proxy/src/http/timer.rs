// SPDX-License-Identifier: Apache-2.0
//! One timer for a connection or stream, moved lazily.
//!
//! Deadlines move forward with every request and every frame; arming a timer anew each time
//! would cost more than the requests it guards. So the timer stays armed for the earliest
//! deadline that it was given, and looks at the real one only when it fires.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use remora_primitives::Instant;
use remora_rt::clock;
use tokio::time::Sleep;

/// A lazily moved timer.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// A timer that is not armed; allocates nothing before its first use.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Waits until `deadline`; for ever if it is [`Instant::FAR_FUTURE`].
    ///
    /// *Cancel safety*: safe; the timer stays armed and is used again.
    pub async fn until(&mut self, deadline: Instant) {
        poll_fn(|cx| self.poll_until(cx, deadline)).await;
    }

    /// Whether `deadline` has come. It may be another one at each call.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if deadline == Instant::FAR_FUTURE {
            return Poll::Pending;
        }
        let wanted = clock::to_tokio(deadline);
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(wanted)));
        if sleep.deadline() > wanted || sleep.is_elapsed() {
            sleep.as_mut().reset(wanted);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if clock::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn deadlines_move_both_ways() {
        let mut timer = Timer::new();
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        timer.until(at(10)).await;
        assert_eq!(clock::now(), at(10));
        // Armed for 100 and left, then asked for an earlier and a later time.
        let left = tokio::time::timeout(Duration::from_millis(5), timer.until(at(100))).await;
        assert!(left.is_err());
        timer.until(at(50)).await;
        assert_eq!(clock::now(), at(50));
        timer.until(at(200)).await;
        assert_eq!(clock::now(), at(200));
    }
}
