// SPDX-License-Identifier: Apache-2.0
//! Sending a request's body up while something else goes on.
//!
//! The upload runs beside waiting for the answer and beside passing it down. It is polled by the
//! same task: [`Upload::beside`] runs an operation to its end and lets the upload make progress
//! meanwhile, within the exchange's bounds.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use remora_rt::clock;

use super::budget::Body;
use super::deadline::{Bounds, Expired};
use super::downstream::DownstreamError;
use super::replay::Replay;
use crate::frame::Frame;
use crate::upstream::{UpstreamError, Writer};

/// Why an upload ended early.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The downstream's side failed.
    Downstream(DownstreamError),
    /// The upstream's side failed; an answer may be there all the same.
    Upstream(UpstreamError),
}

/// Frames that a body moves before others get their turn: between two fast peers it would never
/// have to wait.
pub(super) const TURNS: u32 = 32;

/// How far an upload is, for whoever runs beside it.
#[derive(Debug)]
pub(super) struct Progress {
    /// Whether the body can no longer be sent again.
    is_lost: Cell<bool>,
    /// Whether the downstream has sent all of it.
    is_received: Cell<bool>,
    /// Frames that came.
    frames: Cell<u32>,
}

impl Progress {
    /// That of a body.
    pub(super) fn of(body: &Replay<'_>) -> Self {
        Self {
            is_lost: Cell::new(body.is_lost()),
            is_received: Cell::new(body.is_received()),
            frames: Cell::new(0),
        }
    }

    /// Whether the body can be sent again.
    pub(super) fn body(&self) -> Body {
        if self.is_lost.get() {
            Body::Lost
        } else {
            Body::Replayable
        }
    }

    fn on_frame(&self, body: &Replay<'_>) {
        self.is_lost.set(body.is_lost());
        self.is_received.set(body.is_received());
        self.frames.set(self.frames.get().wrapping_add(1));
    }
}

/// Sends a body to its end. `progress` follows how far it is.
///
/// # Errors
/// If either side fails.
pub(super) async fn upload(
    body: &mut Replay<'_>,
    writer: &mut Writer<'_>,
    progress: &Progress,
) -> Result<(), UploadError> {
    let mut turns = 0_u32;
    loop {
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(TURNS) {
            tokio::task::yield_now().await;
        }
        let frame = match now(body.next()) {
            Some(frame) => frame,
            None => {
                writer.flush().await.map_err(UploadError::Upstream)?;
                body.next().await
            }
        };
        progress.on_frame(body);
        let sent = match frame.map_err(UploadError::Downstream)? {
            Some(Frame::Data(data)) => writer.data(data).await,
            Some(Frame::Trailers(trailers)) => {
                return writer
                    .finish(Some(trailers))
                    .await
                    .map_err(UploadError::Upstream);
            }
            None => return writer.finish(None).await.map_err(UploadError::Upstream),
        };
        sent.map_err(UploadError::Upstream)?;
    }
}

/// What a cancel-safe operation gives at once, if it does.
pub(super) fn now<T>(operation: impl Future<Output = T>) -> Option<T> {
    let mut operation = pin!(operation);
    match operation
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// An upload under way.
#[derive(Debug)]
pub(super) struct Upload<'u, F> {
    future: Pin<&'u mut F>,
    progress: &'u Progress,
    /// Frames that were there at the last look.
    seen: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Running,
    Complete,
    /// The upstream no longer takes it.
    Broken(UpstreamError),
}

/// Why an operation beside an upload did not come to its end.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// A bound was met.
    Expired(Expired),
    /// The downstream's half of the request failed.
    Downstream(DownstreamError),
}

impl<'u, F: Future<Output = Result<(), UploadError>>> Upload<'u, F> {
    /// An upload that has not been polled yet.
    pub(super) const fn new(future: Pin<&'u mut F>, progress: &'u Progress) -> Self {
        Self {
            future,
            progress,
            seen: 0,
            state: State::Running,
        }
    }

    /// Whether all of the request was sent.
    pub(super) const fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Why the upstream does not take the rest, if it does not.
    pub(super) fn broken(&mut self) -> Option<UpstreamError> {
        match std::mem::replace(&mut self.state, State::Complete) {
            State::Broken(error) => {
                self.state = State::Broken(error.clone());
                Some(error)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Runs an operation to its end. Whatever moves meanwhile ends a silence.
    ///
    /// # Errors
    /// If a bound is met first, or the downstream's half fails.
    pub(super) async fn beside<T>(
        &mut self,
        bounds: &mut Bounds<'_>,
        operation: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        let mut operation = pin!(operation);
        let mut has_waited = false;
        poll_fn(|cx| {
            // The upload first: nothing is answered that was not sent.
            if let Err(interrupted) = self.poll_upload(cx, bounds) {
                return Poll::Ready(Err(interrupted));
            }
            if let Poll::Ready(done) = operation.as_mut().poll(cx) {
                if has_waited {
                    bounds.deadlines.on_activity(clock::now());
                }
                return Poll::Ready(Ok(done));
            }
            has_waited = true;
            bounds
                .poll_expired(cx)
                .map(|why| Err(Interrupted::Expired(why)))
        })
        .await
    }

    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        bounds: &mut Bounds<'_>,
    ) -> Result<(), Interrupted> {
        if !matches!(self.state, State::Running) {
            return Ok(());
        }
        let ended = self.future.as_mut().poll(cx);
        let seen = self.progress.frames.get();
        if seen != self.seen && !bounds.deadlines.is_request_complete() {
            let now = clock::now();
            bounds.deadlines.on_activity(now);
            if self.progress.is_received.get() {
                bounds.deadlines.on_request_complete(now);
            }
        }
        self.seen = seen;
        match ended {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.state = State::Complete,
            Poll::Ready(Err(UploadError::Upstream(error))) => self.state = State::Broken(error),
            Poll::Ready(Err(UploadError::Downstream(error))) => {
                self.state = State::Complete;
                return Err(Interrupted::Downstream(error));
            }
        }
        Ok(())
    }
}
