// SPDX-License-Identifier: Apache-2.0
//! A supervised process: started in a namespace as a given user, its output in a log file, ended
//! with its owner.
//!
//! Programs are started by one [`Spawner`] thread for each lab. The kernel sends a child its parent
//! death signal when the *thread* that made it ends, so that thread has to live as long as the lab.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, kill_process};

use crate::wait;

pub use rustix::process::Signal;

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Names the log file.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables beside those inherited.
    pub environment: Vec<(String, OsString)>,
    /// Who runs it; root if absent.
    pub user: Option<User>,
    /// Its working folder; the caller's if absent.
    pub folder: Option<PathBuf>,
}

impl Spec {
    /// A program without arguments, as root.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            user: None,
            folder: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Runs it as this user.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Runs it in this folder.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// The command that runs this in a namespace.
    pub fn command(&self, namespace: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL"]);
        if let Some(User { uid, gid }) = self.user {
            command
                .arg("--reuid")
                .arg(uid.to_string())
                .arg("--regid")
                .arg(gid.to_string());
            command.args(["--clear-groups", "--no-new-privs"]);
        }
        command.arg("--").arg(&self.program).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::null());
        command
    }
}

/// A user and group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

impl User {
    /// root.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
    /// The proxy.
    pub const PROXY: Self = Self {
        uid: 1337,
        gid: 1337,
    };
    /// A program of the workload: `nobody`.
    pub const APP: Self = Self {
        uid: 65534,
        gid: 65534,
    };
    /// A web server: `www-data` on Debian.
    pub const WEB: Self = Self { uid: 33, gid: 33 };
}

/// A running process. Dropping it ends it: politely, then not.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// How long a process may take to end by itself when it is dropped.
const GRACE: Duration = Duration::from_secs(3);

impl Process {
    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks until there is an answer, as [`wait::until`], but no longer than this process lives.
    ///
    /// *Errors*: no answer in time, or the process has ended; the text holds the end of its log.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let name = self.name.clone();
        let child = &mut self.child;
        let found = wait::until(
            &format!("{what} (`{name}`)"),
            wait::PATIENCE,
            || match ask() {
                Ok(answer) => Ok(Some(answer)),
                Err(_) if !matches!(child.try_wait(), Ok(None)) => Ok(None),
                Err(error) => Err(error),
            },
        );
        match found {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => bail!(
                "`{name}` ended before {what}; its last words:\n{}",
                self.last_words()
            ),
            Err(error) => Err(error.context(format!("last words:\n{}", self.last_words()))),
        }
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(20)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// Sends a signal.
    ///
    /// *Errors*: it has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "`{}` has ended ({status}); log: {}",
                self.name,
                self.log.display()
            );
        }
        // It has not been waited for, so the id is still its own.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process id is a positive number")?;
        kill_process(pid, signal).with_context(|| format!("signal `{}`", self.name))
    }

    /// Ends it at once and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .with_context(|| format!("kill `{}`", self.name))?;
        self.child
            .wait()
            .map(drop)
            .with_context(|| format!("wait for `{}`", self.name))
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        wait::until(&format!("`{}` to end", self.name), limit, || {
            self.child.try_wait()?.context("it is still running")
        })
    }

    /// Asks it to end and waits; ends it if it does not within `grace`.
    pub fn terminate(&mut self, grace: Duration) -> anyhow::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        match self.wait(grace) {
            Ok(status) => Ok(status),
            Err(_) => {
                self.kill()?;
                Ok(ExitStatus::from_raw(Signal::KILL.as_raw()))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.terminate(GRACE);
    }
}

type Started = anyhow::Result<Child>;
type Order = (Command, Sender<Started>);

/// Starts processes from a thread that lives as long as this value.
#[derive(Debug)]
pub struct Spawner {
    orders: Option<Mutex<Sender<Order>>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    /// Starts the thread.
    pub fn start() -> anyhow::Result<Self> {
        let (orders, incoming) = channel();
        let thread = std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || Self::work(&incoming))
            .context("start the spawner")?;
        Ok(Self {
            orders: Some(Mutex::new(orders)),
            thread: Some(thread),
        })
    }

    /// Starts a process whose output is appended to `log`.
    pub fn spawn(&self, name: &str, mut command: Command, log: &Path) -> anyhow::Result<Process> {
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("open {}", log.display()))?;
        command.stdout(output.try_clone()?).stderr(output);
        // A group of its own keeps the terminal's Ctrl-C from ending programs before the owner does.
        command.process_group(0);
        let (reply, answer) = channel();
        let orders = self.orders.as_ref().context("the spawner has stopped")?;
        orders
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .send((command, reply))
            .context("the spawner has stopped")?;
        let child = answer.recv().context("the spawner has stopped")??;
        Ok(Process {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        })
    }

    fn work(incoming: &Receiver<Order>) {
        for (mut command, reply) in incoming {
            let started = command
                .spawn()
                .with_context(|| format!("start {command:?}"));
            let _ = reply.send(started);
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
