// SPDX-License-Identifier: Apache-2.0
//! The watcher on real folders, as editors and ConfigMap mounts change them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::super::FileOptions;
use super::*;

struct Watched {
    folder: TempDir,
    snapshots: mpsc::Receiver<SourceSnapshot>,
    task: JoinHandle<Result<(), tokio::task::JoinError>>,
}

impl Watched {
    fn start(folder: TempDir) -> Self {
        let source = FileSource::new(folder.path(), FileOptions::default());
        let (sender, snapshots) = mpsc::channel(1);
        let task = tokio::spawn(watch(source, sender));
        Self {
            folder,
            snapshots,
            task,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until exactly these services are served.
    async fn until(&mut self, expected: &[&str]) {
        let mut last = Vec::new();
        let wait = async {
            while let Some(snapshot) = self.snapshots.recv().await {
                last = snapshot
                    .parts
                    .services
                    .iter()
                    .map(|s| s.name.to_string())
                    .collect();
                if last == expected {
                    return;
                }
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(10), wait).await;
        assert!(
            outcome.is_ok() && last == expected,
            "expected {expected:?}, last {last:?}"
        );
    }
}

fn write(path: &Path, name: &str) {
    let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{}}\n");
    fs::write(path, text).expect("file can be written");
}

fn folder() -> TempDir {
    TempDir::new().expect("folder can be made")
}

#[tokio::test]
async fn writes_renames_and_deletions_are_seen() {
    let mut watched = Watched::start(folder());
    watched.until(&[]).await;
    write(&watched.path("a.yaml"), "one");
    watched.until(&["one"]).await;
    write(&watched.path("a.yaml"), "two");
    watched.until(&["two"]).await;
    write(&watched.path(".a.yaml.tmp"), "three");
    fs::rename(watched.path(".a.yaml.tmp"), watched.path("a.yaml")).expect("can be renamed");
    watched.until(&["three"]).await;
    fs::rename(watched.path("a.yaml"), watched.path("a.yaml~")).expect("can be renamed");
    watched.until(&[]).await;
    write(&watched.path("b.yml"), "four");
    watched.until(&["four"]).await;
    fs::remove_file(watched.path("b.yml")).expect("can be removed");
    watched.until(&[]).await;
}

#[tokio::test]
async fn new_sub_folders_are_watched() {
    let mut watched = Watched::start(folder());
    watched.until(&[]).await;
    fs::create_dir_all(watched.path("x/y")).expect("folder can be made");
    write(&watched.path("x/y/a.yaml"), "one");
    watched.until(&["one"]).await;
    write(&watched.path("x/y/a.yaml"), "two");
    watched.until(&["two"]).await;
    fs::remove_dir_all(watched.path("x")).expect("folder can be removed");
    watched.until(&[]).await;
}

#[tokio::test]
async fn a_config_map_swap_is_one_change() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    for (version, service) in [("..v1", "one"), ("..v2", "two")] {
        fs::create_dir(path(version)).expect("folder can be made");
        write(&path(version).join("a.yaml"), service);
    }
    symlink("..v1", path("..data")).expect("link can be made");
    symlink("..data/a.yaml", path("a.yaml")).expect("link can be made");
    symlink("..v2", path("..data_tmp")).expect("link can be made");
    let mut watched = Watched::start(folder);
    watched.until(&["one"]).await;
    fs::rename(watched.path("..data_tmp"), watched.path("..data")).expect("can be renamed");
    watched.until(&["two"]).await;
}

#[tokio::test]
async fn changes_behind_links_that_leave_the_folder_are_found_by_the_poll() {
    let (folder, elsewhere) = (folder(), folder());
    let target = elsewhere.path().join("real.yaml");
    write(&target, "one");
    symlink(&target, folder.path().join("a.yaml")).expect("link can be made");
    let mut watched = Watched::start(folder);
    watched.until(&["one"]).await;
    write(&target, "two");
    watched.until(&["two"]).await;
}

#[tokio::test]
async fn the_watch_ends_when_nobody_listens() {
    let watched = Watched::start(folder());
    drop(watched.snapshots);
    let ended = tokio::time::timeout(Duration::from_secs(10), watched.task).await;
    assert!(matches!(ended, Ok(Ok(Ok(())))), "{ended:?}");
}
