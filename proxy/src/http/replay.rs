// SPDX-License-Identifier: Apache-2.0
//! A request's body that can be sent again.
//!
//! Frames are kept as references to their buffers from the moment an attempt can fail, up to a
//! limit; beyond it the body can be sent only once, and a retry says so instead of sending a
//! part. Mirrors take the same frames once the body has ended.

use std::cell::Cell;
use std::collections::VecDeque;

use super::downstream::{DownstreamError, RequestBody};
use super::upload::now;
use crate::frame::Frame;

/// Whether frames are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Up to so many bytes.
    UpTo(usize),
    /// Nothing needs them again.
    Nothing,
}

/// A body with a memory.
#[derive(Debug)]
pub struct Replay<'c> {
    source: RequestBody<'c>,
    keep: Keep,
    kept: VecDeque<Frame>,
    kept_bytes: usize,
    /// The next kept frame that this attempt sends.
    cursor: usize,
    /// Whether a frame went by that was not kept.
    is_lost: bool,
    is_ended: bool,
    /// Body bytes that came from the downstream; shared with the log.
    received: &'c Cell<u64>,
}

/// What a kept frame counts at least: its own place and that in its buffer, so that a body of
/// single bytes is no way around the limit. Unit: bytes.
const LEAST: usize = 128;

/// Frames that [`Replay::discard_ready`] takes at most.
const DISCARDED: usize = 16;

impl<'c> Replay<'c> {
    /// A body from its source.
    pub fn new(source: RequestBody<'c>, keep: Keep, received: &'c Cell<u64>) -> Self {
        let is_ended = matches!(source, RequestBody::Empty);
        Self {
            source,
            keep,
            kept: VecDeque::new(),
            kept_bytes: 0,
            cursor: 0,
            is_lost: false,
            is_ended,
            received,
        }
    }

    /// Begins to keep; only before the first frame was taken.
    pub fn keep_from_start(&mut self, keep: Keep) {
        if self.received.get() == 0 && !self.is_lost {
            self.keep = keep;
        }
    }

    /// Starts from the beginning; false if that is no longer possible.
    pub const fn rewind(&mut self) -> bool {
        self.cursor = 0;
        !self.is_lost
    }

    /// Whether there is no body at all.
    pub fn is_empty(&self) -> bool {
        self.is_ended && !self.is_lost && self.kept.is_empty()
    }

    /// Whether it can no longer be sent from its beginning.
    pub const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether the downstream has sent all of it.
    pub const fn is_received(&self) -> bool {
        self.is_ended
    }

    /// Whether a repetition would find the body from its beginning, as far as is known.
    pub fn is_repeatable(&self) -> bool {
        !self.is_lost && (self.is_ended || self.keep != Keep::Nothing)
    }

    /// Takes what has arrived of a body that nobody wants any more, so that a request that is
    /// answered early does not always cost its connection.
    pub fn discard_ready(&mut self) {
        self.keep = Keep::Nothing;
        self.kept.clear();
        for _ in 0..DISCARDED {
            match now(self.next()) {
                Some(Ok(Some(_))) => {}
                Some(Ok(None) | Err(_)) | None => return,
            }
        }
    }

    /// All frames, if the body has ended and every one was kept.
    pub fn whole(&self) -> Option<impl Iterator<Item = &Frame>> {
        (self.is_ended && !self.is_lost).then(|| self.kept.iter())
    }

    /// The next frame of this attempt; `None` at the end.
    ///
    /// *Cancel safety*: safe.
    ///
    /// # Errors
    /// If the downstream went away or breaks its protocol.
    pub async fn next(&mut self) -> Result<Option<Frame>, DownstreamError> {
        if let Some(frame) = self.kept.get(self.cursor) {
            let frame = frame.clone();
            self.cursor += 1;
            return Ok(Some(frame));
        }
        if self.is_ended {
            return Ok(None);
        }
        let frame = self.source.frame().await?;
        match &frame {
            None => self.is_ended = true,
            Some(frame) => {
                self.on_frame(frame);
                // Known without waiting for a further frame: the route's clock starts now.
                self.is_ended = self.source.is_done();
            }
        }
        Ok(frame)
    }

    fn on_frame(&mut self, frame: &Frame) {
        let size = match frame {
            Frame::Data(data) => data.len(),
            Frame::Trailers(trailers) => trailers.byte_size(),
        };
        if let Frame::Data(data) = frame {
            self.received
                .set(self.received.get().saturating_add(data.len() as u64));
        }
        let size = size.max(LEAST);
        match self.keep {
            Keep::UpTo(limit) if !self.is_lost && self.kept_bytes + size <= limit => {
                self.kept_bytes += size;
                self.kept.push_back(frame.clone());
                self.cursor += 1;
            }
            Keep::UpTo(_) | Keep::Nothing => {
                self.is_lost = true;
                self.kept.clear();
                self.cursor = 0;
            }
        }
    }
}
