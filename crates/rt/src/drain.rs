// SPDX-License-Identifier: Apache-2.0
//! Two-stage drain: ask everybody to finish, wait until they did or the deadline came, then end
//! what is left.
//!
//! ```text
//!   Open ──graceful(grace)──▶ Graceful { deadline } ──deadline, or force()──▶ Forced
//! ```
//!
//! Three roles. The [`Drain`] belongs to whoever decides (the process, a retired listener). A
//! [`Watch`] is held by what might have to end and is cheap to ask. A [`DrainToken`] is held by
//! work in flight: as long as one lives, the drain is not over. The module closes nothing by
//! itself: in the graceful stage holders stop taking new work, in the forced stage they drop it.
//!
//! Invariant: stages only go forward, and the deadline that was announced first is never moved
//! out; [`Drain::complete`] returns at most [`FORCED_WAIT`] after the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use remora_primitives::Instant;
use tokio::sync::Notify;

use crate::clock;

/// How long a drain waits, after the forced stage began, for holders to let go. They only have
/// to drop what they hold, which takes one wake-up; a thread that cannot do that within this
/// time is stuck, and is reported instead of being waited for.
pub const FORCED_WAIT: Duration = Duration::from_secs(1);

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// New work is welcome.
    Open,
    /// No new work; what runs may finish until `deadline`.
    Graceful {
        /// When the forced stage begins.
        deadline: Instant,
    },
    /// Whatever still runs ends now.
    Forced,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All work finished by itself.
    Finished,
    /// The deadline came first; `ended` pieces of work were cut off.
    Cut {
        /// Tokens alive when the forced stage began.
        ended: usize,
    },
}

/// The deciding end of a drain. Dropping it without a decision leaves its watchers open for ever,
/// so that losing the owner is not mistaken for an order to stop.
#[derive(Debug)]
#[must_use = "a drain that nobody can start never ends anything"]
pub struct Drain {
    shared: Arc<Shared>,
}

/// The end that is asked: "may I go on?". Clones share the same drain.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
}

/// Proof of work in flight: the drain is not over while one lives.
#[derive(Debug)]
#[must_use = "the drain counts the work as finished as soon as the token is dropped"]
pub struct DrainToken {
    shared: Arc<Shared>,
}

impl Drain {
    /// Makes a drain in its open stage, and its first watch.
    pub fn new() -> (Self, Watch) {
        let shared = Arc::new(Shared {
            stage: AtomicU8::new(OPEN),
            deadline: AtomicU64::new(Instant::FAR_FUTURE.as_nanos()),
            tokens: AtomicUsize::new(0),
            staged: Notify::new(),
            emptied: Notify::new(),
        });
        (
            Self {
                shared: Arc::clone(&shared),
            },
            Watch { shared },
        )
    }

    /// Another watch on this drain.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Announces the graceful stage. A later call can only bring the deadline nearer.
    pub fn graceful(&self, grace: Duration) {
        let deadline = clock::now() + grace;
        self.shared
            .deadline
            .fetch_min(deadline.as_nanos(), Ordering::AcqRel);
        self.shared.advance(GRACEFUL);
    }

    /// Announces the forced stage at once.
    pub fn force(&self) {
        self.shared.advance(FORCED);
    }

    /// Work in flight.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.shared.tokens.load(Ordering::Acquire)
    }

    /// Sees a drain through: announces the graceful stage, waits for the work in flight, forces
    /// what the deadline finds, and says how it went. Another caller may [`force`](Self::force)
    /// meanwhile (a second signal).
    ///
    /// *Cancel safety*: the stage that was announced stands; calling again continues.
    pub async fn complete(&self, grace: Duration) -> Outcome {
        self.graceful(grace);
        let deadline = Instant::from_nanos(self.shared.deadline.load(Ordering::Acquire));
        tokio::select! {
            biased; // work that finished in time is not reported as cut
            () = self.shared.empty() => return Outcome::Finished,
            () = self.shared.reached(FORCED) => {}
            () = clock::sleep_until(deadline) => {}
        }
        let ended = self.tokens();
        self.force();
        if tokio::time::timeout(FORCED_WAIT, self.shared.empty())
            .await
            .is_err()
        {
            tracing::warn!(
                left = self.tokens(),
                "drain: work did not end when it was forced"
            );
        }
        if ended == 0 {
            Outcome::Finished
        } else {
            Outcome::Cut { ended }
        }
    }
}

impl Watch {
    /// The present stage. Two atomic loads at most; fit for the road of a request.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.shared.stage.load(Ordering::Acquire) {
            OPEN => Stage::Open,
            GRACEFUL => Stage::Graceful {
                deadline: Instant::from_nanos(self.shared.deadline.load(Ordering::Acquire)),
            },
            _ => Stage::Forced,
        }
    }

    /// Whether new work should be turned away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.stage.load(Ordering::Relaxed) != OPEN
    }

    /// Registers work in flight. It is given in every stage: whether to begin is the holder's
    /// decision (a listener accepts its backlog out while it drains).
    pub fn token(&self) -> DrainToken {
        self.shared.tokens.fetch_add(1, Ordering::AcqRel);
        DrainToken {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Waits for the graceful stage (or a later one).
    ///
    /// *Cancel safety*: safe.
    pub async fn graceful(&self) {
        self.shared.reached(GRACEFUL).await;
    }

    /// Waits for the forced stage.
    ///
    /// *Cancel safety*: safe.
    pub async fn forced(&self) {
        self.shared.reached(FORCED).await;
    }
}

impl DrainToken {
    /// A watch on the drain that counts this token.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for DrainToken {
    fn drop(&mut self) {
        if self.shared.tokens.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.emptied.notify_waiters();
        }
    }
}

#[derive(Debug)]
struct Shared {
    stage: AtomicU8,
    /// Nanoseconds of the clock; meaningful from the graceful stage on.
    deadline: AtomicU64,
    tokens: AtomicUsize,
    staged: Notify,
    emptied: Notify,
}

impl Shared {
    fn advance(&self, stage: u8) {
        self.stage.fetch_max(stage, Ordering::AcqRel);
        self.staged.notify_waiters();
    }

    async fn reached(&self, stage: u8) {
        wait_until(&self.staged, || self.stage.load(Ordering::Acquire) >= stage).await;
    }

    async fn empty(&self) {
        wait_until(&self.emptied, || self.tokens.load(Ordering::Acquire) == 0).await;
    }
}

/// Waits until `is_met`, asked again after each notification. The waiter is enrolled before the
/// question is put, so that no notification falls between the two.
async fn wait_until(notify: &Notify, is_met: impl Fn() -> bool) {
    loop {
        let mut notified = std::pin::pin!(notify.notified());
        notified.as_mut().enable();
        if is_met() {
            return;
        }
        notified.await;
    }
}

const OPEN: u8 = 0;
const GRACEFUL: u8 = 1;
const FORCED: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_drain_without_work_finishes_at_once() {
        let (drain, watch) = Drain::new();
        let start = clock::now();
        assert_eq!(drain.complete(10 * SECOND).await, Outcome::Finished);
        assert_eq!(clock::now(), start);
        assert!(watch.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn work_in_flight_is_waited_for_and_is_told_the_deadline() {
        let (drain, watch) = Drain::new();
        let token = watch.token();
        let start = clock::now();
        let worker = tokio::spawn(async move {
            watch.graceful().await;
            let stage = watch.stage();
            tokio::time::sleep(3 * SECOND).await;
            drop(token);
            stage
        });
        assert_eq!(drain.complete(10 * SECOND).await, Outcome::Finished);
        assert_eq!(clock::now() - start, 3 * SECOND);
        let stage = worker.await.expect("worker");
        assert_eq!(
            stage,
            Stage::Graceful {
                deadline: start + 10 * SECOND
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_forces_what_is_left() {
        let (drain, watch) = Drain::new();
        let tokens = [watch.token(), watch.token()];
        let holder = tokio::spawn(async move {
            watch.forced().await;
            drop(tokens);
        });
        let start = clock::now();
        assert_eq!(drain.complete(2 * SECOND).await, Outcome::Cut { ended: 2 });
        assert!(clock::now() - start < 2 * SECOND + Duration::from_millis(5));
        holder.await.expect("holder");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_order_forces_before_the_deadline() {
        let (drain, watch) = Drain::new();
        let drain = Arc::new(drain);
        let token = watch.token();
        let first = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.complete(60 * SECOND).await }
        });
        watch.graceful().await;
        drain.force();
        assert_eq!(watch.stage(), Stage::Forced);
        drop(token);
        let start = clock::now();
        first.await.expect("drain");
        assert!(clock::now() - start < SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_never_lets_go_does_not_hold_the_process() {
        let (drain, watch) = Drain::new();
        let _kept = watch.token();
        let start = clock::now();
        assert_eq!(drain.complete(SECOND).await, Outcome::Cut { ended: 1 });
        assert!(clock::now() - start <= SECOND + FORCED_WAIT + Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_call_never_moves_the_deadline_out() {
        let (drain, watch) = Drain::new();
        let start = clock::now();
        drain.graceful(SECOND);
        drain.graceful(60 * SECOND);
        assert_eq!(
            watch.stage(),
            Stage::Graceful {
                deadline: start + SECOND
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn losing_the_owner_is_no_order_to_stop() {
        let (drain, watch) = Drain::new();
        drop(drain);
        let waited = tokio::time::timeout(60 * SECOND, watch.graceful()).await;
        assert!(waited.is_err());
        assert_eq!(watch.stage(), Stage::Open);
    }
}
