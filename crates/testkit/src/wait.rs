// SPDX-License-Identifier: Apache-2.0
//! Polling with a deadline, in place of sleeping and hoping.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::bail;

/// Long enough for anything on a busy machine, short enough to be noticed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until there is an answer.
///
/// *Errors*: none came within `limit`; the text says what was waited for and the last finding.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        let finding = match ask() {
            Ok(answer) => return Ok(answer),
            Err(finding) => finding,
        };
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}: {finding:#}");
        }
        rest(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits until a condition holds.
pub fn until_true(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    until(
        what,
        limit,
        || if holds() { Ok(()) } else { bail!("not yet") },
    )
}

/// Waits until a TCP port accepts, seen from the calling thread's network namespace.
pub fn until_accepting(address: SocketAddr, limit: Duration) -> anyhow::Result<()> {
    until(&format!("{address} to accept"), limit, || {
        TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        Ok(())
    })
}

/// Lets time pass on a thread of the bench (never on one of the proxy's).
pub fn rest(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end
        .checked_duration_since(Instant::now())
        .filter(|d| !d.is_zero())
    {
        std::thread::park_timeout(left);
    }
}
