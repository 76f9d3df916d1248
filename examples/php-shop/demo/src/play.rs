// SPDX-License-Identifier: Apache-2.0
//! The shop to play with: `up` raises it and returns, `down` takes it away.
//!
//! A lab belongs to a process and goes with it, so `up` leaves one behind that holds it and waits to
//! be told to end. What others need to know of it is in [`FOLDER`].

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use remora_testkit::lab::Lab;
use remora_testkit::mesh::{Mesh, MeshOptions, topology};
use remora_testkit::{bins, run, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::screen::say;
use crate::stop::Stop;

/// `holder`: the process; `name`: the prefix of the namespaces; `config`, `logs`: links; `log`: what
/// the holder says.
const FOLDER: &str = "/run/remora-shop";
/// Raising takes seconds; a machine under load may need longer.
const RAISED_WITHIN: Duration = Duration::from_secs(90);
/// Long enough for every process to be ended one after the other.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// Raises the shop, unless it is up, and tells what to try.
pub(crate) fn up() -> anyhow::Result<()> {
    if holder().is_none() {
        // What a holder left that did not end by itself.
        down()?;
        fs::create_dir_all(FOLDER).with_context(|| format!("make {FOLDER}"))?;
        say("raising the shop ...");
        let mut child = start_holder()?;
        let raised = wait_until_raised(&mut child);
        if raised.is_err() {
            let _ = child.wait();
            let _ = fs::remove_dir_all(FOLDER);
        }
        raised?;
    }
    say(&what_to_try());
    Ok(())
}

/// Raises the shop and keeps it until a signal comes.
pub(crate) fn hold(stop: &Stop) -> anyhow::Result<()> {
    let lab = Lab::start()?;
    let _mesh = Mesh::up(&lab, &MeshOptions::default())?;
    let folder = Path::new(FOLDER);
    symlink(lab.folder().join("config"), folder.join("config"))?;
    symlink(lab.logs(), folder.join("logs"))?;
    fs::write(folder.join("name"), lab.name())?;
    let own = run::owner_of(std::process::id()).context("read this process's start time")?;
    // Whole or not at all: it is what `up` waits for.
    fs::write(folder.join("holder.draft"), own)?;
    fs::rename(folder.join("holder.draft"), folder.join("holder"))?;
    while !stop.is_set() {
        wait::rest(Duration::from_millis(200));
    }
    Ok(())
}

/// Takes away the shop and what crashed runs left.
pub(crate) fn down() -> anyhow::Result<()> {
    if let Some(pid) = holder() {
        say("taking the shop down ...");
        kill_process(pid, Signal::TERM).context("tell the holder to end")?;
        wait::until_true("the holder to end", GONE_WITHIN, || holder().is_none())?;
    }
    let _ = fs::remove_dir_all(FOLDER);
    for name in run::sweep() {
        say(&format!("removed what the run {name} left"));
    }
    forget_empty_folders();
    Ok(())
}

/// Removes folders that hold nothing: runs share them, so a run cannot.
pub(crate) fn forget_empty_folders() {
    for folder in ["/etc/netns".into(), std::env::temp_dir().join("remora-lab")] {
        // Refused if it is not empty.
        let _ = fs::remove_dir::<PathBuf>(folder);
    }
}

/// The process that holds the shop, if it lives.
fn holder() -> Option<Pid> {
    let told = fs::read_to_string(Path::new(FOLDER).join("holder")).ok()?;
    let pid: u32 = told.split(' ').next()?.parse().ok()?;
    let lives = run::owner_of(pid)? == told;
    Pid::from_raw(i32::try_from(pid).ok()?).filter(|_| lives)
}

fn start_holder() -> anyhow::Result<Child> {
    let log = fs::File::create(Path::new(FOLDER).join("log")).context("make the log")?;
    // A session of its own: neither Ctrl-C nor a closed terminal reaches it.
    Command::new("setsid")
        .arg(std::env::current_exe().context("find the running program")?)
        .arg("hold")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the holder")
}

fn wait_until_raised(child: &mut Child) -> anyhow::Result<()> {
    let ended = wait::until("the shop to be up", RAISED_WITHIN, || {
        if holder().is_some() {
            return Ok(None);
        }
        let ended = child.try_wait()?.context("not yet")?;
        Ok(Some(ended))
    });
    if let Ok(None) = ended {
        return Ok(());
    }
    let _ = child.kill();
    let log = fs::read_to_string(Path::new(FOLDER).join("log")).unwrap_or_default();
    match ended {
        Ok(status) => bail!("the shop could not be raised ({status:?}):\n{log}"),
        Err(error) => Err(error.context(log)),
    }
}

fn what_to_try() -> String {
    let programs = bins::folder().unwrap_or_default();
    let (programs, module) = (programs.display(), topology::MODULE);
    format!(
        "The shop is up. Try, from the repository:

  the page, which asks every service
    scripts/on php curl -s 'http://localhost/'
  any address, by PHP's curl, with headers shown
    scripts/on php curl -s 'http://localhost/call.php?url=http://sms/send&header=user:%20rui'
  twenty calls of one service, by version
    for i in $(seq 20); do scripts/on php curl -s 'http://localhost/?only=sms'; done | grep -o '\"version\":\"v.\"' | sort | uniq -c

  change the routing: the control plane sees every saved edit
    cp {module}/steps/03-canary-50-50.yaml {FOLDER}/config/routing.yaml
    $EDITOR {FOLDER}/config/routing.yaml
  look before you save
    {programs}/remora analyze {FOLDER}/config

  break something, and heal it
    scripts/on sms-v1-b curl -s 'http://localhost:9901/admin/fail?status=503'
    scripts/on sms-v1-b curl -s 'http://localhost:9901/admin/heal'

  the control plane's view, and a proxy's
    scripts/on cp {programs}/remora status
    scripts/on php curl -s http://localhost:15000/clusters
    scripts/on php curl -s http://localhost:15000/stats
    scripts/on php curl -s http://localhost:15000/config_dump
    tail -f {FOLDER}/logs/php-proxy.log

  a server that speaks first, declared nowhere
    scripts/on php timeout 1 bash -c 'head -c 16 </dev/tcp/10.77.0.51/3306' | od -c

  and when done
    make down"
    )
}
