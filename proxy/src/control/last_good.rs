// SPDX-License-Identifier: Apache-2.0
//! The last good configuration on disk, so that a proxy boots and serves while no control plane
//! can be reached.
//!
//! What is kept are the raw resources that were accepted, with their versions; at boot they take
//! the same road as if the control plane had sent them. [`encode`] and [`decode`] make and
//! read the bytes, [`Store`] the file, and [`keep`] is the task that writes changes, some time
//! after they happened and off the control thread.
//!
//! Invariant: the file is whole or absent (temporary file, sync, rename), readable by its owner
//! alone, and never holds a private key; a file that is not exactly what was written is refused.

mod file_format;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use remora_xds_types::ResourceType;
use rustix::fs::OFlags;
use tokio::sync::watch;
use xxhash_rust::xxh64::xxh64;

pub use file_format::{Damage, decode, encode};

/// What is kept: the accepted resources of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Whose configuration it is.
    pub node_id: String,
    /// The resources, in push order.
    pub resources: Vec<KeptResource>,
}

/// One accepted resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptResource {
    /// Its kind.
    pub kind: ResourceType,
    /// Its name.
    pub name: Arc<str>,
    /// The version that the control plane gave it.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
}

impl KeptResource {
    /// Whether it may lie on disk. Secrets never do, nor does anything with a private key in it.
    fn may_be_kept(&self) -> bool {
        let has_key = || {
            self.body
                .windows(PRIVATE_KEY.len())
                .any(|window| window == PRIVATE_KEY)
        };
        self.kind != ResourceType::Secret && !has_key()
    }
}

/// Why there is no last good configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("`{path}` is refused")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Damage,
    },
    /// The file is another proxy's.
    #[error("`{path}` belongs to node `{found}`, expected `{expected}`")]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        expected: String,
    },
}

/// The file of one node.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    path: PathBuf,
    node_id: String,
}

impl Store {
    /// The file of `node_id` in a directory that several proxies may share.
    pub fn new(directory: &Path, node_id: &str) -> Self {
        let name = format!("last-good-{:016x}", xxh64(node_id.as_bytes(), 0));
        Self {
            directory: directory.to_owned(),
            path: directory.join(name),
            node_id: node_id.to_owned(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it; `None` if there is no file. Blocks on the disk.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged in any way, or is another node's.
    pub fn load(&self) -> Result<Option<Contents>, LoadError> {
        let bytes = match self.read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = self.path.clone();
                return Err(LoadError::Read { path, source });
            }
        };
        let contents = decode(&Bytes::from(bytes)).map_err(|source| LoadError::Damaged {
            path: self.path.clone(),
            source,
        })?;
        if contents.node_id != self.node_id {
            return Err(LoadError::OtherNode {
                path: self.path.clone(),
                found: contents.node_id,
                expected: self.node_id.clone(),
            });
        }
        Ok(Some(contents))
    }

    /// Replaces it. Blocks on the disk.
    ///
    /// # Errors
    /// What the system said; the file that was there before stays as it was.
    pub fn save(&self, resources: &[KeptResource]) -> io::Result<()> {
        let bytes = encode(&self.node_id, resources.iter().filter(|r| r.may_be_kept()));
        std::fs::create_dir_all(&self.directory)?;
        let temporary = self.path.with_extension("tmp");
        let written = write_whole(&temporary, &bytes)
            .and_then(|()| std::fs::rename(&temporary, &self.path))
            .and_then(|()| File::open(&self.directory)?.sync_all());
        if written.is_err() {
            // What is left of it would only take room on a disk that may be full.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    /// Says at once whether the directory can be written to, before there is anything to keep.
    ///
    /// # Errors
    /// What the system said.
    pub fn probe(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let temporary = self.path.with_extension("probe");
        write_whole(&temporary, b"")?;
        std::fs::remove_file(temporary)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(no_follow())
            .open(&self.path)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// How the task that keeps the file is doing, for the metrics.
#[derive(Debug, Default)]
pub struct Kept {
    /// Files written.
    pub written: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
}

/// Writes what the channel holds, [`SETTLE`] after it changed, until the sender is gone; what is
/// unwritten then is written at once. Failures are logged when they begin and when they end, and
/// never stop the task: the old file stays, the next change tries again.
pub async fn keep(store: Store, mut wanted: watch::Receiver<Arc<[KeptResource]>>, kept: Arc<Kept>) {
    let mut is_failing = false;
    while wanted.changed().await.is_ok() {
        // Cut short when the sender goes: an ending process does not wait.
        let gone = async { while wanted.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(SETTLE, gone).await;
        let resources = Arc::clone(&wanted.borrow_and_update());
        let target = store.clone();
        let saved = tokio::task::spawn_blocking(move || target.save(&resources)).await;
        match saved.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(()) => {
                kept.written.fetch_add(1, Ordering::Relaxed);
                if is_failing {
                    tracing::info!(path = %store.path.display(), "last good configuration: kept again");
                }
                is_failing = false;
            }
            Err(error) => {
                kept.failed.fetch_add(1, Ordering::Relaxed);
                if !is_failing {
                    tracing::warn!(path = %store.path.display(), %error,
                        "last good configuration: cannot be kept, the previous file stays");
                }
                is_failing = true;
            }
        }
    }
}

/// Writes a file that did not exist or is overwritten, readable by its owner alone, to the disk.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(OWNER_ONLY)
        .custom_flags(no_follow())
        .open(path)?;
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(OWNER_ONLY))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A link in the place of the file would have others choose what is read or overwritten.
fn no_follow() -> i32 {
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

/// What stands in every private key in PEM form.
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

/// How long changes may gather before they are written: a push is several updates.
const SETTLE: Duration = Duration::from_millis(500);

/// A larger file is not read to its end, and so refused as truncated. Unit: bytes.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// The mode of the file.
const OWNER_ONLY: u32 = 0o600;

#[cfg(test)]
mod tests;
