// SPDX-License-Identifier: Apache-2.0
//! The two texts that metrics are read as: Envoy's `/stats` and Prometheus' exposition format.
//!
//! Durations are in milliseconds in both, as Envoy's are. Differs from Envoy: histograms have no
//! interval values (`nan`); a stat is "used" if it is not zero.

use std::fmt::Write as _;
use std::time::Duration;

use crate::histogram::Distribution;
use crate::name::{Labels, MetricName};
use crate::registry::Registry;

/// Which stats are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// All.
    All,
    /// Those that are not zero (`usedonly`).
    Only,
}

/// A metric's present value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Only grows.
    Counter(u64),
    /// Goes up and down.
    Gauge(i64),
    /// Durations.
    Histogram(Distribution),
}

impl Value {
    fn is_used(&self) -> bool {
        match self {
            Self::Counter(count) => *count != 0,
            Self::Gauge(value) => *value != 0,
            Self::Histogram(distribution) => distribution.count() != 0,
        }
    }
}

/// A metric with its dotted name.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Such as `cluster.sms.upstream_rq_total`.
    pub name: String,
    /// Its value.
    pub value: Value,
}

impl Registry {
    /// All metrics whose dotted name `wanted` accepts: counters and gauges by name, then
    /// histograms by name. The base of `/stats` in any format.
    pub fn samples(&self, used: Used, wanted: impl Fn(&str) -> bool) -> Vec<Sample> {
        let readings = self.read();
        let counters = named(readings.counters, Value::Counter);
        let gauges = named(readings.gauges, Value::Gauge);
        let mut samples: Vec<_> = counters.chain(gauges).collect();
        samples.sort_by(|a, b| a.name.cmp(&b.name));
        let plain = samples.len();
        samples.extend(named(readings.histograms, Value::Histogram));
        if let Some(histograms) = samples.get_mut(plain..) {
            histograms.sort_by(|a, b| a.name.cmp(&b.name));
        }
        samples.retain(|s| (used == Used::All || s.value.is_used()) && wanted(&s.name));
        samples
    }

    /// The text of `/stats`: one `name: value` a line.
    pub fn render_stats(&self, used: Used, wanted: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        for Sample { name, value } in self.samples(used, wanted) {
            // Writing to a string cannot fail.
            let _ = match value {
                Value::Counter(count) => writeln!(text, "{name}: {count}"),
                Value::Gauge(value) => writeln!(text, "{name}: {value}"),
                Value::Histogram(distribution) => {
                    writeln!(text, "{name}: {}", quantiles(&distribution))
                }
            };
        }
        text
    }

    /// The text of `/stats/prometheus`: families by name, each with its type.
    pub fn render_prometheus(&self, used: Used) -> String {
        let readings = self.read();
        let mut series: Vec<_> = in_series(readings.counters, Value::Counter)
            .chain(in_series(readings.gauges, Value::Gauge))
            .chain(in_series(readings.histograms, Value::Histogram))
            .filter(|series| used == Used::All || series.value.is_used())
            .collect();
        series.sort_by(|a, b| {
            (&a.family, a.kind(), &a.labels).cmp(&(&b.family, b.kind(), &b.labels))
        });
        let mut text = String::new();
        let mut before = None;
        for series in &series {
            let head = (series.family.as_str(), series.kind());
            if before.replace(head) != Some(head) {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "# TYPE {} {}", head.0, head.1);
            }
            let _ = series.write(&mut text);
        }
        text
    }
}

fn named<V>(
    readings: Vec<(MetricName, V)>,
    value: impl Fn(V) -> Value,
) -> impl Iterator<Item = Sample> {
    readings.into_iter().map(move |(name, v)| Sample {
        name: name.stat(),
        value: value(v),
    })
}

/// One line of Prometheus, or several for a histogram.
struct Series {
    family: String,
    labels: Labels,
    value: Value,
}

fn in_series<V>(
    readings: Vec<(MetricName, V)>,
    value: impl Fn(V) -> Value,
) -> impl Iterator<Item = Series> {
    readings.into_iter().map(move |(name, v)| {
        let (family, labels) = name.series();
        Series {
            family,
            labels,
            value: value(v),
        }
    })
}

impl Series {
    const fn kind(&self) -> &'static str {
        match self.value {
            Value::Counter(_) => "counter",
            Value::Gauge(_) => "gauge",
            Value::Histogram(_) => "histogram",
        }
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Self {
            family,
            labels,
            value,
        } = self;
        let distribution = match value {
            Value::Counter(count) => return writeln!(text, "{family}{labels} {count}"),
            Value::Gauge(value) => return writeln!(text, "{family}{labels} {value}"),
            Value::Histogram(distribution) => distribution,
        };
        let mut bucket = |bound: &str, count: u64| {
            let mut labels = labels.clone();
            labels.push("le", bound);
            writeln!(text, "{family}_bucket{labels} {count}")
        };
        for micros in BOUNDS_MICROS {
            let bound = Duration::from_micros(micros);
            bucket(&millis(bound).to_string(), distribution.count_up_to(bound))?;
        }
        bucket("+Inf", distribution.count())?;
        writeln!(text, "{family}_sum{labels} {}", millis(distribution.sum()))?;
        writeln!(text, "{family}_count{labels} {}", distribution.count())
    }
}

/// Envoy's line of quantiles, as `P50(interval,cumulative)`.
fn quantiles(distribution: &Distribution) -> String {
    let mut line = String::new();
    for (label, share) in QUANTILES {
        let Some(quantile) = distribution.quantile(share) else {
            return "No recorded values".to_owned();
        };
        let separator = if line.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(line, "{separator}P{label}(nan,{})", millis(quantile));
    }
    line
}

/// Milliseconds with three decimals at most.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Those of Envoy's `/stats`.
const QUANTILES: [(&str, f64); 10] = [
    ("0", 0.0),
    ("25", 0.25),
    ("50", 0.5),
    ("75", 0.75),
    ("90", 0.9),
    ("95", 0.95),
    ("99", 0.99),
    ("99.5", 0.995),
    ("99.9", 0.999),
    ("100", 1.0),
];

/// Envoy's default bounds, 0.5 ms to 1 h.
const BOUNDS_MICROS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ScopeKind;

    #[test]
    fn one_description_gives_both_texts() {
        let registry = Registry::new();
        let sms = registry.scope(ScopeKind::Cluster, "sms");
        let web = registry.scope(ScopeKind::Cluster, "web");
        let server = registry.scope(ScopeKind::Plain, "server");
        let handles = [
            sms.counter("upstream_rq_2xx"),
            sms.counter("upstream_rq_5xx"),
            web.counter("upstream_rq_2xx"),
            web.counter("upstream_rq_total"),
        ];
        for (n, counter) in (1..).zip(&handles) {
            counter.add(n);
        }
        let live = server.gauge("live");
        live.set(1);
        let unused = server.counter("unused");
        let expected = "\
            cluster.sms.upstream_rq_2xx: 1\n\
            cluster.sms.upstream_rq_5xx: 2\n\
            cluster.web.upstream_rq_2xx: 3\n\
            cluster.web.upstream_rq_total: 4\n\
            server.live: 1\n";
        assert_eq!(registry.render_stats(Used::Only, |_| true), expected);
        assert_eq!(
            registry.render_stats(Used::All, |name| name.ends_with("unused")),
            "server.unused: 0\n"
        );
        let expected = r#"# TYPE envoy_cluster_upstream_rq_total counter
envoy_cluster_upstream_rq_total{envoy_cluster_name="web"} 4
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_cluster_name="sms",envoy_response_code_class="2"} 1
envoy_cluster_upstream_rq_xx{envoy_cluster_name="sms",envoy_response_code_class="5"} 2
envoy_cluster_upstream_rq_xx{envoy_cluster_name="web",envoy_response_code_class="2"} 3
# TYPE envoy_server_live gauge
envoy_server_live 1
# TYPE envoy_server_unused counter
envoy_server_unused 0
"#;
        assert_eq!(registry.render_prometheus(Used::All), expected);
        drop(unused);
        assert!(!registry.render_prometheus(Used::All).contains("unused"));
    }

    #[test]
    fn histograms_have_quantiles_in_stats_and_buckets_in_prometheus() {
        let registry = Registry::new();
        let time = registry
            .scope(ScopeKind::Cluster, "sms")
            .histogram("upstream_rq_time");
        let stats = registry.render_stats(Used::All, |_| true);
        assert_eq!(stats, "cluster.sms.upstream_rq_time: No recorded values\n");
        for micros in [8, 8, 8, 7_000] {
            time.record(Duration::from_micros(micros));
        }
        let stats = registry.render_stats(Used::All, |_| true);
        assert!(
            stats.starts_with(
                "cluster.sms.upstream_rq_time: P0(nan,0.008) P25(nan,0.008) P50(nan,0.008)"
            ),
            "{stats}"
        );
        assert!(
            stats.ends_with(" P100(nan,7.039)\n") || stats.ends_with(" P100(nan,7.04)\n"),
            "{stats}"
        );
        let text = registry.render_prometheus(Used::Only);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1 + BOUNDS_MICROS.len() + 3);
        for expected in [
            "# TYPE envoy_cluster_upstream_rq_time histogram",
            r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="sms",le="0.5"} 3"#,
            r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="sms",le="5"} 3"#,
            r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="sms",le="10"} 4"#,
            r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="sms",le="3600000"} 4"#,
            r#"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="sms",le="+Inf"} 4"#,
            r#"envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="sms"} 7.024"#,
            r#"envoy_cluster_upstream_rq_time_count{envoy_cluster_name="sms"} 4"#,
        ] {
            assert!(lines.contains(&expected), "{expected}\n{text}");
        }
    }
}
