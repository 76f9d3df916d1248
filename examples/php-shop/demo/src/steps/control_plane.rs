// SPDX-License-Identifier: Apache-2.0
//! Step 5: without its control plane the mesh goes on as it was, and a proxy that starts then works
//! by its last good configuration; when the control plane is back, nobody has anything to do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use remora_testkit::mesh::topology::HOSTS;

use super::{RATE, no_failures};
use crate::report::Checks;
use crate::stage::Stage;
use crate::tally::{Tally, millis};

/// The host whose proxy is started anew. The visitors leave its service alone meanwhile.
const BOOTED: &str = "front";
const VISITS: [&str; 2] = ["only=sms", "only=sms,message,search"];
/// Enough for every proxy to notice and to come back with its back-off.
const RECONNECT: Duration = Duration::from_secs(15);

pub(super) fn play(stage: &mut Stage, checks: &mut Checks) -> anyhow::Result<()> {
    let began = Instant::now();
    stage.load.run(RATE, &VISITS);
    stage.watch("all is well", 0.5)?;
    let before = generations(stage)?;
    stage.mesh.kill_control_plane()?;
    stage.watch("the control plane is dead", 1.5)?;

    stage.screen.phase("a proxy starts without it");
    stage
        .mesh
        .sidecar(BOOTED)?
        .terminate(Duration::from_secs(12))?;
    let started = Instant::now();
    stage.mesh.start_sidecar(BOOTED)?;
    stage.mesh.wait_for_sidecar(BOOTED)?;
    let ready = started.elapsed();
    checks.add(
        "a new proxy without control plane is ready",
        "within 2 s",
        millis(ready),
        ready < Duration::from_secs(2),
    );
    stage
        .load
        .run(RATE, &["only=sms", "only=sms,message,search", "only=front"]);
    let samples = stage.watch("and serves, in both directions", 1.5)?;
    let front = Tally::of_service(&samples, BOOTED);
    checks.add(
        "pages through it: HTTP in, gRPC out",
        "all succeed",
        format!("{} of {}", front.ok, front.requests),
        front.requests > 0 && front.failures() == 0,
    );
    let during = generations(stage)?;

    stage.mesh.start_control_plane()?;
    let (_, took) = stage.until("all proxies to be connected again", RECONNECT, || {
        connected(stage)
    })?;
    checks.add(
        "all proxies connected again",
        format!("within {}", millis(RECONNECT)),
        millis(took),
        true,
    );
    stage.watch("the control plane is back", 1.5)?;
    let after = generations(stage)?;
    let worked: Vec<_> = after
        .iter()
        .filter(|(host, now)| {
            during.get(*host) != Some(now) || (**host != BOOTED && before.get(*host) != Some(now))
        })
        .map(|(host, now)| format!("{host} at {now}"))
        .collect();
    checks.add(
        "proxies that had to do anything",
        format!("0 of {}", after.len()),
        if worked.is_empty() {
            "0".to_owned()
        } else {
            worked.join(", ")
        },
        worked.is_empty() && after.len() == during.len(),
    );
    stage.load.pause()?;
    no_failures(
        checks,
        "pages in all of that time",
        &stage.load.since(began),
    );

    let in_force = stage.route("03-canary-50-50")?;
    checks.add(
        "edits are followed again",
        "yes",
        format!("after {}", millis(in_force)),
        true,
    );
    Ok(())
}

fn sidecars() -> impl Iterator<Item = &'static str> {
    HOSTS
        .iter()
        .filter(|plan| plan.role.has_sidecar())
        .map(|plan| plan.name)
}

fn generations(stage: &Stage) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    sidecars()
        .map(|host| Ok((host, stage.generation(host)?)))
        .collect()
}

fn connected(stage: &Stage) -> anyhow::Result<()> {
    for host in sidecars() {
        let state = stage
            .probe
            .stats(host)?
            .required("control_plane.connected_state")?;
        if state != 1 {
            bail!("{host} is not connected");
        }
    }
    ensure!(sidecars().count() > 0, "no sidecars");
    Ok(())
}
