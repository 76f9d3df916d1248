// SPDX-License-Identifier: Apache-2.0
//! The steps of the demo, in order. Each begins with a shop in which all is well and leaves it so.

mod control_plane;
mod failures;
mod limits;
mod mirror;
mod routing;
mod server_first;

use std::time::Instant;

use crate::report::Checks;
use crate::stage::Stage;

type Play = fn(&mut Stage, &mut Checks) -> anyhow::Result<()>;

const STEPS: [(&str, Play); 6] = [
    (
        "routing: all to v1, canary 90/10 and 50/50, one user to v2",
        routing::play,
    ),
    (
        "failures: one instance killed, one answering 503",
        failures::play,
    ),
    ("mirror: 100 % to v2, well, slow, dead", mirror::play),
    (
        "circuit limits: refused at once, others unharmed",
        limits::play,
    ),
    (
        "control plane: killed, a proxy booted without it, restarted",
        control_plane::play,
    ),
    (
        "a server that speaks first on a port nobody declared",
        server_first::play,
    ),
];

/// Plays the steps, all or those whose number is given, and returns what each found.
///
/// *Errors*: the demo was interrupted. A step that fails is noted and the next one is played.
pub(crate) fn play(stage: &mut Stage, only: &[usize]) -> anyhow::Result<Vec<Checks>> {
    let mut all = Vec::new();
    for (number, (title, play)) in (1..).zip(STEPS) {
        if !only.is_empty() && !only.contains(&number) {
            continue;
        }
        let mut checks = Checks::new(number, title);
        stage.screen.begin(&format!("step {number}: {title}"));
        let began = Instant::now();
        let played = play(stage, &mut checks);
        stage.check()?;
        if let Err(error) = &played {
            checks.fail(error);
        }
        stage.screen.end();
        if let Err(error) = stage.restore() {
            checks.fail(&error.context("make all well again"));
        }
        checks.end(began.elapsed());
        stage.screen.say(&checks.verdict());
        all.push(checks);
    }
    Ok(all)
}

/// How many steps there are.
pub(crate) const COUNT: usize = STEPS.len();

/// The usual visitors: most ask for `sms` alone, every fourth for the whole page.
const VISITS: [&str; 4] = ["only=sms", "only=sms", "only=sms", ""];
/// Pages a second of the usual visitors.
const RATE: u32 = 80;

/// Notes that no call of these failed.
fn no_failures(checks: &mut Checks, what: &str, samples: &[crate::load::Sample]) {
    let tally = crate::tally::Tally::of(samples);
    let mut measured = format!("{} of {}", tally.failures(), tally.requests);
    if let Some(first) = &tally.first_failure {
        measured.push_str(&format!(", the first: {first}"));
    }
    let holds = tally.failures() == 0 && tally.requests > 0;
    checks.add(what, "0 failed calls", measured, holds);
}
