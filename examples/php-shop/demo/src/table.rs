// SPDX-License-Identifier: Apache-2.0
//! The live table: per service and version, what the page saw and what its proxy did.
//!
//! A function of values: samples, two sets of statistics, ejected addresses.

use crate::load::Sample;
use crate::probe::{Health, Probe, Stats, instances, versions};
use crate::tally::{Tally, millis, percent};

/// What the table is made of.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The page's calls since the step began.
    pub(crate) samples: Vec<Sample>,
    /// The numbers of the page's proxy when the step began.
    pub(crate) before: Stats,
    /// The same now.
    pub(crate) now: Stats,
    /// What it thought of the instances when the step began.
    pub(crate) health_before: Health,
    /// The same now.
    pub(crate) health: Health,
}

const HEADING: &str =
    "service  version  requests   share  success  retries  ejections  mirrored       p50       p99";

/// The table's lines.
pub(crate) fn lines(facts: &Facts, probe: &Probe) -> Vec<String> {
    let mut lines = vec![HEADING.to_owned()];
    let all = versions();
    for (service, version) in &all {
        let has_subsets = all.iter().filter(|(other, _)| other == service).count() > 1;
        let subset = if has_subsets { version } else { "" };
        lines.push(version_line(facts, probe, service, version, subset));
        let is_last = all.iter().rfind(|(other, _)| other == service) == Some(&(service, version));
        if has_subsets && is_last {
            lines.push(rest_line(facts, service));
        }
    }
    lines
}

fn version_line(
    facts: &Facts,
    probe: &Probe,
    service: &str,
    version: &str,
    subset: &str,
) -> String {
    let of_service = Tally::of_service(&facts.samples, service);
    let own = facts
        .samples
        .iter()
        .filter(|call| call.service == service && call.version.as_deref() == Some(version));
    let own = Tally::of(own);
    let ejected = ejections(facts, probe, &instances(service, version));
    let share = format!("{:.1} %", percent(own.requests, of_service.requests));
    row(
        service,
        version,
        &own,
        &share,
        &ejected,
        &Deltas::of(facts, service, subset),
    )
}

/// How often the instances were ejected since the step began, and how many are out now.
fn ejections(facts: &Facts, probe: &Probe, hosts: &[&str]) -> String {
    let (mut times, mut out) = (0, 0);
    for address in hosts.iter().filter_map(|host| probe.address(host).ok()) {
        let of = |health: &Health| health.ejections.get(&address).copied().unwrap_or_default();
        times += of(&facts.health).saturating_sub(of(&facts.health_before));
        out += u64::from(facts.health.ejected.contains(&address));
    }
    if out > 0 {
        format!("{times} ({out} out)")
    } else {
        times.to_string()
    }
}

/// What no version answered, and what the proxy did before it chose one.
fn rest_line(facts: &Facts, service: &str) -> String {
    let rest = facts
        .samples
        .iter()
        .filter(|call| call.service == service && call.version.is_none());
    row(
        service,
        "(any)",
        &Tally::of(rest),
        "",
        "",
        &Deltas::of(facts, service, ""),
    )
}

struct Deltas {
    retries: u64,
    mirrored: u64,
}

impl Deltas {
    fn of(facts: &Facts, service: &str, subset: &str) -> Self {
        let since = |name: &str| {
            let now = facts.now.outbound(service, subset, name);
            now.saturating_sub(facts.before.outbound(service, subset, name))
        };
        Self {
            retries: since("upstream_rq_retry"),
            mirrored: since("mirror_rq_total"),
        }
    }
}

fn row(
    service: &str,
    version: &str,
    calls: &Tally,
    share: &str,
    ejected: &str,
    deltas: &Deltas,
) -> String {
    let (mut success, mut p50, mut p99) = (String::new(), String::new(), String::new());
    if calls.requests > 0 {
        success = format!("{:.1} %", percent(calls.ok, calls.requests));
        p50 = millis(calls.quantile(0.5));
        p99 = millis(calls.quantile(0.99));
    }
    let Deltas { retries, mirrored } = deltas;
    format!(
        "{service:<8} {version:<7} {:>9} {share:>7} {success:>8} {retries:>8} {ejected:>10} \
         {mirrored:>9} {p50:>9} {p99:>9}",
        calls.requests
    )
}
