// SPDX-License-Identifier: Apache-2.0
//! Step 1: where requests go is what the file says, by weight and by header, without a lost one.

use std::time::{Duration, Instant};

use super::{VISITS, no_failures};
use crate::report::Checks;
use crate::stage::Stage;
use crate::tally::{Tally, millis, percent, sigmas};

/// Pages a second: shares need numbers.
const RATE: u32 = 110;
/// An edit is in force within this time.
const IN_FORCE: Duration = Duration::from_secs(2);

pub(super) fn play(stage: &mut Stage, checks: &mut Checks) -> anyhow::Result<()> {
    let began = Instant::now();
    stage.load.run(RATE, &VISITS);
    let samples = stage.watch("all to v1", 1.5)?;
    let all = Tally::of_service(&samples, "sms");
    checks.add(
        "all to v1: v1's share",
        "100 %",
        share(&all, "v1"),
        all.requests > 0 && all.by_version("v1") == all.requests,
    );
    checks.add(
        "all to v1: instances that answer",
        "2",
        all.instances.len().to_string(),
        all.instances.len() == 2,
    );

    let mut slowest = Duration::ZERO;
    for (step, part, seconds) in [("02-canary-90-10", 0.1, 6.0), ("03-canary-50-50", 0.5, 4.0)] {
        slowest = slowest.max(stage.route(step)?);
        let samples = stage.watch(&format!("{:.0} % to v2", part * 100.0), seconds)?;
        let sms = Tally::of_service(&samples, "sms");
        let away = sigmas(sms.by_version("v2"), sms.requests, part);
        checks.add(
            format!("canary {:.0} %: v2's share", part * 100.0),
            format!("{:.0} % within 5 sigma", part * 100.0),
            format!("{}, {away:.1} sigma away", share(&sms, "v2")),
            sms.requests >= 50 && away <= 5.0,
        );
    }

    slowest = slowest.max(stage.route("04-user-rui-to-v2")?);
    stage.load.run(RATE, &["only=sms&user=rui", "only=sms"]);
    let samples = stage.watch("the user rui to v2", 1.5)?;
    for (who, is_rui, version) in [("rui", true, "v2"), ("others", false, "v1")] {
        let own = |sample: &&crate::load::Sample| {
            sample.service == "sms" && sample.query.ends_with("user=rui") == is_rui
        };
        // Visitors may still have been on their way with the last order.
        let own = Tally::of(samples.iter().filter(own));
        checks.add(
            format!("header user: {who} to {version}"),
            "100 %",
            share(&own, version),
            own.requests > 0 && own.by_version(version) == own.requests,
        );
    }
    checks.add(
        "slowest edit, from rename to in force",
        format!("within {}", millis(IN_FORCE)),
        millis(slowest),
        slowest <= IN_FORCE,
    );
    no_failures(
        checks,
        "pages while all of it changed",
        &stage.load.since(began),
    );
    Ok(())
}

fn share(tally: &Tally, version: &str) -> String {
    let count = tally.by_version(version);
    format!(
        "{:.1} % ({count} of {})",
        percent(count, tally.requests),
        tally.requests
    )
}
