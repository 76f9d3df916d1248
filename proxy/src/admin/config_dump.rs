// SPDX-License-Identifier: Apache-2.0
//! `/config_dump`: every resource as it came, in the shape of `envoy.admin.v3.ConfigDump`.
//!
//! What is accepted and waits is shown as warming, what was refused stands beside what is in use
//! with its reasons (`error_state`). Resources are turned into JSON on a helper thread: a dump may
//! be large. Static resources are shown as the bootstrap file has them.

use std::time::SystemTime;

use bytes::Bytes;
use http::StatusCode;
use remora_translate::Key;
use remora_xds_types::{ResourceType, json as proto_json};
use serde_json::{Map, Value, json};

use super::query::Query;
use super::server::Answer;
use super::server_info::timestamp;
use super::{Admin, json, text};
use crate::control::Report;
use crate::control::inventory::{Accepted, Entry, Refused};

/// Answers `/config_dump`.
pub(super) async fn answer(admin: &Admin, query: &Query) -> Answer {
    if let Some((name, _)) = query.iter().find(|(name, _)| !KNOWN.contains(name)) {
        let reason = format!(
            "`{name}` is not supported, expected one of: {}\n",
            KNOWN.join(", ")
        );
        return text(StatusCode::BAD_REQUEST, reason);
    }
    let Some(report) = admin.report().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the process is ending\n");
    };
    let file = admin.file.clone();
    let node = json!({
        "id": &*admin.shared.identity.node_id,
        "cluster": &*admin.shared.identity.cluster,
    });
    let with_endpoints = query.has("include_eds");
    let only = query.find("resource").map(str::to_owned);
    let made = tokio::task::spawn_blocking(move || {
        let dump = dump(&report, file.as_ref(), node, with_endpoints);
        match &only {
            Some(field) => select(&dump, field),
            None => json!({ "configs": dump }),
        }
    });
    match made.await {
        Ok(dump) => json(&dump),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the dump could not be made\n",
        ),
    }
}

/// All parts of the dump.
fn dump(report: &Report, file: Option<&Value>, node: Value, with_endpoints: bool) -> Vec<Value> {
    let bootstrap = file.cloned().unwrap_or_else(|| json!({ "node": node }));
    let statics = |field: &str, inner: &str| -> Vec<Value> {
        let list = bootstrap.pointer(&format!("/static_resources/{field}"));
        let all = list.and_then(Value::as_array).into_iter().flatten();
        all.map(|one| json!({ inner: one })).collect()
    };
    let clusters = typed(
        "ClustersConfigDump",
        json!({
            "static_clusters": statics("clusters", "cluster"),
            "dynamic_active_clusters": dynamic(report, ResourceType::Cluster, "cluster", Some(false)),
            "dynamic_warming_clusters": dynamic(report, ResourceType::Cluster, "cluster", Some(true)),
        }),
    );
    let listeners = typed(
        "ListenersConfigDump",
        json!({
            "static_listeners": statics("listeners", "listener"),
            "dynamic_listeners": dynamic_listeners(report),
        }),
    );
    let routes = typed(
        "RoutesConfigDump",
        json!({
            "dynamic_route_configs": dynamic(report, ResourceType::Route, "route_config", None),
        }),
    );
    let mut all = vec![
        typed("BootstrapConfigDump", json!({ "bootstrap": bootstrap })),
        clusters,
    ];
    if with_endpoints {
        all.push(typed(
            "EndpointsConfigDump",
            json!({
                "dynamic_endpoint_configs":
                    dynamic(report, ResourceType::Endpoint, "endpoint_config", None),
            }),
        ));
    }
    all.extend([listeners, routes]);
    all
}

/// The entries of one field, as Envoy's `?resource=` gives them.
fn select(dump: &[Value], field: &str) -> Value {
    let entries = dump.iter().filter_map(|part| part.get(field)?.as_array());
    json!({ "configs": entries.flatten().collect::<Vec<_>>() })
}

/// The dynamic resources of a kind: with `warming`, only those that wait, or only those that do
/// not.
fn dynamic(report: &Report, kind: ResourceType, inner: &str, warming: Option<bool>) -> Vec<Value> {
    let entries = report.inventory.iter(kind).filter(|(name, entry)| {
        let is_warming = entry.accepted.is_some() && is_warming(report, kind, name);
        warming.is_none_or(|wanted| wanted == is_warming)
    });
    let shown = entries.map(|(name, entry)| {
        let mut shown = Map::new();
        match &entry.accepted {
            Some(accepted) => shown.extend(state(kind, inner, accepted)),
            // Refused from the beginning: its name is all that can be said of it.
            None => {
                shown.insert(inner.to_owned(), json!({ "name": &**name }));
            }
        }
        add_errors(&mut shown, kind, entry);
        Value::Object(shown)
    });
    shown.collect()
}

fn dynamic_listeners(report: &Report) -> Vec<Value> {
    let kind = ResourceType::Listener;
    let shown = report.inventory.iter(kind).map(|(name, entry)| {
        let mut shown = Map::new();
        shown.insert("name".to_owned(), Value::from(&**name));
        if let Some(accepted) = &entry.accepted {
            let field = if is_warming(report, kind, name) {
                "warming_state"
            } else {
                "active_state"
            };
            let state = Value::Object(state(kind, "listener", accepted));
            shown.insert(field.to_owned(), state);
        }
        add_errors(&mut shown, kind, entry);
        Value::Object(shown)
    });
    shown.collect()
}

fn is_warming(report: &Report, kind: ResourceType, name: &str) -> bool {
    let key = Key::new(kind, name);
    report.pending.iter().any(|pending| pending.key == key)
}

fn state(kind: ResourceType, inner: &str, accepted: &Accepted) -> Map<String, Value> {
    let fields = [
        ("version_info", Value::from(&*accepted.version)),
        (inner, resource(kind, &accepted.body)),
        ("last_updated", last(accepted.at)),
    ];
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// Source: `envoy.admin.v3.UpdateFailureState`.
fn add_errors(shown: &mut Map<String, Value>, kind: ResourceType, entry: &Entry) {
    let Some(refused) = &entry.refused else {
        return;
    };
    let Refused {
        version,
        body,
        reasons,
        at,
    } = refused;
    let state = json!({
        "failed_configuration": resource(kind, body),
        "version_info": &**version,
        "last_update_attempt": last(*at),
        "details": reasons.join("; "),
    });
    shown.insert("error_state".to_owned(), state);
}

/// A resource as the `Any` that it is in Envoy's messages; what cannot be read is shown as such.
fn resource(kind: ResourceType, body: &Bytes) -> Value {
    let mut fields = Map::new();
    fields.insert("@type".to_owned(), kind.url().into());
    match proto_json::to_json(kind.url(), body) {
        Ok(Value::Object(read)) => fields.extend(read),
        Ok(other) => {
            fields.insert("value".to_owned(), other);
        }
        Err(error) => {
            fields.insert("@unreadable".to_owned(), error.to_string().into());
        }
    }
    Value::Object(fields)
}

fn typed(message: &str, value: Value) -> Value {
    let mut fields = Map::new();
    let url = format!("type.googleapis.com/envoy.admin.v3.{message}");
    fields.insert("@type".to_owned(), url.into());
    if let Value::Object(own) = value {
        fields.extend(own);
    }
    Value::Object(fields)
}

fn last(at: SystemTime) -> Value {
    timestamp(at).into()
}

/// Parameters that mean something; others would be ignored where Envoy obeys them.
const KNOWN: [&str; 2] = ["include_eds", "resource"];
