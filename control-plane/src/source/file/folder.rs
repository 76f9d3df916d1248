// SPDX-License-Identifier: Apache-2.0
//! Which files a folder holds.
//!
//! Files that end in `.yaml`, `.yml` or `.json` count, in sub-folders too; links are followed, as
//! mounted ConfigMaps need (`x.yaml -> ..data/x.yaml -> ..2026_01_01/x.yaml`). Names that start
//! with a dot are passed over, `..data` among them, or each file would be met three times.
//!
//! **Invariant:** the walk ends: depth and number are bounded, and a link that leads back to a
//! folder above itself is reported and not followed.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::source::finding::{Finding, Severity};
use crate::source::manifest::document::about_file;

/// How deep sub-folders may lie.
const MAX_DEPTH: usize = 16;
/// How many entries are looked at for each file that may be read.
const ENTRIES_PER_FILE: usize = 10;

/// What a walk found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Files by their path below the root.
    pub files: BTreeMap<PathBuf, FoundFile>,
    /// The folders that were visited, as they are to be watched.
    pub folders: Vec<PathBuf>,
    /// Paths below the root that could not be looked at: what was known below them may still
    /// be there.
    pub hidden: Vec<PathBuf>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// A file that was found.
#[derive(Debug)]
pub struct FoundFile {
    /// Its path as findings name it.
    pub path: PathBuf,
    /// Its mark.
    pub stamp: Stamp,
}

/// A mark that differs when a file was written or replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    identity: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// When the file was last written, linked or renamed.
    #[must_use]
    pub fn changed(&self) -> SystemTime {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let nanos = u64::try_from(self.changed.1).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos)
    }
}

/// Walks a folder.
#[must_use]
pub fn list(root: &Path, max_files: usize) -> Listing {
    let mut walk = Walk {
        root,
        listing: Listing::default(),
        budget: 0,
        max_files,
    };
    walk.budget = max_files.saturating_mul(ENTRIES_PER_FILE);
    let mut pending = Vec::new();
    match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => pending.push(Folder {
            name: PathBuf::new(),
            above: Vec::new(),
            identity: (metadata.dev(), metadata.ino()),
        }),
        Ok(_) => walk.hide(Path::new(""), "not a folder".to_owned()),
        Err(error) => walk.hide(Path::new(""), format!("cannot be read: {error}")),
    }
    while let Some(folder) = pending.pop() {
        walk.enter(&folder, &mut pending);
    }
    let mut listing = walk.listing;
    listing.findings.sort();
    listing
}

struct Walk<'a> {
    root: &'a Path,
    listing: Listing,
    budget: usize,
    max_files: usize,
}

/// A folder to be visited.
struct Folder {
    name: PathBuf,
    above: Vec<(u64, u64)>,
    identity: (u64, u64),
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Folder, pending: &mut Vec<Folder>) {
        let path = self.root.join(&folder.name);
        // Watched even if it cannot be read: that may change.
        self.listing.folders.push(path.clone());
        let mut names: Vec<PathBuf> = match std::fs::read_dir(&path) {
            Ok(entries) => {
                let names = entries
                    .flatten()
                    .map(|entry| PathBuf::from(entry.file_name()));
                names.take(self.budget + 1).collect()
            }
            // Gone since it was found: so are its files.
            Err(error) if is_gone(&error) && folder.name != Path::new("") => return,
            Err(error) => return self.hide(&folder.name, format!("cannot be read: {error}")),
        };
        names.sort();
        for name in names {
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            if self.budget == 0 || self.listing.files.len() >= self.max_files {
                let reason = format!("too many files (at most {}): not read", self.max_files);
                return self.hide(&folder.name, reason);
            }
            self.budget -= 1;
            self.visit(folder, &folder.name.join(name), pending);
        }
    }

    fn visit(&mut self, folder: &Folder, name: &Path, pending: &mut Vec<Folder>) {
        let path = self.root.join(name);
        let wanted = is_wanted(name);
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                let link = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink());
                match (link, wanted) {
                    (true, _) => self.hide(name, format!("link leads nowhere: {error}")),
                    (false, true) if !is_gone(&error) => {
                        self.hide(name, format!("cannot be read: {error}"));
                    }
                    _ => {}
                }
                return;
            }
        };
        if !metadata.is_dir() {
            if wanted {
                let stamp = Stamp::new(&metadata);
                self.listing
                    .files
                    .insert(name.to_owned(), FoundFile { path, stamp });
            }
            return;
        }
        let identity = (metadata.dev(), metadata.ino());
        let mut above = folder.above.clone();
        above.push(folder.identity);
        if above.contains(&identity) {
            self.hide(
                name,
                "link leads back to a folder above it: not followed".to_owned(),
            );
        } else if above.len() >= MAX_DEPTH {
            self.hide(
                name,
                format!("folders lie too deep (at most {MAX_DEPTH}): not read"),
            );
        } else {
            pending.push(Folder {
                name: name.to_owned(),
                above,
                identity,
            });
        }
    }

    fn hide(&mut self, name: &Path, reason: String) {
        self.listing.hidden.push(name.to_owned());
        let path = if name == Path::new("") {
            self.root.to_owned()
        } else {
            self.root.join(name)
        };
        let finding = about_file(&path.to_string_lossy(), Severity::Error, 0, reason);
        self.listing.findings.push(finding);
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn is_wanted(name: &Path) -> bool {
    let extension = name.extension().unwrap_or_default();
    ["yaml", "yml", "json"]
        .iter()
        .any(|wanted| extension.eq_ignore_ascii_case(wanted))
}
