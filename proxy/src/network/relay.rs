// SPDX-License-Identifier: Apache-2.0
//! Moves bytes between a downstream and an upstream until both have ended.
//!
//! Each direction is a pump of its own with at most one buffer: while it cannot be written, its
//! source is not read, so a slow reader holds back its writer and nothing grows. The end of one
//! direction is passed on (FIN) while the other goes on; a reset is passed on as a reset. A
//! direction that waits for bytes holds no buffer. Called by the TCP proxy, and for tunnels of
//! upgraded HTTP connections.
//!
//! Invariant: bytes leave in the order they came, and an end is passed on after the last of them.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use remora_primitives::Instant;
use remora_rt::clock;
use remora_rt::drain::Watch;

use crate::http::timer::Timer;
use crate::stream::Stream;

/// Bounds on a relay; `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayLimits {
    /// Silence in both directions after which it ends.
    pub idle: Option<Duration>,
    /// Age at which it ends.
    pub max_duration: Option<Duration>,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayEnd {
    /// Bytes from the downstream that were written to the upstream.
    pub received: u64,
    /// Bytes from the upstream that were written to the downstream.
    pub sent: u64,
    /// What ended it.
    pub why: Ended,
}

/// What ended a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides had no more to send.
    Finished,
    /// The downstream broke the connection.
    DownstreamReset,
    /// The upstream broke the connection.
    UpstreamReset,
    /// Nobody said anything for too long.
    Idle,
    /// It was older than allowed.
    TooOld,
    /// The drain was forced.
    Drained,
}

/// Relays until both directions have ended, a side breaks, or a bound is met. `first_down` and
/// `first_up` were read from the two sides before. The caller closes the streams by dropping them;
/// after a reset the other side is set to be reset as well.
///
/// *Cancel safety*: bytes under way are lost.
pub async fn relay(
    down: &Stream,
    first_down: BytesMut,
    up: &Stream,
    first_up: BytesMut,
    limits: RelayLimits,
    drain: &Watch,
) -> RelayEnd {
    let start = clock::now();
    let (received, sent) = (Cell::new(0), Cell::new(0));
    let touched = Cell::new(start);
    let both = async {
        let upward = pump(
            down,
            up,
            first_down,
            Tally {
                moved: &received,
                touched: &touched,
            },
        );
        let downward = pump(
            up,
            down,
            first_up,
            Tally {
                moved: &sent,
                touched: &touched,
            },
        );
        let ends = tokio::try_join!(
            async {
                upward
                    .await
                    .map_err(|broken| broken.side(Ended::DownstreamReset, Ended::UpstreamReset))
            },
            async {
                downward
                    .await
                    .map_err(|broken| broken.side(Ended::UpstreamReset, Ended::DownstreamReset))
            },
        );
        ends.err().unwrap_or(Ended::Finished)
    };
    let why = tokio::select! {
        biased; // what has ended by itself was not cut
        why = both => why,
        why = expired(limits, start, &touched) => why,
        () = drain.forced() => Ended::Drained,
    };
    match why {
        Ended::DownstreamReset => up.abort(),
        Ended::UpstreamReset => down.abort(),
        Ended::Finished | Ended::Idle | Ended::TooOld | Ended::Drained => {}
    }
    RelayEnd {
        received: received.get(),
        sent: sent.get(),
        why,
    }
}

/// Waits for the first bound that is met. The timer is armed for the deadline as it was when it
/// was armed last; traffic only moves a cell.
async fn expired(limits: RelayLimits, start: Instant, touched: &Cell<Instant>) -> Ended {
    let after = |since: Instant, bound: Option<Duration>| {
        bound.map_or(Instant::FAR_FUTURE, |bound| since + bound)
    };
    let too_old = after(start, limits.max_duration);
    let mut timer = Timer::new();
    loop {
        let silent = after(touched.get(), limits.idle);
        timer.until(silent.min(too_old)).await;
        let now = clock::now();
        if now >= too_old {
            return Ended::TooOld;
        }
        if now >= after(touched.get(), limits.idle) {
            return Ended::Idle;
        }
    }
}

/// What a pump tells while it runs.
#[derive(Clone, Copy)]
struct Tally<'r> {
    moved: &'r Cell<u64>,
    touched: &'r Cell<Instant>,
}

/// The side of a direction that broke.
enum Broken {
    Source,
    Sink,
}

impl Broken {
    const fn side(&self, source: Ended, sink: Ended) -> Ended {
        match self {
            Self::Source => source,
            Self::Sink => sink,
        }
    }
}

/// Turns of a pump without a wait after which others get theirs.
const TURNS: u32 = 16;

/// Moves bytes in one direction up to its end, which it passes on.
async fn pump(from: &Stream, to: &Stream, first: BytesMut, tally: Tally<'_>) -> Result<(), Broken> {
    let mut buffer = Buffer(first);
    let mut turns = 0;
    loop {
        if !buffer.0.is_empty() {
            to.write_all(&buffer.0).await.map_err(|_| Broken::Sink)?;
            tally
                .moved
                .set(tally.moved.get().saturating_add(buffer.0.len() as u64));
            tally.touched.set(clock::now());
            buffer.was_written();
            turns += 1;
            if turns % TURNS == 0 {
                tokio::task::yield_now().await;
            }
        }
        match from.try_read_buf(&mut buffer.0) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                drop(buffer);
                from.readable().await.map_err(|_| Broken::Source)?;
                buffer = Buffer::spare();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Broken::Source),
        }
    }
    drop(buffer);
    // It fails if the sink is gone, which the other direction will notice.
    let _ = to.shutdown_write();
    Ok(())
}

/// One direction's buffer; goes back to the thread's spare ones when dropped.
struct Buffer(BytesMut);

/// Room for a source that fills its buffer each time. Unit: bytes.
const BULK: usize = 64 * 1024;

/// Buffers that a thread keeps: more are in use at once only while writers wait for readers.
const SPARE: usize = 4;

thread_local! {
    static SPARES: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

impl Buffer {
    fn spare() -> Self {
        Self(SPARES.with_borrow_mut(Vec::pop).unwrap_or_default())
    }

    /// Empties the buffer; one that was full gets more room.
    fn was_written(&mut self) {
        let was_full = self.0.len() == self.0.capacity();
        self.0.clear();
        if was_full && self.0.capacity() < BULK {
            self.0.reserve(BULK);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() == 0 || self.0.capacity() > 2 * BULK {
            return;
        }
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests;
