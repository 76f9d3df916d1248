// SPDX-License-Identifier: Apache-2.0
//! `/clusters`: upstream clusters with their hosts, in Envoy's lines or as JSON.

use std::fmt::Write as _;

use http::StatusCode;
use remora_balance::Host;
use remora_ir::cluster::{Limit, Priority, RetryLimit};
use remora_ir::endpoint::{ConfiguredHealth, EndpointAddress};
use serde_json::{Value, json};

use super::query::Query;
use super::server::Answer;
use super::{Admin, json, text, wants_json};
use crate::upstream::Cluster;

/// Answers `/clusters`.
pub(super) fn answer(admin: &Admin, query: &Query) -> Answer {
    let live = admin.live.current();
    if wants_json(query) {
        let all: Vec<_> = live.clusters().map(|cluster| as_json(cluster)).collect();
        return json(&json!({ "cluster_statuses": all }));
    }
    let mut lines = String::new();
    for cluster in live.clusters() {
        // Writing to a string cannot fail.
        let _ = write_cluster(&mut lines, cluster);
    }
    text(StatusCode::OK, lines)
}

fn write_cluster(out: &mut String, cluster: &Cluster) -> std::fmt::Result {
    let name = cluster.name();
    writeln!(out, "{name}::observability_name::{name}")?;
    let limits = &cluster.policy().limits;
    for (word, priority) in [("default", Priority::Default), ("high", Priority::High)] {
        let of = limits.of(priority);
        for (what, limit) in [
            ("max_connections", of.connections),
            ("max_pending_requests", of.pending),
            ("max_requests", of.requests),
        ] {
            writeln!(out, "{name}::{word}_priority::{what}::{}", number(limit))?;
        }
        if let RetryLimit::Fixed(limit) = of.retries {
            writeln!(
                out,
                "{name}::{word}_priority::max_retries::{}",
                number(limit)
            )?;
        }
    }
    for host in cluster.hosts().hosts() {
        write_host(out, name.as_str(), host)?;
    }
    Ok(())
}

fn write_host(out: &mut String, name: &str, host: &Host) -> std::fmt::Result {
    let address = host.record.address();
    let counts = host.record.counts();
    let numbers = [
        ("cx_active", u64::from(counts.cx_active)),
        ("cx_connect_fail", counts.cx_connect_fail),
        ("cx_total", counts.cx_total),
        ("rq_active", u64::from(counts.rq_active)),
        ("rq_error", counts.rq_error),
        ("rq_success", counts.rq_success),
        ("rq_total", counts.rq_total),
    ];
    for (what, value) in numbers {
        writeln!(out, "{name}::{address}::{what}::{value}")?;
    }
    let hostname = host.hostname.as_deref().unwrap_or_default();
    writeln!(out, "{name}::{address}::hostname::{hostname}")?;
    writeln!(out, "{name}::{address}::health_flags::{}", flags(host))?;
    writeln!(out, "{name}::{address}::weight::{}", host.weight.get())?;
    let place = &host.locality;
    writeln!(out, "{name}::{address}::region::{}", place.region)?;
    writeln!(out, "{name}::{address}::zone::{}", place.zone)?;
    writeln!(out, "{name}::{address}::sub_zone::{}", place.sub_zone)?;
    writeln!(out, "{name}::{address}::priority::{}", host.priority)?;
    writeln!(out, "{name}::{address}::ejections::{}", counts.ejections)
}

/// Envoy's words for what keeps a host from being picked.
fn flags(host: &Host) -> String {
    let mut flags = String::new();
    if host.record.is_ejected() {
        flags.push_str("/failed_outlier_check");
    }
    flags.push_str(match host.health {
        ConfiguredHealth::Healthy => "",
        ConfiguredHealth::Degraded => "/degraded_eds_health",
        ConfiguredHealth::Unhealthy | ConfiguredHealth::Draining => "/failed_eds_health",
    });
    if flags.is_empty() {
        flags.push_str("healthy");
    }
    flags
}

/// A limit as Istio writes it, whose "none" is the largest number.
fn number(limit: Limit) -> u32 {
    match limit {
        Limit::AtMost(most) => most,
        Limit::Unlimited => u32::MAX,
    }
}

fn as_json(cluster: &Cluster) -> Value {
    let limits = &cluster.policy().limits;
    let thresholds = |word: &str, priority| {
        let of = limits.of(priority);
        let mut shown = json!({
            "priority": word,
            "max_connections": number(of.connections),
            "max_pending_requests": number(of.pending),
            "max_requests": number(of.requests),
        });
        if let (RetryLimit::Fixed(limit), Some(shown)) = (of.retries, shown.as_object_mut()) {
            shown.insert("max_retries".to_owned(), number(limit).into());
        }
        shown
    };
    let hosts = cluster.hosts();
    let statuses: Vec<_> = hosts.hosts().iter().map(host_json).collect();
    json!({
        "name": cluster.name().as_str(),
        "observability_name": cluster.name().as_str(),
        "circuit_breakers": { "thresholds": [
            thresholds("DEFAULT", Priority::Default),
            thresholds("HIGH", Priority::High),
        ] },
        "host_statuses": statuses,
    })
}

fn host_json(host: &Host) -> Value {
    let counts = host.record.counts();
    let counter = |name: &str, value: u64| json!({ "name": name, "value": value.to_string() });
    let gauge = |name: &str, value: u64| json!({ "name": name, "value": value.to_string(), "type": "GAUGE" });
    let address = match host.record.address() {
        EndpointAddress::Socket(at) => {
            json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
        }
        EndpointAddress::Pipe(path) => json!({ "pipe": { "path": path.as_ref() } }),
    };
    let eds = match host.health {
        ConfiguredHealth::Healthy => "HEALTHY",
        ConfiguredHealth::Degraded => "DEGRADED",
        ConfiguredHealth::Unhealthy => "UNHEALTHY",
        ConfiguredHealth::Draining => "DRAINING",
    };
    json!({
        "address": address,
        "stats": [
            gauge("cx_active", u64::from(counts.cx_active)),
            counter("cx_connect_fail", counts.cx_connect_fail),
            counter("cx_total", counts.cx_total),
            gauge("rq_active", u64::from(counts.rq_active)),
            counter("rq_error", counts.rq_error),
            counter("rq_success", counts.rq_success),
            counter("rq_total", counts.rq_total),
            counter("ejections", counts.ejections),
        ],
        "health_status": {
            "eds_health_status": eds,
            "failed_outlier_check": host.record.is_ejected(),
        },
        "weight": host.weight.get(),
        "hostname": host.hostname.as_deref().unwrap_or_default(),
        "priority": host.priority,
        "locality": {
            "region": &*host.locality.region,
            "zone": &*host.locality.zone,
            "sub_zone": &*host.locality.sub_zone,
        },
    })
}
