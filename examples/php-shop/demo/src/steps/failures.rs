// SPDX-License-Identifier: Apache-2.0
//! Step 2: two of three instances fail, each in its way, and no visitor notices; both are left out,
//! and come back when they are well.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::{RATE, VISITS, no_failures};
use crate::report::Checks;
use crate::stage::Stage;
use crate::tally::{Tally, millis};

const KILLED: &str = "sms-v1-a";
const FAILING: &str = "sms-v1-b";
/// Five failures in a row of each are a matter of moments.
const EJECTED_WITHIN: Duration = Duration::from_secs(5);
/// Ejected for 3 s, perhaps a second time for 6 s, looked at each second.
const BACK_WITHIN: Duration = Duration::from_secs(14);

pub(super) fn play(stage: &mut Stage, checks: &mut Checks) -> anyhow::Result<()> {
    stage.load.run(RATE, &VISITS);
    stage.route("05-retries-and-ejection")?;
    let began = Instant::now();
    let before = stage.stats()?;
    let samples = stage.watch("all three instances are well", 1.0)?;
    let well = Tally::of_service(&samples, "sms");
    checks.add(
        "before: instances that answer",
        "3",
        well.instances.len().to_string(),
        well.instances.len() == 3,
    );

    stage.mesh.kill_programs(KILLED)?;
    stage.mesh.admin(FAILING, "/admin/fail?status=503")?;
    let both = BTreeSet::from([stage.probe.address(KILLED)?, stage.probe.address(FAILING)?]);
    let (_, took) = stage.until("both to be ejected", EJECTED_WITHIN, || {
        let ejected = stage.probe.health()?.ejected;
        if !ejected.is_superset(&both) {
            bail!("ejected so far: {ejected:?}");
        }
        Ok(())
    })?;
    checks.add(
        "both ejected after",
        format!("within {}", millis(EJECTED_WITHIN)),
        millis(took),
        true,
    );
    let samples = stage.watch("both are left out", 1.5)?;
    let during = Tally::of_service(&samples, "sms");
    checks.add(
        "meanwhile the well instance answers",
        "all",
        format!("{} of {}", during.by_version("v2"), during.requests),
        during.requests > 0 && during.by_version("v2") == during.requests,
    );
    let retries = stage.stats()?.outbound_all("sms", "upstream_rq_retry")
        - before.outbound_all("sms", "upstream_rq_retry");
    checks.add(
        "retries that hid the failures",
        "some",
        retries.to_string(),
        retries > 0,
    );

    stage.mesh.start_programs(KILLED)?;
    stage.mesh.admin(FAILING, "/admin/heal")?;
    let well_again = Instant::now();
    let (_, took) = stage.until("both to be back and to answer", BACK_WITHIN, || {
        let ejected = stage.probe.health()?.ejected;
        let answering = stage.tally("sms", well_again).instances;
        let all = [KILLED, FAILING]
            .iter()
            .all(|name| answering.contains_key(*name));
        if !ejected.is_empty() || !all {
            bail!("ejected: {ejected:?}, answering: {:?}", answering.keys());
        }
        Ok(())
    })?;
    checks.add(
        "both back after",
        format!("within {}", millis(BACK_WITHIN)),
        millis(took),
        true,
    );
    stage.load.pause()?;
    no_failures(
        checks,
        "pages in all of that time",
        &stage.load.since(began),
    );
    Ok(())
}
