// SPDX-License-Identifier: Apache-2.0
//! Where this workspace's programs are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, bail};

use crate::exec;

/// The root of the repository.
pub fn repository() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder
        .ancestors()
        .nth(2)
        .unwrap_or(crate_folder)
        .to_path_buf()
}

/// The folder that Cargo put the running program's siblings in (`target/debug`), or what
/// `REMORA_BIN_DIR` says.
pub fn folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("REMORA_BIN_DIR") {
        return Ok(folder.into());
    }
    let own = std::env::current_exe().context("find the running program")?;
    let folder = own.parent().context("the running program has no folder")?;
    // Tests live one level below programs.
    Ok(if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    }
    .into())
}

/// The path of a program of this workspace, such as `remora-proxy`.
///
/// *Errors*: it is not built; the text says how to build it.
pub fn find(name: &str) -> anyhow::Result<PathBuf> {
    let path = folder()?.join(name);
    if !path.is_file() {
        bail!(
            "{} does not exist: build it first (`cargo build --workspace`)",
            path.display()
        );
    }
    Ok(path)
}

/// Builds the Go programs of a module of this repository and returns the folder they are in.
///
/// *Errors*: Go is not installed or refuses the code.
pub fn build_go(module: &str) -> anyhow::Result<PathBuf> {
    // Several tests of one program may ask at once; Go's own cache makes all but the first cheap.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let output = folder()?.join("go").join(module);
    std::fs::create_dir_all(&output).with_context(|| format!("make {}", output.display()))?;
    let mut command = Command::new(go_program());
    command
        .args(["build", "-trimpath", "-o"])
        .arg(&output)
        .arg("./...");
    command
        .current_dir(repository().join(module))
        .env("CGO_ENABLED", "0");
    exec::run_command(&mut command).context("build the Go programs")?;
    Ok(output)
}

fn go_program() -> PathBuf {
    // Where Go's own installer puts it, which root's PATH often lacks.
    let usual = Path::new("/usr/local/go/bin/go");
    if usual.is_file() {
        usual.into()
    } else {
        "go".into()
    }
}
