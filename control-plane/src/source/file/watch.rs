// SPDX-License-Identifier: Apache-2.0
//! When to look at a folder again.
//!
//! Change notifications say that something changed and which writers are done; what changed is
//! always found by a scan, so that a lost notification costs time and nothing else. A slow poll
//! finds what notifications miss: changes behind links that leave the folder, network file
//! systems, an exhausted notification limit.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::{FileSource, SETTLE, Scan, Touched};
use crate::source::SourceSnapshot;

/// How often the folder is looked at in any case.
const POLL: Duration = Duration::from_secs(2);
/// How many notifications are taken at once; those left over wake again.
const MAX_EVENTS: usize = 4096;

/// Scans now and whenever something changed, and sends what is new, until nobody listens.
///
/// Cancel safety: may be dropped at any await; a scan that is under way finishes unseen.
///
/// # Errors
/// If a scan panicked, which is a bug: the source's memory is lost with it.
pub async fn watch(
    mut source: FileSource,
    sender: mpsc::Sender<SourceSnapshot>,
) -> Result<(), tokio::task::JoinError> {
    let mut notifier = Notifier::new();
    let mut touched = Touched::All;
    loop {
        let (returned, scan) = scan_apart(source, touched).await?;
        source = returned;
        let new_folders = notifier.follow(&scan.folders);
        if let Some(snapshot) = scan.snapshot
            && sender.send(snapshot).await.is_err()
        {
            return Ok(());
        }
        if new_folders {
            // Files may have come between the scan and the watch.
            touched = Touched::Files(HashSet::new());
            continue;
        }
        let pause = if scan.unsettled { SETTLE } else { POLL };
        touched = tokio::select! {
            touched = notifier.changed() => touched,
            () = tokio::time::sleep(pause) => Touched::Files(HashSet::new()),
            () = sender.closed() => return Ok(()),
        };
    }
}

/// A scan reads files and may parse megabytes: not on the runtime's own thread.
async fn scan_apart(
    mut source: FileSource,
    touched: Touched,
) -> Result<(FileSource, Scan), tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || {
        let scan = source.scan(&touched);
        (source, scan)
    })
    .await
}

/// Change notifications of folders.
struct Notifier {
    queue: Option<AsyncFd<OwnedFd>>,
    folders: HashMap<i32, PathBuf>,
}

impl Notifier {
    fn new() -> Self {
        #[expect(
            deprecated,
            reason = "its successor is unsafe, since a descriptor could be closed or replaced \
                      while it is registered; this one is owned and never lent mutably"
        )]
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(AsyncFd::new);
        if let Err(error) = &queue {
            tracing::warn!(%error, "no change notifications: the folder is polled");
        }
        Self {
            queue: queue.ok(),
            folders: HashMap::new(),
        }
    }

    /// Watches these folders; whether there are new ones among them.
    fn follow(&mut self, folders: &[PathBuf]) -> bool {
        let Some(queue) = &self.queue else {
            return false;
        };
        let what = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let mut followed = HashMap::new();
        for folder in folders {
            match inotify::add_watch(queue, folder, what) {
                Ok(id) => {
                    followed.insert(id, folder.clone());
                }
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "folder is not watched");
                }
            }
        }
        let new = followed.keys().any(|id| !self.folders.contains_key(id));
        for gone in self.folders.keys().filter(|id| !followed.contains_key(id)) {
            // Fails if the folder was deleted, and its watch with it.
            let _ = inotify::remove_watch(queue, *gone);
        }
        self.folders = followed;
        new
    }

    /// Waits for a change. Cancel safe: notifications stay in the queue until they are taken.
    async fn changed(&mut self) -> Touched {
        let Some(queue) = &self.queue else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = queue.readable().await else {
                return std::future::pending().await;
            };
            if let Some(touched) = take_events(queue.get_ref(), &self.folders) {
                return touched;
            }
            ready.clear_ready();
        }
    }
}

/// Takes what is in the queue; `None` if there is nothing.
fn take_events(queue: &OwnedFd, folders: &HashMap<i32, PathBuf>) -> Option<Touched> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
    let mut reader = inotify::Reader::new(queue, &mut buffer);
    let mut done = HashSet::new();
    let mut any = false;
    for _ in 0..MAX_EVENTS {
        let Ok(event) = reader.next() else { break };
        any = true;
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Touched::All);
        }
        let complete = event
            .events()
            .intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO);
        if let (true, Some(name), Some(folder)) =
            (complete, event.file_name(), folders.get(&event.wd()))
        {
            done.insert(folder.join(OsStr::from_bytes(name.to_bytes())));
        }
    }
    any.then_some(Touched::Files(done))
}

#[cfg(test)]
mod tests;
