// SPDX-License-Identifier: Apache-2.0
//! The thread that owns the log files.
//!
//! Workers hand it whole lines through a bounded queue; it appends them, one write each time.
//! A slow disk fills the queue, and then lines are dropped and counted; a failed write is counted
//! and the next one tried. Files are opened when first written to and again after
//! [`reopen`](LogWriter::reopen), so that they can be rotated.
//!
//! Invariant: nobody but this thread ever waits for a disk.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use remora_telemetry::{Registry, ScopeKind, SharedCounter};

/// Buffers that may wait: of 16 KiB each, so 4 MiB at most.
const QUEUE: usize = 256;

/// A file that was not written to for so long is closed.
const CLOSE_AFTER: Duration = Duration::from_secs(60);

/// The way to the writer thread. Clones lead to the same one; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct LogWriter {
    queue: SyncSender<Order>,
    counters: Counters,
}

#[derive(Clone, Debug)]
struct Counters {
    /// Lines that the queue had no room for, or that could not be written.
    lines_dropped: SharedCounter,
    write_completed: SharedCounter,
    write_failed: SharedCounter,
    reopen_failed: SharedCounter,
}

#[derive(Debug)]
enum Order {
    Write {
        path: Arc<str>,
        bytes: Bytes,
        lines: u64,
    },
    Reopen,
    Sync(SyncSender<()>),
}

impl LogWriter {
    /// Starts the thread. Its counters are `access_log.lines_dropped` and Envoy's
    /// `filesystem.write_completed`, `.write_failed`, `.reopen_failed`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(metrics: &Registry) -> io::Result<Self> {
        let files = metrics.scope(ScopeKind::Plain, "filesystem");
        let counters = Counters {
            lines_dropped: metrics
                .scope(ScopeKind::Plain, "access_log")
                .shared_counter("lines_dropped"),
            write_completed: files.shared_counter("write_completed"),
            write_failed: files.shared_counter("write_failed"),
            reopen_failed: files.shared_counter("reopen_failed"),
        };
        let (queue, orders) = sync_channel(QUEUE);
        let files = Files {
            open: BTreeMap::new(),
            counters: counters.clone(),
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || files.run(&orders))?;
        Ok(Self { queue, counters })
    }

    /// Hands over whole lines; drops and counts them if the queue is full.
    pub fn write(&self, path: &Arc<str>, bytes: Bytes, lines: u64) {
        let order = Order::Write {
            path: Arc::clone(path),
            bytes,
            lines,
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(order)
        {
            self.counters.lines_dropped.add(lines);
        }
    }

    /// Has all files opened anew before the next line; for log rotation. False if the queue is
    /// full: ask again.
    pub fn reopen(&self) -> bool {
        self.queue.try_send(Order::Reopen).is_ok()
    }

    /// Waits until what was handed over before is written, or `within` has passed; says which.
    /// Blocks the thread: for the end of the process and for tests.
    pub fn sync(&self, within: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.queue.try_send(Order::Sync(done)).is_ok() && wait.recv_timeout(within).is_ok()
    }
}

/// What the thread owns.
#[derive(Debug)]
struct Files {
    open: BTreeMap<Arc<str>, Open>,
    counters: Counters,
}

#[derive(Debug)]
struct Open {
    file: File,
    is_used: bool,
}

impl Files {
    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(CLOSE_AFTER) {
                Ok(Order::Write { path, bytes, lines }) => self.write(path, &bytes, lines),
                Ok(Order::Reopen) => self.reopen(),
                // Whoever asked may have stopped waiting.
                Ok(Order::Sync(done)) => drop(done.try_send(())),
                Err(RecvTimeoutError::Timeout) => self.close_unused(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, path: Arc<str>, bytes: &[u8], lines: u64) {
        if let Err(error) = self.try_write(&path, bytes) {
            self.counters.write_failed.increment();
            self.counters.lines_dropped.add(lines);
            tracing::debug!(path = &*path, %error, lines, "access log lines lost");
        } else {
            self.counters.write_completed.increment();
        }
    }

    fn try_write(&mut self, path: &Arc<str>, bytes: &[u8]) -> io::Result<()> {
        if !self.open.contains_key(path) {
            let file = open(path)?;
            self.open.insert(
                Arc::clone(path),
                Open {
                    file,
                    is_used: true,
                },
            );
        }
        match self.open.get_mut(path) {
            Some(open) => {
                open.is_used = true;
                open.file.write_all(bytes)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A file that cannot be opened again stays open as it was.
    fn reopen(&mut self) {
        for (path, old) in &mut self.open {
            match open(path) {
                Ok(file) => old.file = file,
                Err(error) => {
                    self.counters.reopen_failed.increment();
                    tracing::warn!(path = &**path, %error, "access log cannot be opened again");
                }
            }
        }
    }

    fn close_unused(&mut self) {
        self.open
            .retain(|_, open| std::mem::take(&mut open.is_used));
    }
}

/// Opens a file for appending. The standard streams are duplicated: opening them by name fails
/// where another user owns the terminal or the pipe, as in containers.
fn open(path: &str) -> io::Result<File> {
    match path {
        "/dev/stdout" => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        "/dev/stderr" => io::stderr().as_fd().try_clone_to_owned().map(File::from),
        // The standard library sets O_CLOEXEC on everything it opens.
        path => OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn writer() -> (LogWriter, Registry) {
        let metrics = Registry::new();
        (LogWriter::start(&metrics).expect("thread"), metrics)
    }

    fn path_of(dir: &tempfile::TempDir, name: &str) -> Arc<str> {
        dir.path().join(name).to_str().expect("UTF-8").into()
    }

    fn count(metrics: &Registry, name: &str) -> String {
        let all = metrics.render_stats(remora_telemetry::Used::All, |_| true);
        let line = all
            .lines()
            .find(|line| line.starts_with(&format!("{name}: ")));
        line.and_then(|line| line.rsplit(' ').next())
            .unwrap_or("none")
            .to_owned()
    }

    #[test]
    fn lines_are_appended_and_a_rotated_file_is_opened_anew() {
        let dir = tempfile::tempdir().expect("folder");
        let (writer, metrics) = writer();
        let path = path_of(&dir, "a.log");
        std::fs::write(&*path, "old\n").expect("file");
        writer.write(&path, Bytes::from_static(b"one\n"), 1);
        assert!(writer.sync(SOON));
        std::fs::rename(&*path, dir.path().join("a.log.1")).expect("rotate");
        writer.write(&path, Bytes::from_static(b"two\n"), 1);
        assert!(writer.reopen());
        writer.write(&path, Bytes::from_static(b"three\n"), 1);
        assert!(writer.sync(SOON));
        let read = |name| std::fs::read_to_string(dir.path().join(name)).expect("file");
        assert_eq!(read("a.log.1"), "old\none\ntwo\n");
        assert_eq!(read("a.log"), "three\n");
        assert_eq!(count(&metrics, "filesystem.write_completed"), "3");
    }

    #[test]
    fn a_full_disk_is_counted_and_harms_no_other_file() {
        let dir = tempfile::tempdir().expect("folder");
        let (writer, metrics) = writer();
        let good = path_of(&dir, "a.log");
        writer.write(&"/dev/full".into(), Bytes::from_static(b"a\nb\n"), 2);
        writer.write(&"/nonexistent/a.log".into(), Bytes::from_static(b"a\n"), 1);
        writer.write(&good, Bytes::from_static(b"one\n"), 1);
        assert!(writer.sync(SOON));
        assert_eq!(std::fs::read_to_string(&*good).expect("file"), "one\n");
        assert_eq!(count(&metrics, "filesystem.write_failed"), "2");
        assert_eq!(count(&metrics, "access_log.lines_dropped"), "3");
    }

    #[test]
    fn a_full_queue_drops_and_counts_lines_at_once() {
        let metrics = Registry::new();
        let (queue, _orders) = sync_channel(1);
        let scope = metrics.scope(ScopeKind::Plain, "access_log");
        let counter = |name: &'static str| scope.shared_counter(name);
        let counters = Counters {
            lines_dropped: counter("lines_dropped"),
            write_completed: counter("a"),
            write_failed: counter("b"),
            reopen_failed: counter("c"),
        };
        let writer = LogWriter { queue, counters };
        let path: Arc<str> = "/dev/null".into();
        writer.write(&path, Bytes::from_static(b"a\n"), 1);
        writer.write(&path, Bytes::from_static(b"b\nc\n"), 2);
        assert_eq!(count(&metrics, "access_log.lines_dropped"), "2");
        assert!(!writer.reopen() && !writer.sync(Duration::ZERO));
    }
}
