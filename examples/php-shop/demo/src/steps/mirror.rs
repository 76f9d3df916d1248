// SPDX-License-Identifier: Apache-2.0
//! Step 3: v2 is sent a copy of every request, and whatever becomes of it, the page does not
//! notice; every copy is either sent or counted as dropped.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{RATE, VISITS, no_failures};
use crate::report::Checks;
use crate::stage::Stage;
use crate::tally::{Tally, millis};

const MIRROR: &str = "sms-v2";
/// How slow v2 is made. A page that waited for it would take as long.
const SLOW: Duration = Duration::from_secs(2);
/// What the page may take more than before, on a machine that has other work as well.
const NOISE: Duration = Duration::from_millis(25);

pub(super) fn play(stage: &mut Stage, checks: &mut Checks) -> anyhow::Result<()> {
    stage.route("06-mirror")?;
    let before = stage.stats()?;
    let shadowed = stage.probe.counters(MIRROR)?.shadowed;
    let began = Instant::now();
    stage.load.run(RATE, &VISITS);

    let well = Tally::of_service(&stage.watch("v2 is mirrored and well", 2.0)?, "sms");
    stage.load.pause()?;
    let asked = stage.tally("sms", began).requests;
    let arrived = stage.until("the copies to arrive", Duration::from_secs(3), || {
        let arrived = stage.probe.counters(MIRROR)?.shadowed - shadowed;
        let copies = Copies::since(stage, &before)?;
        if arrived + copies.dropped < asked {
            anyhow::bail!(
                "{arrived} copies arrived, {} dropped, of {asked}",
                copies.dropped
            );
        }
        Ok(arrived)
    });
    let (arrived, _) = arrived?;
    let dropped = Copies::since(stage, &before)?.dropped;
    checks.add(
        "while well: copies that v2 itself counts",
        format!("{asked} requests"),
        format!("{arrived}, {dropped} dropped"),
        asked > 0 && arrived + dropped == asked,
    );

    stage.load.run(RATE, &VISITS);
    stage
        .mesh
        .admin(MIRROR, &format!("/admin/delay?ms={}", SLOW.as_millis()))?;
    let slow = Tally::of_service(&stage.watch("v2 takes 2 s for each", 2.5)?, "sms");
    unharmed(checks, "v2 slow", &well, &slow);
    let dropped = Copies::since(stage, &before)?.dropped;
    checks.add(
        "v2 slow: copies beyond its limit are dropped",
        "some",
        dropped.to_string(),
        dropped > 0,
    );
    stage.mesh.kill_programs(MIRROR)?;
    let dead = Tally::of_service(&stage.watch("v2 is dead", 2.5)?, "sms");
    unharmed(checks, "v2 dead", &well, &dead);

    stage.load.pause()?;
    let calls = stage.load.since(began);
    let asked = Tally::of_service(&calls, "sms");
    // A copy is counted when it ends.
    let ended = stage.until("the last copies to end", Duration::from_secs(5), || {
        let copies = Copies::since(stage, &before)?;
        let all = copies.sent + copies.dropped;
        ensure!(
            all >= asked.requests,
            "{all} of {} copies ended",
            asked.requests
        );
        Ok(copies)
    });
    let copies = match ended {
        Ok((copies, _)) => copies,
        Err(_) => Copies::since(stage, &before)?,
    };
    checks.add(
        "requests sent = mirrored + dropped",
        asked.requests.to_string(),
        format!(
            "{} + {} = {}",
            copies.sent,
            copies.dropped,
            copies.sent + copies.dropped
        ),
        copies.sent + copies.dropped == asked.requests && copies.sent > 0,
    );
    checks.add(
        "answers that are v1's",
        "all",
        format!("{} of {}", asked.by_version("v1"), asked.requests),
        asked.by_version("v1") == asked.requests,
    );
    no_failures(checks, "pages in all of that time", &calls);
    stage.mesh.start_programs(MIRROR)
}

struct Copies {
    sent: u64,
    dropped: u64,
}

impl Copies {
    fn since(stage: &Stage, before: &crate::probe::Stats) -> anyhow::Result<Self> {
        let now = stage.stats()?;
        let delta = |name: &str| now.outbound_all("sms", name) - before.outbound_all("sms", name);
        Ok(Self {
            sent: delta("mirror_rq_total"),
            dropped: delta("mirror_rq_dropped"),
        })
    }
}

fn unharmed(checks: &mut Checks, when: &str, before: &Tally, now: &Tally) {
    let limit = before.quantile(0.5) * 2 + NOISE;
    let p50 = now.quantile(0.5);
    checks.add(
        format!("{when}: p50 as the page sees it"),
        format!(
            "within {} ({} before)",
            millis(limit),
            millis(before.quantile(0.5))
        ),
        millis(p50),
        now.requests > 0 && p50 <= limit,
    );
    let worst = now.quantile(1.0);
    checks.add(
        format!("{when}: no call waits for v2"),
        format!("below {}", millis(SLOW)),
        format!(
            "{} at most, p99 {}",
            millis(worst),
            millis(now.quantile(0.99))
        ),
        worst < SLOW,
    );
}
