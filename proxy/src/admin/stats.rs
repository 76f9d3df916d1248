// SPDX-License-Identifier: Apache-2.0
//! `/stats` and `/stats/prometheus`: the registry, and what is computed when it is read.

use std::sync::atomic::Ordering;

use http::StatusCode;
use remora_rt::clock;
use remora_telemetry::{Gauge, Registry, Sample, ScopeKind, Used, Value};
use remora_xds_client::State;
use serde_json::json;

use super::query::Query;
use super::server::Answer;
use super::{Admin, answer as respond, json, text, wants_json};
use crate::state::Phase;

/// Answers `/stats`.
pub(super) fn answer(admin: &Admin, query: &Query) -> Answer {
    if query.find("format") == Some("prometheus") {
        return answer_prometheus(admin, query);
    }
    admin.computed.show(admin);
    let filter = query.find("filter").unwrap_or_default();
    let wanted = |name: &str| is_wanted(name, filter);
    if wants_json(query) {
        let samples = admin.shared.metrics.samples(used(query), wanted);
        return json(&json!({ "stats": samples.iter().map(as_json).collect::<Vec<_>>() }));
    }
    text(
        StatusCode::OK,
        admin.shared.metrics.render_stats(used(query), wanted),
    )
}

/// Answers `/stats/prometheus`.
pub(super) fn answer_prometheus(admin: &Admin, query: &Query) -> Answer {
    admin.computed.show(admin);
    prometheus(admin, used(query))
}

/// All metrics in Prometheus' exposition format.
pub(super) fn prometheus(admin: &Admin, used: Used) -> Answer {
    let mut body = admin.shared.metrics.render_prometheus(used);
    body.push_str(BUILD);
    respond(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        body,
    )
}

/// Gauges that are brought up to date when they are read.
#[derive(Debug)]
pub struct Computed {
    live: Gauge,
    state: Gauge,
    uptime: Gauge,
    concurrency: Gauge,
    total_connections: Gauge,
    connected: Gauge,
    refused: Gauge,
    written: Gauge,
    failed: Gauge,
}

impl Computed {
    /// Registers them.
    pub fn bind(registry: &Registry) -> Self {
        let server = registry.scope(ScopeKind::Plain, "server");
        let own = registry.scope(ScopeKind::Plain, "remora");
        let control_plane = registry.scope(ScopeKind::Plain, "control_plane");
        Self {
            live: server.gauge("live"),
            state: server.gauge("state"),
            uptime: server.gauge("uptime"),
            concurrency: server.gauge("concurrency"),
            total_connections: server.gauge("total_connections"),
            connected: control_plane.gauge("connected_state"),
            refused: own.gauge("connections_refused"),
            written: own.gauge("last_good.written"),
            failed: own.gauge("last_good.failed"),
        }
    }

    /// Shows the present.
    pub(super) fn show(&self, admin: &Admin) {
        let shared = &admin.shared;
        let phase = shared.readiness.phase();
        self.live.set(i64::from(phase == Phase::Live));
        self.state.set(match phase {
            Phase::Live => 0,
            Phase::Draining => 1,
            Phase::Starting => 2,
        });
        let uptime = clock::now() - shared.started.at;
        self.uptime.set(gauge(uptime.as_secs()));
        self.concurrency.set(gauge(admin.workers));
        self.total_connections.set(gauge(shared.connections.open()));
        let is_connected = admin
            .control_plane
            .as_ref()
            .is_some_and(|status| status.borrow().state == State::Connected);
        self.connected.set(i64::from(is_connected));
        self.refused.set(gauge(shared.connections.refused()));
        self.written
            .set(gauge(admin.kept.written.load(Ordering::Relaxed)));
        self.failed
            .set(gauge(admin.kept.failed.load(Ordering::Relaxed)));
    }
}

/// Which program this is, in the way of Prometheus: a label of a number that is always one.
const BUILD: &str = concat!(
    "# TYPE remora_build_info gauge\nremora_build_info{version=\"",
    env!("CARGO_PKG_VERSION"),
    "\"} 1\n"
);

/// Whether a name has one of the texts that `filter` separates by `|`. Differs from Envoy: these
/// are plain texts, of which `^` and `$` may mark the ends, and not regular expressions.
fn is_wanted(name: &str, filter: &str) -> bool {
    filter.is_empty()
        || filter.split('|').any(|part| {
            let (start, part) = match part.strip_prefix('^') {
                Some(rest) => (true, rest),
                None => (false, part),
            };
            match (start, part.strip_suffix('$')) {
                (true, Some(whole)) => name == whole,
                (true, None) => name.starts_with(part),
                (false, Some(end)) => name.ends_with(end),
                (false, None) => name.contains(part),
            }
        })
}

fn used(query: &Query) -> Used {
    if query.has("usedonly") {
        Used::Only
    } else {
        Used::All
    }
}

fn as_json(sample: &Sample) -> serde_json::Value {
    match &sample.value {
        Value::Counter(value) => json!({ "name": sample.name, "value": value }),
        Value::Gauge(value) => json!({ "name": sample.name, "value": value }),
        Value::Histogram(distribution) => json!({
            "name": sample.name,
            "count": distribution.count(),
            "sum_ms": distribution.sum().as_secs_f64() * 1e3,
        }),
    }
}

fn gauge(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_texts_with_marked_ends() {
        let name = "cluster.sms.upstream_rq_total";
        let table = [
            ("", true),
            ("sms", true),
            ("nothing|sms", true),
            ("nothing", false),
            ("^cluster", true),
            ("^sms", false),
            ("total$", true),
            ("sms$", false),
            ("^cluster.sms.upstream_rq_total$", true),
        ];
        for (filter, expected) in table {
            assert_eq!(is_wanted(name, filter), expected, "{filter}");
        }
    }
}
