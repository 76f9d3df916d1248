// SPDX-License-Identifier: Apache-2.0
//! What other processes may tell this one.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::access_log::LogWriter;

/// SIGTERM and SIGINT end the process, SIGUSR1 has the access logs reopened (logrotate, as with
/// Envoy), SIGHUP is ignored: there is nothing to reload.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes the signals over from their defaults.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next order to stop, by signal or by `/quitquitquit`.
    ///
    /// *Cancel safety*: safe.
    pub(super) async fn wait(&mut self, quit: &Notify, writer: &LogWriter) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                () = quit.notified() => return,
                _ = self.reopen.recv() => {
                    writer.reopen();
                }
                _ = self.hang_up.recv() => {}
            }
        }
    }
}
