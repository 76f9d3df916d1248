// SPDX-License-Identifier: Apache-2.0
//! One run of the lab: its name, its folder, and the certainty that nothing of it stays behind.
//!
//! Three nets, each under the other:
//!
//! 1. dropping a [`Run`] clears it;
//! 2. a janitor, a tiny process in a session of its own, holds the other end of a pipe: when this
//!    process ends in any way (a signal, an abort), the pipe closes and the janitor clears;
//! 3. the next run sweeps what dead owners left, should the janitor have been killed as well.
//!
//! All three do the same: end the processes in the run's namespaces, which are recognised by the
//! run's unique name, and delete those namespaces and the run's folder. A folder is kept only when a
//! run has failed and told where its logs are; after a day it goes as well.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::exec;

/// A run's name and folder. Dropping it clears all that bears its name.
#[derive(Debug)]
pub struct Run {
    name: String,
    folder: PathBuf,
    janitor: Option<Child>,
    keep: bool,
}

impl Run {
    /// Starts a run after sweeping what dead runs left.
    ///
    /// *Errors*: not root, `ip` or `setpriv` missing, folder not writable.
    pub fn start() -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("the lab needs root for network namespaces: run it with sudo");
        }
        fs::create_dir_all(base()).with_context(|| format!("make {}", base().display()))?;
        sweep();
        let name = unique_name()?;
        let folder = base().join(&name);
        // Its programs run as other users and keep sockets and logs here.
        fs::create_dir_all(folder.join("logs"))
            .with_context(|| format!("make {}", folder.display()))?;
        // Whole or not at all: another run's sweep may look at any moment.
        let draft = folder.join("owner.draft");
        fs::write(&draft, owner_of(std::process::id()).unwrap_or_default())?;
        fs::rename(draft, folder.join("owner"))?;
        let janitor = start_janitor(&name, &folder)?;
        Ok(Self {
            name,
            folder,
            janitor: Some(janitor),
            keep: false,
        })
    }

    /// The prefix of this run's namespaces, unique on this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder for this run's files, deleted with it unless it failed.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps folder and logs when the run ends.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The full name of a namespace of this run.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        clear(&self.name);
        let is_kept = self.keep || std::thread::panicking();
        if is_kept {
            // Without an owner the janitor leaves the folder alone.
            let _ = fs::remove_file(self.folder.join("owner"));
        }
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let _ = janitor.wait();
        }
        if is_kept {
            eprintln!("logs are kept in {}", self.folder.join("logs").display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Clears what runs left whose owner is gone. Returns their names.
pub fn sweep() -> Vec<String> {
    let mut swept = Vec::new();
    for entry in fs::read_dir(base()).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with(PREFIX) && is_abandoned(&entry.path()) {
            clear(&name);
            let _ = fs::remove_dir_all(entry.path());
            swept.push(name);
        }
    }
    swept
}

/// Whether the owner of a run's folder is gone, or the folder was kept for its logs long ago.
fn is_abandoned(folder: &Path) -> bool {
    let Ok(owner) = fs::read_to_string(folder.join("owner")) else {
        let age = fs::metadata(folder)
            .and_then(|folder| folder.modified())
            .ok();
        return age
            .and_then(|then| then.elapsed().ok())
            .is_some_and(|age| age > LOGS_ARE_KEPT);
    };
    let pid = owner.split(' ').next().and_then(|pid| pid.parse().ok());
    pid.and_then(owner_of).is_none_or(|now| now != owner)
}

const LOGS_ARE_KEPT: Duration = Duration::from_secs(24 * 3600);
const PREFIX: &str = "rm";

fn base() -> PathBuf {
    std::env::temp_dir().join("remora-lab")
}

/// A process by its id and start time, as the file `owner` holds it; none if it does not live.
///
/// Process ids come around again: the start time tells two owners of one id apart.
pub fn owner_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold blanks; the start time is
    // field 22 (proc_pid_stat(5)), the twentieth after it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let start = after_name.split_whitespace().nth(19)?;
    Some(format!("{pid} {start}"))
}

/// The processes that were started from a run's folder or told to work in it, by their ids.
///
/// Other than by its namespaces a run's processes are known by their command lines: all that are
/// given a file of the run hold its name.
pub fn processes(name: &str) -> Vec<u32> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|pid| pid.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != own) else {
            continue;
        };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(name) {
            found.push(pid);
        }
    }
    found
}

fn unique_name() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 4];
    use std::io::Read as _;
    fs::File::open("/dev/urandom")?
        .read_exact(&mut bytes)
        .context("read /dev/urandom")?;
    Ok(format!("{PREFIX}{:08x}", u32::from_ne_bytes(bytes)))
}

/// Waits for its stdin to close, then does what [`clear`] does. `$1` is the run's name, `$2` its
/// folder, which goes too unless the owner has given it up to be kept.
const JANITOR: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for ns in $(ip netns list | cut -d' ' -f1 | grep "^$1-"); do
  for round in 1 2 3; do
    pids=$(ip netns pids "$ns" 2>/dev/null) && [ -n "$pids" ] && kill -KILL $pids 2>/dev/null
  done
  ip netns del "$ns"
  rm -rf "/etc/netns/$ns"
done
[ -e "$2/owner" ] && rm -rf "$2"
"#;

fn start_janitor(name: &str, folder: &Path) -> anyhow::Result<Child> {
    Command::new("sh")
        .args(["-c", JANITOR, "remora-lab-janitor", name])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C goes to the whole group of the terminal; the janitor must outlive it.
        .process_group(0)
        .spawn()
        .context("start the janitor")
}

/// Ends every process in the run's namespaces and deletes them.
fn clear(name: &str) {
    let prefix = format!("{name}-");
    let listed = exec::ip("netns list").unwrap_or_default();
    let namespaces = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    for namespace in namespaces.filter(|namespace| namespace.starts_with(&prefix)) {
        end_processes(namespace);
        if let Err(error) = exec::ip(&format!("netns del {namespace}")) {
            eprintln!("lab: {error:#}");
        }
        match fs::remove_dir_all(Path::new("/etc/netns").join(namespace)) {
            Err(error) if error.kind() != ErrorKind::NotFound => eprintln!("lab: {error}"),
            _ => {}
        }
    }
}

/// Ends the processes of a namespace; again, since a process may have forked meanwhile.
fn end_processes(namespace: &str) {
    for _ in 0..3 {
        let listed = exec::ip(&format!("netns pids {namespace}")).unwrap_or_default();
        let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
        let mut any = false;
        for pid in pids.filter_map(rustix::process::Pid::from_raw) {
            any = true;
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if !any {
            return;
        }
    }
}
