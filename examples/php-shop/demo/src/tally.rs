// SPDX-License-Identifier: Apache-2.0
//! What a set of calls comes to: numbers, shares, times.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::load::Sample;

/// Calls, summed up.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    /// How many there were.
    pub(crate) requests: u64,
    /// How many succeeded.
    pub(crate) ok: u64,
    /// By the version that answered.
    pub(crate) versions: BTreeMap<String, u64>,
    /// By the instance that answered.
    pub(crate) instances: BTreeMap<String, u64>,
    /// What the first failure was.
    pub(crate) first_failure: Option<String>,
    /// Sorted.
    times: Vec<Duration>,
}

impl Tally {
    /// Sums up.
    pub(crate) fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut tally = Self::default();
        for sample in samples {
            tally.requests += 1;
            tally.times.push(sample.time);
            if let Some(version) = &sample.version {
                *tally.versions.entry(version.clone()).or_default() += 1;
            }
            if let Some(instance) = &sample.instance {
                *tally.instances.entry(instance.clone()).or_default() += 1;
            }
            if sample.is_ok() {
                tally.ok += 1;
            } else {
                tally.first_failure.get_or_insert_with(|| {
                    let error = sample.error.as_deref().unwrap_or_default();
                    format!("{}: status {} {error}", sample.service, sample.status)
                });
            }
        }
        tally.times.sort_unstable();
        tally
    }

    /// Sums up the calls to one service.
    pub(crate) fn of_service(samples: &[Sample], service: &str) -> Self {
        Self::of(samples.iter().filter(|sample| sample.service == service))
    }

    /// How many failed.
    pub(crate) fn failures(&self) -> u64 {
        self.requests - self.ok
    }

    /// How many a version answered.
    pub(crate) fn by_version(&self, version: &str) -> u64 {
        self.versions.get(version).copied().unwrap_or_default()
    }

    /// The time within which this part of the calls ended; zero if there were none.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let last = self.times.len().saturating_sub(1);
        let wanted = part * last as f64;
        // A search in place of a cast: the first index that is not below the wanted one.
        let place = (0..=last).find(|index| *index as f64 >= wanted);
        place
            .and_then(|place| self.times.get(place))
            .copied()
            .unwrap_or_default()
    }
}

/// The part `count` is of `all`, in percent; zero of nothing.
pub(crate) fn percent(count: u64, all: u64) -> f64 {
    if all == 0 {
        0.0
    } else {
        100.0 * count as f64 / all as f64
    }
}

/// How many standard deviations `count` of `all` is away from the part that is expected of a fair
/// choice at random.
pub(crate) fn sigmas(count: u64, all: u64, expected: f64) -> f64 {
    let all = all as f64;
    (count as f64 - all * expected).abs() / (all * expected * (1.0 - expected)).sqrt()
}

/// Milliseconds as people read them.
pub(crate) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 100.0 {
        format!("{millis:.1} ms")
    } else {
        format!("{millis:.0} ms")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sample(status: u64, version: &str, millis: u64) -> Sample {
        Sample {
            began: Instant::now(),
            query: "".into(),
            service: "sms".to_owned(),
            version: Some(version.to_owned()),
            instance: None,
            status,
            time: Duration::from_millis(millis),
            error: None,
        }
    }

    #[test]
    fn calls_are_counted_by_version_and_outcome_and_their_times_are_ranked() {
        let samples: Vec<_> = (1..=100)
            .map(|n| {
                sample(
                    if n == 7 { 503 } else { 200 },
                    if n > 90 { "v2" } else { "v1" },
                    n,
                )
            })
            .collect();
        let tally = Tally::of_service(&samples, "sms");
        assert_eq!((tally.requests, tally.ok, tally.failures()), (100, 99, 1));
        assert_eq!((tally.by_version("v1"), tally.by_version("v2")), (90, 10));
        assert_eq!(tally.quantile(0.5), Duration::from_millis(51));
        assert_eq!(tally.quantile(0.99), Duration::from_millis(100));
        assert_eq!(tally.first_failure.as_deref(), Some("sms: status 503 "));
        assert_eq!(
            Tally::of_service(&samples, "message").quantile(0.5),
            Duration::ZERO
        );
    }

    #[test]
    fn sigmas_are_those_of_the_binomial_distribution() {
        assert!(sigmas(100, 1000, 0.1) < 1e-9);
        // sqrt(1000 * 0.1 * 0.9) = 9.4868
        assert!((sigmas(100 + 19, 1000, 0.1) - 2.0028).abs() < 1e-3);
        assert!((percent(1, 8) - 12.5).abs() < 1e-9);
    }
}
