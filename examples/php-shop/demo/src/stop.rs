// SPDX-License-Identifier: Apache-2.0
//! Ctrl-C, SIGTERM and a closed terminal, as a flag that everything that waits looks at.
//!
//! The first signal asks the program to take everything down and leave; the second leaves at once,
//! and the lab's janitor takes it down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use remora_testkit::wait;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whether somebody wants this to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<AtomicBool>);

/// The shell's status for a program that was ended by SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

impl Stop {
    /// Starts listening for signals.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let stop = Self(Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("start a runtime for signals")?;
        let inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let hang_up = signal(SignalKind::hangup())?;
        drop(inside);
        let flag = stop.0.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(listen(interrupt, terminate, hang_up, &flag)))
            .context("start a thread for signals")?;
        Ok(stop)
    }

    /// Whether a signal has come.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// *Errors*: a signal has come.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.is_set() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Lets time pass.
    ///
    /// *Errors*: a signal has come.
    pub(crate) fn rest(&self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            wait::rest(left.min(Duration::from_millis(50)));
        }
    }

    /// Polls until there is an answer and returns it with the time it took.
    ///
    /// *Errors*: a signal has come, or there was none within `limit`; the text holds the last
    /// finding.
    pub(crate) fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Duration)> {
        let began = Instant::now();
        loop {
            let finding = match ask() {
                Ok(answer) => return Ok((answer, began.elapsed())),
                Err(finding) => finding,
            };
            if began.elapsed() >= limit {
                bail!("waited {limit:?} for {what}: {finding:#}");
            }
            self.rest(Duration::from_millis(30))?;
        }
    }
}

async fn listen(
    mut interrupt: Signal,
    mut terminate: Signal,
    mut hang_up: Signal,
    flag: &AtomicBool,
) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
    }
}
