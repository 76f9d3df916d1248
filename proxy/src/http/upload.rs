// SPDX-License-Identifier: Apache-2.0
//! Sending a request's body up while something else goes on.
//!
//! The upload runs beside waiting for the answer and beside passing it down. It is polled by the
//! same task: [`Upload::beside`] runs an operation to its end and lets the upload make progress
//! meanwhile, within the exchange's bounds.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use remora_rt::clock;

use super::deadline::{Bounds, Expired};
use super::downstream::DownstreamError;
use super::replay::Replay;
use crate::frame::Frame;
use crate::upstream::{UpstreamError, Writer};

/// Why an upload ended early.
#[derive(Debug)]
pub enum UploadError {
    /// The downstream's side failed.
    Downstream(DownstreamError),
    /// The upstream's side failed; an answer may be there all the same.
    Upstream(UpstreamError),
}

/// Sends a body to its end. `is_lost` follows whether the body can still be sent again.
///
/// # Errors
/// If either side fails.
pub async fn upload(
    body: &mut Replay<'_>,
    writer: &mut Writer<'_>,
    is_lost: &Cell<bool>,
) -> Result<(), UploadError> {
    loop {
        let frame = match now(body.next()) {
            Some(frame) => frame,
            None => {
                writer.flush().await.map_err(UploadError::Upstream)?;
                body.next().await
            }
        };
        is_lost.set(body.is_lost());
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
pub fn now<T>(operation: impl Future<Output = T>) -> Option<T> {
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
pub struct Upload<'u, F> {
    future: Pin<&'u mut F>,
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
pub enum Interrupted {
    /// A bound was met.
    Expired(Expired),
    /// The downstream's half of the request failed.
    Downstream(DownstreamError),
}

impl<'u, F: Future<Output = Result<(), UploadError>>> Upload<'u, F> {
    /// An upload that has not been polled yet.
    pub const fn new(future: Pin<&'u mut F>) -> Self {
        Self {
            future,
            state: State::Running,
        }
    }

    /// Whether all of the request was sent.
    pub const fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Why the upstream does not take the rest, if it does not.
    pub fn broken(&mut self) -> Option<UpstreamError> {
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

    /// Runs an operation to its end.
    ///
    /// # Errors
    /// If a bound is met first, or the downstream's half fails.
    pub async fn beside<T>(
        &mut self,
        bounds: &mut Bounds<'_>,
        operation: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        let mut operation = pin!(operation);
        loop {
            let is_running = matches!(self.state, State::Running);
            tokio::select! {
                // The upload first: nothing is answered that was not sent.
                biased;
                ended = self.future.as_mut(), if is_running => match ended {
                    Ok(()) => {
                        self.state = State::Complete;
                        bounds.deadlines.on_request_complete(clock::now());
                    }
                    Err(UploadError::Upstream(error)) => self.state = State::Broken(error),
                    Err(UploadError::Downstream(error)) => {
                        self.state = State::Complete;
                        return Err(Interrupted::Downstream(error));
                    }
                },
                done = operation.as_mut() => return Ok(done),
                why = bounds.expired() => return Err(Interrupted::Expired(why)),
            }
        }
    }
}
