// SPDX-License-Identifier: Apache-2.0
//! The live table: per service and version, what the page saw and what its proxy did.
//!
//! A function of values: samples, two sets of statistics, ejected addresses.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::load::Sample;
use crate::probe::{Probe, Stats, instances, versions};
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
    /// The addresses that it has ejected.
    pub(crate) ejected: BTreeSet<Ipv4Addr>,
}

const HEADING: &str =
    "service  version  requests   share  success  retries  ejected  mirrored       p50       p99";

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
    let hosts = instances(service, version);
    let ejected = hosts
        .iter()
        .filter_map(|host| probe.address(host).ok())
        .filter(|address| facts.ejected.contains(address));
    let ejected = format!("{}/{}", ejected.count(), hosts.len());
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
            mirrored: since("upstream_rq_mirror_total"),
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
        "{service:<8} {version:<7} {:>9} {share:>7} {success:>8} {retries:>8} {ejected:>8} \
         {mirrored:>9} {p50:>9} {p99:>9}",
        calls.requests
    )
}
