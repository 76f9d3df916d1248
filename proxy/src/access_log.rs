// SPDX-License-Identifier: Apache-2.0
//! Access logs: from a finished request or connection to a line in a file.
//!
//! [`mod@format`] turns a record into text by a compiled template, [`json`] into an object; both are
//! pure. [`LogBuffers`] is a worker's own: lines are gathered for each file and handed over when
//! there are enough of them, or each second. The one [`writer`] thread of the process owns the
//! files. Which logs there are is the configuration's to say.
//!
//! Invariant: a request never waits for a log. What the writer cannot take is dropped, and the
//! lines are counted.

pub mod format;
mod json;
mod time;
mod writer;

use std::cell::RefCell;
use std::sync::Arc;

use bytes::BytesMut;
use remora_ir::access_log::{AccessLog, Shape};

use crate::http::record::Record;

pub use writer::LogWriter;

/// Bytes of a file's lines that are handed over without waiting for the next second. Unit: bytes.
const HAND_OVER: usize = 16 * 1024;

/// A worker's lines on their way to the writer.
#[derive(Debug)]
pub struct LogBuffers {
    /// `None` drops everything.
    writer: Option<LogWriter>,
    /// Where all lines go, whatever path the configuration names.
    to: Option<Arc<str>>,
    by_path: RefCell<Vec<Buffer>>,
}

/// The lines of one file.
#[derive(Debug)]
struct Buffer {
    path: Arc<str>,
    bytes: BytesMut,
    lines: u64,
    /// Flushes since a line came; a file that is no longer configured is forgotten after some.
    idle: u8,
}

/// Flushes without a line after which a file's buffer is forgotten: a minute.
const FORGET_AFTER: u8 = 60;

impl LogBuffers {
    /// Empty buffers in front of a writer.
    pub const fn new(writer: LogWriter) -> Self {
        Self {
            writer: Some(writer),
            to: None,
            by_path: RefCell::new(Vec::new()),
        }
    }

    /// Buffers that drop everything: access logs are off.
    pub const fn discard() -> Self {
        Self {
            writer: None,
            to: None,
            by_path: RefCell::new(Vec::new()),
        }
    }

    /// Sends all lines to one path, whatever the configuration names.
    #[must_use]
    pub fn redirected(mut self, path: Arc<str>) -> Self {
        self.to = Some(path);
        self
    }

    /// Logs a request or connection that has ended. Allocates only when a buffer must grow.
    pub fn log(&self, logs: &[AccessLog], record: &Record<'_>) {
        let Some(writer) = &self.writer else { return };
        let mut by_path = self.by_path.borrow_mut();
        for log in logs {
            let buffer = find(&mut by_path, self.to.as_ref().unwrap_or(&log.path));
            match &log.shape {
                Shape::Text(format) => format::render_line(format, record, &mut buffer.bytes),
                Shape::Json(members) => json::render_line(members, record, &mut buffer.bytes),
            }
            buffer.lines += 1;
            if buffer.bytes.len() >= HAND_OVER {
                buffer.hand_over(writer);
            }
        }
    }

    /// Hands over what there is; called once a second and before the worker ends.
    pub fn flush(&self) {
        let Some(writer) = &self.writer else { return };
        let mut by_path = self.by_path.borrow_mut();
        for buffer in by_path.iter_mut() {
            buffer.hand_over(writer);
            buffer.idle = buffer.idle.saturating_add(1);
        }
        by_path.retain(|buffer| buffer.idle < FORGET_AFTER);
    }
}

impl Drop for LogBuffers {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Buffer {
    fn hand_over(&mut self, writer: &LogWriter) {
        if !self.bytes.is_empty() {
            writer.write(&self.path, self.bytes.split().freeze(), self.lines);
            // A busy file's buffer grows to the size it needs again; an idle one costs nothing.
            self.bytes = BytesMut::new();
            self.lines = 0;
            self.idle = 0;
        }
    }
}

/// The buffer of a file. There are few files, and their paths are mostly the same allocation.
fn find<'b>(buffers: &'b mut Vec<Buffer>, path: &Arc<str>) -> &'b mut Buffer {
    let is_it = |buffer: &Buffer| Arc::ptr_eq(&buffer.path, path) || buffer.path == *path;
    let at = buffers.iter().position(is_it).unwrap_or_else(|| {
        buffers.push(Buffer {
            path: Arc::clone(path),
            bytes: BytesMut::new(),
            lines: 0,
            idle: 0,
        });
        buffers.len() - 1
    });
    &mut buffers[at]
}

#[cfg(test)]
mod tests;
