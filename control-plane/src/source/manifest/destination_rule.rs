// SPDX-License-Identifier: Apache-2.0
//! Istio's `DestinationRule`: host, subsets and their layers; the sections of a policy are in
//! `sections`.

mod sections;

use std::sync::Arc;

use remora_model::{DestinationPolicy, EffectivePolicy, Labels, PortPolicy, Subset, TrafficPolicy};

use super::fields::{Field, Fields};
use super::object::{DestinationRule, Meta, Object, Place};
use super::values::{Home, labels};

/// Reads a `DestinationRule`.
#[must_use]
pub fn read(meta: Meta, fields: &Fields<'_>, home: &Home) -> Option<Object> {
    fields.ignore(&["status"]);
    let spec = fields.require("spec")?.fields()?;
    let visibility = home.visibility(&spec);
    let workload_selector = spec
        .map("workloadSelector")
        .map_or_else(Labels::default, |s| {
            s.take("matchLabels")
                .map(|field| labels(&field))
                .unwrap_or_default()
        });
    let policy = spec
        .take("trafficPolicy")
        .map(|f| read_policy(&f))
        .unwrap_or_default();
    let mut subsets: Vec<Subset> = Vec::new();
    let mut places = Vec::new();
    for item in spec.list("subsets") {
        let Some(subset) = read_subset(&item) else {
            continue;
        };
        if subsets.iter().any(|other| other.name == subset.name) {
            item.error(format!("subset `{}` is defined twice", subset.name));
            continue;
        }
        subsets.push(subset);
        places.push(place(&item));
    }
    let field = spec.require("host")?;
    let host = home.host(&field)?;
    let namespace = meta.namespace().clone();
    let policy = DestinationPolicy {
        origin: meta.origin,
        namespace,
        host,
        visibility,
        workload_selector,
        policy,
        subsets,
    };
    let rule = DestinationRule {
        policy,
        host: place(&field),
        subsets: places,
    };
    Some(Object::DestinationRule(Box::new(rule)))
}

fn place(field: &Field<'_>) -> Place {
    Place {
        line: field.line(),
        path: field.path().to_owned(),
    }
}

fn read_subset(item: &Field<'_>) -> Option<Subset> {
    let fields = item.fields()?;
    let labels = fields
        .take("labels")
        .map(|field| labels(&field))
        .unwrap_or_default();
    let policy = fields
        .take("trafficPolicy")
        .map(|field| read_policy(&field));
    let name = fields.require("name")?;
    let text = name.text()?;
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || !text.chars().all(part) {
        name.error(format!(
            "`{text}` is no subset name (letters, digits, `-`, `_` and `.`)"
        ));
        return None;
    }
    Some(Subset {
        name: Arc::from(text),
        labels,
        policy,
    })
}

fn read_policy(field: &Field<'_>) -> TrafficPolicy {
    let Some(fields) = field.fields() else {
        return TrafficPolicy::default();
    };
    fields.refuse(&["tunnel"], "connections would bypass the tunnel");
    fields.refuse(
        &["proxyProtocol"],
        "the destination would not understand the connection",
    );
    let mut general = read_sections(&fields);
    general.retry_budget = fields
        .take("retryBudget")
        .and_then(|f| sections::retry_budget(&f));
    let mut ports: Vec<PortPolicy> = Vec::new();
    for item in fields.list("portLevelSettings") {
        let Some(own) = item.fields() else { continue };
        let policy = read_sections(&own);
        let number = own
            .map("port")
            .and_then(|port| port.require("number")?.port());
        let Some(port) = number else {
            own.own().error("`port.number` is missing");
            continue;
        };
        if ports.iter().any(|other| other.port == port) {
            item.error(format!("port {port} is listed twice"));
            continue;
        }
        ports.push(PortPolicy { port, policy });
    }
    TrafficPolicy { general, ports }
}

fn read_sections(fields: &Fields<'_>) -> EffectivePolicy {
    EffectivePolicy {
        load_balancer: fields
            .take("loadBalancer")
            .and_then(|f| sections::load_balancer(&f)),
        connection_pool: fields
            .take("connectionPool")
            .and_then(|f| sections::pool(&f)),
        outlier_detection: fields
            .take("outlierDetection")
            .and_then(|f| sections::outlier(&f)),
        tls: fields.take("tls").and_then(|f| sections::tls(&f)),
        retry_budget: None,
    }
}
