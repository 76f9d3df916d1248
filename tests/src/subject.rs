// SPDX-License-Identifier: Apache-2.0
//! The proxy under test: Remora's, or the Envoy that it is compared with.
//!
//! Both are given the same bootstrap file and are asked the same way whether they are ready, so a
//! scenario need not know which of them it meets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use remora_testkit::bins;
use remora_testkit::client;
use remora_testkit::lab::Host;
use remora_testkit::process::{Process, Spec, User};

/// Which proxy is under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// `remora-proxy` of this workspace.
    Remora,
    /// The real Envoy, in the version whose behaviour is the reference.
    Envoy,
}

impl Subject {
    /// Whether this run wants this subject: `SUBJECT=remora` or `SUBJECT=envoy` narrows it to one,
    /// and `REMORA_SKIP_ENVOY=1` leaves Envoy out.
    ///
    /// *Errors*: a `SUBJECT` that is neither.
    pub fn is_wanted(self) -> anyhow::Result<bool> {
        if self == Self::Envoy && std::env::var_os("REMORA_SKIP_ENVOY").is_some_and(|v| v == "1") {
            eprintln!("Envoy is left out: REMORA_SKIP_ENVOY=1");
            return Ok(false);
        }
        Ok(match std::env::var("SUBJECT").as_deref() {
            Err(_) | Ok("") => true,
            Ok("remora") => self == Self::Remora,
            Ok("envoy") => self == Self::Envoy,
            Ok(other) => bail!("SUBJECT=`{other}`: expected `remora` or `envoy`"),
        })
    }

    /// The program.
    ///
    /// *Errors*: it is not there; the text says how to get it.
    pub fn program(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Remora => bins::find("remora-proxy"),
            Self::Envoy => find_envoy(),
        }
    }

    /// The command that runs it with a bootstrap file.
    ///
    /// One worker, so that counts and turns are exact; `folder` is for its own files.
    pub fn command(self, bootstrap: &Path, folder: &Path) -> anyhow::Result<Spec> {
        let spec = Spec::new("proxy", self.program()?);
        Ok(match self {
            Self::Remora => spec
                .args(["run", "--workers", "1", "--no-dns"])
                .args(["--prometheus-port", "0", "--readiness-port", "0"])
                .arg("--state-dir")
                .arg(folder)
                .arg("--bootstrap")
                .arg(bootstrap),
            Self::Envoy => spec
                .args(["--concurrency", "1", "--disable-hot-restart"])
                .args(["--log-level", "warning"])
                .args(["--file-flush-interval-msec", "50"])
                .arg("--config-path")
                .arg(bootstrap),
        })
    }

    /// Starts it on a host as the proxy's user, and waits until `admin` says that it is ready.
    pub fn start(
        self,
        host: &Host,
        bootstrap: &Path,
        admin: SocketAddr,
    ) -> anyhow::Result<Process> {
        let folder = host
            .lab()
            .make_folder(&format!("{}-proxy", host.name()), User::PROXY)?;
        let spec = self.command(bootstrap, &folder)?.user(User::PROXY);
        let mut process = host.spawn(&spec.folder(&folder))?;
        process.wait_until("it is ready", || {
            let answer = host.enter(|| client::get(admin, "localhost", "/ready"))??;
            if answer.status != 200 {
                bail!("readiness is {}: {}", answer.status, answer.text());
            }
            Ok(())
        })?;
        Ok(process)
    }
}

/// Where `scripts/setup.sh --tests` puts it, or what `REMORA_ENVOY` says.
fn find_envoy() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("REMORA_ENVOY") {
        Some(path) => PathBuf::from(path),
        None => {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
            let cache = cache
                .or_else(home)
                .context("neither HOME nor XDG_CACHE_HOME is set")?;
            cache.join("remora/envoy-1.39.3/bin/envoy")
        }
    };
    if !path.is_file() {
        bail!(
            "{} does not exist: run `scripts/setup.sh --tests`, or set REMORA_ENVOY \
             (REMORA_SKIP_ENVOY=1 skips the comparison with Envoy)",
            path.display()
        );
    }
    Ok(unwrap_package(path))
}

/// The package's `bin/envoy` is a script that starts the program beside its modules; run as another
/// user it would need to read all of them.
fn unwrap_package(script: PathBuf) -> PathBuf {
    let of_package = || {
        let lib = script.parent()?.parent()?.join("lib");
        let mut versions = std::fs::read_dir(lib).ok()?.flatten();
        versions.find_map(|version| {
            let program = version.path().join("site-packages/envoy/_bin/envoy");
            program.is_file().then_some(program)
        })
    };
    of_package().unwrap_or(script)
}
