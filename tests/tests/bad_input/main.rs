// SPDX-License-Identifier: Apache-2.0
//! Bad input, and what it gets: refused with a reason, never a panic, a hang, a loop, growth without
//! bound, or a change of what is served.
//!
//! * [`bytes`]: garbage, half-open and endless bytes on every port of proxy and control plane;
//! * [`requests`]: requests that two parsers could read differently, and heads that are too large;
//! * [`destinations`]: redirected connections that lead nowhere or to the proxy itself;
//! * [`bootstraps`]: files that are no bootstrap;
//! * [`control_planes`]: control planes that send nonsense, hang, or hang up.

mod bootstraps;
mod bytes;
mod control_planes;
mod destinations;
mod requests;

use anyhow::bail;
use remora_tests::town::Sidecar;

/// Asserts that a proxy is alive, has not panicked, and has not grown by more than `bytes`.
fn expect_well(sidecar: &mut Sidecar, before: u64, bytes: u64) -> anyhow::Result<()> {
    let log = sidecar.process.log();
    if !sidecar.process.is_running() || log.contains("panicked at") {
        bail!("the proxy did not survive; its log:\n{log}");
    }
    let now = sidecar.memory()?;
    if now > before + bytes {
        bail!("the proxy grew from {before} to {now} bytes");
    }
    Ok(())
}

const MEGABYTE: u64 = 1 << 20;
