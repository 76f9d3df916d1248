// SPDX-License-Identifier: Apache-2.0
//! Runs a short program to its end and tells what it said if it failed. No shell.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Runs a program and returns what it wrote to stdout.
///
/// *Errors*: it cannot be started or ends with an error; the text holds its stderr.
pub fn run<I>(program: &str, arguments: I) -> anyhow::Result<String>
where
    I: IntoIterator<Item: AsRef<OsStr>>,
{
    let mut command = Command::new(program);
    command.args(arguments);
    run_command(&mut command)
}

/// Runs a prepared command, as [`run`] does.
pub fn run_command(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        bail!(
            "{shown} failed ({}): {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim(),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `ip` with words separated by blanks.
pub fn ip(words: &str) -> anyhow::Result<String> {
    run("ip", words.split_whitespace())
}
