// SPDX-License-Identifier: Apache-2.0
//! A folder of YAML and JSON files as a source.
//!
//! * [`folder`]: which files there are, links and sub-folders followed within bounds;
//! * [`watch`]: when to look again: change notifications, and a slow poll for what they miss.
//!
//! [`FileSource::scan`] looks at the folder and reads what changed. **Invariants:** the unit is
//! the file. A file with something written wrongly changes nothing that is served: its last good
//! content stays until it is sound again. If it never was (at start), its sound objects are used.
//! An object that is written well but asks for what cannot be given (TLS to upstreams) is left
//! out by itself, its last good version stays. A file that is gone takes its objects with it; one
//! that cannot be read, or lies below a folder that cannot, does not.

pub mod folder;
pub mod watch;

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use xxhash_rust::xxh64::xxh64;

use self::folder::{Listing, Stamp};
use super::SourceSnapshot;
use super::assemble::assemble;
use super::finding::{Finding, Severity};
use super::manifest::document::{about_file, unreadable};
use super::manifest::{FileContent, Object, read_text};

/// How a folder is read.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// The largest file that is read. Unit: bytes.
    pub max_file_bytes: u64,
    /// The most files that are read.
    pub max_files: usize,
    /// The domain of the cluster, with which short names end.
    pub cluster_domain: Arc<str>,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            max_file_bytes: 10 * 1024 * 1024,
            max_files: 10_000,
            cluster_domain: "cluster.local".into(),
        }
    }
}

/// Which files a scan reads without waiting for their writers.
#[derive(Clone, Debug)]
pub enum Touched {
    /// All: at start, or when nothing is known.
    All,
    /// Those whose writers are known to be done; others that look half-written are left for the
    /// next scan.
    Files(HashSet<PathBuf>),
}

/// What a scan found.
#[derive(Debug)]
pub struct Scan {
    /// The folder's content, if it differs from the last scan's.
    pub snapshot: Option<SourceSnapshot>,
    /// Whether a file was left for the next scan.
    pub unsettled: bool,
    /// The folders that were visited, to be watched.
    pub folders: Vec<PathBuf>,
}

/// A file whose last write is younger than this may not be complete, unless its writer is known
/// to be done. Longer than any gap between two writes of one `write(2)` loop.
const SETTLE: Duration = Duration::from_millis(25);

/// A folder, and what was last read of it.
#[derive(Debug)]
pub struct FileSource {
    root: PathBuf,
    options: FileOptions,
    files: BTreeMap<PathBuf, FileState>,
    folder_findings: Vec<Finding>,
    scanned: bool,
}

#[derive(Debug)]
struct FileState {
    stamp: Stamp,
    /// Whether the stamp can be trusted: a write in the same clock tick would not show in it.
    settled: bool,
    hash: u64,
    served: Vec<Arc<Object>>,
    ever_sound: bool,
    findings: Vec<Finding>,
}

impl FileSource {
    /// A source for a folder. Nothing is read yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, options: FileOptions) -> Self {
        Self {
            root: root.into(),
            options,
            files: BTreeMap::new(),
            folder_findings: Vec::new(),
            scanned: false,
        }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at the folder and reads what changed. Blocks on the file system.
    pub fn scan(&mut self, touched: &Touched) -> Scan {
        let listing = folder::list(&self.root, self.options.max_files);
        let mut changed = !self.scanned || listing.findings != self.folder_findings;
        changed |= self.forget_missing(&listing);
        let mut unsettled = false;
        for (name, found) in &listing.files {
            if self
                .files
                .get(name)
                .is_some_and(|s| s.settled && s.stamp == found.stamp)
            {
                continue;
            }
            let settled = is_settled(&found.stamp);
            let may_read = settled
                || match touched {
                    Touched::All => true,
                    Touched::Files(done) => done.contains(&found.path),
                };
            if may_read {
                changed |= self.read(name, &found.path, found.stamp.clone());
            }
            unsettled |= !settled;
        }
        self.folder_findings = listing.findings;
        self.scanned = true;
        let snapshot = changed.then(|| self.snapshot());
        Scan {
            snapshot,
            unsettled,
            folders: listing.folders,
        }
    }

    /// Forgets files that are gone, unless they may only be out of sight.
    fn forget_missing(&mut self, listing: &Listing) -> bool {
        let before = self.files.len();
        self.files.retain(|name, _| {
            listing.files.contains_key(name) || listing.hidden.iter().any(|h| name.starts_with(h))
        });
        self.files.len() != before
    }

    /// Reads one file; whether anything is different.
    fn read(&mut self, name: &Path, path: &Path, stamp: Stamp) -> bool {
        let settled = is_settled(&stamp);
        let previous = self.files.get_mut(name);
        let label: Arc<str> = path.to_string_lossy().into();
        let bytes = read_bytes(path, self.options.max_file_bytes);
        let hash = match &bytes {
            Ok(bytes) => xxh64(bytes, 0),
            Err(reason) => xxh64(reason.as_bytes(), 1),
        };
        if let Some(same) = previous.filter(|state| state.hash == hash) {
            (same.stamp, same.settled) = (stamp, settled);
            return false;
        }
        let content = match bytes {
            Ok(bytes) => read_content(&label, &bytes, &self.options.cluster_domain),
            Err(reason) => unreadable(&label, 0, reason),
        };
        let previous = self.files.remove(name);
        let state = FileState {
            stamp,
            settled,
            hash,
            ..settle(content, previous, &label)
        };
        self.files.insert(name.to_owned(), state);
        true
    }

    fn snapshot(&self) -> SourceSnapshot {
        let objects: Vec<_> = self
            .files
            .values()
            .flat_map(|f| &f.served)
            .cloned()
            .collect();
        let mut snapshot = assemble(&objects, &self.options.cluster_domain);
        snapshot
            .findings
            .extend(self.folder_findings.iter().cloned());
        snapshot
            .findings
            .extend(self.files.values().flat_map(|f| f.findings.iter().cloned()));
        snapshot.findings.sort();
        snapshot.findings.dedup();
        snapshot
    }
}

/// Decides what of a file's new content is served. Stamp and hash are the caller's to set.
fn settle(content: FileContent, previous: Option<FileState>, file: &Arc<str>) -> FileState {
    let FileContent {
        objects,
        refused,
        broken,
        mut findings,
    } = content;
    let (before, ever_sound) = previous.map_or((Vec::new(), false), |p| (p.served, p.ever_sound));
    let hold = broken && !before.is_empty() && (ever_sound || objects.is_empty());
    let served = if hold {
        let reason = "the file is not applied: its last good content stays".to_owned();
        findings.push(about_file(file, Severity::Error, 0, reason));
        before
    } else {
        let kept = before
            .into_iter()
            .filter(|object| refused.contains(object.origin()));
        kept.chain(objects.into_iter().map(Arc::new)).collect()
    };
    FileState {
        stamp: Stamp::default(),
        settled: false,
        hash: 0,
        served,
        ever_sound: ever_sound || !broken,
        findings,
    }
}

fn is_settled(stamp: &Stamp) -> bool {
    // A time in the future is a clock that was set: waiting would not help.
    let age = SystemTime::now().duration_since(stamp.changed());
    age.map_or(true, |age| age >= SETTLE)
}

fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let too_large = |size: u64| format!("file is {size} bytes large (at most {limit}): not read");
    // Non-blocking, so that a named pipe put in a file's place cannot hold up the scan.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(|error| error.to_string())?;
    let mut open = std::fs::OpenOptions::new();
    let file = open
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| describe(&e))?;
    let metadata = file.metadata().map_err(|e| describe(&e))?;
    if !metadata.is_file() {
        return Err("not a regular file: not read".to_owned());
    }
    if metadata.len() > limit {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| describe(&e))?;
    match u64::try_from(bytes.len()) {
        Ok(size) if size <= limit => Ok(bytes),
        _ => Err(too_large(limit + 1)),
    }
}

fn describe(error: &std::io::Error) -> String {
    format!("cannot be read: {error}")
}

fn read_content(file: &Arc<str>, bytes: &[u8], domain: &Arc<str>) -> FileContent {
    match std::str::from_utf8(bytes) {
        Ok(text) => read_text(file, text, domain),
        Err(error) => {
            let sound = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let breaks = sound.iter().filter(|byte| **byte == b'\n').count();
            let line = u32::try_from(breaks + 1).unwrap_or(u32::MAX);
            unreadable(file, line, "not UTF-8 text".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
